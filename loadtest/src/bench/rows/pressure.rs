//! Viewers of what is in memory beside readers of what is not, with memory enough and with little of it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};
use rustix::process::nice;

use super::Measured;
use crate::bench::castellum::{self, Castellum};
use crate::bench::cgroup::Cgroup;
use crate::bench::fio::Fio;
use crate::bench::goals::{Against, LADDER};
use crate::bench::probe::{Dropped, Probe};
use crate::bench::series::Series;
use crate::bench::stage::{MANIFESTS, Stage};
use crate::bench::{Failure, Plan};
use crate::latency::Latencies;
use crate::manifest::Track;
use crate::random::Random;
use crate::scenario::{Choice, Rule};

/// Encrypted on the worker, page by page from the mapping: what a page that is gone would stall.
const POLICY: &str = "cenc";

/// Of the smallest rendition, watched again and again: some megabytes, which stay in memory.
const HOT: usize = 16;

/// Of cold segments, each of its own quarter.
const READERS: usize = 4;
/// Of segments of any kind.
const ZIPF_READERS: u64 = 8;
const ZIPF: Rule = Rule::Zipf { exponent: 1.0 };
const SEED: u64 = 20;

/// The share of the media for which there is memory.
const SHARE: u64 = 8;
/// What the process itself and the kernel on its behalf need beside film: pools, sockets, the storage's buffers.
const FLOOR: u64 = 96 << 20;

/// Beside the viewer that is timed, others wait for the client's core: it is the server's delay that counts. Yet not
/// the lowest priority of all, at which they starve on a machine that has other things to do.
const NICER: i32 = 10;

/// Segments that a reader asks for, one after the other.
type Walk<'a> = Box<dyn Iterator<Item = &'a str> + Send + 'a>;

/// A viewer of hot segments while others read cold titles, memory being plenty.
pub(super) fn hot_beside_cold(stage: &mut Stage) -> Result<Measured, Failure> {
    let library = Library::open(stage)?;
    let plan = stage.plan();
    let mut rounds = Rounds::default();
    for _ in 0..plan.rounds {
        let castellum = library.start(plan, &plan.castellum)?;
        rounds.add(&castellum, &library, plan.round, library.cold_quarters())?;
    }
    Ok(rounds.measured("with memory enough"))
}

/// A viewer of hot segments while others choose among all there are, most of which memory cannot hold.
pub(super) fn hot_within_limit(stage: &mut Stage) -> Result<Measured, Failure> {
    let library = Library::open(stage)?;
    let plan = stage.plan();
    let limit = library.limit()?;
    let mut rounds = Rounds::default();
    for _ in 0..plan.rounds {
        let limited = Limited::start(&library, plan, limit)?;
        rounds.add(&limited.castellum, &library, plan.round, library.by_zipf())?;
        limited.survived()?;
    }
    Ok(rounds.measured(&format!("within {} MB", limit / 1_000_000)))
}

/// Readers of the largest rendition, each of its own quarter, and `fio` likewise.
pub(super) fn cold_within_limit(stage: &mut Stage) -> Result<Measured, Failure> {
    let library = Library::open(stage)?;
    let plan = stage.plan();
    let limit = library.limit()?;
    let (mut ours, mut theirs, mut read) = Default::default();
    for _ in 0..plan.rounds {
        let limited = Limited::start(&library, plan, limit)?;
        let (before, begun) = (limited.castellum.disk()?, Instant::now());
        let walks = quarters(&library.renditions[..1]);
        let sent = megabytes(watch(&limited.castellum, walks, None)?);
        Series::push(&mut ours, sent / begun.elapsed().as_secs_f64());
        Series::push(
            &mut read,
            megabytes(limited.castellum.disk()? - before) / sent,
        );
        limited.survived()?;
        drop(limited);
        let group = group("fio", limit)?;
        library.forget()?;
        let fio = Fio::within(&group, plan.cores, &library.folder)?;
        Series::push(&mut theirs, fio.read(&library.largest, READERS)?);
    }
    let note = read.spread().map(|read| {
        let limit = limit / 1_000_000;
        format!(
            "within {limit} MB; {:.2} bytes read for each that is sent",
            read.median
        )
    });
    Ok(Measured {
        ours,
        beside: vec![(Against::Fio, theirs)],
        note,
    })
}

