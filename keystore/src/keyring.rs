//! What is in memory while unsealed: the root, the KEKs that were needed since, and what is done with them.
//!
//! # Versions
//! New keys are wrapped under a tenant's newest KEK, and that under the newest root. A tenant's newest KEK bears the
//! tenant's floor, as part of what it is wrapped for: keys under versions below it are refused, though they would
//! open. So whoever got hold of an old KEK, and may write to the store, cannot put a key of their own there.
//!
//! A rotation goes on beside leases and exports, which may hold rows that it has replaced since. What they then meet is
//! [`ErrorKind::Superseded`](crate::ErrorKind::Superseded), and a second look at the store finds the row as it is now.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use keystore_client::exchange::DepositedHead;
use keystore_types::{ConstantIv, ContentKey, KeyContext, KeyId};
use ring::rand::SystemRandom;
use zeroize::Zeroizing;

use crate::audit::Signer;
use crate::error::{Error, ErrorKind};
use crate::seal::{KeyBytes, Purpose, WrappingKey, fill, random_key};
use crate::store::{Handover, KekRow, KeyBody, KeyRow, Replaced, Signed, SigningKeyRow, Store};

/// How often a record that a rotation has replaced is looked for again, and the pause before it is, which is many times
/// what a rotation takes between its commit and the end of the old version.
const LOOKS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(2);

/// The root and KEKs. Sealing drops it, which wipes them.
pub(crate) struct Keyring {
    root: RwLock<Root>,
    /// Refuses what would not lie in locked memory.
    locked_only: bool,
    tenants: Mutex<HashMap<String, Tenant>>,
}

#[derive(Clone)]
struct Root {
    version: u32,
    key: Arc<WrappingKey>,
}

/// The KEKs of a tenant that are in memory.
#[derive(Default)]
struct Tenant {
    floor: u32,
    keks: BTreeMap<u32, Arc<WrappingKey>>,
}

impl Keyring {
    /// A keyring with nothing but the root. With `locked_only`, roots that come after it must lie in locked memory.
    pub(crate) fn new(version: u32, root: WrappingKey, locked_only: bool) -> Self {
        Self {
            root: RwLock::new(Root {
                version,
                key: Arc::new(root),
            }),
            locked_only,
            tenants: Mutex::default(),
        }
    }

    /// Whether all of it lies in locked memory.
    pub(crate) fn locked(&self) -> bool {
        let root = self.root().key;
        let tenants = self.tenants();
        let mut keks = tenants.values().flat_map(|tenant| tenant.keks.values());
        root.locked() && keks.all(|key| key.locked())
    }

    /// The root's version.
    pub(crate) fn root_version(&self) -> u32 {
        self.root().version
    }

    /// A new root for the nodes that have the one before it.
    pub(crate) fn hand_over(
        &self,
        random: &SystemRandom,
        version: u32,
        root: &KeyBytes,
    ) -> Result<Handover, Error> {
        let old = self.known_root(version.saturating_sub(1))?;
        let purpose = Purpose::Handover { version };
        Ok(Handover {
            version,
            wrapped: old.wrap(random, root.as_slice(), &purpose)?,
        })
    }

    /// Goes over to a later root. The one before is wiped when nobody uses it any more.
    pub(crate) fn succeed(&self, version: u32, key: Arc<WrappingKey>) {
        let mut root = self.root.write().unwrap_or_else(PoisonError::into_inner);
        // Who comes late finds it done.
        if version > root.version {
            *root = Root { version, key };
        }
    }

    /// Goes over to the roots that another node has made since, as far as they were handed over.
    pub(crate) async fn catch_up(&self, store: &dyn Store) -> Result<(), Error> {
        for Handover { version, wrapped } in store.handovers(self.root_version()).await? {
            let old = self.root();
            if old.version.checked_add(1) != Some(version) {
                continue;
            }
            let bytes = old.key.unwrap(&wrapped, &Purpose::Handover { version })?;
            let root = WrappingKey::new(&bytes)?;
            if self.locked_only && !root.locked() {
                let what = format!("root {version} would not lie in locked memory");
                return Err(Error::new(ErrorKind::Unavailable, what));
            }
            self.succeed(version, Arc::new(root));
        }
        Ok(())
    }

