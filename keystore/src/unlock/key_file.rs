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
    struct Len;
    impl KeyType for Len {
        fn len(&self) -> usize {
            32
        }
    }
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
    (Salt::new(HKDF_SHA256, salt).extract(key))
        .expand(&[b"castellum root key 1"], Len)
        .and_then(|okm| okm.fill(bytes.as_mut_slice()))
        .map_err(|_| Error::new(ErrorKind::Unavailable, "HKDF fails"))?;
    WrappingKey::new(&bytes)
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
}