/// Titles that no other server has in memory, and what is asked of them.
struct Library {
    media: PathBuf,
    /// The origin's state: every start but the first finds the titles indexed.
    folder: PathBuf,
    /// The file of the largest rendition.
    largest: PathBuf,
    /// The paths of the segments of each rendition, largest first.
    renditions: Vec<Vec<String>>,
}

impl Library {
    fn open(stage: &mut Stage) -> Result<Self, Failure> {
        let media = stage.plan().work.join("cold");
        if !media.exists() {
            // Pages that the pair of the other rows has mapped would not be forgotten.
            copy(&stage.plan().media.join(LADDER), &media.join(LADDER))
                .map_err(|error| Failure::at(&media, error))?;
        }
        let folder = stage.folder();
        let castellum = stage.start(&media, &folder, MANIFESTS)?;
        let mut pictures = castellum.pictures(LADDER, POLICY)?;
        pictures.sort_by_key(|track| std::cmp::Reverse(track.bandwidth));
        let paths = |track: &Track| {
            let segments = track.segments.iter();
            segments.map(|at| at.url.path().to_owned()).collect()
        };
        let renditions = pictures.iter().map(paths).collect();
        castellum.settle()?;
        let files = files(&media.join(LADDER)).map_err(|error| Failure::at(&media, error))?;
        let largest = files.into_iter().max_by_key(|(_, len)| *len);
        let (largest, _) = largest.ok_or_else(|| Failure::asking(LADDER, "it has no file"))?;
        Ok(Self {
            media,
            folder,
            largest,
            renditions,
        })
    }

    /// Starts `program` with nothing of the titles in memory but what it looks at by itself.
    fn start(&self, plan: &Plan, program: &Path) -> Result<Castellum, Failure> {
        self.forget()?;
        let castellum = Castellum::start(&castellum::Setup {
            program,
            cores: plan.cores,
            media: &self.media,
            folder: &self.folder,
            manifests: MANIFESTS,
            licences: false,
        })?;
        castellum.settle()?;
        Ok(castellum)
    }

    /// Has the page cache drop the titles.
    fn forget(&self) -> Result<(), Failure> {
        let forget = || {
            for (path, _) in files(&self.media.join(LADDER))? {
                let file = File::open(path)?;
                // What is not yet on the disk stays.
                file.sync_all()?;
                fadvise(&file, 0, None, Advice::DontNeed)?;
            }
            Ok(())
        };
        forget().map_err(|error| Failure::at(&self.media, error))
    }

    /// Memory for its share of the titles, in bytes.
    fn limit(&self) -> Result<u64, Failure> {
        let files = files(&self.media.join(LADDER));
        let files = files.map_err(|error| Failure::at(&self.media, error))?;
        let sum: u64 = files.iter().map(|(_, len)| len).sum();
        Ok((sum / SHARE).max(FLOOR))
    }

    fn hot(&self) -> Walk<'_> {
        let smallest = self.renditions.last().into_iter().flatten();
        Box::new(smallest.take(HOT).map(String::as_str))
    }

    /// A reader for each quarter of everything but the smallest rendition.
    fn cold_quarters(&self) -> Vec<Walk<'_>> {
        quarters(&self.renditions[..self.renditions.len().saturating_sub(1)])
    }

    /// Readers without end, who like some segments more than others.
    fn by_zipf(&self) -> Vec<Walk<'_>> {
        let mut ranked: Vec<&str> = self
            .renditions
            .iter()
            .flatten()
            .map(String::as_str)
            .collect();
        let mut random = Random::seeded(SEED);
        for at in (1..ranked.len()).rev() {
            ranked.swap(at, random.below(at + 1));
        }
        let reader = |seed| -> Walk<'_> {
            let ranked = ranked.clone();
            Box::new(Choice::new(ZIPF, ranked.len(), seed).map(move |chosen| ranked[chosen.title]))
        };
        (0..ZIPF_READERS).map(reader).collect()
    }
}

