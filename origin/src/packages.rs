//! Which package answers for an asset: the current one, or one that was superseded and is still held.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use keystore_client::SealState;
use keystore_types::{AssetId, Label, ProtectionPolicy, Scheme};
use moka::future::Cache;
use origin_media::identity::{MediaId, MediaIds, Revision};
use origin_media::presentation::{Pack, Presentation, Track};

use crate::catalog::{Catalog, Title, TitleStanding};
use crate::error::Error;
use crate::keys::Keys;
use crate::package::{Package, assemble};

/// A named view of every title: what decides manifests and licences.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The name in manifest URLs.
    pub name: String,
    /// The name of its pack.
    pub pack: String,
    /// What is signalled; `None` exactly when the pack is clear.
    pub protection: Option<ProtectionPolicy>,
    /// The base of licence URLs, without a trailing slash.
    pub license_url: String,
    /// The largest pictures that its manifests list and its licences allow; `None`: all.
    pub max_video: Option<Label>,
    /// The version of the manifests' text.
    pub writer: u16,
}

impl Policy {
    fn compute_revision(&self, package: &Package) -> Revision {
        let protection = self.protection.as_ref().map(|protection| {
            let systems: Vec<_> = protection
                .systems
                .iter()
                .map(|system| format!("{system:?}"))
                .collect();
            format!(
                "{} {} {:?}",
                protection.scheme,
                systems.join(" "),
                protection.hls_clear_key
            )
        });
        let asset = package.title.asset.id.as_str();
        let writer = self.writer.to_string();
        let documents = [
            asset,
            &self.pack,
            protection.as_deref().unwrap_or("clear"),
            &self.license_url,
            &writer,
        ];
        // Without a bound there is no document, so that names stay what they were before there was one.
        let documents = documents
            .into_iter()
            .chain(self.max_video.map(Label::as_str));
        let listed = (package.presentation.tracks().iter().zip(&package.media_ids))
            .filter(|(track, _)| self.lists(track))
            .map(|(track, ids)| (track.name(), *ids));
        Revision::compute(documents.map(str::as_bytes), listed)
    }

    /// Whether its manifests list `track`.
    pub fn lists(&self, track: &Track) -> bool {
        self.max_video.is_none_or(|most| track.label().within(most))
    }
}

/// Packages by title and pack, made once for all workers.
pub struct Packages {
    catalog: Arc<Catalog>,
    keys: Keys,
    packs: BTreeMap<String, Pack>,
    tenant: String,
    hold: Duration,
    /// By title and pack. A lease ends sooner than what was worked out of the title.
    presentations: Cache<(u64, String), Result<Arc<Presentation>, Error>>,
    cache: Cache<(u64, String), Arc<Package>>,
    /// The titles that assets were before, newest first.
    held: Mutex<HashMap<AssetId, Vec<Superseded>>>,
}

/// A title that another took the place of.
struct Superseded {
    since: Instant,
    title: Arc<Title>,
}

/// Superseded titles held of one asset: each keeps its files open.
const HELD_PER_ASSET: usize = 8;

/// Packages kept, over all titles. One is a few hundred bytes for each track; what it refers to is kept elsewhere.
const CACHED: u64 = 20_000;

/// How long a package is kept that nobody asks for: while it is, its files stay open, and the space of those that
/// were deleted is not free.
const IDLE: Duration = Duration::from_secs(600);

/// How often titles that nobody may ask for any more are let go.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

impl Packages {
    /// Packages of the catalogue's titles under `packs`, with keys for the assets of `tenant`.
    pub fn new(
        catalog: Arc<Catalog>,
        keys: Keys,
        packs: BTreeMap<String, Pack>,
        tenant: String,
        hold: Duration,
    ) -> Self {
        Self {
            catalog,
            keys,
            packs,
            tenant,
            hold,
            presentations: Cache::builder()
                .max_capacity(CACHED)
                .time_to_idle(IDLE)
                .build(),
            cache: Cache::builder()
                .max_capacity(CACHED)
                .time_to_idle(IDLE)
                .build(),
            held: Mutex::default(),
        }
    }

    /// Where titles come from.
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// Where keys come from.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The packs, by name.
    pub fn packs(&self) -> &BTreeMap<String, Pack> {
        &self.packs
    }

    /// Whose keys these are.
    pub fn tenant(&self) -> &str {
        &self.tenant
    }

