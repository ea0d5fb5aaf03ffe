//! The root under a passphrase: Argon2id (RFC 9106) makes the key that wraps it.
//!
//! Salt and cost are stored beside the wrapped root and are part of its associated data, so that nobody can lower
//! the cost without being noticed; they are bounded, so that nobody can raise it until the host falls over.

use argon2::{Algorithm, Argon2, Params, Version};
use conf::Argon2Settings;
use keystore_client::admin::UnlockMethod;
use ring::rand::SystemRandom;
use secrecy::{ExposeSecret as _, SecretString};

use super::SealedRoot;
use crate::error::{Error, ErrorKind};
use crate::memory::room_for;
use crate::seal::{KeyBytes, WrappingKey, fill};

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

const ALGORITHM: Algorithm = Algorithm::Argon2id;

const VERSION: Version = Version::V0x13;

/// Whether its length is one that a passphrase may have.
pub(crate) fn fits(passphrase: &SecretString) -> bool {
    (MIN_LEN..=MAX_LEN).contains(&passphrase.expose_secret().len())
}

/// Wraps `root` under a passphrase. Takes as long as one guess is meant to.
pub(crate) fn seal(
    root: &KeyBytes,
    passphrase: &SecretString,
    cost: Argon2Settings,
    random: &SystemRandom,
) -> Result<SealedRoot, Error> {
    let mut salt = [0; 16];
    fill(random, &mut salt)?;
    let key = derive(passphrase, &salt, cost)?;
    let parameters = encode(&salt, cost);
    SealedRoot::seal(root, UnlockMethod::Passphrase, parameters, &key, random)
}

/// The root again. Takes as long as one guess is meant to.
///
/// # Errors
/// [`ErrorKind::WrongPassphrase`], which a damaged record cannot be told from.
pub(crate) fn open(sealed: &SealedRoot, passphrase: &SecretString) -> Result<KeyBytes, Error> {
    let (salt, cost) = decode(&sealed.parameters)
        .ok_or_else(|| Error::damaged("the stored salt and cost are none"))?;
    let key = derive(passphrase, &salt, cost)?;
    sealed.open(&key).map_err(|error| match error.kind() {
        ErrorKind::DoesNotOpen => Error::new(
            ErrorKind::WrongPassphrase,
            "the passphrase does not open the root",
        ),
        _ => error,
    })
}

/// The parameters: the salt, 16 random bytes, and memory in KiB, passes and lanes as big-endian numbers.
fn encode(salt: &[u8; 16], cost: Argon2Settings) -> Vec<u8> {
    let mut bytes = salt.to_vec();
    for number in [cost.memory_kib, cost.passes, cost.lanes] {
        bytes.extend_from_slice(&number.to_be_bytes());
    }
    bytes
}

fn decode(parameters: &[u8]) -> Option<([u8; 16], Argon2Settings)> {
    let (salt, numbers) = parameters.split_first_chunk()?;
    let (&[memory_kib, passes, lanes], []) = numbers.as_chunks::<4>() else {
        return None;
    };
    let cost = Argon2Settings {
        memory_kib: u32::from_be_bytes(memory_kib),
        passes: u32::from_be_bytes(passes),
        lanes: u32::from_be_bytes(lanes),
    };
    Some((*salt, cost))
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
            let passphrase = passphrase.expose_secret().as_bytes();
            Argon2::new(ALGORITHM, VERSION, params).hash_password_into(
                passphrase,
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
    use crate::seal::{Wrapped, random_key};

    const QUICK: Argon2Settings = Argon2Settings {
        memory_kib: 64,
        passes: 1,
        lanes: 1,
    };

    #[test]
    fn only_the_passphrase_opens_the_root() {
        let random = SystemRandom::new();
        let root = random_key(&random).unwrap();
        let sealed = seal(&root, &"correct horse".into(), QUICK, &random).unwrap();
        assert_eq!(*open(&sealed, &"correct horse".into()).unwrap(), *root);
        let error = open(&sealed, &"correct horsf".into()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WrongPassphrase);
    }

    #[test]
    fn a_changed_cost_is_noticed_and_a_huge_one_not_paid() {
        let random = SystemRandom::new();
        let root = random_key(&random).unwrap();
        let mut sealed = seal(&root, &"correct horse".into(), QUICK, &random).unwrap();
        let (salt, mut cost) = decode(&sealed.parameters).unwrap();
        cost.passes = 2;
        sealed.parameters = encode(&salt, cost);
        assert!(open(&sealed, &"correct horse".into()).is_err());
        cost.memory_kib = u32::MAX;
        sealed.parameters = encode(&salt, cost);
        let error = open(&sealed, &"correct horse".into()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged);
        sealed.parameters.pop();
        let error = open(&sealed, &"correct horse".into()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged);
    }

    /// What was stored once opens for ever. The record was made with Python's cryptography 48 (OpenSSL's Argon2id and
    /// AES-GCM), from the drawings in this package alone.
    #[test]
    fn opens_a_record_of_an_independent_implementation() {
        let sealed = SealedRoot {
            method: UnlockMethod::Passphrase,
            parameters: encode(
                b"somesaltsomesalt",
                Argon2Settings {
                    memory_kib: 64,
                    passes: 2,
                    lanes: 1,
                },
            ),
            commitment: None,
            wrapped: Wrapped::from_hex(
                "000102030405060708090a0bbfc46c43afe9b15005c0743090795dce2b6872fed38ac9f5518eb51a7a43aadb8c8059034b2a30b4b091f255c4c93d0c",
            ),
        };
        assert_eq!(*open(&sealed, &"correct horse".into()).unwrap(), [0x42; 32]);
    }

    /// RFC 9106 5.3. Its secret and associated data have no place in [`derive`], which has the rest of the
    /// configuration from the same constants.
    #[test]
    fn vector_of_the_rfc() {
        let params = argon2::ParamsBuilder::new()
            .m_cost(32)
            .t_cost(3)
            .p_cost(4)
            .data(argon2::AssociatedData::new(&[4; 12]).unwrap())
            .output_len(32)
            .build()
            .unwrap();
        let argon2 = Argon2::new_with_secret(&[3; 8], ALGORITHM, VERSION, params).unwrap();
        let mut tag = [0; 32];
        argon2
            .hash_password_into(&[1; 32], &[2; 16], &mut tag)
            .unwrap();
        let tag: String = tag.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            tag,
            "0d640df58d78766c08c037a34a8b53c9d01ef0452d75b65eb52520e96b01e659"
        );
    }
}
