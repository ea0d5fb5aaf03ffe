//! The rules: check the grant, act, write the audit record, and only then hand out a key.
//!
//! This is their only implementation. Roles of the same process hold a handle on it, others reach the same handle
//! through [`crate::server`], and the tests' keystore is this one in memory.
//!
//! # What a crash leaves
//! A new key's row is on disk before its audit record, and the record before the key leaves. So whatever was
//! answered is on disk and in the log. A crash in between leaves a key that nobody has, which the next lease of
//! its context finds and uses, or a record of a lease that was not delivered; never a key that left unrecorded.

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use conf::KeystoreSettings;
use keystore_client::admin::{CheckpointText, KeyFilter, KeyPage, KeyRecord, PAGE, Status, Stored};
use keystore_client::{
    DescribeRequest, Error as CallError, ExportRequest, ExportedKey, KeyDescription, Lease,
    LeaseRequest, LeasedKey, MAX_KEYS, SealState,
};
use keystore_types::{AssetId, KeyContext, KeyId};
use ring::rand::SystemRandom;
use tokio::sync::watch;

use crate::approval::Approvals;
use crate::audit::{self, Checkpoint, Event, Log, Signer};
use crate::backup::Backup;
use crate::budget::{Budget, Exceeded, Fingerprint, Spender};
use crate::capability::{Caller, Capability};
use crate::ceremony::{Ceremony, Gathered};
use crate::clock::{Clock, unix_ms};
use crate::error::{Error, ErrorKind};
use crate::exchange::{External, check_content};
use crate::folder::{Folder, private, sync_parent};
use crate::keyring::Keyring;
use crate::nodes::Nodes;
use crate::restore::Restore;
use crate::seal::{KeyBytes, WrappingKey};
use crate::shared::node_id;
use crate::store::postgres::Postgres;
use crate::store::sqlite::Sqlite;
use crate::store::{KeyBody, KeyRow, Signed, Store};
use crate::tombstone::Tombstones;
use crate::unlock::configured::Configured;
use crate::unlock::held::Held;

/// The database's name in the state folder.
pub(crate) const DATABASE: &str = "keystore.sqlite";

/// The name of what a shared store knows this node by.
const NODE: &str = "node";

/// Where tombstones lie in the state folder, if the settings do not say otherwise.
const TOMBSTONES: &str = "tombstones.log";

/// The longest tenant name, in bytes.
const MAX_TENANT: usize = 128;

/// How often a key is made anew when a rotation has overtaken its making.
pub(crate) const MAX_TRIES: usize = 10;

/// The longest field of an entitlement that is taken into the log, in bytes: a whole token fits.
const MAX_ENTITLEMENT_FIELD: usize = 8 << 10;

/// The alarm metric of budgets.
const EXCEEDED: &str = "castellum_keystore_budget_exceeded_total";

/// A keystore in this process. Clones are the same keystore.
#[derive(Clone)]
pub struct Local(pub(crate) Arc<Inner>);

/// What of a keystore is not in the store.
pub(crate) struct Files {
    pub(crate) log: File,
    pub(crate) tombstones: File,
    /// Where they lie; `None` in memory.
    pub(crate) folder: Option<Folder>,
}

