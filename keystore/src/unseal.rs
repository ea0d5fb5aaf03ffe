//! How a root comes to be, and into memory: by a passphrase, by what is configured, by shares.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use keystore_client::SealState;
use keystore_client::admin::{
    Dealing, DealtShare, Keeping, MAX_SHARES, Progress, SharePlan, UnlockMethod,
};
use secrecy::{ExposeSecret as _, SecretString};

use crate::audit::Event;
use crate::ceremony::{Ceremony, Finished, Gathered, Succession};
use crate::error::{Error, ErrorKind};
use crate::local::{Inner, blocking};
use crate::refusal::{Refusal, refused};
use crate::seal::{KeyBytes, random_key};
use crate::store::RootRow;
use crate::unlock::shares::{self, Share, ShareSet};
use crate::unlock::{SealedRoot, passphrase};

/// The pause before what did not answer at the start is asked again; doubled up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

const HAS_A_ROOT: &str = "this keystore has a root already";
const NO_CEREMONY: &str = "no shares are being dealt: `castellum keystore init --shares N --threshold M` begins it, and for a root that is there \
     `castellum keystore rotate --root --shares N --threshold M`";

impl Inner {
    /// Unseals by what is configured, and makes a root on the first start where settings ask for it. Where nothing
    /// opens the root it starts sealed, so that clear titles play and an operator can put it right; what merely did not
    /// answer is asked again from time to time.
    pub(crate) async fn unseal_at_start(self: &Arc<Self>, init: bool) -> Result<(), Error> {
        let methods = self.configured.methods();
        let silent = match self.try_by(methods.clone(), init).await {
            // A shared store is as far away as a token or a service.
            Err(error) if self.shared && error.kind() == ErrorKind::Unavailable => {
                tracing::error!(%error, "still sealed");
                methods
            }
            result => result?,
        };
        if !silent.is_empty() {
            tokio::spawn(try_later(Arc::downgrade(self), silent, init));
        }
        Ok(())
    }

    /// Tries these ways once. Returns those that did not answer, where nothing else has settled it: what answered and
    /// was wrong is not tried twice, since a token locks itself after a few wrong PINs.
    ///
    /// # Errors
    /// Those of this keystore's own disk and memory.
    async fn try_by(
        self: &Arc<Self>,
        methods: Vec<UnlockMethod>,
        init: bool,
    ) -> Result<Vec<UnlockMethod>, Error> {
        let _administration = self.administration.lock().await;
        if methods.is_empty() || *self.state.borrow() == SealState::Unsealed {
            return Ok(vec![]);
        }
        let Some(row) = self.store.root().await? else {
            if !init {
                tracing::warn!("there is no root yet: `castellum keystore init` makes one");
                return Ok(vec![]);
            }
            tracing::info!("making a root: this is the keystore's first start");
            let root = random_key(&self.random)?;
            return match self.seal_by(&methods, &root).await {
                Ok(sealed) => match self.found("keystore", &root, sealed).await {
                    // Another node has made one meanwhile, and kept it the same way.
                    Err(Refusal::Refused(_)) if self.shared => Ok(methods),
                    found => own(found).map(|()| vec![]),
                },
                Err(error) => {
                    tracing::error!(%error, "no root is made");
                    Ok(match error.kind() {
                        ErrorKind::Unavailable => methods,
                        _ => vec![],
                    })
                }
            };
        };
        let mut silent = Vec::new();
        for method in methods {
            let Some(sealed) = row.sealed.iter().find(|sealed| sealed.method == method) else {
                tracing::warn!(method = method.as_str(), "the root is not kept by it");
                continue;
            };
            let root = self.configured.open(sealed.clone()).await;
            let opens = root.is_ok();
            if let Err(error) = &root {
                tracing::error!(method = method.as_str(), %error, "still sealed");
                if error.kind() == ErrorKind::Unavailable {
                    silent.push(method);
                }
            }
            let taken = (self.take_in("keystore", method, row.version, root)).await;
            if opens {
                return own(taken).map(|()| vec![]);
            }
        }
        Ok(silent)
    }

    /// Makes a root that is kept in these ways; with shares it waits for them to be dealt and read back.
    pub(crate) async fn init_with(
        self: &Arc<Self>,
        caller: &str,
        keeping: Keeping,
        passphrase: Option<SecretString>,
    ) -> Result<Option<Dealing>, Refusal> {
        let _administration = self.administration.lock().await;
        let Keeping {
            mut methods,
            shares: plan,
        } = keeping;
        methods.sort_unstable();
        methods.dedup();
        if let Some(passphrase) = &passphrase {
            if !passphrase::fits(passphrase) {
                return Err(refused(format!(
                    "a passphrase has {} to {} bytes",
                    passphrase::MIN_LEN,
                    passphrase::MAX_LEN
                )));
            }
            // The one that was typed stands for the one that is configured.
            methods.retain(|method| *method != UnlockMethod::Passphrase);
        }
        methods.retain(|method| *method != UnlockMethod::Shares);
        plan.map(check_plan).transpose()?;
        if methods.is_empty() && passphrase.is_none() && plan.is_none() {
            return Err(refused("say how the root is to be kept"));
        }
        if self.store.root().await?.is_some() {
            return Err(refused(HAS_A_ROOT));
        }
        let root = random_key(&self.random)?;
        let mut sealed = self.seal_by(&methods, &root).await?;
        if let Some(passphrase) = passphrase {
            sealed.push(self.configured.seal_under(passphrase, &root).await?);
        }
        let Some(plan) = plan else {
            self.found(caller, &root, sealed).await?;
            return Ok(None);
        };
        let dealing = self.deal(caller, &root, sealed, plan, None).await?;
        Ok(Some(dealing))
    }