    /// Keeps to what other nodes have destroyed, and to the floors that they have moved.
    pub(crate) async fn refresh(&self, store: &dyn Store) -> Result<(), Error> {
        let known: Vec<String> = self.tenants().keys().cloned().collect();
        for tenant in known {
            match store.kek(&tenant, None).await? {
                Some(newest) if not_destroyed(&newest).is_ok() => {
                    // What it says counts only if it opens.
                    drop(self.unwrap_kek(&newest)?);
                    self.set_floor(&tenant, floor(&newest));
                }
                Some(_) | None => self.forget(&tenant),
            }
        }
        Ok(())
    }

    /// The root of this version, if it is the one in memory.
    pub(crate) fn known_root(&self, version: u32) -> Result<Arc<WrappingKey>, Error> {
        let root = self.root();
        if root.version == version {
            return Ok(root.key);
        }
        let what = format!("root {version} is not in memory");
        Err(Error::new(ErrorKind::Superseded, what))
    }

    fn root(&self) -> Root {
        (self.root.read().unwrap_or_else(PoisonError::into_inner)).clone()
    }

    /// A new key for a context, wrapped and not yet kept. Nothing derives it and nothing remembers it but the row.
    pub(crate) async fn make(
        &self,
        store: &dyn Store,
        random: &SystemRandom,
        context: &KeyContext,
        now: u64,
    ) -> Result<KeyRow, Error> {
        let mut id = [0; 16];
        fill(random, &mut id)?;
        // A version 4 UUID (RFC 9562 5.4).
        id[6] = id[6] & 0x0f | 0x40;
        id[8] = id[8] & 0x3f | 0x80;
        self.make_as(store, random, context, KeyId::new(id), None, now)
            .await
    }

    /// The same under an id, and with an IV, that others chose.
    pub(crate) async fn make_as(
        &self,
        store: &dyn Store,
        random: &SystemRandom,
        context: &KeyContext,
        key_id: KeyId,
        iv: Option<ConstantIv>,
        now: u64,
    ) -> Result<KeyRow, Error> {
        let key = ContentKey::build(|key| fill(random, key))?;
        self.wrap_new(store, random, context, (key_id, iv), &key, now)
            .await
    }

    /// A key that others made, wrapped and not yet kept.
    pub(crate) async fn keep(
        &self,
        store: &dyn Store,
        random: &SystemRandom,
        context: &KeyContext,
        head: &DepositedHead,
        key: &ContentKey,
        now: u64,
    ) -> Result<KeyRow, Error> {
        self.wrap_new(store, random, context, (head.key_id, head.iv), key, now)
            .await
    }

    async fn wrap_new(
        &self,
        store: &dyn Store,
        random: &SystemRandom,
        context: &KeyContext,
        (key_id, iv): (KeyId, Option<ConstantIv>),
        key: &ContentKey,
        now: u64,
    ) -> Result<KeyRow, Error> {
        let (kek_version, kek) = self.newest_kek(store, random, &context.tenant, now).await?;
        let iv = match iv {
            Some(iv) => iv,
            None => {
                let mut iv = [0; 16];
                fill(random, &mut iv)?;
                ConstantIv::new(iv)
            }
        };
        let purpose = Purpose::Content {
            key_id,
            context,
            iv,
            kek_version,
        };
        Ok(KeyRow {
            key_id,
            context: context.clone(),
            iv,
            kek_version,
            body: KeyBody::Wrapped(kek.wrap(random, key.expose(), &purpose)?),
            created: now,
        })
    }

    /// The key that a row holds, or that the row holds which stands in its place by now.
    pub(crate) async fn content_key(
        &self,
        store: &dyn Store,
        row: &KeyRow,
    ) -> Result<ContentKey, Error> {
        match self.open(store, row).await {
            Err(error) if error.kind() == ErrorKind::Superseded => {
                let rows = store.keys_by_id(&[row.key_id]).await?;
                match rows.into_iter().next() {
                    Some(now) if now.body != row.body => self.open(store, &now).await,
                    Some(_) | None => Err(error),
                }
            }
            result => result,
        }
    }

