//! The encryption contract of SPEKE 2.0 (AWS, "SPEKE API v2 - Encryption contract") and what little SPEKE 1.0 asks.
//!
//! Two rules are softer than their text, since encryptors in the field, AWS's own test suite among them, do not keep
//! them: a track type of several parts (`SD+HD1`) may have one filter that covers them all, and pixel ranges of two
//! rules may overlap.

use std::collections::{HashMap, HashSet};

use keystore_types::{KeyId, Scheme};

use super::SpekeVersion;
use crate::document::{Document, Secret};
use crate::error::{Error, ErrorKind, Faults};
use crate::identity::{EncryptionScheme, SystemId};
use crate::usage::{AudioFilter, Filter, UsageRule, VideoFilter};
use crate::xml::Cursor;
use crate::xml::namespace::CPIX;

/// The most keys of a request: eight track types over 32 key periods. Each may be a new key in the keystore.
pub const MAX_KEYS: usize = 256;

/// The most usage rules of a request: each is compared with each other.
pub const MAX_RULES: usize = 1024;

/// The track type of a key for everything.
const ALL: &str = "ALL";

pub(super) struct Contract<'a> {
    pub(super) version: SpekeVersion,
    pub(super) document: &'a Document,
}

/// Checks `contract`, whose document was read from `root`.
pub(super) fn check(contract: &Contract<'_>, root: &Cursor<'_>) -> Result<(), Error> {
    let mut faults = Faults::default();
    contract.root(root, &mut faults);
    contract.deliveries(root, &mut faults);
    contract.keys(root, &mut faults);
    contract.systems(root, &mut faults);
    contract.periods(root, &mut faults);
    contract.rules(root, &mut faults);
    faults.check(ErrorKind::Invalid)
}

