//! What a run measured: a latency table by route for people, JSON for machines.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::client::Protocol;
use crate::latency::Latencies;

/// The form of the JSON report; raised when a field changes its meaning.
const SCHEMA: u32 = 1;

/// Failures that are told in words; the rest is only counted.
const FAILURES_TOLD: usize = 20;

/// What a request was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Route {
    /// Opening a connection: TCP, TLS or QUIC handshakes, not the request after them.
    Connect,
    /// An MPD or a multivariant playlist.
    Manifest,
    /// A media playlist.
    Playlist,
    /// An init segment.
    Init,
    /// A media segment.
    Segment,
    /// A licence or key.
    Licence,
}

impl Route {
    fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Manifest => "manifest",
            Self::Playlist => "playlist",
            Self::Init => "init",
            Self::Segment => "segment",
            Self::Licence => "licence",
        }
    }
}

/// Collects what all viewers see.
#[derive(Debug, Default)]
pub struct Recorder(Mutex<Tally>);

#[derive(Debug, Default)]
struct Tally {
    routes: BTreeMap<Route, Samples>,
    compared: Compared,
    failures: Vec<String>,
    failed: u64,
}

/// A minute in microseconds. No request takes longer, as [`crate::client::REQUEST_TIMEOUT`] ends it.
const LONGEST_US: u64 = 60_000_000;

#[derive(Debug)]
struct Samples {
    micros: Histogram<u64>,
    errors: u64,
    bytes: u64,
}

impl Default for Samples {
    fn default() -> Self {
        let micros = Histogram::new_with_max(LONGEST_US, 3).expect("the bounds are in order");
        Self {
            micros,
            errors: 0,
            bytes: 0,
        }
    }
}

impl Recorder {
    fn with<T>(&self, change: impl FnOnce(&mut Tally) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A request that was answered in full.
    pub fn success(&self, route: Route, elapsed: Duration, bytes: u64) {
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        self.with(|tally| {
            let samples = tally.routes.entry(route).or_default();
            samples.micros.saturating_record(micros);
            samples.bytes += bytes;
        });
    }

    /// A request that failed.
    pub fn failure(&self, route: Route, what: String) {
        self.with(|tally| {
            tally.routes.entry(route).or_default().errors += 1;
            tally.tell(what);
        });
    }

    /// A title that could not be played although its requests were answered.
    pub fn unplayable(&self, what: String) {
        self.with(|tally| tally.tell(what));
    }

    /// A protected segment whose samples equal the clear ones.
    pub fn equal(&self, samples: usize) {
        self.with(|tally| {
            tally.compared.segments += 1;
            tally.compared.samples += samples as u64;
        });
    }

    /// A protected segment that differs from the clear one.
    pub fn differing(&self, what: String) {
        self.with(|tally| {
            tally.compared.segments += 1;
            tally.compared.differing += 1;
            tally.tell(what);
        });
    }

    /// The report of a run that took `elapsed`.
    pub fn report(&self, run: Run, elapsed: Duration) -> Report {
        self.with(|tally| Report {
            schema: SCHEMA,
            passed: tally.failed == 0 && run.is_met_by(&tally.compared),
            elapsed_seconds: elapsed.as_secs_f64(),
            routes: tally
                .routes
                .iter()
                .map(|(route, s)| s.row(*route, elapsed))
                .collect(),
            compared: tally.compared.clone(),
            failed: tally.failed,
            failures: tally.failures.clone(),
            run,
        })
    }
}

impl Tally {
    fn tell(&mut self, what: String) {
        self.failed += 1;
        if self.failures.len() < FAILURES_TOLD && !self.failures.contains(&what) {
            self.failures.push(what);
        }
    }
}

impl Samples {
    fn row(&self, route: Route, elapsed: Duration) -> Row {
        let at = |quantile| self.micros.value_at_quantile(quantile);
        let (p50_us, p90_us, p99_us) = (at(0.50), at(0.90), at(0.99));
        Row {
            route,
            count: self.micros.len(),
            errors: self.errors,
            p50_us,
            p90_us,
            p99_us,
            max_us: self.micros.max(),
            bytes: self.bytes,
            mb_per_s: megabytes(self.bytes) / elapsed.as_secs_f64().max(f64::EPSILON),
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a rate for people; 53 bits are nine petabytes"
)]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// The protocol in words, with its security.
pub fn protocol_name(protocol: Protocol, tls: bool) -> &'static str {
    match (protocol, tls) {
        (Protocol::H1, true) => "HTTP/1.1 (TLS)",
        (Protocol::H1, false) => "HTTP/1.1 (plain)",
        (Protocol::H2, true) => "HTTP/2 (TLS)",
        (Protocol::H2, false) => "HTTP/2 (plain)",
        (Protocol::H3, _) => "HTTP/3 (TLS)",
    }
}

/// What share of some durations stays below what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Quantiles {
    /// Half of them, in microseconds.
    pub p50_us: u64,
    /// Nine of ten.
    pub p90_us: u64,
    /// 99 of 100.
    pub p99_us: u64,
    /// All.
    pub max_us: u64,
}

