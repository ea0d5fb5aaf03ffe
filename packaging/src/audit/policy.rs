//! Policies: whether those that are named are there, and whether one key stands for tracks that their rules tell apart.
//!
//! Rules are seen in two places. An operator's own configuration has them all, and names each policy: it is read where the
//! operator gives it. Of any other origin only those are seen that its manifests show (`HDCP-LEVEL`, `ALLOWED-CPC`,
//! `robustness`): tracks of one key for which they differ are a fault there too, since the one licence opens both. That one
//! key serves tracks of several sizes is no fault as long as no rule tells them apart.

use std::collections::BTreeMap;

use conf::{KeyRuleSettings, LicensePolicySettings, LicenseTermsSettings, TrackLabel};
use keystore_types::{KeyId, Label};
use url::Url;

use super::finding::{Fault, Finding, Place};
use super::manifest::Track;
use super::{Looked, Plan};

/// The policies of a configuration, if there is one.
pub(super) struct Policies<'a> {
    known: Option<&'a BTreeMap<String, LicensePolicySettings>>,
    default: Option<&'a str>,
    /// The policy that is named beside the URL.
    named: Option<String>,
}

impl<'a> Policies<'a> {
    pub(super) fn new(plan: &Plan<'a>) -> Self {
        let license = plan.settings.map(|settings| &settings.license);
        Self {
            known: license.map(|license| &license.policies),
            default: license.and_then(|license| license.default_policy.as_deref()),
            named: plan.policy.clone(),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.known.is_none_or(|known| known.contains_key(name))
    }

    /// The policy of a title: as named, else that of its URL.
    fn of<'s>(&'s self, url: &'s Url) -> Option<&'s str> {
        self.named.as_deref().or_else(|| policy_of(url))
    }

    /// Whether a manifest is not there because its policy is not.
    pub(super) fn explains_absence(&self, url: &Url) -> bool {
        policy_of(url).is_some_and(|name| !self.has(name))
    }

    /// Looks for the policies that the URLs and the token name.
    pub(super) fn check_names(&self, plan: &Plan<'_>, findings: &mut Vec<Finding>) {
        if self.known.is_none() {
            return;
        }
        let mut missing = |url: &Url, at: &str, what: String| {
            let place = Place::of(url, None, at);
            findings.push(Finding::new(Fault::MissingPolicy, place, what));
        };
        let claims = plan.token.as_ref().and_then(super::Token::claims);
        // An entitlement message has rules of its own, and names no policy of ours.
        let claims = claims.filter(|claims| claims.get("message").is_none());
        let claimed = claims.as_ref().map(|claims| claims.get("policy"));
        for url in &plan.urls {
            for (name, at) in [(policy_of(url), "URL"), (self.named.as_deref(), "--policy")] {
                if let Some(name) = name
                    && !self.has(name)
                {
                    missing(url, at, format!("the configuration has no policy {name:?}"));
                }
            }
            match claimed.map(|policy| policy.and_then(serde_json::Value::as_str)) {
                Some(Some(name)) if !self.has(name) => {
                    let what = "the policy that the token names is not in the configuration";
                    missing(url, "token", what.to_owned());
                }
                Some(None) if self.default.is_none() => {
                    let terms = self.of(url).and_then(|name| self.terms(name));
                    if terms.is_some_and(|terms| *terms != LicenseTermsSettings::default()) {
                        let what = "the token names no policy, and license.default_policy is not set: licences follow no rule";
                        missing(url, "token", what.to_owned());
                    }
                }
                Some(Some(_) | None) | None => {}
            }
        }
    }

    fn terms(&self, name: &str) -> Option<&LicenseTermsSettings> {
        Some(&self.known?.get(name)?.terms)
    }

    /// Looks for tracks of one key that rules tell apart.
    pub(super) fn check_shared_keys(&self, looked: &[Looked], findings: &mut Vec<Finding>) {
        for looked in looked {
            let terms = self.of(&looked.title.url).and_then(|name| self.terms(name));
            let mut first: BTreeMap<KeyId, (&Track, Rule<'_>)> = BTreeMap::new();
            for (track, parts) in looked.tracks() {
                let Some(key_id) = parts.key_id() else {
                    continue;
                };
                let rule = Rule::of(track, terms);
                let Some((other, others)) = first.get(&key_id) else {
                    first.insert(key_id, (track, rule));
                    continue;
                };
                if let Some(what) = rule.differs(others) {
                    findings.push(Finding::new(
                        Fault::KeySharedAcrossRules,
                        looked.place(track, "tenc"),
                        format!("key {key_id} is that of {} too, and {what}", other.name),
                    ));
                }
            }
        }
    }
}

/// What holds for a track.
struct Rule<'a> {
    /// By the configuration: what the key asks of a device, and whether pictures of this size are given at all.
    configured: Option<(KeyRuleSettings, bool)>,
    /// By the manifest. Sound has no outputs of its own to protect.
    shown: Option<&'a [String]>,
}

impl<'a> Rule<'a> {
    fn of(track: &'a Track, terms: Option<&LicenseTermsSettings>) -> Self {
        let label = match (track.is_sound, track.picture) {
            (true, _) => Some(TrackLabel::Audio),
            (false, Some((width, height))) => configured(Label::of_video(width, height)),
            (false, None) => None,
        };
        Self {
            configured: label.zip(terms).map(|(label, terms)| {
                let rule = terms.keys.get(&label).copied().unwrap_or_default();
                let given = terms
                    .max_video
                    .is_none_or(|most| label == TrackLabel::Audio || label <= most);
                (rule, given)
            }),
            shown: (!track.is_sound).then_some(track.rules.as_slice()),
        }
    }

