//! New versions of the root and of KEKs, while keys are served.
//!
//! A new root and all that it wraps come in one transaction: a crash leaves the old root with what it wraps, or the
//! new one with what that wraps. A new KEK is one row, under which keys are wrapped from then on; those that are under
//! older ones are wrapped anew in batches, each a transaction of its own. What is left to do is what the store says
//! is under an older KEK, so a crash in between loses nothing and the next unsealing goes on. When nothing is left, the
//! tenant's floor is raised to the new version.

use std::sync::Arc;
use std::time::{Duration, Instant};

use keystore_client::admin::{Act, KekVersion, RotatedRoot, SharePlan, UnlockMethod};
use keystore_types::KeyId;
use secrecy::SecretString;

use crate::audit::Event;
use crate::ceremony::Succession;
use crate::error::{Error, ErrorKind};
use crate::keyring::{Keyring, floor};
use crate::local::{Inner, blocking};
use crate::refusal::{Refusal, refused};
use crate::seal::{KeyBytes, WrappingKey, random_key};
use crate::store::{Handover, KekRow, KeyRow, RootRotation, RootRow};
use crate::unlock::{SealedRoot, passphrase};
use crate::unseal::check_plan;

/// Keys wrapped anew in one transaction: a few milliseconds, for which new keys wait.
const BATCH: usize = 100;

/// The pause after a failure, before a rotation goes on.
const PAUSE: Duration = Duration::from_secs(5);

/// How often a transaction that somebody else has overtaken is tried again.
const MAX_TRIES: usize = 10;

/// What a step of wrapping anew came to.
enum Step {
    /// There is more to do.
    More,
    /// All keys are under their tenant's newest KEK, or cannot be.
    Done,
}

/// Where a walk through the keys stands.
#[derive(Default)]
struct Walk {
    tenant: String,
    after: Option<(u32, KeyId)>,
    /// Keys of this tenant that do not open.
    broken: u64,
    /// Whether they are all that is left of it.
    given_up: bool,
}

impl Inner {
    pub(crate) async fn rotate_root(
        self: &Arc<Self>,
        caller: &str,
        plan: Option<SharePlan>,
        passphrase: Option<SecretString>,
        new_passphrase: Option<SecretString>,
    ) -> Result<RotatedRoot, Refusal> {
        let _administration = self.administration.lock().await;
        let keyring = self.unsealed().map_err(|_| Refusal::Sealed)?;
        keyring.catch_up(self.store.as_ref()).await?;
        let row = self.newest_root().await?;
        let old = Succession {
            of: row.version,
            new_passphrase: new_passphrase.is_some(),
        };
        let dealt = |sealed: &SealedRoot| sealed.method == UnlockMethod::Shares;
        if plan.is_none() && row.sealed.iter().any(dealt) {
            return Err(refused(
                "the root is kept by shares, which are dealt anew with it: \
                 `castellum keystore rotate --root --shares N --threshold M`",
            ));
        }
        plan.map(check_plan).transpose()?;
        let under_one = |sealed: &SealedRoot| sealed.method == UnlockMethod::Passphrase;
        if new_passphrase.is_some() && !row.sealed.iter().any(under_one) {
            return Err(refused("the root is not kept under a passphrase"));
        }
        let root = random_key(&self.random)?;
        // Before anybody's approval is used up.
        let sealed = self
            .seal_as(caller, &row, passphrase, new_passphrase, &root)
            .await?;
        let Some(plan) = plan else {
            self.supplant(caller, &root, sealed, old).await?;
            return Ok(RotatedRoot::Version(next(old.of)?));
        };
        if let Some(approval) = self.claim(caller, &Act::DealShares(plan)).await? {
            return Ok(RotatedRoot::Waits(approval));
        }
        let dealing = self.deal(caller, &root, sealed, plan, Some(old)).await?;
        Ok(RotatedRoot::Dealing(dealing))
    }

    async fn newest_root(&self) -> Result<RootRow, Error> {
        (self.store.root().await?).ok_or_else(|| Error::damaged("the root is gone"))
    }

