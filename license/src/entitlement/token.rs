//! The compact serialisation of a JWT (RFC 7515 7.1), taken apart strictly and trusted in nothing.
//!
//! ```text
//! BASE64URL(header) . BASE64URL(claims) . BASE64URL(signature)
//! \______________ signed ______________/
//! ```

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::key::Algorithm;
use crate::json;

/// A token whose form is sound. Whether it is true is for [`super::Verifier`] to say. `Debug` shows only what it
/// says of its key: whoever holds the whole text can use it.
pub struct Token<'a> {
    /// What the signature covers: the first two parts and the dot between them.
    pub(super) signed: &'a str,
    /// The third part, canonical base64url.
    pub(super) signature: &'a str,
    /// What the header says of the key.
    pub(super) header: Header,
    /// The claims, not yet read.
    pub(super) claims: Map<String, Value>,
}

/// The header fields that choose a key, and two that some shapes of tokens have.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) algorithm: Algorithm,
    pub(super) key_id: Option<String>,
    /// `typ` says that it is an OAuth access token (RFC 9068 2.1).
    pub(super) access_token: bool,
    /// `exp`, unread.
    pub(super) expires: Option<Value>,
}

impl<'a> Token<'a> {
    /// The longest token, in bytes.
    pub const MAX_LEN: usize = 8 * 1024;

    /// The longest `kid`, in bytes.
    pub const MAX_KEY_ID_LEN: usize = 128;

    /// Takes the token apart.
    ///
    /// # Errors
    /// [`Malformation`]: too long, not three parts, base64url that is not canonical, JSON that is not strict,
    /// or a header that asks for what is not done here.
    pub fn parse(text: &'a str) -> Result<Self, Malformation> {
        let parts = Parts::split(text)?;
        Ok(Self {
            header: Header::read(&parts.header()?)?,
            claims: parts.claims()?,
            signed: parts.signed,
            signature: parts.signature()?,
        })
    }
}

impl fmt::Debug for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}

/// The three parts, undecoded.
pub(super) struct Parts<'a> {
    signed: &'a str,
    header: &'a str,
    claims: &'a str,
    signature: &'a str,
}

impl<'a> Parts<'a> {
    pub(super) fn split(text: &'a str) -> Result<Self, Malformation> {
        if text.len() > Token::MAX_LEN {
            return Err(Malformation::TooLong);
        }
        // Five parts are a JWE (RFC 7516 7.1).
        let (signed, signature) = text.rsplit_once('.').ok_or(Malformation::NotThreeParts)?;
        let (header, claims) = signed.split_once('.').ok_or(Malformation::NotThreeParts)?;
        if claims.contains('.') {
            return Err(Malformation::NotThreeParts);
        }
        Ok(Self {
            signed,
            header,
            claims,
            signature,
        })
    }

    pub(super) fn header(&self) -> Result<Map<String, Value>, Malformation> {
        object(self.header, Part::Header)
    }

    pub(super) fn claims(&self) -> Result<Map<String, Value>, Malformation> {
        object(self.claims, Part::Claims)
    }

    fn signature(&self) -> Result<&'a str, Malformation> {
        decode(self.signature, Part::Signature)?;
        Ok(self.signature)
    }
}

/// base64url without padding, white space or stray bits in the last character (RFC 4648 3.5): one value has
/// one spelling.
fn decode(text: &str, part: Part) -> Result<Vec<u8>, Malformation> {
    URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| Malformation::Base64(part))
}

fn object(text: &str, part: Part) -> Result<Map<String, Value>, Malformation> {
    match json::parse(&decode(text, part)?) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) | Err(_) => Err(Malformation::Json(part)),
    }
}

impl Header {
    fn read(header: &Map<String, Value>) -> Result<Self, Malformation> {
        // No extension is understood, so each one listed is unknown (RFC 7515 4.1.11); `b64` and `zip` would
        // change what is signed or read; `enc` belongs to JWE; the others offer a key of the sender's own.
        for name in ["crit", "b64", "zip", "enc", "jwk", "jku", "x5u", "x5c"] {
            if header.contains_key(name) {
                return Err(Malformation::Header(name));
            }
        }
        // Explicit types are there to keep one kind of JWT from passing for another (RFC 8725 3.11).
        let access_token = match header.get("typ").map(Value::as_str) {
            None => false,
            Some(Some(typ)) if typ.eq_ignore_ascii_case("JWT") => false,
            Some(Some(typ))
                if ["at+jwt", "application/at+jwt"]
                    .iter()
                    .any(|it| typ.eq_ignore_ascii_case(it)) =>
            {
                true
            }
            Some(_) => return Err(Malformation::Header("typ")),
        };
        // Content that is itself a JWT (RFC 7519 5.2) is not unwrapped.
        if header.contains_key("cty") {
            return Err(Malformation::Header("cty"));
        }
        let algorithm = header
            .get("alg")
            .and_then(Value::as_str)
            .and_then(Algorithm::from_jose)
            .ok_or(Malformation::Header("alg"))?;
        let key_id = match header.get("kid") {
            None => None,
            Some(Value::String(id)) if is_key_id(id) => Some(id.clone()),
            Some(_) => return Err(Malformation::Header("kid")),
        };
        Ok(Self {
            algorithm,
            key_id,
            access_token,
            expires: header.get("exp").cloned(),
        })
    }
}

/// Whether `id` can name a key. It is only ever compared; the bounds keep paths, queries and control
/// characters out of logs and out of whatever may one day look keys up.
pub(super) fn is_key_id(id: &str) -> bool {
    let fits = |b: u8| {
        b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b':' | b'=' | b'+')
    };
    (1..=Token::MAX_KEY_ID_LEN).contains(&id.len()) && id.bytes().all(fits)
}

/// Why a text is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformation {
    /// More than [`Token::MAX_LEN`] bytes.
    #[error("too long")]
    TooLong,
    /// Bytes that are no visible ASCII.
    #[error("not text")]
    NotText,
    /// Not `header.claims.signature`.
    #[error("not three parts")]
    NotThreeParts,
    /// Not canonical base64url.
    #[error("{0} is not canonical base64url")]
    Base64(Part),
    /// Not one strict JSON object.
    #[error("{0} is not one JSON object without duplicate members, nested at most 16 deep")]
    Json(Part),
    /// The header's field asks for what is not done here.
    #[error("the header's `{0}` is missing, malformed or not accepted")]
    Header(&'static str),
}

/// A part of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Part {
    /// The first.
    #[error("the header")]
    Header,
    /// The second.
    #[error("the claims part")]
    Claims,
    /// The third.
    #[error("the signature")]
    Signature,
}
