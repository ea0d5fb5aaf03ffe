//! ClearKey as JSON (W3C Encrypted Media Extensions 9.1.3 to 9.1.6).
//!
//! ```text
//! request          {"kids":["nrQFDeRLSAKTLifXUIPiZg"],"type":"temporary"}
//! licence          {"keys":[{"kty":"oct","kid":"nrQF...","k":"FmY0..."}],"type":"temporary"}
//! release          {"kids":["nrQFDeRLSAKTLifXUIPiZg"]}
//! acknowledgement  {"kids":["nrQFDeRLSAKTLifXUIPiZg"]}
//! ```
//!
//! A release is what `MediaKeySession.remove()` has a player send for a licence that was kept; it has the form of a
//! request without `type`, which clients leave out of requests, too. So the URL tells them apart, not the body.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use keystore_types::{ContentKey, KeyId};
use serde_json::Value;
use zeroize::Zeroizing;

use super::SecretBytes;
use crate::json;

/// The most keys in one request: as many as the keystore exports at once. A title has one key for its audio and
/// one for each video size, in each scheme.
pub const MAX_KEYS: usize = keystore_client::MAX_KEYS;

/// A licence request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The keys asked for, at least one, each once, in order.
    pub key_ids: Vec<KeyId>,
    /// The kind of session, echoed in the licence.
    pub session: SessionType,
}

/// The kind of session that a licence is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionType {
    /// `temporary`, also where a request names none.
    Temporary,
    /// `persistent-license`.
    PersistentLicense,
}

impl SessionType {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Temporary => "temporary",
            Self::PersistentLicense => "persistent-license",
        }
    }
}

/// The text is no licence request; says why, in words that hold nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestFault {
    /// Not one JSON object without duplicate members.
    #[error("expected one JSON object without duplicate members")]
    Json,
    /// `kids` is missing or no list of texts.
    #[error("expected `kids`, a list of key ids")]
    KeyIds,
    /// `kids` is empty.
    #[error("`kids` names no key")]
    NoKey,
    /// `kids` is too long.
    #[error("`kids` names more than {MAX_KEYS} keys")]
    TooManyKeys,
    /// A key id is not 16 bytes in base64url.
    #[error("a key id is 16 bytes in base64url")]
    KeyId,
    /// `type` is unknown.
    #[error("`type` is \"temporary\" or \"persistent-license\"")]
    SessionType,
    /// A release has a `type`: it is a licence request at the wrong URL.
    #[error("a release has no `type`; a licence is asked for at the URL without `/release`")]
    TypedRelease,
}

impl Request {
    /// Reads a request, whatever its media type said. Clients vary, so padded base64, the standard alphabet, a
    /// missing `type` and members that EME does not know are taken.
    ///
    /// # Errors
    /// [`RequestFault`].
    pub fn read(body: &[u8]) -> Result<Self, RequestFault> {
        let (members, key_ids) = named(body)?;
        let session = match members.get("type") {
            None => SessionType::Temporary,
            Some(Value::String(name)) if name == "temporary" => SessionType::Temporary,
            Some(Value::String(name)) if name == "persistent-license" => {
                SessionType::PersistentLicense
            }
            Some(_) => return Err(RequestFault::SessionType),
        };
        Ok(Self { key_ids, session })
    }
}

/// The release of a licence that was kept: the player has destroyed its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// The keys given up, at least one, each once, in order.
    pub key_ids: Vec<KeyId>,
}

impl Release {
    /// Reads a release as leniently as a request, but for a `type`, which it must not have.
    ///
    /// # Errors
    /// [`RequestFault`].
    pub fn read(body: &[u8]) -> Result<Self, RequestFault> {
        let (members, key_ids) = named(body)?;
        match members.contains_key("type") {
            true => Err(RequestFault::TypedRelease),
            false => Ok(Self { key_ids }),
        }
    }
}

/// The acknowledgement of a release of these keys, on which a player forgets that it had them.
pub fn acknowledge(key_ids: &[KeyId]) -> String {
    let kids: Vec<_> = key_ids.iter().map(KeyId::to_base64url).collect();
    serde_json::json!({ "kids": kids }).to_string()
}

/// The members of a document, and the keys that its `kids` names.
fn named(body: &[u8]) -> Result<(serde_json::Map<String, Value>, Vec<KeyId>), RequestFault> {
    let Ok(Value::Object(members)) = json::parse(body) else {
        return Err(RequestFault::Json);
    };
    let Some(Value::Array(kids)) = members.get("kids") else {
        return Err(RequestFault::KeyIds);
    };
    if kids.len() > MAX_KEYS {
        return Err(RequestFault::TooManyKeys);
    }
    let mut key_ids = Vec::with_capacity(kids.len());
    for kid in kids {
        let key_id = key_id(kid.as_str().ok_or(RequestFault::KeyIds)?)?;
        if !key_ids.contains(&key_id) {
            key_ids.push(key_id);
        }
    }
    match key_ids.is_empty() {
        true => Err(RequestFault::NoKey),
        false => Ok((members, key_ids)),
    }
}

