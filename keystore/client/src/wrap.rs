//! What keys are encrypted with on their way to another machine, beneath TLS: HPKE (RFC 9180) in base mode, with
//! DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and AES-256-GCM, to the node's key.
//!
//! ```text
//! wrapped = encapsulated key (32) | ciphertext | tag (16)
//! info    = "castellum keys for a node 1"
//! aad     = the reply's header, in JSON
//! ```
//!
//! Whatever ends TLS between the two, or writes its memory to a file, has no key. The header names each key's context and id,
//! so that none can stand for another.

use std::fmt;

use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::rand_core::{CryptoRng, Error as RandomError, RngCore};
use hpke::{Deserializable as _, Kem as _, OpModeR, OpModeS, Serializable as _};
use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

use crate::frame::Secret;

type Kem = X25519HkdfSha256;
type PrivateKey = <Kem as hpke::Kem>::PrivateKey;

const INFO: &[u8] = b"castellum keys for a node 1";

/// The length of an encapsulated key (RFC 9180 7.1), in bytes.
const ENCAPSULATED: usize = 32;

/// A node's key pair (RFC 7748).
pub struct NodeKey(PrivateKey);

/// Says nothing of the key.
impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeKey")
    }
}

/// What was to be unwrapped is not for this node, or was changed.
#[derive(Debug, thiserror::Error)]
#[error("what came is not encrypted to this node's key")]
pub struct NotForThisNode;

impl NodeKey {
    /// A new one.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn generate() -> Result<Self, NoRandom> {
        let mut random = Drawn::new()?;
        let (key, _) = Kem::gen_keypair(&mut random);
        random.sufficed()?;
        Ok(Self(key))
    }

    /// From its text: 64 hexadecimal digits. `None` where it is none.
    pub fn from_text(text: &[u8]) -> Option<Self> {
        let text = text.trim_ascii();
        if text.len() != 64 {
            return None;
        }
        let mut bytes = Zeroizing::new([0; 32]);
        for (byte, digits) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            *byte = digit(digits[0])? << 4 | digit(digits[1])?;
        }
        PrivateKey::from_bytes(&*bytes).ok().map(Self)
    }

    /// As [`NodeKey::from_text`] takes it.
    pub fn to_text(&self) -> Zeroizing<String> {
        let bytes = Zeroizing::new(<[u8; 32]>::from(self.0.to_bytes()));
        let mut text = Zeroizing::new(String::with_capacity(64));
        for byte in *bytes {
            for digit in [byte >> 4, byte & 15] {
                text.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
            }
        }
        text
    }

    /// The public half.
    pub fn public(&self) -> [u8; 32] {
        Kem::sk_to_pk(&self.0).to_bytes().into()
    }

    /// What [`wrap`] wrapped.
    ///
    /// # Errors
    /// [`NotForThisNode`], whatever the reason.
    pub fn unwrap(&self, wrapped: &[u8], aad: &[u8]) -> Result<Secret, NotForThisNode> {
        let (encapsulated, ciphertext) = wrapped
            .split_at_checked(ENCAPSULATED)
            .ok_or(NotForThisNode)?;
        let encapsulated = <Kem as hpke::Kem>::EncappedKey::from_bytes(encapsulated)
            .map_err(|_| NotForThisNode)?;
        hpke::single_shot_open::<AesGcm256, HkdfSha256, Kem>(
            &OpModeR::Base,
            &self.0,
            &encapsulated,
            INFO,
            ciphertext,
            aad,
        )
        .map(Secret::new)
        .map_err(|_| NotForThisNode)
    }
}

/// Why nothing was encrypted.
#[derive(Debug, thiserror::Error)]
pub enum WrapError {
    /// To this nothing can be encrypted.
    #[error("it is no node's public key")]
    NoPublicKey,
    /// See there.
    #[error(transparent)]
    NoRandom(#[from] NoRandom),
}

/// The system gives no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("the system gives no random bytes")]
pub struct NoRandom;

/// Encrypts to the node of this public key.
///
/// # Errors
/// [`WrapError`].
pub fn wrap(to: &[u8; 32], secret: &Secret, aad: &[u8]) -> Result<Secret, WrapError> {
    let to = <Kem as hpke::Kem>::PublicKey::from_bytes(to).map_err(|_| WrapError::NoPublicKey)?;
    let mut random = Drawn::new()?;
    let (encapsulated, ciphertext) = hpke::single_shot_seal::<AesGcm256, HkdfSha256, Kem, _>(
        &OpModeS::Base,
        &to,
        INFO,
        secret,
        aad,
        &mut random,
    )
    .map_err(|_| WrapError::NoPublicKey)?;
    random.sufficed()?;
    let mut wrapped = encapsulated.to_bytes().to_vec();
    wrapped.extend_from_slice(&ciphertext);
    Ok(Secret::new(wrapped))
}

/// Random bytes that were drawn before, since whoever takes them cannot be told that there are none.
struct Drawn {
    bytes: Zeroizing<[u8; 64]>,
    taken: usize,
    /// More were asked for than were drawn.
    short: bool,
}

impl Drawn {
    fn new() -> Result<Self, NoRandom> {
        let mut bytes = Zeroizing::new([0; 64]);
        (SystemRandom::new().fill(&mut *bytes)).map_err(|_| NoRandom)?;
        Ok(Self {
            bytes,
            taken: 0,
            short: false,
        })
    }

    /// Whether what came of it may be used.
    fn sufficed(&self) -> Result<(), NoRandom> {
        match self.short {
            true => Err(NoRandom),
            false => Ok(()),
        }
    }
}

impl RngCore for Drawn {
    fn next_u32(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.fill_bytes(&mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.fill_bytes(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        let end = self.taken + bytes.len();
        match self.bytes.get(self.taken..end) {
            Some(drawn) => {
                bytes.copy_from_slice(drawn);
                self.taken = end;
            }
            None => self.short = true,
        }
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), RandomError> {
        self.fill_bytes(bytes);
        Ok(())
    }
}

impl CryptoRng for Drawn {}

fn digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_node_unwraps_what_is_wrapped_for_it() {
        let node = NodeKey::generate().unwrap();
        let other = NodeKey::generate().unwrap();
        let secret = Secret::new(vec![7; 48]);
        let wrapped = wrap(&node.public(), &secret, b"header").unwrap();
        assert_eq!(wrapped.len(), 32 + 48 + 16);
        assert_eq!(*node.unwrap(&wrapped, b"header").unwrap(), *secret);
        assert!(node.unwrap(&wrapped, b"another").is_err());
        assert!(other.unwrap(&wrapped, b"header").is_err());
        for at in 0..wrapped.len() {
            let mut changed = wrapped.to_vec();
            changed[at] ^= 1;
            assert!(node.unwrap(&changed, b"header").is_err(), "{at}");
            assert!(node.unwrap(&wrapped[..at], b"header").is_err(), "{at}");
        }
    }

    /// RFC 9180 A.1 has the key pair, but with another AEAD; its public key shows that ours is X25519.
    #[test]
    fn a_key_comes_back_from_its_text() {
        let text = "4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8";
        let node = NodeKey::from_text(text.as_bytes()).unwrap();
        assert_eq!(*node.to_text(), text);
        let public: String = node
            .public()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(
            public,
            "3948cfe0ad1ddb695d780e59077195da6c56506b027329794ab02bca80815c4d"
        );
        assert!(format!("{node:?}").len() < 16);
        for wrong in ["", "46", &text[1..], &text.replace('4', "g")] {
            assert!(NodeKey::from_text(wrong.as_bytes()).is_none());
        }
    }
}
