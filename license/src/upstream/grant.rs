//! What is granted, in words for upstreams that know no system's own: terms and rules as JSON, and the signed grant that
//! goes along in a header. Both are written down in `license/design/upstreams.md`.

use std::time::Duration;

use aes_kw::KwAes256;
use aes_kw::cipher::KeyInit as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use conf::SecretSource;
use http::{HeaderName, HeaderValue};
use ring::{digest, hkdf, hmac};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::Call;
use crate::policy::terms::{FairPlayHdcp, Hdcp, KeyRule, PlayReadyLevel, Terms};
use crate::{Error, UnixTime};

/// The least length of a secret, that of the digest (RFC 7518 3.2).
const LEAST_SECRET: usize = 32;

/// How long a grant is good for, in seconds: longer than any request may take.
const GOOD_FOR: u64 = 60;

/// What the secret becomes for wrapping keys.
const WRAPPING: &[u8] = b"castellum grant keys";

/// Signs grants for one upstream.
pub(super) struct GrantSigner {
    header: HeaderName,
    signing: hmac::Key,
    wrapping: KwAes256,
}

impl GrantSigner {
    /// Reads the secret.
    ///
    /// # Errors
    /// It cannot be read, or is too short.
    pub(super) fn read(table: &str, header: &str, source: &SecretSource) -> Result<Self, Error> {
        let attempted = format!("read the secret {source} ({table}.secret_file)");
        let secret = source.read_line();
        let secret = secret.map_err(|error| Error::unavailable(attempted.clone(), error))?;
        if secret.len() < LEAST_SECRET {
            let short = format!("{attempted}: it has less than {LEAST_SECRET} bytes");
            return Err(Error::malformed(short));
        }
        let failed = || Error::malformed(format!("{attempted}: no key comes of it"));
        let mut wrapping = Zeroizing::new([0; 32]);
        let derived = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(&secret);
        (derived.expand(&[WRAPPING], hkdf::HKDF_SHA256))
            .and_then(|derived| derived.fill(&mut *wrapping))
            .map_err(|_| failed())?;
        Ok(Self {
            header: header.parse().map_err(|_| failed())?,
            signing: hmac::Key::new(hmac::HMAC_SHA256, &secret),
            wrapping: KwAes256::new((&*wrapping).into()),
        })
    }

    /// The header for one challenge: a JWS (RFC 7515) by HS256. Where keys go along, they are wrapped (RFC 3394). It is
    /// bound to the challenge, as the service gets it, by its digest, so that nobody gets a licence with it for another.
    pub(super) fn header(&self, call: &Call<'_>, challenge: &[u8]) -> (HeaderName, HeaderValue) {
        let mut keys = Vec::new();
        for key in call.keys() {
            let mut entry = rule(&key.granted.rule);
            entry.insert("kid".to_owned(), json!(key.granted.key_id));
            entry.insert("label".to_owned(), json!(key.granted.label.to_string()));
            if let Some(exported) = key.exported {
                let mut wrapped = [0; 24];
                (self.wrapping.wrap_key(exported.key.expose(), &mut wrapped))
                    .expect("16 bytes are two semiblocks, and have room");
                entry.insert("key".to_owned(), json!(URL_SAFE_NO_PAD.encode(wrapped)));
                let iv = URL_SAFE_NO_PAD.encode(exported.iv.as_bytes());
                entry.insert("iv".to_owned(), json!(iv));
                entry.insert("scheme".to_owned(), json!(exported.scheme.as_str()));
            }
            keys.push(Value::Object(entry));
        }
        let challenge = digest::digest(&digest::SHA256, challenge);
        let payload = json!({
            "iat": call.now.as_seconds(),
            "exp": call.now.as_seconds() + GOOD_FOR,
            "system": call.challenge.system.as_str(),
            "asset": call.challenge.asset,
            "challenge": URL_SAFE_NO_PAD.encode(challenge),
            "keys": keys,
            "terms": terms(&call.grant.terms, call.now),
        });
        let signed = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"castellum-grant+jwt"}"#),
            URL_SAFE_NO_PAD.encode(payload.to_string())
        );
        let tag = URL_SAFE_NO_PAD.encode(hmac::sign(&self.signing, signed.as_bytes()));
        let mut value = HeaderValue::try_from(format!("{signed}.{tag}"))
            .expect("base64url and dots are fit for a header");
        value.set_sensitive(true);
        (self.header.clone(), value)
    }
}