pub(crate) struct Inner {
    pub(crate) store: Box<dyn Store>,
    /// Whether other nodes use the store too, and it may be away for a while.
    pub(crate) shared: bool,
    pub(crate) log: Log,
    clock: Arc<dyn Clock>,
    pub(crate) random: SystemRandom,
    lease_term: Duration,
    /// For which no key is made.
    pub(crate) external: External,
    /// What unseals without anybody at the keyboard.
    pub(crate) configured: Configured,
    /// Shares of a new root that are being dealt and read back.
    pub(crate) ceremony: Held<Ceremony>,
    /// Shares of the root that wait for the others.
    pub(crate) gathered: Held<Gathered>,
    /// An operator has sealed it: it does not unseal itself any more.
    pub(crate) stays_sealed: AtomicBool,
    require_locked_memory: bool,
    /// `None` while sealed.
    unsealed: RwLock<Option<Arc<Keyring>>>,
    pub(crate) state: watch::Sender<SealState>,
    /// Held by the one administrative act that is under way.
    pub(crate) administration: tokio::sync::Mutex<()>,
    /// Held by the one task that wraps keys anew.
    pub(crate) rewrapping: tokio::sync::Mutex<()>,
    budget: Budget,
    pub(crate) approvals: Approvals,
    /// The one that is being made.
    pub(crate) backup: tokio::sync::Mutex<Option<Backup>>,
    /// The one that is under way.
    pub(crate) restore: tokio::sync::Mutex<Option<Restore>>,
    pub(crate) tombstones: Arc<Tombstones>,
    /// Other machines.
    pub(crate) nodes: Nodes,
    /// Keeps other processes out of the state folder; `None` in memory.
    _folder: Option<Folder>,
}

impl Local {
    /// Opens the keystore in its state folder, which is made where there is none, and unseals it when settings
    /// say how; with a passphrase that does not fit it starts sealed.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when another process has the folder, or key memory must be locked and cannot
    /// be; [`ErrorKind::Damaged`] and [`ErrorKind::Unsupported`] for what lies in the folder.
    pub async fn open(settings: &KeystoreSettings, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        let folder = Folder::take(&settings.state_dir)?;
        let log = folder.file(audit::FILE)?;
        let tombstones = match &settings.tombstone_file {
            Some(path) => {
                let file = private(path)?;
                sync_parent(path)?;
                file
            }
            None => folder.file(TOMBSTONES)?,
        };
        let store: Box<dyn Store> = match &settings.postgres {
            Some(postgres) => {
                let node = node_id(folder.file(NODE)?)?;
                Box::new(Postgres::open(postgres, node).await?)
            }
            None => {
                // SQLite takes an empty file for a new database, and gives its modes to the files that it puts beside it.
                drop(folder.file(DATABASE)?);
                Box::new(Sqlite::open(&settings.state_dir.join(DATABASE)).await?)
            }
        };
        folder.sync()?;
        let files = Files {
            log,
            tombstones,
            folder: Some(folder),
        };
        let local = Self::assemble(store, files, settings, clock).await?;
        local.0.watch_store();
        local.0.unseal_at_start(settings.init_at_start).await?;
        Ok(local)
    }

