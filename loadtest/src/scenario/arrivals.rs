//! When viewers come: an open loop, in which nobody waits for those before him. Pure.
//!
//! ```text
//! spacing: 0, 1, 2, ... or with exponential gaps   (one arrival per unit, on average)
//!     |
//! shape: the time at which so many have come on average   (the inverse of the rate's integral)
//! ```

use std::time::Duration;

use crate::random::Random;

/// How the rate of arrivals goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Shape {
    /// So many a second.
    Constant {
        /// Arrivals per second.
        rate: f64,
    },
    /// From one rate to another, which it then keeps.
    Ramp {
        /// Arrivals per second in the beginning.
        from: f64,
        /// In the end.
        to: f64,
        /// Seconds from the one to the other.
        within: f64,
    },
    /// So many in all, and nobody after them.
    Burst {
        /// How many.
        count: u64,
        /// Seconds in which they come.
        within: f64,
    },
}

/// How arrivals lie around their mean distance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spacing {
    /// All alike.
    Fixed,
    /// As those of people who know nothing of each other: a Poisson process.
    Poisson,
}

/// The times of arrival since the beginning, in order and without end, but for a burst's.
#[derive(Debug, Clone)]
pub struct Arrivals {
    shape: Shape,
    spacing: Spacing,
    random: Random,
    come: u64,
    /// Where the next one is: in arrivals that come before it on average, in a burst in seconds.
    at: f64,
}

impl Arrivals {
    /// Those of this shape; the seed decides where Poisson arrivals lie.
    pub fn new(shape: Shape, spacing: Spacing, seed: u64) -> Self {
        Self {
            shape,
            spacing,
            random: Random::seeded(seed),
            come: 0,
            at: 0.0,
        }
    }
}

impl Iterator for Arrivals {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let seconds = match (self.shape, self.spacing) {
            (Shape::Burst { count, .. }, _) if self.come == count => return None,
            (Shape::Burst { count, within }, Spacing::Fixed) => {
                real(self.come) * within / real(count)
            }
            (Shape::Burst { count, within }, Spacing::Poisson) => {
                // The least of those that are left, which lie evenly in the time that is left.
                let left = real(count - self.come);
                let share = 1.0 - (1.0 - self.random.share()).powf(1.0 / left);
                self.at += (within - self.at) * share;
                self.at
            }
            (Shape::Constant { rate }, _) => self.unit() / rate,
            (Shape::Ramp { from, to, within }, _) => ramp(self.unit(), from, to, within),
        };
        self.come += 1;
        // A rate that is next to nothing: beyond every run's end.
        Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
    }
}

impl Arrivals {
    /// The next arrival of a process of one per unit.
    fn unit(&mut self) -> f64 {
        match self.spacing {
            Spacing::Fixed => real(self.come),
            Spacing::Poisson => {
                self.at += self.random.exponential();
                self.at
            }
        }
    }
}

/// When `arrivals` have come: `from t + (to - from) t^2 / 2 within = arrivals`, and after the ramp at the rate `to`.
fn ramp(arrivals: f64, from: f64, to: f64, within: f64) -> f64 {
    let by_then = (from + to) / 2.0 * within;
    if arrivals >= by_then {
        return within + (arrivals - by_then) / to;
    }
    let slope = (to - from) / within;
    // This form of the root is exact where the slope is near zero.
    let root = (from * from + 2.0 * slope * arrivals).max(0.0).sqrt();
    if arrivals == 0.0 {
        0.0
    } else {
        2.0 * arrivals / (from + root)
    }
}

#[expect(clippy::cast_precision_loss, reason = "no run has 2^53 arrivals")]
fn real(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(shape: Shape, spacing: Spacing, seed: u64, until: f64) -> Vec<f64> {
        let arrivals = Arrivals::new(shape, spacing, seed);
        let times = arrivals
            .map(|time| time.as_secs_f64())
            .take_while(|time| *time < until);
        times.collect()
    }

    fn assert_near(found: &[f64], meant: &[f64]) {
        let near = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-6;
        assert!(
            found.len() == meant.len() && found.iter().zip(meant).all(near),
            "{found:?}, not {meant:?}"
        );
    }

    #[test]
    fn a_constant_rate_with_fixed_spacing() {
        let shape = Shape::Constant { rate: 4.0 };
        assert_near(
            &times(shape, Spacing::Fixed, 0, 1.2),
            &[0.0, 0.25, 0.5, 0.75, 1.0],
        );
    }

    #[test]
    fn poisson_arrivals_keep_the_mean_and_the_seed_decides_them() {
        let shape = Shape::Constant { rate: 100.0 };
        let found = times(shape, Spacing::Poisson, 1, 100.0);
        assert!((9_700..10_300).contains(&found.len()), "{}", found.len());
        assert!(found.is_sorted());
        // Gaps of a Poisson process vary as much as they last.
        let gaps: Vec<f64> = found.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let longer = gaps.iter().filter(|gap| **gap > 0.01).count();
        assert!((3_400..4_000).contains(&longer), "{longer} of 10,000 / e");
        assert_eq!(found, times(shape, Spacing::Poisson, 1, 100.0));
        assert_ne!(found, times(shape, Spacing::Poisson, 2, 100.0));
    }

    #[test]
    fn a_ramp_climbs_and_stays() {
        let shape = Shape::Ramp {
            from: 0.0,
            to: 10.0,
            within: 10.0,
        };
        let found = times(shape, Spacing::Fixed, 0, 20.0);
        let before = |end: f64| found.iter().filter(|time| **time < end).count();
        // The integral: t^2 / 2, and then 10 a second.
        assert_eq!(
            [before(4.0 + 1e-9), before(10.0 + 1e-9), before(20.0)],
            [9, 51, 150]
        );
        let level = Shape::Ramp {
            from: 4.0,
            to: 4.0,
            within: 1.0,
        };
        assert_near(
            &times(level, Spacing::Fixed, 0, 1.3),
            &[0.0, 0.25, 0.5, 0.75, 1.0, 1.25],
        );
        let falling = Shape::Ramp {
            from: 10.0,
            to: 1.0,
            within: 10.0,
        };
        let falling = times(falling, Spacing::Fixed, 0, 100.0);
        assert!(
            falling.is_sorted() && falling.len() == 55 + 90,
            "{}",
            falling.len()
        );
    }

    #[test]
    fn a_burst_has_so_many_within_its_time_and_no_more() {
        let shape = Shape::Burst {
            count: 4,
            within: 2.0,
        };
        assert_near(
            &times(shape, Spacing::Fixed, 0, 99.0),
            &[0.0, 0.5, 1.0, 1.5],
        );
        let shape = Shape::Burst {
            count: 10_000,
            within: 2.0,
        };
        let found = times(shape, Spacing::Poisson, 3, 99.0);
        assert_eq!(found.len(), 10_000);
        assert!(found.is_sorted() && found.iter().all(|time| (0.0..=2.0).contains(time)));
        let early = found.iter().filter(|time| **time < 0.5).count();
        assert!((2_300..2_700).contains(&early), "{early}");
    }
}
