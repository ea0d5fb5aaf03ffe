//! AES-128 in the shapes that Common Encryption needs (ISO/IEC 23001-7 9 and 10), and nothing else.
//!
//! - [`Aes128Key::ctr`]: counter mode with an 8-byte IV and a 64-bit block counter, from any byte of the
//!   keystream (`cenc`), fused with the copy from the source to the output.
//! - [`Aes128Key::cbc`]: many CBC chains side by side, each over every block (`cbcs` audio) or over one block
//!   in ten (`cbcs` video).
//!
//! Clear bytes go the same way by [`copy()`].
//!
//! Which bytes these are applied to is not known here; `origin-media` says it. The [`Form`] is chosen once, when a
//! key is expanded: kernels of our own where the processor has AES-NI or VAES, else the portable form, which is safe
//! code on the RustCrypto crates and the reference for the kernels.

mod chain;
mod copy;
mod ctr;
#[cfg(not(target_arch = "x86_64"))]
mod elsewhere;
mod form;
mod portable;
#[cfg(target_arch = "x86_64")]
#[expect(
    unsafe_code,
    reason = "the processor's AES instructions work on registers that are loaded from addresses"
)]
mod x86;

use std::fmt;

pub use chain::{Chain, Pattern, Piece};
pub use copy::copy;
pub use form::{Form, UnknownForm};
use portable::Portable;

#[cfg(not(target_arch = "x86_64"))]
use elsewhere::Kernel;
#[cfg(target_arch = "x86_64")]
use x86::Kernel;

/// The length of an AES block in bytes.
pub const BLOCK: usize = 16;

/// An expanded AES-128 encryption key, wiped when dropped.
///
/// The round keys live on the heap, so that moving the value leaves no copy of them behind.
pub struct Aes128Key {
    portable: Portable,
    kernel: Option<Kernel>,
}

impl Aes128Key {
    /// Expands the 16 bytes of a content key for the [best](Form::best) form.
    pub fn new(key: &[u8; BLOCK]) -> Self {
        Self::with_form(key, Form::best())
    }

    /// Expands the 16 bytes of a content key for `form`, or for the portable one where the processor lacks it.
    pub fn with_form(key: &[u8; BLOCK], form: Form) -> Self {
        Self {
            portable: Portable::new(key),
            kernel: Kernel::new(form, key),
        }
    }

    /// Encrypts one block by itself, as the PlayReady header checksum needs it. Not for media.
    pub fn block(&self, block: &[u8; BLOCK]) -> [u8; BLOCK] {
        self.portable.block(block)
    }

    /// The form that it was expanded for.
    pub fn form(&self) -> Form {
        self.kernel.as_ref().map_or(Form::Portable, Kernel::form)
    }

    /// Encrypts `rounds` strides of every lane and moves the lanes on.
    fn cbc_rounds(
        &self,
        pattern: Pattern,
        src: &[u8],
        dst: &mut [u8],
        lanes: &mut [Chain],
        rounds: usize,
    ) {
        match &self.kernel {
            Some(kernel) => kernel.cbc(pattern, src, dst, lanes, rounds),
            None => self.portable.cbc(pattern, src, dst, lanes, rounds),
        }
    }
}

impl fmt::Debug for Aes128Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Aes128Key({}, ..)", self.form())
    }
}

#[cfg(test)]
mod testing {
    use super::{Aes128Key, Form};

    /// The key of the known answers for CTR, CBC and the 1:9 pattern.
    pub(crate) const KEY: [u8; 16] = 0x0010_0100_2003_0050_0801_3021_0340_5500_u128.to_be_bytes();

    pub(crate) fn key() -> Aes128Key {
        Aes128Key::new(&KEY)
    }

    /// The same key in every form that this processor has.
    pub(crate) fn keys() -> Vec<Aes128Key> {
        Form::ALL
            .into_iter()
            .filter(|form| form.is_available())
            .map(|form| Aes128Key::with_form(&KEY, form))
            .collect()
    }

    /// Bytes without a pattern, the same at every call.
    pub(crate) fn noise(len: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        (0..len)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()[3]
            })
            .collect()
    }

    pub(crate) fn hex(text: &str) -> Vec<u8> {
        let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
        (0..text.len()).step_by(2).map(digit).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_schedule_is_wiped_on_drop() {
        // The promise is the type's: `aes` gives `ZeroizeOnDrop` only with its `zeroize` feature.
        fn wiped<T: zeroize::ZeroizeOnDrop>() {}
        wiped::<aes::Aes128Enc>();
        #[cfg(target_arch = "x86_64")]
        wiped::<x86::RoundKeys>();
    }

    #[test]
    fn block_of_fips_197() {
        // FIPS 197 appendix C.1
        let key: [u8; 16] = std::array::from_fn(|i| u8::try_from(i).unwrap());
        let plain: [u8; 16] = std::array::from_fn(|i| u8::try_from(i * 0x11).unwrap());
        let expected = 0x69c4_e0d8_6a7b_0430_d8cd_b780_70b4_c55a_u128.to_be_bytes();
        assert_eq!(Aes128Key::new(&key).block(&plain), expected);
    }

    #[test]
    fn debug_shows_no_bytes() {
        let key = Aes128Key::with_form(&[1; 16], Form::Portable);
        assert_eq!(format!("{key:?}"), "Aes128Key(portable, ..)");
    }
}
