//! The IV of a `cenc` sample, and why no counter block meets a key twice.
//!
//! A content key belongs to one [`KeyContext`](keystore_types::KeyContext): tenant, asset, label, scheme,
//! subsample rule and generation. The generation is a digest of the identities of all sources whose tracks
//! carry the label, in rank order. So under one key:
//!
//! 1. **The set of tracks is fixed**, and so is the rank of each among them: another set, another order or
//!    other content of one of them is another generation, hence another key.
//! 2. **A sample's IV is its track's rank (16 bits) and its number in the track (48 bits).** Two samples differ
//!    in one of the two, so no two samples share an IV.
//! 3. **Within a sample, counter blocks are `IV ‖ n`** with `n` counting from 0 over its protected bytes. A sample
//!    is shorter than 2^32 bytes, so `n` never wraps.
//! 4. **The same IV always covers the same plaintext.** Sample bytes are fixed by the identity, protected ranges by
//!    the subsample rule; segment boundaries, packs and policies move neither. A sample that is
//!    served again, in a clip or a fragment of its own, is the same ciphertext.
//!
//! There is no state to lose: the IV follows from the index alone, on every node and after every restart. What
//! an identity cannot tell apart (a file overwritten in place between two probes) is told by the
//! generation's number, which is raised when that is noticed.
//!
//! `cbcs` needs none of this: one constant IV per key, each subsample a chain of its own (ISO/IEC 23001-7 10.4).

/// `Per_Sample_IV_Size` under `cenc`.
pub const SAMPLE_IV_SIZE: u8 = 8;

/// The IV of sample `sample` (from 0) of the track with `rank` among the tracks of its key.
pub fn sample_iv(rank: u16, sample: u32) -> [u8; 8] {
    (u64::from(rank) << 48 | u64::from(sample)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e2_rank_then_sample_number() {
        assert_eq!(sample_iv(0x0102, 0x0304_0506), [1, 2, 0, 0, 3, 4, 5, 6]);
    }

    #[test]
    fn e2_no_two_samples_share_an_iv() {
        let ends = [0, 1, 2, u16::MAX.into(), u32::MAX - 1, u32::MAX];
        let ranks = [0, 1, u16::MAX];
        let mut ivs: Vec<_> = ranks
            .into_iter()
            .flat_map(|r| ends.map(|n| sample_iv(r, n)))
            .collect();
        let count = ivs.len();
        ivs.sort_unstable();
        ivs.dedup();
        assert_eq!(ivs.len(), count);
    }
}
