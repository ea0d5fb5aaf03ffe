//! What can be looked at while a run goes on. It lags by a tick, as threads count for themselves.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Tally;
use crate::recorder::Totals;

/// Answers, bytes and failures of all threads until now.
#[derive(Debug, Default)]
pub struct Counters {
    requests: AtomicU64,
    bytes: AtomicU64,
    errors: AtomicU64,
}

impl Counters {
    /// What they are.
    pub fn totals(&self) -> Totals {
        Totals {
            requests: self.requests.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
        }
    }

    /// Adds what a thread has counted since it last said so.
    pub(super) fn tell(&self, tally: &Tally, told: &mut Totals) {
        let counts = [
            (&self.requests, tally.requests, &mut told.requests),
            (&self.bytes, tally.bytes, &mut told.bytes),
            (&self.errors, tally.errors, &mut told.errors),
        ];
        for (counter, now, told) in counts {
            counter.fetch_add(now - *told, Ordering::Relaxed);
            *told = now;
        }
    }
}