impl Quantiles {
    /// The names of what [`fmt::Display`] writes.
    pub const HEADING: &str = "    p50 ms    p90 ms    p99 ms    max ms";

    /// Of these durations; zeros where there is none.
    pub fn of(latencies: &Latencies) -> Self {
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let at = |share| micros(latencies.quantile(share));
        Self {
            p50_us: at(0.50),
            p90_us: at(0.90),
            p99_us: at(0.99),
            max_us: micros(latencies.max()),
        }
    }
}

impl fmt::Display for Quantiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for micros in [self.p50_us, self.p90_us, self.p99_us, self.max_us] {
            let milliseconds = Duration::from_micros(micros).as_secs_f64() * 1e3;
            write!(f, "{milliseconds:>10.2}")?;
        }
        Ok(())
    }
}

/// What was asked of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    /// The protocol.
    pub protocol: Protocol,
    /// Whether it ran over TLS.
    pub tls: bool,
    /// Viewers at once.
    pub viewers: usize,
    /// Whether protected titles have a clear policy to be compared with.
    pub comparable: bool,
}

impl Run {
    /// A run that was to compare and compared nothing has proved nothing.
    fn is_met_by(&self, compared: &Compared) -> bool {
        !self.comparable || compared.segments > 0
    }
}

/// Everything that a run found.
#[derive(Debug, Serialize)]
pub struct Report {
    schema: u32,
    passed: bool,
    #[serde(flatten)]
    run: Run,
    elapsed_seconds: f64,
    routes: Vec<Row>,
    compared: Compared,
    failed: u64,
    failures: Vec<String>,
}

/// One line of the table.
#[derive(Debug, Serialize)]
struct Row {
    route: Route,
    count: u64,
    errors: u64,
    p50_us: u64,
    p90_us: u64,
    p99_us: u64,
    max_us: u64,
    bytes: u64,
    mb_per_s: f64,
}

/// Samples held against those of the clear policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
struct Compared {
    segments: u64,
    samples: u64,
    differing: u64,
}