/// An origin that has memory for no more than its share.
struct Limited {
    castellum: Castellum,
    group: Cgroup,
}

impl Limited {
    fn start(library: &Library, plan: &Plan, limit: u64) -> Result<Self, Failure> {
        let group = group("origin", limit)?;
        let entrance = library.folder.join("castellum-within");
        let made = group.entrance(&plan.castellum, &entrance);
        made.map_err(|error| Failure::at(&entrance, error))?;
        let castellum = library.start(plan, &entrance)?;
        Ok(Self { castellum, group })
    }

    /// # Errors
    /// Where it was killed, in whole or in part, or answers no more.
    fn survived(&self) -> Result<(), Failure> {
        let unreadable = |error| Failure::asking("the memory cgroup", error);
        match self.group.killed().map_err(unreadable)? {
            0 => self.castellum.admin("/readyz").map(drop),
            count => Err(Failure::asking(
                "the origin",
                format!("{count} processes were killed for want of memory"),
            )),
        }
    }
}

fn group(name: &str, limit: u64) -> Result<Cgroup, Failure> {
    Cgroup::new(name, limit).map_err(|error| Failure::asking("a memory cgroup", error))
}

/// What came of a viewer's rounds.
#[derive(Default)]
struct Rounds {
    calm: Series,
    beside: Series,
    longest: Series,
    others: Series,
    read: Series,
}

impl Rounds {
    /// Times a viewer of the hot segments, first alone and then beside `others`.
    fn add(
        &mut self,
        castellum: &Castellum,
        library: &Library,
        duration: Duration,
        others: Vec<Walk<'_>>,
    ) -> Result<(), Failure> {
        let over = AtomicBool::default();
        // The first time they are read from the disk, then their pages are mapped.
        for _ in 0..2 {
            watch(castellum, vec![library.hot()], None)?;
        }
        let calm = time(castellum, library, duration, &over)?;
        let (before, begun) = (castellum.disk()?, Instant::now());
        let (beside, sent) = std::thread::scope(|scope| {
            let others = scope.spawn(|| {
                // That its threads have this priority too is how Linux starts them.
                let lowered = nice(NICER);
                lowered.map_err(|error| Failure::asking("a lower priority", error))?;
                watch(castellum, others, Some(&over))
            });
            let beside = time(castellum, library, duration, &over);
            over.store(true, Ordering::Relaxed);
            let broke = |_| Err(Failure::asking("the readers", "a thread broke down"));
            let sent = others.join().unwrap_or_else(broke)?;
            Ok::<_, Failure>((beside?, megabytes(sent)))
        })?;
        self.others.push(sent / begun.elapsed().as_secs_f64());
        self.read.push(megabytes(castellum.disk()? - before) / sent);
        self.calm.push(milliseconds(calm.quantile(0.99)));
        self.beside.push(milliseconds(beside.quantile(0.99)));
        self.longest.push(milliseconds(beside.max()));
        Ok(())
    }

    fn measured(self, memory: &str) -> Measured {
        let medians = [&self.longest, &self.others, &self.read].map(Series::spread);
        let note = match medians {
            [Some(longest), Some(others), Some(read)] => Some(format!(
                "{memory}; the longest {:.1} ms; the others got {:.0} MB/s, {:.2} bytes read for each that is sent",
                longest.median, others.median, read.median
            )),
            _ => None,
        };
        Measured {
            ours: self.beside,
            beside: vec![(Against::Calm, self.calm)],
            note,
        }
    }
}

