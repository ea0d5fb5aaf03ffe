//! Tokens that were verified before: players come again with the same one, and its signature has not changed since.
//!
//! Tokens are not kept, only a keyed digest of each: neither can two be made that share one, nor can a copy of the memory
//! be replayed. Time is not judged here; an entry only leaves with its token.

use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::sync::Cache;
use ring::digest::SHA256_OUTPUT_LEN;
use ring::hmac;
use ring::rand::SystemRandom;

use super::Proven;
use crate::{Error, UnixTime};

type Digest = [u8; SHA256_OUTPUT_LEN];

/// How long a token is remembered at most: one without an end would otherwise stay.
const LONGEST: Duration = Duration::from_secs(3600);

/// What an entry costs besides the token's own content, in bytes: digest, links, times.
const OVERHEAD: usize = 512;

/// Verified tokens by their digest.
pub(super) struct TokenCache {
    secret: hmac::Key,
    entries: Cache<Digest, Arc<Entry>>,
}

struct Entry {
    proven: Arc<Proven>,
    bytes: u32,
    life: Duration,
}

impl TokenCache {
    /// A cache of so many bytes.
    pub(super) fn new(bytes: usize) -> Result<Self, Error> {
        let secret = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
            .map_err(|error| Error::internal("draw random numbers", error.to_string()))?;
        let entries = Cache::builder()
            .max_capacity(u64::try_from(bytes).unwrap_or(u64::MAX))
            .weigher(|_: &Digest, entry: &Arc<Entry>| entry.bytes)
            .expire_after(ByToken)
            .build();
        Ok(Self { secret, entries })
    }

    pub(super) fn digest(&self, token: &str) -> Digest {
        let mut digest = [0; SHA256_OUTPUT_LEN];
        digest.copy_from_slice(hmac::sign(&self.secret, token.as_bytes()).as_ref());
        digest
    }

    pub(super) fn find(&self, digest: &Digest) -> Option<Arc<Proven>> {
        self.entries
            .get(digest)
            .map(|entry| Arc::clone(&entry.proven))
    }

    /// Remembers what a token of this length proved, until `end`.
    pub(super) fn keep(
        &self,
        digest: Digest,
        token_len: usize,
        proven: Arc<Proven>,
        end: Option<UnixTime>,
        now: UnixTime,
    ) {
        // Claims as read take about as much again as the text that they were read from.
        let bytes = u32::try_from(2 * token_len + OVERHEAD).unwrap_or(u32::MAX);
        let left = end.map(|end| end.as_seconds().saturating_sub(now.as_seconds()));
        let life = left.map_or(LONGEST, |seconds| Duration::from_secs(seconds).min(LONGEST));
        self.entries.insert(
            digest,
            Arc::new(Entry {
                proven,
                bytes,
                life,
            }),
        );
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> u64 {
        self.entries.run_pending_tasks();
        self.entries.entry_count()
    }
}

struct ByToken;

impl Expiry<Digest, Arc<Entry>> for ByToken {
    fn expire_after_create(&self, _: &Digest, entry: &Arc<Entry>, _: Instant) -> Option<Duration> {
        Some(entry.life)
    }
}
