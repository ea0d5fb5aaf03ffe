//! Key records at rest: one trait, so that a second database is one more file here.
//!
//! A store holds what is wrapped and decides nothing: no rule, no clock, no cipher. Every method that writes is one
//! transaction, on disk when it returns.

use std::future::Future;
use std::pin::Pin;

use keystore_client::admin::{KeyFilter, KeyRecord};
use keystore_types::{AssetId, ConstantIv, KeyContext, KeyId};

use crate::audit::Head;
use crate::error::Error;
use crate::seal::Wrapped;
use crate::unlock::SealedRoot;

pub mod postgres;
mod record;
pub mod sqlite;
#[cfg(test)]
mod tests;

/// What every method of a store returns.
pub type Stored<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// Where key records lie.
///
/// Several nodes may share one. What is a node's own there, each sees alone: the keys that it signs with, its place in
/// its audit log, its count of tombstones. All else is common to them, and the methods that only then have something
/// to do have a body here.
pub trait Store: Send + Sync {
    /// Says that this node is there, with this root in memory, and what others have done. Called every second, also
    /// while nothing else succeeds. `None` where there are no others.
    fn look(&self, root_version: Option<u32>) -> Stored<'_, Option<Seen>> {
        let _ = root_version;
        Box::pin(async { Ok(None) })
    }

    /// The roots after this version that were handed over to nodes that have it, by version.
    fn handovers(&self, after: u32) -> Stored<'_, Vec<Handover>> {
        let _ = after;
        Box::pin(async { Ok(vec![]) })
    }

    /// What every node signs with.
    fn every_signing_key(&self) -> Stored<'_, Vec<SigningKeyRow>> {
        self.signing_keys()
    }

    /// The root, if one was made.
    fn root(&self) -> Stored<'_, Option<RootRow>>;

    /// Keeps the first root, unless there is one; says whether it did.
    fn put_root(&self, root: RootRow) -> Stored<'_, bool>;

    /// Puts a new root and all that it wraps in the place of the old; says whether it did. It does not when anything of
    /// that is no longer as it was read, or is no longer all there is: then nothing has changed.
    fn rotate_root(&self, rotation: RootRotation) -> Stored<'_, bool>;

    /// What this node signs with, as far as it was made.
    fn signing_keys(&self) -> Stored<'_, Vec<SigningKeyRow>>;

    /// Keeps it, unless there is one for its purpose; returns the one that stands. `None` when the root that wraps it is
    /// no longer the newest: then nothing was kept.
    fn put_signing_key(&self, key: SigningKeyRow) -> Stored<'_, Option<SigningKeyRow>>;

    /// Every tenant's every KEK, by tenant and version; none of tenants that were destroyed.
    fn keks(&self) -> Stored<'_, Vec<KekRow>>;

    /// The tenant's KEK of this version, or its newest.
    fn kek<'a>(&'a self, tenant: &'a str, version: Option<u32>) -> Stored<'a, Option<KekRow>>;

    /// Keeps a KEK, unless the tenant has that version; returns the one that stands. `None` when the root that wraps
    /// it is no longer the newest: then nothing was kept.
    fn put_kek(&self, kek: KekRow) -> Stored<'_, Option<KekRow>>;

    /// Replaces a tenant's newest KEK by itself with another floor; says whether it did. It does not when the row is
    /// no longer as it was read, is no longer the newest, or a key is left under a version below the new floor.
    fn move_floor(&self, kek: Replaced<KekRow>) -> Stored<'_, bool>;

    /// The usable key of each context, or `None`, in the order asked for.
    fn keys_of<'a>(&'a self, contexts: &'a [KeyContext]) -> Stored<'a, Vec<Option<KeyRow>>>;

    /// Keeps each key, unless its context has one already; returns those that stand, in the same order. `None` for a
    /// context that has none when the key's KEK is no longer its tenant's newest: that key was not kept.
    fn put_keys(&self, keys: Vec<KeyRow>) -> Stored<'_, Vec<Option<KeyRow>>>;

    /// At most `limit` usable keys of a tenant that are under a KEK of a version below this one, by that version and
    /// their id; those after this place.
    fn keys_below<'a>(
        &'a self,
        tenant: &'a str,
        version: u32,
        after: Option<(u32, KeyId)>,
        limit: usize,
    ) -> Stored<'a, Vec<KeyRow>>;

    /// How many usable keys are not under their tenant's newest KEK.
    fn stale(&self) -> Stored<'_, u64>;

    /// Replaces the bodies of keys, and the generations that they are wrapped for; returns how many. A key that is no
    /// longer as it was read is left as it is.
    fn rewrap(&self, keys: Vec<Replaced<KeyRow>>) -> Stored<'_, u64>;

    /// The keys of these ids, destroyed ones too, in no order.
    fn keys_by_id<'a>(&'a self, ids: &'a [KeyId]) -> Stored<'a, Vec<KeyRow>>;

    /// At most `limit` usable keys of a tenant's asset, by id; without those that are used elsewhere, unless asked for.
    fn keys_of_asset<'a>(
        &'a self,
        tenant: &'a str,
        asset: &'a AssetId,
        with_elsewhere: bool,
        limit: usize,
    ) -> Stored<'a, Vec<KeyRow>>;

    /// At most `limit` keys that the filter lets through, by id.
    fn page<'a>(&'a self, filter: &'a KeyFilter, limit: usize) -> Stored<'a, Vec<KeyRow>>;

    /// Erases what was wrapped, also from what the database has not yet cleaned up. `None`: no such key.
    fn destroy(&self, id: KeyId, at: u64) -> Stored<'_, Option<KeyRow>>;

    /// Erases what was replaced from where the database has not yet cleaned up.
    fn wipe(&self) -> Stored<'_, ()>;

    /// Erases all KEKs and keys of a tenant, and lets it have none any more.
    fn destroy_tenant<'a>(&'a self, tenant: &'a str, at: u64) -> Stored<'a, ()>;

    /// All but the keys, as it is at one moment.
    fn snapshot(&self) -> Stored<'_, Snapshot>;

    /// Removes what a restore has left that did not finish; says whether it did. It does not where there is a root.
    fn clear(&self) -> Stored<'_, bool>;

    /// Keeps KEKs as they are, before the keys that they wrap; fails where there is a root.
    fn restore_keks(&self, keks: Vec<KekRow>) -> Stored<'_, ()>;

    /// Keeps keys as they are, destroyed ones too; fails where there is a root.
    fn restore_keys(&self, keys: Vec<KeyRow>) -> Stored<'_, ()>;

    /// Keeps the rest, which makes the store whole: no tombstone counts as carried out. Says whether it did; it does not
    /// where there is a root.
    fn finish_restore(&self, rest: Restored) -> Stored<'_, bool>;

    /// How many tombstones were carried out.
    fn tombstones(&self) -> Stored<'_, u64>;

    /// Takes note that so many were.
    fn put_tombstones(&self, count: u64) -> Stored<'_, ()>;

    /// Takes note that the machine with this certificate, of this SHA-256, gets nothing any more.
    fn revoke_node<'a>(&'a self, certificate: [u8; 32], node: &'a str, at: u64) -> Stored<'a, ()>;

    /// Whether that was done.
    fn is_node_revoked(&self, certificate: [u8; 32]) -> Stored<'_, bool>;

    /// How many keys can be used, and how many were destroyed.
    fn counts(&self) -> Stored<'_, (u64, u64)>;

    /// How often key records were written to: never less than at any time before.
    fn writes(&self) -> Stored<'_, u64>;

    /// What the database finds wrong with itself.
    fn integrity(&self) -> Stored<'_, Vec<String>>;

    /// The audit record that the log must hold.
    fn anchor(&self) -> Stored<'_, Option<Head>>;

    /// Moves the anchor on.
    fn put_anchor(&self, head: Head) -> Stored<'_, ()>;

    /// Goes on from here, whatever was before: so many writes, so many tombstones yet to be looked at, and this anchor.
    fn resume(&self, writes: u64, anchor: Head) -> Stored<'_, ()>;
}

