//! Keys of issuers, and the one algorithm that each is for.
//!
//! The algorithm stands in the key record. A token's `alg` must equal it and decides nothing (RFC 8725 3.1).

use std::fmt;
use std::ops::RangeInclusive;

use conf::TokenAlgorithm;
use jsonwebtoken::{DecodingKey, EncodingKey};
use ring::agreement;
use ring::rand::SystemRandom;
use x509_cert::der::asn1::UintRef;
use x509_cert::der::{self, Decode as _, Reader as _, SliceReader};
use zeroize::Zeroizing;

use super::jwk::Jwk;
use super::provider;
use crate::Error;

/// A signature algorithm of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// HMAC with SHA-256 (RFC 7518 3.2).
    Hs256,
    /// ECDSA on P-256 with SHA-256 (RFC 7518 3.4).
    Es256,
    /// ECDSA on P-384 with SHA-384 (RFC 7518 3.4).
    Es384,
    /// Ed25519 (RFC 8037 3.1).
    EdDsa,
    /// RSASSA-PKCS1-v1_5 with SHA-256 (RFC 7518 3.3).
    Rs256,
    /// RSASSA-PSS with SHA-256, MGF1 and a salt of 32 bytes (RFC 7518 3.5).
    Ps256,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Hs256,
        Self::Es256,
        Self::Es384,
        Self::EdDsa,
        Self::Rs256,
        Self::Ps256,
    ];

    /// The name in a JOSE header.
    pub const fn as_jose(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
            Self::Rs256 => "RS256",
            Self::Ps256 => "PS256",
        }
    }

    /// The algorithm of this name, in exactly this spelling. There is no `none`.
    pub fn from_jose(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.as_jose() == name)
    }

    const fn jsonwebtoken(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::Hs256 => jsonwebtoken::Algorithm::HS256,
            Self::Es256 => jsonwebtoken::Algorithm::ES256,
            Self::Es384 => jsonwebtoken::Algorithm::ES384,
            Self::EdDsa => jsonwebtoken::Algorithm::EdDSA,
            Self::Rs256 => jsonwebtoken::Algorithm::RS256,
            Self::Ps256 => jsonwebtoken::Algorithm::PS256,
        }
    }
}

impl From<TokenAlgorithm> for Algorithm {
    fn from(algorithm: TokenAlgorithm) -> Self {
        match algorithm {
            TokenAlgorithm::Hs256 => Self::Hs256,
            TokenAlgorithm::Es256 => Self::Es256,
            TokenAlgorithm::Es384 => Self::Es384,
            TokenAlgorithm::EdDsa => Self::EdDsa,
            TokenAlgorithm::Rs256 => Self::Rs256,
            TokenAlgorithm::Ps256 => Self::Ps256,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_jose())
    }
}

/// The shortest HS256 secret, in bytes: the length of the digest (RFC 7518 3.2).
const MIN_SECRET_LEN: usize = 32;

/// A key that verifies tokens.
pub struct VerificationKey {
    algorithm: Algorithm,
    key: DecodingKey,
}

impl VerificationKey {
    /// Reads the content of a key file. HS256: the secret itself, or a JWK of type `oct`. The others: a public key in
    /// PEM (`BEGIN PUBLIC KEY`), or a JWK of type `EC`, `OKP` or `RSA`.
    ///
    /// # Errors
    /// Malformed: another kind of key, a secret of fewer than 32 bytes or one that is really a PEM file, a
    /// point that is not on the curve or of small order, an RSA modulus that does not have 2048 to 8192 bits or an exponent
    /// below 65537, a private key where a public one belongs.
    pub fn read(algorithm: Algorithm, content: &[u8]) -> Result<Self, Error> {
        match Jwk::read(content)? {
            Some(jwk) => Self::from_jwk(algorithm, &jwk),
            None => Self::from_file(algorithm, content),
        }
    }

    /// The key that a JWK is, for this algorithm.
    ///
    /// # Errors
    /// As for [`Self::read`].
    pub(super) fn from_jwk(algorithm: Algorithm, jwk: &Jwk) -> Result<Self, Error> {
        provider::install();
        let key = match algorithm {
            Algorithm::Hs256 => DecodingKey::from_secret(&checked_secret(&jwk.secret()?)?),
            Algorithm::Es256 | Algorithm::Es384 => {
                let (x, y) = jwk.point(algorithm)?;
                let key = DecodingKey::from_ec_components(x, y).map_err(not_a_key)?;
                checked_point(algorithm, key)?
            }
            Algorithm::EdDsa => {
                let x = jwk.ed25519_point()?;
                checked_ed25519(DecodingKey::from_ed_components(x).map_err(not_a_key)?)?
            }
            Algorithm::Rs256 | Algorithm::Ps256 => {
                let (modulus, exponent) = jwk.rsa_components(algorithm)?;
                checked_rsa(&modulus, &exponent)?
            }
        };
        Ok(Self { algorithm, key })
    }

