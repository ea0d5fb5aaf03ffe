//! Manifests as text, and the URLs in them.
//!
//! [`UrlScheme`] is the only place that spells a URL. [`dash`] and [`hls`] are pure functions of a
//! [`Presentation`](crate::presentation::Presentation), its media ids and, when it is protected, the
//! [`Signalling`](crate::drm::Signalling).

mod bandwidth;
pub mod dash;
pub mod hls;
mod picture;
mod url;
mod xml;

use std::collections::BTreeMap;
use std::fmt;

use keystore_types::Label;

use crate::drm::Signalling;
use crate::identity::{MediaIds, Revision};
use crate::presentation::{Presentation, SwitchingSet, Track};
use crate::protect::TrackKey;
use crate::time::{MediaTime, Rounding, Timescale};

use picture::Picture;

pub use url::{
    DIGEST_MARK, Depth, ManifestKind, MediaObject, PLAYLIST_SUFFIX, ROOT, Resource, UrlScheme,
};

/// All that manifests of a title under a policy are written from.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Tracks, sets and timelines.
    pub presentation: &'a Presentation,
    /// The ids of every track, in the order of [`Presentation::tracks`].
    pub media_ids: &'a [MediaIds],
    /// The current revision, which an alias points to.
    pub revision: Revision,
    /// Keys by label; empty when the pack is clear.
    pub keys: &'a BTreeMap<Label, TrackKey>,
    /// `None` when the pack is clear.
    pub signalling: Option<&'a Signalling<'a>>,
    /// The largest pictures that are listed; `None`: all. Players fail on tracks whose keys they are refused.
    pub max_video: Option<Label>,
}

impl<'a> Subject<'a> {
    /// Whether `track` is listed.
    pub fn lists(&self, track: &Track) -> bool {
        self.max_video.is_none_or(|most| track.label().within(most))
    }

    /// Every track that is listed.
    fn listed(&self) -> impl Iterator<Item = &'a Track> {
        let tracks = self.presentation.tracks().iter();
        tracks.filter(|track| self.lists(track))
    }

    /// The tracks of `set` that are listed, each with its media id.
    fn tracks_of<'s>(
        &'s self,
        set: &'s SwitchingSet,
    ) -> impl Iterator<Item = (&'a Track, MediaIds)> + Clone + 's {
        (set.tracks.iter())
            .map(|&at| (&self.presentation.tracks()[at], self.media_ids[at]))
            .filter(|(track, _)| self.lists(track))
    }

    /// How `track` is protected, and with which key.
    fn protection(&self, track: &Track) -> Option<(&'a Signalling<'a>, &'a TrackKey)> {
        self.signalling.zip(self.keys.get(&track.label()))
    }
}

/// What manifests round times to.
const MICROSECONDS: Timescale = Timescale::new(1_000_000).expect("not zero");

/// Seconds with six decimals.
fn decimal_seconds(time: MediaTime, rounding: Rounding) -> impl fmt::Display {
    let ticks = time.to_timescale(MICROSECONDS, rounding).ticks;
    fmt::from_fn(move |f| write!(f, "{}.{:06}", ticks / 1_000_000, ticks % 1_000_000))
}

/// Adds microseconds as seconds with six decimals.
fn push_seconds(out: &mut String, microseconds: u64) {
    const SECOND: u64 = 1_000_000;
    push_number(out, microseconds / SECOND);
    out.push('.');
    // The leading one stands for the zeros that would be left out.
    let mut digits = itoa::Buffer::new();
    out.push_str(&digits.format(SECOND + microseconds % SECOND)[1..]);
}

/// Adds a number in decimal: a manifest has thousands, and formatting takes several times as long.
fn push_number(out: &mut String, number: u64) {
    out.push_str(itoa::Buffer::new().format(number));
}

/// The duration of the longest segment of any track: the same bound in every playlist (rule T11).
fn longest_segment(presentation: &Presentation) -> MediaTime {
    presentation
        .tracks()
        .iter()
        .flat_map(|track| {
            let longest = track
                .timeline()
                .segments()
                .map(|segment| segment.duration)
                .max();
            longest.map(|ticks| MediaTime::new(ticks.cast_signed(), track.timescale()))
        })
        .max()
        .unwrap_or(MediaTime::new(0, Timescale::MILLISECONDS))
}