impl Report {
    /// Whether every request was answered and every sample was equal.
    pub fn passed(&self) -> bool {
        self.passed
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Run {
            protocol,
            tls,
            viewers,
            comparable,
        } = &self.run;
        let protocol = match protocol {
            Protocol::H1 => "HTTP/1.1",
            Protocol::H2 => "HTTP/2",
            Protocol::H3 => "HTTP/3",
        };
        let security = if *tls { "TLS" } else { "plain" };
        let seconds = self.elapsed_seconds;
        writeln!(
            f,
            "{viewers} viewers, {protocol} ({security}), {seconds:.1} s"
        )?;
        writeln!(f)?;
        writeln!(
            f,
            "{:<10}{:>9}{:>8}{:>10}{:>10}{:>10}{:>10}{:>10}",
            "route", "count", "errors", "p50 ms", "p90 ms", "p99 ms", "max ms", "MB/s"
        )?;
        for row in &self.routes {
            write!(
                f,
                "{:<10}{:>9}{:>8}",
                row.route.name(),
                row.count,
                row.errors
            )?;
            for micros in [row.p50_us, row.p90_us, row.p99_us, row.max_us] {
                write!(
                    f,
                    "{:>10.1}",
                    Duration::from_micros(micros).as_secs_f64() * 1e3
                )?;
            }
            writeln!(f, "{:>10.2}", row.mb_per_s)?;
        }
        writeln!(f)?;
        let Compared {
            segments,
            samples,
            differing,
        } = &self.compared;
        if *comparable {
            writeln!(
                f,
                "{segments} protected segments compared with the clear policy: \
                 {samples} samples equal, {differing} segments differ"
            )?;
        } else {
            writeln!(
                f,
                "nothing to compare: no title has both a protected and a clear policy"
            )?;
        }
        for failure in &self.failures {
            writeln!(f, "failed: {failure}")?;
        }
        let told = self.failures.len() as u64;
        if self.failed > told {
            writeln!(f, "{} failures in all", self.failed)?;
        }
        write!(f, "{}", if self.passed { "passed" } else { "FAILED" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(comparable: bool) -> Run {
        Run {
            protocol: Protocol::H2,
            tls: true,
            viewers: 2,
            comparable,
        }
    }

    #[test]
    fn a_run_passes_when_nothing_failed_and_something_was_compared() {
        let recorder = Recorder::default();
        recorder.success(Route::Segment, Duration::from_millis(3), 1_000_000);
        let second = Duration::from_secs(1);
        assert!(recorder.report(run(false), second).passed());
        assert!(!recorder.report(run(true), second).passed());
        recorder.equal(10);
        assert!(recorder.report(run(true), second).passed());
    }

    #[test]
    fn a_failed_request_a_difference_and_an_unplayable_title_each_fail_a_run() {
        for change in [
            |recorder: &Recorder| recorder.failure(Route::Init, "status 503".into()),
            |recorder: &Recorder| recorder.differing("sample 3".into()),
            |recorder: &Recorder| recorder.unplayable("no MPD".into()),
        ] {
            let recorder = Recorder::default();
            recorder.equal(1);
            change(&recorder);
            assert!(!recorder.report(run(true), Duration::from_secs(1)).passed());
        }
    }

    #[test]
    fn tables_and_json_hold_the_same_numbers() {
        let recorder = Recorder::default();
        for millis in 1..=100 {
            recorder.success(Route::Segment, Duration::from_millis(millis), 50_000);
        }
        recorder.equal(240);
        let report = recorder.report(run(true), Duration::from_secs(2));
        let text = report.to_string();
        assert!(text.contains("2 viewers, HTTP/2 (TLS), 2.0 s"), "{text}");
        assert!(text.contains("segment         100       0"), "{text}");
        assert!(text.contains("2.50\n"), "{text}");
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["schema"], 1);
        assert_eq!(json["protocol"], "h2");
        assert_eq!(json["routes"][0]["route"], "segment");
        assert_eq!(json["routes"][0]["bytes"], 5_000_000);
        let near = |name: &str, micros: u64| {
            let told = json["routes"][0][name].as_u64().unwrap();
            assert!(told.abs_diff(micros) <= micros / 500, "{name} is {told}");
        };
        near("p50_us", 50_000);
        near("p90_us", 90_000);
        near("p99_us", 99_000);
        near("max_us", 100_000);
        assert_eq!(json["compared"]["samples"], 240);
    }

    #[test]
    fn the_same_failure_is_told_once_and_counted_each_time() {
        let recorder = Recorder::default();
        for _ in 0..50 {
            recorder.failure(Route::Segment, "status 503".into());
        }
        let report = recorder.report(run(false), Duration::from_secs(1));
        assert_eq!((report.failures.len(), report.failed), (1, 50));
        assert!(report.to_string().contains("50 failures in all"));
    }
}