    /// The row wrapped anew, under a newer KEK of its tenant.
    pub(crate) async fn rewrap(
        &self,
        store: &dyn Store,
        random: &SystemRandom,
        row: KeyRow,
        kek_version: u32,
    ) -> Result<Replaced<KeyRow>, Error> {
        let context = row.context.clone();
        self.wrap_anew(store, random, row, context, kek_version)
            .await
    }

    /// The row wrapped anew for another content of its asset, under the same KEK: a rotation that is under way finds it
    /// where it was.
    pub(crate) async fn move_to(
        &self,
        store: &dyn Store,
        random: &SystemRandom,
        row: KeyRow,
        context: KeyContext,
    ) -> Result<Replaced<KeyRow>, Error> {
        let kek_version = row.kek_version;
        self.wrap_anew(store, random, row, context, kek_version)
            .await
    }

    async fn wrap_anew(
        &self,
        store: &dyn Store,
        random: &SystemRandom,
        row: KeyRow,
        context: KeyContext,
        kek_version: u32,
    ) -> Result<Replaced<KeyRow>, Error> {
        let key = self.open(store, &row).await?;
        let kek = self.kek(store, &context.tenant, kek_version).await?;
        let purpose = Purpose::Content {
            key_id: row.key_id,
            context: &context,
            iv: row.iv,
            kek_version,
        };
        let body = KeyBody::Wrapped(kek.wrap(random, key.expose(), &purpose)?);
        let new = KeyRow {
            context,
            kek_version,
            body,
            ..row.clone()
        };
        Ok(Replaced { old: row, new })
    }

    async fn open(&self, store: &dyn Store, row: &KeyRow) -> Result<ContentKey, Error> {
        let wrapped = match &row.body {
            KeyBody::Wrapped(wrapped) => wrapped,
            KeyBody::Destroyed(_) => {
                return Err(Error::damaged(format!("key {} is destroyed", row.key_id)));
            }
        };
        let kek = self
            .kek(store, &row.context.tenant, row.kek_version)
            .await?;
        let purpose = Purpose::Content {
            key_id: row.key_id,
            context: &row.context,
            iv: row.iv,
            kek_version: row.kek_version,
        };
        kek.unwrap_content(wrapped, &purpose)
    }

    /// The KEK under which a tenant's new keys are wrapped, made on first need.
    async fn newest_kek(
        &self,
        store: &dyn Store,
        random: &SystemRandom,
        tenant: &str,
        now: u64,
    ) -> Result<(u32, Arc<WrappingKey>), Error> {
        let row = match store.kek(tenant, None).await? {
            Some(row) => row,
            None => self.put_kek(store, random, tenant, 1, 1, now).await?,
        };
        not_destroyed(&row)?;
        let kek = self.kek(store, tenant, row.version).await?;
        Ok((row.version, kek))
    }

    /// Makes and keeps a KEK; returns the row of that version that stands.
    pub(crate) async fn put_kek(
        &self,
        store: &dyn Store,
        random: &SystemRandom,
        tenant: &str,
        version: u32,
        floor: u32,
        now: u64,
    ) -> Result<KekRow, Error> {
        for look in 0..LOOKS {
            pause(look).await;
            let root = self.root();
            let kek = random_key(random)?;
            let floor = Some(floor);
            let purpose = Purpose::Kek {
                tenant,
                version,
                floor,
            };
            let row = KekRow {
                tenant: tenant.to_owned(),
                version,
                floor,
                root_version: root.version,
                wrapped: root.key.wrap(random, kek.as_slice(), &purpose)?,
                created: now,
            };
            // Not kept: the root was rotated in between.
            if let Some(standing) = store.put_kek(row).await? {
                return Ok(standing);
            }
            self.catch_up(store).await?;
        }
        Err(unknown_root())
    }

