//! An asset with its files opened: what plans and responses are made from.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use keystore_types::AssetId;
use origin_media::identity::SourceIdentity;
use origin_media::index::Index;
use origin_media::index::protection::ProtectionMap;

use super::index_cache::IndexFile;
use super::{Asset, AssetFile, Sighting};
use crate::error::Error;
use crate::storage::{Fault, LocalFile, Source, Stamp};

/// An asset whose files are open, mapped and indexed.
#[derive(Debug)]
pub struct Title {
    /// Tells this opening from every other of the process.
    pub serial: u64,
    /// The asset as the folder listed it.
    pub asset: Arc<Asset>,
    /// The files that can be packaged, by name; at least one.
    pub sources: Vec<OpenSource>,
    /// The files that cannot, each with the reason.
    pub refused: Vec<(String, String)>,
    looks: Looks,
}

/// When a title's files were looked at last and stood as they were opened.
#[derive(Debug)]
struct Looks {
    opened: Instant,
    /// In milliseconds from then.
    last: AtomicU64,
}

/// How long a look at the files is believed. Each costs two system calls a file, and a thousand requests may come in
/// that time; what is sent of a file is checked against it by itself.
const BELIEVED: Duration = Duration::from_millis(10);

/// One open mezzanine file.
#[derive(Debug)]
pub struct OpenSource {
    /// Its name without the extension.
    pub name: String,
    /// Where it was opened.
    pub path: PathBuf,
    /// Its bytes.
    pub file: Arc<LocalFile>,
    /// Its index, mapped.
    pub index: Arc<Index>,
    /// The mapped index file, and the protection maps beside it.
    pub(super) index_file: IndexFile,
    /// What it is, whichever node it is on.
    pub identity: SourceIdentity,
    /// Which content of that identity it is.
    pub number: u32,
    /// The protection map of each track of the index, where there is one.
    pub(super) maps: Vec<ArcSwapOption<ProtectionMap>>,
}

/// How an open title stands beside the files that lie at its paths now, from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// The same files.
    Current,
    /// Another file was renamed over one of them. What is open is whole and can be served on.
    Replaced,
    /// One of them was deleted.
    Deleted,
    /// One of them was written to or cut short: nothing that is open may be served on.
    Overwritten,
}

impl Title {
    /// Makes a title of an asset's files, each opened or not. Files that cannot be packaged are left out.
    ///
    /// # Errors
    /// [`Error::Unfit`] when none is left; the first other error of a file.
    pub(super) fn gather<'a>(
        asset: &Arc<Asset>,
        files: impl IntoIterator<Item = (&'a AssetFile, Result<OpenSource, Error>)>,
    ) -> Result<Self, Error> {
        let mut sources = Vec::new();
        let mut refused = Vec::new();
        for (file, opened) in files {
            match opened {
                Ok(source) => sources.push(source),
                Err(Error::Unfit { reason, .. }) => refused.push((file.name.clone(), reason)),
                Err(error) => return Err(error),
            }
        }
        if sources.is_empty() {
            let reasons: Vec<_> = refused
                .iter()
                .map(|(name, reason)| format!("{name}: {reason}"))
                .collect();
            return Err(Error::Unfit {
                asset: asset.id.clone(),
                reason: reasons.join("; "),
            });
        }
        Ok(Self::of(Arc::clone(asset), sources, refused))
    }

    /// A title of files that have just been opened.
    pub(super) fn of(
        asset: Arc<Asset>,
        sources: Vec<OpenSource>,
        refused: Vec<(String, String)>,
    ) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            serial: NEXT.fetch_add(1, Ordering::Relaxed),
            asset,
            sources,
            refused,
            looks: Looks::begin(),
        }
    }

    /// Says what was taken up and what was not, once for each opening.
    pub(super) fn announce(&self) {
        let asset = &self.asset.id;
        for (file, reason) in &self.refused {
            tracing::warn!(%asset, file, reason, "a file is left out");
        }
        for source in &self.sources {
            for track in source.index.ignored() {
                let (file, what) = (&source.name, &track.what);
                tracing::info!(%asset, file, track = track.track_id, what, reason = track.reason, "a track is ignored");
            }
        }
        let tracks: usize = self
            .sources
            .iter()
            .map(|source| source.index.tracks().len())
            .sum();
        tracing::info!(%asset, files = self.sources.len(), tracks, "an asset is served");
    }

    /// Whether the title was found current a moment ago, as what its asset is served from: no look is taken.
    pub fn was_just_current(&self) -> bool {
        self.looks.is_fresh()
    }

    /// Whether the files at its paths are still those that are open, as of now or of a moment ago.
    pub fn is_current(&self) -> bool {
        if self.looks.is_fresh() {
            return true;
        }
        let is_current = self.standing() == Standing::Current;
        if is_current {
            self.looks.note();
        }
        is_current
    }

    /// Looks at every file.
    pub fn standing(&self) -> Standing {
        self.sources
            .iter()
            .map(OpenSource::standing)
            .max()
            .unwrap_or(Standing::Current)
    }
}

impl Looks {
    /// For files that have just been opened, and not been looked at since.
    fn begin() -> Self {
        Self {
            opened: Instant::now(),
            last: AtomicU64::new(0),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn is_fresh(&self) -> bool {
        let last = self.last.load(Ordering::Relaxed);
        last > 0 && u128::from(self.now().saturating_sub(last)) < BELIEVED.as_millis()
    }

    fn note(&self) {
        self.last.store(self.now().max(1), Ordering::Relaxed);
    }
}

impl OpenSource {
    fn standing(&self) -> Standing {
        if self.unchanged().is_err() {
            return Standing::Overwritten;
        }
        match std::fs::metadata(&self.path) {
            Ok(metadata) => {
                let now = Stamp::of(&metadata);
                let opened = self.file.stamp();
                let same_file = now.inode == opened.inode && now.device == opened.device;
                if same_file {
                    Standing::Current
                } else {
                    Standing::Replaced
                }
            }
            Err(_) => Standing::Deleted,
        }
    }

    /// Which bytes of the samples of track `number` are protected, once that is known for all of them.
    pub fn protection_map(&self, number: usize) -> Option<Arc<ProtectionMap>> {
        self.maps[number].load_full()
    }

    /// What the catalogue remembers a file by.
    pub(super) fn sighting<'a>(&'a self, asset: &'a AssetId) -> Sighting<'a> {
        Sighting {
            asset,
            name: &self.name,
            identity: *self.identity.as_bytes(),
            stamp: self.file.stamp(),
        }
    }

    /// Whether what was read through this handle, media and index, is still what was opened.
    ///
    /// # Errors
    /// A [`Fault`].
    pub fn unchanged(&self) -> Result<(), Fault> {
        if !self.index_file.intact() {
            return Err(Fault::Truncated);
        }
        self.file.unchanged()
    }
}
