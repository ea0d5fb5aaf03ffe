//! How the bytes of a sample are protected: from a stretch of a sample to calls of `origin-cipher`.

use std::ops::Range;
use std::sync::Arc;

use keystore_types::{ConstantIv, Scheme};
use origin_cipher::{Aes128Key, BLOCK, Pattern};

use super::iv::sample_iv;
use super::{SubsampleTable, TrackKey};

/// How the samples of a segment are protected.
#[derive(Clone, Debug)]
pub(crate) enum Cover {
    /// Not at all.
    Clear,
    /// `cenc` audio: all of each sample, under an IV of its own.
    CtrWhole { rank: u16 },
    /// `cenc` video: one keystream over the protected bytes of a sample.
    CtrSubsamples {
        rank: u16,
        table: Arc<SubsampleTable>,
    },
    /// `cbcs` audio: the whole blocks of each sample are one chain.
    CbcWhole { iv: ConstantIv },
    /// `cbcs` video: one block in ten of each protected range is one chain.
    CbcSubsamples {
        iv: ConstantIv,
        table: Arc<SubsampleTable>,
    },
}

impl Cover {
    pub(crate) fn new(
        scheme: Scheme,
        key: &TrackKey,
        rank: u16,
        table: Option<Arc<SubsampleTable>>,
    ) -> Self {
        match (scheme, table) {
            (Scheme::Cenc, None) => Self::CtrWhole { rank },
            (Scheme::Cenc, Some(table)) => Self::CtrSubsamples { rank, table },
            (Scheme::Cbcs, None) => Self::CbcWhole { iv: key.iv },
            (Scheme::Cbcs, Some(table)) => Self::CbcSubsamples { iv: key.iv, table },
        }
    }

    pub(crate) fn is_protected(&self) -> bool {
        match self {
            Self::Clear => false,
            Self::CtrWhole { .. }
            | Self::CtrSubsamples { .. }
            | Self::CbcWhole { .. }
            | Self::CbcSubsamples { .. } => true,
        }
    }

    /// The subsamples, where there are any; positions count from the first sample of the segment.
    pub(crate) fn subsamples(&self) -> Option<&SubsampleTable> {
        match self {
            Self::Clear | Self::CtrWhole { .. } | Self::CbcWhole { .. } => None,
            Self::CtrSubsamples { table, .. } | Self::CbcSubsamples { table, .. } => Some(table),
        }
    }

    /// Which blocks of its chains are encrypted.
    pub(crate) fn pattern(&self) -> Pattern {
        match self {
            Self::CbcSubsamples { .. } => Pattern::OneInTen,
            Self::Clear
            | Self::CtrWhole { .. }
            | Self::CtrSubsamples { .. }
            | Self::CbcWhole { .. } => Pattern::Whole,
        }
    }

    /// The chains of the sample at `position`, of `size` bytes; none unless this is `cbcs`.
    pub(crate) fn chains(
        &self,
        position: usize,
        size: u64,
    ) -> impl Iterator<Item = Protected> + '_ {
        let (whole, table) = match self {
            Self::Clear | Self::CtrWhole { .. } | Self::CtrSubsamples { .. } => (None, None),
            Self::CbcWhole { iv } => (
                Some(Protected {
                    range: 0..size,
                    pattern: Pattern::Whole,
                    iv: *iv,
                }),
                None,
            ),
            Self::CbcSubsamples { iv, table } => (None, Some((*iv, table.get(position)))),
        };
        let mut at = 0;
        let subsamples = table
            .into_iter()
            .flat_map(|(iv, entries)| entries.iter().map(move |e| (iv, e)));
        whole
            .into_iter()
            .chain(subsamples.map(move |(iv, subsample)| {
                let begin = at + u64::from(subsample.clear);
                at = begin + u64::from(subsample.protected);
                Protected {
                    range: begin..at,
                    pattern: Pattern::OneInTen,
                    iv,
                }
            }))
    }

    /// Encrypts `part`, a stretch of sample `n`, which is at `position` in the segment; counter mode or nothing.
    pub(crate) fn counter(
        &self,
        key: &Aes128Key,
        n: u32,
        position: usize,
        part: Range<u64>,
        src: &[u8],
        dst: &mut [u8],
    ) {
        match self {
            Self::Clear | Self::CbcWhole { .. } | Self::CbcSubsamples { .. } => {
                dst.copy_from_slice(src)
            }
            Self::CtrWhole { rank } => key.ctr(sample_iv(*rank, n), part.start, src, dst),
            Self::CtrSubsamples { rank, table } => {
                let iv = sample_iv(*rank, n);
                let cut = |range: Range<u64>| {
                    range.start.clamp(part.start, part.end)..range.end.clamp(part.start, part.end)
                };
                let local = |range: &Range<u64>| {
                    index(range.start - part.start)..index(range.end - part.start)
                };
                let (mut at, mut keystream) = (0, 0);
                for subsample in table.get(position) {
                    let protected = at + u64::from(subsample.clear);
                    let end = protected + u64::from(subsample.protected);
                    let clear = local(&cut(at..protected));
                    origin_cipher::copy(&src[clear.clone()], &mut dst[clear]);
                    let hidden = cut(protected..end);
                    if !hidden.is_empty() {
                        let skipped = hidden.start - protected;
                        let local = local(&hidden);
                        key.ctr(
                            iv,
                            keystream + skipped,
                            &src[local.clone()],
                            &mut dst[local],
                        );
                    }
                    keystream += u64::from(subsample.protected);
                    at = end;
                    if at >= part.end {
                        break;
                    }
                }
            }
        }
    }
}

/// A protected range of a sample, whose blocks are one chain.
#[derive(Clone, Debug)]
pub(crate) struct Protected {
    /// Bytes of the sample, or of whatever its offsets were moved to.
    pub(crate) range: Range<u64>,
    pub(crate) pattern: Pattern,
    pub(crate) iv: ConstantIv,
}

impl Protected {
    /// From block to block, in bytes.
    pub(crate) fn stride(&self) -> u64 {
        self.pattern.stride() as u64
    }

    /// The same range counted from another origin.
    pub(crate) fn moved(self, by: u64) -> Self {
        Self {
            range: self.range.start + by..self.range.end + by,
            ..self
        }
    }

    /// The encrypted block that has the byte at `at` strictly inside it, past its first byte.
    pub(crate) fn block_around(&self, at: u64) -> Option<Range<u64>> {
        let start = at - at.checked_sub(self.range.start)? % self.stride();
        let block = start..start + BLOCK as u64;
        (start < at && at < block.end && block.end <= self.range.end).then_some(block)
    }

    /// The first encrypted block that begins at `at` or later.
    pub(crate) fn block_at_or_after(&self, at: u64) -> Option<Range<u64>> {
        let from_start = at.saturating_sub(self.range.start);
        let start = self.range.start + from_start.div_ceil(self.stride()) * self.stride();
        let block = start..start + BLOCK as u64;
        (block.end <= self.range.end).then_some(block)
    }
}

/// A length that is bounded by a buffer in memory.
pub(crate) fn index(value: u64) -> usize {
    usize::try_from(value).expect("an offset within a buffer")
}
