//! How fast a viewer's line seems, and which rung of a ladder it carries. Pure.

use std::time::Duration;

/// What the newest transfer counts in the estimate; the rest is what was believed before.
const WEIGHT: f64 = 0.4;

/// The share of the estimate that a rung may need, as players keep something back.
const SAFETY: f64 = 0.8;

/// An estimate from the transfers so far.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Throughput {
    /// Bits per second; none before the first transfer.
    estimate: Option<f64>,
}

impl Throughput {
    /// Takes note of a transfer.
    pub fn record(&mut self, bytes: u64, took: Duration) {
        #[expect(
            clippy::cast_precision_loss,
            reason = "an estimate; 53 bits are nine petabytes"
        )]
        let bits = bytes as f64 * 8.0;
        let seen = bits / took.as_secs_f64().max(1e-6);
        self.estimate = Some(match self.estimate {
            Some(before) => before + WEIGHT * (seen - before),
            None => seen,
        });
    }

    /// The highest rung that the line carries, of a ladder in rising order; the lowest where it carries none, and
    /// `start`, or the highest below it, before anything is known. `pace` is how much faster than film it is watched.
    pub fn rung(&self, ladder: &[u64], pace: f64, start: usize) -> usize {
        let last = ladder.len().saturating_sub(1);
        let Some(estimate) = self.estimate else {
            return start.min(last);
        };
        #[expect(
            clippy::cast_precision_loss,
            reason = "an estimate; no line has 2^53 bits per second"
        )]
        let carried = |bits: &u64| *bits as f64 * pace <= estimate * SAFETY;
        ladder.iter().rposition(carried).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LADDER: [u64; 3] = [1_000_000, 3_000_000, 6_000_000];
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn begins_where_it_is_told_and_then_at_what_the_line_carries() {
        let mut throughput = Throughput::default();
        assert_eq!(throughput.rung(&LADDER, 1.0, 1), 1);
        assert_eq!(throughput.rung(&LADDER, 1.0, 9), 2);
        assert_eq!(throughput.rung(&[], 1.0, 9), 0);
        throughput.record(1_000_000, SECOND);
        assert_eq!(throughput.rung(&LADDER, 1.0, 0), 2, "8 Mb/s carry 6");
        assert_eq!(throughput.rung(&LADDER, 2.0, 0), 1, "twice as fast, only 3");
    }

    #[test]
    fn a_falling_line_lowers_the_rung_step_by_step() {
        let mut throughput = Throughput::default();
        throughput.record(1_000_000, SECOND);
        let mut rungs = Vec::new();
        for _ in 0..6 {
            throughput.record(50_000, SECOND);
            rungs.push(throughput.rung(&LADDER, 1.0, 2));
        }
        assert!(rungs.is_sorted_by(|a, b| a >= b), "{rungs:?}");
        assert_eq!((rungs[0], rungs[5]), (1, 0));
        for _ in 0..6 {
            throughput.record(2_000_000, SECOND);
        }
        assert_eq!(
            throughput.rung(&LADDER, 1.0, 0),
            2,
            "and a better one raises it again"
        );
    }

    #[test]
    fn a_transfer_that_took_no_time_is_no_fault() {
        let mut throughput = Throughput::default();
        throughput.record(1, Duration::ZERO);
        assert_eq!(throughput.rung(&LADDER, 1.0, 0), 2);
    }
}
