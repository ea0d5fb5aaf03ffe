//! Administration of a keystore: the [`Admin`] trait and what it speaks of.
//!
//! The verbs of the command line hold an `Arc<dyn Admin>`, which [`crate::socket::AdminSocket`] is over the
//! control socket. No call here returns a key.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use keystore_types::{AssetId, KeyContext, KeyId};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::{Error, SealState};

/// What every administrative call returns.
pub type Outcome<'a, T> = Pin<Box<dyn Future<Output = Result<T, AdminError>> + Send + 'a>>;

/// A keystore as an operator or auditor sees it. Every call is checked against the caller's capabilities;
/// those that change something leave an audit record.
pub trait Admin: Send + Sync {
    /// Makes the root and seals it under a passphrase; the keystore is unsealed afterwards.
    ///
    /// # Errors
    /// [`AdminError::Refused`] where there is a root already, or the passphrase is too short or too long.
    fn init(&self, passphrase: SecretString) -> Outcome<'_, ()>;

    /// Makes the root and has it kept in these ways, each of which opens it alone; a passphrase is one of them where it
    /// is given. Without shares the keystore is unsealed afterwards. With shares a [`Dealing`] begins: each share is
    /// taken by [`Admin::deal_share`] and read back by [`Admin::confirm_share`], and nothing is kept before the last
    /// one was. A dealing that is under way is given up for the new one.
    ///
    /// # Errors
    /// [`AdminError::Refused`] where there is a root already, no way is given, or one that is not configured.
    fn init_with(
        &self,
        keeping: Keeping,
        passphrase: Option<SecretString>,
    ) -> Outcome<'_, Option<Dealing>>;

    /// The next share of the dealing under way. No share can be had twice.
    ///
    /// # Errors
    /// [`AdminError::Refused`] where no dealing is under way, or all its shares are dealt.
    fn deal_share(&self) -> Outcome<'_, DealtShare>;

    /// Reads a dealt share back. After the last one the root is kept and the keystore unsealed.
    ///
    /// # Errors
    /// [`AdminError::WrongShare`] says which share is wrong and how; [`AdminError::Refused`] where no dealing is under
    /// way.
    fn confirm_share(&self, share: SecretString) -> Outcome<'_, Progress>;

    /// Gives one share. Those given so far wait in memory; at the threshold the root is taken into memory.
    ///
    /// # Errors
    /// [`AdminError::WrongShare`] says which share is wrong and how, and the others stay; [`AdminError::Refused`] where
    /// the root is not kept by shares.
    fn unseal_share(&self, share: SecretString) -> Outcome<'_, Progress>;

    /// Takes the root into memory by what is configured: a passphrase or key by file, a token, a service.
    ///
    /// # Errors
    /// [`AdminError::Refused`] where the root is not kept so, it is not configured, or it does not open the root;
    /// [`Error::Unavailable`] where the token or service does not answer in time.
    fn unseal_by(&self, method: UnlockMethod) -> Outcome<'_, ()>;

    /// Takes the root into memory; no-op on one that is unsealed, once the passphrase is found right.
    ///
    /// # Errors
    /// [`AdminError::WrongPassphrase`]; [`AdminError::Refused`] where there is no root.
    fn unseal(&self, passphrase: SecretString) -> Outcome<'_, ()>;

    /// Wipes the root from memory and ends held leases.
    ///
    /// # Errors
    /// [`Error::Denied`], [`Error::Unavailable`].
    fn seal(&self) -> Outcome<'_, ()>;

    /// Puts a new root in the place of the old one, kept in the same ways, and wraps all KEKs under it. Keys are served
    /// all the while. A root that is kept under a passphrase needs that again, unless it is configured; a new passphrase
    /// takes its place where one is given. New shares need two operators, and the old root stays until each was dealt and read back ([`Admin::deal_share`],
    /// [`Admin::confirm_share`]); the old shares then open nothing any more.
    ///
    /// # Errors
    /// [`AdminError::WrongPassphrase`]; [`Error::Sealed`]; [`AdminError::Refused`] where it is kept by shares and `shares`
    /// does not say how many there are to be, where a way of keeping it is not configured any more, or where a new
    /// passphrase is given for a root that is not kept under one, or is too short or too long.
    fn rotate_root(
        &self,
        shares: Option<SharePlan>,
        passphrase: Option<SecretString>,
        new_passphrase: Option<SecretString>,
    ) -> Outcome<'_, RotatedRoot>;

