//! The timeline of a track: its segments, from which manifest and fragment take the same integers.

mod segmenter;

use std::ops::Range;

pub(crate) use segmenter::{Rung, segment};

/// The segments of a track, which tile its time without gap or overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeline {
    /// First sample and start of every segment; never empty, both strictly rising.
    starts: Vec<(u32, u64)>,
    /// One past the last sample.
    end_sample: u32,
    /// Where the last segment ends, in ticks; after the start of the last segment.
    end: u64,
    /// No segment holds pictures that are shown before its first sample.
    independent: bool,
}

/// One segment of a track.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Counted from 1: the number in the URL, in `mfhd`, and the position in the playlist.
    pub number: u32,
    /// Its samples.
    pub samples: Range<u32>,
    /// When it begins on the timeline of presentation, in ticks of the track.
    pub start: u64,
    /// How long it lasts, in ticks of the track; never 0.
    pub duration: u64,
}

impl Timeline {
    /// How many segments there are; at least one.
    pub fn segment_count(&self) -> u32 {
        u32::try_from(self.starts.len())
            .expect("a segment has a sample, and samples count in 32 bits")
    }

    /// Segment `number`, counted from 1.
    pub fn segment(&self, number: u32) -> Option<Segment> {
        let at = usize::try_from(number.checked_sub(1)?).ok()?;
        let &(first, start) = self.starts.get(at)?;
        let (next, end) = self
            .starts
            .get(at + 1)
            .copied()
            .unwrap_or((self.end_sample, self.end));
        Some(Segment {
            number,
            samples: first..next,
            start,
            duration: end - start,
        })
    }

    /// Every segment in order.
    pub fn segments(&self) -> impl Iterator<Item = Segment> + '_ {
        (1..=self.segment_count()).filter_map(|number| self.segment(number))
    }

    /// When the first segment begins, in ticks.
    pub fn start(&self) -> u64 {
        self.starts.first().map_or(0, |&(_, start)| start)
    }

    /// When the last segment ends, in ticks.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Whether every segment can be decoded whole without the one before it. Not so with open GOPs, in which
    /// pictures that refer to the one before follow the key frame, to be shown before it: stream access points of
    /// type 3 (ISO/IEC 14496-12 annex I).
    pub fn is_independent(&self) -> bool {
        self.independent
    }

    /// The first sample of every segment: what a media id digests.
    pub(crate) fn first_samples(&self) -> impl Iterator<Item = u32> + '_ {
        self.starts.iter().map(|&(sample, _)| sample)
    }

    /// One past the last sample.
    pub(crate) fn end_sample(&self) -> u32 {
        self.end_sample
    }
}
