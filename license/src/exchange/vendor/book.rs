//! The key ids of orders, which are chosen here, at random, and once: whoever orders again orders the same keys. They
//! are on disk before they are sent, so that an answer that was lost is asked for again.
//!
//! One file for each vendor and asset, `orders/VENDOR/ASSET.json`: `{"cbcs SD":"KEY-ID",...}`. It holds no secret.
//! Where it is lost, new ids are ordered, and the keystore refuses the keys as long as it has the old ones.
//!
//! New ids for keys that there are already lie beside it, in `ASSET.json.renewed`, until the keystore has their keys, and
//! take its place then. So an order that comes to nothing leaves the old one as it was, and is gone on with when it is
//! renewed once more.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use keystore_types::{AssetId, KeyId, Label, Scheme};
use ring::rand::{SecureRandom as _, SystemRandom};

use super::FetchError;

/// The orders of a licence server.
#[derive(Clone)]
pub(super) struct Book(PathBuf);

impl Book {
    pub(super) fn new(state_dir: &Path) -> Self {
        Self(state_dir.join("orders"))
    }

    /// The ids of these keys: those of earlier orders, and else drawn and kept. With `renew`, those of a renewal that was
    /// begun, and else drawn and kept beside the earlier ones until it is [settled](Self::settle).
    pub(super) fn ids(
        &self,
        vendor: &str,
        asset: &AssetId,
        keys: &[(Scheme, Label)],
        renew: bool,
    ) -> Result<Vec<KeyId>, FetchError> {
        let page = self.page(vendor, asset);
        let path = if renew { &page.renewed } else { &page.standing };
        let failed = |what: &dyn std::fmt::Display| unusable(path, what);
        let mut standing: BTreeMap<String, KeyId> = match fs::read(path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| failed(&error))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(failed(&error)),
        };
        let before = standing.len();
        let mut ids = Vec::with_capacity(keys.len());
        for (scheme, label) in keys {
            let name = format!("{} {label}", scheme.as_str());
            let id = match standing.get(&name) {
                Some(id) => *id,
                None => {
                    let id = draw().ok_or_else(|| failed(&"there is no randomness for key ids"))?;
                    standing.insert(name, id);
                    id
                }
            };
            ids.push(id);
        }
        if standing.len() > before {
            let text = serde_json::to_vec_pretty(&standing).map_err(|error| failed(&error))?;
            write(&page.folder, path, &text).map_err(|error| failed(&error))?;
        }
        Ok(ids)
    }

    /// The keystore has the keys of the renewal that was begun: its ids take the place of the earlier ones.
    pub(super) fn settle(&self, vendor: &str, asset: &AssetId) -> Result<(), FetchError> {
        let page = self.page(vendor, asset);
        fs::rename(&page.renewed, &page.standing)
            .and_then(|()| File::open(&page.folder)?.sync_all())
            .map_err(|error| unusable(&page.renewed, &error))
    }

    /// The keystore does not take the keys of the renewal that was begun, and never will under these ids: they are
    /// forgotten, and the next renewal draws others.
    pub(super) fn give_up(&self, vendor: &str, asset: &AssetId) -> Result<(), FetchError> {
        let page = self.page(vendor, asset);
        fs::remove_file(&page.renewed).map_err(|error| unusable(&page.renewed, &error))
    }

    fn page(&self, vendor: &str, asset: &AssetId) -> Page {
        let folder = self.0.join(vendor);
        Page {
            standing: folder.join(format!("{asset}.json")),
            renewed: folder.join(format!("{asset}.json.renewed")),
            folder,
        }
    }
}

/// Where the ids of a vendor's keys for an asset are.
struct Page {
    folder: PathBuf,
    standing: PathBuf,
    renewed: PathBuf,
}

fn unusable(path: &Path, what: &dyn std::fmt::Display) -> FetchError {
    FetchError::Book(format!("the order in {}: {what}", path.display()))
}

/// A random UUID (RFC 9562 5.4).
fn draw() -> Option<KeyId> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).ok()?;
    bytes[6] = bytes[6] & 0x0F | 0x40;
    bytes[8] = bytes[8] & 0x3F | 0x80;
    Some(KeyId::new(bytes))
}

/// Whole or not at all, and on disk.
fn write(folder: &Path, path: &Path, text: &[u8]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let new = path.with_added_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(folder)?.sync_all()
}