/// A row as it was read, and what is to stand there.
#[derive(Clone, Debug)]
pub struct Replaced<T> {
    /// As read.
    pub old: T,
    /// To be.
    pub new: T,
}

/// The root at rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootRow {
    /// Counted from 1.
    pub version: u32,
    /// It, in each way that it is kept, by the method.
    pub sealed: Vec<SealedRoot>,
    /// In seconds of Unix time.
    pub created: u64,
}

/// A new root, and all that the old one wraps.
#[derive(Clone, Debug)]
pub struct RootRotation {
    /// Of the version after the old one's.
    pub root: RootRow,
    /// Every KEK.
    pub keks: Vec<Replaced<KekRow>>,
    /// Every signing key, of every node.
    pub signing_keys: Vec<Replaced<SigningKeyRow>>,
    /// It, for the other nodes.
    pub handover: Handover,
}

/// A root for nodes that have the one before it in memory.
#[derive(Clone, Debug)]
pub struct Handover {
    /// Its version.
    pub version: u32,
    /// The root, wrapped by the one before it.
    pub wrapped: Wrapped,
}

/// What a look at a shared store finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// See [`Store::writes`].
    pub writes: u64,
    /// Another number than at the last look: something was destroyed, a floor moved, or the root changed.
    pub changes: u64,
    /// The newest root's version, if one was made.
    pub root_version: Option<u32>,
}

