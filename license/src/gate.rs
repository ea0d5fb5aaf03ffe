//! What stands before each service that is asked: how many requests it has at once, and whether it is left alone because it failed.
//! One that is slow or broken fills its own gate and nobody else's.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};

/// A bound on concurrency, and a circuit breaker.
#[derive(Debug)]
pub(crate) struct Gate {
    places: Semaphore,
    /// Failures in a row that shut it.
    most: usize,
    pause: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failures: usize,
    shut_until: Option<Instant>,
    /// One request is trying whether it is back.
    trial: bool,
}

impl State {
    /// Whether the next request is the trial.
    fn admits(&self, now: Instant) -> Result<bool, Shut> {
        match self.shut_until {
            None => Ok(false),
            Some(until) if now < until || self.trial => Err(Shut::Broken),
            Some(_) => Ok(true),
        }
    }
}

/// One request's way through. Dropped without a word, it says nothing of the service: its player went away.
pub(crate) struct Turn<'a> {
    gate: &'a Gate,
    trial: bool,
    _place: SemaphorePermit<'a>,
}

/// Why a gate lets nobody through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Shut {
    /// It has as many requests as it may.
    #[error("it has as many requests as it may")]
    Full,
    /// It failed too often, and is left alone for a while.
    #[error("it failed too often and is left alone for a while")]
    Broken,
}

impl Gate {
    pub(crate) fn new(in_flight: usize, most: usize, pause: Duration) -> Self {
        Self {
            places: Semaphore::new(in_flight.min(Semaphore::MAX_PERMITS)),
            most,
            pause,
            state: Mutex::default(),
        }
    }

    /// Lets a request through, at once or not at all.
    pub(crate) fn enter(&self, now: Instant) -> Result<Turn<'_>, Shut> {
        let place = self.places.try_acquire().map_err(|_| Shut::Full)?;
        self.take(place, now)
    }

    fn take<'a>(&'a self, place: SemaphorePermit<'a>, now: Instant) -> Result<Turn<'a>, Shut> {
        let mut state = self.state();
        let trial = state.admits(now)?;
        state.trial |= trial;
        drop(state);
        Ok(Turn {
            gate: self,
            trial,
            _place: place,
        })
    }

    /// Lets a request through when there is a place, however long that takes; at once or not at all where it is left alone.
    pub(crate) async fn wait(&self, now: impl Fn() -> Instant) -> Result<Turn<'_>, Shut> {
        self.state().admits(now())?;
        let place = self.places.acquire().await.map_err(|_| Shut::Full)?;
        self.take(place, now())
    }

    /// Whether a request would be let through.
    pub(crate) fn look(&self, now: Instant) -> Result<(), Shut> {
        match self.places.available_permits() {
            0 => Err(Shut::Full),
            _ => self.state().admits(now).map(|_| ()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What is counted is right even where a thread died while it counted.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn<'_> {
    /// It answered, whatever that says of the challenge.
    pub(crate) fn answered(self) {
        let mut state = self.gate.state();
        state.failures = 0;
        state.shut_until = None;
    }

    /// It did not, or with what is no answer. Says whether the gate is shut by that.
    pub(crate) fn failed(self, now: Instant) -> bool {
        let mut state = self.gate.state();
        state.failures = state.failures.saturating_add(1);
        let shut = self.trial || state.failures >= self.gate.most;
        if shut {
            state.shut_until = Some(now + self.gate.pause);
        }
        shut
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.trial {
            self.gate.state().trial = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(10);

    fn gate() -> Gate {
        Gate::new(2, 3, PAUSE)
    }

    #[test]
    fn so_many_at_once_and_no_more() {
        let gate = gate();
        let now = Instant::now();
        let one = gate.enter(now).unwrap();
        assert_eq!(gate.look(now), Ok(()));
        let _two = gate.enter(now).unwrap();
        assert_eq!(gate.look(now), Err(Shut::Full));
        assert_eq!(gate.enter(now).err(), Some(Shut::Full));
        drop(one);
        assert_eq!(gate.look(now), Ok(()));
        assert!(gate.enter(now).is_ok());
    }

    #[test]
    fn failures_in_a_row_shut_it_and_one_request_tries_it_again() {
        let gate = gate();
        let now = Instant::now();
        for _ in 0..2 {
            assert!(!gate.enter(now).unwrap().failed(now));
        }
        gate.enter(now).unwrap().answered();
        for last in [false, false, true] {
            assert_eq!(gate.enter(now).unwrap().failed(now), last);
        }
        assert_eq!(gate.enter(now).err(), Some(Shut::Broken));
        assert_eq!(gate.look(now), Err(Shut::Broken));
        let later = now + PAUSE;
        assert_eq!(gate.look(later), Ok(()));
        let trial = gate.enter(later).unwrap();
        assert_eq!(gate.enter(later).err(), Some(Shut::Broken));
        // The player of the trial went away: the next request is the trial.
        drop(trial);
        assert!(gate.enter(later).unwrap().failed(later));
        assert_eq!(gate.enter(later).err(), Some(Shut::Broken));
        gate.enter(later + PAUSE).unwrap().answered();
        assert!(gate.enter(later).is_ok());
    }
}
