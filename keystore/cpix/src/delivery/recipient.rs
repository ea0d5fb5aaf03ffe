use std::fmt;

use ring::rand::SecureRandom;
use rsa::PrivateKey;
use rsa::pkcs8::DecodePrivateKey as _;
use rsa::rand_core::{TryCryptoRng, TryRng};
use sha1::Sha1;
use zeroize::Zeroizing;

use super::Certificate;
use crate::error::{Error, ErrorKind};

/// The private half of a recipient: this machine's, when it asks a vendor for keys. It may live in a token
/// (`CKM_RSA_PKCS_OAEP` with SHA-1), or be an [`RsaRecipient`].
pub trait RecipientKey: Send + Sync {
    /// The certificate that senders encrypt to.
    fn certificate(&self) -> &Certificate;

    /// RSA-OAEP-MGF1-SHA1 with an empty label; `random` is for blinding.
    ///
    /// # Errors
    /// [`UnwrapError`], whatever the cause.
    fn unwrap(
        &self,
        wrapped: &[u8],
        random: &dyn SecureRandom,
    ) -> Result<Zeroizing<Vec<u8>>, UnwrapError>;
}

/// A wrapped key does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the wrapped key does not open")]
pub struct UnwrapError;

/// A private key in memory; it is wiped when dropped.
pub struct RsaRecipient {
    certificate: Certificate,
    key: PrivateKey,
}

impl RsaRecipient {
    /// Reads the key in PKCS#8 PEM, `-----BEGIN PRIVATE KEY-----`, unencrypted. The text is the caller's to wipe.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`] for another form, [`ErrorKind::Mismatch`] for the key of another certificate.
    pub fn from_pem(certificate: Certificate, pem: &str) -> Result<Self, Error> {
        let key = PrivateKey::from_pkcs8_pem(pem).map_err(|_| {
            let reason = "the private key is no RSA key in PKCS#8 PEM";
            Error::new(ErrorKind::Malformed, reason)
        })?;
        if key.as_public_key() != certificate.key() {
            let reason = "the private key belongs to another certificate";
            return Err(Error::new(ErrorKind::Mismatch, reason));
        }
        Ok(Self { certificate, key })
    }
}

impl RecipientKey for RsaRecipient {
    fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    fn unwrap(
        &self,
        wrapped: &[u8],
        random: &dyn SecureRandom,
    ) -> Result<Zeroizing<Vec<u8>>, UnwrapError> {
        let key = self
            .key
            .oaep_decrypt_with_rng::<Sha1, _>(&mut Source(random), wrapped);
        key.map(Zeroizing::new).map_err(|_| UnwrapError)
    }
}

impl fmt::Debug for RsaRecipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RsaRecipient")
            .field(&self.certificate)
            .finish()
    }
}

/// The caller's randomness in the form that `rsa` takes.
pub(super) struct Source<'a>(pub(super) &'a dyn SecureRandom);

/// The source failed.
#[derive(Debug, thiserror::Error)]
#[error("the system gives no random bytes")]
pub(super) struct NoRandomness;

impl TryRng for Source<'_> {
    type Error = NoRandomness;

    fn try_next_u32(&mut self) -> Result<u32, NoRandomness> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, NoRandomness> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), NoRandomness> {
        self.0.fill(bytes).map_err(|_| NoRandomness)
    }
}

impl TryCryptoRng for Source<'_> {}
