//! What is said while a run goes on: one line for each look at it.

use std::io::IsTerminal as _;
use std::time::Duration;

use crate::load::Beat;

/// How often a terminal is told.
const ON_A_TERMINAL: Duration = Duration::from_secs(1);

/// How often a file or a log is.
const ELSEWHERE: Duration = Duration::from_secs(10);

/// How often standard error is told, whatever it is.
pub fn every() -> Duration {
    if std::io::stderr().is_terminal() {
        ON_A_TERMINAL
    } else {
        ELSEWHERE
    }
}

/// What changed since the last look.
#[derive(Debug)]
pub struct Progress {
    /// Who asks: viewers, or connections.
    who: &'static str,
    last: Beat,
}

impl Progress {
    /// Of what these do.
    pub fn of(who: &'static str) -> Self {
        let last = Beat::default();
        Self { who, last }
    }

    /// The line of a look; rates are those since the one before.
    pub fn line(&mut self, beat: Beat) -> String {
        let last = std::mem::replace(&mut self.last, beat);
        let passed = beat
            .elapsed
            .saturating_sub(last.elapsed)
            .as_secs_f64()
            .max(f64::EPSILON);
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / passed;
        let (now, before) = (beat.totals, last.totals);
        format!(
            "{:>6.0} s {:>7} {} {:>9.1} requests/s {:>9.2} MB/s {:>6} errors",
            beat.elapsed.as_secs_f64(),
            beat.present,
            self.who,
            rate(now.requests, before.requests),
            rate(now.bytes, before.bytes) / 1e6,
            now.errors,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recorder::Totals;

    #[test]
    fn rates_are_those_since_the_last_look() {
        let mut progress = Progress::of("viewers");
        let beat = |seconds, requests, bytes| Beat {
            elapsed: Duration::from_secs(seconds),
            present: 7,
            totals: Totals {
                requests,
                bytes,
                errors: 1,
            },
        };
        let first = progress.line(beat(1, 100, 5_000_000));
        assert_eq!(
            first,
            "     1 s       7 viewers     100.0 requests/s      5.00 MB/s      1 errors"
        );
        let second = progress.line(beat(3, 150, 6_000_000));
        assert!(
            second.contains(" 25.0 requests/s") && second.contains(" 0.50 MB/s"),
            "{second}"
        );
        // Two looks at one moment.
        progress.line(beat(3, 150, 6_000_000));
    }
}
