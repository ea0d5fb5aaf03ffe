//! Several keystores over one store: what a node does, the others notice within a second.
//!
//! - A new root comes to them wrapped by the one that they have in memory ([`crate::store::Handover`]). Who needs it
//!   earlier than the next look takes it over at once. A node that was away for too long opens the new root in the ways
//!   that settings describe; where there is none it says so, and goes on with the tenants that it knows.
//! - What another node destroyed, and the floors that it moved, count here too.
//! - A database that holds less than it once did was put back: the node seals itself, whoever wrote what is gone.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use keystore_client::SealState;
use ring::rand::SystemRandom;

use crate::audit::{hex, unhex};
use crate::error::{Error, ErrorKind};
use crate::keyring::Keyring;
use crate::local::Inner;
use crate::seal::fill;
use crate::store::Seen;

/// The pause between two looks.
const PAUSE: Duration = Duration::from_secs(1);

impl Inner {
    /// Looks at a store that other nodes share, until the keystore is dropped.
    pub(crate) fn watch_store(self: &Arc<Self>) {
        let weak = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut changes = None;
            let mut said = String::new();
            while let Some(inner) = weak.upgrade() {
                match inner.look(&mut changes).await {
                    Ok(true) => {}
                    Ok(false) => return,
                    // That it is away is said where it is noticed; all else once, not each second.
                    Err(error) if error.kind() == ErrorKind::Unavailable => {
                        tracing::debug!(%error, "the shared store");
                    }
                    Err(error) => {
                        let what = error.to_string();
                        if what != said {
                            tracing::error!(%error, "this keystore does not follow the others");
                            said = what;
                        }
                    }
                }
                drop(inner);
                tokio::time::sleep(PAUSE).await;
            }
        });
    }

    /// Whether there are other nodes. `changes` is what was taken notice of last.
    async fn look(&self, changes: &mut Option<u64>) -> Result<bool, Error> {
        let keyring = self.unsealed().ok();
        // Before the store is asked: it may be written to meanwhile.
        let known = self.log.store_seen();
        let root_version = keyring.as_ref().map(|keyring| keyring.root_version());
        let Some(seen) = self.store.look(root_version).await? else {
            return Ok(false);
        };
        if seen.writes < known {
            if keyring.is_some() {
                tracing::error!(
                    writes = seen.writes,
                    known,
                    "the store was put back: sealing"
                );
                self.seal("keystore").await?;
            }
            return Ok(true);
        }
        self.log.saw_store(seen.writes);
        match keyring {
            None => self.note_root(seen),
            Some(keyring) => {
                self.follow_root(&keyring, seen).await?;
                if *changes != Some(seen.changes) {
                    keyring.refresh(self.store.as_ref()).await?;
                    *changes = Some(seen.changes);
                }
            }
        }
        Ok(true)
    }

    /// Another node may have made the root, or the store was not there when this one started.
    fn note_root(&self, seen: Seen) {
        let state = match seen.root_version {
            Some(_) => SealState::Sealed,
            None => SealState::Uninitialised,
        };
        let sealed = |now: &SealState| *now != SealState::Unsealed;
        self.state
            .send_if_modified(|now| sealed(now) && std::mem::replace(now, state) != state);
    }

    async fn follow_root(&self, keyring: &Keyring, seen: Seen) -> Result<(), Error> {
        let behind = || seen.root_version > Some(keyring.root_version());
        if !behind() {
            return Ok(());
        }
        keyring.catch_up(self.store.as_ref()).await?;
        if behind() {
            self.open_newest_root(keyring).await?;
        }
        Ok(())
    }

    /// For a root that was not handed over, or no longer is.
    async fn open_newest_root(&self, keyring: &Keyring) -> Result<(), Error> {
        let Some(row) = self.store.root().await? else {
            return Ok(());
        };
        for method in self.configured.methods() {
            let Some(sealed) = row.sealed.iter().find(|sealed| sealed.method == method) else {
                continue;
            };
            match self.configured.open(sealed.clone()).await {
                Ok(root) => {
                    keyring.succeed(row.version, Arc::new(self.ready(&root)?));
                    return Ok(());
                }
                Err(error) => tracing::error!(method = method.as_str(), %error, "a new root"),
            }
        }
        let version = row.version;
        Err(Error::new(
            ErrorKind::Superseded,
            format!(
                "another node has made root {version}, which this one missed: seal and unseal it"
            ),
        ))
    }
}

/// Under which name this node's own records are kept in a shared store: 16 random bytes, in hexadecimal in its file.
pub(crate) fn node_id(mut file: File) -> Result<[u8; 16], Error> {
    let failed = |error| Error::unavailable("cannot read or write the node's id", error);
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(failed)?;
    if text.is_empty() {
        let mut id = [0; 16];
        fill(&SystemRandom::new(), &mut id)?;
        writeln!(file, "{}", hex(&id)).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        return Ok(id);
    }
    unhex(text.trim_end()).ok_or_else(|| {
        Error::damaged(
            "the node's id in the state folder is not one: put back what was there, or remove it together with \
             the audit log and the tombstones, and the node begins anew",
        )
    })
}
