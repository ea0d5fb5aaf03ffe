//! Destroying keys and tenants, so that they stay destroyed.
//!
//! The order is: the audit record, the tombstone, the store. Cut short after the first, nothing is destroyed and nobody
//! was told that it was; after the second, the next unsealing does the rest.

use std::sync::Arc;

use keystore_client::Error as CallError;
use keystore_types::KeyId;

use crate::audit::Event;
use crate::error::Error;
use crate::keyring::{Keyring, not_destroyed};
use crate::local::{Inner, blocking};
use crate::refusal::Refusal;
use crate::store::{KeyBody, KeyRow, Signed};
use crate::tombstone::Grave;

/// What the first line of every log of tombstones says.
const BEGIN: &str = "castellum tombstones";

/// Keys looked up at once.
const BATCH: usize = 64;

impl Inner {
    pub(crate) async fn destroy(
        &self,
        caller: &str,
        id: KeyId,
    ) -> Result<Option<KeyRow>, CallError> {
        let _administration = self.administration.lock().await;
        let keyring = self.unsealed()?;
        let rows = self.store.keys_by_id(&[id]).await?;
        match rows.into_iter().next() {
            // Recorded first: what cannot be undone is never done unrecorded.
            Some(row) if matches!(row.body, KeyBody::Wrapped(_)) => {
                self.record(caller, Event::Destroy { key_id: id }).await?;
                self.entomb(&keyring, Grave::Key(id)).await?;
                let row = self.store.destroy(id, self.now()).await?;
                self.store.put_tombstones(self.tombstones.count()).await?;
                self.anchor().await?;
                Ok(row)
            }
            other => Ok(other),
        }
    }

    pub(crate) async fn destroy_tenant(
        &self,
        caller: &str,
        tenant: &str,
    ) -> Result<String, Refusal> {
        let _administration = self.administration.lock().await;
        let keyring = self.unsealed().map_err(|_| Refusal::Sealed)?;
        let event = Event::DestroyTenant {
            tenant: tenant.to_owned(),
        };
        self.record(caller, event).await?;
        let grave = Grave::Tenant(tenant.to_owned());
        self.entomb(&keyring, grave).await?;
        self.store.destroy_tenant(tenant, self.now()).await?;
        keyring.forget(tenant);
        self.store.put_tombstones(self.tombstones.count()).await?;
        self.anchor().await?;
        Ok(format!("tenant {tenant} is destroyed"))
    }

    async fn entomb(&self, keyring: &Keyring, grave: Grave) -> Result<(), Error> {
        let signer = self.signer(keyring, Signed::Tombstones).await?;
        let (tombstones, now) = (Arc::clone(&self.tombstones), self.now_ms());
        blocking(move || tombstones.append(&signer, now, grave)).await?;
        self.log.saw_tombstones(self.tombstones.count());
        Ok(())
    }

    /// Carries out what tombstones say and the store does not know of: it was put back, or a crash came in between.
    pub(crate) async fn bury(&self, keyring: &Keyring) -> Result<(), Error> {
        if self.tombstones.count() == 0 {
            self.entomb(keyring, Grave::Begin(BEGIN.to_owned())).await?;
        }
        let count = self.tombstones.count();
        let done = self.store.tombstones().await?;
        self.log.saw_tombstones(count);
        if done == count {
            return Ok(());
        }
        let graves = blocking({
            let tombstones = Arc::clone(&self.tombstones);
            move || tombstones.after(done)
        })
        .await?;
        let mut ids = Vec::new();
        for grave in graves {
            match grave {
                Grave::Begin(_) => {}
                Grave::Key(id) => ids.push(id),
                Grave::Tenant(tenant) => {
                    let newest = self.store.kek(&tenant, None).await?;
                    if newest.is_some_and(|kek| not_destroyed(&kek).is_err()) {
                        continue;
                    }
                    let event = Event::DestroyTenant {
                        tenant: tenant.clone(),
                    };
                    self.record("keystore", event).await?;
                    self.store.destroy_tenant(&tenant, self.now()).await?;
                    keyring.forget(&tenant);
                }
            }
        }
        for ids in ids.chunks(BATCH) {
            for row in self.store.keys_by_id(ids).await? {
                if matches!(row.body, KeyBody::Wrapped(_)) {
                    let key_id = row.key_id;
                    self.record("keystore", Event::Destroy { key_id }).await?;
                    self.store.destroy(key_id, self.now()).await?;
                }
            }
        }
        self.store.put_tombstones(count).await
    }

    /// Whether the tombstones are another keystore's, or no chain.
    pub(crate) async fn foreign_tombstones(&self) -> Result<Option<String>, Error> {
        if let Some(fault) = self.tombstones.fault() {
            return Ok(Some(format!("the tombstones were changed: {fault}")));
        }
        let key = self.stored_public_key(Signed::Tombstones).await?;
        if self.tombstones.count() == 0 {
            return Ok(None);
        }
        let signed = match key {
            None => false,
            Some(key) => {
                let tombstones = Arc::clone(&self.tombstones);
                blocking(move || tombstones.signed_by(&key)).await?
            }
        };
        Ok((!signed).then(|| "this keystore has not signed the tombstones".to_owned()))
    }
}
