//! Counter mode, fused with the copy: each byte is read once and written once.
//!
//! Ten rounds of AES have a latency of forty cycles and more, and a register's worth may begin in each cycle or
//! two; so eight registers are kept on their way. One keystream of eight registers is made for a tail as well: a
//! shorter one would take as long.

use std::arch::x86_64::{
    __m128i, __m256i, _mm_add_epi64, _mm_aesenc_si128, _mm_aesenclast_si128, _mm_loadu_si128,
    _mm_set_epi8, _mm_set_epi64x, _mm_shuffle_epi8, _mm_storeu_si128, _mm_xor_si128,
    _mm256_add_epi64, _mm256_aesenc_epi128, _mm256_aesenclast_epi128, _mm256_broadcastsi128_si256,
    _mm256_loadu_si256, _mm256_set_epi64x, _mm256_setzero_si256, _mm256_shuffle_epi8,
    _mm256_storeu_si256, _mm256_xor_si256,
};

use super::{ROUND_KEYS, RoundKeys, load};
use crate::BLOCK;

/// Registers on their way at a time.
const REGISTERS: usize = 8;

/// The IV in the low half as it is, the number of the block in the high half, still in the processor's order.
fn counter(iv: [u8; 8], block: u64) -> __m128i {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { _mm_set_epi64x(block.cast_signed(), i64::from_le_bytes(iv)) }
}

/// Turns the high half of a counter to network order.
fn swap() -> __m128i {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { _mm_set_epi8(8, 9, 10, 11, 12, 13, 14, 15, 7, 6, 5, 4, 3, 2, 1, 0) }
}

/// 256 bytes a turn.
#[target_feature(enable = "aes,avx2,vaes")]
pub(super) fn vaes(keys: &RoundKeys, iv: [u8; 8], first: u64, src: &[u8], dst: &mut [u8]) {
    const TURN: usize = REGISTERS * 2 * BLOCK;
    let mut round_keys = [_mm256_setzero_si256(); ROUND_KEYS];
    for (wide, key) in round_keys.iter_mut().zip(&keys.0) {
        *wide = _mm256_broadcastsi128_si256(load(key));
    }
    let swap = _mm256_broadcastsi128_si256(swap());
    let two_blocks = _mm256_set_epi64x(2, 0, 2, 0);
    let mut next = _mm256_add_epi64(
        _mm256_broadcastsi128_si256(counter(iv, first)),
        _mm256_set_epi64x(1, 0, 0, 0),
    );
    let mut keystream = || -> [__m256i; REGISTERS] {
        let mut registers = [_mm256_setzero_si256(); REGISTERS];
        for register in &mut registers {
            *register = _mm256_xor_si256(_mm256_shuffle_epi8(next, swap), round_keys[0]);
            next = _mm256_add_epi64(next, two_blocks);
        }
        for key in &round_keys[1..ROUND_KEYS - 1] {
            for register in &mut registers {
                *register = _mm256_aesenc_epi128(*register, *key);
            }
        }
        for register in &mut registers {
            *register = _mm256_aesenclast_epi128(*register, round_keys[ROUND_KEYS - 1]);
        }
        registers
    };
    let (from, from_tail) = src.as_chunks::<TURN>();
    let (to, to_tail) = dst.as_chunks_mut::<TURN>();
    for (from, to) in from.iter().zip(to) {
        let keystream = keystream();
        for (at, key) in keystream.into_iter().enumerate() {
            let at = at * 2 * BLOCK;
            // SAFETY: `at` and the 32 bytes after it lie within the 256 of both arrays.
            unsafe {
                let plain = _mm256_loadu_si256(from.as_ptr().add(at).cast());
                _mm256_storeu_si256(to.as_mut_ptr().add(at).cast(), _mm256_xor_si256(plain, key));
            }
        }
    }
    if !from_tail.is_empty() {
        let mut bytes = [0; TURN];
        for (at, key) in keystream().into_iter().enumerate() {
            // SAFETY: `at` counts the 32-byte places of the array.
            unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().add(at * 2 * BLOCK).cast(), key) };
        }
        xor(from_tail, &bytes, to_tail);
    }
}

/// 128 bytes a turn.
#[target_feature(enable = "aes,ssse3")]
pub(super) fn aes_ni(keys: &RoundKeys, iv: [u8; 8], first: u64, src: &[u8], dst: &mut [u8]) {
    const TURN: usize = REGISTERS * BLOCK;
    let round_keys = keys.0.each_ref().map(load);
    let swap = swap();
    let one_block = _mm_set_epi64x(1, 0);
    let mut next = counter(iv, first);
    let mut keystream = || -> [__m128i; REGISTERS] {
        let mut registers = [next; REGISTERS];
        for register in &mut registers {
            *register = _mm_xor_si128(_mm_shuffle_epi8(next, swap), round_keys[0]);
            next = _mm_add_epi64(next, one_block);
        }
        for key in &round_keys[1..ROUND_KEYS - 1] {
            for register in &mut registers {
                *register = _mm_aesenc_si128(*register, *key);
            }
        }
        for register in &mut registers {
            *register = _mm_aesenclast_si128(*register, round_keys[ROUND_KEYS - 1]);
        }
        registers
    };
    let (from, from_tail) = src.as_chunks::<TURN>();
    let (to, to_tail) = dst.as_chunks_mut::<TURN>();
    for (from, to) in from.iter().zip(to) {
        let keystream = keystream();
        for (at, key) in keystream.into_iter().enumerate() {
            let at = at * BLOCK;
            // SAFETY: `at` and the 16 bytes after it lie within the 128 of both arrays.
            unsafe {
                let plain = _mm_loadu_si128(from.as_ptr().add(at).cast());
                _mm_storeu_si128(to.as_mut_ptr().add(at).cast(), _mm_xor_si128(plain, key));
            }
        }
    }
    if !from_tail.is_empty() {
        let mut bytes = [0; TURN];
        for (at, key) in keystream().into_iter().enumerate() {
            // SAFETY: `at` counts the 16-byte places of the array.
            unsafe { _mm_storeu_si128(bytes.as_mut_ptr().add(at * BLOCK).cast(), key) };
        }
        xor(from_tail, &bytes, to_tail);
    }
}

fn xor(src: &[u8], keystream: &[u8], dst: &mut [u8]) {
    for ((from, key), to) in src.iter().zip(keystream).zip(dst) {
        *to = from ^ key;
    }
}
