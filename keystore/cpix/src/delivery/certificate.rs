use std::fmt;

use ring::digest::{SHA256, digest};
use rsa::PublicKey;
use rsa::traits::PublicKeyParts as _;
use x509_cert::der::{Decode as _, DecodePem as _, Encode as _};
use x509_cert::spki::{ObjectIdentifier, SubjectPublicKeyInfoRef};

use crate::error::{Error, ErrorKind};

/// The shortest modulus. SPEKE has 2048 bits; CPIX recommends 3072 and more.
const MIN_BITS: usize = 2048;

/// The longest: beyond, an operation with the public key costs noticeable time, and a stranger chooses it.
const MAX_BITS: usize = 8192;

/// A certificate that fits more is no certificate.
const MAX_LEN: usize = 16 << 10;

/// Signatures over MD5 and SHA-1 (RFC 3279): whoever finds a collision has two certificates for one signature.
const WEAK_SIGNATURES: [&str; 5] = [
    "1.2.840.113549.1.1.4",
    "1.2.840.113549.1.1.5",
    "1.2.840.10040.4.3",
    "1.2.840.10045.4.1",
    "1.3.14.3.2.29",
];

/// The X.509 certificate of a recipient, with an RSA key of 2048 to 8192 bits.
///
/// Nobody's signature on it is checked: a recipient is trusted because an operator enrolled this very certificate,
/// not because somebody vouches for it.
#[derive(Clone)]
pub struct Certificate {
    der: Vec<u8>,
    key: PublicKey,
    subject: String,
    not_before: u64,
    not_after: u64,
}

impl Certificate {
    /// Reads the DER of a certificate, and nothing behind it.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`] for what is no certificate, [`ErrorKind::Unsupported`] for one with another key than
    /// RSA, a short or very long one, or a signature over MD5 or SHA-1.
    pub fn from_der(der: &[u8]) -> Result<Self, Error> {
        if der.len() > MAX_LEN {
            return Err(malformed());
        }
        let certificate = x509_cert::Certificate::from_der(der).map_err(|_| malformed())?;
        Self::check(der, &certificate)
    }

    /// Reads a certificate in PEM: `-----BEGIN CERTIFICATE-----`.
    ///
    /// # Errors
    /// As [`Certificate::from_der`].
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        if pem.len() > 2 * MAX_LEN {
            return Err(malformed());
        }
        let certificate = x509_cert::Certificate::from_pem(pem).map_err(|_| malformed())?;
        let der = certificate.to_der().map_err(|_| malformed())?;
        Self::check(&der, &certificate)
    }

    fn check(der: &[u8], certificate: &x509_cert::Certificate) -> Result<Self, Error> {
        let unsupported = |reason: &str| Err(Error::new(ErrorKind::Unsupported, reason));
        let signature = certificate.signature_algorithm().oid;
        let weak = |text: &str| ObjectIdentifier::new(text).is_ok_and(|weak| weak == signature);
        if WEAK_SIGNATURES.into_iter().any(weak) {
            return unsupported(
                "the certificate is signed over MD5 or SHA-1: issue it with SHA-256",
            );
        }
        let tbs = certificate.tbs_certificate();
        let spki = tbs
            .subject_public_key_info()
            .to_der()
            .map_err(|_| malformed())?;
        let spki = SubjectPublicKeyInfoRef::from_der(&spki).map_err(|_| malformed())?;
        let Ok(key) = PublicKey::try_from(spki) else {
            return unsupported("the certificate has no usable RSA key");
        };
        if !(MIN_BITS / 8..=MAX_BITS / 8).contains(&key.size()) {
            return unsupported("the certificate's RSA key has 2048 to 8192 bits");
        }
        let validity = tbs.validity();
        Ok(Self {
            der: der.to_vec(),
            key,
            subject: tbs.subject().to_string(),
            not_before: validity.not_before.to_unix_duration().as_secs(),
            not_after: validity.not_after.to_unix_duration().as_secs(),
        })
    }

    /// The certificate's bytes.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// SHA-256 over the bytes, as operators compare it.
    pub fn fingerprint(&self) -> String {
        let digest = digest(&SHA256, &self.der);
        let bytes = digest.as_ref().iter();
        bytes.map(|byte| format!("{byte:02x}")).collect()
    }

    /// The distinguished name (RFC 4514).
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Refuses a certificate outside of its validity; `now` in seconds of the Unix epoch.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`].
    pub fn check_valid_at(&self, now: u64) -> Result<(), Error> {
        let fault = if now < self.not_before {
            "is not valid yet"
        } else if now > self.not_after {
            "has expired"
        } else {
            return Ok(());
        };
        let reason = format!("the certificate {} {fault}", self.fingerprint());
        Err(Error::new(ErrorKind::Denied, reason))
    }

    pub(super) const fn key(&self) -> &PublicKey {
        &self.key
    }
}

fn malformed() -> Error {
    Error::new(ErrorKind::Malformed, "this is no X.509 certificate")
}

/// The same bytes.
impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}

impl Eq for Certificate {}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Certificate")
            .field(&self.fingerprint())
            .finish()
    }
}
