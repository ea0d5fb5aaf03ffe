//! What is public about keys: asked of the keystore once, and remembered, since it never changes.

use std::sync::Arc;

use keystore_client::{DescribeRequest, KeyDescription, Keystore};
use keystore_types::{AssetId, KeyId};
use moka::sync::Cache;

use crate::Refusal;
use crate::issue::refusal;

/// The most keys that are remembered.
const MAX_REMEMBERED: u64 = 100_000;

/// Describes keys.
pub struct KeyBook {
    keystore: Arc<dyn Keystore>,
    remembered: Cache<(AssetId, KeyId), KeyDescription>,
}

impl KeyBook {
    /// Asks this keystore.
    pub fn new(keystore: Arc<dyn Keystore>) -> Self {
        Self {
            keystore,
            remembered: Cache::new(MAX_REMEMBERED),
        }
    }

    /// Those of the keys that the asset has, in the order asked for. A key that was destroyed may still be described;
    /// it is not exported any more.
    ///
    /// # Errors
    /// [`Refusal::Sealed`], [`Refusal::KeystoreDenied`], [`Refusal::AuditUnavailable`], [`Refusal::KeystoreUnavailable`].
    pub async fn describe(
        &self,
        asset: &AssetId,
        key_ids: &[KeyId],
    ) -> Result<Vec<KeyDescription>, Refusal> {
        let known = |key_id: &KeyId| self.remembered.get(&(asset.clone(), *key_id));
        let all: Option<Vec<_>> = key_ids.iter().map(known).collect();
        if let Some(all) = all {
            return Ok(all);
        }
        let asked: Vec<_> = (key_ids.iter().copied())
            .filter(|key_id| known(key_id).is_none())
            .collect();
        let request = DescribeRequest {
            asset: asset.clone(),
            key_ids: asked,
        };
        let told = self.keystore.describe(request).await.map_err(refusal)?;
        for key in &told {
            (self.remembered).insert((asset.clone(), key.key_id), *key);
        }
        let told = |key_id: &KeyId| told.iter().find(|key| key.key_id == *key_id).copied();
        let found = |key_id: &KeyId| told(key_id).or_else(|| known(key_id));
        Ok(key_ids.iter().filter_map(found).collect())
    }
}