    /// Puts a keystore together from its parts.
    pub(crate) async fn assemble(
        store: Box<dyn Store>,
        files: Files,
        settings: &KeystoreSettings,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Error> {
        let Files {
            log,
            tombstones,
            folder,
        } = files;
        let place = folder.as_ref().map(Folder::path);
        let (log, torn_bytes) = Log::open(log, place, settings.audit)?;
        let tombstones = Tombstones::open(tombstones)?;
        if torn_bytes > 0 {
            tracing::warn!(
                torn_bytes,
                "cut off an unfinished record at the end of the audit log"
            );
        }
        let shared = settings.postgres.is_some();
        let state = match store.root().await {
            Ok(Some(_)) => SealState::Sealed,
            Ok(None) => SealState::Uninitialised,
            // Found out when it is there.
            Err(error) if shared && error.kind() == ErrorKind::Unavailable => SealState::Sealed,
            Err(error) => return Err(error),
        };
        let inner = Inner {
            store,
            shared,
            log,
            clock,
            random: SystemRandom::new(),
            lease_term: settings.lease_term,
            external: External::new(&settings.external_assets),
            configured: Configured::new(settings),
            ceremony: Held::new(settings.share_patience, "a ceremony"),
            gathered: Held::new(settings.share_patience, "shares that were not enough"),
            stays_sealed: AtomicBool::new(false),
            require_locked_memory: settings.require_locked_memory,
            unsealed: RwLock::new(None),
            state: watch::Sender::new(state),
            administration: tokio::sync::Mutex::default(),
            rewrapping: tokio::sync::Mutex::default(),
            budget: Budget::new(settings.budget, &settings.partners),
            approvals: Approvals::new(settings.approval_term),
            backup: tokio::sync::Mutex::default(),
            restore: tokio::sync::Mutex::default(),
            tombstones: Arc::new(tombstones),
            nodes: Nodes::load(settings)?,
            _folder: folder,
        };
        inner
            .record("keystore", Event::Start { torn_bytes })
            .await?;
        metrics::gauge!("castellum_keystore_unsealed").set(0.0);
        Ok(Self(Arc::new(inner)))
    }

    /// Whether it is sealed, and each change of that.
    pub fn seal_state(&self) -> watch::Receiver<SealState> {
        self.0.state.subscribe()
    }
}

/// The keys of a lease.
struct Found {
    /// One for each context.
    rows: Vec<KeyRow>,
    /// The ids of those that were made.
    made: Vec<KeyId>,
    /// The ids of those that were exchanged, and waited for this.
    claimed: Vec<KeyId>,
}

impl Inner {
    pub(crate) async fn lease(
        &self,
        caller: &Caller,
        request: LeaseRequest,
    ) -> Result<Lease, CallError> {
        let contexts = request.contexts;
        check_count(contexts.len())?;
        for context in &contexts {
            check_tenant(&context.tenant)?;
            check_content(context.generation)?;
            let KeyContext { tenant, asset, .. } = context;
            if !caller.may_with(Capability::Lease, tenant, asset) {
                return Err(self.deny(caller, Capability::Lease, Some(asset)).await);
            }
        }
        let unsealed = self.unsealed()?;
        let spent = contexts.iter().map(Fingerprint::of_context);
        self.spend(caller, spent).await?;
        let Found {
            rows,
            made,
            claimed,
        } = self.find_or_make(&unsealed, &contexts).await?;
        let mut keys = Vec::with_capacity(rows.len());
        for (row, context) in rows.iter().zip(contexts) {
            keys.push(LeasedKey {
                context,
                key_id: row.key_id,
                iv: row.iv,
                key: unsealed.content_key(self.store.as_ref(), row).await?,
            });
        }
        let store = match made.is_empty() && claimed.is_empty() {
            true => None,
            false => Some(self.saw_store().await?),
        };
        let event = Event::Lease {
            keys: rows.iter().map(audited).collect(),
            made,
            claimed,
            store,
        };
        self.record(caller.name(), event).await?;
        // Sealed in the meantime: the record stands, the keys are wiped here.
        self.unsealed()?;
        Ok(Lease {
            keys,
            term: self.lease_term,
        })
    }

    /// The row of each context.
    async fn find_or_make(
        &self,
        unsealed: &Keyring,
        contexts: &[KeyContext],
    ) -> Result<Found, CallError> {
        let mut found = self.store.keys_of(contexts).await?;
        let all = |found: &[Option<KeyRow>]| found.iter().all(Option::is_some);
        let claimed = match all(&found) {
            true => vec![],
            false => self.claim_exchanged(unsealed, contexts, &mut found).await?,
        };
        let mut made = Vec::new();
        if all(&found) {
            return Ok(Found {
                rows: found.into_iter().flatten().collect(),
                made,
                claimed,
            });
        }
        let missing = contexts
            .iter()
            .zip(&found)
            .filter(|(_, found)| found.is_none());
        for (context, _) in missing {
            self.external.check(context)?;
        }
        self.check_room_to_make()?;
        for _ in 0..MAX_TRIES {
            let mut candidates = Vec::with_capacity(contexts.len());
            let mut drawn = Vec::new();
            for (found, context) in found.into_iter().zip(contexts) {
                candidates.push(match found {
                    Some(row) => row,
                    None => {
                        let store = self.store.as_ref();
                        let row = (unsealed.make(store, &self.random, context, self.now())).await?;
                        drawn.push(row.key_id);
                        row
                    }
                });
            }
            // Of several calls that make a key for one context at once, the first to be kept wins; all return it.
            let standing = self.store.put_keys(candidates).await?;
            let stands = |id: &KeyId| standing.iter().flatten().any(|row| row.key_id == *id);
            made.extend(drawn.into_iter().filter(stands));
            found = standing;
            if all(&found) {
                return Ok(Found {
                    rows: found.into_iter().flatten().collect(),
                    made,
                    claimed,
                });
            }
            // A rotation has overtaken those that are not there.
        }
        Err(CallError::Unavailable(
            "rotations overtake the making of keys".to_owned(),
        ))
    }