    /// Begins to deal a root that is sealed in all other ways: a first one, or one that succeeds another.
    pub(crate) async fn deal(
        &self,
        caller: &str,
        root: &KeyBytes,
        mut sealed: Vec<SealedRoot>,
        plan: SharePlan,
        succeeds: Option<Succession>,
    ) -> Result<Dealing, Refusal> {
        let (by_shares, set, shares) = shares::seal(root, plan, &self.random)?;
        sealed.push(by_shares);
        let ceremony = Ceremony::new(root, sealed, set, plan, shares, succeeds)?;
        let dealing = ceremony.dealing();
        let event = Event::Dealing {
            set: dealing.set.clone(),
            shares: plan.shares,
            threshold: plan.threshold,
        };
        self.record(caller, event).await?;
        self.ceremony.put(ceremony);
        Ok(dealing)
    }

    async fn seal_by(
        &self,
        methods: &[UnlockMethod],
        root: &KeyBytes,
    ) -> Result<Vec<SealedRoot>, Error> {
        let mut sealed = Vec::with_capacity(methods.len());
        for method in methods {
            sealed.push(self.configured.seal(*method, root).await?);
        }
        Ok(sealed)
    }

    pub(crate) async fn deal_share(&self, caller: &str) -> Result<DealtShare, Refusal> {
        let _administration = self.administration.lock().await;
        let index = (self.ceremony.peek(Ceremony::next))
            .ok_or_else(|| refused(NO_CEREMONY))?
            .ok_or_else(|| refused("all shares are dealt, and none is dealt twice"))?;
        // Recorded first, as every secret that leaves.
        self.record(caller, Event::Dealt { index }).await?;
        (self.ceremony.with(Ceremony::deal).flatten()).ok_or_else(|| refused(NO_CEREMONY))
    }

    pub(crate) async fn confirm_share(
        self: &Arc<Self>,
        caller: &str,
        share: &SecretString,
    ) -> Result<Progress, Refusal> {
        let _administration = self.administration.lock().await;
        let share = Share::parse(share.expose_secret())?;
        let last = (self.ceremony)
            .with(|ceremony| ceremony.check(&share).map(|()| ceremony.all_but_one()))
            .ok_or_else(|| refused(NO_CEREMONY))?
            .map_err(Refusal::Share)?;
        let done = last.is_some();
        // Where this fails, the last share can be read back once more.
        if let Some(Finished {
            root,
            sealed,
            succeeds,
        }) = last
        {
            match succeeds {
                None => self.found(caller, &root, sealed).await?,
                Some(old) => self.supplant(caller, &root, sealed, old).await?,
            }
        }
        let confirm = |ceremony: &mut Ceremony| {
            ceremony.confirm(&share);
            ceremony.progress()
        };
        let progress = (self.ceremony.with(confirm)).ok_or_else(|| refused(NO_CEREMONY))?;
        if done {
            drop(self.ceremony.take());
        }
        Ok(progress)
    }

    /// Keeps a new root, and has it in memory.
    async fn found(
        self: &Arc<Self>,
        caller: &str,
        root: &KeyBytes,
        sealed: Vec<SealedRoot>,
    ) -> Result<(), Refusal> {
        let kept_by = sealed.iter().map(|sealed| sealed.method.as_str()).collect();
        // Made ready first: where key memory must be locked and cannot be, nothing is kept.
        let version = 1;
        let unsealed = self.keyring(version, root)?;
        // What a restore has left that did not finish.
        let cleared = self.store.clear().await?;
        let row = RootRow {
            version,
            sealed,
            created: self.now(),
        };
        if !cleared || !self.store.put_root(row).await? {
            return Err(refused(HAS_A_ROOT));
        }
        // Kept from here on, whatever comes of the record.
        self.set(None, SealState::Sealed);
        self.record(caller, Event::Init { kept_by }).await?;
        self.open(unsealed).await?;
        Ok(())
    }

    pub(crate) async fn unseal(
        self: &Arc<Self>,
        caller: &str,
        passphrase: &SecretString,
    ) -> Result<(), Refusal> {
        let _administration = self.administration.lock().await;
        let (version, sealed) = self.sealed_by(UnlockMethod::Passphrase).await?;
        let passphrase = passphrase.clone();
        let root = blocking(move || passphrase::open(&sealed, &passphrase)).await;
        (self.take_in(caller, UnlockMethod::Passphrase, version, root)).await
    }

