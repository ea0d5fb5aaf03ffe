//! What a token says, read once its signature is known to be true.

use std::collections::BTreeSet;

use keystore_types::{AssetId, KeyId};
use serde_json::{Map, Value};

use super::demands::{Demands, StreamDemand, is_name};
use super::token::Token;
use crate::{Refusal, UnixTime};

/// What is read of a token, whatever its shape; all other claims are ignored (RFC 7519 4).
#[derive(Debug, Default)]
pub(super) struct Claims {
    pub(super) subject: Option<String>,
    pub(super) token_id: Option<String>,
    pub(super) expires: Option<UnixTime>,
    pub(super) not_before: Option<UnixTime>,
    pub(super) issued: Option<UnixTime>,
    pub(super) assets: Option<AssetGrant>,
    pub(super) key_ids: Option<BTreeSet<KeyId>>,
    pub(super) policy: Option<String>,
    pub(super) demands: Demands,
}

/// Which assets a token covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AssetGrant {
    /// `["*"]`: every asset.
    All,
    /// These.
    Only(BTreeSet<AssetId>),
}

impl AssetGrant {
    /// Whether the asset is covered.
    pub fn covers(&self, asset: &AssetId) -> bool {
        match self {
            Self::All => true,
            Self::Only(assets) => assets.contains(asset),
        }
    }
}

/// The longest `sub`, `jti` and `policy`, in bytes: they are written to logs.
const MAX_TEXT_LEN: usize = 256;

impl Claims {
    /// Who bears the token, of any shape that follows RFC 7519.
    pub(super) fn bearer(claims: &Map<String, Value>) -> Result<Self, Refusal> {
        Ok(Self {
            subject: text(claims, "sub")?,
            token_id: text(claims, "jti")?,
            ..Self::default()
        })
    }

    /// Reads the rest of a token of our own shape, `iss` and `aud` apart.
    ///
    /// # Errors
    /// [`Refusal::ClaimMissing`] and [`Refusal::ClaimMalformed`]. A claim of the wrong type is refused, never
    /// taken for absent: an `exp` that cannot be read must not mean that there is none.
    pub(super) fn native(self, claims: &Map<String, Value>) -> Result<Self, Refusal> {
        let read = Self {
            issued: time(claims, "iat")?,
            expires: Some(time(claims, "exp")?.ok_or(Refusal::ClaimMissing("exp"))?),
            not_before: time(claims, "nbf")?,
            assets: assets(claims)?,
            key_ids: key_ids(claims, "kids")?,
            policy: text(claims, "policy")?,
            demands: Demands {
                single_use: single_use(claims)?,
                session: name(claims, "session_id")?,
                device: name(claims, "device_id")?,
                devices: limit(claims, "max_devices")?,
                streams: limit(claims, "max_streams")?.map(|most| StreamDemand {
                    limit: Some(most),
                    ..StreamDemand::default()
                }),
                ..Demands::default()
            },
            ..self
        };
        if read.assets.is_none() && read.key_ids.is_none() {
            return Err(Refusal::ClaimMissing("assets"));
        }
        if read.demands.single_use && read.token_id.is_none() {
            return Err(Refusal::ClaimMissing("jti"));
        }
        Ok(read)
    }

    /// Reads the rest of a token with the claims that the guidelines of DASH-IF show: `authorized_kids`, and `exp`, which
    /// their example has in the header and as a text. `exp` must be there, in either part.
    ///
    /// # Errors
    /// As for [`Self::native`].
    pub(super) fn dash_if(self, token: &Token<'_>) -> Result<Self, Refusal> {
        let claims = &token.claims;
        let in_header = match &token.header.expires {
            None => None,
            Some(Value::String(digits)) if digits.bytes().all(|it| it.is_ascii_digit()) => {
                let seconds = digits.parse().map_err(|_| Refusal::ClaimMalformed("exp"))?;
                Some(date(seconds).ok_or(Refusal::ClaimMalformed("exp"))?)
            }
            Some(value) => {
                Some((seconds(value).and_then(date)).ok_or(Refusal::ClaimMalformed("exp"))?)
            }
        };
        let expires = match (time(claims, "exp")?, in_header) {
            // A claim that is also in the header says the same there (RFC 7519 5.3).
            (Some(one), Some(other)) if one != other => {
                return Err(Refusal::ClaimMalformed("exp"));
            }
            (one, other) => one.or(other).ok_or(Refusal::ClaimMissing("exp"))?,
        };
        let key_ids = key_ids(claims, "authorized_kids")?;
        Ok(Self {
            issued: time(claims, "iat")?,
            expires: Some(expires),
            not_before: time(claims, "nbf")?,
            key_ids: Some(key_ids.ok_or(Refusal::ClaimMissing("authorized_kids"))?),
            ..self
        })
    }
}

/// Which audiences a token may name besides ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AudienceRule {
    /// None: a token that others take as well could be replayed by them (RFC 8725 3.9).
    #[default]
    Only,
    /// Any.
    Among,
}

