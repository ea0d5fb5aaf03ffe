//! The key ids of orders, which are chosen here, at random, and once: whoever orders again orders the same keys. They
//! are on disk before they are sent, so that an answer that was lost is asked for again.
//!
//! One file for each vendor and asset, `orders/VENDOR/ASSET.json`: `{"cbcs SD":"KEY-ID",...}`. It holds no secret.
//! Where it is lost, new ids are ordered, and the keystore refuses the keys as long as it has the old ones.

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

    /// The ids of these keys: those of earlier orders, unless they are to be new, and else drawn and kept.
    pub(super) fn ids(
        &self,
        vendor: &str,
        asset: &AssetId,
        keys: &[(Scheme, Label)],
        renew: bool,
    ) -> Result<Vec<KeyId>, FetchError> {
        let folder = self.0.join(vendor);
        let path = folder.join(format!("{asset}.json"));
        let failed = |what: &dyn std::fmt::Display| {
            FetchError::Book(format!("the order in {}: {what}", path.display()))
        };
        let mut standing: BTreeMap<String, KeyId> = match fs::read(&path) {
            Ok(_) if renew => BTreeMap::new(),
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
        if standing.len() > before || renew {
            let text = serde_json::to_vec_pretty(&standing).map_err(|error| failed(&error))?;
            write(&folder, &path, &text).map_err(|error| failed(&error))?;
        }
        Ok(ids)
    }
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
    let new = path.with_extension("json.new");
    let mut file = File::create(&new)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(folder)?.sync_all()
}
