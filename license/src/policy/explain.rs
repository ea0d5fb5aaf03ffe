//! Says of a decision what it was and why: for people at a terminal, and for comparing rules.

use keystore_types::{KeyId, Label};
use serde::{Deserialize, Serialize};

use super::terms::{KeyRule, Terms};
use super::{Case, Decision, LeftOut, Refusal, Rules, decide};
use crate::Error;

/// A decision in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "result", rename_all = "lowercase")]
pub enum Explanation {
    /// A licence is given.
    Granted {
        /// The name of the policy that decided; none: there was none, and the token's word was enough.
        policy: Option<String>,
        /// Its keys, in the order asked for.
        keys: Vec<ExplainedKey>,
        /// The keys that were asked for and are covered, and why they are not given.
        left_out: Vec<LeftOut>,
        /// What it says.
        terms: Terms,
    },
    /// None is given.
    Refused {
        /// The fixed name of the reason, as in the decision log; `not_found`, which is not recorded, where there is no such URL.
        reason: String,
        /// The reason for people.
        detail: String,
    },
}

/// A key of a licence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ExplainedKey {
    /// Its id.
    pub key_id: KeyId,
    /// The tracks that it protects.
    pub label: Label,
    /// What it asks of the device.
    pub rule: KeyRule,
}

impl From<&Refusal> for Explanation {
    fn from(refusal: &Refusal) -> Self {
        Self::Refused {
            reason: refusal.reason().to_owned(),
            detail: refusal.to_string(),
        }
    }
}

/// Decides on a case, and says what comes out.
pub fn explain(case: &Case, rules: &Rules) -> Explanation {
    match decide(case, rules) {
        Decision::Refuse(refusal) => Explanation::from(&refusal),
        Decision::Grant(grant) => Explanation::Granted {
            policy: rules.policy_of(case).map(str::to_owned),
            keys: (grant.keys.iter())
                .map(|key| ExplainedKey {
                    key_id: key.key_id,
                    label: key.label,
                    rule: key.rule,
                })
                .collect(),
            left_out: grant.left_out,
            terms: grant.terms,
        },
    }
}

/// A recorded decision that other rules would have otherwise.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// Its number in the log.
    pub number: u64,
    /// What was decided on.
    pub case: Case,
    /// Why no licence was given then; none: one was.
    pub refused_before: Option<String>,
    /// The keys that were granted then.
    pub keys_before: Vec<KeyId>,
    /// What comes out now.
    pub now: Explanation,
}

/// What becomes of one recorded decision.
#[derive(Clone, Debug)]
pub enum Replayed {
    /// The same.
    Same,
    /// Something else.
    Different(Box<Difference>),
    /// It was no matter of policy: a token that is not true, a body that is no request, a limit, a fault.
    Apart,
}

/// A line of the decision log, as far as it is read here.
#[derive(Deserialize)]
struct Recorded {
    number: u64,
    kids: Vec<KeyId>,
    #[serde(default)]
    withheld: Vec<KeyId>,
    result: String,
    reason: Option<String>,
    case: Option<Case>,
}

/// Reasons that [`decide`] gives.
pub(super) const DECIDED: [&str; 10] = [
    "asset_not_entitled",
    "policy_unmet",
    "clear_key_not_allowed",
    "not_yet_available",
    "no_longer_available",
    "persistence_not_allowed",
    "keys_unnamed",
    "keys_not_entitled",
    "keys_unknown",
    "rules_unmet",
];

/// Decides anew on what a line of the decision log records.
///
/// # Errors
/// Malformed: the line is no record of a decision.
pub fn replay(line: &[u8], rules: &Rules) -> Result<Replayed, Error> {
    let recorded: Recorded = serde_json::from_slice(line)
        .map_err(|error| Error::malformed(format!("read a record of a decision: {error}")))?;
    let Some(case) = recorded.case else {
        return Ok(Replayed::Apart);
    };
    let refused_before = match (recorded.result.as_str(), recorded.reason) {
        ("granted", _) => None,
        (_, Some(reason)) if DECIDED.contains(&reason.as_str()) => Some(reason),
        _ => return Ok(Replayed::Apart),
    };
    // What kept a key back after the decision, as its revocation, is no matter of these rules.
    let granted =
        |key_id: &&KeyId| recorded.kids.contains(key_id) || recorded.withheld.contains(key_id);
    let keys_before: Vec<_> = match refused_before {
        None => case.requested.iter().filter(granted).copied().collect(),
        Some(_) => Vec::new(),
    };
    let now = explain(&case, rules);
    let same = match (&now, &refused_before) {
        (Explanation::Refused { reason, .. }, Some(before)) => reason == before,
        (Explanation::Granted { keys, .. }, None) => {
            (keys.iter().map(|key| key.key_id)).eq(keys_before.iter().copied())
        }
        (Explanation::Granted { .. }, Some(_)) | (Explanation::Refused { .. }, None) => false,
    };
    if same {
        return Ok(Replayed::Same);
    }
    Ok(Replayed::Different(Box::new(Difference {
        number: recorded.number,
        case,
        refused_before,
        keys_before,
        now,
    })))
}
