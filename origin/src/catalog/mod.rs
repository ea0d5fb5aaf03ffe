//! What there is to serve: the media root as a list of assets, and each asset as an open title.
//!
//! The folder is looked through on the control thread; a title's files are opened, indexed and compared with
//! the catalogue's memory on the blocking pool, by one caller while the others wait. Workers take what is
//! there with one atomic load.

mod content;
mod index_cache;
mod protection;
mod scan;
mod shelf;
mod store;
mod title;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use keystore_types::AssetId;
use origin_media::error::ParseErrorKind;
use origin_media::identity::{SourceIdentity, probe_ranges};
use tokio::runtime::Handle;

use crate::error::Error;
use crate::storage::{Fault, LocalFile, Source as _, Stamp, Storage};
use index_cache::{IndexCache, IndexError};
pub(crate) use scan::film_stem;
pub use scan::{Asset, AssetFile, LeftOut, Listing};
use shelf::{Shelf, Slot};
pub use store::{ContentDigest, Sighting, Standing, Store};
pub use title::{OpenSource, Standing as TitleStanding, Title};

/// The assets of a media root.
pub struct Catalog {
    control: Handle,
    storage: Storage,
    store: Store,
    indexes: IndexCache,
    scanner: Mutex<scan::Scanner>,
    listing: ArcSwap<Listing>,
    shelf: Shelf,
    /// One source is read in full at a time, so that the disk is left to viewers.
    reading: tokio::sync::Semaphore,
    /// The sources that are read in full or wait for it, so that each is only once, however many viewers ask for it.
    to_read: Mutex<HashSet<(AssetId, String, Stamp)>>,
}

/// How often index files of sources that are gone are deleted.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);

/// A file that was read in full.
#[derive(Clone, Debug)]
pub struct ReadFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its stat before it was read, and after.
    pub stamp: Stamp,
    /// What was read.
    pub digest: ContentDigest,
}

/// Where the catalogue lives.
#[derive(Clone, Debug)]
pub struct CatalogPaths {
    /// The media root.
    pub media_root: PathBuf,
    /// What must survive.
    pub state_dir: PathBuf,
    /// What may be deleted.
    pub cache_dir: PathBuf,
}

impl Catalog {
    /// Opens the catalogue and looks through the folder once. Background work runs on `control`.
    ///
    /// # Errors
    /// If the folders or the database cannot be opened.
    pub async fn open(
        paths: &CatalogPaths,
        settle: Duration,
        storage: Storage,
        control: Handle,
    ) -> Result<Arc<Self>, Error> {
        let store = Store::open(&paths.state_dir)
            .await
            .map_err(Error::internal)?;
        let indexes = IndexCache::open(&paths.cache_dir).map_err(Error::internal)?;
        let catalog = Arc::new(Self {
            control,
            storage,
            store,
            indexes,
            scanner: Mutex::new(scan::Scanner::new(paths.media_root.clone(), settle)),
            listing: ArcSwap::from_pointee(Listing::default()),
            shelf: Shelf::new(),
            reading: tokio::sync::Semaphore::new(1),
            to_read: Mutex::default(),
        });
        catalog.scan().await?;
        Ok(catalog)
    }

    /// Looks through the folder now.
    ///
    /// # Errors
    /// If the media root cannot be listed; what was listed before then stays.
    pub async fn scan(self: &Arc<Self>) -> Result<(), Error> {
        let catalog = Arc::clone(self);
        self.blocking(move || {
            let mut scanner = catalog
                .scanner
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let listing = scanner.look(SystemTime::now()).map_err(Error::internal)?;
            let before = catalog.listing.load();
            let listing = listing.following(&before);
            for left in listing.left_out.iter().filter(|left| !before.left_out.contains(left)) {
                tracing::warn!(path = %left.path.display(), reason = left.reason, "left out of the media root");
            }
            catalog.listing.store(Arc::new(listing));
            Ok(())
        })
        .await
    }

    /// Looks through the folder again and again, until dropped.
    pub async fn keep_scanning(self: Arc<Self>, every: Duration) {
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut swept = None;
        loop {
            ticks.tick().await;
            if swept.is_none_or(|at: std::time::Instant| at.elapsed() > SWEEP_EVERY) {
                self.indexes.sweep(
                    self.listing
                        .load()
                        .assets
                        .values()
                        .flat_map(|asset| &asset.files),
                );
                swept = Some(std::time::Instant::now());
            }
            if let Err(error) = self.scan().await {
                tracing::error!(%error, "the media root cannot be listed; what was there before is served on");
            }
            self.shelf.tidy(&self.listing.load());
        }
    }