    fn from_file(algorithm: Algorithm, content: &[u8]) -> Result<Self, Error> {
        provider::install();
        let key = match algorithm {
            Algorithm::Hs256 => DecodingKey::from_secret(&checked_secret(content)?),
            Algorithm::Es256 | Algorithm::Es384 => {
                let key = DecodingKey::from_ec_pem(public_pem(content)?).map_err(not_a_key)?;
                checked_point(algorithm, key)?
            }
            Algorithm::EdDsa => {
                let key = DecodingKey::from_ed_pem(public_pem(content)?).map_err(not_a_key)?;
                checked_ed25519(key)?
            }
            Algorithm::Rs256 | Algorithm::Ps256 => {
                let key = DecodingKey::from_rsa_pem(public_pem(content)?).map_err(not_a_key)?;
                let der = key.try_get_as_bytes().map_err(not_a_key)?;
                let (modulus, exponent) = rsa_components(der)
                    .map_err(|_| Error::malformed("the file holds no RSA public key"))?;
                checked_rsa(&modulus, &exponent)?
            }
        };
        Ok(Self { algorithm, key })
    }

    /// The one algorithm that the key is for.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Whether `signature` (base64url) is the key's over `signed`.
    pub(super) fn verifies(&self, signed: impl AsRef<[u8]>, signature: &str) -> bool {
        let algorithm = self.algorithm.jsonwebtoken();
        jsonwebtoken::crypto::verify(signature, signed.as_ref(), &self.key, algorithm)
            .unwrap_or(false)
    }
}

impl fmt::Debug for VerificationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerificationKey")
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

/// A key that signs tokens.
pub struct SigningKey {
    algorithm: Algorithm,
    key: EncodingKey,
}

impl SigningKey {
    /// Reads the content of a key file. HS256: as for [`VerificationKey::read`]. The others: a private key in PEM
    /// (PKCS#8, `BEGIN PRIVATE KEY`).
    ///
    /// # Errors
    /// Malformed: another kind of key, or a secret of fewer than 32 bytes.
    pub fn read(algorithm: Algorithm, content: &[u8]) -> Result<Self, Error> {
        provider::install();
        let key = match algorithm {
            Algorithm::Hs256 => match Jwk::read(content)? {
                Some(jwk) => EncodingKey::from_secret(&checked_secret(&jwk.secret()?)?),
                None => EncodingKey::from_secret(&checked_secret(content)?),
            },
            Algorithm::Es256 | Algorithm::Es384 => {
                EncodingKey::from_ec_pem(content).map_err(not_a_private_key)?
            }
            Algorithm::EdDsa => EncodingKey::from_ed_pem(content).map_err(not_a_private_key)?,
            Algorithm::Rs256 | Algorithm::Ps256 => {
                EncodingKey::from_rsa_pem(content).map_err(not_a_private_key)?
            }
        };
        Ok(Self { algorithm, key })
    }

