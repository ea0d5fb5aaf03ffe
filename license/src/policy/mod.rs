//! Who gets which keys, and on what terms: a pure decision over what was proven, what is asked for and what is configured.
//!
//! Everything that it depends on besides the [`Rules`] stands in one [`Case`], which is recorded with it: so the same
//! function says later why it was decided so, and how other rules would have it.

pub mod case;
pub mod explain;
mod rules;
pub mod terms;
#[cfg(test)]
mod tests;

use keystore_types::{AssetId, KeyId, Label, Scheme};
use serde::{Deserialize, Serialize};

pub use self::case::Case;
pub use self::rules::{PolicyRule, Rules};
use self::terms::{KeyRule, Terms, WidevineLevel};
use crate::Refusal;

/// A licence system that this server answers for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
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

    /// What policies call it.
    const fn signalled(self) -> conf::System {
        match self {
            Self::ClearKey | Self::Hls => conf::System::ClearKey,
            Self::Widevine => conf::System::Widevine,
            Self::PlayReady => conf::System::PlayReady,
            Self::FairPlay => conf::System::FairPlay,
        }
    }

    /// Whether its challenges are not read here, so that the URL names their keys, or else the token.
    pub const fn is_opaque(self) -> bool {
        matches!(self, Self::Widevine | Self::FairPlay)
    }

    /// Whether it gives keys to players in the open, and so can keep no rule about them.
    pub const fn is_open(self) -> bool {
        matches!(self, Self::ClearKey | Self::Hls)
    }
}

/// What a player asks for, whatever the format in which it asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// The licence system.
    pub system: System,
    /// The asset, named by the URL.
    pub asset: AssetId,
    /// The keys, each once. None where the challenge is opaque and the URL names none: then those that the token names are
    /// asked for. Never whatever the asset has: the keystore tells nobody which keys there are.
    pub key_ids: Vec<KeyId>,
    /// Whether the licence is to be kept beyond the session.
    pub persistent: bool,
}

/// Whether a licence is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// With these keys, in the order asked for.
    Grant(Grant),
    /// Not at all.
    Refuse(Refusal),
}

/// The keys that may leave, at least one, and what their licence says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Requested and entitled, with a rule that the system can keep.
    pub keys: Vec<KeyGrant>,
    /// If the policy is for one scheme, keys of others are left out.
    pub scheme: Option<Scheme>,
    /// What the licence says.
    pub terms: Terms,
    /// What was requested and entitled, and why it is not among the keys.
    pub left_out: Vec<LeftOut>,
}

impl Grant {
    /// The ids of the keys.
    pub fn key_ids(&self) -> Vec<KeyId> {
        self.keys.iter().map(|key| key.key_id).collect()
    }
}

/// A key that may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyGrant {
    /// Its id.
    pub key_id: KeyId,
    /// The tracks that it protects.
    pub label: Label,
    /// What it asks of the device. Whoever writes the licence has the device's system keep it.
    pub rule: KeyRule,
}

/// A key that is left out of a licence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Its id.
    pub key_id: KeyId,
    /// Why.
    pub why: Unmet,
}

/// The rule of a key that a request cannot meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Unmet {
    /// Its pictures are larger than the policy's `max_video`.
    #[error("its pictures are larger than the policy allows")]
    Resolution,
    /// It asks for protected outputs, which a system that gives keys in the open cannot promise, and FairPlay only in part:
    /// [`KeyRule::in_fairplay`].
    #[error("it asks for outputs to be protected as this system cannot")]
    Outputs,
    /// It asks for a robust device, likewise.
    #[error("it asks for a robust device, and this system knows none")]
    Robustness,
}

/// Decides on a case. It is the only place where licences are granted or refused.
///
/// A token that covers some of the keys gives those (DASH-IF Guidelines-Security, licence request model), unless its
/// issuer's rule is strict; a key whose rule is unmet is left out; where none is left there is no licence.
pub fn decide(case: &Case, rules: &Rules) -> Decision {
    match grant(case, rules) {
        Ok(grant) => Decision::Grant(grant),
        Err(refusal) => Decision::Refuse(refusal),
    }
}

fn grant(case: &Case, rules: &Rules) -> Result<Grant, Refusal> {
    if !case.covers_asset {
        return Err(Refusal::AssetNotEntitled);
    }
    let policy = match rules.policy_of(case) {
        None => None,
        // A name that means nothing here was meant to restrict something.
        Some(name) => (rules.policies.get(name))
            .filter(|policy| policy.signals(case.system.signalled()))
            .ok_or(Refusal::PolicyUnmet)
            .map(Some)?,
    };
    if case.system.is_open() && !rules.allow_clear_key {
        return Err(Refusal::ClearKeyNotAllowed);
    }
    let terms = case.terms(policy.map(|policy| policy.terms));
    let policy = policy.unwrap_or(&rules::NO_POLICY);
    if terms.begins.is_some_and(|begins| case.time < begins) {
        return Err(Refusal::NotYetAvailable);
    }
    if terms.expires.is_some_and(|expires| case.time >= expires) {
        return Err(Refusal::NoLongerAvailable);
    }
    // A licence of an open system carries no time: one that is kept would never end.
    if case.persistent && (!terms.persistent || (case.system.is_open() && terms.ends())) {
        return Err(Refusal::PersistenceNotAllowed);
    }
    if case.requested.is_empty() {
        return Err(Refusal::KeysUnnamed);
    }
    if case.covered.is_empty() || (case.strict && case.covered.len() < case.requested.len()) {
        return Err(Refusal::KeysNotEntitled);
    }

    let (mut keys, mut left_out) = (Vec::new(), Vec::new());
    for key_id in &case.covered {
        let Some(key) = case.keys.iter().find(|key| key.key_id == *key_id) else {
            continue;
        };
        if policy.scheme.is_some_and(|scheme| scheme != key.scheme) {
            continue;
        }
        let (key_id, label) = (*key_id, key.label);
        let rule = policy.rule(label).and(case.rule(&key_id));
        match kept(case.system, label, rule, policy.max_video) {
            Err(why) => left_out.push(LeftOut { key_id, why }),
            Ok(rule) => keys.push(KeyGrant {
                key_id,
                label,
                rule,
            }),
        }
    }
    match (keys.is_empty(), left_out.is_empty()) {
        (true, true) => Err(Refusal::KeysUnknown),
        (true, false) => Err(Refusal::RulesUnmet(left_out)),
        (false, _) => Ok(Grant {
            keys,
            scheme: policy.scheme,
            terms,
            left_out,
        }),
    }
}

/// The rule of a key as the system keeps it.
///
/// # Errors
/// Which rule this request cannot meet, whatever the device is.
fn kept(
    system: System,
    label: Label,
    rule: KeyRule,
    max_video: Option<Label>,
) -> Result<KeyRule, Unmet> {
    if max_video.is_some_and(|most| !label.within(most)) {
        return Err(Unmet::Resolution);
    }
    match system {
        System::Widevine | System::PlayReady => Ok(rule),
        System::FairPlay => rule.in_fairplay().ok_or(Unmet::Outputs),
        System::ClearKey | System::Hls if rule.protects_outputs() => Err(Unmet::Outputs),
        System::ClearKey | System::Hls => {
            let robust = rule.widevine > WidevineLevel::default()
                || rule.playready > terms::PlayReadyLevel::default();
            match robust {
                true => Err(Unmet::Robustness),
                false => Ok(rule),
            }
        }
    }
}
