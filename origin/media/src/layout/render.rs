//! From a range of a layout to steps, and from a window's source bytes to bytes to send.
//!
//! A CBC chain has to be walked from its start, so a render carries the last ciphertext block from one window to
//! the next. A range that begins in the middle of a chain is preceded by windows without output, which read the
//! chain from its start. An encrypted block that a range or `max_out` cuts is a window of its own.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use origin_cipher::{Aes128Key, BLOCK, Chain};

use super::{Kind, Layout, Samples};
use crate::protect::pattern::{Cover, Protected, index};

/// The next thing to send.
#[derive(Debug)]
pub enum Step {
    /// Bytes as they are.
    Generated(Bytes),
    /// Bytes of a source, to be read and then given to [`Render::produce`].
    Media(Window),
}

/// A stretch of samples that lies in one piece in its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Which source, as a position in [`Presentation::sources`](crate::presentation::Presentation::sources).
    pub source: usize,
    /// Which bytes of it. Never longer than `max_out`, or than one cipher block where that is longer.
    pub read: Range<u64>,
    /// How many bytes come of it: 0 where a chain is only walked.
    pub out_len: usize,
    slice: usize,
    /// Where the output begins in the samples of the slice.
    at: u64,
    shape: Shape,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Shape {
    /// What is read is what comes out, encrypted.
    Whole,
    /// One encrypted block is read, and the part of it from `skip` on comes out.
    BlockPart { skip: usize },
    /// The chain that begins at `chain` is walked from `at` on; nothing comes out.
    Walk { chain: u64 },
}

/// A protected layout was rendered without its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a protected layout needs a key")]
pub struct KeyMissing;

/// A range of a layout on its way to the wire.
///
/// The steps tile the range. Windows are produced in the order in which they came, though several may be read
/// ahead.
#[derive(Debug)]
pub struct Render {
    layout: Layout,
    key: Option<Arc<Aes128Key>>,
    at: u64,
    end: u64,
    slice: usize,
    /// The chain (slice, start) whose state is right for `at` once the windows given so far are produced.
    walked: Option<(usize, u64, u64)>,
    /// The last ciphertext block of the chain that was produced last.
    carry: [u8; BLOCK],
}

impl Layout {
    /// The steps for the bytes of `range`, which is cut to the layout.
    ///
    /// # Errors
    /// When the layout is protected and there is no key: clear samples are never sent for protected ones.
    pub fn render(
        &self,
        range: Range<u64>,
        key: Option<Arc<Aes128Key>>,
    ) -> Result<Render, KeyMissing> {
        if self.is_protected() && key.is_none() {
            return Err(KeyMissing);
        }
        let end = range.end.min(self.len());
        Ok(Render {
            layout: self.clone(),
            key,
            at: range.start.min(end),
            end,
            slice: 0,
            walked: None,
            carry: [0; BLOCK],
        })
    }
}

impl Render {
    /// How many bytes are still to come.
    pub fn remaining(&self) -> u64 {
        self.end - self.at
    }

    /// The next step of at most `max_out` bytes, or `None` at the end.
    ///
    /// # Panics
    /// When `max_out` is 0.
    pub fn next(&mut self, max_out: usize) -> Option<Step> {
        assert!(max_out > 0, "a step has room for a byte");
        if self.at == self.end {
            return None;
        }
        while self.layout.slices[self.slice].end <= self.at {
            self.slice += 1;
        }
        let slice = &self.layout.slices[self.slice];
        let begin = self
            .slice
            .checked_sub(1)
            .map_or(0, |before| self.layout.slices[before].end);
        let from = self.at - begin;
        let to = (from + max_out as u64).min(slice.end.min(self.end) - begin);
        match &slice.kind {
            Kind::Generated(bytes) => {
                let step = bytes.slice(index(from)..index(to));
                self.at += step.len() as u64;
                Some(Step::Generated(step))
            }
            Kind::Samples(samples) => {
                let (window, walked) = plan(samples, self.slice, from, to, max_out, self.walked);
                self.walked = walked;
                self.at += window.out_len as u64;
                Some(Step::Media(window))
            }
        }
    }