    /// The runtime of background work.
    pub fn control(&self) -> &Handle {
        &self.control
    }

    /// Runs a question to the database on the control runtime, where its connection lives.
    ///
    /// # Errors
    /// [`Error::Internal`].
    pub async fn on_control<T: Send + 'static>(
        &self,
        question: impl Future<Output = Result<T, sqlx::Error>> + Send + 'static,
    ) -> Result<T, Error> {
        self.control
            .spawn(question)
            .await
            .map_err(Error::internal)?
            .map_err(Error::internal)
    }

    /// What the folder holds.
    pub fn listing(&self) -> Arc<Listing> {
        self.listing.load_full()
    }

    /// What the origin remembers.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Where the storage's cold bytes come from.
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    /// The asset's open title, opened now if need be.
    ///
    /// A file that another was renamed over is served on from the open one until the new one is settled and
    /// opened, so that a replacement is never seen as an outage.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Unfit`], [`Error::Settling`], [`Error::Quarantined`], [`Error::Storage`].
    pub async fn title(self: &Arc<Self>, id: &AssetId) -> Result<Arc<Title>, Error> {
        let listing = self.listing.load_full();
        let asset = Arc::clone(listing.assets.get(id).ok_or(Error::NotFound)?);
        let slot = self.shelf.slot(id);
        if let Some(known) = slot.known(&asset) {
            return known;
        }
        // A task of its own: a viewer who goes away must not leave a half-made opening that the next one repeats.
        let catalog = Arc::clone(self);
        self.control
            .spawn(async move { catalog.open_in(&slot, asset).await })
            .await
            .map_err(Error::internal)?
    }

    /// The title that the asset's present one took the place of, once.
    pub fn take_superseded(&self, id: &AssetId) -> Option<Arc<Title>> {
        self.shelf.slot(id).take_superseded()
    }

    /// Opens the title of a slot, unless another task did while this one waited.
    async fn open_in(
        self: &Arc<Self>,
        slot: &Slot,
        asset: Arc<Asset>,
    ) -> Result<Arc<Title>, Error> {
        let _opening = slot.opening.lock().await;
        if let Some(known) = slot.known(&asset) {
            return known;
        }
        match self.open_title(Arc::clone(&asset)).await {
            Ok(title) => {
                let title = Arc::new(title);
                title.announce();
                slot.put(&title);
                self.map_in_full(Arc::clone(&title));
                Ok(title)
            }
            Err(error) => match (slot.title(), &error) {
                (Some(title), Error::Settling { .. } | Error::Quarantined { .. })
                    if title.standing() == TitleStanding::Replaced =>
                {
                    Ok(title)
                }
                (Some(title), _) if title.standing() == TitleStanding::Deleted => {
                    slot.clear();
                    Err(Error::NotFound)
                }
                (_, Error::Unfit { .. }) => {
                    tracing::warn!(%error, "an asset is not served");
                    slot.refuse(asset, error.clone());
                    Err(error)
                }
                _ => Err(error),
            },
        }
    }

    async fn open_title(self: &Arc<Self>, asset: Arc<Asset>) -> Result<Title, Error> {
        let mut opened = Vec::new();
        for file in &asset.files {
            opened.push((file, self.open_source(&asset.id, file).await));
        }
        Title::gather(&asset, opened)
    }

    /// Takes up files whose content is known, as they are, before they have stood still: `ingest` wrote them.
    ///
    /// # Errors
    /// [`Error`] when a file cannot be opened or the catalogue cannot be written.
    pub async fn adopt(self: &Arc<Self>, id: &AssetId, files: Vec<ReadFile>) -> Result<(), Error> {
        for ReadFile {
            path,
            stamp,
            digest,
        } in files
        {
            let (catalog, asset) = (Arc::clone(self), id.clone());
            let source = self
                .blocking(move || {
                    catalog
                        .scanner
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .trust(&path);
                    let name = path
                        .file_stem()
                        .unwrap_or_default()
                        .to_string_lossy()
                        .into_owned();
                    // With another stamp it is refused: the digest is then that of other bytes.
                    catalog.open_file(&asset, &AssetFile { name, path, stamp })
                })
                .await;
            let source = match source {
                // A file without a fit track has no identity and needs no number.
                Err(Error::Unfit { .. }) => continue,
                source => source?,
            };
            let sighting = source.sighting(id);
            match self.store.sight(&sighting).await.map_err(Error::internal)? {
                Standing::Known(number) => {
                    self.store
                        .learn(&sighting, number, digest)
                        .await
                        .map_err(Error::internal)?;
                }
                Standing::Quarantined => {
                    self.store
                        .settle(&sighting, digest)
                        .await
                        .map_err(Error::internal)?;
                }
            }
        }
        self.scan().await
    }

    async fn open_source(
        self: &Arc<Self>,
        asset: &AssetId,
        file: &AssetFile,
    ) -> Result<OpenSource, Error> {
        let catalog = Arc::clone(self);
        let (id, wanted) = (asset.clone(), file.clone());
        let mut source = self
            .blocking(move || catalog.open_file(&id, &wanted))
            .await?;
        let number = match self
            .store
            .sight(&source.sighting(asset))
            .await
            .map_err(Error::internal)?
        {
            Standing::Known(number) => number,
            Standing::Quarantined => {
                self.read_in_full(asset, &source, None);
                return Err(Error::Quarantined {
                    asset: asset.clone(),
                });
            }
        };
        let digest = self
            .store
            .digest(&source.sighting(asset), number)
            .await
            .map_err(Error::internal)?;
        if digest.is_none() {
            self.read_in_full(asset, &source, Some(number));
        }
        source.number = number;
        Ok(source)
    }

    /// Opens and indexes one file. Blocks.
    fn open_file(&self, asset: &AssetId, wanted: &AssetFile) -> Result<OpenSource, Error> {
        let settling = || Error::Settling {
            asset: asset.clone(),
        };
        let file = self
            .storage
            .open(&wanted.path)
            .map_err(|fault| match fault {
                // Deleted since the folder was looked through.
                Fault::Io(error) if error.kind() == std::io::ErrorKind::NotFound => Error::NotFound,
                fault => Error::Storage(fault),
            })?;
        if file.stamp() != wanted.stamp && !is_same_but_for_links(&file.stamp(), &wanted.stamp) {
            return Err(settling());
        }
        let (index, index_file) = match self.indexes.index(&file) {
            Ok(found) => found,
            Err(IndexError::Unfit(error)) if error.kind() == ParseErrorKind::Incomplete => {
                let reason = format!("not complete yet: {error}");
                return Err(Error::Unfit {
                    asset: asset.clone(),
                    reason,
                });
            }
            Err(IndexError::Unfit(error)) => {
                return Err(Error::Unfit {
                    asset: asset.clone(),
                    reason: error.to_string(),
                });
            }
            Err(IndexError::Storage(Fault::Changed | Fault::Truncated)) => return Err(settling()),
            Err(IndexError::Storage(fault)) => return Err(Error::Storage(fault)),
        };
        let identity = identify(&index, &file)?;
        let maps = protection::load(&index, &index_file);
        Ok(OpenSource {
            name: wanted.name.clone(),
            path: wanted.path.clone(),
            file: Arc::new(file),
            index: Arc::new(index),
            index_file,
            identity,
            number: 0,
            maps,
        })
    }

    /// Finds the protected bytes of every sample of a title in the background. Until then each segment is looked at
    /// when it is first asked for.
    fn map_in_full(self: &Arc<Self>, title: Arc<Title>) {
        let catalog = Arc::clone(self);
        self.control.spawn(async move {
            let Ok(_turn) = catalog.reading.acquire().await else {
                return;
            };
            let mapper = Arc::clone(&catalog);
            let mapped = in_background(move || {
                let map = |source| mapper.map_protection(&title.asset.id, source);
                title.sources.iter().try_for_each(map)
            });
            if let Err(error) = mapped.await {
                tracing::warn!(%error, "a protection map could not be made");
            }
        });
    }

    /// Finds the protected bytes of every sample of a source, for both schemes, and keeps them beside its index.
    /// Blocks.
    ///
    /// # Errors
    /// [`Error::Unfit`] when a sample is malformed, [`Error::Storage`].
    pub fn map_protection(&self, asset: &AssetId, source: &OpenSource) -> Result<(), Error> {
        protection::build(source).map_err(|error| match error {
            IndexError::Unfit(error) => Error::Unfit {
                asset: asset.clone(),
                reason: error.to_string(),
            },
            IndexError::Storage(fault) => Error::Storage(fault),
        })
    }

    /// The files at `paths` as a title that is not served: for a check before they are published. Blocks.
    ///
    /// # Errors
    /// [`Error::Unfit`], [`Error::Storage`].
    pub fn try_out(&self, id: &AssetId, paths: &[PathBuf]) -> Result<Title, Error> {
        let mut files = Vec::new();
        for path in paths {
            let name = path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let stamp = Stamp::of(&std::fs::metadata(path).map_err(Fault::from)?);
            files.push(AssetFile {
                name,
                path: path.clone(),
                stamp,
            });
        }
        let asset = Arc::new(Asset {
            id: id.clone(),
            files,
            unsettled: 0,
        });
        Title::gather(
            &asset,
            asset
                .files
                .iter()
                .map(|file| (file, self.open_file(id, file))),
        )
    }

    /// Reads a source in full in the background: to end its quarantine, or to know its content by later.
    fn read_in_full(self: &Arc<Self>, asset: &AssetId, source: &OpenSource, number: Option<u32>) {
        let (name, stamp) = (source.name.clone(), source.file.stamp());
        let wanted = (asset.clone(), name.clone(), stamp);
        let to_read = || self.to_read.lock().unwrap_or_else(PoisonError::into_inner);
        if !to_read().insert(wanted.clone()) {
            return;
        }
        let catalog = Arc::clone(self);
        let (identity, file) = (*source.identity.as_bytes(), Arc::clone(&source.file));
        self.control.spawn(async move {
            let sighting = Sighting { asset: &wanted.0, name: &name, identity, stamp };
            match catalog.learn_content(&sighting, &file, number).await {
                Ok(number) => {
                    tracing::info!(asset = %wanted.0, file = name, number, "a source was read in full");
                }
                Err(error) => {
                    tracing::warn!(asset = %wanted.0, file = name, %error, "a source could not be read in full");
                }
            }
            let mut to_read = catalog.to_read.lock().unwrap_or_else(PoisonError::into_inner);
            to_read.remove(&wanted);
        });
    }

    /// Reads a source in full and notes its digest: of content `number`, or to find which content it is.
    async fn learn_content(
        &self,
        sighting: &Sighting<'_>,
        file: &Arc<LocalFile>,
        number: Option<u32>,
    ) -> Result<u32, Error> {
        let _turn = self.reading.acquire().await.map_err(Error::internal)?;
        let reader = Arc::clone(file);
        let read = move || Ok(content::digest(&reader)?);
        let digest = match number {
            Some(_) => in_background(read).await?,
            // Viewers wait for the end of a quarantine.
            None => self.blocking(read).await?,
        };
        let noted = match number {
            Some(number) => self
                .store
                .learn(sighting, number, digest)
                .await
                .map(|()| number),
            None => self.store.settle(sighting, digest).await,
        };
        noted.map_err(Error::internal)
    }

    /// Runs something that blocks on the control runtime's blocking pool.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.control
            .spawn_blocking(work)
            .await
            .unwrap_or_else(|error| Err(Error::internal(error)))
    }
}

