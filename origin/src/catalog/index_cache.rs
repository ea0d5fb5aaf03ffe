//! Index files in the cache folder: loaded where they fit, built where they do not, safe to delete at any time.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use origin_media::error::ParseError;
use origin_media::index::{Draft, Index, MoovFinder, draft};
use ring::digest::{Context, SHA256};

use super::AssetFile;
use crate::storage::{Fault, LocalFile, MappedFile, Source as _, Stamp};
use crate::telemetry;

/// The folder of index files.
pub(super) struct IndexCache {
    folder: PathBuf,
}

/// Why a file has no index.
#[derive(Debug)]
pub(super) enum IndexError {
    /// It cannot be packaged.
    Unfit(ParseError),
    /// It cannot be read.
    Storage(Fault),
}

impl From<ParseError> for IndexError {
    fn from(error: ParseError) -> Self {
        Self::Unfit(error)
    }
}

impl From<Fault> for IndexError {
    fn from(fault: Fault) -> Self {
        Self::Storage(fault)
    }
}

/// The mapping behind an index, if it lies in a file.
pub(super) struct IndexFile {
    mapped: Option<MappedFile>,
    stem: PathBuf,
}

impl IndexFile {
    /// Whether every page of the index that was ever read was there.
    pub(super) fn intact(&self) -> bool {
        self.mapped.as_ref().is_none_or(MappedFile::intact)
    }

    /// Where files that go with this index lie: its path without the extension.
    pub(super) fn stem(&self) -> &Path {
        &self.stem
    }
}

impl fmt::Debug for IndexFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.stem, f)
    }
}

impl IndexCache {
    /// Uses `cache_dir`, making the folder in it.
    ///
    /// # Errors
    /// The operating system's refusal.
    pub(super) fn open(cache_dir: &Path) -> io::Result<Self> {
        let folder = cache_dir.join("index");
        fs::create_dir_all(&folder)?;
        for entry in fs::read_dir(&folder)?.flatten() {
            // A process that was killed while it wrote left these.
            if entry
                .path()
                .extension()
                .is_some_and(|ending| ending == "part")
            {
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(Self { folder })
    }

    /// The index of `file`: from the cache, or built and put there. Blocks: meant for the
    /// blocking pool.
    ///
    /// # Errors
    /// [`IndexError`]. That the cache cannot be written is no error: the index then stays in memory.
    pub(super) fn index(&self, file: &LocalFile) -> Result<(Index, IndexFile), IndexError> {
        let stem = self.stem(&file.stamp());
        let index_path = stem.with_extension("index");
        if let Some(found) = load(&index_path) {
            return Ok((
                found.0,
                IndexFile {
                    mapped: Some(found.1),
                    stem,
                },
            ));
        }
        let draft = build_from(file).inspect_err(|error| {
            if let IndexError::Unfit(error) = error {
                telemetry::rejected(error.kind());
            }
        })?;
        file.unchanged()?;
        match write(&index_path, |out| draft.write(out)) {
            Ok(()) => {
                if let Some(found) = load(&index_path) {
                    return Ok((
                        found.0,
                        IndexFile {
                            mapped: Some(found.1),
                            stem,
                        },
                    ));
                }
            }
            Err(error) => {
                tracing::warn!(path = %index_path.display(), %error, "an index cannot be kept")
            }
        }
        let index = draft.into_index();
        Ok((index, IndexFile { mapped: None, stem }))
    }

    /// Deletes what belongs to none of these files.
    pub(super) fn sweep<'a>(&self, files: impl Iterator<Item = &'a AssetFile>) {
        let live: HashSet<_> = files.map(|file| self.stem(&file.stamp)).collect();
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return;
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let stem = name.split('.').next().unwrap_or_default();
            if !live.contains(&self.folder.join(stem)) {
                let _ = fs::remove_file(&path);
            }
        }
    }

    fn stem(&self, stamp: &Stamp) -> PathBuf {
        self.folder.join(stem_of(stamp))
    }
}

/// One name for one state of one file, so that a changed source finds no old index. Its path is no part of it: what
/// an ingest made in its hidden folder is found under the asset's name.
fn stem_of(stamp: &Stamp) -> String {
    let mut context = Context::new(&SHA256);
    context.update(&stamp.inode.to_be_bytes());
    context.update(&stamp.len.to_be_bytes());
    context.update(&stamp.modified_ns.to_be_bytes());
    context.update(&stamp.changed_ns.to_be_bytes());
    context.finish().as_ref()[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn load(path: &Path) -> Option<(Index, MappedFile)> {
    let mapped = MappedFile::open(path).ok()?;
    match Index::from_bytes(mapped.bytes()) {
        Ok(index) if mapped.intact() => Some((index, mapped)),
        Ok(_) => None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "an index file is not usable and is built anew");
            None
        }
    }
}

/// Builds the index of a source from its `moov`.
///
/// # Errors
/// [`IndexError`].
fn build_from(file: &LocalFile) -> Result<Draft, IndexError> {
    let mut finder = MoovFinder::new(file.len());
    while let Some(range) = finder.wants() {
        finder.feed(&read(file, range)?)?;
    }
    let moov = finder.found().ok_or(Fault::Truncated)?;
    Ok(draft(&read(file, moov.clone())?, moov.start, file.len())?)
}

fn read(file: &LocalFile, range: std::ops::Range<u64>) -> Result<Bytes, Fault> {
    let mut buffer =
        vec![0; usize::try_from(range.end - range.start).map_err(|_| Fault::Truncated)?];
    file.read_now(range, &mut buffer)?;
    Ok(buffer.into())
}

/// Puts a whole file in place: written beside and renamed, so that no reader sees half of one.
pub(super) fn write(
    path: &Path,
    content: impl FnOnce(&mut fs::File) -> io::Result<()>,
) -> io::Result<()> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let unique = format!(
        "{}-{}.part",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    );
    let part = path.with_extension(unique);
    // The cache may be deleted at any time, its folder too.
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let written = fs::File::create_new(&part).and_then(|mut file| content(&mut file));
    let renamed = written.and_then(|()| fs::rename(&part, path));
    if renamed.is_err() {
        let _ = fs::remove_file(&part);
    }
    renamed
}
