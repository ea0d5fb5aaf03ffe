//! A backup put back into an empty keystore, by two operators.
//!
//! The lines come from whoever holds the age identity; what they add up to must be the backup that was agreed on. The
//! root comes last, in one transaction: until then the keystore has none, and what was restored so far is cleared by
//! the next attempt. Tombstones must be there already: copied to their place before the keystore is started. Without
//! them, which is another thing to agree on, what was destroyed since the backup comes back.

use ring::digest::{Context, SHA256};

use keystore_client::SealState;

use crate::audit::{Event, PublicKey, hex};
use crate::backup::{Head, Line, check_head, is_name, parse};
use crate::error::Error;
use crate::local::{Inner, blocking};
use crate::refusal::{Refusal, refused};
use crate::store::{KekRow, KeyRow, Restored, RootRow, Signed, SigningKeyRow};

/// Records kept in one transaction.
const BATCH: usize = 500;

/// A restore that is under way. There is one at a time, and a newer one takes its place.
pub(crate) struct Restore {
    caller: String,
    /// The backup that was agreed on.
    backup: String,
    without_tombstones: bool,
    hash: Context,
    head: Option<Head>,
    root: Option<RootRow>,
    signing_keys: Vec<SigningKeyRow>,
    keks: Vec<KekRow>,
    keys: Vec<KeyRow>,
    count: u64,
}

impl Inner {
    /// Whether a restore may begin.
    pub(crate) async fn restorable(&self, backup: &str) -> Result<(), Refusal> {
        if !is_name(backup) {
            return Err(refused("a backup's name has 64 hexadecimal digits"));
        }
        match self.store.root().await? {
            None => Ok(()),
            Some(_) => Err(refused(
                "this keystore has a root: a backup is put back into an empty one",
            )),
        }
    }

    pub(crate) async fn begin_restore(
        &self,
        caller: &str,
        backup: &str,
        without_tombstones: bool,
    ) -> Result<String, Refusal> {
        let mut place = self.restore.lock().await;
        if !self.store.clear().await? {
            return Err(refused("this keystore has a root"));
        }
        *place = Some(Restore {
            caller: caller.to_owned(),
            backup: backup.to_owned(),
            without_tombstones,
            hash: Context::new(&SHA256),
            head: None,
            root: None,
            signing_keys: Vec::new(),
            keks: Vec::new(),
            keys: Vec::new(),
            count: 0,
        });
        Ok("begun".to_owned())
    }

    /// Takes whole lines. Returns what was restored when the last of all is among them.
    pub(crate) async fn restore_lines(&self, text: &str) -> Result<Option<String>, Refusal> {
        let mut place = self.restore.lock().await;
        let Some(mut restore) = place.take() else {
            return Err(refused("no restore was begun, or it failed: begin again"));
        };
        for line in text.split_inclusive('\n') {
            if let Some(said) = self.restore_line(&mut restore, line).await? {
                return Ok(Some(said));
            }
        }
        *place = Some(restore);
        Ok(None)
    }

    async fn restore_line(
        &self,
        restore: &mut Restore,
        text: &str,
    ) -> Result<Option<String>, Refusal> {
        let line = parse(text).map_err(refused)?;
        if let Line::End(end) = line {
            let sha256 = hex(restore.hash.clone().finish().as_ref());
            if end.sha256 != sha256 || sha256 != restore.backup || end.keys != restore.count {
                return Err(refused("this is not the backup that was agreed on"));
            }
            self.keep(restore).await?;
            return self.finish(restore).await.map(Some);
        }
        restore.hash.update(text.as_bytes());
        match line {
            Line::Head(head) => {
                check_head(&head).map_err(refused)?;
                restore.head = Some(head);
            }
            Line::Root(root) => restore.root = Some(root.row().map_err(refused)?),
            Line::SigningKey(key) if restore.signing_keys.len() < Signed::ALL.len() => {
                restore.signing_keys.push(key.row().map_err(refused)?);
            }
            Line::SigningKey(_) => return Err(refused("the backup has too many signing keys")),
            Line::Kek(kek) => restore.keks.push(kek.row()),
            Line::Key(key) => {
                restore.count += 1;
                restore.keys.push(key.row().map_err(refused)?);
            }
            Line::End(_) => {}
        }
        if restore.keks.len() + restore.keys.len() >= BATCH {
            self.keep(restore).await?;
        }
        Ok(None)
    }

    async fn keep(&self, restore: &mut Restore) -> Result<(), Error> {
        let (keks, keys) = (
            std::mem::take(&mut restore.keks),
            std::mem::take(&mut restore.keys),
        );
        self.store.restore_keks(keks).await?;
        self.store.restore_keys(keys).await
    }

    async fn finish(&self, restore: &mut Restore) -> Result<String, Refusal> {
        let _administration = self.administration.lock().await;
        let (Some(head), Some(root)) = (restore.head.take(), restore.root.take()) else {
            return Err(refused("the backup has no head or no root"));
        };
        self.check_tombstones(restore, &head).await?;
        // The log goes on with the key that it was signed with; a new log gets a key of its own.
        let logs_key = self.log.signed_by();
        restore.signing_keys.retain(|key| {
            key.signs != Signed::Audit || logs_key == Some(PublicKey::new(key.public))
        });
        let event = Event::Restore {
            backup: restore.backup.clone(),
            keys: restore.count,
            without_tombstones: restore.without_tombstones,
        };
        self.record(&restore.caller, event).await?;
        let writes = head.writes.max(self.log.store_seen()) + 1;
        let rest = Restored {
            root,
            signing_keys: std::mem::take(&mut restore.signing_keys),
            writes,
            anchor: self.log.head(),
        };
        if !self.store.finish_restore(rest).await? {
            return Err(refused("this keystore has a root"));
        }
        self.log.saw_store(writes);
        self.set(None, SealState::Sealed);
        Ok(format!(
            "{} keys are restored; `castellum keystore unseal` opens them",
            restore.count
        ))
    }

    async fn check_tombstones(&self, restore: &Restore, head: &Head) -> Result<(), Refusal> {
        let key = (restore.signing_keys.iter()).find(|key| key.signs == Signed::Tombstones);
        let count = self.tombstones.count();
        if restore.without_tombstones && count == 0 && self.tombstones.fault().is_none() {
            return Ok(());
        }
        let signed = match key {
            Some(key) if count > 0 && self.tombstones.fault().is_none() => {
                let (tombstones, key) = (self.tombstones.clone(), PublicKey::new(key.public));
                blocking(move || tombstones.signed_by(&key)).await?
            }
            Some(_) | None => false,
        };
        if !signed {
            return Err(refused(
                "the tombstones of the keystore that was backed up are not here: copy them to their place \
                 (keystore.tombstone_file) and restart; or move away what is there, and restore --without-tombstones",
            ));
        }
        if count < head.tombstones {
            return Err(refused(format!(
                "there are {count} tombstones, and were {} when the backup was made: they are older than it",
                head.tombstones
            )));
        }
        Ok(())
    }
}
