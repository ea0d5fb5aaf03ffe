//! A key as JSON (RFC 7517, RFC 7518 6, RFC 8037 2).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use zeroize::{Zeroize as _, Zeroizing};

use super::key::Algorithm;
use crate::{Error, json};

/// A JSON object that says that it is a key. Its texts are wiped: one of type `oct` is a secret.
pub(super) struct Jwk(Map<String, Value>);

impl Drop for Jwk {
    fn drop(&mut self) {
        for member in self.0.values_mut() {
            if let Value::String(text) = member {
                text.zeroize();
            }
        }
    }
}

impl Jwk {
    /// The JWK, if the content is a JSON object.
    ///
    /// # Errors
    /// Malformed: JSON that is not strict, or a key that is not for verifying signatures.
    pub(super) fn read(content: &[u8]) -> Result<Option<Self>, Error> {
        if !content.trim_ascii_start().starts_with(b"{") {
            return Ok(None);
        }
        match json::parse(content) {
            Ok(Value::Object(members)) => Self::new(members).map(Some),
            Ok(_) | Err(_) => Err(Error::malformed("the file begins like a JWK and is none")),
        }
    }

    /// Takes the members of a JWK.
    ///
    /// # Errors
    /// Malformed: `use` or `key_ops` (RFC 7517 4.2, 4.3) say that the key is for something else.
    pub(super) fn new(members: Map<String, Value>) -> Result<Self, Error> {
        let jwk = Self(members);
        let signs = match jwk.0.get("use") {
            None => true,
            Some(usage) => usage == "sig",
        };
        let verifies = match jwk.0.get("key_ops") {
            None => true,
            Some(Value::Array(operations)) => operations.iter().any(|one| one == "verify"),
            Some(_) => false,
        };
        if signs && verifies {
            Ok(jwk)
        } else {
            Err(Error::malformed(
                "the JWK is not for verifying signatures: see its `use` and `key_ops`",
            ))
        }
    }

    fn member(&self, name: &str) -> Result<&str, Error> {
        let member = self.0.get(name).and_then(Value::as_str);
        member.ok_or_else(|| Error::malformed(format!("the JWK has no text member `{name}`")))
    }

    fn expect(&self, name: &str, value: &str) -> Result<(), Error> {
        match self.member(name)? {
            member if member == value => Ok(()),
            _ => Err(Error::malformed(format!(
                "the JWK's `{name}` is not {value}"
            ))),
        }
    }

    fn expect_algorithm(&self, algorithm: Algorithm) -> Result<(), Error> {
        if self.0.contains_key("alg") {
            self.expect("alg", algorithm.as_jose())
        } else {
            Ok(())
        }
    }

    fn refuse_private(&self) -> Result<(), Error> {
        if self.0.contains_key("d") {
            return Err(Error::malformed(
                "it holds a private key where the public one belongs",
            ));
        }
        Ok(())
    }

    pub(super) fn secret(&self) -> Result<Zeroizing<Vec<u8>>, Error> {
        self.expect("kty", "oct")?;
        self.expect_algorithm(Algorithm::Hs256)?;
        let secret = URL_SAFE_NO_PAD.decode(self.member("k")?);
        secret
            .map(Zeroizing::new)
            .map_err(|_| Error::malformed("the JWK's `k` is not base64url"))
    }

    /// A coordinate with leading zeros, as RFC 7518 6.2.1.2 asks for.
    fn coordinate(&self, name: &str, len: usize) -> Result<&str, Error> {
        let text = self.member(name)?;
        match URL_SAFE_NO_PAD.decode(text) {
            Ok(bytes) if bytes.len() == len => Ok(text),
            Ok(_) | Err(_) => Err(Error::malformed(format!(
                "the JWK's `{name}` is not {len} bytes in base64url"
            ))),
        }
    }

    /// The coordinates of a point of the curve that the algorithm is on: P-384 for ES384, else P-256.
    pub(super) fn point(&self, algorithm: Algorithm) -> Result<(&str, &str), Error> {
        let (curve, len) = match algorithm {
            Algorithm::Es384 => ("P-384", 48),
            Algorithm::Es256
            | Algorithm::Hs256
            | Algorithm::EdDsa
            | Algorithm::Rs256
            | Algorithm::Ps256 => ("P-256", 32),
        };
        self.expect("kty", "EC")?;
        self.expect("crv", curve)?;
        self.expect_algorithm(algorithm)?;
        self.refuse_private()?;
        Ok((self.coordinate("x", len)?, self.coordinate("y", len)?))
    }

    pub(super) fn ed25519_point(&self) -> Result<&str, Error> {
        self.expect("kty", "OKP")?;
        self.expect("crv", "Ed25519")?;
        self.expect_algorithm(Algorithm::EdDsa)?;
        self.refuse_private()?;
        self.coordinate("x", 32)
    }

    /// Modulus and public exponent.
    pub(super) fn rsa_components(&self, algorithm: Algorithm) -> Result<(Vec<u8>, Vec<u8>), Error> {
        self.expect("kty", "RSA")?;
        self.expect_algorithm(algorithm)?;
        self.refuse_private()?;
        Ok((self.number("n")?, self.number("e")?))
    }

    fn number(&self, name: &str) -> Result<Vec<u8>, Error> {
        URL_SAFE_NO_PAD
            .decode(self.member(name)?)
            .map_err(|_| Error::malformed(format!("the JWK's `{name}` is not base64url")))
    }
}