    /// Writes the bytes of `window` to `out`, from `src`: the bytes that it asked to be read.
    ///
    /// # Panics
    /// When `src` or `out` has another length than the window says.
    pub fn produce(&mut self, window: &Window, src: &[u8], out: &mut [u8]) {
        assert_eq!(
            src.len() as u64,
            window.read.end - window.read.start,
            "the bytes that were asked for"
        );
        assert_eq!(out.len(), window.out_len, "as many bytes as were promised");
        let Kind::Samples(samples) = &self.layout.slices[window.slice].kind else {
            unreachable!("a window is made for samples only")
        };
        let Some(key) = self.key.as_deref().filter(|_| samples.cover.is_protected()) else {
            return out.copy_from_slice(src);
        };
        match window.shape {
            Shape::Whole => match samples.cover {
                Cover::Clear | Cover::CtrWhole { .. } | Cover::CtrSubsamples { .. } => {
                    counter(samples, key, window.at, src, out);
                }
                Cover::CbcWhole { .. } | Cover::CbcSubsamples { .. } => {
                    self.carry = chains(samples, key, window.at, src, out, self.carry);
                }
            },
            Shape::BlockPart { skip } => {
                let block_at = window.at - skip as u64;
                let chain =
                    chain_around(samples, block_at).expect("the window was planned around a block");
                let previous = if chain.range.start == block_at {
                    *chain.iv.as_bytes()
                } else {
                    self.carry
                };
                let whole = Chain {
                    at: 0,
                    end: BLOCK,
                    stride: Chain::WHOLE,
                    previous,
                };
                let cipher = key.cbc_carry(src, whole);
                out.copy_from_slice(&cipher[skip..skip + out.len()]);
                if skip + out.len() == BLOCK {
                    self.carry = cipher;
                }
            }
            Shape::Walk { chain } => {
                let chain =
                    chain_around(samples, chain).expect("the window was planned in a chain");
                let previous = if chain.range.start == window.at {
                    *chain.iv.as_bytes()
                } else {
                    self.carry
                };
                let walk = Chain {
                    at: 0,
                    end: src.len(),
                    stride: index(chain.stride),
                    previous,
                };
                self.carry = key.cbc_carry(src, walk);
            }
        }
    }
}

/// The next window of `samples` from byte `from` to at most `to`; how far the chain that it ends in is walked.
fn plan(
    samples: &Samples,
    slice: usize,
    from: u64,
    to: u64,
    max_out: usize,
    walked: Option<(usize, u64, u64)>,
) -> (Window, Option<(usize, u64, u64)>) {
    let track = samples.track();
    let n = sample_at(samples, from);
    let begin = track.bytes(samples.range.start..n);
    let offset = track.offset(n) + (from - begin);
    let run_end = track.run_end(n).min(samples.range.end);
    let to = to.min(track.bytes(samples.range.start..run_end));
    // File offset of any byte of this run of samples.
    let place = |at: u64| {
        if at >= from {
            offset + (at - from)
        } else {
            offset - (from - at)
        }
    };
    let window = |at: u64, read: Range<u64>, out_len: u64, shape| Window {
        source: samples.source,
        read: place(read.start)..place(read.end),
        out_len: index(out_len),
        slice,
        at,
        shape,
    };
    let block_part = |block: Range<u64>, chain: &Protected| {
        let end = to.min(block.end);
        let skip = index(from - block.start);
        let whole = window(from, block.clone(), end - from, Shape::BlockPart { skip });
        // A block that is cut again leaves the chain as it was before it.
        let next = if end == block.end {
            block.start + chain.stride
        } else {
            block.start
        };
        (whole, Some((slice, chain.range.start, next)))
    };

    if let Some(chain) = chain_around(samples, from) {
        let current = chain
            .block_around(from)
            .or_else(|| chain.block_at_or_after(from));
        let have = match walked {
            Some((of, start, next)) if of == slice && start == chain.range.start => next,
            Some(_) | None => chain.range.start,
        };
        if let Some(block) = &current
            && have < block.start
        {
            let room = (max_out as u64).max(BLOCK as u64);
            let last_wanted = block.start - chain.stride;
            let last = last_wanted.min(have + (room - BLOCK as u64) / chain.stride * chain.stride);
            let walk = have..last + BLOCK as u64;
            let next = last + chain.stride;
            let shape = Shape::Walk {
                chain: chain.range.start,
            };
            return (
                window(have, walk, 0, shape),
                Some((slice, chain.range.start, next)),
            );
        }
        if let Some(block) = chain.block_around(from) {
            return block_part(block, &chain);
        }
    }
    let Some(last) = chain_around(samples, to) else {
        return (window(from, from..to, to - from, Shape::Whole), None);
    };
    // The window ends in a chain: not in a block of it, and the chain goes on.
    let end = match last.block_around(to) {
        Some(block) if block.start <= from => return block_part(block, &last),
        Some(block) => block.start,
        None => to,
    };
    let next = last
        .block_at_or_after(end)
        .map(|block| (slice, last.range.start, block.start));
    (window(from, from..end, end - from, Shape::Whole), next)
}