    /// Makes a new KEK for a tenant, or for every one. Keys are wrapped anew under it in the background, while they are
    /// served; when all are, older versions are refused. Returns the new versions.
    ///
    /// # Errors
    /// [`AdminError::Refused`] where the tenant has no KEK yet; [`Error::Sealed`].
    fn rotate_keks(&self, tenant: Option<String>) -> Outcome<'_, Vec<KekVersion>>;

    /// How it stands; while the store does not answer, as far as that is known without it.
    ///
    /// # Errors
    /// [`Error::Denied`].
    fn status(&self) -> Outcome<'_, Status>;

    /// Signs how far the audit log has come, and records that. Kept elsewhere, it finds out a log that was cut short
    /// or written anew, and a store that was put back.
    ///
    /// # Errors
    /// [`Error::Sealed`], [`Error::AuditUnavailable`].
    fn checkpoint(&self) -> Outcome<'_, CheckpointText>;

    /// Walks the audit chain, checks the store and, when unsealed, unwraps every key. `against` is a checkpoint that
    /// was kept elsewhere.
    ///
    /// # Errors
    /// [`Error::Denied`], [`Error::Unavailable`]; what is found wrong is in the report.
    fn verify(&self, against: Option<CheckpointText>) -> Outcome<'_, Report>;

    /// Key records by key id, a page at a time.
    ///
    /// # Errors
    /// [`Error::Denied`], [`Error::Unavailable`].
    fn key_list(&self, filter: KeyFilter) -> Outcome<'_, KeyPage>;

    /// Does what needs two operators, if two have said so; else asks for it, or says that it still waits. Whoever asked
    /// first counts as one of the two.
    ///
    /// # Errors
    /// [`AdminError::Refused`] where it cannot be done as things stand.
    fn act(&self, act: Act) -> Outcome<'_, Acted>;

    /// Begins a backup to these age recipients; returns its number. Keys are served all the while.
    ///
    /// # Errors
    /// [`AdminError::Refused`] where a recipient is none, or a rotation is under way.
    fn backup(&self, recipients: Vec<String>) -> Outcome<'_, String>;

    /// The next bytes of the backup's file; `None` after the last.
    ///
    /// # Errors
    /// [`AdminError::Refused`] where a rotation has spoilt it, or another was begun since.
    fn backup_chunk(&self, id: String) -> Outcome<'_, Option<Vec<u8>>>;

    /// Takes whole lines of the backup that was agreed on ([`Act::Restore`]), in their order. Returns what was restored
    /// when the last of all is among them; the keystore is sealed then.
    ///
    /// # Errors
    /// [`AdminError::Refused`] where they are not what was agreed on; nothing is restored then.
    fn restore(&self, lines: String) -> Outcome<'_, Option<String>>;

    /// Gives another machine nothing any more, and ends the leases that it holds where it can be told so. The name with a
    /// new certificate is another machine.
    ///
    /// # Errors
    /// [`AdminError::Refused`] where no machine has this name.
    fn revoke_node(&self, node: String) -> Outcome<'_, ()>;

    /// What waits for a second operator, or to be done.
    ///
    /// # Errors
    /// [`Error::Denied`], [`Error::AuditUnavailable`].
    fn approvals(&self) -> Outcome<'_, Vec<Approval>>;

    /// Agrees with what another operator wants.
    ///
    /// # Errors
    /// [`AdminError::Refused`] where there is no such request, or the caller made it.
    fn approve(&self, id: String) -> Outcome<'_, Approval>;

    /// Withdraws a request, whoever made it.
    ///
    /// # Errors
    /// [`AdminError::Refused`] where there is no such request.
    fn cancel(&self, id: String) -> Outcome<'_, Approval>;

    /// One key's record.
    ///
    /// # Errors
    /// [`AdminError::NotFound`].
    fn key_show(&self, id: KeyId) -> Outcome<'_, KeyRecord>;

    /// Erases a key for ever and keeps its record; it stays erased when a backup is put back. Its context gets a new key, with a new id, at the next lease;
    /// leases held run to their term. No-op on a key that is destroyed.
    ///
    /// # Errors
    /// [`AdminError::NotFound`]; [`Error::Sealed`].
    fn key_destroy(&self, id: KeyId) -> Outcome<'_, KeyRecord>;
}

/// A way in which the root is kept, and thus unsealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnlockMethod {
    /// Under a passphrase.
    Passphrase,
    /// Under a random key that lies in a file or a systemd credential.
    Key,
    /// By a PKCS#11 token.
    Pkcs11,
    /// By the transit engine of Vault or OpenBao.
    Transit,
    /// By m of n shares.
    Shares,
}

