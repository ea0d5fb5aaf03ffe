//! Where segments begin.
//!
//! Time is cut into windows as long as a segment should be. In each window the first instant that is a key
//! frame in every rung begins a segment; a window without key frames begins none. For one track that is: the
//! first key frame at or after each multiple of the segment duration.

use super::Timeline;
use crate::error::PackageError;
use crate::index::Track;
use crate::time::{MediaTime, Rounding, Timescale};

/// A track of a switching set, with the name by which a message calls it.
#[derive(Clone, Copy)]
pub(crate) struct Rung<'a> {
    pub(crate) name: &'a str,
    pub(crate) track: &'a Track,
}

/// The timelines of `rungs`, in their order: as many segments in each, with the same starts.
pub(crate) fn segment(rungs: &[Rung<'_>], duration_ms: u32) -> Result<Vec<Timeline>, PackageError> {
    // The coarsest timescale decides in which window an instant lies.
    let Some(reference) = rungs.iter().min_by_key(|rung| rung.track.timescale()) else {
        return Ok(Vec::new());
    };
    for rung in rungs {
        if rung.track.presentation_end().ticks <= 0 {
            return Err(PackageError::unsupported(format!(
                "{}: its edit list skips all of it",
                rung.name
            )));
        }
    }
    let mut timelines = same_start(rungs, reference)?;
    let horizon = same_end(rungs, duration_ms)?;
    for window in Window::after_the_first(duration_ms) {
        if window.start() >= horizon {
            break;
        }
        let keys = || reference.keys_in(window).filter(|key| key.time < horizon);
        match keys().find_map(|key| in_all(rungs, key.time)) {
            Some(keys) => {
                for (timeline, key) in timelines.iter_mut().zip(keys) {
                    timeline.begin(key);
                }
            }
            None => none_apart(rungs, window, horizon)?,
        }
    }
    Ok(rungs
        .iter()
        .zip(timelines)
        .map(|(rung, begun)| begun.finish(rung.track))
        .collect())
}

/// Segment 1 begins with the first key frame, in all rungs at the same instant.
fn same_start(rungs: &[Rung<'_>], reference: &Rung<'_>) -> Result<Vec<Begun>, PackageError> {
    let first = |rung: &Rung<'_>| {
        let sample = rung.track.sync_sample(0);
        let ticks = rung.track.presentation_time(sample).max(0);
        Key {
            sample,
            time: MediaTime::new(ticks, rung.track.timescale()),
        }
    };
    let start = first(reference).time;
    if rungs
        .iter()
        .any(|rung| !same_instant(first(rung).time, start))
    {
        let list = rungs
            .iter()
            .map(|rung| format!("{} at {}", rung.name, seconds(first(rung).time)));
        return Err(PackageError::unsupported(format!(
            "the rungs of the ladder do not begin together: {}",
            list.collect::<Vec<_>>().join("; ")
        )));
    }
    Ok(rungs
        .iter()
        .map(|rung| Begun {
            starts: vec![first(rung)],
        })
        .collect())
}

/// The end of the shortest rung, after which no segment begins. What others have beyond it is the tail of their
/// last segment, and may be no longer than a segment.
fn same_end(rungs: &[Rung<'_>], duration_ms: u32) -> Result<MediaTime, PackageError> {
    let ends = || rungs.iter().map(|rung| rung.track.presentation_end());
    let zero = MediaTime::new(0, Timescale::MILLISECONDS);
    let (shortest, longest) = (ends().min().unwrap_or(zero), ends().max().unwrap_or(zero));
    let allowed = MediaTime::new(
        shortest
            .to_timescale(Timescale::MILLISECONDS, Rounding::Up)
            .ticks
            + i64::from(duration_ms),
        Timescale::MILLISECONDS,
    );
    if longest > allowed {
        let list = rungs.iter().map(|rung| {
            format!(
                "{} at {}",
                rung.name,
                seconds(rung.track.presentation_end())
            )
        });
        return Err(PackageError::unsupported(format!(
            "the rungs of the ladder end more than a segment apart: {}",
            list.collect::<Vec<_>>().join("; ")
        )));
    }
    Ok(shortest)
}

/// Refuses a window in which a rung has a key frame that is not one in all.
fn none_apart(rungs: &[Rung<'_>], window: Window, horizon: MediaTime) -> Result<(), PackageError> {
    let apart = |rung: &Rung<'_>| {
        rung.keys_in(window)
            .any(|key| key.time < horizon && in_all(rungs, key.time).is_none())
    };
    if !rungs.iter().any(apart) {
        return Ok(());
    }
    let list = rungs.iter().map(|rung| {
        let instants: Vec<String> = rung.keys_in(window).map(|key| seconds(key.time)).collect();
        let instants = if instants.is_empty() {
            "none".to_owned()
        } else {
            instants.join(", ")
        };
        format!("{}: {instants}", rung.name)
    });
    Err(PackageError::unsupported(format!(
        "the rungs of the ladder have no key frame in common from {} to {}: {}",
        seconds(window.start()),
        seconds(window.end()),
        list.collect::<Vec<_>>().join("; ")
    )))
}

/// The key frame at `instant` of every rung, if all have one.
fn in_all(rungs: &[Rung<'_>], instant: MediaTime) -> Option<Vec<Key>> {
    rungs.iter().map(|rung| rung.key_at(instant)).collect()
}

/// Whether two instants are the same as far as their timescales can tell: half a tick of the coarser apart at
/// most. Files of one ladder round the same instant to different timescales.
fn same_instant(a: MediaTime, b: MediaTime) -> bool {
    let (scale_a, scale_b) = (i128::from(a.timescale.get()), i128::from(b.timescale.get()));
    let apart = (i128::from(a.ticks) * scale_b - i128::from(b.ticks) * scale_a).abs();
    // |a/A - b/B| <= 1 / (2 min(A, B)), times A B
    2 * apart <= scale_a.max(scale_b)
}

/// A key frame and when it is shown.
#[derive(Clone, Copy)]
struct Key {
    sample: u32,
    time: MediaTime,
}

impl Rung<'_> {
    fn key_at_or_after(&self, ticks: i64) -> Option<Key> {
        let sample = self.track.sync_at_or_after(ticks)?;
        let ticks = self.track.presentation_time(sample);
        Some(Key {
            sample,
            time: MediaTime::new(ticks, self.track.timescale()),
        })
    }

    fn keys_in(&self, window: Window) -> impl Iterator<Item = Key> {
        let scale = self.track.timescale();
        let start = window.start().to_timescale(scale, Rounding::Up).ticks;
        let end = window.end();
        std::iter::successors(self.key_at_or_after(start), |key| {
            self.key_at_or_after(key.time.ticks + 1)
        })
        .take_while(move |key| key.time < end)
    }

    fn key_at(&self, instant: MediaTime) -> Option<Key> {
        let own = instant
            .to_timescale(self.track.timescale(), Rounding::Down)
            .ticks;
        // Half a tick of the coarser timescale is many ticks of a finer one.
        let reach = i64::from(
            self.track.timescale().get()
                / instant.timescale.get().min(self.track.timescale().get()),
        );
        let first = self.key_at_or_after(own.saturating_sub(reach))?;
        std::iter::successors(Some(first), |key| self.key_at_or_after(key.time.ticks + 1))
            .take_while(|key| key.time.ticks <= own + reach + 1)
            .find(|key| same_instant(key.time, instant))
    }
}

/// One window: from `number` times the segment duration to the next.
#[derive(Clone, Copy)]
struct Window {
    number: i64,
    duration_ms: u32,
}

impl Window {
    /// The first window is begun by the first sample, whatever key frames it holds.
    fn after_the_first(duration_ms: u32) -> impl Iterator<Item = Self> {
        (1..).map(move |number| Self {
            number,
            duration_ms,
        })
    }

    fn start(self) -> MediaTime {
        MediaTime::new(
            self.number.saturating_mul(self.duration_ms.into()),
            Timescale::MILLISECONDS,
        )
    }

    fn end(self) -> MediaTime {
        Self {
            number: self.number.saturating_add(1),
            ..self
        }
        .start()
    }
}

/// A timeline whose end is not yet known.
struct Begun {
    starts: Vec<Key>,
}

impl Begun {
    /// Begins a segment, unless the key frame is out of order: composition offsets of a strange file can make
    /// key frames that are later in the file earlier in time.
    fn begin(&mut self, key: Key) {
        if self
            .starts
            .last()
            .is_none_or(|last| last.sample < key.sample && last.time < key.time)
        {
            self.starts.push(key);
        }
    }

    fn finish(self, track: &Track) -> Timeline {
        let end = track.presentation_end().ticks;
        let starts: Vec<(u32, u64)> = self
            .starts
            .into_iter()
            .filter(|key| key.time.ticks < end)
            .map(|key| (key.sample, key.time.ticks.unsigned_abs()))
            .collect();
        Timeline {
            independent: !starts.iter().any(|&(key, _)| leads(track, key)),
            starts,
            end_sample: track.sample_count(),
            end: end.unsigned_abs(),
        }
    }
}

/// Pictures that a decoder can hold back, at most (ITU-T H.264 A.3.1): a picture that is shown before a key
/// frame comes no later than so many that are shown after it.
const DECODED_PICTURES: u32 = 16;

/// Whether pictures follow `key` that are shown before it.
fn leads(track: &Track, key: u32) -> bool {
    if !track.has_composition_offsets() {
        return false;
    }
    let until_next = track.sync_after(key) - key;
    let mut times = track
        .presentation_times(key)
        .take(usize::try_from(until_next).unwrap_or(usize::MAX));
    let shown = times.next().unwrap_or(i64::MIN);
    times
        .scan(0, |after, time| {
            let leads = time < shown;
            *after += u32::from(!leads);
            (*after < DECODED_PICTURES).then_some(leads)
        })
        .any(|leads| leads)
}

fn seconds(time: MediaTime) -> String {
    let milliseconds = time
        .to_timescale(Timescale::MILLISECONDS, Rounding::Nearest)
        .ticks;
    format!("{}.{:03} s", milliseconds / 1000, milliseconds % 1000)
}
