//! AES-NI and VAES kernels. The one module of this package that uses `unsafe`.
//!
//! The functions here are safe to call where their target features are there, which [`Kernel`] is the proof of.
//! What is unsafe is loads and stores at addresses; each is within a slice whose bounds were checked before.

mod cbc;
mod copy;
mod ctr;

use std::arch::x86_64::{
    __m128i, _mm_aeskeygenassist_si128, _mm_loadu_si128, _mm_shuffle_epi32, _mm_slli_si128,
    _mm_storeu_si128, _mm_xor_si128,
};

use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::chain::{Chain, LANES, Pattern};
use crate::{BLOCK, Form};

const ROUND_KEYS: usize = 11;

/// The expanded key, wiped when dropped.
#[derive(Zeroize, ZeroizeOnDrop)]
#[repr(align(16))]
pub(crate) struct RoundKeys([[u8; BLOCK]; ROUND_KEYS]);

/// A key with the instructions that use it: there is none on a processor without them.
pub(crate) struct Kernel {
    keys: Box<RoundKeys>,
    form: Form,
}

impl Kernel {
    /// The key expanded for `form`, which is [available](Form::is_available). Nothing for the portable form.
    pub(crate) fn new(form: Form, key: &[u8; BLOCK]) -> Option<Self> {
        if form == Form::Portable || !form.is_available() {
            return None;
        }
        let mut keys = Box::new(RoundKeys([[0; BLOCK]; ROUND_KEYS]));
        // SAFETY: every other form is available only where AES-NI is.
        unsafe { expand(key, &mut keys) };
        Some(Self { keys, form })
    }

    /// The form that it was made for.
    pub(crate) fn form(&self) -> Form {
        self.form
    }

    /// As [`crate::Aes128Key::ctr`] from the start of block `first` of the keystream.
    pub(crate) fn ctr(&self, iv: [u8; 8], first: u64, src: &[u8], dst: &mut [u8]) {
        assert_eq!(src.len(), dst.len(), "encryption never changes a length");
        // SAFETY: `new` made this kernel where the instructions are.
        unsafe {
            if self.form == Form::Vaes {
                ctr::vaes(&self.keys, iv, first, src, dst);
            } else {
                ctr::aes_ni(&self.keys, iv, first, src, dst);
            }
        }
    }

    /// Encrypts `rounds` strides of every lane and moves the lanes on.
    ///
    /// # Panics
    /// When a lane reaches beyond the data.
    pub(crate) fn cbc(
        &self,
        pattern: Pattern,
        src: &[u8],
        dst: &mut [u8],
        lanes: &mut [Chain],
        rounds: usize,
    ) {
        const WHOLE: usize = Pattern::Whole.stride();
        const ONE_IN_TEN: usize = Pattern::OneInTen.stride();
        assert!(lanes.len() <= LANES, "as many lanes as the kernel has");
        let keys = &self.keys;
        // SAFETY: `new` made this kernel where the instructions are.
        unsafe {
            match (pattern, lanes.len()) {
                (Pattern::Whole, _) => cbc::aes_ni::<WHOLE, LANES>(keys, src, dst, lanes, rounds),
                // Lanes that are not there cost as much as others, which the clear bytes make dear.
                (Pattern::OneInTen, 0..=2) => {
                    cbc::aes_ni::<ONE_IN_TEN, 2>(keys, src, dst, lanes, rounds);
                }
                (Pattern::OneInTen, 3..=4) => {
                    cbc::aes_ni::<ONE_IN_TEN, 4>(keys, src, dst, lanes, rounds);
                }
                (Pattern::OneInTen, _) => {
                    cbc::aes_ni::<ONE_IN_TEN, LANES>(keys, src, dst, lanes, rounds);
                }
            }
        }
    }
}

/// Copies `src` to `dst`, which are of one length; `false` where the processor lacks AVX2 and nothing was done.
pub(crate) fn copy(src: &[u8], dst: &mut [u8]) -> bool {
    let is_available = is_x86_feature_detected!("avx2");
    if is_available {
        // SAFETY: the processor was just asked.
        unsafe { copy::avx2(src, dst) };
    }
    is_available
}

/// The key schedule (FIPS 197 5.2).
#[target_feature(enable = "aes")]
fn expand(key: &[u8; BLOCK], keys: &mut RoundKeys) {
    #[target_feature(enable = "aes")]
    fn next<const RCON: i32>(key: __m128i) -> __m128i {
        let word = _mm_shuffle_epi32::<0xff>(_mm_aeskeygenassist_si128::<RCON>(key));
        let key = _mm_xor_si128(key, _mm_slli_si128::<4>(key));
        let key = _mm_xor_si128(key, _mm_slli_si128::<8>(key));
        _mm_xor_si128(key, word)
    }
    let mut round = load(key);
    store(&mut keys.0[0], round);
    let steps = [
        next::<0x01>,
        next::<0x02>,
        next::<0x04>,
        next::<0x08>,
        next::<0x10>,
        next::<0x20>,
        next::<0x40>,
        next::<0x80>,
        next::<0x1b>,
        next::<0x36>,
    ];
    for (step, place) in steps.into_iter().zip(&mut keys.0[1..]) {
        round = step(round);
        store(place, round);
    }
}

#[inline]
fn load(block: &[u8; BLOCK]) -> __m128i {
    // SAFETY: an unaligned load of the 16 bytes of the array.
    unsafe { _mm_loadu_si128(block.as_ptr().cast()) }
}

#[inline]
fn store(block: &mut [u8; BLOCK], value: __m128i) {
    // SAFETY: an unaligned store to the 16 bytes of the array.
    unsafe { _mm_storeu_si128(block.as_mut_ptr().cast(), value) }
}
