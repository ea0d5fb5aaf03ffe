//! Shows what a token says and why it would be taken or refused: for people at a terminal.

use serde::Serialize;
use serde_json::{Map, Value};

use super::token::Parts;
use super::{Malformation, Verifier};
use crate::UnixTime;

/// A token, decoded, and the verdict on it. The signature is left out, so that what is shown is no token.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// The header as it stands.
    pub header: Map<String, Value>,
    /// The claims as they stand: unproven unless the verdict says otherwise.
    pub claims: Map<String, Value>,
    /// What the licence server would say; none where no issuers are at hand.
    pub verdict: Option<Verdict>,
}

/// What the licence server would say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "result", rename_all = "lowercase")]
pub enum Verdict {
    /// It takes the token.
    Valid {
        /// The configured issuer that signed it.
        issuer: String,
    },
    /// It refuses the token.
    Refused {
        /// The fixed name of the reason, as in logs.
        reason: &'static str,
        /// The reason for people.
        detail: String,
        /// The configured issuer, if it did sign the token.
        issuer: Option<String>,
    },
}

/// Decodes the token and judges it at this moment.
///
/// # Errors
/// [`Malformation`] where there is nothing to show: not three parts of base64url, or no JSON objects in them.
pub fn inspect(
    token: &str,
    verifier: Option<&Verifier>,
    now: UnixTime,
) -> Result<Inspection, Malformation> {
    let parts = Parts::split(token)?;
    let verdict = verifier.map(|verifier| match verifier.verify(token, now) {
        Ok(entitlement) => Verdict::Valid {
            issuer: entitlement.bearer().issuer.clone(),
        },
        Err(rejection) => Verdict::Refused {
            reason: rejection.refusal.reason(),
            detail: rejection.refusal.to_string(),
            issuer: rejection.bearer.map(|bearer| bearer.issuer),
        },
    });
    Ok(Inspection {
        header: parts.header()?,
        claims: parts.claims()?,
        verdict,
    })
}