/// Times a viewer of the hot segments, who asks for the next as soon as one has come, until it is over.
fn time(
    castellum: &Castellum,
    library: &Library,
    duration: Duration,
    over: &AtomicBool,
) -> Result<Latencies, Failure> {
    let mut probe = connect(castellum)?;
    let mut latencies = Latencies::default();
    let end = Instant::now() + duration;
    let hot: Vec<&str> = library.hot().collect();
    for path in hot.into_iter().cycle() {
        if Instant::now() > end || over.load(Ordering::Relaxed) {
            break;
        }
        latencies.record(skip(&mut probe, path)?.whole);
    }
    Ok(latencies)
}

/// Lets a reader go each walk, and says how many bytes they got: each to its end, or until it is `over`, as it is once
/// one of them is there.
fn watch(
    castellum: &Castellum,
    walks: Vec<Walk<'_>>,
    over: Option<&AtomicBool>,
) -> Result<u64, Failure> {
    let go = |walk: Walk<'_>| {
        let mut probe = connect(castellum)?;
        let mut sent = 0;
        for path in walk {
            if over.is_some_and(|over| over.load(Ordering::Relaxed)) {
                break;
            }
            sent += skip(&mut probe, path)?.len;
        }
        if let Some(over) = over {
            over.store(true, Ordering::Relaxed);
        }
        Ok(sent)
    };
    std::thread::scope(|scope| {
        let go = &go;
        let start = |walk| scope.spawn(move || go(walk));
        let readers: Vec<_> = walks.into_iter().map(start).collect();
        let broke = |_| Err(Failure::asking("a reader", "its thread broke down"));
        let got = |reader: ScopedJoinHandle<'_, _>| reader.join().unwrap_or_else(broke);
        readers.into_iter().map(got).sum()
    })
}

/// Each of its own part of every rendition, in order.
fn quarters(renditions: &[Vec<String>]) -> Vec<Walk<'_>> {
    let reader = |number| -> Walk<'_> {
        let part = move |segments: &'_ Vec<String>| {
            let len = segments.len();
            len * number / READERS..len * (number + 1) / READERS
        };
        let parts = renditions
            .iter()
            .flat_map(move |segments| &segments[part(segments)]);
        Box::new(parts.map(String::as_str))
    };
    (0..READERS).map(reader).collect()
}

fn connect(castellum: &Castellum) -> Result<Probe, Failure> {
    Probe::connect(castellum.plain).map_err(|error| Failure::asking("the origin", error))
}

fn skip(probe: &mut Probe, path: &str) -> Result<Dropped, Failure> {
    match probe.skip(path) {
        Ok(answer) if answer.status == 200 => Ok(answer),
        Ok(answer) => Err(Failure::asking(path, format!("status {}", answer.status))),
        Err(error) => Err(Failure::asking(path, error)),
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[expect(clippy::cast_precision_loss, reason = "megabytes for people")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Files of a folder with their lengths.
fn files(folder: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
    let file = |entry: io::Result<fs::DirEntry>| {
        let entry = entry?;
        Ok((entry.path(), entry.metadata()?.len()))
    };
    fs::read_dir(folder)?.map(file).collect()
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for (path, _) in files(from)? {
        if let Some(name) = path.file_name() {
            fs::copy(&path, to.join(name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quarters_are_all_there_is_and_nothing_twice() {
        let names = |rendition: &str, count: usize| -> Vec<String> {
            (0..count)
                .map(|number| format!("{rendition}/{number}"))
                .collect()
        };
        let renditions = [names("a", 10), names("b", 3)];
        let quarters: Vec<Vec<&str>> = quarters(&renditions)
            .into_iter()
            .map(Iterator::collect)
            .collect();
        assert_eq!(quarters[3], ["a/7", "a/8", "a/9", "b/2"]);
        let mut all = quarters.concat();
        all.sort_unstable();
        let mut expected: Vec<_> = renditions.iter().flatten().collect();
        expected.sort_unstable();
        assert_eq!(all, expected);
    }
}