    /// The algorithm that it signs with.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Signs the claims, which `claims` serialises to, under a header with the algorithm and `key_id`.
    pub(super) fn sign(
        &self,
        key_id: Option<&str>,
        claims: &impl serde::Serialize,
    ) -> Result<String, Error> {
        let header = jsonwebtoken::Header {
            kid: key_id.map(str::to_owned),
            ..jsonwebtoken::Header::new(self.algorithm.jsonwebtoken())
        };
        jsonwebtoken::encode(&header, claims, &self.key)
            .map_err(|error| Error::internal(format!("sign with {}", self.algorithm), error))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

fn not_a_key(_: jsonwebtoken::errors::Error) -> Error {
    Error::malformed("the file holds no public key for this algorithm")
}

fn not_a_private_key(_: jsonwebtoken::errors::Error) -> Error {
    Error::malformed("the file holds no PKCS#8 private key (BEGIN PRIVATE KEY) for this algorithm")
}

fn checked_secret(secret: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
    // What everybody may know must not become the secret (RFC 8725 2.1).
    if secret.windows(11).any(|window| window == b"-----BEGIN ") {
        return Err(Error::malformed("an HS256 secret is not a PEM file"));
    }
    // An editor's line feed is not part of it.
    let secret = secret.strip_suffix(b"\n").unwrap_or(secret);
    let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
    if secret.len() < MIN_SECRET_LEN {
        return Err(Error::malformed(format!(
            "an HS256 secret has at least {MIN_SECRET_LEN} bytes"
        )));
    }
    Ok(Zeroizing::new(secret.to_vec()))
}

/// The content, where it begins as a public key does: jsonwebtoken would also take the first bit string that it
/// finds in a certificate.
fn public_pem(content: &[u8]) -> Result<&[u8], Error> {
    let content = content.trim_ascii_start();
    if content.starts_with(b"-----BEGIN PUBLIC KEY-----") {
        Ok(content)
    } else if content.windows(12).any(|window| window == b"PRIVATE KEY-") {
        Err(Error::malformed(
            "the file holds a private key where the public one belongs",
        ))
    } else {
        Err(Error::malformed(
            "a public key is a JWK, or PEM that begins with BEGIN PUBLIC KEY",
        ))
    }
}

/// Refuses what is not an uncompressed point of the algorithm's curve. ring tells a bad point from a bad signature only
/// in key agreement, so one is tried.
fn checked_point(algorithm: Algorithm, key: DecodingKey) -> Result<DecodingKey, Error> {
    let (curve, name) = match algorithm {
        Algorithm::Es384 => (&agreement::ECDH_P384, "P-384"),
        Algorithm::Es256
        | Algorithm::Hs256
        | Algorithm::EdDsa
        | Algorithm::Rs256
        | Algorithm::Ps256 => (&agreement::ECDH_P256, "P-256"),
    };
    let point = key.try_get_as_bytes().map_err(not_a_key)?;
    let ours = agreement::EphemeralPrivateKey::generate(curve, &SystemRandom::new())
        .map_err(|error| Error::internal("draw random numbers", error.to_string()))?;
    let theirs = agreement::UnparsedPublicKey::new(curve, point);
    agreement::agree_ephemeral(ours, &theirs, |_| ())
        .map_err(|_| Error::malformed(format!("the key is not a point of the curve {name}")))?;
    Ok(key)
}

/// The bits that an RSA modulus may have: fewer are within reach of factoring (RFC 7518 3.3), more cost too much.
const MODULUS_BITS: RangeInclusive<usize> = 2048..=8192;

/// The least public exponent: smaller ones have been the way into faulty implementations.
const MIN_EXPONENT: u64 = 65_537;

/// The greatest, which is ring's.
const MAX_EXPONENT: u64 = (1 << 33) - 1;

/// `RSAPublicKey` (RFC 8017 A.1.1): modulus and public exponent.
fn rsa_components(der: &[u8]) -> der::Result<(Vec<u8>, Vec<u8>)> {
    let mut reader = SliceReader::new(der)?;
    let components = reader.sequence(|fields| {
        let modulus = UintRef::decode(fields)?.as_bytes().to_vec();
        let exponent = UintRef::decode(fields)?.as_bytes().to_vec();
        Ok::<_, der::Error>((modulus, exponent))
    })?;
    reader.finish()?;
    Ok(components)
}

fn checked_rsa(modulus: &[u8], exponent: &[u8]) -> Result<DecodingKey, Error> {
    let [modulus, exponent] = [modulus, exponent].map(without_zeros);
    let bits = modulus.first().map_or(0, |first| {
        modulus.len() * 8 - usize::try_from(first.leading_zeros()).unwrap_or(0)
    });
    if !MODULUS_BITS.contains(&bits) || modulus.last().is_some_and(|last| last % 2 == 0) {
        return Err(Error::malformed(format!(
            "an RSA modulus is odd and has {} to {} bits; this one has {bits}",
            MODULUS_BITS.start(),
            MODULUS_BITS.end(),
        )));
    }
    let value = exponent.iter().try_fold(0_u64, |value, byte| {
        Some(value.checked_mul(256)? + u64::from(*byte))
    });
    if value.is_none_or(|value| !(MIN_EXPONENT..=MAX_EXPONENT).contains(&value) || value % 2 == 0) {
        return Err(Error::malformed(format!(
            "an RSA public exponent is odd and lies within {MIN_EXPONENT} to {MAX_EXPONENT}"
        )));
    }
    Ok(DecodingKey::from_rsa_raw_components(modulus, exponent))
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

/// Refuses points of small order, under which one signature fits many messages.
fn checked_ed25519(key: DecodingKey) -> Result<DecodingKey, Error> {
    let point = key.try_get_as_bytes().map_err(not_a_key)?;
    let mut y: [u8; 32] = point
        .try_into()
        .map_err(|_| Error::malformed("an Ed25519 key has 32 bytes"))?;
    y[31] &= 0x7f;
    if SMALL_ORDER.contains(&y) {
        return Err(Error::malformed(
            "the key is a point of small order of Ed25519",
        ));
    }
    Ok(key)
}

/// The y coordinates, little-endian and without the sign of x, of the points of order 1, 2, 4 and 8, each in all
/// its spellings below 2^255: 0, 1, p-1, p and p+1, and the two of order 8.
const SMALL_ORDER: [[u8; 32]; 7] = [
    [0; 32],
    spread(0x01, 0x00, 0x00),
    spread(0xec, 0xff, 0x7f),
    spread(0xed, 0xff, 0x7f),
    spread(0xee, 0xff, 0x7f),
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98,
        0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53,
        0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67,
        0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac,
        0x03, 0x7a,
    ],
];

const fn spread(first: u8, middle: u8, last: u8) -> [u8; 32] {
    let mut bytes = [middle; 32];
    bytes[0] = first;
    bytes[31] = last;
    bytes
}
