//! Keys that only a recipient reads (CPIX 2.4, "Key Encryption and Authentication in the CPIX Document").
//!
//! ```text
//! recipient's certificate  (RSA, DeliveryKey)
//!   ├─ RSA-OAEP-MGF1-SHA1 ─> document key (256 bits)
//!   │                          ├─ AES-256-CBC, PKCS#7 ─> content key     CipherValue = IV | ciphertext
//!   │                          └─ or AES-256 key wrap ─> content key     CipherValue = 24 bytes
//!   └─ RSA-OAEP-MGF1-SHA1 ─> MAC key (512 bits)
//!                              └─ HMAC-SHA512 over CipherValue ─> ValueMAC
//! ```
//!
//! The specification fixes AES-256-CBC. Some take a key that is wrapped instead ([`KeyCipher::AesKw`]), shaka-packager
//! among them; it is read from whoever writes it, and written to those for whom an operator says so. OAEP with SHA-1 does not rest on collisions, where SHA-1 is broken.
//! A `ValueMAC` is required and checked before anything is decrypted: without it, a CBC padding is an oracle.

mod certificate;
mod envelope;
mod recipient;

pub use certificate::Certificate;
pub(crate) use envelope::Envelope;
pub use recipient::{RecipientKey, RsaRecipient, UnwrapError};
pub use ring::rand::SecureRandom;

use keystore_types::{ContentKey, KeyId};
use zeroize::Zeroizing;

use crate::document::{Document, Key, Secret};
use crate::error::{Error, ErrorKind};

/// The URIs of the algorithms (XML Encryption 1.0; RFC 4051).
pub(crate) mod algorithm {
    pub(crate) const RSA_OAEP: &str = "http://www.w3.org/2001/04/xmlenc#rsa-oaep-mgf1p";
    pub(crate) const AES_256_CBC: &str = "http://www.w3.org/2001/04/xmlenc#aes256-cbc";
    pub(crate) const AES_256_KW: &str = "http://www.w3.org/2001/04/xmlenc#kw-aes256";
    pub(crate) const HMAC_SHA512: &str = "http://www.w3.org/2001/04/xmldsig-more#hmac-sha512";
    pub(crate) const SHA1: &str = "http://www.w3.org/2000/09/xmldsig#sha1";
}

/// `DeliveryData`: one recipient, and what only it can open.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// `@id`.
    pub id: Option<String>,
    /// `@name`.
    pub name: Option<String>,
    /// `DeliveryKey`.
    pub certificate: Certificate,
    /// `DocumentKey`, at least one; none in a request, where the recipient only names itself.
    pub document_keys: Vec<DocumentKey>,
    /// `MACMethod/MACKey`: the wrapped MAC key.
    pub mac_key: Option<Vec<u8>>,
}

/// `DocumentKey`, wrapped to the certificate of its [`Delivery`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentKey {
    /// `@encryptsKey`: the content keys under it; empty for all.
    pub encrypts: Vec<KeyId>,
    /// The wrapped key.
    pub wrapped: Vec<u8>,
}

/// What a content key is encrypted with, under the document key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyCipher {
    /// AES-256-CBC with PKCS#7 padding, which the specification fixes.
    #[default]
    AesCbc,
    /// AES-256 key wrap (RFC 3394).
    AesKw,
}

impl KeyCipher {
    pub(crate) const ALL: [Self; 2] = [Self::AesCbc, Self::AesKw];

    pub(crate) const fn algorithm(self) -> &'static str {
        match self {
            Self::AesCbc => algorithm::AES_256_CBC,
            Self::AesKw => algorithm::AES_256_KW,
        }
    }
}

/// `EncryptedValue` and `ValueMAC` of a content key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncryptedValue {
    /// With what.
    pub cipher: KeyCipher,
    /// IV and ciphertext, or the wrapped key.
    pub cipher_value: Vec<u8>,
    /// HMAC-SHA512 over `cipher_value`; `None` where the document has none, and then it does not open.
    pub mac: Option<Vec<u8>>,
}

