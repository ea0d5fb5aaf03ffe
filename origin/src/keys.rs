//! The keys that this node holds: leased from the keystore, held for their term, dropped when it seals.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use keystore_client::{Keystore, LeaseRequest, SealState};
use keystore_types::{AssetId, KeyContext, Label};
use origin_cipher::{Aes128Key, Form};
use origin_media::protect::TrackKey;
use tokio::sync::watch;

/// How long a refusal is remembered. Each one counts against this node's budget at the keystore, and whoever watches must
/// not be able to use that up by asking for what is not granted here.
const REFUSED_FOR: Duration = Duration::from_secs(60);

/// The most refusals that are remembered.
const MAX_REFUSALS: usize = 4096;

/// Leases keys on behalf of the workers.
pub struct Keys {
    keystore: Arc<dyn Keystore>,
    seal: watch::Receiver<SealState>,
    form: Form,
    /// Assets whose keys the keystore has refused, when and why.
    refusals: Mutex<HashMap<AssetId, (Instant, String)>>,
}

/// The keys of one asset's tracks under one scheme.
pub struct HeldKeys {
    track_keys: BTreeMap<Label, TrackKey>,
    ciphers: Arc<Ciphers>,
    /// When new responses need a new lease: a quarter of the term earlier than this one ends, so that what is
    /// under way by then has time to finish.
    renewal: Instant,
}

/// The keys, expanded; nothing once the lease has ended, whoever still holds the [`HeldKeys`].
type Ciphers = ArcSwapOption<BTreeMap<Label, Arc<Aes128Key>>>;

impl Keys {
    /// Leases from `keystore` and expands keys for `form`.
    pub fn new(keystore: Arc<dyn Keystore>, form: Form) -> Self {
        let seal = keystore.seal_state();
        Self {
            keystore,
            seal,
            form,
            refusals: Mutex::default(),
        }
    }

    /// Why the keystore has refused this asset's keys a short while ago.
    fn refused(&self, asset: &AssetId, now: Instant) -> Option<String> {
        let refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, why) = refusals.get(asset)?;
        (now.duration_since(*at) < REFUSED_FOR).then(|| why.clone())
    }

    fn refuse(&self, asset: AssetId, now: Instant, why: &str) {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        if refusals.len() >= MAX_REFUSALS {
            refusals.retain(|_, (at, _)| now.duration_since(*at) < REFUSED_FOR);
        }
        if refusals.len() < MAX_REFUSALS {
            refusals.insert(asset, (now, why.to_owned()));
        }
    }

    /// Whether keys can be had now.
    pub fn seal_state(&self) -> SealState {
        *self.seal.borrow()
    }

    /// Leases the keys of `contexts`: of one asset, with different labels. What the keystore has refused is not asked
    /// for again for [`REFUSED_FOR`].
    ///
    /// # Errors
    /// What the keystore says.
    pub async fn lease(
        &self,
        contexts: Vec<KeyContext>,
    ) -> Result<HeldKeys, keystore_client::Error> {
        let asked = Instant::now();
        let asset = contexts.first().map(|context| context.asset.clone());
        if let Some(why) = (asset.as_ref()).and_then(|asset| self.refused(asset, asked)) {
            return Err(keystore_client::Error::Denied(why));
        }
        let mut seal = self.seal.clone();
        let before = *seal.borrow_and_update();
        let lease = self.keystore.lease(LeaseRequest { contexts }).await;
        if let (Err(keystore_client::Error::Denied(why)), Some(asset)) = (&lease, asset) {
            self.refuse(asset, asked, why);
        }
        let lease = lease?;
        let (mut track_keys, mut ciphers) = (BTreeMap::new(), BTreeMap::new());
        for leased in lease.keys {
            let cipher = Arc::new(Aes128Key::with_form(leased.key.expose(), self.form));
            let label = leased.context.label;
            ciphers.insert(label, cipher);
            let (key_id, iv) = (leased.key_id, leased.iv);
            track_keys.insert(label, TrackKey { key_id, iv });
        }
        let ciphers = Arc::new(Ciphers::from_pointee(ciphers));
        let until = asked + lease.term;
        tokio::spawn(end_with_the_seal(
            seal,
            before,
            Arc::downgrade(&ciphers),
            until,
        ));
        Ok(HeldKeys {
            track_keys,
            ciphers,
            renewal: until - lease.term / 4,
        })
    }
}