    /// The KEK of a row, wrapped anew under this root and with this floor.
    pub(crate) fn rewrap_kek(
        &self,
        random: &SystemRandom,
        row: KekRow,
        (root_version, root): (u32, &WrappingKey),
        floor: Option<u32>,
    ) -> Result<Replaced<KekRow>, Error> {
        let bytes = self.unwrap_kek(&row)?;
        let purpose = Purpose::Kek {
            tenant: &row.tenant,
            version: row.version,
            floor,
        };
        let new = KekRow {
            floor,
            root_version,
            wrapped: root.wrap(random, bytes.as_slice(), &purpose)?,
            ..row.clone()
        };
        Ok(Replaced { old: row, new })
    }

    /// What signs, made on first need.
    pub(crate) async fn signer(
        &self,
        store: &dyn Store,
        random: &SystemRandom,
        signs: Signed,
        now: u64,
    ) -> Result<Signer, Error> {
        for look in 0..LOOKS {
            pause(look).await;
            let kept = store.signing_keys().await?.into_iter();
            let row = match kept.into_iter().find(|row| row.signs == signs) {
                Some(row) => Some(row),
                None => {
                    let root = self.root();
                    let seed = random_key(random)?;
                    let public = *Signer::new(&seed)?.public_key().as_bytes();
                    let purpose = Purpose::Signing {
                        signs: signs.as_str(),
                        public: &public,
                    };
                    let wrapped = root.key.wrap(random, seed.as_slice(), &purpose)?;
                    let row = SigningKeyRow {
                        signs,
                        public,
                        root_version: root.version,
                        wrapped,
                        created: now,
                    };
                    store.put_signing_key(row).await?
                }
            };
            match row.map(|row| self.unwrap_signing_key(&row)) {
                Some(Err(error)) if error.kind() == ErrorKind::Superseded => {}
                Some(seed) => return Signer::new(&seed?),
                None => {}
            }
            self.catch_up(store).await?;
        }
        Err(unknown_root())
    }

    /// A signing key wrapped anew under this root.
    pub(crate) fn rewrap_signing_key(
        &self,
        random: &SystemRandom,
        row: SigningKeyRow,
        (root_version, root): (u32, &WrappingKey),
    ) -> Result<Replaced<SigningKeyRow>, Error> {
        let seed = self.unwrap_signing_key(&row)?;
        let new = SigningKeyRow {
            root_version,
            wrapped: root.wrap(random, seed.as_slice(), &signing_purpose(&row))?,
            ..row.clone()
        };
        Ok(Replaced { old: row, new })
    }

    fn unwrap_signing_key(&self, row: &SigningKeyRow) -> Result<KeyBytes, Error> {
        let root = self.known_root(row.root_version)?;
        root.unwrap(&row.wrapped, &signing_purpose(row))
    }

