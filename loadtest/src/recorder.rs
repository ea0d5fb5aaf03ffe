//! What all viewers see, collected while they do.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;

use crate::latency::Latencies;

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
    /// The licence of a period after the first.
    Renewal,
    /// What no viewer asked for: preparations, and the clear segments that others are compared with.
    Aside,
}

impl Route {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Manifest => "manifest",
            Self::Playlist => "playlist",
            Self::Init => "init",
            Self::Segment => "segment",
            Self::Licence => "licence",
            Self::Renewal => "renewal",
            Self::Aside => "aside",
        }
    }

    /// Whether these are requests of viewers.
    pub fn is_viewers(self) -> bool {
        match self {
            Self::Manifest
            | Self::Playlist
            | Self::Init
            | Self::Segment
            | Self::Licence
            | Self::Renewal => true,
            Self::Connect | Self::Aside => false,
        }
    }
}

/// How long an answer took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Took {
    /// Since it was meant to be asked for.
    SinceDue(Duration),
    /// Since it was asked for by somebody who waits for one answer before he asks again.
    SinceAsked(Duration),
}

/// Collects what all viewers see.
#[derive(Debug, Default)]
pub struct Recorder(Mutex<Records>);

/// What was collected.
#[derive(Debug, Clone, Default)]
pub struct Records {
    /// By what requests were for.
    pub routes: BTreeMap<Route, Answers>,
    /// Segments that were decrypted.
    pub compared: Compared,
    /// What failed beside requests: titles that could not be played, samples that differ, faults of our own.
    pub faults: u64,
    /// The first failures in words, requests included, each once.
    pub told: Vec<String>,
}

/// Answers of one route.
#[derive(Debug, Clone, Default)]
pub struct Answers {
    /// Since they were due.
    pub open: Latencies,
    /// Since they were asked for, of closed loops.
    pub closed: Latencies,
    /// Requests that failed.
    pub errors: u64,
    /// Requests that were told to come again: 503 with `Retry-After`.
    pub shed: u64,
    /// Requests that could not be sent: the server ended the connection before it had shaken hands.
    pub turned_away: u64,
    /// Bytes of bodies.
    pub bytes: u64,
}

/// Samples held against those of the clear policy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Compared {
    /// Protected segments that were decrypted.
    pub segments: u64,
    /// Their samples, of those that were equal.
    pub samples: u64,
    /// Segments that were not.
    pub differing: u64,
}

impl Recorder {
    fn with<T>(&self, change: impl FnOnce(&mut Records) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A request that was answered in full.
    pub fn answered(&self, route: Route, took: Took, bytes: u64) {
        self.with(|records| {
            let answers = records.routes.entry(route).or_default();
            answers.bytes += bytes;
            match took {
                Took::SinceDue(took) => answers.open.record(took),
                Took::SinceAsked(took) => answers.closed.record(took),
            }
        });
    }

    /// A request that was told to come again.
    pub fn shed(&self, route: Route) {
        self.with(|records| records.routes.entry(route).or_default().shed += 1);
    }

    /// A request that could not be sent, as the server would not shake hands.
    pub fn turned_away(&self, route: Route) {
        self.with(|records| records.routes.entry(route).or_default().turned_away += 1);
    }

    /// A request that failed.
    pub fn failed(&self, route: Route, what: String) {
        self.with(|records| {
            records.routes.entry(route).or_default().errors += 1;
            records.tell(what);
        });
    }

    /// A failure that is no request's: a title that cannot be played though all was answered, or a fault of ours.
    pub fn fault(&self, what: String) {
        self.with(|records| {
            records.faults += 1;
            records.tell(what);
        });
    }

    /// A protected segment whose samples equal the clear ones.
    pub fn equal(&self, samples: usize) {
        self.with(|records| {
            records.compared.segments += 1;
            records.compared.samples += samples as u64;
        });
    }

    /// A protected segment that differs from the clear one.
    pub fn differing(&self, what: String) {
        self.with(|records| {
            records.compared.segments += 1;
            records.compared.differing += 1;
            records.faults += 1;
            records.tell(what);
        });
    }

    /// Requests, bytes and failures until now, of viewers.
    pub fn totals(&self) -> Totals {
        self.with(|records| records.totals())
    }

    /// All of it.
    pub fn records(&self) -> Records {
        self.with(|records| records.clone())
    }
}

/// Sums over the routes of viewers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests that were answered.
    pub requests: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// Requests that failed, and all else that did.
    pub errors: u64,
}

impl Records {
    fn tell(&mut self, what: String) {
        if self.told.len() < FAILURES_TOLD && !self.told.contains(&what) {
            self.told.push(what);
        }
    }

    /// Requests, bytes and failures, of viewers.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals {
            errors: self.faults,
            ..Totals::default()
        };
        for (route, answers) in &self.routes {
            totals.errors += answers.errors;
            if route.is_viewers() {
                totals.requests += answers.count();
                totals.bytes += answers.bytes;
            }
        }
        totals
    }
}

impl Answers {
    /// How many were answered.
    pub fn count(&self) -> u64 {
        self.open.len() + self.closed.len()
    }

    /// How many were asked.
    pub fn asked(&self) -> u64 {
        self.count() + self.unserved() + self.errors
    }

    /// How many an overloaded server kept off, in either way.
    pub fn unserved(&self) -> u64 {
        self.shed + self.turned_away
    }

    /// How long they took, as it was seen.
    pub fn seen(&self) -> Latencies {
        let mut all = self.open.clone();
        all.add(&self.closed);
        all
    }

    /// The same with those that closed loops did not ask for while they waited; `None` where there is no closed loop.
    pub fn corrected(&self) -> Option<Latencies> {
        (!self.closed.is_empty()).then(|| {
            let mut all = self.closed.corrected_by_median();
            all.add(&self.open);
            all
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn totals_are_of_viewers_and_failures_are_of_all() {
        let recorder = Recorder::default();
        recorder.answered(Route::Segment, Took::SinceDue(MS), 10);
        recorder.answered(Route::Licence, Took::SinceAsked(MS), 5);
        recorder.answered(Route::Connect, Took::SinceDue(MS), 0);
        recorder.answered(Route::Aside, Took::SinceAsked(MS), 100);
        recorder.failed(Route::Aside, "status 503".into());
        recorder.differing("sample 3".into());
        recorder.fault("no MPD".into());
        let totals = Totals {
            requests: 2,
            bytes: 15,
            errors: 3,
        };
        assert_eq!(recorder.totals(), totals);
        assert_eq!(
            recorder.records().told,
            ["status 503", "sample 3", "no MPD"]
        );
    }

    #[test]
    fn the_same_failure_is_told_once_and_counted_each_time() {
        let recorder = Recorder::default();
        for number in 0..50 {
            recorder.failed(Route::Segment, "status 503".into());
            recorder.fault(format!("film {number}"));
        }
        let records = recorder.records();
        assert_eq!((records.told.len(), records.totals().errors), (20, 100));
    }

    #[test]
    fn only_closed_loops_are_corrected() {
        let mut answers = Answers::default();
        answers.open.record(500 * MS);
        assert!(answers.corrected().is_none());
        for _ in 0..9 {
            answers.closed.record(MS);
        }
        answers.closed.record(101 * MS);
        assert_eq!((answers.count(), answers.seen().len()), (11, 11));
        // One wait of a hundred intervals, and the one that was due.
        assert_eq!(answers.corrected().unwrap().len(), 9 + 101 + 1);
    }
}
