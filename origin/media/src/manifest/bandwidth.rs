//! How many bits a second a track takes, exactly enough for a player to choose by.

use crate::codec::Media;
use crate::presentation::{Presentation, Track};

/// Bits per second, both rounded up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bandwidth {
    /// Of the heaviest segment.
    pub(crate) peak: u64,
    /// Over all segments.
    pub(crate) average: u64,
}

/// Boxes around the samples of a segment, at most: styp 24, moof 8, mfhd 16, traf 8, tfhd 24, tfdt 20, trun 24,
/// saiz 17, saio 20, senc 16, mdat 8.
const SEGMENT_BOXES: u64 = 185;

/// The fields of a sample in `trun`, at most.
const SAMPLE_FIELDS: u64 = 16;

/// Protection data of a video sample, reckoned without looking at it, so that no manifest waits for the
/// protection map: an IV, a count, eight subsamples, and its byte in `saiz`. A picture of more slices than that
/// makes the figure low by fewer bits than a player's own estimate is off.
const VIDEO_PROTECTION: u64 = 8 + 2 + 8 * 6 + 1;

/// Protection data of an audio sample: an IV, and its byte in `saiz`.
const AUDIO_PROTECTION: u64 = 8 + 1;

/// A last segment shorter than this part of the longest tells nothing of the rate (rule M3).
const SHORT_TAIL: u64 = 2;

impl Bandwidth {
    /// The bandwidth of `track` as its pack serves it.
    pub(crate) fn of(presentation: &Presentation, track: &Track) -> Self {
        let samples = track.samples();
        let per_sample = SAMPLE_FIELDS
            + match (presentation.pack().scheme, track.media()) {
                (None, Media::Video | Media::Audio) => 0,
                (Some(_), Media::Video) => VIDEO_PROTECTION,
                (Some(_), Media::Audio) => AUDIO_PROTECTION,
            };
        let scale = 8 * u64::from(track.timescale().get());
        let rate = |bytes: u64, ticks: u64| match bytes.checked_mul(scale) {
            Some(bits) => bits.div_ceil(ticks.max(1)),
            // Of a whole track, perhaps: a division of 128 bits takes ten times as long.
            None => {
                let bits = u128::from(bytes) * u128::from(scale);
                u64::try_from(bits.div_ceil(u128::from(ticks).max(1))).unwrap_or(u64::MAX)
            }
        };
        let longest = track
            .timeline()
            .segments()
            .map(|segment| segment.duration)
            .max()
            .unwrap_or(1);
        let (mut bytes, mut ticks, mut peak) = (0, 0, 0);
        for segment in track.timeline().segments() {
            let count = segment.samples.len() as u64;
            let of_segment =
                samples.bytes(segment.samples.clone()) + SEGMENT_BOXES + per_sample * count;
            bytes += of_segment;
            ticks += segment.duration;
            let last = segment.number == track.timeline().segment_count();
            if !last || segment.duration * SHORT_TAIL >= longest {
                peak = peak.max(rate(of_segment, segment.duration));
            }
        }
        let average = rate(bytes, ticks);
        Self {
            peak: peak.max(average),
            average,
        }
    }

    /// The bandwidth of two tracks that are played together.
    pub(crate) fn with(self, other: Self) -> Self {
        Self {
            peak: self.peak + other.peak,
            average: self.average + other.average,
        }
    }
}