    pub(crate) async fn export(
        &self,
        caller: &Caller,
        request: ExportRequest,
    ) -> Result<Vec<ExportedKey>, CallError> {
        let ExportRequest {
            asset,
            key_ids,
            entitlement,
        } = request;
        check_count(key_ids.len())?;
        let too_long =
            |field: Option<&String>| field.is_some_and(|field| field.len() > MAX_ENTITLEMENT_FIELD);
        if [
            Some(&entitlement.issuer),
            entitlement.subject.as_ref(),
            entitlement.token_id.as_ref(),
            Some(&entitlement.system),
        ]
        .into_iter()
        .any(too_long)
        {
            return Err(CallError::Malformed(format!(
                "a field of the entitlement has more than {MAX_ENTITLEMENT_FIELD} bytes"
            )));
        }
        let tenants: Vec<&str> = caller.tenants_with(Capability::Export, &asset).collect();
        if tenants.is_empty() {
            return Err(self.deny(caller, Capability::Export, Some(&asset)).await);
        }
        self.unsealed()?;
        // Those that are not there too: guesses are uses.
        let spent = key_ids.iter().map(Fingerprint::of_id);
        self.spend(caller, spent).await?;
        let rows = self.exportable(&tenants, &asset, &key_ids).await?;
        let unsealed = self.unsealed()?;
        let keys = self.given(&unsealed, &rows).await?;
        let given = |id: &KeyId| rows.iter().any(|row| row.key_id == *id);
        let event = Event::Export {
            asset,
            keys: rows.iter().map(audited).collect(),
            withheld: key_ids.iter().copied().filter(|id| !given(id)).collect(),
            issuer: entitlement.issuer,
            subject: entitlement.subject,
            token_id: entitlement.token_id,
            system: entitlement.system,
        };
        self.record(caller.name(), event).await?;
        self.unsealed()?;
        Ok(keys)
    }

    pub(crate) async fn describe(
        &self,
        caller: &Caller,
        request: DescribeRequest,
    ) -> Result<Vec<KeyDescription>, CallError> {
        let DescribeRequest { asset, key_ids } = request;
        check_count(key_ids.len())?;
        let tenants: Vec<&str> = caller.tenants_with(Capability::Export, &asset).collect();
        if tenants.is_empty() {
            return Err(self.deny_description(caller, &asset).await);
        }
        self.unsealed()?;
        let rows = self.exportable(&tenants, &asset, &key_ids).await?;
        // Those that are there, and no more: viewers choose what a licence server asks for, and one who guesses must not use
        // up what the others need. Guesses bring nothing: ids are random, and no key leaves.
        let spent = rows.iter().map(|row| Fingerprint::of_id(&row.key_id));
        self.spend(caller, spent).await?;
        let described = rows.iter().map(|row| KeyDescription {
            key_id: row.key_id,
            label: row.context.label,
            scheme: row.context.scheme,
        });
        Ok(described.collect())
    }