/// Does `then` for each member of a list with its place. The document was read from these very elements, one value
/// for each.
fn each<T>(
    root: &Cursor<'_>,
    (list, member): (&str, &str),
    values: &[T],
    mut then: impl FnMut(&T, &Cursor<'_>),
) {
    for list in root.all(CPIX, list) {
        for (value, cursor) in values.iter().zip(list.all(CPIX, member)) {
            then(value, &cursor);
        }
    }
}

const KEYS: (&str, &str) = ("ContentKeyList", "ContentKey");
const SYSTEMS: (&str, &str) = ("DRMSystemList", "DRMSystem");
const PERIODS: (&str, &str) = ("ContentKeyPeriodList", "ContentKeyPeriod");
const RULES: (&str, &str) = ("ContentKeyUsageRuleList", "ContentKeyUsageRule");
const DELIVERIES: (&str, &str) = ("DeliveryDataList", "DeliveryData");

impl Contract<'_> {
    const fn is_v1(&self) -> bool {
        matches!(self.version, SpekeVersion::V1_0)
    }

    fn root(&self, root: &Cursor<'_>, faults: &mut Faults) {
        let name = if self.is_v1() { "id" } else { "contentId" };
        if root
            .attribute(name)
            .is_none_or(|id| id.trim_ascii().is_empty())
        {
            root.attribute_fault(name, faults, format!("missing CPIX@{name}"));
        }
        let mut lists = vec![KEYS.0, SYSTEMS.0];
        if !self.is_v1() {
            lists.push(RULES.0);
        }
        for list in lists {
            root.required(CPIX, list, faults);
        }
    }

    /// A recipient names itself by its certificate; the keys are made here.
    fn deliveries(&self, root: &Cursor<'_>, faults: &mut Faults) {
        each(root, DELIVERIES, &self.document.deliveries, |_, cursor| {
            for name in ["DocumentKey", "MACMethod"] {
                if let Some(found) = cursor.all(CPIX, name).next() {
                    found.fault(faults, "a request brings no keys of its own");
                }
            }
        });
    }

    fn keys(&self, root: &Cursor<'_>, faults: &mut Faults) {
        let keys = &self.document.keys;
        let limit = if self.is_v1() { 1 } else { MAX_KEYS };
        let governed: HashSet<KeyId> = self.document.rules.iter().map(|it| it.key_id).collect();
        let mut seen = HashSet::new();
        let mut scheme: Option<EncryptionScheme> = None;
        let mut number = 0_usize;
        each(root, KEYS, keys, |key, cursor| {
            number += 1;
            if number == limit + 1 {
                let what = if self.is_v1() {
                    "SPEKE 1.0 has one key"
                } else {
                    "too many keys"
                };
                cursor.fault(
                    faults,
                    format!("{what}: at most {limit} are served at once"),
                );
            }
            if !seen.insert(key.key_id) {
                cursor.attribute_fault("kid", faults, "each key is asked for once");
            }
            if !matches!(key.secret, Secret::Absent) {
                let data = cursor.all(CPIX, "Data").next();
                let cursor = data.as_ref().unwrap_or(cursor);
                cursor.fault(faults, "a request brings no keys of its own");
            }
            if self.is_v1() {
                return;
            }
            match (key.scheme, scheme) {
                (None, _) => {
                    let reason = format!(
                        "missing ContentKey@commonEncryptionScheme for key {}",
                        key.key_id
                    );
                    cursor.attribute_fault("commonEncryptionScheme", faults, reason);
                }
                (Some(own), Some(first)) if own != first => {
                    let reason = format!(
                        "non compliant ContentKey@commonEncryptionScheme combination: {first} and {own} take a \
                         request each"
                    );
                    cursor.attribute_fault("commonEncryptionScheme", faults, reason);
                }
                (own, _) => scheme = own,
            }
            if !governed.contains(&key.key_id) {
                let reason = "each key has a ContentKeyUsageRule";
                cursor.attribute_fault("kid", faults, reason);
            }
        });
    }

    fn systems(&self, root: &Cursor<'_>, faults: &mut Faults) {
        let keys = self.document.keys.iter();
        let schemes: HashMap<KeyId, Option<EncryptionScheme>> =
            keys.map(|key| (key.key_id, key.scheme)).collect();
        let mut seen = HashSet::new();
        each(root, SYSTEMS, &self.document.systems, |system, cursor| {
            let Some(scheme) = schemes.get(&system.key_id) else {
                return cursor.attribute_fault("kid", faults, "no ContentKey has this id");
            };
            if !seen.insert((system.key_id, system.system_id)) {
                let reason = "each system is asked once for each key";
                cursor.attribute_fault("systemId", faults, reason);
            }
            let fits = |scheme: EncryptionScheme| {
                scheme.packaged() == Some(Scheme::Cbcs) || scheme == EncryptionScheme::HlsSampleAes
            };
            if let Some(scheme) = scheme
                && system.system_id == SystemId::FAIRPLAY
                && !fits(*scheme)
            {
                let reason = format!("FairPlay takes cbcs, and this key is for {scheme}");
                cursor.attribute_fault("systemId", faults, reason);
            }
        });
    }

    fn periods(&self, root: &Cursor<'_>, faults: &mut Faults) {
        let mut seen = HashSet::new();
        each(root, PERIODS, &self.document.periods, |period, cursor| {
            if let Some(id) = &period.id
                && !seen.insert(id.clone())
            {
                cursor.attribute_fault("id", faults, "each key period has an id of its own");
            }
        });
    }

    fn rules(&self, root: &Cursor<'_>, faults: &mut Faults) {
        let rules = &self.document.rules;
        let keys: HashSet<KeyId> = self.document.keys.iter().map(|it| it.key_id).collect();
        let periods = self.document.periods.iter();
        let periods: HashSet<&str> = periods.filter_map(|it| it.id.as_deref()).collect();
        if rules.len() > MAX_RULES {
            if let Some(list) = root.all(CPIX, RULES.0).next() {
                list.fault(
                    faults,
                    format!("a request has at most {MAX_RULES} usage rules"),
                );
            }
            return;
        }
        let mut number = 0_usize;
        each(root, RULES, rules, |rule, cursor| {
            if !keys.contains(&rule.key_id) {
                cursor.attribute_fault("kid", faults, "no ContentKey has this id");
            }
            for filter in cursor.all(CPIX, "KeyPeriodFilter") {
                if !filter
                    .attribute("periodId")
                    .is_some_and(|id| periods.contains(id))
                {
                    let reason = "no ContentKeyPeriod has this id";
                    filter.attribute_fault("periodId", faults, reason);
                }
            }
            if !self.is_v1() {
                track_type(rule, cursor, faults);
                alone(rule, &rules[..number], cursor, faults);
            }
            number += 1;
        });
    }
}