/// Lets go of a lease's ciphers, which are wiped, once its term is over or the keystore seals, however short it was
/// sealed for.
///
/// A watch channel keeps the latest state only. So `Unsealed` that follows upon `Unsealed` hides another state
/// between them, and counts as a seal.
async fn end_with_the_seal(
    mut seal: watch::Receiver<SealState>,
    mut before: SealState,
    ciphers: Weak<Ciphers>,
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
    if let (true, Some(ciphers)) = (sealed, ciphers.upgrade()) {
        ciphers.store(None);
    }
}

impl HeldKeys {
    /// The key of a label, expanded; `None` once the lease has ended.
    pub fn cipher(&self, label: Label) -> Option<Arc<Aes128Key>> {
        self.ciphers.load().as_ref()?.get(&label).cloned()
    }

    /// What is public about the keys, by label.
    pub fn track_keys(&self) -> &BTreeMap<Label, TrackKey> {
        &self.track_keys
    }

    /// Whether a new response may begin under this lease.
    pub fn good(&self) -> bool {
        !self.ended() && Instant::now() < self.renewal
    }

    /// Whether the keystore has sealed since, or the term is over: what is under way must stop too.
    pub fn ended(&self) -> bool {
        self.ciphers.load().is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use keystore_client::{Answer, ExportRequest, ExportedKey, Lease};
    use keystore_types::{Generation, SUBSAMPLE_RULE, Scheme};

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

    /// A keystore that refuses everything, and counts how often it had to.
    struct Refusing(AtomicUsize);

    impl Keystore for Refusing {
        fn lease(&self, _: LeaseRequest) -> Answer<'_, Lease> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Box::pin(async { Err(keystore_client::Error::Denied("not yours".to_owned())) })
        }

        fn export(&self, _: ExportRequest) -> Answer<'_, Vec<ExportedKey>> {
            Box::pin(async { Err(keystore_client::Error::Sealed) })
        }

        fn seal_state(&self) -> watch::Receiver<SealState> {
            watch::Sender::new(SealState::Unsealed).subscribe()
        }
    }

    #[tokio::test]
    async fn viewers_cannot_use_up_what_a_node_may_be_refused() {
        let keystore = Arc::new(Refusing(AtomicUsize::new(0)));
        let keys = Keys::new(keystore.clone(), Form::best());
        let asked = || keystore.0.load(Ordering::Relaxed);
        let context = |asset: &str| KeyContext {
            tenant: "default".to_owned(),
            asset: asset.parse().unwrap(),
            label: Label::Hd,
            scheme: Scheme::Cbcs,
            subsample_rule: SUBSAMPLE_RULE,
            generation: Generation {
                sources: [7; 32],
                number: 0,
            },
        };
        for _ in 0..10 {
            let refused = keys.lease(vec![context("other")]).await.err().unwrap();
            assert!(refused.to_string().contains("not yours"), "{refused}");
        }
        assert_eq!(asked(), 1);
        assert!(keys.lease(vec![context("another")]).await.is_err());
        assert_eq!(asked(), 2);
        // It may have been granted since.
        let other = "other".parse().unwrap();
        assert!(keys.refused(&other, Instant::now()).is_some());
        assert!(keys.refused(&other, Instant::now() + REFUSED_FOR).is_none());
        // However many there are, memory is bounded.
        for number in 0..2 * MAX_REFUSALS {
            keys.refuse(
                format!("film-{number}").parse().unwrap(),
                Instant::now(),
                "",
            );
        }
        assert_eq!(keys.refusals.lock().unwrap().len(), MAX_REFUSALS);
    }

    #[tokio::test]
    async fn a_lease_outlives_the_absence_of_its_keystore() {
        assert!(!ended_by(&[]).await);
        assert!(!ended_by(&[SealState::Unreachable]).await);
    }
}
