//! From a range of a layout to steps, and from a window's source bytes to bytes to send.
//!
//! A CBC chain has to be walked from its start, so a render carries the last ciphertext block from one window to
//! the next. A range that begins in the middle of a chain is preceded by windows without output, which read the
//! chain from its start. An encrypted block that a range or `max_out` cuts is a window of its own.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use origin_cipher::{Aes128Key, BLOCK, Chain, Piece};

use super::{Kind, Layout, Samples};
use crate::index::Place;
use crate::protect::pattern::{Cover, Protected, index};

/// The next thing to send.
#[derive(Debug)]
pub enum Step {
    /// Bytes as they are.
    Generated(Bytes),
    /// Bytes of a source, to be read and then given to [`Render::produce`].
    Media(Window),
}

/// A stretch of samples, and the stretch of its source that holds them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Which source, as a position in [`Presentation::sources`](crate::presentation::Presentation::sources).
    pub source: usize,
    /// Which bytes of it: samples of other tracks that lie between are read too, but never more than
    /// [`SPREAD`] times `max_out`, or one cipher block where that is longer.
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
    /// Kept for its memory.
    pieces: Vec<Piece>,
}

/// How many times its output a window may span in its source. Tracks are interleaved in most files: many small
/// reads would cost more than what is read for nothing, and chains of several frames fill the cipher's lanes.
pub const SPREAD: usize = 2;

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
            pieces: Vec::new(),
        })
    }
}

impl Render {
    /// Whether samples are encrypted on the way: a window of clear ones is the bytes that it asks for.
    pub fn is_protected(&self) -> bool {
        self.layout.is_protected()
    }

    /// How many bytes are still to come.
    pub fn remaining(&self) -> u64 {
        self.end - self.at
    }

    /// How many bytes from here on lie one after the other, in the source or in memory.
    pub fn contiguous(&self) -> u64 {
        let mut begin = 0;
        for slice in self.layout.slices.iter() {
            if self.at < slice.end.min(self.end) {
                let end = slice.end.min(self.end);
                return match &slice.kind {
                    Kind::Generated(_) => end - self.at,
                    Kind::Samples(samples) => {
                        let track = samples.track();
                        let first = samples.range.start;
                        let run_end = track.run_end(sample_at(samples, self.at - begin));
                        (begin + track.bytes(first..run_end.min(samples.range.end))).min(end)
                            - self.at
                    }
                };
            }
            begin = slice.end;
        }
        0
    }

    /// The stretch of the source that holds the samples still to come; nothing once all were given.
    pub fn ahead(&self) -> Option<Range<u64>> {
        let mut begin = 0;
        for slice in self.layout.slices.iter() {
            let (from, to) = (self.at.max(begin), self.end.min(slice.end));
            if let Kind::Samples(samples) = &slice.kind
                && from < to
            {
                let n = sample_at(samples, from - begin);
                let start = samples.track().offset(n);
                return Some(start..start.max(end_in_file(samples, to - begin)));
            }
            begin = slice.end;
        }
        None
    }

    /// The next step of at most `max_out` bytes, or `None` at the end.
    ///
    /// # Panics
    /// When `max_out` is 0.
    pub fn next(&mut self, max_out: usize) -> Option<Step> {
        self.step(max_out, SPREAD * max_out)
    }

    /// As [`Render::next`], but of a window whose bytes lie one after the other in the source. Where it is clear, they
    /// are what [`Render::produce`] would make of them.
    ///
    /// # Panics
    /// When `max_out` is 0.
    pub fn next_in_one_piece(&mut self, max_out: usize) -> Option<Step> {
        self.step(max_out, 0)
    }

    fn step(&mut self, max_out: usize, max_read: usize) -> Option<Step> {
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
                let (window, walked) = plan(
                    samples,
                    self.slice,
                    from..to,
                    (max_out, max_read),
                    self.walked,
                );
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
            return copy(samples, window, src, out);
        };
        match window.shape {
            Shape::Whole => match samples.cover {
                Cover::Clear | Cover::CtrWhole { .. } | Cover::CtrSubsamples { .. } => {
                    counter(samples, key, window, src, out);
                }
                Cover::CbcWhole { .. } | Cover::CbcSubsamples { .. } => {
                    pieces(samples, window, self.carry, &mut self.pieces);
                    self.carry = chains(samples, key, &self.pieces, src, out, self.carry);
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
                    from: 0,
                    to: 0,
                    len: BLOCK,
                    previous,
                };
                let cipher = key.cbc_carry(chain.pattern, src, whole);
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
                    from: 0,
                    to: 0,
                    len: src.len(),
                    previous,
                };
                self.carry = key.cbc_carry(chain.pattern, src, walk);
            }
        }
    }
}