/// The name of a rule's tracks, and the filters that go with it.
fn track_type(rule: &UsageRule, cursor: &Cursor<'_>, faults: &mut Faults) {
    let name = "intendedTrackType";
    let Some(track_type) = rule.intended_track_type.as_deref() else {
        let reason = format!("missing ContentKeyUsageRule@{name} for key {}", rule.key_id);
        return cursor.attribute_fault(name, faults, reason);
    };
    let parts = track_type.split('+');
    if parts.clone().any(|part| part.trim_ascii().is_empty()) {
        return cursor.attribute_fault(
            name,
            faults,
            "track types are joined by '+', none is empty",
        );
    }
    let video: Vec<&VideoFilter> = (rule.filters.iter())
        .filter_map(|filter| match filter {
            Filter::Video(filter) => Some(filter),
            _ => None,
        })
        .collect();
    let audio: Vec<&AudioFilter> = (rule.filters.iter())
        .filter_map(|filter| match filter {
            Filter::Audio(filter) => Some(filter),
            _ => None,
        })
        .collect();
    if track_type == ALL {
        // @wcg is ignored throughout SPEKE.
        let bare_video = |it: &VideoFilter| {
            let it = VideoFilter { wcg: None, ..*it };
            it == VideoFilter::default()
        };
        let bare = match (video.as_slice(), audio.as_slice()) {
            ([video], [audio]) => bare_video(video) && **audio == AudioFilter::default(),
            _ => false,
        };
        if !bare {
            let reason =
                "track type ALL has one VideoFilter and one AudioFilter without attributes";
            cursor.fault(faults, reason);
        }
        return;
    }
    let filters = video.len() + audio.len();
    if filters == 0 {
        cursor.fault(faults, "a usage rule has a VideoFilter or an AudioFilter");
    } else if filters > parts.count() {
        let reason =
            format!("{filters} filters are more than the track types of '{track_type:.40}'");
        cursor.fault(faults, reason);
    }
}

/// A track type has one rule in a key period, and ALL has no rule beside it.
fn alone(rule: &UsageRule, before: &[UsageRule], cursor: &Cursor<'_>, faults: &mut Faults) {
    let Some(own) = rule.intended_track_type.as_deref() else {
        return;
    };
    let reason = before.iter().find_map(|other| {
        let other_type = other.intended_track_type.as_deref()?;
        if !meet(rule, other) {
            None
        } else if own == other_type {
            Some("each track type has one usage rule")
        } else if own == ALL || other_type == ALL {
            Some("beside track type ALL there is no other")
        } else {
            None
        }
    });
    if let Some(reason) = reason {
        cursor.attribute_fault("intendedTrackType", faults, reason);
    }
}

/// Whether two rules hold at one time.
fn meet(one: &UsageRule, other: &UsageRule) -> bool {
    fn periods(rule: &UsageRule) -> impl Iterator<Item = &String> + Clone {
        rule.filters.iter().filter_map(|filter| match filter {
            Filter::KeyPeriod(id) => Some(id),
            _ => None,
        })
    }
    let (own, theirs) = (periods(one), periods(other));
    own.clone().next().is_none()
        || theirs.clone().next().is_none()
        || own.into_iter().any(|id| theirs.clone().any(|it| it == id))
}