/// The weight of threads in the background: what viewers leave over of the processor, and a sixtieth where they leave
/// nothing.
const NICENESS: i32 = 19;

/// Runs something long that blocks, and that no viewer waits for, on a thread of its own.
async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let (done, outcome) = tokio::sync::oneshot::channel();
    thread::Builder::new()
        .name("background".to_owned())
        .spawn(move || {
            // On Linux it is the thread's own. Where it is refused, the work is done all the same.
            let _ = rustix::process::setpriority_process(None, NICENESS);
            let _ = done.send(work());
        })
        .map_err(Error::internal)?;
    outcome.await.map_err(Error::internal)?
}

/// A hard link made or removed since the look through the folder changes nothing.
fn is_same_but_for_links(now: &Stamp, then: &Stamp) -> bool {
    now.links != then.links && then.same_content(now)
}

/// The source identity, from probes that are read and never mapped. Blocks.
fn identify(index: &origin_media::index::Index, file: &LocalFile) -> Result<SourceIdentity, Error> {
    let mut probes = Vec::new();
    for range in probe_ranges(file.len()) {
        let mut buffer =
            vec![0; usize::try_from(range.end - range.start).map_err(Error::internal)?];
        file.read_now(range.clone(), &mut buffer)?;
        probes.push((range, buffer));
    }
    file.unchanged()?;
    let probes: Vec<_> = probes
        .iter()
        .map(|(range, bytes)| (range.clone(), &bytes[..]))
        .collect();
    Ok(SourceIdentity::compute(index, &probes))
}
