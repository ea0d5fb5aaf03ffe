//! Copies by vector moves.

use std::arch::x86_64::{__m256i, _mm256_loadu_si256, _mm256_storeu_si256};

const VECTOR: usize = 32;

/// Bytes a turn: eight registers are loaded before the first is stored, so that misses overlap.
const TURN: usize = 8 * VECTOR;

/// Copies `src` to `dst`, as far as the shorter of them reaches.
#[target_feature(enable = "avx2")]
pub(super) fn avx2(src: &[u8], dst: &mut [u8]) {
    let (from, from_tail) = src.as_chunks::<TURN>();
    let (to, to_tail) = dst.as_chunks_mut::<TURN>();
    for (from, to) in from.iter().zip(to) {
        let registers: [__m256i; TURN / VECTOR] = std::array::from_fn(|n| {
            // SAFETY: `n` counts the 32-byte places of the array.
            unsafe { _mm256_loadu_si256(from.as_ptr().add(n * VECTOR).cast()) }
        });
        for (n, register) in registers.into_iter().enumerate() {
            // SAFETY: as for the load.
            unsafe { _mm256_storeu_si256(to.as_mut_ptr().add(n * VECTOR).cast(), register) };
        }
    }
    for (from, to) in from_tail.iter().zip(to_tail) {
        *to = *from;
    }
}
