//! Signs tokens: for the demo, for tests, and for the back end of whoever has none yet.

use keystore_types::{AssetId, KeyId};
use serde::{Serialize, Serializer};

use super::key::SigningKey;
use super::token::{Token, is_key_id};
use super::{AssetGrant, claims};
use crate::{Error, UnixTime};

/// What a token shall say.
#[derive(Clone, Debug, Serialize)]
pub struct Claims {
    /// Who says so.
    pub iss: String,
    /// To whom.
    pub aud: String,
    /// Until when; the verifier's leeway comes on top.
    #[serde(serialize_with = "seconds")]
    pub exp: UnixTime,
    /// From when.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "optional_seconds"
    )]
    pub nbf: Option<UnixTime>,
    /// Since when.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "optional_seconds"
    )]
    pub iat: Option<UnixTime>,
    /// Of whom.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
    /// The token's own id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// The assets covered.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "assets")]
    pub assets: Option<AssetGrant>,
    /// The keys covered; with `assets`, a key must satisfy both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kids: Option<Vec<KeyId>>,
    /// The licence policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
}

impl Claims {
    /// The least that a token must say: who says it to whom, until when, and no grant yet.
    pub fn new(iss: impl Into<String>, aud: impl Into<String>, exp: UnixTime) -> Self {
        Self {
            iss: iss.into(),
            aud: aud.into(),
            exp,
            nbf: None,
            iat: None,
            sub: None,
            jti: None,
            assets: None,
            kids: None,
            policy: None,
        }
    }
}

/// Signs the claims.
///
/// # Errors
/// Malformed: claims or a key id that [`super::Verifier::verify`] would refuse from anyone, or a token that would be
/// longer than [`Token::MAX_LEN`].
pub fn mint(claims: &Claims, key_id: Option<&str>, key: &SigningKey) -> Result<String, Error> {
    if key_id.is_some_and(|id| !is_key_id(id)) {
        return Err(Error::malformed(
            "a key id has at most 128 letters, digits and `-._~:=+`",
        ));
    }
    let token = key.sign(key_id, claims)?;
    let parsed = Token::parse(&token).map_err(|fault| Error::malformed(fault.to_string()))?;
    let read = ["iss", "sub", "jti"]
        .into_iter()
        .try_for_each(|name| claims::text(&parsed.claims, name).map(drop));
    read.and_then(|()| claims::Claims::read(&parsed.claims).map(drop))
        .map_err(|refusal| Error::malformed(refusal.to_string()))?;
    Ok(token)
}

fn seconds<S: Serializer>(time: &UnixTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(time.as_seconds())
}

fn optional_seconds<S: Serializer>(
    time: &Option<UnixTime>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    time.map(UnixTime::as_seconds).serialize(serializer)
}

fn assets<S: Serializer>(assets: &Option<AssetGrant>, serializer: S) -> Result<S::Ok, S::Error> {
    match assets {
        None => serializer.serialize_none(),
        Some(AssetGrant::All) => ["*"].serialize(serializer),
        Some(AssetGrant::Only(assets)) => {
            serializer.collect_seq(assets.iter().map(AssetId::as_str))
        }
    }
}
