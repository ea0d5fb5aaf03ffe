//! What is in memory while unsealed: the root, the KEKs that were needed since, and what is done with them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keystore_types::{ConstantIv, ContentKey, KeyContext, KeyId};
use ring::rand::SystemRandom;

use crate::error::Error;
use crate::seal::{Purpose, WrappingKey, fill, random_key};
use crate::store::{KekRow, KeyBody, KeyRow, Store};

/// The root and KEKs. Sealing drops it, which wipes them.
pub(crate) struct Keyring {
    root: WrappingKey,
    keks: Mutex<HashMap<(String, u32), Arc<WrappingKey>>>,
}

impl Keyring {
    /// A keyring with nothing but the root.
    pub(crate) fn new(root: WrappingKey) -> Self {
        Self {
            root,
            keks: Mutex::default(),
        }
    }

    /// Whether all of it lies in locked memory.
    pub(crate) fn locked(&self) -> bool {
        self.root.locked() && self.known().values().all(|kek| kek.locked())
    }

    /// A new key for a context, wrapped and not yet kept. Nothing derives it and nothing remembers it but the row.
    pub(crate) async fn make(
        &self,
        store: &dyn Store,
        random: &SystemRandom,
        context: &KeyContext,
        now: u64,
    ) -> Result<KeyRow, Error> {
        let (kek_version, kek) = self.newest_kek(store, random, &context.tenant, now).await?;
        let mut id = [0; 16];
        fill(random, &mut id)?;
        // A version 4 UUID (RFC 9562 5.4).
        id[6] = id[6] & 0x0f | 0x40;
        id[8] = id[8] & 0x3f | 0x80;
        let key_id = KeyId::new(id);
        let mut iv = [0; 16];
        fill(random, &mut iv)?;
        let iv = ConstantIv::new(iv);
        let key = ContentKey::build(|key| fill(random, key))?;
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

    /// The key that a row holds.
    pub(crate) async fn content_key(
        &self,
        store: &dyn Store,
        row: &KeyRow,
    ) -> Result<ContentKey, Error> {
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
            None => {
                let version = 1;
                let kek = random_key(random)?;
                let purpose = Purpose::Kek { tenant, version };
                let row = KekRow {
                    tenant: tenant.to_owned(),
                    version,
                    wrapped: self.root.wrap(random, kek.as_slice(), &purpose)?,
                    created: now,
                };
                store.put_kek(row).await?
            }
        };
        Ok((row.version, self.take_in(&row)?))
    }

    async fn kek(
        &self,
        store: &dyn Store,
        tenant: &str,
        version: u32,
    ) -> Result<Arc<WrappingKey>, Error> {
        let known = self.known().get(&(tenant.to_owned(), version)).cloned();
        if let Some(kek) = known {
            return Ok(kek);
        }
        match store.kek(tenant, Some(version)).await? {
            Some(row) => self.take_in(&row),
            None => {
                let what = format!("KEK {version} of tenant {tenant} is gone");
                Err(Error::damaged(what))
            }
        }
    }

    /// Unwraps a KEK, unless it is known.
    fn take_in(&self, row: &KekRow) -> Result<Arc<WrappingKey>, Error> {
        let mut known = self.known();
        let name = (row.tenant.clone(), row.version);
        if let Some(kek) = known.get(&name) {
            return Ok(kek.clone());
        }
        let purpose = Purpose::Kek {
            tenant: &row.tenant,
            version: row.version,
        };
        let bytes = self.root.unwrap(&row.wrapped, &purpose)?;
        let kek = Arc::new(WrappingKey::new(&bytes)?);
        known.insert(name, kek.clone());
        Ok(kek)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<(String, u32), Arc<WrappingKey>>> {
        self.keks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
