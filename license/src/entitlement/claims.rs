//! What a token says, read once its signature is known to be true.

use std::collections::BTreeSet;

use keystore_types::{AssetId, KeyId};
use serde_json::{Map, Value};

use crate::{Refusal, UnixTime};

/// The claims that are read here; all others are ignored (RFC 7519 4).
#[derive(Debug)]
pub(super) struct Claims {
    pub(super) expires: UnixTime,
    pub(super) not_before: Option<UnixTime>,
    pub(super) assets: Option<AssetGrant>,
    pub(super) key_ids: Option<BTreeSet<KeyId>>,
    pub(super) policy: Option<String>,
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
    /// Reads the claims, `iss` and `aud` apart.
    ///
    /// # Errors
    /// [`Refusal::ClaimMissing`] and [`Refusal::ClaimMalformed`]. A claim of the wrong type is refused, never
    /// taken for absent: an `exp` that cannot be read must not mean that there is none.
    pub(super) fn read(claims: &Map<String, Value>) -> Result<Self, Refusal> {
        time(claims, "iat")?;
        let claims = Self {
            expires: time(claims, "exp")?.ok_or(Refusal::ClaimMissing("exp"))?,
            not_before: time(claims, "nbf")?,
            assets: assets(claims)?,
            key_ids: key_ids(claims)?,
            policy: text(claims, "policy")?,
        };
        if claims.assets.is_none() && claims.key_ids.is_none() {
            return Err(Refusal::ClaimMissing("assets"));
        }
        Ok(claims)
    }
}

/// Whether `aud` is this audience and no other: a token that others take as well could be replayed by them
/// (RFC 8725 3.9).
pub(super) fn audience_is(claims: &Map<String, Value>, audience: &str) -> Result<bool, Refusal> {
    match claims.get("aud") {
        None => Err(Refusal::ClaimMissing("aud")),
        Some(Value::String(one)) => Ok(one == audience),
        Some(Value::Array(all)) if !all.is_empty() && all.iter().all(Value::is_string) => {
            Ok(all.iter().all(|one| one == audience))
        }
        Some(_) => Err(Refusal::ClaimMalformed("aud")),
    }
}

/// A text claim.
pub(super) fn text(
    claims: &Map<String, Value>,
    name: &'static str,
) -> Result<Option<String>, Refusal> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) if text.len() <= MAX_TEXT_LEN => Ok(Some(text.clone())),
        Some(_) => Err(Refusal::ClaimMalformed(name)),
    }
}

/// A date in whole seconds, not negative and before the year 10000.
fn time(claims: &Map<String, Value>, name: &'static str) -> Result<Option<UnixTime>, Refusal> {
    let Some(value) = claims.get(name) else {
        return Ok(None);
    };
    match value.as_u64().map(UnixTime::from_seconds) {
        Some(time) if time <= UnixTime::MAX => Ok(Some(time)),
        Some(_) | None => Err(Refusal::ClaimMalformed(name)),
    }
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

fn key_ids(claims: &Map<String, Value>) -> Result<Option<BTreeSet<KeyId>>, Refusal> {
    let malformed = Refusal::ClaimMalformed("kids");
    match claims.get("kids") {
        None => Ok(None),
        Some(Value::Array(ids)) => {
            // UUIDs are read in either case (RFC 9562 4).
            let id = |id: &Value| id.as_str()?.to_ascii_lowercase().parse().ok();
            Ok(Some(
                ids.iter().map(id).collect::<Option<_>>().ok_or(malformed)?,
            ))
        }
        Some(_) => Err(malformed),
    }
}
