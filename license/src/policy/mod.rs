//! Who gets which keys: a pure decision over what was proven, what is asked for and what is configured.

pub mod terms;

use std::collections::BTreeMap;

use keystore_types::{AssetId, KeyId, Label, Scheme};

use self::terms::{KeyRule, Terms};
use crate::Refusal;
use crate::entitlement::{Entitlement, KidRule};

/// A licence system that this server answers for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    /// W3C ClearKey by EME.
    ClearKey,
    /// HLS `identity` keys.
    Hls,
    /// Google Widevine.
    Widevine,
    /// Microsoft PlayReady.
    PlayReady,
    /// Apple FairPlay Streaming.
    FairPlay,
}

impl System {
    /// The name in logs, in URLs and in the keystore's audit log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ClearKey => "clearkey",
            Self::Hls => "hls",
            Self::Widevine => "widevine",
            Self::PlayReady => "playready",
            Self::FairPlay => "fairplay",
        }
    }
}

/// What a player asks for, whatever the format in which it asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// The licence system.
    pub system: System,
    /// The asset, named by the URL.
    pub asset: AssetId,
    /// The keys, at least one, each once.
    pub key_ids: Vec<KeyId>,
}

/// What the configuration says of licences.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Whether the tenant allows keys to be handed out in the open, which both systems do.
    pub allow_clear_key: bool,
    /// The policies that a token may name.
    pub policies: BTreeMap<String, PolicyRule>,
}

/// What a named policy says of licences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyRule {
    /// Whether ClearKey is among its systems.
    pub clear_key: bool,
    /// The scheme of its pack; none where that is clear.
    pub scheme: Option<Scheme>,
}

/// Whether a licence is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// With these keys, in the order asked for.
    Grant(Grant),
    /// Not at all.
    Refuse(Refusal),
}

/// The keys that may leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Requested and entitled.
    pub keys: Vec<KeyGrant>,
    /// What the licence says besides its keys.
    pub terms: Terms,
    /// If the policy named is for one scheme, keys of others are left out.
    pub scheme: Option<Scheme>,
}

/// A key that may leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyGrant {
    /// Its id.
    pub key_id: KeyId,
    /// The tracks that it is for.
    pub label: Label,
    /// What it asks of the device.
    pub rule: KeyRule,
}

impl Grant {
    /// The ids of the keys, in their order.
    pub fn key_ids(&self) -> Vec<KeyId> {
        self.keys.iter().map(|key| key.key_id).collect()
    }
}

/// Decides on a challenge.
///
/// A token that covers some of the keys gives those (DASH-IF Guidelines-Security, licence request model); the
/// others are left out without a word. Where its issuer is strict, it gives none then.
pub fn decide(entitlement: &Entitlement, challenge: &Challenge, rules: &Rules) -> Decision {
    match grant(entitlement, challenge, rules) {
        Ok(grant) => Decision::Grant(grant),
        Err(refusal) => Decision::Refuse(refusal),
    }
}

fn grant(
    entitlement: &Entitlement,
    challenge: &Challenge,
    rules: &Rules,
) -> Result<Grant, Refusal> {
    if !entitlement.covers_asset(&challenge.asset) {
        return Err(Refusal::AssetNotEntitled);
    }
    let scheme = match entitlement.policy() {
        None => None,
        // A name that means nothing here was meant to restrict something.
        Some(name) => match rules.policies.get(name) {
            Some(PolicyRule {
                clear_key: true,
                scheme: Some(scheme),
            }) => Some(*scheme),
            Some(_) | None => return Err(Refusal::PolicyUnmet),
        },
    };
    if !rules.allow_clear_key {
        return Err(Refusal::ClearKeyNotAllowed);
    }
    let key_ids: Vec<_> = challenge
        .key_ids
        .iter()
        .copied()
        .filter(|key_id| entitlement.covers_key(key_id))
        .collect();
    let left_out = key_ids.len() < challenge.key_ids.len();
    if key_ids.is_empty() || (left_out && entitlement.kid_rule() == KidRule::Strict) {
        return Err(Refusal::KeysNotEntitled);
    }
    Ok(Grant {
        keys: key_ids
            .into_iter()
            .map(|key_id| KeyGrant {
                key_id,
                label: Label::Sd,
                rule: Default::default(),
            })
            .collect(),
        scheme,
        terms: Default::default(),
    })
}
