//! What a viewer has ahead of the picture that is shown, and when it wants more. Pure.
//!
//! ```text
//! filling --(the target is reached)--> steady --(it runs dry, or a seek)--> filling
//! ```
//!
//! While it fills, a viewer asks for the next segment as soon as the last has come. Then it asks once for each
//! segment that was watched, at times that do not depend on how long answers take: this is what makes latencies
//! honest that are counted from when it meant to ask.

use std::time::Duration;

/// A viewer's buffer. Film is counted in seconds of film, time from the beginning of the run.
#[derive(Debug, Clone)]
pub struct Buffer {
    target: f64,
    pace: f64,
    /// Up to when `ahead` was reckoned.
    now: Duration,
    /// Film that is there and was not watched.
    ahead: f64,
    watched: f64,
    state: State,
    stalls: u64,
    stalled: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    /// Nothing to watch: since the beginning or a seek, or since it ran dry, which is a stall.
    Waiting { stalled: bool },
    /// The picture moves, and the target was not reached since it last did not.
    Filling,
    /// The next segment is wanted at this time.
    Steady { due: Duration },
}

impl Buffer {
    /// An empty one that holds `target` seconds of film and is watched `pace` times as fast as film.
    pub fn new(target: f64, pace: f64, now: Duration) -> Self {
        Self {
            target,
            pace,
            now,
            ahead: 0.0,
            watched: 0.0,
            state: State::Waiting { stalled: false },
            stalls: 0,
            stalled: Duration::ZERO,
        }
    }

    /// Lets time pass.
    pub fn advance(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.now);
        match self.state {
            State::Waiting { stalled: true } => self.stalled += passed,
            State::Waiting { stalled: false } => {}
            State::Filling | State::Steady { .. } => {
                let wanted = passed.as_secs_f64() * self.pace;
                if wanted > self.ahead {
                    let dry = self.dry_at();
                    self.watched += self.ahead;
                    self.ahead = 0.0;
                    self.stalls += 1;
                    self.stalled += now.saturating_sub(dry);
                    self.state = State::Waiting { stalled: true };
                } else {
                    self.watched += wanted;
                    self.ahead -= wanted;
                }
            }
        }
        self.now = self.now.max(now);
    }

    /// Takes `film` seconds that have come at `now`.
    pub fn add(&mut self, film: f64, now: Duration) {
        self.advance(now);
        self.ahead += film;
        self.state = match self.state {
            State::Steady { due } => State::Steady {
                due: due + self.time_of(film),
            },
            State::Waiting { .. } | State::Filling if self.ahead >= self.target => State::Steady {
                due: now + self.time_of(self.ahead - self.target),
            },
            State::Waiting { .. } | State::Filling => State::Filling,
        };
    }

    /// Drops all that is there, as a seek does.
    pub fn clear(&mut self, now: Duration) {
        self.advance(now);
        self.ahead = 0.0;
        self.state = State::Waiting { stalled: false };
    }

    /// When the next segment is wanted; `None` while it fills: as soon as may be.
    pub fn due(&self) -> Option<Duration> {
        match self.state {
            State::Waiting { .. } | State::Filling => None,
            State::Steady { due } => Some(due),
        }
    }

    /// When the picture stops if nothing comes.
    pub fn dry_at(&self) -> Duration {
        self.now + self.time_of(self.ahead)
    }

    /// When so many seconds of film have been watched, if enough comes; `None` while the picture stands still.
    pub fn watched_at(&self, film: f64) -> Option<Duration> {
        match self.state {
            State::Waiting { .. } => None,
            State::Filling | State::Steady { .. } => {
                Some(self.now + self.time_of(film - self.watched))
            }
        }
    }

    /// Seconds of film that were watched.
    pub fn watched(&self) -> f64 {
        self.watched
    }

    /// How often the picture stopped because nothing was there: not at the beginning, not after a seek.
    pub fn stalls(&self) -> u64 {
        self.stalls
    }

    /// How long it stood still so.
    pub fn stalled(&self) -> Duration {
        self.stalled
    }

    fn time_of(&self, film: f64) -> Duration {
        Duration::try_from_secs_f64(film.max(0.0) / self.pace).unwrap_or(Duration::MAX / 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn fills_at_once_and_then_waits_for_what_is_watched() {
        let mut buffer = Buffer::new(8.0, 1.0, at(10.0));
        assert_eq!(buffer.due(), None);
        buffer.add(4.0, at(10.5));
        assert_eq!(buffer.due(), None, "4 of 8 s");
        buffer.add(4.0, at(11.0));
        assert_eq!(buffer.due(), None, "half a second of it was watched");
        buffer.add(4.0, at(11.5));
        // 11 s are there: full until 3 of them are watched.
        assert_eq!(buffer.due(), Some(at(14.5)));
        assert_eq!((buffer.stalls(), buffer.watched()), (0, 1.0));
    }

    #[test]
    fn what_comes_late_does_not_move_what_is_wanted_next() {
        let mut buffer = Buffer::new(4.0, 1.0, at(0.0));
        buffer.add(4.0, at(0.0));
        assert_eq!(buffer.due(), Some(at(0.0)));
        buffer.add(4.0, at(3.0));
        assert_eq!(buffer.due(), Some(at(4.0)));
        // Asked for at 4, it took 3.5 s: the one after it was wanted at 8 all the same.
        buffer.add(4.0, at(7.5));
        assert_eq!(buffer.due(), Some(at(8.0)));
        assert_eq!(buffer.stalls(), 0);
    }

    #[test]
    fn running_dry_is_a_stall_with_its_time_and_it_fills_again() {
        let mut buffer = Buffer::new(4.0, 1.0, at(0.0));
        buffer.add(4.0, at(1.0));
        assert_eq!(buffer.dry_at(), at(5.0));
        buffer.advance(at(6.0));
        buffer.advance(at(7.0));
        buffer.add(2.0, at(8.0));
        assert_eq!((buffer.stalls(), buffer.stalled()), (1, at(3.0)));
        assert_eq!(buffer.due(), None);
        assert_eq!(buffer.watched_at(5.0), Some(at(9.0)));
    }

    #[test]
    fn a_seek_empties_it_and_is_no_stall() {
        let mut buffer = Buffer::new(4.0, 1.0, at(0.0));
        buffer.add(6.0, at(0.0));
        buffer.clear(at(1.0));
        assert_eq!((buffer.due(), buffer.watched_at(2.0)), (None, None));
        buffer.add(6.0, at(4.0));
        assert_eq!(
            (buffer.stalls(), buffer.stalled(), buffer.watched()),
            (0, at(0.0), 1.0)
        );
        assert_eq!(buffer.due(), Some(at(6.0)));
    }

    #[test]
    fn pace_makes_film_pass_faster() {
        let mut buffer = Buffer::new(10.0, 10.0, at(0.0));
        buffer.add(20.0, at(0.0));
        assert_eq!((buffer.due(), buffer.dry_at()), (Some(at(1.0)), at(2.0)));
        buffer.advance(at(0.5));
        assert_eq!(buffer.watched(), 5.0);
    }
}