    /// The asset as it is now.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn current(&self, asset: &AssetId, pack: &str) -> Result<Arc<Package>, Error> {
        if !self.packs.contains_key(pack) {
            return Err(Error::NotFound);
        }
        let title = self.catalog.title(asset).await?;
        self.hold_superseded(asset);
        self.of_title(title, pack).await
    }

    /// The package whose track `name` has this id for its init segment or its segments, as `of` picks, and the
    /// track's position.
    ///
    /// # Errors
    /// [`Error::Gone`] when it was superseded too long ago or its source went away, else [`Error`].
    pub async fn with_media(
        &self,
        asset: &AssetId,
        pack: &str,
        name: &str,
        media_id: &str,
        of: impl Fn(&MediaIds) -> MediaId,
    ) -> Result<(Arc<Package>, usize), Error> {
        let wanted: MediaId = media_id.parse().map_err(|_| Error::NotFound)?;
        let found = |package: Arc<Package>| {
            let (number, _) = package.track(name)?;
            (of(&package.media_ids[number]) == wanted).then_some((package, number))
        };
        self.find(asset, pack, media_id, found).await
    }

    /// The revision of the manifests of `package` under `policy`.
    pub fn revision(&self, policy: &Policy, package: &Package) -> Revision {
        package.revision_under(&policy.name, || {
            let revision = policy.compute_revision(package);
            self.publish(&package.title.asset.id, vec![revision.to_string()]);
            revision
        })
    }

    /// Records names that manifests and media have from now on. Nobody waits for it: what a power cut loses of it
    /// makes a name that is gone one that never was.
    fn publish(&self, asset: &AssetId, ids: Vec<String>) {
        let (store, asset) = (self.catalog.store().clone(), asset.clone());
        self.catalog.control().spawn(async move {
            if let Err(error) = store.publish(&asset, &ids).await {
                tracing::warn!(%asset, %error, "published names are not recorded: once superseded, they are not found instead of gone");
            }
        });
    }

    /// The package of this revision under `policy`.
    ///
    /// # Errors
    /// [`Error::Gone`] when it was superseded too long ago or its source went away, else [`Error`].
    pub async fn with_revision(
        &self,
        asset: &AssetId,
        policy: &Policy,
        revision: &str,
    ) -> Result<(Arc<Package>, Revision), Error> {
        let wanted: Revision = revision.parse().map_err(|_| Error::NotFound)?;
        let found = |package: Arc<Package>| {
            (self.revision(policy, &package) == wanted).then_some((package, wanted))
        };
        self.find(asset, &policy.pack, revision, found).await
    }

    /// Tries the current package, then those still held; then tells gone from never there.
    async fn find<T>(
        &self,
        asset: &AssetId,
        pack: &str,
        id: &str,
        found: impl Fn(Arc<Package>) -> Option<T>,
    ) -> Result<T, Error> {
        let current = self.current(asset, pack).await;
        let absent = match current {
            Ok(package) => match found(package) {
                Some(found) => return Ok(found),
                None => Error::NotFound,
            },
            Err(error @ (Error::NotFound | Error::Unfit { .. })) => error,
            Err(error) => return Err(error),
        };
        Box::pin(self.find_superseded(asset, pack, id, found, absent)).await
    }

    /// Tries the packages that are still held; then tells gone from never there, which is `absent`.
    async fn find_superseded<T>(
        &self,
        asset: &AssetId,
        pack: &str,
        id: &str,
        found: impl Fn(Arc<Package>) -> Option<T>,
        absent: Error,
    ) -> Result<T, Error> {
        for title in self.superseded(asset) {
            if let Some(found) = found(self.of_title(title, pack).await?) {
                return Ok(found);
            }
        }
        let store = self.catalog.store().clone();
        let (asset, id) = (asset.clone(), id.to_owned());
        let published = self
            .catalog
            .on_control(async move { store.was_published(&asset, &id).await })
            .await?;
        Err(if published { Error::Gone } else { absent })
    }

    /// The package of an open title, with good keys.
    async fn of_title(&self, title: Arc<Title>, pack: &str) -> Result<Arc<Package>, Error> {
        let key = (title.serial, pack.to_owned());
        let held = self.cache.get(&key).await;
        if let Some(package) = &held {
            if package.keys_good() {
                return Ok(Arc::clone(package));
            }
            self.cache.invalidate(&key).await;
        }
        // On the heap: a request's future is moved more than once, and most never come here.
        Box::pin(self.make_good(title, key, held)).await
    }

    /// The package of an open title, made under a new lease in place of what is `held`.
    async fn make_good(
        &self,
        title: Arc<Title>,
        key: (u64, String),
        held: Option<Arc<Package>>,
    ) -> Result<Arc<Package>, Error> {
        let pack = self.packs.get(&key.1).ok_or(Error::NotFound)?;
        let made = self
            .cache
            .try_get_with(key.clone(), self.make(title, pack))
            .await;
        match (made, held) {
            // A lease runs to its term while the keystore is away.
            (Err(error), Some(package))
                if matches!(*error, Error::Keystore(_)) && !package.keys_ended() =>
            {
                self.cache.insert(key, Arc::clone(&package)).await;
                Ok(package)
            }
            (made, _) => made.map_err(|error: Arc<Error>| (*error).clone()),
        }
    }

    /// The tracks of a title under a pack, or why there are none, which is said once.
    async fn assemble(&self, title: &Arc<Title>, pack: &Pack) -> Result<Arc<Presentation>, Error> {
        let (of, under) = (Arc::clone(title), pack.clone());
        let assembled = self
            .catalog
            .control()
            .spawn_blocking(move || assemble(&of, &under))
            .await
            .map_err(Error::internal)?;
        if let Err(error) = &assembled {
            tracing::warn!(pack = pack.name, %error, "an asset is not served");
        }
        assembled.map(Arc::new)
    }

    async fn make(&self, title: Arc<Title>, pack: &Pack) -> Result<Arc<Package>, Error> {
        // Nothing is worked out for a refusal.
        if pack.scheme.is_some() && self.keys.seal_state() == SealState::Sealed {
            return Err(Error::Sealed);
        }
        let key = (title.serial, pack.name.clone());
        let presentation = self
            .presentations
            .get_with(key, self.assemble(&title, pack))
            .await?;
        let contexts = presentation.key_contexts(&self.tenant, &title.asset.id);
        let keys = if contexts.is_empty() {
            None
        } else {
            Some(self.keys.lease(contexts).await?)
        };
        let package = Arc::new(Package::new(title, presentation, keys)?);
        let ids: Vec<_> = package
            .media_ids
            .iter()
            .flat_map(|ids| [ids.init.to_string(), ids.segments.to_string()])
            .collect();
        self.publish(&package.title.asset.id, ids);
        Ok(package)
    }

    /// Holds the title that the asset's present one took the place of, if it did just now.
    fn hold_superseded(&self, asset: &AssetId) {
        let Some(before) = self.catalog.take_superseded(asset) else {
            return;
        };
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let titles = held.entry(asset.clone()).or_default();
        let superseded = Superseded {
            since: Instant::now(),
            title: before,
        };
        titles.insert(0, superseded);
        titles.truncate(HELD_PER_ASSET);
    }

    /// Lets go of titles again and again, until dropped.
    pub async fn keep_sweeping(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(SWEEP_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.sweep();
            self.cache.run_pending_tasks().await;
            self.presentations.run_pending_tasks().await;
        }
    }

    /// Lets go of what was superseded longer ago than the hold, and of assets that are no longer in the folder.
    fn sweep(&self) {
        let listing = self.catalog.listing();
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|asset, titles| {
            titles.retain(|held| held.since.elapsed() < self.hold);
            !titles.is_empty() && listing.assets.contains_key(asset)
        });
    }

    /// Titles that the asset was within the hold, newest first, whose open files are still whole.
    fn superseded(&self, asset: &AssetId) -> Vec<Arc<Title>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(titles) = held.get_mut(asset) else {
            return Vec::new();
        };
        titles.retain(|held| {
            held.since.elapsed() < self.hold && held.title.standing() < TitleStanding::Overwritten
        });
        titles.iter().map(|held| Arc::clone(&held.title)).collect()
    }
}

/// The scheme of a pack as it is configured.
pub(crate) fn scheme(pack: conf::PackScheme) -> Option<Scheme> {
    match pack {
        conf::PackScheme::Cbcs => Some(Scheme::Cbcs),
        conf::PackScheme::Cenc => Some(Scheme::Cenc),
        conf::PackScheme::Clear => None,
    }
}
