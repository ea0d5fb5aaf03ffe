//! How the other roles reach the keystore: the [`Keystore`] trait, its wire messages, and clients over a
//! Unix socket and over TLS.
//!
//! A role holds an `Arc<dyn Keystore>` and cannot tell whether the keystore runs in its own process or in
//! another: the same checks are made and the same audit records are written.
#![forbid(unsafe_code)]

pub mod admin;
pub mod exchange;
pub mod frame;
mod link;
pub mod message;
pub mod remote;
pub mod socket;
pub mod wrap;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use exchange::{DepositRequest, ExchangeRequest, HandOverRequest, HandedOver};
use keystore_types::{AssetId, ConstantIv, ContentKey, KeyContext, KeyId, Label, Scheme};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// What every call on a keystore returns.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// A keystore as one caller sees it. The caller is fixed when the handle is made or the socket connected;
/// no call names it.
pub trait Keystore: Send + Sync {
    /// The keys of these contexts, made on first need. One audit record is committed before any key leaves.
    ///
    /// # Errors
    /// [`Error::Denied`] unless the caller may lease every asset named; [`Error::Sealed`];
    /// [`Error::Unavailable`].
    fn lease(&self, request: LeaseRequest) -> Answer<'_, Lease>;

    /// Those of the named keys that exist, are not destroyed and belong to the asset. Keys that are unknown
    /// are left out without a word. One audit record is committed before any key leaves.
    ///
    /// # Errors
    /// As for [`Keystore::lease`].
    fn export(&self, request: ExportRequest) -> Answer<'_, Vec<ExportedKey>>;

    /// What is public about those of the named keys that [`Keystore::export`] would give. No key leaves, and there is no
    /// record; what is described counts as used, and ids that nobody has do not. That who asks may not is recorded, at
    /// most `keystore.budget.denials` times a minute.
    ///
    /// # Errors
    /// As for [`Keystore::lease`].
    fn describe(&self, request: DescribeRequest) -> Answer<'_, Vec<KeyDescription>> {
        let _ = request;
        let why = "keys are described to licence servers".to_owned();
        Box::pin(async move { Err(Error::Denied(why)) })
    }

    /// The keys that somebody else's encryptor asks for, made under the ids that it chose unless they are there. One
    /// audit record is committed before any key leaves.
    ///
    /// # Errors
    /// As for [`Keystore::lease`], and [`Error::Conflict`] for an id that belongs to something else. A keystore that is
    /// reached in a way by which no keys are exchanged denies it.
    fn exchange(&self, request: ExchangeRequest) -> Answer<'_, Vec<ExportedKey>> {
        let _ = request;
        no_exchange()
    }

    /// Every key of an asset that is not destroyed, for somebody else's licence server: at most [`MAX_HANDED_OVER`].
    /// One audit record is committed before any key leaves.
    ///
    /// # Errors
    /// As for [`Keystore::lease`]; [`Error::Conflict`] where there are more.
    fn hand_over(&self, request: HandOverRequest) -> Answer<'_, HandedOver> {
        let _ = request;
        no_exchange()
    }

    /// Keeps keys that come from outside; those that are there already are left as they are. A conflict that is
    /// found keeps none of them. One audit record is committed before the answer.
    ///
    /// # Errors
    /// As for [`Keystore::lease`], and [`Error::Conflict`] where an id is another key's or another key stands in the
    /// place.
    fn deposit(&self, request: DepositRequest) -> Answer<'_, ()> {
        let _ = request;
        no_exchange()
    }

    /// Whether the keystore is sealed, and each change of that. Leases held end when it seals.
    fn seal_state(&self) -> watch::Receiver<SealState>;
}

/// The answer of a keystore that leaves it at leases and exports, as one on another machine does.
fn no_exchange<T>() -> Answer<'static, T> {
    let why = "keys are exchanged on the keystore's own machine".to_owned();
    Box::pin(async move { Err(Error::Denied(why)) })
}

