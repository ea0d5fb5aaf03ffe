//! What is public about keys: asked of the keystore once, and remembered, since it never changes. That there is no such key
//! is remembered too, for a moment: it may be made.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use keystore_client::{DescribeRequest, KeyDescription, Keystore};
use keystore_types::{AssetId, KeyId};
use moka::sync::Cache;

use crate::Refusal;
use crate::issue::refusal;

/// The most keys that are remembered.
const MAX_REMEMBERED: u64 = 100_000;

/// The most ids that are remembered to be nobody's.
const MAX_UNKNOWN: u64 = 20_000;

/// How long they are. Manifests name a key when it has been made, so hardly a player asks before.
const UNKNOWN_FOR: Duration = Duration::from_secs(2);

/// Describes keys.
pub struct KeyBook {
    keystore: Arc<dyn Keystore>,
    remembered: Cache<(AssetId, KeyId), KeyDescription>,
    unknown: Cache<(AssetId, KeyId), ()>,
}

impl KeyBook {
    /// Asks this keystore.
    pub fn new(keystore: Arc<dyn Keystore>) -> Self {
        Self {
            keystore,
            remembered: Cache::new(MAX_REMEMBERED),
            unknown: Cache::builder()
                .max_capacity(MAX_UNKNOWN)
                .time_to_live(UNKNOWN_FOR)
                .build(),
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
        let named = |key_id: &KeyId| (asset.clone(), *key_id);
        let mut found: HashMap<KeyId, KeyDescription> = HashMap::new();
        let mut asked = Vec::new();
        for key_id in key_ids {
            match self.remembered.get(&named(key_id)) {
                Some(key) => drop(found.insert(*key_id, key)),
                None if self.unknown.contains_key(&named(key_id)) => {}
                None => asked.push(*key_id),
            }
        }
        if !asked.is_empty() {
            let request = DescribeRequest {
                asset: asset.clone(),
                key_ids: asked.clone(),
            };
            for key in self.keystore.describe(request).await.map_err(refusal)? {
                self.remembered.insert(named(&key.key_id), key);
                found.insert(key.key_id, key);
            }
            for key_id in asked.iter().filter(|key_id| !found.contains_key(*key_id)) {
                self.unknown.insert(named(key_id), ());
            }
        }
        Ok(key_ids
            .iter()
            .filter_map(|key_id| found.get(key_id).copied())
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use keystore_client::{
        Answer, Error, ExportRequest, ExportedKey, Lease, LeaseRequest, SealState,
    };
    use keystore_types::{Label, Scheme};
    use tokio::sync::watch;

    use super::*;

    const THERE: KeyId = KeyId::new([1; 16]);
    const MADE_LATER: KeyId = KeyId::new([2; 16]);

    /// Counts what it is asked. A key is made after the first time.
    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl Keystore for Counting {
        fn describe(&self, request: DescribeRequest) -> Answer<'_, Vec<KeyDescription>> {
            let nth = self.0.fetch_add(1, Ordering::SeqCst);
            let there = |id: &KeyId| *id == THERE || (*id == MADE_LATER && nth > 0);
            let told = (request.key_ids.into_iter())
                .filter(there)
                .map(|key_id| KeyDescription {
                    key_id,
                    label: Label::Hd,
                    scheme: Scheme::Cbcs,
                });
            let told = told.collect();
            Box::pin(async move { Ok(told) })
        }

        fn lease(&self, _: LeaseRequest) -> Answer<'_, Lease> {
            Box::pin(async { Err(Error::Sealed) })
        }

        fn export(&self, _: ExportRequest) -> Answer<'_, Vec<ExportedKey>> {
            Box::pin(async { Err(Error::Sealed) })
        }

        fn seal_state(&self) -> watch::Receiver<SealState> {
            watch::Sender::new(SealState::Unsealed).subscribe()
        }
    }

    #[tokio::test]
    async fn what_is_not_there_is_asked_for_again_after_a_moment() {
        let keystore = Arc::new(Counting::default());
        let keys = KeyBook::new(keystore.clone());
        let film: AssetId = "film".parse().unwrap();
        let described = async || {
            let told = keys.describe(&film, &[MADE_LATER, THERE]).await.unwrap();
            told.iter().map(|key| key.key_id).collect::<Vec<_>>()
        };
        for _ in 0..3 {
            assert_eq!(described().await, [THERE]);
        }
        assert_eq!(keystore.0.load(Ordering::SeqCst), 1);
        tokio::time::sleep(UNKNOWN_FOR + Duration::from_millis(100)).await;
        for _ in 0..3 {
            assert_eq!(described().await, [MADE_LATER, THERE]);
        }
        assert_eq!(keystore.0.load(Ordering::SeqCst), 2);
    }
}
