//! Key exchange with other vendors: what their encryptors ask for, what their licence servers are handed, and what keys
//! they bring. Why it is so: `keystore/design/exchange.md`.

use keystore_types::{AssetId, ConstantIv, ContentKey, KeyId, Label, Scheme};
use serde::{Deserialize, Serialize};

use crate::ExportedKey;

/// With whom keys are exchanged, for the audit record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Partner {
    /// The configured name.
    pub name: String,
    /// The protocol, such as `speke-2.0` or `cpix-2.3`.
    pub protocol: String,
    /// The SHA-256 fingerprints of the certificates to which the keys are encrypted; none: they go, or came, in the clear.
    pub recipients: Vec<String>,
}

/// A request for keys under ids that somebody else's encryptor chose.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExchangeRequest {
    /// Whose keys.
    pub tenant: String,
    /// The asset, which the encryptor calls the content.
    pub asset: AssetId,
    /// The keys: at most [`crate::MAX_KEYS`], each id once.
    pub keys: Vec<AskedKey>,
    /// Who gets them.
    pub partner: Partner,
}

/// A key that an encryptor asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskedKey {
    /// Its id.
    pub key_id: KeyId,
    /// What it is for.
    pub usage: KeyUsage,
    /// The IV that the encryptor uses; kept with a key that is made.
    #[serde(with = "crate::message::iv_or_none")]
    pub iv: Option<ConstantIv>,
}

/// What an exchanged key is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyUsage {
    /// The tracks: the most valuable of those that share the key.
    pub label: Label,
    /// The scheme, or the packaged one that is nearest to it.
    pub scheme: Scheme,
    /// What is encrypted with it that the origin does not encrypt so, at most [`MAX_ELSEWHERE`] bytes: tracks that are
    /// not those of the one label, or another scheme. None: exactly the tracks of the label, in exactly the scheme.
    pub elsewhere: Option<String>,
}

/// The longest [`KeyUsage::elsewhere`], in bytes.
pub const MAX_ELSEWHERE: usize = 512;

/// A request for every key of an asset.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandOverRequest {
    /// Whose keys.
    pub tenant: String,
    /// The asset.
    pub asset: AssetId,
    /// The keys of this scheme; none: of all.
    pub scheme: Option<Scheme>,
    /// Who gets them.
    pub partner: Partner,
}

/// Every key of an asset.
#[derive(Debug)]
pub struct HandedOver {
    /// The keys, by id.
    pub keys: Vec<ExportedKey>,
    /// Those of them that protect other tracks than their label says: see [`KeyUsage::elsewhere`].
    pub elsewhere: Vec<KeyId>,
}

/// Keys from outside.
#[derive(Debug)]
pub struct DepositRequest {
    /// Whose keys they become.
    pub tenant: String,
    /// The asset.
    pub asset: AssetId,
    /// The keys: at most [`crate::MAX_KEYS`], each id once.
    pub keys: Vec<DepositedKey>,
    /// Who brings them.
    pub partner: Partner,
}

/// A key from outside.
#[derive(Debug)]
pub struct DepositedKey {
    /// What is public of it.
    pub head: DepositedHead,
    /// The key.
    pub key: ContentKey,
}

/// A [`DepositedKey`] without the key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DepositedHead {
    /// Its id.
    pub key_id: KeyId,
    /// What it is for.
    pub usage: KeyUsage,
    /// Its IV; one is drawn where none is given.
    #[serde(with = "crate::message::iv_or_none")]
    pub iv: Option<ConstantIv>,
}
