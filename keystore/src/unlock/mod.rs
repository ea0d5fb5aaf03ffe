//! How the root is kept. Each file is a way to a key of 32 bytes, and that key wraps the root:
//!
//! ```text
//! what somebody knows or has                                the method's key        the root
//!
//! a passphrase      -- Argon2id ------------------------------> K1 --\
//! a key file        -- HKDF-SHA256 ---------------------------> K2 ---\
//! m of n shares     -- Shamir's scheme over GF(2^8) ----------> K3 ----+-- AES-256-GCM --> R
//! a PKCS#11 token   -- decrypts K4, its own key never leaves -> K4 ---/
//! a transit service -- decrypts K5, over HTTPS ---------------> K5 --/
//! ```
//!
//! One root may be kept in several ways; each opens it alone, so the weakest of them counts.
//!
//! # Never a wrong root
//! Whatever a token, a service or a person answers: a key that is not the right one does not open the wrap, which is
//! authenticated and bound to the method's stored parameters; and what comes out must match the root's commitment,
//! HMAC-SHA256 under the root of a constant, which is the same for all ways of keeping it. What a token or service
//! wraps is read back before anything is kept.
//!
//! # What is stored
//! A [`SealedRoot`] for each way: the method's name and parameters, the wrapped root, the commitment. None of it
//! opens anything.

pub(crate) mod configured;
pub(crate) mod held;
pub(crate) mod key_file;
pub mod passphrase;
pub(crate) mod pkcs11;
pub(crate) mod shares;
mod token_process;
pub(crate) mod transit;

pub use self::token_process::{is_token_process, run_token_process};
use keystore_client::admin::UnlockMethod;
use ring::hmac;
use ring::rand::SystemRandom;

use crate::error::{Error, ErrorKind};
use crate::seal::{KeyBytes, Purpose, Wrapped, WrappingKey};

/// The root, wrapped in one way, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedRoot {
    /// Which way.
    pub method: UnlockMethod,
    /// The method's own, in its own encoding; associated data of the wrap.
    pub parameters: Vec<u8>,
    /// The root.
    pub wrapped: Wrapped,
    /// Says which root it is without saying anything about it; none in records of before there were several ways.
    pub commitment: Option<[u8; 32]>,
}

impl SealedRoot {
    /// Wraps `root` under the method's key.
    pub(crate) fn seal(
        root: &KeyBytes,
        method: UnlockMethod,
        parameters: Vec<u8>,
        key: &WrappingKey,
        random: &SystemRandom,
    ) -> Result<Self, Error> {
        let purpose = Purpose::Root {
            method: scheme(method),
            parameters: &parameters,
        };
        Ok(Self {
            method,
            wrapped: key.wrap(random, root.as_slice(), &purpose)?,
            parameters,
            commitment: Some(commitment(root)),
        })
    }

    /// The root again.
    ///
    /// # Errors
    /// [`ErrorKind::DoesNotOpen`] for another key, which a damaged record cannot be told from; [`ErrorKind::Damaged`]
    /// where it opens and is not the root that was sealed.
    pub(crate) fn open(&self, key: &WrappingKey) -> Result<KeyBytes, Error> {
        let purpose = Purpose::Root {
            method: scheme(self.method),
            parameters: &self.parameters,
        };
        let root = key.unwrap(&self.wrapped, &purpose).map_err(|_| {
            Error::new(
                ErrorKind::DoesNotOpen,
                format!("the {} does not open the root", noun(self.method)),
            )
        })?;
        match self.commitment {
            Some(expected) if expected != commitment(&root) => Err(Error::damaged(format!(
                "what the {} opens is not this keystore's root",
                noun(self.method)
            ))),
            Some(_) | None => Ok(root),
        }
    }
}

/// The name in stored records: the scheme, so that another one for the same method gets another name.
pub(crate) const fn scheme(method: UnlockMethod) -> &'static str {
    match method {
        UnlockMethod::Passphrase => "argon2id",
        UnlockMethod::Key => "hkdf-sha256",
        UnlockMethod::Pkcs11 => "pkcs11-aes-gcm",
        UnlockMethod::Transit => "transit",
        UnlockMethod::Shares => "shamir-gf256",
    }
}

/// The method of a stored name.
pub(crate) fn method_of(name: &str) -> Option<UnlockMethod> {
    use UnlockMethod::{Key, Passphrase, Pkcs11, Shares, Transit};
    ([Passphrase, Key, Pkcs11, Transit, Shares].into_iter()).find(|&method| scheme(method) == name)
}

const fn noun(method: UnlockMethod) -> &'static str {
    match method {
        UnlockMethod::Passphrase => "passphrase",
        UnlockMethod::Key => "key",
        UnlockMethod::Pkcs11 => "token's answer",
        UnlockMethod::Transit => "transit service's answer",
        UnlockMethod::Shares => "shares' key",
    }
}

/// Which root it is: the same for the same root, and nothing that helps to find it.
pub(crate) fn commitment(root: &KeyBytes) -> [u8; 32] {
    let key = hmac::Key::new(hmac::HMAC_SHA256, root.as_slice());
    let mut bytes = [0; 32];
    bytes.copy_from_slice(hmac::sign(&key, b"castellum root commitment 1").as_ref());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::random_key;

    fn sealed() -> (KeyBytes, KeyBytes, SealedRoot) {
        let random = SystemRandom::new();
        let (root, key) = (random_key(&random).unwrap(), random_key(&random).unwrap());
        let parameters = b"parameters".to_vec();
        let sealed = SealedRoot::seal(
            &root,
            UnlockMethod::Transit,
            parameters,
            &WrappingKey::new(&key).unwrap(),
            &random,
        )
        .unwrap();
        (root, key, sealed)
    }

    #[test]
    fn another_key_method_or_parameter_never_yields_a_root() {
        let (root, key, sealed) = sealed();
        let right = WrappingKey::new(&key).unwrap();
        assert_eq!(*sealed.open(&right).unwrap(), *root);
        let mut wrong = key.clone();
        wrong[31] ^= 1;
        let error = sealed.open(&WrappingKey::new(&wrong).unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DoesNotOpen);
        let mut changed = sealed.clone();
        changed.parameters[0] ^= 1;
        assert!(changed.open(&right).is_err());
        let mut changed = sealed.clone();
        changed.method = UnlockMethod::Shares;
        assert!(changed.open(&right).is_err());
        // It opens, and is another root than the keystore's.
        let mut changed = sealed;
        changed.commitment = Some([7; 32]);
        let error = changed.open(&right).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged);
    }

    #[test]
    fn a_commitment_is_of_one_root() {
        assert_ne!(
            commitment(&KeyBytes::new([1; 32])),
            commitment(&KeyBytes::new([2; 32]))
        );
        // HMAC-SHA256 by Python's `hmac`.
        let known = commitment(&KeyBytes::new([0x42; 32]));
        let hex: String = known.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "8d8ef089ccf20a365371775f16854a01942713c292c5df1729a8c50513ee6d02"
        );
    }

    #[test]
    fn stored_names_come_back() {
        use UnlockMethod::{Key, Passphrase, Pkcs11, Shares, Transit};
        for method in [Passphrase, Key, Pkcs11, Transit, Shares] {
            assert_eq!(method_of(scheme(method)), Some(method));
        }
        assert_eq!(method_of("none"), None);
    }
}
