//! Signed requests to a Widevine service: `{"request":BASE64,"signature":BASE64,"signer":NAME}` (shaka-packager,
//! `request_signer.cc` and `rsa_key.cc`).

use aes::Aes256;
use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockModeEncrypt as _, KeyIvInit as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use conf::SecretSource;
use ring::rand::{SecureRandom as _, SystemRandom};
use rsa::PrivateKey;
use rsa::pkcs1::DecodeRsaPrivateKey as _;
use rsa::pkcs8::DecodePrivateKey as _;
use rsa::rand_core::{TryCryptoRng, TryRng};
use rsa::traits::PublicKeyParts as _;
use sha1::{Digest as _, Sha1};
use zeroize::Zeroizing;

use crate::Error;

/// Who signs requests. Both signatures are over the SHA-1 of the request's bytes, which is the service's choice.
pub(super) struct Signer {
    name: String,
    key: Key,
}

enum Key {
    /// The digest, padded and encrypted: AES-256-CBC with a fixed initialisation vector.
    Aes(Zeroizing<[u8; 32]>, [u8; 16]),
    /// RSASSA-PSS with MGF1-SHA-1 and a salt of 20 bytes (RFC 8017 8.1), blinded.
    Rsa(Box<PrivateKey>),
}

/// The shortest modulus of an RSA signer, in bytes.
const LEAST_MODULUS: usize = 256;

impl Signer {
    /// Reads the key: an RSA private key in PEM, or a line of 64 hex digits and one of 32, which are the key and the
    /// initialisation vector that the service gave out.
    ///
    /// # Errors
    /// The file cannot be read, or holds neither. The message names the source and nothing of the key.
    pub(super) fn read(table: &str, name: &str, source: &SecretSource) -> Result<Self, Error> {
        let attempted = format!("read the signing key {source} ({table}.signing_key_file)");
        let text = source.read();
        let text = text.map_err(|error| Error::unavailable(attempted.clone(), error))?;
        let key = str::from_utf8(&text).ok().and_then(Key::read);
        let help = "it is neither an RSA private key of 2048 bits or more in PEM, nor a line with the 64 hex digits of \
                    an AES key and one with the 32 of its initialisation vector";
        let key = key.ok_or_else(|| Error::malformed(format!("{attempted}: {help}")))?;
        let name = name.to_owned();
        Ok(Self { name, key })
    }

    /// The request, signed: exactly these bytes are.
    ///
    /// # Errors
    /// [`Unsigned`] where the system gives no random bytes.
    pub(super) fn envelope(&self, request: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unsigned> {
        let request64 = Zeroizing::new(STANDARD.encode(request));
        let signature = STANDARD.encode(self.key.sign(request)?);
        let name = serde_json::Value::from(self.name.as_str()).to_string();
        let parts = [
            r#"{"request":""#,
            &request64,
            r#"","signature":""#,
            &signature,
            r#"","signer":"#,
            &name,
            "}",
        ];
        // `concat` reserves the whole length: nothing of a key is left behind by growing.
        Ok(Zeroizing::new(parts.concat().into_bytes()))
    }
}

impl Key {
    fn read(text: &str) -> Option<Self> {
        if text.contains("-----BEGIN") {
            let key = PrivateKey::from_pkcs8_pem(text)
                .ok()
                .or_else(|| PrivateKey::from_pkcs1_pem(text).ok())?;
            return (key.size() >= LEAST_MODULUS).then(|| Self::Rsa(Box::new(key)));
        }
        let mut lines = text.split_ascii_whitespace();
        let (key, iv) = (lines.next()?, lines.next()?);
        match lines.next() {
            Some(_) => None,
            None => Some(Self::Aes(Zeroizing::new(unhex(key)?), unhex(iv)?)),
        }
    }

    fn sign(&self, request: &[u8]) -> Result<Vec<u8>, Unsigned> {
        match self {
            Self::Aes(key, iv) => {
                let digest = Sha1::digest(request);
                let mut signature = [0; 32];
                cbc::Encryptor::<Aes256>::new((&**key).into(), iv.into())
                    .encrypt_padded_b2b::<Pkcs7>(&digest, &mut signature)
                    .map_err(|_| Unsigned)?;
                Ok(signature.to_vec())
            }
            Self::Rsa(key) => {
                // The salt is as long as the digest.
                let signature = key.pss_sign_with_rng::<Sha1, _>(&mut System, request);
                signature.map_err(|_| Unsigned)
            }
        }
    }
}

/// The request could not be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no random bytes for a signature")]
pub(super) struct Unsigned;

/// The system's randomness in the form that `rsa` takes.
struct System;

impl TryRng for System {
    type Error = Unsigned;

