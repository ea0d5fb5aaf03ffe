//! jsonwebtoken's cryptography, done by ring: the same library that serves TLS, and no second RSA or elliptic
//! curve implementation in the binary.
//!
//! Each algorithm is bound to its own kind of key: a public key can never serve as an HMAC secret.

use std::sync::Once;

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, Result};
use jsonwebtoken::signature::{Error, Signer, Verifier};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, EncodingKey};
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED,
    ECDSA_P384_SHA384_FIXED_SIGNING, ED25519, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RSA_PSS_2048_8192_SHA256, RSA_PSS_SHA256,
    RsaEncoding, RsaKeyPair, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey,
    VerificationAlgorithm,
};

/// Makes this provider jsonwebtoken's, once for the process.
pub(super) fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // Fails only where something else was installed before; nothing else in the binary does that.
        let _ = PROVIDER.install_default();
    });
}

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory,
    verifier_factory,
    key_utils: KeyUtils {
        rsa_pub_components_from_private_key: |_| Err(unsupported()),
        rsa_pub_components_from_public_key: |_| Err(unsupported()),
        ec_pub_components_from_private_key: |_, _| Err(unsupported()),
        ed_pub_components_from_private_key: |_, _| Err(unsupported()),
        compute_digest: |_, _| Err(unsupported()),
    },
};

fn unsupported() -> jsonwebtoken::errors::Error {
    ErrorKind::UnsupportedAlgorithm.into()
}

fn verifier_factory(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    let public = |with: &'static dyn VerificationAlgorithm| -> Result<Box<dyn JwtVerifier>> {
        let bytes = key.try_get_as_bytes()?;
        Ok(Box::new(PublicKey::new(*algorithm, with, bytes)))
    };
    match (algorithm, key.family()) {
        (Algorithm::HS256, AlgorithmFamily::Hmac) => {
            Ok(Box::new(Hs256::new(key.try_get_as_bytes()?)))
        }
        (Algorithm::ES256, AlgorithmFamily::Ec) => public(&ECDSA_P256_SHA256_FIXED),
        (Algorithm::ES384, AlgorithmFamily::Ec) => public(&ECDSA_P384_SHA384_FIXED),
        (Algorithm::EdDSA, AlgorithmFamily::Ed) => public(&ED25519),
        (Algorithm::RS256, AlgorithmFamily::Rsa) => {
            rsa_verifier(*algorithm, &RSA_PKCS1_2048_8192_SHA256, key)
        }
        (Algorithm::PS256, AlgorithmFamily::Rsa) => {
            rsa_verifier(*algorithm, &RSA_PSS_2048_8192_SHA256, key)
        }
        _ => Err(ErrorKind::InvalidAlgorithm.into()),
    }
}

fn signer_factory(algorithm: &Algorithm, key: &EncodingKey) -> Result<Box<dyn JwtSigner>> {
    let bytes = key.as_bytes();
    match (algorithm, key.family()) {
        (Algorithm::HS256, AlgorithmFamily::Hmac) => Ok(Box::new(Hs256::new(bytes))),
        (Algorithm::ES256, AlgorithmFamily::Ec) => {
            EcdsaSigner::boxed(*algorithm, &ECDSA_P256_SHA256_FIXED_SIGNING, bytes)
        }
        (Algorithm::ES384, AlgorithmFamily::Ec) => {
            EcdsaSigner::boxed(*algorithm, &ECDSA_P384_SHA384_FIXED_SIGNING, bytes)
        }
        (Algorithm::EdDSA, AlgorithmFamily::Ed) => Ok(Box::new(EdDsaSigner::new(bytes)?)),
        (Algorithm::RS256, AlgorithmFamily::Rsa) => {
            RsaSigner::boxed(*algorithm, &RSA_PKCS1_SHA256, bytes)
        }
        (Algorithm::PS256, AlgorithmFamily::Rsa) => {
            RsaSigner::boxed(*algorithm, &RSA_PSS_SHA256, bytes)
        }
        _ => Err(ErrorKind::InvalidAlgorithm.into()),
    }
}

struct Hs256(hmac::Key);

impl Hs256 {
    fn new(secret: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }
}

impl Verifier<Vec<u8>> for Hs256 {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), Error> {
        // Compares in constant time.
        hmac::verify(&self.0, message, signature).map_err(|_| Error::new())
    }
}

impl JwtVerifier for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

impl Signer<Vec<u8>> for Hs256 {
    fn try_sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, Error> {
        Ok(hmac::sign(&self.0, message).as_ref().to_vec())
    }
}

