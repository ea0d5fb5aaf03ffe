//! Signs tokens: for the demo, for tests, and for the back end of whoever has none yet.

use keystore_types::{AssetId, KeyId};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::key::SigningKey;
use super::token::{Token, is_key_id};
use super::{AssetGrant, Shape, axinom, claims};
use crate::{Error, UnixTime};

/// What a token shall say.
#[derive(Clone, Debug, Serialize)]
pub struct Claims {
    /// Who says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    /// To whom.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aud: Option<String>,
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
    /// Whether it is good for one licence; it then has an id.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub single_use: bool,
    /// The stream that it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// The device that it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_id: Option<String>,
    /// How many streams the subject may play at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_streams: Option<u32>,
    /// How many devices it may have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_devices: Option<u32>,
}

impl Claims {
    /// The least that a token must say: who says it to whom, until when, and no grant yet.
    pub fn new(iss: impl Into<String>, aud: impl Into<String>, exp: UnixTime) -> Self {
        Self {
            iss: Some(iss.into()),
            aud: Some(aud.into()),
            ..Self::until(exp)
        }
    }

    /// Nothing but an end.
    pub fn until(exp: UnixTime) -> Self {
        Self {
            iss: None,
            aud: None,
            exp,
            nbf: None,
            iat: None,
            sub: None,
            jti: None,
            assets: None,
            kids: None,
            policy: None,
            single_use: false,
            session_id: None,
            device_id: None,
            max_streams: None,
            max_devices: None,
        }
    }

    /// Whether it speaks of sessions and devices, which only our own shape does.
    fn speaks_of_sessions(&self) -> bool {
        (self.session_id.is_some() || self.device_id.is_some())
            || (self.max_streams.is_some() || self.max_devices.is_some())
    }
}

/// Signs the claims as a token of our own shape.
///
/// # Errors
/// Malformed: claims or a key id that [`super::Verifier::verify`] would refuse from anyone, or a token that would be
/// longer than [`Token::MAX_LEN`].
pub fn mint(claims: &Claims, key_id: Option<&str>, key: &SigningKey) -> Result<String, Error> {
    mint_as(Shape::Native, claims, key_id, key)
}

/// Signs the claims as a token of this shape, in which there is no place for some of them. An entitlement message names its
/// key by `key_id` and gives the keys inline.
///
/// # Errors
/// As for [`mint`]; claims that the shape has no place for.
pub fn mint_as(
    shape: Shape,
    claims: &Claims,
    key_id: Option<&str>,
    key: &SigningKey,
) -> Result<String, Error> {
    if key_id.is_some_and(|id| !is_key_id(id)) {
        return Err(Error::malformed(
            "a key id has at most 128 letters, digits and `-._~:=+`",
        ));
    }
    if shape != Shape::Native && claims.speaks_of_sessions() {
        return Err(Error::malformed(
            "only a native token names a session, a device or how many there may be",
        ));
    }
    if shape == Shape::Native && (claims.iss.is_none() || claims.aud.is_none()) {
        return Err(Error::malformed(
            "a token names its issuer and its audience",
        ));
    }
    let token = match shape {
        Shape::Native => key.sign(key_id, claims)?,
        Shape::DashIf => key.sign(key_id, &dash_if(claims)?)?,
        Shape::Axinom => key.sign(None, &entitlement_message(claims, key_id)?)?,
    };
    let parsed = Token::parse(&token).map_err(|fault| Error::malformed(fault.to_string()))?;
    let bearer =
        claims::text(&parsed.claims, "iss").and_then(|_| claims::Claims::bearer(&parsed.claims));
    let read = bearer.and_then(|bearer| match shape {
        Shape::Native => bearer.native(&parsed.claims),
        Shape::DashIf => bearer.dash_if(&parsed),
        Shape::Axinom => Ok(axinom::read(&parsed)?),
    });
    read.map_err(|refusal| Error::malformed(refusal.to_string()))?;
    Ok(token)
}

fn dash_if(claims: &Claims) -> Result<Value, Error> {
    let mut value = serde_json::to_value(Claims {
        kids: None,
        ..claims.clone()
    })
    .map_err(|error| Error::internal("write claims", error))?;
    if claims.assets.is_some() || claims.policy.is_some() || claims.single_use {
        return Err(Error::malformed(
            "a dash-if token names keys, and neither assets nor a policy nor that it is good once",
        ));
    }
    value["authorized_kids"] = json!(claims.kids);
    Ok(value)
}

fn entitlement_message(claims: &Claims, key_id: Option<&str>) -> Result<Value, Error> {
    let Claims {
        iss,
        aud,
        exp,
        nbf,
        iat: _,
        sub,
        jti,
        assets,
        kids,
        policy,
        single_use,
        session_id: _,
        device_id: _,
        max_streams: _,
        max_devices: _,
    } = claims;
    if iss.is_some() || aud.is_some() || assets.is_some() || policy.is_some() {
        return Err(Error::malformed(
            "an entitlement message names keys, and no issuer, audience, asset or policy",
        ));
    }
    let (Some(key_id), Some(kids)) = (key_id, kids) else {
        return Err(Error::malformed(
            "an entitlement message names the key that signs it, and the keys that it is for",
        ));
    };
    let inline: Vec<Value> = kids.iter().map(|id| json!({ "id": id })).collect();
    let mut message = json!({
        "type": "entitlement_message",
        "version": 2,
        "content_keys_source": { "inline": inline },
    });
    if *single_use {
        message["license_server"] =
            json!({ "access_control": { "prevent_drm_message_reuse": true } });
    }
    if let Some(user) = sub {
        message["session"] = json!({ "user_id": user });
    }
    let mut envelope = json!({ "version": 1, "com_key_id": key_id, "message": message });
    let date_time = |time: UnixTime| match time > UnixTime::MAX {
        true => Err(Error::malformed("a date lies before the year 10000")),
        false => Ok(time.to_string()),
    };
    envelope["expiration_date"] = json!(date_time(*exp)?);
    if let Some(begin) = nbf {
        envelope["begin_date"] = json!(date_time(*begin)?);
    }
    if let Some(id) = jti {
        envelope["id"] = json!(id);
    }
    Ok(envelope)
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
