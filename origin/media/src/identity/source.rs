use std::fmt;
use std::ops::Range;

use ring::digest::{Context, SHA256};

use crate::index::Index;

/// How many places of a source are probed.
pub const PROBES: u64 = 16;

/// Bytes of one probe: a page, so that a probe of a cold file costs one read.
pub const PROBE_BYTES: u64 = 4096;

/// Which bytes of a file of `file_len` bytes are probed: places that depend on the length alone, spread
/// evenly from the first byte to the last. A file no longer than all the probes is probed as a whole.
pub fn probe_ranges(file_len: u64) -> Vec<Range<u64>> {
    if file_len == 0 {
        return Vec::new();
    }
    if file_len <= PROBES * PROBE_BYTES {
        return std::iter::once(0..file_len).collect();
    }
    let last = u128::from(file_len - PROBE_BYTES);
    (0..PROBES)
        .map(|k| {
            let start = last * u128::from(k) / u128::from(PROBES - 1);
            let start = u64::try_from(start).expect("at most file_len");
            start..start + PROBE_BYTES
        })
        .collect()
}

/// The identity of a source: a digest of its length, its sample tables and probes of its content.
///
/// The same on every node and after every restart, since no inode, no time and no path is part of it, nor the
/// format of the index. Two files with one identity differ at most in bytes that no probe and no table sees:
/// what tells those apart is the full content digest, and for a file overwritten in place its stat.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceIdentity([u8; 32]);

impl SourceIdentity {
    /// The identity with these bytes, as stored elsewhere.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The identity of the source that `index` describes, from `probes`: the ranges of [`probe_ranges`] in
    /// their order, each with its bytes.
    ///
    /// # Panics
    /// When `probes` are not those ranges or a range has another number of bytes: the caller's mistake, which
    /// would otherwise give one content two names.
    pub fn compute(index: &Index, probes: &[(Range<u64>, &[u8])]) -> Self {
        let wanted = probe_ranges(index.file_len());
        assert_eq!(
            wanted.len(),
            probes.len(),
            "as many probes as probe_ranges asks for"
        );
        let mut digest = Context::new(&SHA256);
        digest.update(b"castellum source 1\n");
        digest.update(&index.file_len().to_be_bytes());
        digest.update(index.moov_digest());
        for (wanted, (range, bytes)) in wanted.iter().zip(probes) {
            assert_eq!(wanted, range, "probes in the order of probe_ranges");
            assert_eq!(range.end - range.start, bytes.len() as u64, "a whole probe");
            digest.update(bytes);
        }
        let mut identity = [0; 32];
        identity.copy_from_slice(digest.finish().as_ref());
        Self(identity)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for SourceIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SourceIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_cover_both_ends_and_stay_inside() {
        for len in [
            1,
            PROBE_BYTES,
            PROBES * PROBE_BYTES,
            PROBES * PROBE_BYTES + 1,
            u64::MAX,
        ] {
            let ranges = probe_ranges(len);
            assert_eq!(ranges.first().unwrap().start, 0, "{len}");
            assert_eq!(ranges.last().unwrap().end, len, "{len}");
            assert!(
                ranges.windows(2).all(|pair| pair[0].start < pair[1].start),
                "{len}"
            );
        }
        assert!(probe_ranges(0).is_empty());
    }

    #[test]
    fn a_small_file_is_probed_as_a_whole() {
        assert_eq!(probe_ranges(65_536), vec![0..65_536_u64; 1]);
        assert_eq!(probe_ranges(65_537).len(), 16);
    }
}
