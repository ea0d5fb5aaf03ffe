//! The header of a segment: the boxes before its samples.

use std::ops::Range;

use bytes::Bytes;

use crate::bmff::moof::{Auxiliary, Fragment, Sample, write};
use crate::error::PackageError;
use crate::index::protection::MAX_SUBSAMPLES;
use crate::presentation::Track;
use crate::protect::SubsampleTable;
use crate::protect::iv::sample_iv;
use crate::protect::pattern::Cover;
use crate::timeline::Segment;

/// `data_offset` has 31 bits, and readers keep `mdat` in 32: a segment of seconds is a thousandth of this.
const MAX_SEGMENT_BYTES: u64 = (1 << 31) - 1;

/// `styp`, `moof` and the header of `mdat`. It depends on the segment alone, not on the order of requests.
pub(super) fn header(
    track: &Track,
    segment: &Segment,
    cover: &Cover,
) -> Result<Bytes, PackageError> {
    let of = track.samples();
    let media = of.bytes(segment.samples.clone());
    if media > MAX_SEGMENT_BYTES {
        return Err(PackageError::limit(format!(
            "{} segment {}: {media} bytes; a segment holds at most {MAX_SEGMENT_BYTES}",
            track.name(),
            segment.number
        )));
    }
    let samples: Vec<Sample> = segment
        .samples
        .clone()
        .map(|n| Sample {
            duration: of.duration(n),
            size: of.size(n),
            composition_offset: of.composition_offset(n),
            sync: of.is_sync(n),
        })
        .collect();
    if let Some(table) = cover.subsamples() {
        check(track, &segment.samples, table)?;
    }
    let auxiliary: Vec<Auxiliary<'_>> = match cover {
        Cover::Clear | Cover::CbcWhole { .. } => Vec::new(),
        Cover::CtrWhole { rank } => segment
            .samples
            .clone()
            .map(|n| Auxiliary {
                iv: Some(sample_iv(*rank, n)),
                subsamples: None,
            })
            .collect(),
        Cover::CtrSubsamples { rank, table } => segment
            .samples
            .clone()
            .enumerate()
            .map(|(at, n)| Auxiliary {
                iv: Some(sample_iv(*rank, n)),
                subsamples: Some(table.get(at)),
            })
            .collect(),
        Cover::CbcSubsamples { table, .. } => (0..table.samples())
            .map(|at| Auxiliary {
                iv: None,
                subsamples: Some(table.get(at)),
            })
            .collect(),
    };
    Ok(write(&Fragment {
        sequence: segment.number,
        decode_time: of.decode_time(segment.samples.start),
        samples: &samples,
        auxiliary: &auxiliary,
    })
    .into())
}

/// The subsamples cover every byte of every sample, and fit their fields.
fn check(track: &Track, samples: &Range<u32>, table: &SubsampleTable) -> Result<(), PackageError> {
    if table.samples() != samples.len() {
        return Err(PackageError::internal(format!(
            "{}: subsamples of {} samples were given for {}",
            track.name(),
            table.samples(),
            samples.len()
        )));
    }
    for (at, n) in samples.clone().enumerate() {
        let subsamples = table.get(at);
        let covered: u64 = subsamples
            .iter()
            .map(|s| u64::from(s.clear) + u64::from(s.protected))
            .sum();
        if covered != u64::from(track.samples().size(n)) || subsamples.len() > MAX_SUBSAMPLES {
            return Err(PackageError::internal(format!(
                "{} sample {n}: {} subsamples cover {covered} of {} bytes",
                track.name(),
                subsamples.len(),
                track.samples().size(n)
            )));
        }
    }
    Ok(())
}