    /// Those of an asset's keys that may be in a licence of these tenants, of the ids that are named.
    async fn exportable(
        &self,
        tenants: &[&str],
        asset: &AssetId,
        key_ids: &[KeyId],
    ) -> Result<Vec<KeyRow>, CallError> {
        let mut rows = self.store.keys_by_id(key_ids).await?;
        rows.retain(|row| {
            row.context.asset == *asset
                && tenants.contains(&row.context.tenant.as_str())
                && matches!(row.body, KeyBody::Wrapped(_))
        });
        Ok(rows)
    }

    /// A root in key memory, which is locked where it must be.
    pub(crate) fn ready(&self, root: &KeyBytes) -> Result<WrappingKey, Error> {
        let root = WrappingKey::new(root)?;
        if !root.locked() {
            if self.require_locked_memory {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    "key memory cannot be locked, and keystore.require_locked_memory asks for it: \
                     raise the limit (LimitMEMLOCK=, ulimit -l)",
                ));
            }
            tracing::warn!("key memory cannot be locked: with swap on, keys may reach the disk");
        }
        Ok(root)
    }

    /// A keyring with nothing but the root.
    pub(crate) fn keyring(&self, version: u32, root: &KeyBytes) -> Result<Keyring, Error> {
        let root = self.ready(root)?;
        Ok(Keyring::new(version, root, self.require_locked_memory))
    }

    pub(crate) async fn open(self: &Arc<Self>, unsealed: Keyring) -> Result<(), Error> {
        let signer = self.signer(&unsealed, Signed::Audit).await?;
        self.log.sign_with(Some(Arc::new(signer)));
        self.bury(&unsealed).await?;
        self.anchor().await?;
        self.set(Some(unsealed), SealState::Unsealed);
        // A rotation that was cut short goes on.
        self.rewrap_in_background();
        Ok(())
    }

    pub(crate) async fn seal(&self, caller: &str) -> Result<(), Error> {
        self.stays_sealed.store(true, Ordering::Relaxed);
        drop(self.gathered.take());
        drop(self.ceremony.take());
        // At once, and again when what is under way has ended: an unsealing may wait for a token or a service. Sealed
        // whatever comes of the record, too: no key leaves on the way to safety.
        let now = self.wipe();
        let _administration = self.administration.lock().await;
        if !self.wipe() && !now {
            return Ok(());
        }
        let recorded = self.record(caller, Event::Seal).await;
        // What the store cannot take note of proves less, and does not leave it open.
        if let Err(error) = self.anchor().await {
            tracing::error!(%error, "sealed, without a checkpoint");
        }
        self.log.sign_with(None);
        recorded
    }

    /// Drops the root, if it is there; says whether it was.
    fn wipe(&self) -> bool {
        let was = *self.state.borrow() == SealState::Unsealed;
        if was {
            self.set(None, SealState::Sealed);
        }
        was
    }

    pub(crate) fn set(&self, unsealed: Option<Keyring>, state: SealState) {
        metrics::gauge!("castellum_keystore_unsealed").set(match &unsealed {
            Some(_) => 1.0,
            None => 0.0,
        });
        let mut place = self
            .unsealed
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *place = unsealed.map(Arc::new);
        // Only a change is told: whoever holds leases takes two equal states for a seal between them.
        self.state
            .send_if_modified(|now| std::mem::replace(now, state) != state);
    }

    pub(crate) async fn status(&self) -> Status {
        let (stored, store_fault) = match self.stored().await {
            Ok(stored) => (Some(stored), None),
            Err(error) => (None, Some(error.to_string())),
        };
        let head = self.log.head();
        let (audit_bytes, audit_capacity) = self.log.used();
        Status {
            state: *self.state.borrow(),
            stored,
            store_fault,
            audit_records: head.seq,
            audit_head: head.hex(),
            audit_key: self.log.public_key().map(|key| key.hex()),
            audit_bytes,
            audit_capacity,
            memory_locked: (self.unsealed().ok())
                .map(|unsealed| unsealed.locked() && self.log.locked()),
            shares: (self.ceremony.peek(Ceremony::progress))
                .or_else(|| self.gathered.peek(Gathered::progress)),
        }
    }

    async fn stored(&self) -> Result<Stored, Error> {
        let (keys, destroyed) = self.store.counts().await?;
        let root = self.store.root().await?;
        Ok(Stored {
            keys,
            destroyed,
            rotating: self.rotating().await?,
            stale: self.store.stale().await?,
            kept_by: (root.iter().flat_map(|root| &root.sealed))
                .map(|sealed| sealed.method)
                .collect(),
        })
    }

    pub(crate) async fn key_list(&self, filter: &KeyFilter) -> Result<KeyPage, Error> {
        let mut rows = self.store.page(filter, PAGE + 1).await?;
        let more = rows.len() > PAGE;
        rows.truncate(PAGE);
        let next = rows.last().map(|row| row.key_id).filter(|_| more);
        Ok(KeyPage {
            keys: rows.into_iter().map(KeyRecord::from).collect(),
            next,
        })
    }

    pub(crate) fn unsealed(&self) -> Result<Arc<Keyring>, CallError> {
        let place = self.unsealed.read().unwrap_or_else(PoisonError::into_inner);
        place.clone().ok_or(CallError::Sealed)
    }

    /// Takes uses off a caller's or a partner's budget for this minute.
    pub(crate) async fn spend<'a>(
        &self,
        spender: impl Into<Spender<'a>>,
        keys: impl ExactSizeIterator<Item = Fingerprint> + Clone,
    ) -> Result<(), CallError> {
        let spender = spender.into();
        match self.budget.spend(spender, self.now(), keys) {
            Ok(()) => Ok(()),
            Err(exceeded) => Err(self.over_budget(spender, exceeded).await),
        }
    }

    /// Raises the alarm; returns what the caller is told.
    async fn over_budget(&self, spender: Spender<'_>, exceeded: Exceeded) -> CallError {
        let Exceeded { limit, of, .. } = exceeded;
        if let Err(error) = self.alarm(spender, exceeded).await {
            return error.into();
        }
        let whose = self.budget.whose(spender);
        CallError::Unavailable(format!(
            "{whose} has used up its {of} {limit} of this minute (keystore.budget.{limit})"
        ))
    }

    /// Counts it, and says so in log and audit log once a minute.
    async fn alarm(&self, spender: Spender<'_>, exceeded: Exceeded) -> Result<(), Error> {
        let whose = self.budget.whose(spender);
        let Exceeded { limit, of, first } = exceeded;
        let caller = whose.caller.to_owned();
        match whose.partner.map(str::to_owned) {
            None => metrics::counter!(EXCEEDED, "caller" => caller, "limit" => limit),
            Some(partner) => {
                metrics::counter!(EXCEEDED, "caller" => caller, "partner" => partner, "limit" => limit)
            }
        }
        .increment(1);
        if first {
            tracing::error!(%whose, limit, of, "over budget");
            let event = Event::Budget {
                limit,
                of,
                partner: whose.partner.map(str::to_owned),
            };
            self.record(whose.caller, event).await?;
        }
        Ok(())
    }

    /// Records that a caller lacks a capability; returns what it is told.
    pub(crate) async fn deny<'a>(
        &self,
        spender: impl Into<Spender<'a>>,
        capability: Capability,
        asset: Option<&AssetId>,
    ) -> CallError {
        let spender = spender.into();
        if let Err(exceeded) = self.budget.deny(spender, self.now()) {
            return self.over_budget(spender, exceeded).await;
        }
        self.denied(spender.caller, capability, asset).await
    }

    /// As [`Self::deny`], where keys are only described. Viewers choose the asset, so that takes nothing from the others:
    /// beyond the limit there is an alarm, and no record more.
    async fn deny_description(&self, caller: &Caller, asset: &AssetId) -> CallError {
        let spender = Spender::from(caller);
        match self.budget.deny_description(spender, self.now()) {
            Ok(()) => (self.denied(caller.name(), Capability::Export, Some(asset))).await,
            Err(exceeded) => match self.alarm(spender, exceeded).await {
                Ok(()) => lacks(caller.name(), Capability::Export, Some(asset)),
                Err(error) => error.into(),
            },
        }
    }

    async fn denied(
        &self,
        name: &str,
        capability: Capability,
        asset: Option<&AssetId>,
    ) -> CallError {
        let event = Event::Denied {
            capability: capability.as_str(),
            asset: asset.cloned(),
        };
        match self.record(name, event).await {
            Ok(()) => lacks(name, capability, asset),
            Err(error) => error.into(),
        }
    }

    pub(crate) async fn record(&self, caller: &str, event: Event) -> Result<(), Error> {
        self.log
            .append(self.now_ms(), caller, event)
            .await
            .map(drop)
    }

    /// Ties the log as it is now to the store, and the store to the log.
    pub(crate) async fn anchor(&self) -> Result<(), Error> {
        self.sign().await.map(drop)
    }

    pub(crate) async fn signer(&self, keyring: &Keyring, signs: Signed) -> Result<Signer, Error> {
        let (store, now) = (self.store.as_ref(), self.now());
        keyring.signer(store, &self.random, signs, now).await
    }

    async fn sign(&self) -> Result<Checkpoint, Error> {
        self.saw_store().await?;
        let (head, checkpoint) = self.log.checkpoint(self.now_ms()).await?;
        // One that stays behind proves less, not wrongly: on a full disk an operator still gets in.
        if let Err(error) = self.store.put_anchor(head).await {
            tracing::error!(%error, "the store cannot take note of the audit log's new end");
        }
        Ok(checkpoint)
    }

    pub(crate) async fn checkpoint(&self) -> Result<CheckpointText, CallError> {
        let _administration = self.administration.lock().await;
        // While sealed there is nothing to sign with.
        self.unsealed()?;
        Ok((&self.sign().await?).into())
    }

    /// How often the store has been written to; the log takes note of it.
    pub(crate) async fn saw_store(&self) -> Result<u64, Error> {
        let writes = self.store.writes().await?;
        self.log.saw_store(writes);
        Ok(writes)
    }

    /// In milliseconds of Unix time.
    pub(crate) fn now_ms(&self) -> u64 {
        unix_ms(self.clock.now())
    }

    /// In seconds of Unix time.
    pub(crate) fn now(&self) -> u64 {
        self.now_ms() / 1000
    }
}

