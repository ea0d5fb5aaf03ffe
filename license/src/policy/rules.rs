use std::collections::BTreeMap;

use conf::{KeyRuleSettings, LicensePolicySettings, LicenseSettings, PackScheme, TrackLabel};
use keystore_types::{Label, Scheme};

use super::Case;
use super::terms::{KeyRule, Renewal, Terms};
use crate::UnixTime;

/// What the configuration says of licences.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Whether the tenant allows keys to be handed out in the open, which both ClearKey and HLS do.
    pub allow_clear_key: bool,
    /// The policies that a token may name.
    pub policies: BTreeMap<String, PolicyRule>,
    /// The policy of tokens that name none.
    pub default_policy: Option<String>,
}

impl Rules {
    /// The name of the policy that decides on a case: that of its token, else that of tokens that name none. None: nothing
    /// decides but the token.
    pub(crate) fn policy_of<'a>(&'a self, case: &'a Case) -> Option<&'a str> {
        case.policy.as_deref().or(self.default_policy.as_deref())
    }
}

/// What a named policy says of licences.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyRule {
    /// The systems that it signals; none: every system, where no policy is named at all.
    pub systems: Option<Vec<conf::System>>,
    /// The scheme of its pack.
    pub scheme: Option<Scheme>,
    /// What its licences say.
    pub terms: Terms,
    /// The largest pictures.
    pub max_video: Option<Label>,
    /// What the keys of a label ask of a device.
    pub keys: BTreeMap<Label, KeyRule>,
}

/// The word of no policy.
pub(super) static NO_POLICY: PolicyRule = PolicyRule {
    systems: None,
    scheme: None,
    terms: Terms {
        persistent: false,
        begins: None,
        expires: None,
        license_duration: None,
        rental_duration: None,
        playback_duration: None,
        renewal: None,
    },
    max_video: None,
    keys: BTreeMap::new(),
};

impl PolicyRule {
    pub(super) fn signals(&self, system: conf::System) -> bool {
        (self.systems.as_ref()).is_none_or(|systems| systems.contains(&system))
    }

    pub(super) fn rule(&self, label: Label) -> KeyRule {
        self.keys.get(&label).copied().unwrap_or_default()
    }
}

impl From<&LicenseSettings> for Rules {
    fn from(settings: &LicenseSettings) -> Self {
        let policies = settings.policies.iter();
        Self {
            allow_clear_key: settings.tenant.allow_clear_key,
            policies: policies
                .map(|(name, policy)| (name.clone(), policy.into()))
                .collect(),
            default_policy: settings.default_policy.clone(),
        }
    }
}

impl From<&LicensePolicySettings> for PolicyRule {
    fn from(policy: &LicensePolicySettings) -> Self {
        let said = &policy.terms;
        let scheme = match policy.scheme {
            PackScheme::Cbcs => Some(Scheme::Cbcs),
            PackScheme::Cenc => Some(Scheme::Cenc),
            // It signals no system, so none is licensed.
            PackScheme::Clear => None,
        };
        Self {
            systems: Some(policy.systems.clone()),
            scheme,
            terms: Terms {
                persistent: said.persistent,
                begins: said.begins.map(UnixTime::from_seconds),
                expires: said.expires.map(UnixTime::from_seconds),
                license_duration: said.license_duration,
                rental_duration: said.rental_duration,
                playback_duration: said.playback_duration,
                renewal: said.renewal.map(|renewal| Renewal {
                    after: renewal.after,
                    retry: renewal.retry,
                    recovery: renewal.recovery,
                }),
            },
            max_video: said.max_video.map(label),
            keys: (said.keys.iter())
                .map(|(name, rule)| (label(*name), (*rule).into()))
                .collect(),
        }
    }
}

impl From<KeyRuleSettings> for KeyRule {
    fn from(rule: KeyRuleSettings) -> Self {
        Self {
            hdcp: rule.hdcp,
            no_analogue: rule.no_analogue,
            no_digital: rule.no_digital,
            widevine: rule.widevine,
            playready: rule.playready,
            fairplay_hdcp: rule.fairplay_hdcp,
        }
    }
}

const fn label(label: TrackLabel) -> Label {
    match label {
        TrackLabel::Audio => Label::Audio,
        TrackLabel::Sd => Label::Sd,
        TrackLabel::Hd => Label::Hd,
        TrackLabel::Uhd1 => Label::Uhd1,
        TrackLabel::Uhd2 => Label::Uhd2,
    }
}