    fn differs(&self, other: &Self) -> Option<String> {
        if let (Some(one), Some(two)) = (self.configured, other.configured)
            && one != two
        {
            let what = match one.1 == two.1 {
                true => "the policy's license.keys ask more of the one than of the other",
                false => "the policy's max_video gives the one and withholds the other",
            };
            return Some(what.to_owned());
        }
        match (self.shown, other.shown) {
            (Some(one), Some(two)) if one != two => {
                let list = |rules: &[String]| match rules {
                    [] => "nothing".to_owned(),
                    rules => rules.join(", "),
                };
                Some(format!(
                    "the manifest asks {} here and {} there",
                    list(one),
                    list(two)
                ))
            }
            _ => None,
        }
    }
}

const fn configured(label: Label) -> Option<TrackLabel> {
    Some(match label {
        Label::Audio => TrackLabel::Audio,
        Label::Sd => TrackLabel::Sd,
        Label::Hd => TrackLabel::Hd,
        Label::Uhd1 => TrackLabel::Uhd1,
        Label::Uhd2 => TrackLabel::Uhd2,
    })
}

/// The policy in a manifest's URL, where that is one of ours: `/v1/{asset}/{policy}/[~{rev}/]main.m3u8` or `main.mpd`.
fn policy_of(url: &Url) -> Option<&str> {
    let mut segments = url.path_segments()?.skip_while(|segment| *segment != "v1");
    let (_, _asset, policy) = (segments.next()?, segments.next()?, segments.next()?);
    let file = segments.last()?;
    matches!(file, "main.m3u8" | "main.mpd").then_some(policy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_stands_in_our_urls_only() {
        for (path, policy) in [
            ("v1/film/hd/main.mpd", Some("hd")),
            ("cdn/v1/film/hd/~abc/main.m3u8", Some("hd")),
            ("v1/film/main.mpd", None),
            ("v1/film/hd/v720.m3u8", None),
            ("films/hd/main.mpd", None),
        ] {
            let url = Url::parse("https://o.example/")
                .unwrap()
                .join(path)
                .unwrap();
            assert_eq!(policy_of(&url), policy, "{path}");
        }
    }
}
