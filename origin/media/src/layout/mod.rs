//! The virtual file: a response as slices with an exact length, planned before a byte of a sample is read.
//!
//! ```text
//! Layout:  [ generated: styp moof mdat-header ][ samples 96..192 of track 0 of source 1, cbcs ]
//! Render:      Generated(Bytes)                   Window Window Window ...
//! ```
//!
//! [`init`] and [`segment`] plan; [`Layout::render`] gives the [`Step`]s that make a range of it. A
//! [`Window`] names the bytes of the source to read, and [`Render::produce`] turns them into bytes to send. Nothing
//! here reads a file.

mod dump;
mod fragment;
mod render;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use keystore_types::Label;

use crate::bmff::header;
use crate::bmff::pssh::Pssh;
use crate::drm;
use crate::error::PackageError;
use crate::index::{self, Index};
use crate::presentation::{Presentation, Track};
use crate::protect::pattern::Cover;
use crate::protect::{SubsampleTable, TrackKey, track_encryption};

pub use render::{KeyMissing, Render, SPREAD, Step, Window};

/// A response: slices whose lengths are known. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Layout {
    slices: Arc<[Slice]>,
}

/// One piece of a layout and where it ends.
#[derive(Debug)]
struct Slice {
    end: u64,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Generated(Bytes),
    Samples(Samples),
}

/// Consecutive samples of a track, and how they are protected.
#[derive(Debug)]
struct Samples {
    source: usize,
    index: Arc<Index>,
    track: usize,
    range: Range<u32>,
    cover: Cover,
}

impl Samples {
    fn track(&self) -> &index::Track {
        &self.index.tracks()[self.track]
    }
}

impl Layout {
    fn new(kinds: impl IntoIterator<Item = Kind>) -> Self {
        let mut end = 0;
        let slices = kinds.into_iter().map(|kind| {
            end += match &kind {
                Kind::Generated(bytes) => bytes.len() as u64,
                Kind::Samples(samples) => samples.track().bytes(samples.range.clone()),
            };
            Slice { end, kind }
        });
        Self {
            slices: slices.collect(),
        }
    }

    /// The exact length in bytes.
    pub fn len(&self) -> u64 {
        self.slices.last().map_or(0, |slice| slice.end)
    }

    /// Whether the layout has no byte. None that is planned here is so.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of it that are kept in memory: headers, and no samples.
    pub fn generated_len(&self) -> u64 {
        let len = |slice: &Slice| match &slice.kind {
            Kind::Generated(bytes) => bytes.len() as u64,
            Kind::Samples(_) => 0,
        };
        self.slices.iter().map(len).sum()
    }

    /// Whether a cipher is needed to render it.
    pub fn is_protected(&self) -> bool {
        self.slices.iter().any(|slice| match &slice.kind {
            Kind::Generated(_) => false,
            Kind::Samples(samples) => samples.cover.is_protected(),
        })
    }

    /// The sources whose bytes it holds, as positions in [`Presentation::sources`].
    pub fn sources(&self) -> impl Iterator<Item = usize> + '_ {
        self.slices.iter().filter_map(|slice| match &slice.kind {
            Kind::Generated(_) => None,
            Kind::Samples(samples) => Some(samples.source),
        })
    }
}

/// The init segment of `track`: `ftyp` and `moov`.
///
/// # Errors
/// `Internal` when the pack is protected and `keys` lacks the track's label.
pub fn init(
    presentation: &Presentation,
    track: &Track,
    keys: &BTreeMap<Label, TrackKey>,
) -> Result<Layout, PackageError> {
    Ok(Layout::new([Kind::Generated(init_bytes(
        presentation,
        track,
        keys,
    )?)]))
}

/// The bytes of the init segment.
///
/// Its `pssh` names every key of the title, not the track's alone: hls.js asks for the keys of one `encrypted`
/// event only, so a page that does nothing of its own gets the keys of picture and sound with one licence.
///
/// # Errors
/// As [`init`].
pub fn init_bytes(
    presentation: &Presentation,
    track: &Track,
    keys: &BTreeMap<Label, TrackKey>,
) -> Result<Bytes, PackageError> {
    let pssh = presentation.pack().scheme.map(|_| {
        let key_ids: Vec<_> = keys.values().map(|key| key.key_id).collect();
        drm::common_pssh(&key_ids)
    });
    header_bytes(presentation, track, keys, pssh.as_slice())
}

/// The init segment without what it says of other tracks' keys: all that decides how the track's segments read.
///
/// # Errors
/// As [`init`].
pub(crate) fn own_header(
    presentation: &Presentation,
    track: &Track,
    keys: &BTreeMap<Label, TrackKey>,
) -> Result<Bytes, PackageError> {
    header_bytes(presentation, track, keys, &[])
}

fn header_bytes(
    presentation: &Presentation,
    track: &Track,
    keys: &BTreeMap<Label, TrackKey>,
    pssh: &[Pssh],
) -> Result<Bytes, PackageError> {
    let tenc = presentation
        .protection(track, keys)?
        .map(|(scheme, key)| (scheme, track_encryption(scheme, track.media(), key)));
    let tenc = tenc.as_ref().map(|(scheme, tenc)| (*scheme, tenc));
    Ok(header::write(track.samples(), tenc, pssh).into())
}

/// Whether a segment of `track` can only be planned with the subsamples of its samples.
pub fn needs_subsamples(presentation: &Presentation, track: &Track) -> bool {
    presentation.pack().scheme.is_some() && track.media() == crate::codec::Media::Video
}

/// Segment `number` of `track`, or `None` when it has no such segment.
///
/// `subsamples` has the subsamples of each of its samples where [`needs_subsamples`]; otherwise it is not looked at.
///
/// # Errors
/// `Internal` when a key or subsamples that are needed are missing or do not cover the samples; `Limit` when the
/// segment nears 4 GiB.
pub fn segment(
    presentation: &Presentation,
    track: &Track,
    number: u32,
    keys: &BTreeMap<Label, TrackKey>,
    subsamples: Option<Arc<SubsampleTable>>,
) -> Result<Option<Layout>, PackageError> {
    let Some(segment) = track.timeline().segment(number) else {
        return Ok(None);
    };
    let cover = match presentation.protection(track, keys)? {
        None => Cover::Clear,
        Some((scheme, key)) => {
            let subsamples = match track.media() {
                crate::codec::Media::Audio => None,
                crate::codec::Media::Video => Some(subsamples.ok_or_else(|| {
                    PackageError::internal(format!("{}: no subsamples were given", track.name()))
                })?),
            };
            Cover::new(scheme, key, track.rank(), subsamples)
        }
    };
    let header = fragment::header(track, &segment, &cover)?;
    let samples = Samples {
        source: track.source(),
        index: Arc::clone(track.index()),
        track: track.number(),
        range: segment.samples,
        cover,
    };
    Ok(Some(Layout::new([
        Kind::Generated(header),
        Kind::Samples(samples),
    ])))
}
