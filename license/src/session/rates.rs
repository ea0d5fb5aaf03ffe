//! How often: token buckets in memory, each a moment in time (the generic cell rate algorithm, ITU-T I.371 A).
//!
//! A bucket holds one minute's worth. A full one says nothing, so it is not kept.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use conf::RateSettings;

use crate::Refusal;

/// The most buckets of a kind: some 4 MiB. Whoever comes when all are in use shares one with others of its kind.
const MAX_BUCKETS: usize = 100_000;

const MINUTE: u64 = 60_000_000;

/// How often full buckets are looked for where all are in use: it takes a millisecond or two, for which all wait.
const SWEEP: u64 = 1_000_000;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RateOf {
    /// All of a tenant's licences.
    #[error("tenant")]
    Tenant,
    /// Those asked for from one address.
    #[error("address")]
    Address,
    /// By one subject.
    #[error("subject")]
    Subject,
    /// For one key.
    #[error("key")]
    Key,
}

#[derive(Debug)]
pub(super) struct Rates {
    settings: RateSettings,
    began: Instant,
    hasher: RandomState,
    tenant: Mutex<Buckets>,
    address: Mutex<Buckets>,
    subject: Mutex<Buckets>,
    key: Mutex<Buckets>,
}

/// By a hash of what is counted: when the bucket will be full again, in microseconds.
#[derive(Debug, Default)]
struct Buckets {
    full_at: HashMap<u64, u64>,
    shared: u64,
    /// When the full ones were last looked for.
    swept: u64,
}

impl Rates {
    pub(super) fn new(settings: RateSettings) -> Self {
        Self {
            settings,
            began: Instant::now(),
            hasher: RandomState::new(),
            tenant: Mutex::default(),
            address: Mutex::default(),
            subject: Mutex::default(),
            key: Mutex::default(),
        }
    }

    /// Takes one from the bucket of `who`.
    ///
    /// # Errors
    /// [`Refusal::RateExceeded`], with the seconds until there is one again.
    pub(super) fn take(&self, of: RateOf, who: &[u8]) -> Result<(), Refusal> {
        let (a_minute, buckets) = match of {
            RateOf::Tenant => (self.settings.tenant, &self.tenant),
            RateOf::Address => (self.settings.address, &self.address),
            RateOf::Subject => (self.settings.subject, &self.subject),
            RateOf::Key => (self.settings.key, &self.key),
        };
        if a_minute == 0 {
            return Ok(());
        }
        let now = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut buckets = buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = buckets.take(self.hasher.hash_one(who), a_minute, now);
        taken.map_err(|wait| Refusal::RateExceeded {
            of,
            retry_after: u32::try_from(wait.div_ceil(1_000_000)).unwrap_or(u32::MAX),
        })
    }
}

impl Buckets {
    /// In microseconds: the present, and in an error how long until there is one to be had.
    fn take(&mut self, who: u64, a_minute: u32, now: u64) -> Result<(), u64> {
        let due = now >= self.swept + SWEEP;
        if due && self.full_at.len() >= MAX_BUCKETS && !self.full_at.contains_key(&who) {
            self.swept = now;
            self.full_at.retain(|_, full_at| *full_at > now);
        }
        let full_at = if self.full_at.len() < MAX_BUCKETS || self.full_at.contains_key(&who) {
            self.full_at.entry(who).or_default()
        } else {
            &mut self.shared
        };
        let one = MINUTE / u64::from(a_minute).max(1);
        let after = (*full_at).max(now) + one;
        // Rounding must not make the bucket smaller than a minute's worth.
        let whole = one * u64::from(a_minute);
        if after > now + whole {
            return Err(after - now - whole);
        }
        *full_at = after;
        Ok(())
    }
}

/// An address as it is counted: of version 6, the /64 of which a client has all addresses.
pub(super) fn block(address: IpAddr) -> Vec<u8> {
    match address.to_canonical() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets()[..8].to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn a_minutes_worth_comes_at_once_and_then_in_its_pace() {
        let mut buckets = Buckets::default();
        for _ in 0..6 {
            assert_eq!(buckets.take(1, 6, 5), Ok(()));
        }
        assert_eq!(buckets.take(1, 6, 5), Err(10 * SECOND));
        assert_eq!(buckets.take(2, 6, 5), Ok(()), "another's bucket");
        assert_eq!(buckets.take(1, 6, 5 + 9 * SECOND), Err(SECOND));
        assert_eq!(buckets.take(1, 6, 5 + 10 * SECOND), Ok(()));
        assert_eq!(buckets.take(1, 6, 5 + 10 * SECOND), Err(10 * SECOND));
        // What was not used is not saved up beyond the bucket.
        let later = 600 * SECOND;
        let taken = (0..10).filter(|_| buckets.take(1, 6, later).is_ok());
        assert_eq!(taken.count(), 6);
    }

    #[test]
    fn buckets_are_bounded_and_full_ones_go_first() {
        let mut buckets = Buckets::default();
        for who in 0..MAX_BUCKETS as u64 {
            buckets.take(who, 60, 0).unwrap();
        }
        // All are in use for another second: the rest share one.
        for who in 0..60 {
            buckets.take(1_000_000 + who, 60, 0).unwrap();
        }
        assert!(buckets.take(2_000_000, 60, 0).is_err());
        assert_eq!(buckets.full_at.len(), MAX_BUCKETS);
        buckets.take(2_000_000, 60, 2 * SECOND).unwrap();
        assert_eq!(buckets.full_at.len(), 1, "those that were full are gone");
    }

    /// Looking through all of them for each newcomer would make a crowd wait for itself.
    #[test]
    fn full_buckets_are_looked_for_once_a_second() {
        let mut buckets = Buckets::default();
        for who in 0..MAX_BUCKETS as u64 {
            buckets.take(who, 6000, SECOND).unwrap();
        }
        buckets.take(1_000_000, 6000, SECOND).unwrap();
        // They were full 10 ms later.
        buckets.take(1_000_001, 6000, 2 * SECOND - 1).unwrap();
        assert_eq!(buckets.full_at.len(), MAX_BUCKETS);
        buckets.take(1_000_002, 6000, 2 * SECOND).unwrap();
        assert_eq!(buckets.full_at.len(), 1);
    }

    #[test]
    fn a_rate_that_a_minute_cannot_be_divided_by_is_kept() {
        let mut buckets = Buckets::default();
        let taken = (0..2000).filter(|_| buckets.take(1, 700, 0).is_ok());
        assert_eq!(taken.count(), 700);
    }

    #[test]
    fn one_of_version_6_has_a_whole_64() {
        let block = |text: &str| block(text.parse().unwrap());
        assert_eq!(block("2001:db8::1"), block("2001:db8::ffff:0:0:1"));
        assert_ne!(block("2001:db8:0:1::1"), block("2001:db8::1"));
        assert_ne!(block("192.0.2.1"), block("192.0.2.2"));
    }
}
