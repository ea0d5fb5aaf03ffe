//! The keys that this node holds: leased from the keystore, held for their term, dropped when it seals.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use keystore_client::{Keystore, LeaseRequest, SealState};
use keystore_types::{ConstantIv, KeyContext, KeyId, Label};
use origin_cipher::{Aes128Key, Form};
use tokio::sync::watch;

/// Leases keys on behalf of the workers.
pub struct Keys {
    keystore: Arc<dyn Keystore>,
    seal: watch::Receiver<SealState>,
    form: Form,
}

/// The keys of one asset's tracks under one scheme.
pub struct HeldKeys {
    keys: BTreeMap<Label, HeldKey>,
    ended: Arc<AtomicBool>,
    /// When new responses need a new lease: a quarter of the term earlier than this one ends, so that what is
    /// under way by then has time to finish.
    renewal: Instant,
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

impl Keys {
    /// Leases from `keystore` and expands keys for `form`.
    pub fn new(keystore: Arc<dyn Keystore>, form: Form) -> Self {
        let seal = keystore.seal_state();
        Self {
            keystore,
            seal,
            form,
        }
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
        let before = *seal.borrow_and_update();
        let lease = self.keystore.lease(LeaseRequest { contexts }).await?;
        let keys = lease
            .keys
            .into_iter()
            .map(|leased| {
                let cipher = Arc::new(Aes128Key::with_form(leased.key.expose(), self.form));
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
        tokio::spawn(end_with_the_seal(
            seal,
            before,
            Arc::downgrade(&ended),
            until,
        ));
        Ok(HeldKeys {
            keys,
            ended,
            renewal: until - lease.term / 4,
        })
    }
}

/// Marks a lease as ended once its term is over or the keystore seals, however short it was sealed for.
///
/// A watch channel keeps the latest state only. So `Unsealed` that follows upon `Unsealed` hides another state
/// between them, and counts as a seal.
async fn end_with_the_seal(
    mut seal: watch::Receiver<SealState>,
    mut before: SealState,
    ended: Weak<AtomicBool>,
    until: Instant,
) {
    let sealed = async {
        while seal.changed().await.is_ok() {
            let now = *seal.borrow_and_update();
            match (before, now) {
                (_, SealState::Sealed | SealState::Uninitialised)
                | (SealState::Unsealed, SealState::Unsealed) => return true,
                // Held leases run to their term while the keystore is away.
                (_, SealState::Unsealed | SealState::Unreachable) => before = now,
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
        !self.ended() && Instant::now() < self.renewal
    }

    /// Whether the keystore has sealed since, or the term is over: what is under way must stop too.
    pub fn ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use keystore_client::{Answer, ExportRequest, ExportedKey, Lease};

    use super::*;

    /// A keystore whose seal the tests turn; its leases hold no keys.
    struct Sealing(watch::Sender<SealState>);

    impl Keystore for Sealing {
        fn lease(&self, _: LeaseRequest) -> Answer<'_, Lease> {
            Box::pin(async {
                Ok(Lease {
                    keys: Vec::new(),
                    term: Duration::from_secs(600),
                })
            })
        }

        fn export(&self, _: ExportRequest) -> Answer<'_, Vec<ExportedKey>> {
            Box::pin(async { Err(keystore_client::Error::Sealed) })
        }

        fn seal_state(&self) -> watch::Receiver<SealState> {
            self.0.subscribe()
        }
    }

    /// Whether a lease has ended once its keystore went through `states` faster than anybody looked.
    async fn ended_by(states: &[SealState]) -> bool {
        let seal = watch::Sender::new(SealState::Unsealed);
        let keys = Keys::new(Arc::new(Sealing(seal.clone())), Form::best());
        let held = keys.lease(Vec::new()).await.unwrap();
        assert!(held.good());
        for &state in states {
            seal.send_replace(state);
        }
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert_eq!(held.good(), !held.ended());
        held.ended()
    }

    #[tokio::test]
    async fn a_seal_ends_a_lease_however_short_it_was() {
        assert!(ended_by(&[SealState::Sealed]).await);
        assert!(ended_by(&[SealState::Sealed, SealState::Unsealed]).await);
    }

    #[tokio::test]
    async fn a_lease_outlives_the_absence_of_its_keystore() {
        assert!(!ended_by(&[]).await);
        assert!(!ended_by(&[SealState::Unreachable]).await);
    }
}