    /// Seals a new root in each way in which the old one is kept, but for shares. A passphrase must be the old one; a new
    /// one takes its place.
    async fn seal_as(
        &self,
        caller: &str,
        old: &RootRow,
        passphrase: Option<SecretString>,
        new_passphrase: Option<SecretString>,
        root: &KeyBytes,
    ) -> Result<Vec<SealedRoot>, Refusal> {
        let mut sealed = Vec::with_capacity(old.sealed.len() + 1);
        for old in &old.sealed {
            sealed.push(match (old.method, &passphrase) {
                (UnlockMethod::Shares, _) => continue,
                (UnlockMethod::Passphrase, Some(passphrase)) => {
                    let opened = blocking({
                        let (old, passphrase) = (old.clone(), passphrase.clone());
                        move || passphrase::open(&old, &passphrase)
                    });
                    if let Err(error) = opened.await {
                        let by = old.method.as_str();
                        self.record(caller, Event::Unseal { by, opened: false })
                            .await?;
                        return Err(error.into());
                    }
                    let passphrase = new_passphrase.as_ref().unwrap_or(passphrase);
                    self.configured.seal_under(passphrase.clone(), root).await?
                }
                (UnlockMethod::Passphrase, None) => {
                    self.configured.open(old.clone()).await?;
                    match &new_passphrase {
                        Some(new) => self.configured.seal_under(new.clone(), root).await?,
                        None => self.configured.seal(old.method, root).await?,
                    }
                }
                (method, _) => self.configured.seal(method, root).await?,
            });
        }
        Ok(sealed)
    }

    /// Puts a root in the place of the old one.
    pub(crate) async fn supplant(
        &self,
        caller: &str,
        root: &KeyBytes,
        sealed: Vec<SealedRoot>,
        old: Succession,
    ) -> Result<(), Refusal> {
        let keyring = self.unsealed().map_err(|_| Refusal::Sealed)?;
        if self.newest_root().await?.version != old.of {
            return Err(refused("the root was rotated meanwhile: begin anew"));
        }
        let version = next(old.of)?;
        let new = Arc::new(self.ready(root)?);
        let handover = keyring.hand_over(&self.random, version, root)?;
        let row = RootRow {
            version,
            sealed,
            created: self.now(),
        };
        let event = Event::RotateRoot {
            version,
            new_passphrase: old.new_passphrase,
        };
        self.record(caller, event).await?;
        self.replace_root(&keyring, row, &new, handover).await?;
        keyring.succeed(version, new);
        self.store.wipe().await?;
        self.anchor().await?;
        Ok(())
    }

    async fn replace_root(
        &self,
        keyring: &Keyring,
        root: RootRow,
        new: &WrappingKey,
        handover: Handover,
    ) -> Result<(), Error> {
        let version = root.version;
        for _ in 0..MAX_TRIES {
            let mut rotation = RootRotation {
                root: root.clone(),
                keks: Vec::new(),
                signing_keys: Vec::new(),
                handover: handover.clone(),
            };
            for kek in self.store.keks().await? {
                let floor = Some(floor(&kek));
                let kek = keyring.rewrap_kek(&self.random, kek, (version, new), floor)?;
                rotation.keks.push(kek);
            }
            for key in self.store.every_signing_key().await? {
                let key = keyring.rewrap_signing_key(&self.random, key, (version, new))?;
                rotation.signing_keys.push(key);
            }
            if self.store.rotate_root(rotation).await? {
                return Ok(());
            }
            // A KEK was made in between.
        }
        Err(overtaken())
    }

    /// Returns the new KEKs' versions.
    pub(crate) async fn rotate_keks(
        self: &Arc<Self>,
        caller: &str,
        tenant: Option<&str>,
    ) -> Result<Vec<KekVersion>, Refusal> {
        let _administration = self.administration.lock().await;
        let keyring = self.unsealed().map_err(|_| Refusal::Sealed)?;
        let mut newest = newest_of_each(self.store.keks().await?);
        if let Some(tenant) = tenant {
            newest.retain(|kek| kek.tenant == tenant);
            if newest.is_empty() {
                return Err(refused(format!("tenant {tenant} has no KEK yet")));
            }
        }
        let mut versions = Vec::with_capacity(newest.len());
        for kek in newest {
            let version = next(kek.version)?;
            let tenant = kek.tenant.clone();
            let event = Event::RotateKek {
                tenant: tenant.clone(),
                version,
            };
            self.record(caller, event).await?;
            let (store, now) = (self.store.as_ref(), self.now());
            (keyring.put_kek(store, &self.random, &tenant, version, floor(&kek), now)).await?;
            versions.push(KekVersion { tenant, version });
        }
        self.anchor().await?;
        self.rewrap_in_background();
        Ok(versions)
    }

    /// Whether a tenant's older KEKs are still taken.
    pub(crate) async fn rotating(&self) -> Result<bool, Error> {
        let newest = newest_of_each(self.store.keks().await?);
        Ok(newest.iter().any(|kek| floor(kek) < kek.version))
    }

