//! The keys that this node holds: leased from the keystore, held for their term, dropped when it seals.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use keystore_client::{Keystore, LeaseRequest, SealState};
use keystore_types::{ConstantIv, KeyContext, KeyId, Label};
use origin_cipher::Aes128Key;
use tokio::sync::watch;

/// Leases keys on behalf of the workers.
pub struct Keys {
    keystore: Arc<dyn Keystore>,
    seal: watch::Receiver<SealState>,
}

/// The keys of one asset's tracks under one scheme.
pub struct HeldKeys {
    keys: BTreeMap<Label, HeldKey>,
    ended: Arc<AtomicBool>,
    until: Instant,
}

/// One key, ready to encrypt with.
pub struct HeldKey {
    /// Its public id.
    pub key_id: KeyId,
    /// Its constant IV.
    pub iv: ConstantIv,
    /// The key, expanded.
    pub cipher: Arc<Aes128Key>,
}

/// How much of a lease's term must be left for a new response to begin under it.
const MARGIN: Duration = Duration::from_secs(5);

impl Keys {
    /// Leases from `keystore`.
    pub fn new(keystore: Arc<dyn Keystore>) -> Self {
        let seal = keystore.seal_state();
        Self { keystore, seal }
    }

    /// Whether keys can be had now.
    pub fn seal_state(&self) -> SealState {
        *self.seal.borrow()
    }

    /// Leases the keys of `contexts`, which carry different labels.
    ///
    /// # Errors
    /// What the keystore says.
    pub async fn lease(
        &self,
        contexts: Vec<KeyContext>,
    ) -> Result<HeldKeys, keystore_client::Error> {
        let asked = Instant::now();
        let mut seal = self.seal.clone();
        seal.mark_unchanged();
        let lease = self.keystore.lease(LeaseRequest { contexts }).await?;
        let keys = lease
            .keys
            .into_iter()
            .map(|leased| {
                let cipher = Arc::new(Aes128Key::new(leased.key.expose()));
                (
                    leased.context.label,
                    HeldKey {
                        key_id: leased.key_id,
                        iv: leased.iv,
                        cipher,
                    },
                )
            })
            .collect();
        let ended = Arc::new(AtomicBool::new(false));
        let until = asked + lease.term;
        tokio::spawn(end_with_the_seal(seal, Arc::downgrade(&ended), until));
        Ok(HeldKeys { keys, ended, until })
    }
}

/// Marks a lease as ended once the keystore seals, however short it was sealed for.
async fn end_with_the_seal(
    mut seal: watch::Receiver<SealState>,
    ended: std::sync::Weak<AtomicBool>,
    until: Instant,
) {
    let sealed = async {
        while seal.changed().await.is_ok() {
            match *seal.borrow_and_update() {
                SealState::Sealed | SealState::Uninitialised => return true,
                // Held leases run to their term while the keystore is away.
                SealState::Unsealed | SealState::Unreachable => {}
            }
        }
        false
    };
    let sealed = tokio::time::timeout_at(until.into(), sealed)
        .await
        .unwrap_or(true);
    if let (true, Some(ended)) = (sealed, ended.upgrade()) {
        ended.store(true, Ordering::Release);
    }
}

impl HeldKeys {
    /// The key of a label.
    pub fn get(&self, label: Label) -> Option<&HeldKey> {
        self.keys.get(&label)
    }

    /// Every key, by label.
    pub fn iter(&self) -> impl Iterator<Item = (Label, &HeldKey)> {
        self.keys.iter().map(|(&label, key)| (label, key))
    }

    /// Whether a new response may begin under this lease.
    pub fn good(&self) -> bool {
        !self.ended() && Instant::now() + MARGIN < self.until
    }

    /// Whether the keystore has sealed since: what is under way must stop too.
    pub fn ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}
