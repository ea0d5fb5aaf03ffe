//! What two operators have agreed on.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keystore_client::admin::{Act, Acted};

use crate::audit::Event;
use crate::backup::check_recipients;
use crate::keyring::{floor, not_destroyed};
use crate::local::Inner;
use crate::refusal::{Refusal, refused};
use crate::store::KekRow;

fn dealt_by_rotation() -> Refusal {
    refused("`castellum keystore rotate --root` asks for it, and does it")
}

impl Inner {
    pub(crate) async fn act(self: &Arc<Self>, caller: &str, act: Act) -> Result<Acted, Refusal> {
        // Looked into first, so that nobody is asked to agree to what cannot be done.
        match &act {
            Act::SetAsideLog {} | Act::DestroyTenant { .. } => {
                self.unsealed().map_err(|_| Refusal::Sealed)?;
            }
            Act::LowerFloor { tenant, version } => {
                self.unsealed().map_err(|_| Refusal::Sealed)?;
                self.lowered(tenant, *version).await?;
            }
            Act::AcceptRollback {} => drop(self.acceptable().await?),
            Act::ExportKeks { tenant, recipients } => {
                self.unsealed().map_err(|_| Refusal::Sealed)?;
                check_recipients(recipients)?;
                let kek = self.store.kek(tenant, None).await?;
                if kek.is_none_or(|kek| not_destroyed(&kek).is_err()) {
                    return Err(refused(format!("tenant {tenant} has no KEK")));
                }
            }
            Act::Restore { backup, .. } => self.restorable(backup).await?,
            Act::DealShares(_) => {
                return Err(dealt_by_rotation());
            }
        }
        if let Some(approval) = self.claim(caller, &act).await? {
            return Ok(Acted::Waits(approval));
        }
        let done = match &act {
            Act::ExportKeks { tenant, recipients } => {
                let file = self.export_keks(caller, tenant, recipients).await?;
                return Ok(Acted::File(STANDARD.encode(file)));
            }
            Act::Restore {
                backup,
                without_tombstones,
            } => (self.begin_restore(caller, backup, *without_tombstones)).await?,
            Act::SetAsideLog {} => self.set_log_aside(caller).await?,
            Act::LowerFloor { tenant, version } => {
                self.lower_floor(caller, tenant, *version).await?
            }
            Act::AcceptRollback {} => self.accept_rollback(caller).await?,
            Act::DestroyTenant { tenant } => self.destroy_tenant(caller, tenant).await?,
            Act::DealShares(_) => return Err(dealt_by_rotation()),
        };
        Ok(Acted::Done(done))
    }

    async fn set_log_aside(&self, caller: &str) -> Result<String, Refusal> {
        let _administration = self.administration.lock().await;
        self.unsealed().map_err(|_| Refusal::Sealed)?;
        self.anchor().await?;
        let file = self.log.set_aside(self.now_ms()).await?;
        let event = Event::SetAside { file: file.clone() };
        self.record(caller, event).await?;
        self.anchor().await?;
        Ok(format!("the log so far is {file} in the state folder"))
    }

    /// The tenant's newest KEK, whose floor can be lowered to this version.
    async fn lowered(&self, tenant: &str, version: u32) -> Result<KekRow, Refusal> {
        let kek = (self.store.kek(tenant, None).await?)
            .ok_or_else(|| refused(format!("tenant {tenant} has no KEK yet")))?;
        match (1..floor(&kek)).contains(&version) {
            true => Ok(kek),
            false => Err(refused(format!(
                "the floor of tenant {tenant} is {}: it cannot be lowered to {version}",
                floor(&kek)
            ))),
        }
    }

    /// What is under older KEKs from now on is wrapped anew; then the floor is raised again.
    async fn lower_floor(
        self: &Arc<Self>,
        caller: &str,
        tenant: &str,
        version: u32,
    ) -> Result<String, Refusal> {
        let _administration = self.administration.lock().await;
        let keyring = self.unsealed().map_err(|_| Refusal::Sealed)?;
        let kek = self.lowered(tenant, version).await?;
        let event = Event::Floor {
            tenant: tenant.to_owned(),
            version,
        };
        self.record(caller, event).await?;
        if !self.move_floor(&keyring, kek, version).await? {
            return Err(refused("a rotation has come in between; ask again"));
        }
        self.anchor().await?;
        self.rewrap_in_background();
        Ok(format!(
            "keys of tenant {tenant} under KEK {version} and later are taken in again, and wrapped anew"
        ))
    }

    /// What does not fit together, and can be gone on with.
    async fn acceptable(&self) -> Result<String, Refusal> {
        if self.unsealed().is_ok() {
            return Err(refused("the keystore is unsealed: nothing was put back"));
        }
        if let Some(what) = self.foreign_tombstones().await? {
            return Err(refused(format!(
                "{what}: move the file away and restart, and what is then missing can be accepted"
            )));
        }
        (self.rolled_back().await?).ok_or_else(|| {
            refused("store, audit log and tombstones fit together: there is nothing to accept")
        })
    }

    async fn accept_rollback(&self, caller: &str) -> Result<String, Refusal> {
        let _administration = self.administration.lock().await;
        let what = self.acceptable().await?;
        let store = self.store.writes().await?.max(self.log.store_seen()) + 1;
        let tombstones = self.tombstones.count();
        let event = Event::RollbackAccepted {
            what: what.clone(),
            store,
            tombstones,
        };
        self.record(caller, event).await?;
        self.log.saw_store(store);
        self.log.reset_tombstones(tombstones);
        self.store.resume(store, self.log.head()).await?;
        Ok(format!("accepted: {what}"))
    }
}
