//! Key records at rest: one trait, so that a second database is one more file here.
//!
//! A store holds what is wrapped and decides nothing: no rule, no clock, no cipher. Every method that writes is one
//! transaction, on disk when it returns.

use std::future::Future;
use std::pin::Pin;

use keystore_client::admin::{KeyFilter, KeyRecord};
use keystore_types::{ConstantIv, KeyContext, KeyId};

use crate::audit::Head;
use crate::error::Error;
use crate::seal::Wrapped;
use crate::unlock::SealedRoot;

pub mod sqlite;

/// What every method of a store returns.
pub type Stored<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// Where key records lie.
pub trait Store: Send + Sync {
    /// The root in each way that it is kept; empty where none was made.
    fn root(&self) -> Stored<'_, Vec<SealedRoot>>;

    /// Keeps the root in these ways, unless there is one; says whether it did.
    fn put_root(&self, root: Vec<SealedRoot>, created: u64) -> Stored<'_, bool>;

    /// The tenant's KEK of this version, or its newest.
    fn kek<'a>(&'a self, tenant: &'a str, version: Option<u32>) -> Stored<'a, Option<KekRow>>;

    /// Keeps a KEK, unless the tenant has that version; returns the one that stands.
    fn put_kek(&self, kek: KekRow) -> Stored<'_, KekRow>;

    /// The usable key of each context, or `None`, in the order asked for.
    fn keys_of<'a>(&'a self, contexts: &'a [KeyContext]) -> Stored<'a, Vec<Option<KeyRow>>>;

    /// Keeps each key, unless its context has one already; returns those that stand, in the same order.
    fn put_keys(&self, keys: Vec<KeyRow>) -> Stored<'_, Vec<KeyRow>>;

    /// The keys of these ids, destroyed ones too, in no order.
    fn keys_by_id<'a>(&'a self, ids: &'a [KeyId]) -> Stored<'a, Vec<KeyRow>>;

    /// At most `limit` keys that the filter lets through, by id.
    fn page<'a>(&'a self, filter: &'a KeyFilter, limit: usize) -> Stored<'a, Vec<KeyRow>>;

    /// Erases what was wrapped, also from what the database has not yet cleaned up. `None`: no such key.
    fn destroy(&self, id: KeyId, at: u64) -> Stored<'_, Option<KeyRow>>;

    /// How many keys can be used, and how many were destroyed.
    fn counts(&self) -> Stored<'_, (u64, u64)>;

    /// What the database finds wrong with itself.
    fn integrity(&self) -> Stored<'_, Vec<String>>;

    /// The audit record that the log must hold.
    fn anchor(&self) -> Stored<'_, Option<Head>>;

    /// Moves the anchor on.
    fn put_anchor(&self, head: Head) -> Stored<'_, ()>;
}

/// A tenant's KEK at rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KekRow {
    /// The tenant.
    pub tenant: String,
    /// Counted from 1.
    pub version: u32,
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
