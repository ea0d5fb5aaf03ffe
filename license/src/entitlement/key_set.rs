//! The keys of one issuer, side by side: a JWK Set (RFC 7517 5), or the one key of a file.

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::jwk::Jwk;
use super::key::{Algorithm, VerificationKey};
use super::token::{Header, is_key_id};
use crate::refusal::IssuerMismatch;
use crate::{Error, UnixTime, json};

/// Keys that may have signed an issuer's tokens.
#[derive(Clone, Debug)]
pub struct KeySet {
    keys: Arc<[NamedKey]>,
    /// Another number, other keys: what was proven with these is proven no longer.
    pub(super) generation: u64,
    /// Until when they may be used; none: for ever.
    pub(super) until: Option<UnixTime>,
}

#[derive(Debug)]
struct NamedKey {
    id: Option<String>,
    key: VerificationKey,
}

/// A key of a set that is not used, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its place in the set, from 0.
    pub index: usize,
    /// What it says that its name is, where that can be shown.
    pub key_id: Option<String>,
    /// What is wrong with it.
    pub why: String,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "keys[{}]", self.index)?;
        if let Some(key_id) = &self.key_id {
            write!(f, " ({key_id})")?;
        }
        write!(f, ": {}", self.why)
    }
}

/// What a JWK Set turned out to hold.
pub(super) struct Reading {
    pub(super) set: KeySet,
    /// The keys of the set as they were written.
    pub(super) members: Vec<Map<String, Value>>,
    pub(super) skipped: Vec<Skipped>,
}

impl KeySet {
    /// The longest JWK Set, in bytes.
    pub const MAX_LEN: usize = 256 << 10;

    /// The most keys of a set; those beyond are skipped. Each may cost a verification.
    pub const MAX_KEYS: usize = 32;

    /// One key, and the `kid` of the tokens that it signs, if they name one.
    pub fn of(key_id: Option<String>, key: VerificationKey) -> Self {
        Self {
            keys: [NamedKey { id: key_id, key }].into(),
            generation: 0,
            until: None,
        }
    }

    /// No key, which is what is known of an issuer that never answered.
    pub(super) fn unknown() -> Self {
        Self {
            keys: [].into(),
            generation: 0,
            until: Some(UnixTime::from_seconds(0)),
        }
    }

    /// Reads a JWK Set. Only keys for these algorithms are taken, each for the one that it names, or else for the only
    /// one that fits it. A key that is not taken is told of and never fatal: sets hold keys for others as well.
    ///
    /// # Errors
    /// Malformed: no JWK Set, or one without a fit key.
    pub(super) fn read(content: &[u8], algorithms: &[Algorithm]) -> Result<Reading, Error> {
        if content.len() > Self::MAX_LEN {
            return Err(Error::malformed(format!(
                "a JWK Set has at most {} bytes",
                Self::MAX_LEN
            )));
        }
        let members = match json::parse(content) {
            Ok(Value::Object(mut set)) => match set.remove("keys") {
                Some(Value::Array(keys)) => keys,
                Some(_) | None => return Err(Error::malformed("a JWK Set has a list `keys`")),
            },
            Ok(_) | Err(_) => {
                return Err(Error::malformed(
                    "it is no JWK Set: a JSON object without duplicate members",
                ));
            }
        };
        let mut keys: Vec<NamedKey> = Vec::new();
        let mut taken = Vec::new();
        let mut skipped = Vec::new();
        for (index, member) in members.into_iter().enumerate() {
            let key_id = member.get("kid").and_then(Value::as_str);
            let key_id = key_id.filter(|id| is_key_id(id)).map(str::to_owned);
            match named_key(member, algorithms, &keys) {
                Ok((key, member)) => {
                    keys.push(key);
                    taken.push(member);
                }
                Err(why) => skipped.push(Skipped { index, key_id, why }),
            }
        }
        if keys.is_empty() {
            let why = skipped.first().map(|first| format!(", such as {first}"));
            return Err(Error::malformed(format!(
                "the JWK Set holds no key that could be used{}",
                why.unwrap_or_default()
            )));
        }
        Ok(Reading {
            set: Self {
                keys: keys.into(),
                generation: 0,
                until: None,
            },
            members: taken,
            skipped,
        })
    }