impl Document {
    /// Encrypts every clear key under one new document key, for these recipients and no others.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`] without a recipient, [`ErrorKind::Mismatch`] if some keys are encrypted already,
    /// [`ErrorKind::Unavailable`] without randomness. In each case no key is encrypted.
    pub fn encrypt(
        &mut self,
        recipients: &[&Certificate],
        cipher: KeyCipher,
        random: &dyn SecureRandom,
    ) -> Result<(), Error> {
        if recipients.is_empty() {
            let reason = "a document is encrypted to at least one enrolled certificate";
            return Err(Error::new(ErrorKind::Denied, reason));
        }
        let encrypted = |key: &Key| matches!(key.secret, Secret::Encrypted(_));
        if self.keys.iter().any(encrypted) {
            let reason = "keys that are encrypted to others would open for nobody";
            return Err(Error::new(ErrorKind::Mismatch, reason));
        }
        let envelope = Envelope::new(random)?;
        let wrap = |certificate: &&Certificate| {
            let (wrapped, mac_key) = envelope.wrap(certificate, random)?;
            Ok(Delivery {
                id: None,
                name: None,
                certificate: (*certificate).clone(),
                document_keys: vec![DocumentKey {
                    encrypts: Vec::new(),
                    wrapped,
                }],
                mac_key: Some(mac_key),
            })
        };
        let deliveries = recipients.iter().map(wrap).collect::<Result<_, Error>>()?;
        let seal = |key: &Key| match &key.secret {
            Secret::Clear(clear) => envelope.encrypt(clear, cipher, random).map(Some),
            Secret::Absent | Secret::Encrypted(_) => Ok(None),
        };
        let sealed: Vec<_> = self.keys.iter().map(seal).collect::<Result<_, Error>>()?;
        for (key, value) in self.keys.iter_mut().zip(sealed) {
            if let Some(value) = value {
                key.secret = Secret::Encrypted(value);
            }
        }
        self.deliveries = deliveries;
        Ok(())
    }

    /// Opens every encrypted key that is for this recipient, and forgets the deliveries.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`] if the document is not for this recipient, [`ErrorKind::Unopened`] if anything does
    /// not open, in which case no key was opened.
    pub fn decrypt(
        &mut self,
        recipient: &dyn RecipientKey,
        random: &dyn SecureRandom,
    ) -> Result<(), Error> {
        let own = |delivery: &&Delivery| delivery.certificate == *recipient.certificate();
        let Some(delivery) = self.deliveries.iter().find(own) else {
            let reason = "no DeliveryData is for this recipient's certificate";
            return Err(Error::new(ErrorKind::Mismatch, reason));
        };
        let wrapped = delivery.mac_key.as_deref().ok_or_else(unopened)?;
        let mac_key = unwrap(recipient, wrapped, random)?;
        let mut opened = Vec::new();
        for document_key in &delivery.document_keys {
            let key = unwrap(recipient, &document_key.wrapped, random)?;
            let key: &[u8; 32] = key.as_slice().try_into().map_err(|_| unopened())?;
            let envelope = Envelope::of(key, &mac_key)?;
            for (index, entry) in self.keys.iter().enumerate() {
                let under = document_key.encrypts.is_empty()
                    || document_key.encrypts.contains(&entry.key_id);
                if let Secret::Encrypted(value) = &entry.secret
                    && under
                {
                    let clear: ContentKey = envelope.decrypt(value).ok_or_else(unopened)?;
                    opened.push((index, clear));
                }
            }
        }
        for (index, clear) in opened {
            self.keys[index].secret = Secret::Clear(clear);
        }
        self.deliveries.clear();
        Ok(())
    }
}

fn unwrap(
    recipient: &dyn RecipientKey,
    wrapped: &[u8],
    random: &dyn SecureRandom,
) -> Result<Zeroizing<Vec<u8>>, Error> {
    recipient.unwrap(wrapped, random).map_err(|_| unopened())
}

/// The one answer to every failure.
fn unopened() -> Error {
    Error::new(ErrorKind::Unopened, "the encrypted keys do not open")
}