fn key_id(text: &str) -> Result<KeyId, RequestFault> {
    const LENIENT: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);
    const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);

    let engine = if text.contains(['+', '/']) {
        STANDARD
    } else {
        URL_SAFE
    };
    let bytes = engine
        .decode(text)
        .ok()
        .and_then(|bytes| bytes.try_into().ok());
    bytes.map(KeyId::new).ok_or(RequestFault::KeyId)
}

/// The licence with these keys: a JWK Set (RFC 7517 5) with the session's type.
pub fn write<'a>(
    keys: impl ExactSizeIterator<Item = (KeyId, &'a ContentKey)>,
    session: SessionType,
) -> SecretBytes {
    /// `{"kty":"oct","kid":"","k":""},` and two values of 22 characters.
    const KEY_LEN: usize = 30 + 2 * ENCODED_LEN;
    const ENCODED_LEN: usize = 22;
    let capacity = keys.len() * KEY_LEN + r#"{"keys":[],"type":""}"#.len() + session.as_str().len();

    let mut out = SecretBytes::new(Vec::with_capacity(capacity));
    let mut encoded = Zeroizing::new([0; ENCODED_LEN]);
    let mut encode = |out: &mut SecretBytes, bytes: &[u8; 16]| {
        let written = URL_SAFE_NO_PAD.encode_slice(bytes, encoded.as_mut_slice());
        out.extend_from_slice(
            &encoded[..written.expect("16 bytes are 22 characters of base64url")],
        );
    };
    out.extend_from_slice(br#"{"keys":["#);
    for (index, (key_id, key)) in keys.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(br#"{"kty":"oct","kid":""#);
        encode(&mut out, key_id.as_bytes());
        out.extend_from_slice(br#"","k":""#);
        encode(&mut out, key.expose());
        out.extend_from_slice(br#""}"#);
    }
    out.extend_from_slice(br#"],"type":""#);
    out.extend_from_slice(session.as_str().as_bytes());
    out.extend_from_slice(br#""}"#);
    debug_assert!(out.len() <= capacity, "the buffer never grows");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Axinom's public test content, version 7.
    const KEY_ID: &str = "9eb4050d-e44b-4802-932e-27d75083e266";
    const KEY: [u8; 16] = [
        0x16, 0x66, 0x34, 0xc6, 0x75, 0x82, 0x3c, 0x23, 0x5a, 0x4a, 0x94, 0x46, 0xfa, 0xd5, 0x2e,
        0x4d,
    ];

    #[test]
    fn reads_the_example_of_eme() {
        let body =
            br#"{"kids":["LwVHf8JLtPrv2GUXFW2v_A","0DdtU9od-Bh5L3xbv0Xf_A"],"type":"temporary"}"#;
        let request = Request::read(body).unwrap();
        let ids: Vec<_> = request.key_ids.iter().map(KeyId::to_base64url).collect();
        assert_eq!(ids, ["LwVHf8JLtPrv2GUXFW2v_A", "0DdtU9od-Bh5L3xbv0Xf_A"]);
        assert_eq!(request.session, SessionType::Temporary);
    }

    #[test]
    fn reads_the_spellings_of_clients() {
        for body in [
            r#"{"kids":["0DdtU9od-Bh5L3xbv0Xf_A"]}"#,
            r#"{"kids":["0DdtU9od-Bh5L3xbv0Xf_A=="]}"#,
            r#"{"kids":["0DdtU9od+Bh5L3xbv0Xf/A=="]}"#,
            r#"{"kids":["0DdtU9od+Bh5L3xbv0Xf/A"],"type":"temporary","x":1}"#,
            r#" {"type":"temporary","kids":["0DdtU9od-Bh5L3xbv0Xf_A","0DdtU9od+Bh5L3xbv0Xf/A=="]} "#,
        ] {
            let request = Request::read(body.as_bytes()).unwrap();
            assert_eq!(request.key_ids.len(), 1, "{body}");
            assert_eq!(request.key_ids[0].to_base64url(), "0DdtU9od-Bh5L3xbv0Xf_A");
            assert_eq!(request.session, SessionType::Temporary);
        }
    }

    #[test]
    fn refuses_what_is_no_request() {
        let many = |count: usize| {
            let ids: Vec<_> = (0..count as u128)
                .map(|n| KeyId::new(n.to_be_bytes()).to_base64url())
                .collect();
            serde_json::json!({ "kids": ids }).to_string()
        };
        assert_eq!(
            Request::read(many(MAX_KEYS).as_bytes())
                .unwrap()
                .key_ids
                .len(),
            MAX_KEYS
        );
        let deep = format!(r#"{{"kids":{}{}}}"#, "[".repeat(5000), "]".repeat(5000));
        for (body, fault) in [
            ("", RequestFault::Json),
            ("null", RequestFault::Json),
            ("[]", RequestFault::Json),
            (
                r#"{"kids":["LwVHf8JLtPrv2GUXFW2v_A"]}x"#,
                RequestFault::Json,
            ),
            (
                r#"{"kids":[],"kids":["LwVHf8JLtPrv2GUXFW2v_A"]}"#,
                RequestFault::Json,
            ),
            (deep.as_str(), RequestFault::Json),
            ("{}", RequestFault::KeyIds),
            (r#"{"kids":"LwVHf8JLtPrv2GUXFW2v_A"}"#, RequestFault::KeyIds),
            (r#"{"kids":[1]}"#, RequestFault::KeyIds),
            (r#"{"kids":[]}"#, RequestFault::NoKey),
            (many(MAX_KEYS + 1).as_str(), RequestFault::TooManyKeys),
            (many(10_000).as_str(), RequestFault::TooManyKeys),
            (r#"{"kids":[""]}"#, RequestFault::KeyId),
            (r#"{"kids":["LwVHf8JLtPrv2GUXFW2v"]}"#, RequestFault::KeyId),
            (
                r#"{"kids":["LwVHf8JLtPrv2GUXFW2v_AAA"]}"#,
                RequestFault::KeyId,
            ),
            (
                r#"{"kids":["LwVHf8JLtPrv2GUXFW2v_B"]}"#,
                RequestFault::KeyId,
            ),
            (
                r#"{"kids":["0DdtU9od+Bh5L3xbv0Xf_A"]}"#,
                RequestFault::KeyId,
            ),
            (
                r#"{"kids":["9eb4050d-e44b-4802-932e-27d75083e266"]}"#,
                RequestFault::KeyId,
            ),
            (
                r#"{"kids":["LwVHf8JLtPrv2GUXFW2v_A"],"type":"other"}"#,
                RequestFault::SessionType,
            ),
            (
                r#"{"kids":["LwVHf8JLtPrv2GUXFW2v_A"],"type":null}"#,
                RequestFault::SessionType,
            ),
        ] {
            assert_eq!(Request::read(body.as_bytes()), Err(fault), "{body:.80}");
        }
    }

    /// The examples of EME 9.1.5.1 and 9.1.6.1.
    #[test]
    fn acknowledges_a_release_in_its_own_words() {
        let body = r#"{"kids":["LwVHf8JLtPrv2GUXFW2v_A","0DdtU9od-Bh5L3xbv0Xf_A"]}"#;
        let release = Release::read(body.as_bytes()).unwrap();
        assert_eq!(acknowledge(&release.key_ids), body);
        for (body, fault) in [
            (r#"{"kids":[]}"#, RequestFault::NoKey),
            (
                r#"{"kids":["LwVHf8JLtPrv2GUXFW2v_A"],"type":"persistent-license"}"#,
                RequestFault::TypedRelease,
            ),
            (
                r#"{"kids":["LwVHf8JLtPrv2GUXFW2v_A"],"type":null}"#,
                RequestFault::TypedRelease,
            ),
        ] {
            assert_eq!(Release::read(body.as_bytes()), Err(fault), "{body}");
        }
    }

    #[test]
    fn writes_the_axinom_vector() {
        let key_id: KeyId = KEY_ID.parse().unwrap();
        let key = ContentKey::take(&mut KEY.clone());
        let license = write([(key_id, &key)].into_iter(), SessionType::Temporary);
        assert_eq!(
            str::from_utf8(&license).unwrap(),
            r#"{"keys":[{"kty":"oct","kid":"nrQFDeRLSAKTLifXUIPiZg","k":"FmY0xnWCPCNaSpRG-tUuTQ"}],"type":"temporary"}"#
        );
    }

    #[test]
    fn writes_every_key_and_echoes_the_type_without_growing() {
        let keys: Vec<_> = (0..MAX_KEYS as u128)
            .map(|n| {
                (
                    KeyId::new(n.to_be_bytes()),
                    ContentKey::take(&mut (n * 3).to_be_bytes()),
                )
            })
            .collect();
        let license = write(
            keys.iter().map(|(key_id, key)| (*key_id, key)),
            SessionType::PersistentLicense,
        );
        assert!(license.len() <= license.capacity());
        let document: Value = serde_json::from_slice(&license).unwrap();
        assert_eq!(document["type"], "persistent-license");
        assert_eq!(document["keys"].as_array().unwrap().len(), MAX_KEYS);
        assert_eq!(
            document["keys"][5]["k"],
            URL_SAFE_NO_PAD.encode(15u128.to_be_bytes())
        );
    }
}