/// A request for the keys that encrypt an asset's tracks.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseRequest {
    /// The keys asked for: at most [`MAX_KEYS`].
    pub contexts: Vec<KeyContext>,
}

/// The most keys in one request.
pub const MAX_KEYS: usize = 64;

/// The most keys of one asset that are handed over at once.
pub const MAX_HANDED_OVER: usize = 256;

/// Keys to encrypt with, in the order asked for, until the term ends or the keystore seals.
#[derive(Debug)]
pub struct Lease {
    /// One for each context of the request.
    pub keys: Vec<LeasedKey>,
    /// How long they may be held from now; then they are leased anew.
    pub term: Duration,
}

/// One leased key.
#[derive(Debug)]
pub struct LeasedKey {
    /// What it protects.
    pub context: KeyContext,
    /// Its public id.
    pub key_id: KeyId,
    /// The constant IV that goes with it in `cbcs`; kept with the key whatever its scheme.
    pub iv: ConstantIv,
    /// The key.
    pub key: ContentKey,
}

/// A request for keys to put into a licence.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportRequest {
    /// The asset that the player named in the URL.
    pub asset: AssetId,
    /// The keys that are both requested and entitled: at most [`MAX_KEYS`].
    pub key_ids: Vec<KeyId>,
    /// On whose word, for the audit record.
    pub entitlement: EntitlementRef,
}

/// A request for what is public about keys.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DescribeRequest {
    /// The asset that the player named in the URL.
    pub asset: AssetId,
    /// The keys: at most [`MAX_KEYS`]. There is no way to ask which there are.
    pub key_ids: Vec<KeyId>,
}

/// What is public about a key. It never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyDescription {
    /// Its id.
    pub key_id: KeyId,
    /// The tracks that it protects.
    pub label: Label,
    /// The scheme that it is used with.
    pub scheme: Scheme,
}

/// Names a verified entitlement in the audit log without repeating the token.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntitlementRef {
    /// The configured issuer's name.
    pub issuer: String,
    /// `sub`, as issued.
    pub subject: Option<String>,
    /// `jti`, as issued.
    pub token_id: Option<String>,
    /// The licence system, such as `clearkey` or `hls`.
    pub system: String,
}

/// One exported key.
#[derive(Debug)]
pub struct ExportedKey {
    /// Its public id.
    pub key_id: KeyId,
    /// The tracks that it protects.
    pub label: Label,
    /// The scheme that it is used with.
    pub scheme: Scheme,
    /// Its constant IV.
    pub iv: ConstantIv,
    /// The key.
    pub key: ContentKey,
}

/// Whether keys can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SealState {
    /// There is no root yet: `keystore init` makes one. Counts as sealed.
    Uninitialised,
    /// The root is not in memory; no key leaves. Stays until the keystore says otherwise, also when its process is gone.
    /// Whoever the keystore turns away is told the same.
    Sealed,
    /// Keys can be had.
    Unsealed,
    /// The keystore's process, which was not sealed when it was last heard of, does not answer; held leases run to their
    /// term.
    Unreachable,
}

/// Why a keystore gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Sealed, or not yet initialised.
    #[error("the keystore is sealed: `castellum keystore unseal` opens it")]
    Sealed,
    /// The caller lacks a capability or a grant.
    #[error("the keystore does not allow this: {0}")]
    Denied(String),
    /// The request breaks the protocol: too many keys, an unknown message.
    #[error("the keystore refused the request: {0}")]
    Malformed(String),
    /// A key of key exchange would take the place of another.
    #[error("{0}")]
    Conflict(String),
    /// What was asked cannot be recorded, so it is not done: the audit log is full or cannot be written.
    #[error("the keystore cannot record this: {0}")]
    AuditUnavailable(String),
    /// The process or its store cannot be reached or written.
    #[error("the keystore cannot answer: {0}")]
    Unavailable(String),
}