impl JwtSigner for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

/// Verifies with a public key. ring refuses points off the curve, `r` and `s` outside `1..n`, DER where the
/// raw form is meant (RFC 7518 3.4), and an EdDSA `S` that is not reduced.
struct PublicKey {
    algorithm: Algorithm,
    key: UnparsedPublicKey<Vec<u8>>,
}

impl PublicKey {
    fn new(algorithm: Algorithm, with: &'static dyn VerificationAlgorithm, bytes: &[u8]) -> Self {
        Self {
            algorithm,
            key: UnparsedPublicKey::new(with, bytes.to_vec()),
        }
    }
}

impl Verifier<Vec<u8>> for PublicKey {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), Error> {
        self.key
            .verify(message, signature)
            .map_err(|_| Error::new())
    }
}

impl JwtVerifier for PublicKey {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

/// Verifies with an RSA key. PSS takes a salt as long as the digest and no other (RFC 7518 3.5).
struct RsaKey {
    algorithm: Algorithm,
    with: &'static RsaParameters,
    components: RsaPublicKeyComponents<Vec<u8>>,
}

fn rsa_verifier(
    algorithm: Algorithm,
    with: &'static RsaParameters,
    key: &DecodingKey,
) -> Result<Box<dyn JwtVerifier>> {
    match key.kind() {
        DecodingKeyKind::RsaModulusExponent { n, e } => Ok(Box::new(RsaKey {
            algorithm,
            with,
            components: RsaPublicKeyComponents {
                n: n.clone(),
                e: e.clone(),
            },
        })),
        DecodingKeyKind::SecretOrDer(_) => Err(ErrorKind::InvalidRsaKey(String::new()).into()),
    }
}

impl Verifier<Vec<u8>> for RsaKey {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), Error> {
        self.components
            .verify(self.with, message, signature)
            .map_err(|_| Error::new())
    }
}

impl JwtVerifier for RsaKey {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

struct EcdsaSigner {
    algorithm: Algorithm,
    pair: EcdsaKeyPair,
    random: SystemRandom,
}

impl EcdsaSigner {
    fn boxed(
        algorithm: Algorithm,
        with: &'static EcdsaSigningAlgorithm,
        pkcs8: &[u8],
    ) -> Result<Box<dyn JwtSigner>> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(with, pkcs8, &random)
            .map_err(|_| ErrorKind::InvalidEcdsaKey)?;
        Ok(Box::new(Self {
            algorithm,
            pair,
            random,
        }))
    }
}

impl Signer<Vec<u8>> for EcdsaSigner {
    fn try_sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, Error> {
        let signature = self
            .pair
            .sign(&self.random, message)
            .map_err(|_| Error::new())?;
        Ok(signature.as_ref().to_vec())
    }
}

impl JwtSigner for EcdsaSigner {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

struct RsaSigner {
    algorithm: Algorithm,
    with: &'static dyn RsaEncoding,
    pair: RsaKeyPair,
    random: SystemRandom,
}

impl RsaSigner {
    fn boxed(
        algorithm: Algorithm,
        with: &'static dyn RsaEncoding,
        der: &[u8],
    ) -> Result<Box<dyn JwtSigner>> {
        let pair = RsaKeyPair::from_der(der)
            .map_err(|error| ErrorKind::InvalidRsaKey(error.to_string()))?;
        Ok(Box::new(Self {
            algorithm,
            with,
            pair,
            random: SystemRandom::new(),
        }))
    }
}

impl Signer<Vec<u8>> for RsaSigner {
    fn try_sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, Error> {
        let mut signature = vec![0; self.pair.public().modulus_len()];
        self.pair
            .sign(self.with, &self.random, message, &mut signature)
            .map_err(|_| Error::new())?;
        Ok(signature)
    }
}

impl JwtSigner for RsaSigner {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

struct EdDsaSigner(Ed25519KeyPair);

impl EdDsaSigner {
    fn new(pkcs8: &[u8]) -> Result<Self> {
        // OpenSSL writes PKCS#8 version 1, without the public key that ring's stricter reader wants.
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8)
            .map_err(|_| ErrorKind::InvalidEddsaKey)?;
        Ok(Self(pair))
    }
}

impl Signer<Vec<u8>> for EdDsaSigner {
    fn try_sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, Error> {
        Ok(self.0.sign(message).as_ref().to_vec())
    }
}

impl JwtSigner for EdDsaSigner {
    fn algorithm(&self) -> Algorithm {
        Algorithm::EdDSA
    }
}