/// Whether `aud` is this audience, by the rule.
pub(super) fn audience_is(
    claims: &Map<String, Value>,
    audience: &str,
    rule: AudienceRule,
) -> Result<bool, Refusal> {
    match claims.get("aud") {
        None => Err(Refusal::ClaimMissing("aud")),
        Some(Value::String(one)) => Ok(one == audience),
        Some(Value::Array(all)) if !all.is_empty() && all.iter().all(Value::is_string) => {
            let mut all = all.iter();
            Ok(match rule {
                AudienceRule::Only => all.all(|one| one == audience),
                AudienceRule::Among => all.any(|one| one == audience),
            })
        }
        Some(_) => Err(Refusal::ClaimMalformed("aud")),
    }
}

/// Whether the claims are those of an OpenID Connect ID token (OpenID Connect Core 2 and 3.3.2.11), or say so in the way
/// of the larger providers. It tells a client who signed in, and proves nothing to anyone else.
pub(super) fn are_of_id_token(claims: &Map<String, Value>) -> bool {
    let says = |name: &str, value: &str| {
        let claim = claims.get(name).and_then(Value::as_str);
        claim.is_some_and(|claim| claim.eq_ignore_ascii_case(value))
    };
    ["nonce", "at_hash", "c_hash", "s_hash"]
        .iter()
        .any(|name| claims.contains_key(*name))
        || says("typ", "ID")
        || says("token_use", "id")
}

/// A text claim. Control characters are in no name, and would be in logs and databases, of which some take no NUL.
pub(super) fn text(
    claims: &Map<String, Value>,
    name: &'static str,
) -> Result<Option<String>, Refusal> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text))
            if text.len() <= MAX_TEXT_LEN && !text.chars().any(char::is_control) =>
        {
            Ok(Some(text.clone()))
        }
        Some(_) => Err(Refusal::ClaimMalformed(name)),
    }
}

/// A date (RFC 7519 2), not negative and before the year 10000.
fn time(claims: &Map<String, Value>, name: &'static str) -> Result<Option<UnixTime>, Refusal> {
    let Some(value) = claims.get(name) else {
        return Ok(None);
    };
    let time = seconds(value).and_then(date);
    time.map(Some).ok_or(Refusal::ClaimMalformed(name))
}

/// Whole seconds; a fraction, which RFC 7519 allows, is cut off.
fn seconds(value: &Value) -> Option<u64> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "what is cut off is the fraction"
    )]
    let whole = |seconds: f64| (0.0..1e15).contains(&seconds).then_some(seconds as u64);
    value.as_u64().or_else(|| whole(value.as_f64()?))
}

fn date(seconds: u64) -> Option<UnixTime> {
    let time = UnixTime::from_seconds(seconds);
    (time <= UnixTime::MAX).then_some(time)
}

fn single_use(claims: &Map<String, Value>) -> Result<bool, Refusal> {
    match claims.get("single_use") {
        None => Ok(false),
        Some(Value::Bool(single_use)) => Ok(*single_use),
        Some(_) => Err(Refusal::ClaimMalformed("single_use")),
    }
}

fn name(claims: &Map<String, Value>, claim: &'static str) -> Result<Option<String>, Refusal> {
    match claims.get(claim) {
        None => Ok(None),
        Some(Value::String(name)) if is_name(name) => Ok(Some(name.clone())),
        Some(_) => Err(Refusal::ClaimMalformed(claim)),
    }
}

/// How many there may be. Whoever may have none gets no token.
fn limit(claims: &Map<String, Value>, claim: &'static str) -> Result<Option<u32>, Refusal> {
    let Some(value) = claims.get(claim) else {
        return Ok(None);
    };
    let most = value.as_u64().and_then(|most| u32::try_from(most).ok());
    (most.filter(|most| *most > 0).map(Some)).ok_or(Refusal::ClaimMalformed(claim))
}

fn assets(claims: &Map<String, Value>) -> Result<Option<AssetGrant>, Refusal> {
    let malformed = Refusal::ClaimMalformed("assets");
    match claims.get("assets") {
        None => Ok(None),
        Some(Value::Array(names)) => match names.as_slice() {
            [Value::String(name)] if name == "*" => Ok(Some(AssetGrant::All)),
            names => {
                let asset = |name: &Value| name.as_str()?.parse().ok();
                let assets = names
                    .iter()
                    .map(asset)
                    .collect::<Option<_>>()
                    .ok_or(malformed)?;
                Ok(Some(AssetGrant::Only(assets)))
            }
        },
        Some(_) => Err(malformed),
    }
}

fn key_ids(
    claims: &Map<String, Value>,
    name: &'static str,
) -> Result<Option<BTreeSet<KeyId>>, Refusal> {
    let malformed = Refusal::ClaimMalformed(name);
    match claims.get(name) {
        None => Ok(None),
        Some(Value::Array(ids)) => {
            let ids = ids.iter().map(key_id).collect::<Option<_>>();
            Ok(Some(ids.ok_or(malformed)?))
        }
        Some(_) => Err(malformed),
    }
}

/// A key id. UUIDs are read in either case (RFC 9562 4).
pub(super) fn key_id(id: &Value) -> Option<KeyId> {
    id.as_str()?.to_ascii_lowercase().parse().ok()
}