    pub(crate) async fn unseal_by(
        self: &Arc<Self>,
        caller: &str,
        method: UnlockMethod,
    ) -> Result<(), Refusal> {
        let _administration = self.administration.lock().await;
        let (version, sealed) = self.sealed_by(method).await?;
        let root = self.configured.open(sealed).await;
        self.take_in(caller, method, version, root).await
    }

    pub(crate) async fn unseal_share(
        self: &Arc<Self>,
        caller: &str,
        share: &SecretString,
    ) -> Result<Progress, Refusal> {
        let _administration = self.administration.lock().await;
        let (version, sealed) = self.sealed_by(UnlockMethod::Shares).await?;
        if *self.state.borrow() == SealState::Unsealed {
            return Err(refused("this keystore is unsealed already"));
        }
        let set = ShareSet::decode(&sealed.parameters)?;
        let (index, added) = match Share::parse(share.expose_secret()) {
            Ok(share) => {
                let index = share.index();
                if self.gathered.peek(|_| ()).is_none() {
                    self.gathered.put(Gathered::new(set));
                }
                let added = self.gathered.with(|gathered| gathered.add(share));
                let given_up = || refused("the other shares were given up meanwhile: begin anew");
                let added = added.ok_or_else(given_up)?;
                (Some(index), added.map_err(Refusal::Share))
            }
            Err(error) => (None, Err(error.into())),
        };
        let accepted = added.is_ok();
        self.record(caller, Event::Share { index, accepted })
            .await?;
        let progress = added?;
        if progress.done
            && let Some(gathered) = self.gathered.take()
        {
            let root = shares::open(&sealed, gathered.shares());
            (self.take_in(caller, UnlockMethod::Shares, version, root)).await?;
        }
        Ok(progress)
    }

    /// The root as this method keeps it, and its version.
    async fn sealed_by(&self, method: UnlockMethod) -> Result<(u32, SealedRoot), Refusal> {
        let Some(RootRow {
            version, sealed, ..
        }) = self.store.root().await?
        else {
            return Err(refused(
                "this keystore has no root yet: `castellum keystore init` makes one",
            ));
        };
        let kept_by: Vec<_> = sealed.iter().map(|sealed| sealed.method.as_str()).collect();
        let kept_by = kept_by.join(", ");
        (sealed.into_iter())
            .find(|sealed| sealed.method == method)
            .map(|sealed| (version, sealed))
            .ok_or_else(|| {
                refused(format!(
                    "the root is not kept by {}, but by: {kept_by}",
                    method.as_str()
                ))
            })
    }

    /// Has the root in memory, or records that it was not opened.
    async fn take_in(
        self: &Arc<Self>,
        caller: &str,
        method: UnlockMethod,
        version: u32,
        root: Result<KeyBytes, Error>,
    ) -> Result<(), Refusal> {
        let by = method.as_str();
        match root {
            Ok(root) => {
                let unsealed = self.keyring(version, &root)?;
                if let Some(why) = self.rolled_back().await? {
                    return Err(refused(why));
                }
                self.record(caller, Event::Unseal { by, opened: true })
                    .await?;
                drop(self.gathered.take());
                self.open(unsealed).await?;
                Ok(())
            }
            // Nothing was tried on the root: there may be very many of these.
            Err(error) if error.kind() == ErrorKind::Unavailable => Err(error.into()),
            Err(error) => {
                self.record(caller, Event::Unseal { by, opened: false })
                    .await?;
                Err(error.into())
            }
        }
    }
}

/// Whether a root can be dealt so.
pub(crate) fn check_plan(SharePlan { shares, threshold }: SharePlan) -> Result<(), Refusal> {
    match (2..=shares).contains(&threshold) && shares <= MAX_SHARES {
        true => Ok(()),
        false => Err(refused(format!(
            "{threshold} of {shares} shares cannot be: at most {MAX_SHARES}, of which 2 or more open the root"
        ))),
    }
}

/// What is left of a refusal where nobody asked: this keystore's own failures.
fn own(result: Result<(), Refusal>) -> Result<(), Error> {
    match result {
        Ok(()) => Ok(()),
        Err(Refusal::Failed(error)) => Err(error),
        // Another process has made a root meanwhile; no share is asked for.
        Err(Refusal::Refused(why)) => {
            tracing::warn!(%why, "still sealed");
            Ok(())
        }
        Err(Refusal::Share(fault)) => {
            tracing::warn!(%fault, "still sealed");
            Ok(())
        }
        Err(Refusal::Sealed) => Ok(()),
    }
}

/// Asks again what did not answer at the start, until something opens the root or an operator took over.
async fn try_later(inner: Weak<Inner>, mut silent: Vec<UnlockMethod>, init: bool) {
    let mut pause = FIRST_PAUSE;
    while !silent.is_empty() {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        let Some(inner) = inner.upgrade() else { return };
        if inner.stays_sealed.load(Ordering::Relaxed) {
            return;
        }
        match inner.try_by(silent.clone(), init).await {
            Ok(still) => silent = still,
            Err(error) => tracing::error!(%error, "still sealed"),
        }
    }
}
