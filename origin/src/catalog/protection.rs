//! Protection maps beside the index files: the second layer of the index, for every video track of a source.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use origin_media::index::protection::{ProtectionMap, ProtectionMapBuilder};
use origin_media::index::{Index, Track};

use super::OpenSource;
use super::index_cache::{IndexError, IndexFile, write};
use crate::storage::{LocalFile, MappedFile, Source as _};

/// Bytes of one read while samples are gone through.
const PIECE: u64 = 4 << 20;

/// The maps that lie in the cache, one place for each track of the index.
pub(super) fn load(index: &Index, file: &IndexFile) -> Vec<ArcSwapOption<ProtectionMap>> {
    index
        .tracks()
        .iter()
        .map(|track| ArcSwapOption::from(read(index, track, path(file, track)).map(Arc::new)))
        .collect()
}

/// Makes the maps of every video track of a source that has none, and keeps them. Blocks.
///
/// # Errors
/// [`IndexError`]. That the cache cannot be written is no error: the map then stays in memory.
pub(super) fn build(source: &OpenSource) -> Result<(), IndexError> {
    for (track, place) in source.index.tracks().iter().zip(&source.maps) {
        if place.load().is_some() {
            continue;
        }
        let Some(builder) = ProtectionMapBuilder::new(&source.index, track) else {
            continue;
        };
        let Some(map) = walk(builder, track, &source.file)? else {
            continue;
        };
        source.file.unchanged()?;
        let path = path(&source.index_file, track);
        if let Err(error) = write(&path, |file| file.write_all(map.as_bytes())) {
            tracing::warn!(path = %path.display(), %error, "a protection map cannot be kept");
        }
        place.store(Some(Arc::new(
            read(&source.index, track, path).unwrap_or(map),
        )));
    }
    Ok(())
}

/// Gives the builder every sample, reading what lies together at once.
fn walk(
    mut builder: ProtectionMapBuilder<'_>,
    track: &Track,
    file: &LocalFile,
) -> Result<Option<ProtectionMap>, IndexError> {
    let mut buffer = Vec::new();
    while let Some(first) = builder.wants() {
        let contiguous = track.run_end(first);
        let mut end = first + 1;
        while end < contiguous && track.bytes(first..end + 1) <= PIECE {
            end += 1;
        }
        let start = track.offset(first);
        let len = track.bytes(first..end);
        buffer.resize(usize::try_from(len).unwrap_or_default(), 0);
        file.read_now(start..start + len, &mut buffer)?;
        let mut rest = &buffer[..];
        for n in first..end {
            let (sample, after) = rest.split_at(track.size(n) as usize);
            builder.push(sample)?;
            rest = after;
        }
    }
    Ok(builder.finish())
}

fn path(file: &IndexFile, track: &Track) -> PathBuf {
    file.stem()
        .with_extension(format!("{}.map", track.track_id()))
}

fn read(index: &Index, track: &Track, path: PathBuf) -> Option<ProtectionMap> {
    track.codec().as_avc()?;
    let mapped = MappedFile::open(&path).ok()?;
    let map = ProtectionMap::from_bytes(mapped.bytes(), index, track).ok()?;
    mapped.intact().then_some(map)
}
