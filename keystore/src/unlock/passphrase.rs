//! The root under a passphrase: Argon2id (RFC 9106) makes the key that wraps it.
//!
//! Salt and cost are stored beside the wrapped root and are part of its associated data, so that nobody can lower
//! the cost without being noticed; they are bounded, so that nobody can raise it until the host falls over.

use argon2::{Algorithm, Argon2, Params, Version};
use conf::Argon2Settings;
use ring::rand::SystemRandom;
use secrecy::{ExposeSecret as _, SecretString};

use crate::error::{Error, ErrorKind};
use crate::memory::room_for;
use crate::seal::{KeyBytes, Purpose, Wrapped, WrappingKey, fill};

/// The shortest passphrase, in bytes.
pub const MIN_LEN: usize = 8;

/// The longest passphrase, in bytes.
pub const MAX_LEN: usize = 4096;

/// The most memory that a stored cost may ask for, in KiB: 2 GiB.
const MAX_MEMORY_KIB: u32 = 2 << 20;

/// The most passes that a stored cost may ask for.
const MAX_PASSES: u32 = 64;

/// The most lanes that a stored cost may ask for.
const MAX_LANES: u32 = 64;

/// The root, wrapped under a passphrase, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedRoot {
    /// Random, one per root.
    pub salt: [u8; 16],
    /// The cost of one guess.
    pub cost: Argon2Settings,
    /// The root.
    pub wrapped: Wrapped,
}

impl SealedRoot {
    /// Wraps `root`. Takes as long as one guess is meant to.
    pub(crate) fn seal(
        root: &KeyBytes,
        passphrase: &SecretString,
        cost: Argon2Settings,
        random: &SystemRandom,
    ) -> Result<Self, Error> {
        let mut salt = [0; 16];
        fill(random, &mut salt)?;
        let parameters = parameters(&salt, cost);
        let wrapped = derive(passphrase, &salt, cost)?.wrap(
            random,
            root.as_slice(),
            &purpose(&parameters),
        )?;
        Ok(Self {
            salt,
            cost,
            wrapped,
        })
    }

    /// The root again. Takes as long as one guess is meant to.
    ///
    /// # Errors
    /// [`ErrorKind::WrongPassphrase`], which a damaged record cannot be told from.
    pub(crate) fn unseal(&self, passphrase: &SecretString) -> Result<KeyBytes, Error> {
        let parameters = parameters(&self.salt, self.cost);
        derive(passphrase, &self.salt, self.cost)?
            .unwrap(&self.wrapped, &purpose(&parameters))
            .map_err(|_| {
                Error::new(
                    ErrorKind::WrongPassphrase,
                    "the passphrase does not open the root",
                )
            })
    }
}

fn purpose(parameters: &[u8]) -> Purpose<'_> {
    Purpose::Root {
        method: "argon2id",
        parameters,
    }
}

/// Salt and cost as associated data: 16 bytes and three big-endian numbers.
fn parameters(salt: &[u8; 16], cost: Argon2Settings) -> Vec<u8> {
    let mut bytes = salt.to_vec();
    for number in [cost.memory_kib, cost.passes, cost.lanes] {
        bytes.extend_from_slice(&number.to_be_bytes());
    }
    bytes
}

fn derive(
    passphrase: &SecretString,
    salt: &[u8; 16],
    cost: Argon2Settings,
) -> Result<WrappingKey, Error> {
    let Argon2Settings {
        memory_kib,
        passes,
        lanes,
    } = cost;
    if memory_kib > MAX_MEMORY_KIB || passes > MAX_PASSES || lanes > MAX_LANES {
        return Err(Error::damaged(format!(
            "an Argon2id cost of {memory_kib} KiB, {passes} passes and {lanes} lanes is beyond its bounds"
        )));
    }
    room_for(u64::from(memory_kib) << 10)?;
    let mut key = KeyBytes::default();
    Params::new(memory_kib, passes, lanes, Some(key.len()))
        .and_then(|params| {
            Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password_into(
                passphrase.expose_secret().as_bytes(),
                salt,
                key.as_mut_slice(),
            )
        })
        .map_err(|error| Error::unavailable("Argon2id", error.to_string()))?;
    WrappingKey::new(&key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::random_key;

    const QUICK: Argon2Settings = Argon2Settings {
        memory_kib: 64,
        passes: 1,
        lanes: 1,
    };

    #[test]
    fn only_the_passphrase_opens_the_root() {
        let random = SystemRandom::new();
        let root = random_key(&random).unwrap();
        let sealed = SealedRoot::seal(&root, &"correct horse".into(), QUICK, &random).unwrap();
        assert_eq!(*sealed.unseal(&"correct horse".into()).unwrap(), *root);
        let error = sealed.unseal(&"correct horsf".into()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WrongPassphrase);
    }

    #[test]
    fn a_changed_cost_is_noticed_and_a_huge_one_not_paid() {
        let random = SystemRandom::new();
        let root = random_key(&random).unwrap();
        let mut sealed = SealedRoot::seal(&root, &"correct horse".into(), QUICK, &random).unwrap();
        sealed.cost.passes = 2;
        assert!(sealed.unseal(&"correct horse".into()).is_err());
        sealed.cost.memory_kib = u32::MAX;
        let error = sealed.unseal(&"correct horse".into()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged);
    }

    /// What was stored once opens for ever. The record was made with Python's cryptography 48 (OpenSSL's Argon2id and
    /// AES-GCM), from the drawings in this package alone.
    #[test]
    fn opens_a_record_of_an_independent_implementation() {
        let sealed = SealedRoot {
            salt: *b"somesaltsomesalt",
            cost: Argon2Settings {
                memory_kib: 64,
                passes: 2,
                lanes: 1,
            },
            wrapped: Wrapped::from_hex(
                "000102030405060708090a0bbfc46c43afe9b15005c0743090795dce2b6872fed38ac9f5518eb51a7a43aadb8c8059034b2a30b4b091f255c4c93d0c",
            ),
        };
        assert_eq!(*sealed.unseal(&"correct horse".into()).unwrap(), [0x42; 32]);
    }
}
