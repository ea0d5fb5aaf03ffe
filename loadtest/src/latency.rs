//! How long things took: high dynamic range histograms, and their correction for coordinated omission.
//!
//! A client that waits for each answer before it asks again stops measuring just while the server stalls, so its
//! quantiles leave out the requests that would have met the stall. Open-loop load does not have the fault, as its
//! latencies count from when a request was *meant* to begin. For closed loops [`Latencies::corrected`] adds the
//! requests that were not made: one for each interval for which a long answer kept its client waiting.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

/// A minute in microseconds; longer counts as a minute. Requests are given up well before.
const LONGEST_US: u64 = 60_000_000;

/// Durations, to three digits, from a microsecond to a minute.
#[derive(Clone)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self(Histogram::new_with_max(LONGEST_US, 3).expect("the bounds are in order"))
    }
}

impl Latencies {
    /// Adds one.
    pub fn record(&mut self, duration: Duration) {
        self.0.saturating_record(micros(duration));
    }

    /// Adds all of another's.
    pub fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("all histograms are alike");
    }

    /// The same with the requests that a client which asks every `interval` would have made in vain.
    #[must_use]
    pub fn corrected(&self, interval: Duration) -> Self {
        match micros(interval) {
            0 => self.clone(),
            interval => Self(self.0.clone_correct(interval)),
        }
    }

    /// As [`Latencies::corrected`] for a client that asks again as soon as it is answered: its interval is what half
    /// of its answers do not exceed.
    #[must_use]
    pub fn corrected_by_median(&self) -> Self {
        self.corrected(self.quantile(0.5))
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The duration that this share of all, 0 to 1, does not exceed; zero where there is none.
    pub fn quantile(&self, share: f64) -> Duration {
        Duration::from_micros(self.0.value_at_quantile(share))
    }

    /// The longest.
    pub fn max(&self) -> Duration {
        Duration::from_micros(self.0.max())
    }
}

impl fmt::Debug for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, median, max) = (self.len(), self.quantile(0.5), self.max());
        write!(f, "{count}, median {median:?}, max {max:?}")
    }
}

/// Rounded up, so that nothing takes no time.
fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn near(told: Duration, meant: Duration) -> bool {
        told.abs_diff(meant) <= meant / 500
    }

    #[test]
    fn a_stall_shows_in_the_corrected_quantiles_only() {
        let mut raw = Latencies::default();
        for _ in 0..990 {
            raw.record(MS);
        }
        // One answer in a second of stall, where a thousand would have been asked for.
        raw.record(1000 * MS);
        assert!(near(raw.quantile(0.99), MS));
        let corrected = raw.corrected(MS);
        assert_eq!(corrected.len(), 990 + 1000);
        assert!(near(corrected.quantile(0.75), 503 * MS), "{corrected:?}");
        assert!(near(corrected.max(), 1000 * MS));
        let by_median = raw.corrected_by_median();
        assert!(near(by_median.quantile(0.75), 503 * MS), "{by_median:?}");
    }

    #[test]
    fn an_interval_of_zero_corrects_nothing() {
        let mut raw = Latencies::default();
        raw.record(5 * MS);
        assert_eq!(raw.corrected(Duration::ZERO).len(), 1);
    }

    #[test]
    fn beyond_a_minute_is_a_minute_and_nothing_is_zero() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.quantile(0.5), Duration::ZERO);
        latencies.record(Duration::from_nanos(1));
        assert_eq!(latencies.max(), Duration::from_micros(1));
        latencies.record(Duration::MAX);
        assert!(near(latencies.max(), Duration::from_secs(60)));
    }
}
