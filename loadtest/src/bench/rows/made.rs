//! How long a manifest takes to be made, on an origin that keeps none.

use std::path::Path;
use std::time::{Duration, Instant};

use super::Measured;
use crate::bench::Failure;
use crate::bench::castellum::Castellum;
use crate::bench::goals::{Files, Manifest};
use crate::bench::probe::Probe;
use crate::bench::series::Series;
use crate::bench::stage::Stage;

/// Where the origin says how long it took.
const METRIC: &str = "castellum_package_duration_seconds";

pub(super) fn measure(files: &Files, stage: &mut Stage) -> Result<Measured, Failure> {
    let plan = stage.plan().clone();
    let path = stage.pair()?.twin.paths(files)?.swap_remove(0);
    let format = match files {
        Files::Manifest {
            which: Manifest::Mpd,
            ..
        } => "dash",
        Files::Manifest { .. } | Files::Segments { .. } => "hls",
    };
    let folder = stage.folder();
    let castellum = stage.start(&plan.media, &folder, "0B")?;
    let mut probe = Probe::connect(castellum.plain).map_err(|e| Failure::asking(&path, e))?;
    let mut ask = |duration: Duration| {
        let end = Instant::now() + duration;
        let mut count = 0_u32;
        while Instant::now() < end {
            let answer = probe
                .get(&path)
                .map_err(|error| Failure::asking(&path, error))?;
            if answer.status != 200 {
                return Err(Failure::asking(&path, format!("status {}", answer.status)));
            }
            count += 1;
        }
        Ok(count)
    };
    ask(plan.round / 4)?;
    castellum.settle()?;
    let mut made = Series::default();
    let mut whole = Series::default();
    for _ in 0..plan.rounds {
        let (before, start) = (Taken::read(&castellum, format)?, snapshot(&castellum)?);
        let asked = ask(plan.round / 4)?;
        let used = castellum
            .processes()
            .usage_since(&start)
            .map_err(unreadable)?;
        let taken = Taken::read(&castellum, format)?;
        // What is kept is not made, and would be another row.
        if taken.count - before.count < f64::from(asked) {
            return Err(Failure::asking(&path, "it was not made each time"));
        }
        made.push((taken.seconds - before.seconds) / (taken.count - before.count) * 1e6);
        whole.push(used.cpu.as_secs_f64() / f64::from(asked) * 1e6);
    }
    let note = whole.spread().map(|spread| {
        format!(
            "{:.0} us of processor for each request as a whole, on one connection, with the record of the revision",
            spread.median
        )
    });
    Ok(Measured {
        note,
        ..Measured::from(made)
    })
}

fn snapshot(castellum: &Castellum) -> Result<crate::host::Snapshot, Failure> {
    castellum.processes().snapshot().map_err(unreadable)
}

fn unreadable(error: std::io::Error) -> Failure {
    Failure::at(Path::new("/proc"), error)
}

/// What the metric has summed up.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Taken {
    seconds: f64,
    count: f64,
}

impl Taken {
    fn read(castellum: &Castellum, format: &str) -> Result<Self, Failure> {
        Ok(Self::of(&castellum.admin("/metrics")?, format))
    }

    fn of(text: &str, format: &str) -> Self {
        let value = |suffix: &str| {
            let name = format!("{METRIC}_{suffix}{{format=\"{format}\"}} ");
            let line = text.lines().find_map(|line| line.strip_prefix(&name));
            line.and_then(|value| value.parse().ok()).unwrap_or(0.0)
        };
        Self {
            seconds: value("sum"),
            count: value("count"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sums_of_one_format_are_read() {
        let text = "# TYPE castellum_package_duration_seconds summary\n\
                    castellum_package_duration_seconds_sum{format=\"dash\"} 0.5\n\
                    castellum_package_duration_seconds_count{format=\"dash\"} 2\n\
                    castellum_package_duration_seconds_sum{format=\"hls\"} 1e-3\n";
        let taken = |seconds, count| Taken { seconds, count };
        assert_eq!(Taken::of(text, "dash"), taken(0.5, 2.0));
        assert_eq!(Taken::of(text, "hls"), taken(0.001, 0.0));
    }
}
