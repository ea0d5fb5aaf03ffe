//! Entitlement tokens of this program's own: JWTs (RFC 7519) under a key that the target trusts, so that each player comes
//! with one of his own.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::HeaderValue;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    UnparsedPublicKey,
};
use serde::{Deserialize, Serialize};

/// How tokens are signed (RFC 7518 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256.
    #[serde(rename = "ES256")]
    Es256,
    /// HMAC with SHA-256.
    #[serde(rename = "HS256")]
    Hs256,
}

impl Algorithm {
    /// Its name (RFC 7518 3.1).
    pub fn name(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Hs256 => "HS256",
        }
    }
}

/// The key is no key of its algorithm, or the system draws no random numbers.
#[derive(Debug, thiserror::Error)]
#[error("the key that signs tokens cannot be used: {0}")]
pub struct BadKey(&'static str);

/// Mints tokens for all titles, each with a `sub` and a `jti` of its own.
pub struct Minter {
    head: String,
    issuer: String,
    audience: String,
    key: Key,
    random: SystemRandom,
    /// Tells the tokens of this process from those of another run.
    run: u64,
    minted: AtomicU64,
}

enum Key {
    Es256(EcdsaKeyPair),
    Hs256(hmac::Key),
}

/// How long a token is good for.
const LIFE_SECONDS: u64 = 3600;

/// What stands around a private key in PEM (RFC 7468 10).
const PEM: [&str; 2] = ["-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----"];

impl fmt::Debug for Minter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Minter")
            .field("issuer", &self.issuer)
            .finish_non_exhaustive()
    }
}

impl Minter {
    /// One that signs under `key`: for ES256 PKCS #8 in PEM, for HS256 the secret itself, without the line feed that ends it.
    ///
    /// # Errors
    /// Where that is no such key.
    pub fn new(
        algorithm: Algorithm,
        issuer: &str,
        audience: &str,
        key: &[u8],
    ) -> Result<Self, BadKey> {
        let random = SystemRandom::new();
        let key = match algorithm {
            Algorithm::Es256 => {
                let der = der(key).ok_or(BadKey("it is no private key in PEM"))?;
                let with = &ECDSA_P256_SHA256_FIXED_SIGNING;
                let pair = EcdsaKeyPair::from_pkcs8(with, &der, &random);
                Key::Es256(pair.map_err(|_| BadKey("it is no PKCS #8 key of P-256"))?)
            }
            Algorithm::Hs256 => {
                let secret = key.strip_suffix(b"\n").unwrap_or(key);
                Key::Hs256(hmac::Key::new(hmac::HMAC_SHA256, secret))
            }
        };
        let head = serde_json::json!({ "alg": algorithm.name(), "typ": "JWT" });
        Ok(Self {
            head: BASE64_URL_SAFE_NO_PAD.encode(head.to_string()),
            issuer: issuer.to_owned(),
            audience: audience.to_owned(),
            key,
            random,
            run: now(),
            minted: AtomicU64::new(0),
        })
    }

    /// A private key for ES256 that nobody had before, in PEM.
    ///
    /// # Errors
    /// The system draws no random numbers.
    pub fn key_for_es256() -> Result<String, BadKey> {
        let with = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let der = EcdsaKeyPair::generate_pkcs8(with, &SystemRandom::new());
        let der = der.map_err(|_| BadKey("there are no random numbers"))?;
        let text = base64::prelude::BASE64_STANDARD.encode(der);
        let [begin, end] = PEM;
        Ok(format!("{begin}\n{text}\n{end}\n"))
    }

