//! The open titles: each stands here from its first request until nobody has asked for it for a while.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use keystore_types::AssetId;

use super::{Asset, Listing, Title};
use crate::error::Error;

/// How long a title stays open that nobody asks for.
const IDLE: Duration = Duration::from_secs(600);

/// Files that stay open together, over all titles: each is a descriptor and up to three mappings, and Linux gives a
/// process 65,530 mappings (`vm.max_map_count`). Above it, those go first that were asked for longest ago.
const OPEN_FILES: usize = 16_384;

/// One place for each asset that was asked for.
pub(super) struct Shelf {
    slots: Mutex<HashMap<AssetId, Arc<Slot>>>,
    begun: Instant,
}

/// Where an asset's title stands, and who may open it.
#[derive(Default)]
pub(super) struct Slot {
    title: ArcSwapOption<Title>,
    /// The title before this one, until those who hold superseded titles have taken it.
    before: ArcSwapOption<Title>,
    /// Why the asset cannot be packaged, so that its files are not parsed again for each request.
    unfit: ArcSwapOption<(Arc<Asset>, Error)>,
    /// Held while the title is opened: by one, while the others wait.
    pub(super) opening: tokio::sync::Mutex<()>,
    /// When it was asked for last, in seconds since the shelf was made.
    used: AtomicU64,
}

impl Shelf {
    pub(super) fn new() -> Self {
        Self {
            slots: Mutex::default(),
            begun: Instant::now(),
        }
    }

    /// The place of an asset, which counts as asked for now.
    pub(super) fn slot(&self, id: &AssetId) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = slots.entry(id.clone()).or_default();
        slot.used.store(self.now(), Ordering::Relaxed);
        Arc::clone(slot)
    }

    /// Closes what is no longer listed, what nobody asked for in a while, and what is too much.
    pub(super) fn tidy(&self, listing: &Listing) {
        self.close(listing, IDLE, OPEN_FILES);
    }

    fn close(&self, listing: &Listing, idle: Duration, open_files: usize) {
        let now = self.now();
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|id, slot| {
            let used = Duration::from_secs(now - slot.used.load(Ordering::Relaxed).min(now));
            listing.assets.contains_key(id) && used <= idle
        });
        let files = |slot: &Slot| {
            slot.title
                .load()
                .as_ref()
                .map_or(0, |title| title.asset.files.len())
        };
        let mut open: usize = slots.values().map(|slot| files(slot)).sum();
        if open <= open_files {
            return;
        }
        let mut by_age: Vec<_> = slots
            .iter()
            .map(|(id, slot)| (slot.used.load(Ordering::Relaxed), id.clone(), files(slot)))
            .collect();
        by_age.sort();
        for (_, id, files) in by_age {
            if open <= open_files {
                break;
            }
            slots.remove(&id);
            open -= files;
        }
    }

    fn now(&self) -> u64 {
        self.begun.elapsed().as_secs()
    }
}

impl Slot {
    /// What is known of the asset as it is listed: its open title, if its files are still the same, or why it has none.
    pub(super) fn known(&self, asset: &Arc<Asset>) -> Option<Result<Arc<Title>, Error>> {
        let open = self.title.load_full().filter(|title| {
            let is_same = Arc::ptr_eq(&title.asset, asset) || title.asset.files == asset.files;
            is_same && title.is_current()
        });
        if let Some(title) = open {
            return Some(Ok(title));
        }
        let unfit = self.unfit.load_full()?;
        (unfit.0.files == asset.files).then(|| Err(unfit.1.clone()))
    }

    /// The title, whatever has become of its files.
    pub(super) fn title(&self) -> Option<Arc<Title>> {
        self.title.load_full()
    }

    /// The title that the present one took the place of, once.
    pub(super) fn take_superseded(&self) -> Option<Arc<Title>> {
        self.before.swap(None)
    }

    /// Puts an opened title in its place.
    pub(super) fn put(&self, title: &Arc<Title>) {
        let before = self.title.swap(Some(Arc::clone(title)));
        self.before.store(before);
        self.unfit.store(None);
    }

    /// Remembers why the asset has no title.
    pub(super) fn refuse(&self, asset: Arc<Asset>, error: Error) {
        self.unfit.store(Some(Arc::new((asset, error))));
    }

    /// Closes the title.
    pub(super) fn clear(&self) {
        self.title.store(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(names: &[&str]) -> Listing {
        let mut listing = Listing::default();
        for name in names {
            let id: AssetId = name.parse().unwrap();
            let asset = Asset {
                id: id.clone(),
                files: Vec::new(),
                unsettled: 0,
            };
            listing.assets.insert(id, Arc::new(asset));
        }
        listing
    }

    fn names(shelf: &Shelf) -> Vec<String> {
        let slots = shelf.slots.lock().unwrap();
        let mut names: Vec<_> = slots.keys().map(ToString::to_string).collect();
        names.sort();
        names
    }

    fn title_of_two_files(name: &str) -> Title {
        let stamp = crate::storage::Stamp::of(&std::fs::metadata("/").unwrap());
        let file = |name: &str| super::super::AssetFile {
            name: name.to_owned(),
            path: name.into(),
            stamp,
        };
        let asset = Asset {
            id: name.parse().unwrap(),
            files: vec![file("high"), file("low")],
            unsettled: 0,
        };
        Title::of(Arc::new(asset), Vec::new(), Vec::new())
    }

    fn asked(shelf: &Shelf, name: &str, title: bool) {
        let slot = shelf.slot(&name.parse().unwrap());
        if title {
            slot.put(&Arc::new(title_of_two_files(name)));
        }
    }

    #[test]
    fn what_left_the_folder_is_closed() {
        let shelf = Shelf::new();
        asked(&shelf, "a", false);
        asked(&shelf, "b", false);
        shelf.tidy(&listing(&["b"]));
        assert_eq!(names(&shelf), ["b"]);
    }

    #[test]
    fn what_nobody_asks_for_is_closed() {
        let shelf = Shelf {
            slots: Mutex::default(),
            begun: Instant::now()
                .checked_sub(Duration::from_secs(1000))
                .unwrap(),
        };
        asked(&shelf, "a", false);
        asked(&shelf, "b", false);
        shelf
            .slot(&"a".parse().unwrap())
            .used
            .store(100, Ordering::Relaxed);
        shelf.tidy(&listing(&["a", "b"]));
        assert_eq!(names(&shelf), ["b"]);
    }

    #[test]
    fn above_the_limit_the_least_recently_used_go_first() {
        let shelf = Shelf::new();
        for (age, name) in [(3, "c"), (1, "a"), (2, "b")] {
            asked(&shelf, name, true);
            shelf
                .slot(&name.parse().unwrap())
                .used
                .store(age, Ordering::Relaxed);
        }
        shelf.close(&listing(&["a", "b", "c"]), IDLE, 4);
        assert_eq!(names(&shelf), ["b", "c"]);
    }
}