    fn try_next_u32(&mut self) -> Result<u32, Unsigned> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Unsigned> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Unsigned> {
        SystemRandom::new().fill(bytes).map_err(|_| Unsigned)
    }
}

impl TryCryptoRng for System {}

/// The bytes of exactly as many hex digits as they need.
fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use rsa::PublicKey;
    use serde_json::Value;

    use super::*;

    /// The development credential that shaka-packager's tutorial publishes.
    const PUBLISHED: &str = "1ae8ccd0e7985cc0b6203a55855a1034afc252980e970ca90e5202689f947ab9\n\
                             d58ce954203b7c9a9a9d467f59839249\n";

    fn signer(text: &str) -> Result<Signer, Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("signing.key");
        std::fs::write(&path, text).unwrap();
        Signer::read(
            "license.upstreams.wv",
            "widevine_test",
            &SecretSource::file(path),
        )
    }

    #[test]
    fn the_aes_signer_makes_the_published_credentials_signatures() {
        let signer = signer(PUBLISHED).unwrap();
        for (request, signature) in [
            ("{}", "Nc4rYnOggaH+Eeaif/QaUrcjgU18hgdfADjR0ev1G24="),
            (
                r#"{"payload":"CAQ=","provider":"widevine_test","content_id":"dGVzdCBjb250ZW50IGlk","allowed_track_types":"SD_HD"}"#,
                "paHMUxifH8YaeYzdGFkIglgd8AwzZ1VP9Bhik+fGGpY=",
            ),
            (
                r#"{"content_id":"dGVzdCBjb250ZW50IGlk","drm_types":["WIDEVINE"],"policy":"","tracks":[{"type":"SD"},{"type":"HD"},{"type":"AUDIO"}]}"#,
                "bi2KcDcdjUkXendcxB8ctD35pQWiBnwrAQq9WEZDWEc=",
            ),
        ] {
            let envelope = signer.envelope(request.as_bytes()).unwrap();
            let envelope: Value = serde_json::from_slice(&envelope).unwrap();
            assert_eq!(envelope["signature"], signature);
            assert_eq!(envelope["signer"], "widevine_test");
            assert_eq!(envelope["request"], STANDARD.encode(request));
        }
    }

    /// Made for this test, and for nothing else.
    const RSA: &str = include_str!("testdata/signer.pem");

    #[test]
    fn the_rsa_signer_makes_pss_signatures_of_sha_1_with_salt_20() {
        let signer = signer(RSA).unwrap();
        let public: PublicKey = PrivateKey::from_pkcs8_pem(RSA).unwrap().into();
        let verifying = rsa::pss::VerifyingKey::<Sha1>::new_with_salt_len(public, 20);
        let mut last = Vec::new();
        for _ in 0..2 {
            let envelope: Value = serde_json::from_slice(&signer.envelope(b"{}").unwrap()).unwrap();
            let bytes = STANDARD
                .decode(envelope["signature"].as_str().unwrap())
                .unwrap();
            let signature = rsa::pss::Signature::try_from(bytes.as_slice()).unwrap();
            rsa::signature::Verifier::verify(&verifying, b"{}", &signature).unwrap();
            assert!(rsa::signature::Verifier::verify(&verifying, b"{ }", &signature).is_err());
            assert_ne!(bytes, last, "the salt is random");
            last = bytes;
        }
    }

    #[test]
    fn what_is_no_signing_key_is_refused_and_not_shown() {
        let second = format!("{PUBLISHED}00");
        let (short, odd) = (&PUBLISHED[1..], PUBLISHED.replace('e', "g"));
        for text in ["", "hunter2", short, &odd, &second, &RSA[..200]] {
            let error = signer(text).err().unwrap().to_string();
            assert!(
                error.contains("license.upstreams.wv.signing_key_file"),
                "{error}"
            );
            assert!(
                !error.contains("hunter2") && !error.contains("1ae8"),
                "{error}"
            );
        }
    }
}
