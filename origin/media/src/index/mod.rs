//! The index of a source: which tracks it has, and for every sample its size, place and time.
//!
//! Built once from the `moov` box ([`MoovFinder`], then [`build`]), kept as one compact file that is read in
//! place ([`Index::from_bytes`]); every lookup is O(1) or O(log n), none is O(samples before it). The second
//! layer, which bytes of a sample are protected, is [`protection`].
//!
//! Owns the sample tables and the two file forms. Knows nothing of segments, keys or manifests.

mod build;
mod file;
mod find;
pub(crate) mod language;
pub mod protection;
mod samples;

use std::ops::Range;

use bytes::Bytes;

pub use build::{build, draft};
pub use file::{Draft, INDEX_FORMAT, IndexFileError};
pub use find::{MAX_MOOV_BYTES, MAX_TOP_LEVEL_BOXES, MoovFinder};

use samples::Samples;
pub use samples::{Place, Run};

use crate::codec::CodecConfig;
use crate::time::{MediaTime, Timescale};

/// The longest track: a week. A film is hours long; the bound keeps every tick, in any timescale, below 2^53.
pub const MAX_DURATION_SECONDS: u32 = 7 * 24 * 60 * 60;

/// Samples in all tracks together: a week of AAC at 48 kHz is 28 million.
pub const MAX_SAMPLES: u32 = 32_000_000;

/// Tracks of one source. Forty languages are seen in the field; each track costs a walk over its boxes.
pub const MAX_TRACKS: usize = 128;

/// What a source contains, with every sample's size, place and time.
///
/// Cheap to clone and to open: columns stay where the bytes are (memory or a mapped file).
#[derive(Clone, Debug)]
pub struct Index {
    bytes: Bytes,
    file_len: u64,
    moov_digest: [u8; 32],
    tracks: Vec<Track>,
    ignored: Vec<IgnoredTrack>,
}

impl Index {
    /// The file form, which [`Index::from_bytes`] reads.
    pub fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The tracks that can be packaged, in the order of the source. At least one.
    pub fn tracks(&self) -> &[Track] {
        &self.tracks
    }

    /// The tracks that are left out, each with the reason.
    pub fn ignored(&self) -> &[IgnoredTrack] {
        &self.ignored
    }

    /// The length of the source in bytes when it was indexed.
    pub fn file_len(&self) -> u64 {
        self.file_len
    }

    /// SHA-256 of the source's `moov` box: the sample tables themselves, whatever the format of this index.
    pub fn moov_digest(&self) -> &[u8; 32] {
        &self.moov_digest
    }

    /// When the last track ends, on the timeline of presentation.
    pub fn duration(&self) -> MediaTime {
        self.tracks
            .iter()
            .map(Track::presentation_end)
            .max()
            .unwrap_or(MediaTime::new(0, Timescale::MILLISECONDS))
    }
}

/// A track that can be packaged.
///
/// Samples count from 0 in decoding order. Functions that take a sample number panic when it is not below
/// [`Track::sample_count`], as a slice does. None of them looks at more than O(log n) numbers.
#[derive(Clone, Debug)]
pub struct Track {
    track_id: u32,
    codec: CodecConfig,
    timescale: Timescale,
    language: Option<String>,
    name: String,
    matrix: [i32; 9],
    edit: Edit,
    samples: Samples,
}

/// How a track's own timeline meets that of the presentation (`elst`, ISO/IEC 14496-12 8.6.6).
///
/// A sample is presented at its composition time, less `skip`, plus `delay`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Edit {
    /// Where the presentation begins in the track, in ticks of the track: the `media_time` of its one edit.
    pub skip: i64,
    /// How long the presentation waits for the track, in ticks of the track: the leading empty edits,
    /// rescaled from the movie's timescale to the nearest tick.
    pub delay: i64,
}

impl Track {
    /// `track_ID` in the source.
    pub fn track_id(&self) -> u32 {
        self.track_id
    }

    /// How samples are coded.
    pub fn codec(&self) -> &CodecConfig {
        &self.codec
    }

    /// What a tick of this track is.
    pub fn timescale(&self) -> Timescale {
        self.timescale
    }

    /// The language as a BCP 47 tag in its shortest form, such as `en`; `None` where it is undetermined.
    pub fn language(&self) -> Option<&str> {
        self.language.as_deref()
    }

    /// The name of the track's handler; may be empty.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The transformation of `tkhd`, as stored: 16.16 numbers, the last column 2.30.
    pub fn matrix(&self) -> &[i32; 9] {
        &self.matrix
    }

    /// How the track's timeline meets that of the presentation.
    pub fn edit(&self) -> Edit {
        self.edit
    }