/// The next window of `samples` within `wanted`, from its start on; how far the chain that it ends in is walked.
fn plan(
    samples: &Samples,
    slice: usize,
    wanted: Range<u64>,
    (max_out, max_read): (usize, usize),
    walked: Option<(usize, u64, u64)>,
) -> (Window, Option<(usize, u64, u64)>) {
    let from = wanted.start;
    let track = samples.track();
    let n = sample_at(samples, from);
    let begin = track.bytes(samples.range.start..n);
    let offset = track.offset(n) + (from - begin);
    let to = reach(samples, n, offset, max_read).min(wanted.end);
    // File offset of any byte of this sample.
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
            block.start + chain.stride()
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
            let last_wanted = block.start - chain.stride();
            let last =
                last_wanted.min(have + (room - BLOCK as u64) / chain.stride() * chain.stride());
            let walk = have..last + BLOCK as u64;
            let next = last + chain.stride();
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
    let whole = |end: u64| Window {
        read: offset..end_in_file(samples, end),
        ..window(from, from..from, end - from, Shape::Whole)
    };
    let Some(last) = chain_around(samples, to) else {
        return (whole(to), None);
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
    (whole(end), next)
}

/// Up to where samples from `n` on, of which the byte at `offset` in the file is wanted first, can be had by one
/// read: to the end of their run, and further while runs follow each other within `max_read` bytes.
fn reach(samples: &Samples, n: u32, offset: u64, max_read: usize) -> u64 {
    let track = samples.track();
    let last = samples.range.end;
    let limit = offset + max_read as u64;
    let mut end = n;
    let mut end_in_file = 0;
    for run in track.runs(n).take_while(|run| run.samples.start < last) {
        // The first run is taken whole: what of it is wanted is cut elsewhere.
        if end > n && run.offset < end_in_file {
            break;
        }
        let samples_end = run.samples.end.min(last);
        let run_end = run.offset + track.bytes(run.samples.start..samples_end);
        if end > n && run_end > limit {
            // As much of the run as there is room for.
            let room = limit.saturating_sub(run.offset);
            return track.bytes(samples.range.start..end) + room;
        }
        (end, end_in_file) = (samples_end, run_end);
    }
    track.bytes(samples.range.start..end)
}

/// Where in the file the byte before `end` of `samples` ends.
fn end_in_file(samples: &Samples, end: u64) -> u64 {
    let track = samples.track();
    let n = sample_at(samples, end - 1);
    track.offset(n) + (end - track.bytes(samples.range.start..n))
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

/// A part of a sample within a window.
struct Part {
    n: u32,
    /// Which bytes of the sample.
    of_sample: Range<u64>,
    /// Where they begin in what was read.
    from: usize,
    /// Where they begin in the output.
    to: usize,
}

impl Part {
    fn len(&self) -> usize {
        index(self.of_sample.end - self.of_sample.start)
    }
}

/// The samples of a window, in order.
fn parts(samples: &Samples, window: &Window) -> impl Iterator<Item = Part> {
    let track = samples.track();
    let end = window.at + window.out_len as u64;
    let base = window.read.start;
    let first = sample_at(samples, window.at);
    let mut begin = track.bytes(samples.range.start..first);
    let mut at = window.at;
    track
        .places(first)
        .map_while(move |Place { n, offset, size }| {
            if at >= end {
                return None;
            }
            let of_sample = at - begin..(end - begin).min(u64::from(size));
            let part = Part {
                n,
                from: index(offset + of_sample.start - base),
                to: index(at - window.at),
                of_sample,
            };
            begin += u64::from(size);
            at = at.max(begin.min(end));
            Some(part)
        })
        .filter(|part| part.len() > 0)
}

fn copy(samples: &Samples, window: &Window, src: &[u8], out: &mut [u8]) {
    if src.len() == out.len() {
        return origin_cipher::copy(src, out);
    }
    for part in parts(samples, window) {
        let len = part.len();
        origin_cipher::copy(
            &src[part.from..part.from + len],
            &mut out[part.to..part.to + len],
        );
    }
}

fn counter(samples: &Samples, key: &Aes128Key, window: &Window, src: &[u8], out: &mut [u8]) {
    for part in parts(samples, window) {
        let len = part.len();
        samples.cover.counter(
            key,
            part.n,
            (part.n - samples.range.start) as usize,
            part.of_sample,
            &src[part.from..part.from + len],
            &mut out[part.to..part.to + len],
        );
    }
}

/// What the bytes of a window are: clear, or chains from their first whole block on.
fn pieces(samples: &Samples, window: &Window, carry: [u8; BLOCK], pieces: &mut Vec<Piece>) {
    pieces.clear();
    for part in parts(samples, window) {
        let Range { start, end } = part.of_sample;
        let from = |at: u64| part.from + index(at - start);
        let to = |at: u64| part.to + index(at - start);
        let clear = |range: Range<u64>| Piece::Clear {
            from: from(range.start),
            to: to(range.start),
            len: index(range.end - range.start),
        };
        let mut done = start;
        for chain in chains_of(samples, part.n, 0)
            .skip_while(|chain| chain.range.end <= start)
            .take_while(|chain| chain.range.start < end)
        {
            let chain_end = chain.range.end.min(end);
            let first = chain
                .block_at_or_after(start)
                .map_or(chain_end, |block| block.start.min(chain_end));
            if first > done {
                pieces.push(clear(done..first));
            }
            let previous = if first == chain.range.start {
                *chain.iv.as_bytes()
            } else {
                carry
            };
            pieces.push(Piece::Chain(Chain {
                from: from(first),
                to: to(first),
                len: index(chain_end - first),
                previous,
            }));
            done = chain_end;
        }
        if done < end {
            pieces.push(clear(done..end));
        }
    }
}

/// Encrypts a window and returns the state of the chain that is left open.
fn chains(
    samples: &Samples,
    key: &Aes128Key,
    pieces: &[Piece],
    src: &[u8],
    out: &mut [u8],
    carry: [u8; BLOCK],
) -> [u8; BLOCK] {
    let pattern = samples.cover.pattern();
    key.cbc(pattern, src, out, pieces.iter().copied());
    let open = pieces.iter().rev().find_map(|piece| match piece {
        Piece::Chain(chain) => Some(chain),
        Piece::Clear { .. } => None,
    });
    match open {
        None => carry,
        Some(chain) => chain.last_block(pattern).map_or(chain.previous, |block| {
            out[block].try_into().expect("a block has 16 bytes")
        }),
    }
}