/// Terms in words of no system; times in seconds. What is not limited is left out.
pub(super) fn terms(terms: &Terms, now: UnixTime) -> Value {
    let mut map = Map::new();
    let mut put = |name: &str, value: Option<u64>| {
        if let Some(value) = value {
            map.insert(name.to_owned(), json!(value));
        }
    };
    put("license_duration", lasts(terms, now));
    put("rental_duration", terms.rental_duration.map(seconds));
    put("playback_duration", terms.playback_duration.map(seconds));
    put("begins", terms.begins.map(UnixTime::as_seconds));
    put("expires", terms.expires.map(UnixTime::as_seconds));
    map.insert("persistent".to_owned(), json!(terms.persistent));
    if let Some(renewal) = &terms.renewal {
        let renewal = json!({
            "after": seconds(renewal.after),
            "retry": seconds(renewal.retry),
            "recovery": seconds(renewal.recovery),
        });
        map.insert("renewal".to_owned(), renewal);
    }
    Value::Object(map)
}

/// What a key asks of a device, in words of no system.
fn rule(rule: &KeyRule) -> Map<String, Value> {
    let rule = json!({
        "hdcp": hdcp(rule.hdcp),
        "analogue_output": !rule.no_analogue,
        "digital_output": !rule.no_digital,
        "widevine_level": rule.widevine as u8,
        "playready_level": playready(rule.playready),
        "fairplay_hdcp": fairplay(rule.fairplay_hdcp),
    });
    match rule {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// The rules of a call's keys, each with its key's id and label.
pub(super) fn rules(call: &Call<'_>) -> Value {
    let rules = call.grant.keys.iter().map(|key| {
        let mut entry = rule(&key.rule);
        entry.insert("kid".to_owned(), json!(key.key_id));
        entry.insert("label".to_owned(), json!(key.label.to_string()));
        Value::Object(entry)
    });
    rules.collect()
}

/// How long a licence lasts from now, in seconds, at least 1.
pub(super) fn lasts(terms: &Terms, now: UnixTime) -> Option<u64> {
    let end = terms.end(now)?;
    Some(end.as_seconds().saturating_sub(now.as_seconds()).max(1))
}

/// A duration that is limited, in whole seconds and at least 1: to most services 0 means unlimited.
pub(super) fn seconds(duration: Duration) -> u64 {
    duration.as_secs().max(1)
}

fn hdcp(hdcp: Hdcp) -> &'static str {
    match hdcp {
        Hdcp::None => "none",
        Hdcp::V1 => "1",
        Hdcp::V2 => "2.0",
        Hdcp::V2_1 => "2.1",
        Hdcp::V2_2 => "2.2",
        Hdcp::V2_3 => "2.3",
    }
}

fn playready(level: PlayReadyLevel) -> u16 {
    match level {
        PlayReadyLevel::Sl150 => 150,
        PlayReadyLevel::Sl2000 => 2000,
        PlayReadyLevel::Sl3000 => 3000,
    }
}

pub(super) fn fairplay(hdcp: FairPlayHdcp) -> &'static str {
    match hdcp {
        FairPlayHdcp::None => "none",
        FairPlayHdcp::Type0 => "type0",
        FairPlayHdcp::Type1 => "type1",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::terms::Renewal;

    #[test]
    fn nothing_that_is_limited_becomes_unlimited() {
        let now = UnixTime::from_seconds(1000);
        let bare = Terms::default();
        assert_eq!(terms(&bare, now), json!({ "persistent": false }));
        let short = Duration::from_millis(10);
        let tight = Terms {
            persistent: true,
            begins: Some(UnixTime::from_seconds(900)),
            expires: Some(UnixTime::from_seconds(1000)),
            license_duration: Some(Duration::from_secs(60)),
            rental_duration: Some(short),
            playback_duration: Some(short),
            renewal: Some(Renewal {
                after: short,
                retry: short,
                recovery: short,
            }),
        };
        assert_eq!(
            terms(&tight, now),
            json!({
                "persistent": true,
                "begins": 900,
                "expires": 1000,
                "license_duration": 1,
                "rental_duration": 1,
                "playback_duration": 1,
                "renewal": { "after": 1, "retry": 1, "recovery": 1 },
            })
        );
    }

    #[test]
    fn a_short_secret_signs_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, "hunter2").unwrap();
        let read = GrantSigner::read("license.upstreams.pr", "x-grant", &SecretSource::file(path));
        let error = read.err().unwrap().to_string();
        assert!(
            error.contains("license.upstreams.pr.secret_file"),
            "{error}"
        );
        assert!(!error.contains("hunter2"), "{error}");
    }
}