    /// The public key as a JWK (RFC 7517); none of a secret.
    pub fn public_key(&self) -> Option<String> {
        let Key::Es256(pair) = &self.key else {
            return None;
        };
        // An uncompressed point (SEC 1, 2.3.3): 4, x, y.
        let point = pair.public_key().as_ref().get(1..65)?;
        let [x, y] = [&point[..32], &point[32..]].map(|it| BASE64_URL_SAFE_NO_PAD.encode(it));
        let jwk = serde_json::json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y });
        Some(jwk.to_string())
    }

    /// A token that nobody has shown before.
    ///
    /// # Errors
    /// The system draws no random numbers.
    pub fn mint(&self) -> Result<String, BadKey> {
        let number = self.minted.fetch_add(1, Ordering::Relaxed);
        let (run, now) = (self.run, now());
        let claims = serde_json::json!({
            "iss": self.issuer,
            "aud": self.audience,
            "iat": now,
            "exp": now + LIFE_SECONDS,
            "sub": format!("player-{number}"),
            "jti": format!("{run:x}-{number:x}"),
            "assets": ["*"],
        });
        let claims = BASE64_URL_SAFE_NO_PAD.encode(claims.to_string());
        let signed = format!("{}.{claims}", self.head);
        let signature = match &self.key {
            Key::Es256(pair) => {
                let signature = pair.sign(&self.random, signed.as_bytes());
                let signature = signature.map_err(|_| BadKey("there are no random numbers"))?;
                BASE64_URL_SAFE_NO_PAD.encode(signature)
            }
            Key::Hs256(key) => BASE64_URL_SAFE_NO_PAD.encode(hmac::sign(key, signed.as_bytes())),
        };
        Ok(format!("{signed}.{signature}"))
    }

    /// The value of `Authorization` with a new token.
    ///
    /// # Errors
    /// As for [`Self::mint`].
    pub fn authorization(&self) -> Result<HeaderValue, BadKey> {
        let value = HeaderValue::try_from(format!("Bearer {}", self.mint()?));
        let mut value = value.map_err(|_| BadKey("its token is no header"))?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// Whether the signature of a token is this key's: what a server cannot do without.
    pub fn verifies(&self, signed: &[u8], signature: &[u8]) -> bool {
        match &self.key {
            Key::Es256(pair) => {
                let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, pair.public_key());
                key.verify(signed, signature).is_ok()
            }
            Key::Hs256(key) => hmac::verify(key, signed, signature).is_ok(),
        }
    }
}

/// What a token's signature is over, and the signature as bytes.
pub fn parts(token: &str) -> Option<(&[u8], Vec<u8>)> {
    let (signed, signature) = token.rsplit_once('.')?;
    let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).ok()?;
    Some((signed.as_bytes(), signature))
}

fn der(pem: &[u8]) -> Option<Vec<u8>> {
    let [begin, end] = PEM;
    let (_, rest) = std::str::from_utf8(pem).ok()?.split_once(begin)?;
    let (text, _) = rest.split_once(end)?;
    let text: String = text.split_ascii_whitespace().collect();
    base64::prelude::BASE64_STANDARD.decode(text).ok()
}

/// Seconds since 1970-01-01T00:00:00Z.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn es256() -> Minter {
        let pem = Minter::key_for_es256().unwrap();
        Minter::new(Algorithm::Es256, "ott", "castellum", pem.as_bytes()).unwrap()
    }

    #[test]
    fn each_token_is_another_and_verifies() {
        let secret = b"a secret of thirty-two bytes, or more\n";
        let hs256 = Minter::new(Algorithm::Hs256, "ott", "castellum", secret).unwrap();
        for minter in [es256(), hs256] {
            let tokens = [minter.mint().unwrap(), minter.mint().unwrap()];
            assert_ne!(tokens[0], tokens[1]);
            for token in &tokens {
                let (signed, signature) = parts(token).unwrap();
                assert!(minter.verifies(signed, &signature));
                assert!(!minter.verifies(&signed[1..], &signature));
            }
            let claims = tokens[1].split('.').nth(1).unwrap();
            let claims = BASE64_URL_SAFE_NO_PAD.decode(claims).unwrap();
            let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
            assert_eq!(
                (&claims["iss"], &claims["sub"]),
                (&"ott".into(), &"player-1".into())
            );
        }
    }

    #[test]
    fn keys_are_of_their_algorithm_and_the_public_one_says_nothing_else() {
        let refused = Minter::new(Algorithm::Es256, "ott", "castellum", b"no key");
        assert_eq!(
            refused.unwrap_err().to_string(),
            "the key that signs tokens cannot be used: it is no private key in PEM"
        );
        let jwk: serde_json::Value = serde_json::from_str(&es256().public_key().unwrap()).unwrap();
        let keys: Vec<_> = jwk
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(keys, ["crv", "kty", "x", "y"]);
        assert_eq!(format!("{:?}", es256()), "Minter { issuer: \"ott\", .. }");
    }
}