/// What is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signed {
    /// Checkpoints of the audit log.
    Audit,
    /// Tombstones.
    Tombstones,
}

impl Signed {
    /// Each of them.
    pub const ALL: [Self; 2] = [Self::Audit, Self::Tombstones];

    /// As in records.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Audit => "audit",
            Self::Tombstones => "tombstones",
        }
    }
}

/// What something is signed with, at rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigningKeyRow {
    /// What it signs.
    pub signs: Signed,
    /// The public key (RFC 8032 5.1.5).
    pub public: [u8; 32],
    /// The version of the root that wraps it.
    pub root_version: u32,
    /// The private key, wrapped by the root.
    pub wrapped: Wrapped,
    /// In seconds of Unix time.
    pub created: u64,
}

/// All of a store but the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The root, if one was made.
    pub root: Option<RootRow>,
    /// Every KEK, of destroyed tenants too.
    pub keks: Vec<KekRow>,
    /// What this node signs with.
    pub signing_keys: Vec<SigningKeyRow>,
    /// See [`Store::writes`].
    pub writes: u64,
}

/// What makes a restored store whole.
#[derive(Clone, Debug)]
pub struct Restored {
    /// The root.
    pub root: RootRow,
    /// What this node signs with.
    pub signing_keys: Vec<SigningKeyRow>,
    /// See [`Store::writes`].
    pub writes: u64,
    /// See [`Store::anchor`].
    pub anchor: Head,
}

/// A tenant's KEK at rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KekRow {
    /// The tenant.
    pub tenant: String,
    /// Counted from 1.
    pub version: u32,
    /// In the tenant's newest KEK: the lowest version under which keys are opened. `None` in rows of the first form,
    /// which stands for 1.
    pub floor: Option<u32>,
    /// The version of the root that wraps it.
    pub root_version: u32,
    /// The KEK, wrapped by the root.
    pub wrapped: Wrapped,
    /// In seconds of Unix time.
    pub created: u64,
}

/// A content key at rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRow {
    /// Its public id.
    pub key_id: KeyId,
    /// What it protects.
    pub context: KeyContext,
    /// Its constant IV.
    pub iv: ConstantIv,
    /// The version of the tenant's KEK that wraps it.
    pub kek_version: u32,
    /// The key, or when it was destroyed.
    pub body: KeyBody,
    /// In seconds of Unix time.
    pub created: u64,
}

/// A content key, or what is left of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyBody {
    /// The key, wrapped by its tenant's KEK.
    Wrapped(Wrapped),
    /// Erased at this second of Unix time.
    Destroyed(u64),
}

impl From<KeyRow> for KeyRecord {
    fn from(row: KeyRow) -> Self {
        Self {
            key_id: row.key_id,
            context: row.context,
            kek_version: row.kek_version,
            created: row.created,
            destroyed: match row.body {
                KeyBody::Wrapped(_) => None,
                KeyBody::Destroyed(at) => Some(at),
            },
        }
    }
}