    /// Whether the keys may still be used.
    pub(super) fn lasts(&self, now: UnixTime) -> bool {
        self.until.is_none_or(|until| now < until)
    }

    /// The keys that may have signed a token with this header: those of its algorithm, by its `kid`. Where either names
    /// none, the signature decides. The nearest miss is noted.
    pub(super) fn fitting<'a>(
        &'a self,
        header: &'a Header,
        nearest: &'a mut IssuerMismatch,
    ) -> impl Iterator<Item = &'a VerificationKey> {
        self.keys.iter().filter_map(move |named| {
            if named.key.algorithm() != header.algorithm {
                *nearest = (*nearest).max(IssuerMismatch::Algorithm);
                return None;
            }
            *nearest = (*nearest).max(IssuerMismatch::KeyId);
            match (&named.id, &header.key_id) {
                (Some(ours), Some(theirs)) if ours != theirs => None,
                _ => Some(&named.key),
            }
        })
    }
}

fn named_key(
    member: Value,
    algorithms: &[Algorithm],
    before: &[NamedKey],
) -> Result<(NamedKey, Map<String, Value>), String> {
    if before.len() == KeySet::MAX_KEYS {
        return Err(format!("a set has at most {} keys", KeySet::MAX_KEYS));
    }
    let Value::Object(members) = member else {
        return Err("it is no JSON object".to_owned());
    };
    let id = match members.get("kid") {
        None => None,
        Some(Value::String(id)) if is_key_id(id) => Some(id.clone()),
        Some(_) => return Err("its `kid` could not stand in a token".to_owned()),
    };
    let algorithm = algorithm(&members, algorithms)?;
    let twice = |other: &NamedKey| other.id == id && other.key.algorithm() == algorithm;
    if id.is_some() && before.iter().any(twice) {
        return Err("an earlier key has this `kid` and algorithm".to_owned());
    }
    let jwk = Jwk::new(members.clone()).map_err(|error| error.to_string())?;
    let key = VerificationKey::from_jwk(algorithm, &jwk).map_err(|error| error.to_string())?;
    Ok((NamedKey { id, key }, members))
}

/// The one algorithm that a key is for: a token's `alg` never chooses it.
fn algorithm(members: &Map<String, Value>, algorithms: &[Algorithm]) -> Result<Algorithm, String> {
    let text = |name: &str| members.get(name).and_then(Value::as_str);
    if members.contains_key("alg") {
        return (text("alg").and_then(Algorithm::from_jose))
            .filter(|named| algorithms.contains(named))
            .ok_or_else(|| "its `alg` is none of the issuer's algorithms".to_owned());
    }
    let fits = |algorithm: &&Algorithm| {
        let (kty, crv) = match algorithm {
            Algorithm::Hs256 => ("oct", None),
            Algorithm::Es256 => ("EC", Some("P-256")),
            Algorithm::Es384 => ("EC", Some("P-384")),
            Algorithm::EdDsa => ("OKP", Some("Ed25519")),
            Algorithm::Rs256 | Algorithm::Ps256 => ("RSA", None),
        };
        text("kty") == Some(kty) && crv.is_none_or(|crv| text("crv") == Some(crv))
    };
    let mut fitting = algorithms.iter().filter(fits);
    match (fitting.next(), fitting.next()) {
        (Some(one), None) => Ok(*one),
        (Some(_), Some(_)) => {
            Err("it has no `alg`, and two of the issuer's algorithms fit".to_owned())
        }
        (None, _) => Err("it is for none of the issuer's algorithms".to_owned()),
    }
}