    /// How many samples there are; at least one.
    pub fn sample_count(&self) -> u32 {
        self.samples.count()
    }

    /// Size of sample `n` in bytes.
    pub fn size(&self, n: u32) -> u32 {
        self.samples.size(n)
    }

    /// Bytes of the samples of `range` together.
    pub fn bytes(&self, range: Range<u32>) -> u64 {
        self.samples.bytes(range)
    }

    /// Where sample `n` begins in the file.
    pub fn offset(&self, n: u32) -> u64 {
        self.samples.offset(n)
    }

    /// The stretch of the file from the first byte of the first sample of `range` to the last byte of the last one.
    /// Bytes of other tracks may lie in it; empty where the last lies before the first.
    pub fn span(&self, range: Range<u32>) -> Range<u64> {
        let Some(last) = range.end.checked_sub(1).filter(|last| *last >= range.start) else {
            return 0..0;
        };
        let start = self.offset(range.start);
        start..start.max(self.offset(last) + u64::from(self.size(last)))
    }

    /// The runs of samples from `first` on, of which the first begins there.
    pub fn runs(&self, first: u32) -> impl Iterator<Item = Run> + '_ {
        self.samples.runs(first)
    }

    /// Where the samples from `first` on lie in the file, in order.
    pub fn places(&self, first: u32) -> impl Iterator<Item = Place> + '_ {
        self.samples.places(first)
    }

    /// The first sample after `n` that does not follow its predecessor in the file; the sample count if all do.
    pub fn run_end(&self, n: u32) -> u32 {
        self.samples.run_end(n)
    }

    /// How long sample `n` lasts, in ticks.
    pub fn duration(&self, n: u32) -> u32 {
        self.samples.duration(n)
    }

    /// Ticks of all samples together.
    pub fn total_duration(&self) -> u64 {
        self.samples.total_duration()
    }

    /// Composition time less decode time of sample `n`, in ticks.
    pub fn composition_offset(&self, n: u32) -> i32 {
        self.samples.composition_offset(n)
    }

    /// Whether any composition offset is not 0.
    pub fn has_composition_offsets(&self) -> bool {
        self.samples.has_composition_offsets()
    }

    /// Whether decoding can begin at sample `n`.
    pub fn is_sync(&self, n: u32) -> bool {
        self.samples.is_sync(n)
    }

    /// The first sample after `n` at which decoding can begin; the sample count if there is none.
    pub fn sync_after(&self, n: u32) -> u32 {
        self.samples.sync_after(n)
    }

    /// What depends on sample `n` and what it depends on, as a byte of `sdtp` (ISO/IEC 14496-12 8.6.4.3);
    /// `None` where the source says nothing.
    pub fn dependency(&self, n: u32) -> Option<u8> {
        self.samples.dependency(n)
    }

    /// How many sync samples there are; at least one.
    pub fn sync_count(&self) -> u32 {
        self.samples.sync_count()
    }

    /// The sample number of sync sample `k`, which must be below [`Track::sync_count`].
    pub fn sync_sample(&self, k: u32) -> u32 {
        self.samples.sync_sample(k)
    }

    /// When sample `n` is decoded, in ticks, the delay of the edit list included. Never negative: it is what
    /// `tfdt` carries (ISO/IEC 14496-12 8.8.12).
    pub fn decode_time(&self, n: u32) -> u64 {
        self.samples.decode_time(n) + self.edit.delay.unsigned_abs()
    }

    /// When sample `n` is presented, in ticks, after edits. Negative for a sample that the edit list skips,
    /// such as audio priming.
    pub fn presentation_time(&self, n: u32) -> i64 {
        self.samples.composition_time(n) + self.edit.delay - self.edit.skip
    }

    /// When the samples from `first` on are presented, as [`Track::presentation_time`] has it.
    pub fn presentation_times(&self, first: u32) -> impl Iterator<Item = i64> + '_ {
        let edit = self.edit.delay - self.edit.skip;
        let times = self.samples.composition_times(first);
        times.map(move |time| time + edit)
    }

    /// The end of the last presented sample, after edits.
    pub fn presentation_end(&self) -> MediaTime {
        MediaTime::new(
            self.samples.composition_end() + self.edit.delay - self.edit.skip,
            self.timescale,
        )
    }

    /// The first sync sample presented at `ticks` or later, if any.
    pub fn sync_at_or_after(&self, ticks: i64) -> Option<u32> {
        self.samples
            .sync_at_or_after(ticks + self.edit.skip - self.edit.delay)
    }
}

/// A track that is left out, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IgnoredTrack {
    /// `track_ID` in the source.
    pub track_id: u32,
    /// What it is: sample entry and handler, such as `hev1 video`.
    pub what: String,
    /// Why it is left out.
    pub reason: String,
}