    /// A tenant's KEKs in the open, as a document that is wiped.
    pub(crate) fn document(
        &self,
        tenant: &str,
        keks: &[KekRow],
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        // Reserved at once: a vector that grows leaves unwiped copies behind.
        let name = serde_json::Value::from(tenant).to_string();
        let mut text = Zeroizing::new(String::with_capacity(128 + name.len() + keks.len() * 128));
        text.push_str(r#"{"format":"castellum KEKs","version":1,"tenant":"#);
        text.push_str(&name);
        text.push_str(r#","keks":["#);
        for (at, row) in keks.iter().enumerate() {
            let kek = self.unwrap_kek(row)?;
            let comma = if at == 0 { "" } else { "," };
            text.push_str(&format!(r#"{comma}{{"version":{},"key":""#, row.version));
            for byte in kek.iter() {
                text.push(char::from(DIGITS[usize::from(byte >> 4)]));
                text.push(char::from(DIGITS[usize::from(byte & 0x0f)]));
            }
            text.push_str("\"}");
        }
        text.push_str("]}\n");
        Ok(Zeroizing::new(std::mem::take(&mut *text).into_bytes()))
    }

    /// Lets go of a tenant that was destroyed.
    pub(crate) fn forget(&self, tenant: &str) {
        self.tenants().remove(tenant);
    }

    /// Keeps to a floor that was moved.
    pub(crate) fn set_floor(&self, tenant: &str, floor: u32) {
        let mut tenants = self.tenants();
        let tenant = tenants.entry(tenant.to_owned()).or_default();
        tenant.floor = floor;
        tenant.keks.retain(|version, _| *version >= floor);
    }

    async fn kek(
        &self,
        store: &dyn Store,
        tenant: &str,
        version: u32,
    ) -> Result<Arc<WrappingKey>, Error> {
        for look in 0..LOOKS {
            pause(look).await;
            if let Some(known) = self.tenants().get(tenant)
                && let Some(kek) = known.keks.get(&version)
            {
                return Ok(kek.clone());
            }
            let gone = || Error::damaged(format!("KEK {version} of tenant {tenant} is gone"));
            let newest = store.kek(tenant, None).await?.ok_or_else(gone)?;
            let row = match newest.version == version {
                true => newest.clone(),
                false => (store.kek(tenant, Some(version)).await?).ok_or_else(gone)?,
            };
            match self.take_in(&newest, &row) {
                // Wrapped by a root that was there when the row was read, and no longer is.
                Err(error)
                    if error.kind() == ErrorKind::Superseded && version >= floor(&newest) =>
                {
                    self.catch_up(store).await?;
                }
                result => return result,
            }
        }
        Err(unknown_root())
    }

    /// Unwraps a KEK and its tenant's newest, which says whether it is still in use.
    fn take_in(&self, newest: &KekRow, row: &KekRow) -> Result<Arc<WrappingKey>, Error> {
        let newest_kek = Arc::new(WrappingKey::new(&self.unwrap_kek(newest)?)?);
        above_floor(row, floor(newest))?;
        let kek = match row.version == newest.version {
            true => newest_kek.clone(),
            false => Arc::new(WrappingKey::new(&self.unwrap_kek(row)?)?),
        };
        let mut tenants = self.tenants();
        let tenant = tenants.entry(row.tenant.clone()).or_insert_with(|| Tenant {
            floor: floor(newest),
            keks: BTreeMap::new(),
        });
        // The floor may have been moved since these rows were read.
        above_floor(row, tenant.floor)?;
        tenant.keks.entry(newest.version).or_insert(newest_kek);
        Ok(tenant.keks.entry(row.version).or_insert(kek).clone())
    }

    fn unwrap_kek(&self, row: &KekRow) -> Result<KeyBytes, Error> {
        not_destroyed(row)?;
        let purpose = Purpose::Kek {
            tenant: &row.tenant,
            version: row.version,
            floor: row.floor,
        };
        self.known_root(row.root_version)?
            .unwrap(&row.wrapped, &purpose)
    }

    fn tenants(&self) -> MutexGuard<'_, HashMap<String, Tenant>> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn signing_purpose(row: &SigningKeyRow) -> Purpose<'_> {
    Purpose::Signing {
        signs: row.signs.as_str(),
        public: &row.public,
    }
}

/// What the tenant's newest KEK says; rows of the first form bear no floor.
pub(crate) fn floor(newest: &KekRow) -> u32 {
    newest.floor.unwrap_or(1)
}

/// A tenant that was destroyed keeps its rows, without their bodies.
pub(crate) fn not_destroyed(row: &KekRow) -> Result<(), Error> {
    match row.wrapped.as_bytes().is_empty() {
        true => Err(Error::new(
            ErrorKind::Destroyed,
            format!("tenant {} was destroyed", row.tenant),
        )),
        false => Ok(()),
    }
}

fn above_floor(row: &KekRow, floor: u32) -> Result<(), Error> {
    if row.version >= floor {
        return Ok(());
    }
    let KekRow {
        tenant, version, ..
    } = row;
    Err(Error::new(
        ErrorKind::Superseded,
        format!("KEK {version} of tenant {tenant} is refused: its floor is {floor}"),
    ))
}

/// Before another look. Not before the first: the shortest sleep there is takes a millisecond.
async fn pause(look: u32) {
    if look > 0 {
        tokio::time::sleep(PAUSE * look).await;
    }
}

fn unknown_root() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "the store is under a root that this process does not know: seal and unseal it",
    )
}