impl UnlockMethod {
    /// As operators and the audit log name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Passphrase => "passphrase",
            Self::Key => "key",
            Self::Pkcs11 => "pkcs11",
            Self::Transit => "transit",
            Self::Shares => "shares",
        }
    }
}

/// In which ways a new root is to be kept, besides a passphrase.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Keeping {
    /// By these, as they are configured.
    pub methods: Vec<UnlockMethod>,
    /// By shares.
    pub shares: Option<SharePlan>,
}

/// Into how many shares, and how many of them open the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SharePlan {
    /// How many there are: at most [`MAX_SHARES`].
    pub shares: u8,
    /// How many open the root: 2 at least.
    pub threshold: u8,
}

/// The most shares of one root: their names and their text fit a frame many times over, and nobody has more keepers.
pub const MAX_SHARES: u8 = 32;

/// The shares of a new root are being dealt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dealing {
    /// Names the set, in hexadecimal: each of its shares carries it.
    pub set: String,
    /// How many, and how many suffice.
    pub plan: SharePlan,
}

/// One share of a [`Dealing`].
#[derive(Clone, Debug)]
pub struct DealtShare {
    /// Counted from 1.
    pub index: u8,
    /// What its keeper writes down or stores.
    pub text: SecretString,
}

/// How far a dealing or an unsealing by shares has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The set.
    pub set: String,
    /// The shares that were given, by index, in order.
    pub given: Vec<u8>,
    /// How many it takes: all in a dealing, the threshold in an unsealing.
    pub needed: u8,
    /// Whether that was the last one: the keystore is unsealed.
    pub done: bool,
}

/// A version of a tenant's KEK.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KekVersion {
    /// The tenant.
    pub tenant: String,
    /// Counted from 1.
    pub version: u32,
}

/// What came of [`Admin::rotate_root`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RotatedRoot {
    /// The new root's version, counted from 1.
    Version(u32),
    /// Its shares are to be dealt.
    Dealing(Dealing),
    /// It waits for another operator.
    Waits(Approval),
}

/// How a keystore stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Whether keys can be had.
    pub state: SealState,
    /// What the store says; `None` while it does not answer.
    #[serde(flatten)]
    pub stored: Option<Stored>,
    /// Why it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_fault: Option<String>,
    /// Audit records so far.
    pub audit_records: u64,
    /// The hash of the last audit record, in hexadecimal: note it elsewhere, and a shortened log is found out.
    pub audit_head: String,
    /// Whose signatures the audit log bears, 64 hexadecimal digits; `None` while sealed.
    pub audit_key: Option<String>,
    /// The audit log's length, in bytes.
    pub audit_bytes: u64,
    /// The length at which it is full, in bytes.
    pub audit_capacity: u64,
    /// Whether the root and the KEKs lie in memory that is never swapped; `None` while sealed.
    pub memory_locked: Option<bool>,
    /// The shares that wait for the others, or for the end of their dealing.
    #[serde(default)]
    pub shares: Option<Progress>,
}

/// What of a [`Status`] is in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Keys that can be used.
    pub keys: u64,
    /// Keys that were destroyed.
    pub destroyed: u64,
    /// Whether a rotation is under way: older KEKs are still taken.
    pub rotating: bool,
    /// Keys that a rotation has yet to wrap anew.
    pub stale: u64,
    /// In which ways the root is kept; each opens it.
    pub kept_by: Vec<UnlockMethod>,
}

/// A signed statement of how far the audit log had come. The signature (Ed25519, RFC 8032) is over the bytes that
/// `keystore/design/audit-log.md` draws.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointText {
    /// The public key, 64 hexadecimal digits.
    pub key: String,
    /// The last record.
    pub seq: u64,
    /// Its hash, 64 hexadecimal digits.
    pub hash: String,
    /// The length of all records up to and with it, in bytes.
    pub bytes: u64,
    /// When, in milliseconds of Unix time.
    pub unix_ms: u64,
    /// How often the store had been written to, at the least.
    pub store: u64,
    /// How many tombstones there were.
    pub tombstones: u64,
    /// 128 hexadecimal digits.
    pub signature: String,
}

/// What [`Admin::verify`] found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Audit records whose place in the chain is right, from the first on.
    pub audit_records: u64,
    /// The last audit record that a signature covers; 0 while there is no key to check it with.
    pub audit_signed: u64,
    /// Key records looked at.
    pub keys: u64,
    /// Keys unwrapped; none while sealed.
    pub unwrapped: u64,
    /// What is wrong; empty when all is well.
    pub faults: Vec<Finding>,
}

