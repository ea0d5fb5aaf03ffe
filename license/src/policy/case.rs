//! One request as the decision sees it.

use std::collections::BTreeMap;

use keystore_client::KeyDescription;
use keystore_types::{AssetId, KeyId};
use serde::{Deserialize, Serialize};

use super::terms::{KeyRule, Terms};
use super::{Challenge, System};
use crate::UnixTime;
use crate::entitlement::{DrmSystem, Entitlement, KidRule, LicenseDemand};

/// All that a decision depends on besides the rules. It names nobody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// When it is decided.
    pub time: UnixTime,
    /// The licence system.
    pub system: System,
    /// The asset.
    pub asset: AssetId,
    /// Whether the token covers it.
    pub covers_asset: bool,
    /// The keys asked for: those that the request names, or else the token. None where neither does.
    pub requested: Vec<KeyId>,
    /// Those of them that the token covers, for all that they belong to the asset.
    pub covered: Vec<KeyId>,
    /// Whether a single key that is not covered spoils the request.
    #[serde(default, skip_serializing_if = "is_default")]
    pub strict: bool,
    /// Whether the licence is to be kept.
    #[serde(default, skip_serializing_if = "is_default")]
    pub persistent: bool,
    /// The policy that the token names.
    #[serde(default, skip_serializing_if = "is_default")]
    pub policy: Option<String>,
    /// What is public about the covered keys that the asset has.
    #[serde(default)]
    pub keys: Vec<KeyDescription>,
    /// What the token says of the licence.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) demand: LicenseDemand,
    /// What the token asks for keys.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) rules: BTreeMap<KeyId, KeyRule>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Case {
    /// The case of a challenge by the bearer of a token. Its keys are still to be described: [`Case::covered`].
    pub fn new(entitlement: &Entitlement, challenge: &Challenge, time: UnixTime) -> Self {
        let named = match &challenge.key_ids[..] {
            [] => entitlement.key_ids().collect(),
            asked => asked.to_vec(),
        };
        let covers_asset = entitlement.covers_asset(&challenge.asset);
        let covered: Vec<_> = (named.iter().copied())
            .filter(|key_id| covers_asset && entitlement.covers_key(key_id))
            .collect();
        let demands = entitlement.demands();
        let drm = match challenge.system {
            System::Widevine => Some(DrmSystem::Widevine),
            System::PlayReady => Some(DrmSystem::PlayReady),
            System::FairPlay => Some(DrmSystem::FairPlay),
            System::ClearKey | System::Hls => None,
        };
        let asks = covered
            .iter()
            .map(|key_id| (*key_id, demands.keys.of(key_id).rule(drm)));
        Self {
            time,
            system: challenge.system,
            asset: challenge.asset.clone(),
            covers_asset,
            strict: entitlement.kid_rule() == KidRule::Strict,
            persistent: challenge.persistent,
            policy: entitlement.policy().map(str::to_owned),
            keys: Vec::new(),
            demand: drm.map_or(demands.license, |drm| demands.license(drm)),
            rules: asks.filter(|(_, rule)| !is_default(rule)).collect(),
            requested: named,
            covered,
        }
    }

    /// What the licence says, where a policy says this: the stricter word of both. Where there is no policy, the token's
    /// word is enough; where the token says nothing, the policy's.
    pub(super) fn terms(&self, policy: Option<Terms>) -> Terms {
        let said = self.demand.terms();
        match policy {
            Some(policy) => policy.and(said),
            None => Terms {
                persistent: self.demand.persistent.unwrap_or(false),
                ..said
            },
        }
    }

    /// What the token asks for a key.
    pub(super) fn rule(&self, key_id: &KeyId) -> KeyRule {
        self.rules.get(key_id).copied().unwrap_or_default()
    }
}