/// The sample that holds byte `at` of `samples`.
fn sample_at(samples: &Samples, at: u64) -> u32 {
    let track = samples.track();
    let first = samples.range.start;
    // The last sample that begins at or before the byte; an empty sample holds none.
    let (mut low, mut high) = (first, samples.range.end);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if track.bytes(first..middle) <= at {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

/// The chain whose protected range holds byte `at`, in bytes of `samples`. Empty unless under `cbcs`.
fn chain_around(samples: &Samples, at: u64) -> Option<Protected> {
    if !matches!(
        samples.cover,
        Cover::CbcWhole { .. } | Cover::CbcSubsamples { .. }
    ) {
        return None;
    }
    let n = sample_at(samples, at);
    let begin = samples.track().bytes(samples.range.start..n);
    chains_of(samples, n, begin).find(|chain| chain.range.contains(&at))
}

/// The chains of sample `n`, which begins at byte `begin` of `samples`.
fn chains_of(samples: &Samples, n: u32, begin: u64) -> impl Iterator<Item = Protected> + '_ {
    let position = (n - samples.range.start) as usize;
    let size = u64::from(samples.track().size(n));
    samples
        .cover
        .chains(position, size)
        .map(move |chain| chain.moved(begin))
}

fn counter(samples: &Samples, key: &Aes128Key, at: u64, src: &[u8], out: &mut [u8]) {
    let track = samples.track();
    let mut n = sample_at(samples, at);
    let mut begin = track.bytes(samples.range.start..n);
    let mut done = 0;
    while done < src.len() {
        let size = u64::from(track.size(n));
        let part = at + done as u64 - begin..(at + src.len() as u64 - begin).min(size);
        let end = done + index(part.end - part.start);
        let position = (n - samples.range.start) as usize;
        samples
            .cover
            .counter(key, n, position, part, &src[done..end], &mut out[done..end]);
        (done, begin, n) = (end, begin + size, n + 1);
    }
}

/// Encrypts whole blocks from byte `at` on and returns the state of the chain that is left open.
fn chains(
    samples: &Samples,
    key: &Aes128Key,
    at: u64,
    src: &[u8],
    out: &mut [u8],
    carry: [u8; BLOCK],
) -> [u8; BLOCK] {
    let end = at + src.len() as u64;
    let first = sample_at(samples, at);
    let mut begin = samples.track().bytes(samples.range.start..first);
    let mut open: Option<Chain> = None;
    let chains = (first..samples.range.end)
        .map_while(|n| {
            let this = begin;
            begin += u64::from(samples.track().size(n));
            (this < end).then_some((n, this))
        })
        .flat_map(|(n, begin)| chains_of(samples, n, begin))
        .filter(|chain| chain.range.end > at && chain.range.start < end)
        .map(|chain| {
            let first = chain.block_at_or_after(at).map_or(end, |block| block.start);
            let previous = if first == chain.range.start {
                *chain.iv.as_bytes()
            } else {
                carry
            };
            Chain {
                at: index(first.min(end) - at),
                end: index(chain.range.end.min(end) - at),
                stride: index(chain.stride),
                previous,
            }
        })
        .inspect(|chain| open = Some(*chain));
    key.cbc(src, out, chains);
    match open {
        None => carry,
        Some(chain) => chain.last_block().map_or(chain.previous, |block| {
            out[block].try_into().expect("a block has 16 bytes")
        }),
    }
}
