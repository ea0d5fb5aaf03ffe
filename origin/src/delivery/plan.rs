use std::sync::Arc;
use std::time::Instant;

use keystore_types::Scheme;
use moka::future::Cache;
use origin_media::error::ParseError;
use origin_media::identity::MediaId;
use origin_media::index::{self, protection};
use origin_media::layout::{self, Layout};
use origin_media::presentation::Track;
use origin_media::protect::SubsampleTable;

use crate::catalog::OpenSource;
use crate::error::Error;
use crate::package::Package;
use crate::storage::{Fault, Glance, Source as _};
use crate::telemetry::{self, Made};

/// Plans segments, each once for all workers, and keeps the plans.
pub struct Planner {
    layouts: Cache<(MediaId, u32), Layout>,
}

/// What a layout takes beside its header and its table of subsamples, which is about as large as `senc`.
const LAYOUT_OVERHEAD: u32 = 512;

/// The longest run of samples that is read at once to find its subsamples.
const RUN_BYTES: u64 = 1 << 20;

impl Planner {
    /// Keeps plans of at most `bytes` bytes together.
    pub fn new(bytes: u64) -> Self {
        let weight = |_: &(MediaId, u32), layout: &Layout| {
            u32::try_from(2 * layout.generated_len())
                .unwrap_or(u32::MAX)
                .saturating_add(LAYOUT_OVERHEAD)
        };
        Self {
            layouts: Cache::builder()
                .max_capacity(bytes)
                .weigher(weight)
                .eviction_listener(|_, _, _| telemetry::layout_evicted())
                .build(),
        }
    }

    /// Segment `number` of track `at` of the package.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such segment, else [`Error`].
    pub async fn segment(
        &self,
        package: &Arc<Package>,
        at: usize,
        number: u32,
    ) -> Result<Layout, Error> {
        let key = (package.media_ids[at].segments, number);
        if let Some(layout) = self.layouts.get(&key).await {
            telemetry::layout_hit();
            return Ok(layout);
        }
        telemetry::layout_missed();
        self.layouts
            .try_get_with(key, Box::pin(plan(package, at, number)))
            .await
            .map_err(|error: Arc<Error>| (*error).clone())
    }

    /// Has the next segment read ahead where the viewer goes on by all appearances: at the beginning of a track, and
    /// where somebody asked for the segment before not long ago. Who seeks costs the disk nothing more.
    pub fn read_ahead(&self, package: &Package, at: usize, number: u32) {
        let id = package.media_ids[at].segments;
        let before = number.saturating_sub(1);
        if before > 0 && !self.layouts.contains_key(&(id, before)) {
            return;
        }
        let track = &package.presentation.tracks()[at];
        if let Some(next) = track.timeline().segment(number.saturating_add(1)) {
            let source = &package.title.sources[package.source(at)];
            source.file.expect(track.samples().span(next.samples));
        }
    }
}

async fn plan(package: &Package, at: usize, number: u32) -> Result<Layout, Error> {
    let begun = Instant::now();
    let track = &package.presentation.tracks()[at];
    let segment = track.timeline().segment(number).ok_or(Error::NotFound)?;
    let subsamples = match package.presentation.pack().scheme {
        Some(scheme) if layout::needs_subsamples(&package.presentation, track) => {
            let source = &package.title.sources[package.source(at)];
            let table = subsamples(source, track, scheme, segment.samples).await;
            Some(Arc::new(table.map_err(|fault| fault.of(package))?))
        }
        _ => None,
    };
    let layout = layout::segment(
        &package.presentation,
        track,
        number,
        &package.track_keys,
        subsamples,
    )
    .map_err(Error::internal)?
    .ok_or(Error::NotFound)?;
    telemetry::packaged(Made::Segment, begun.elapsed());
    Ok(layout)
}

/// Why samples have no subsamples.
enum MapError {
    /// A sample is malformed.
    Sample(u32, ParseError),
    /// The source cannot be read.
    Storage(Fault),
}

impl From<Fault> for MapError {
    fn from(fault: Fault) -> Self {
        Self::Storage(fault)
    }
}

impl MapError {
    fn of(self, package: &Package) -> Error {
        match self {
            Self::Sample(n, error) => Error::Unfit {
                asset: package.title.asset.id.clone(),
                reason: format!("sample {n}: {error}"),
            },
            Self::Storage(fault) => Error::Storage(fault),
        }
    }
}

/// The subsamples of some samples: from the source's map if there is one, else from the samples themselves.
async fn subsamples(
    source: &OpenSource,
    track: &Track,
    scheme: Scheme,
    samples: std::ops::Range<u32>,
) -> Result<SubsampleTable, MapError> {
    let mut table = SubsampleTable::new();
    if let Some(map) = source.protection_map(track.number()) {
        samples.for_each(|n| table.push(map.lookup(n, scheme)));
        source.unchanged()?;
        return Ok(table);
    }
    let of = track.samples();
    let mut first = samples.start;
    let mut spare = Vec::new();
    let mut glance = Glance::default();
    while first < samples.end {
        let run = run(of, first, samples.end);
        let start = of.offset(first);
        let range = start..start + of.bytes(run.clone());
        let mut outcome = Ok(());
        let ready = source
            .file
            .if_ready(range.clone(), &mut glance, &mut |bytes| {
                outcome = map_run(of, scheme, run.clone(), bytes, &mut table);
            })?;
        if !ready {
            spare = source.file.read(range, spare).await?;
            outcome = map_run(of, scheme, run.clone(), &spare, &mut table);
        }
        outcome?;
        first = run.end;
    }
    source.unchanged()?;
    Ok(table)
}

/// Samples from `first` on that lie one after the other and are read at once; at least one.
fn run(of: &index::Track, first: u32, end: u32) -> std::ops::Range<u32> {
    let contiguous = of.run_end(first).min(end);
    let mut last = first + 1;
    while last < contiguous && of.bytes(first..last + 1) <= RUN_BYTES {
        last += 1;
    }
    first..last
}

fn map_run(
    of: &index::Track,
    scheme: Scheme,
    samples: std::ops::Range<u32>,
    bytes: &[u8],
    table: &mut SubsampleTable,
) -> Result<(), MapError> {
    let Some(config) = of.codec().as_avc() else {
        return Ok(());
    };
    let mut rest = bytes;
    for n in samples {
        let (sample, after) = rest.split_at(of.size(n) as usize);
        table
            .push_with(|out| protection::map_sample(config, scheme, sample, out))
            .map_err(|error| MapError::Sample(n, error))?;
        rest = after;
    }
    Ok(())
}