fn lacks(name: &str, capability: Capability, asset: Option<&AssetId>) -> CallError {
    CallError::Denied(match asset {
        Some(asset) => format!("{name} may not {} {asset}", capability.as_str()),
        None => format!("{name} may not {}", capability.as_str()),
    })
}

pub(crate) fn audited(row: &KeyRow) -> audit::Key {
    audit::Key {
        key_id: row.key_id,
        asset: row.context.asset.clone(),
        label: row.context.label,
        scheme: row.context.scheme,
    }
}

pub(crate) fn check_tenant(tenant: &str) -> Result<(), CallError> {
    match (1..=MAX_TENANT).contains(&tenant.len()) {
        true => Ok(()),
        false => Err(CallError::Malformed(format!(
            "a tenant's name has 1 to {MAX_TENANT} bytes"
        ))),
    }
}

pub(crate) fn check_count(keys: usize) -> Result<(), CallError> {
    if (1..=MAX_KEYS).contains(&keys) {
        Ok(())
    } else {
        Err(CallError::Malformed(format!(
            "{keys} keys asked for: 1 to {MAX_KEYS} can be"
        )))
    }
}

/// Runs what takes long off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    (tokio::task::spawn_blocking(work).await)
        .map_err(|error| Error::unavailable("a task ended early", error))?
}