/// Something that [`Admin::verify`] found wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Where: `audit`, `store` or a key id.
    pub place: String,
    /// The audit record's sequence number, counted from 1.
    pub sequence: Option<u64>,
    /// Where in the audit log's file that record begins or should begin, in bytes.
    pub offset: Option<u64>,
    /// What.
    pub what: String,
}

/// What needs two operators.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Act {
    /// Set the audit log's file aside and go on in a new one, so that the old one can be moved or removed.
    SetAsideLog {},
    /// Take keys under older KEKs of a tenant in again.
    LowerFloor {
        /// The tenant.
        tenant: String,
        /// The oldest version to take in.
        version: u32,
    },
    /// Go on with a store or a log that was put back.
    AcceptRollback {},
    /// Make a new root and deal it in shares. [`Admin::rotate_root`] asks for it, and does it.
    DealShares(SharePlan),
    /// Destroy a tenant: all its keys, and what it would have made.
    DestroyTenant {
        /// The tenant.
        tenant: String,
    },
    /// Hand out a tenant's KEKs, encrypted.
    ExportKeks {
        /// The tenant.
        tenant: String,
        /// To these age recipients.
        recipients: Vec<String>,
    },
    /// Put a backup back into an empty keystore. Its lines come after it, by [`Admin::restore`].
    Restore {
        /// SHA-256 of its lines before the last, in hexadecimal.
        backup: String,
        /// Whether to go on where there are no tombstones: what was destroyed since the backup comes back.
        without_tombstones: bool,
    },
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetAsideLog {} => f.write_str("set the audit log aside and begin a new file"),
            Self::LowerFloor { tenant, version } => {
                write!(
                    f,
                    "take keys of tenant {tenant} under KEK {version} and later in again"
                )
            }
            Self::AcceptRollback {} => f.write_str("go on with a store or a log that was put back"),
            Self::DealShares(SharePlan { shares, threshold }) => {
                write!(
                    f,
                    "make a new root, of whose {shares} shares {threshold} open it"
                )
            }
            Self::DestroyTenant { tenant } => {
                write!(f, "destroy tenant {tenant} and all its keys for ever")
            }
            Self::ExportKeks { tenant, recipients } => {
                write!(
                    f,
                    "hand out the KEKs of tenant {tenant} to {}",
                    recipients.join(", ")
                )
            }
            Self::Restore {
                backup,
                without_tombstones: false,
            } => write!(f, "put back the backup {backup}"),
            Self::Restore {
                backup,
                without_tombstones: true,
            } => write!(
                f,
                "put back the backup {backup}, and with it keys that were DESTROYED since"
            ),
        }
    }
}

/// A request that needs two operators.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Eight random hexadecimal digits.
    pub id: String,
    /// What is wanted.
    pub act: Act,
    /// By whom.
    pub requested_by: String,
    /// Who agrees; then it can be done, once.
    pub approved_by: Option<String>,
    /// When it is void, in seconds of Unix time.
    pub expires: u64,
}

/// What came of [`Admin::act`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Acted {
    /// It waits for another operator.
    Waits(Approval),
    /// It is done; what there is to say of it.
    Done(String),
    /// It is done, and this file, in base64, came of it.
    File(String),
}

/// Which key records to list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeyFilter {
    /// Of this asset only.
    pub asset: Option<AssetId>,
    /// Without those that were destroyed.
    pub active_only: bool,
    /// Those after this id: [`KeyPage::next`] of the page before.
    pub after: Option<KeyId>,
}

/// Some key records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyPage {
    /// At most [`PAGE`] records, by key id.
    pub keys: Vec<KeyRecord>,
    /// Where to go on; `None` on the last page.
    pub next: Option<KeyId>,
}

/// The most records on a page.
pub const PAGE: usize = 500;

/// What is known of a key, apart from the key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// Its public id.
    pub key_id: KeyId,
    /// What it protects.
    pub context: KeyContext,
    /// The version of the tenant's KEK that wraps it.
    pub kek_version: u32,
    /// When it was made, in seconds of Unix time.
    pub created: u64,
    /// When it was destroyed, in seconds of Unix time.
    pub destroyed: Option<u64>,
}

/// Why an administrative call failed.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// As for any call.
    #[error(transparent)]
    Keystore(#[from] Error),
    /// The passphrase does not open the root.
    #[error("the passphrase does not open this keystore")]
    WrongPassphrase,
    /// A share is not one that was dealt, is of another set, or was given already.
    #[error("{0}")]
    WrongShare(String),
    /// There is no such key.
    #[error("there is no key {0}")]
    NotFound(KeyId),
    /// It cannot be done as things stand.
    #[error("{0}")]
    Refused(String),
}