    /// Wraps anew what is under older KEKs, until nothing is left, the keystore is sealed or it is dropped.
    pub(crate) fn rewrap_in_background(self: &Arc<Self>) {
        let weak = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut walk = Walk::default();
            while let Some(inner) = weak.upgrade() {
                let began = Instant::now();
                let step = {
                    let _one = inner.rewrapping.lock().await;
                    let Ok(keyring) = inner.unsealed() else {
                        return;
                    };
                    inner.rewrap_some(&keyring, &mut walk).await
                };
                // As long as it worked: those who make keys wait for the same writer.
                let mut pause = began.elapsed();
                match step {
                    Ok(Step::More) => {}
                    Ok(Step::Done) => return,
                    Err(error) => {
                        tracing::error!(%error, "cannot wrap keys anew; trying again");
                        pause = PAUSE;
                    }
                }
                drop(inner);
                tokio::time::sleep(pause).await;
            }
        });
    }

    async fn rewrap_some(&self, keyring: &Keyring, walk: &mut Walk) -> Result<Step, Error> {
        let newest = newest_of_each(self.store.keks().await?);
        let left = |kek: &KekRow| {
            let tenant_left =
                kek.tenant > walk.tenant || kek.tenant == walk.tenant && !walk.given_up;
            tenant_left && floor(kek) < kek.version
        };
        let Some(kek) = newest.into_iter().find(left) else {
            return Ok(Step::Done);
        };
        if kek.tenant != walk.tenant {
            *walk = Walk {
                tenant: kek.tenant.clone(),
                ..Walk::default()
            };
        }
        let rows = (self.store).keys_below(&kek.tenant, kek.version, walk.after, BATCH);
        let rows = rows.await?;
        if let Some(last) = rows.last() {
            walk.after = Some((last.kek_version, last.key_id));
            self.rewrap_rows(keyring, rows, kek.version, walk).await?;
            return Ok(Step::More);
        }
        if walk.broken > 0 {
            tracing::error!(
                tenant = kek.tenant,
                keys = walk.broken,
                "keys do not open and stay under their old KEK: `castellum keystore verify` names them"
            );
            walk.given_up = true;
            return Ok(Step::More);
        }
        // From the first again, should a key be left after all.
        walk.after = None;
        self.raise_floor(keyring, kek).await?;
        Ok(Step::More)
    }

    async fn rewrap_rows(
        &self,
        keyring: &Keyring,
        rows: Vec<KeyRow>,
        version: u32,
        walk: &mut Walk,
    ) -> Result<(), Error> {
        let mut replaced = Vec::with_capacity(rows.len());
        for row in rows {
            let key_id = row.key_id;
            match (keyring.rewrap(self.store.as_ref(), &self.random, row, version)).await {
                Ok(row) => replaced.push(row),
                Err(error)
                    if matches!(error.kind(), ErrorKind::Damaged | ErrorKind::Superseded) =>
                {
                    tracing::error!(%key_id, %error, "a key cannot be wrapped anew");
                    walk.broken += 1;
                }
                Err(error) => return Err(error),
            }
        }
        let keys = self.store.rewrap(replaced).await?;
        metrics::counter!("castellum_keystore_rewrapped_total").increment(keys);
        Ok(())
    }

    /// Refuses what is under older KEKs than this, now that nothing is.
    async fn raise_floor(&self, keyring: &Keyring, kek: KekRow) -> Result<(), Error> {
        let _administration = self.administration.lock().await;
        let (tenant, version) = (kek.tenant.clone(), kek.version);
        let event = Event::Floor {
            tenant: tenant.clone(),
            version,
        };
        self.record("keystore", event).await?;
        match self.move_floor(keyring, kek, version).await? {
            true => self.store.wipe().await,
            false => Err(overtaken()),
        }
    }

    /// Whether the floor of the tenant whose newest KEK this is was moved.
    pub(crate) async fn move_floor(
        &self,
        keyring: &Keyring,
        kek: KekRow,
        floor: u32,
    ) -> Result<bool, Error> {
        let tenant = kek.tenant.clone();
        let root = keyring.known_root(kek.root_version)?;
        let root = (kek.root_version, root.as_ref());
        let moved = keyring.rewrap_kek(&self.random, kek, root, Some(floor))?;
        let moved = self.store.move_floor(moved).await?;
        if moved {
            keyring.set_floor(&tenant, floor);
        }
        Ok(moved)
    }
}

/// The newest KEK of each tenant, of all KEKs in the order of tenants and versions.
fn newest_of_each(keks: Vec<KekRow>) -> Vec<KekRow> {
    let mut newest: Vec<KekRow> = Vec::new();
    for kek in keks {
        match newest.last_mut() {
            Some(last) if last.tenant == kek.tenant => *last = kek,
            _ => newest.push(kek),
        }
    }
    newest
}

fn next(version: u32) -> Result<u32, Error> {
    version
        .checked_add(1)
        .ok_or_else(|| Error::damaged("a version is at its end"))
}

fn overtaken() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "other processes change the store all the time; try again",
    )
}
