//! CBC over several chains at once: the latency of one chain's block hides behind the others', and behind the copy
//! of the clear bytes between the blocks.
//!
//! Two blocks in a register would have to be gathered from two places and scattered again. A window of `cbcs` video
//! rarely has more chains than there are lanes here, so VAES has nothing to add.

use std::arch::x86_64::{
    __m128i, _mm_aesenc_si128, _mm_aesenclast_si128, _mm_loadu_si128, _mm_storeu_si128,
    _mm_xor_si128,
};

use super::{ROUND_KEYS, RoundKeys, load, store};
use crate::BLOCK;
use crate::chain::Chain;

/// Encrypts `rounds` strides of `STRIDE` bytes, a block and then clear bytes, of each of at most `N` lanes and
/// moves the lanes on. Lanes that are not there work on a stride of their own.
///
/// # Panics
/// When a lane has fewer strides left in `src` or in `dst`, or there are more than `N`.
#[target_feature(enable = "aes")]
pub(super) fn aes_ni<const STRIDE: usize, const N: usize>(
    keys: &RoundKeys,
    src: &[u8],
    dst: &mut [u8],
    lanes: &mut [Chain],
    rounds: usize,
) {
    let nothing = [0_u8; STRIDE];
    let mut nowhere = [0_u8; STRIDE];
    let mut from: [*const u8; N] = [nothing.as_ptr(); N];
    let mut to: [*mut u8; N] = [nowhere.as_mut_ptr(); N];
    let mut steps = [0_usize; N];
    let mut states: [__m128i; N] = [load(&[0; BLOCK]); N];
    let (src_len, dst_len) = (src.len(), dst.len());
    let (src, dst) = (src.as_ptr(), dst.as_mut_ptr());
    for (n, lane) in lanes.iter().enumerate() {
        let within = |start: usize, len: usize| {
            rounds
                .checked_mul(STRIDE)
                .and_then(|bytes| bytes.checked_add(start))
                .is_some_and(|end| end <= len)
        };
        assert!(
            within(lane.from, src_len) && within(lane.to, dst_len),
            "a chain ends within the data"
        );
        from[n] = src.wrapping_add(lane.from);
        to[n] = dst.wrapping_add(lane.to);
        steps[n] = STRIDE;
        states[n] = load(&lane.previous);
    }
    let round_keys = keys.0.each_ref().map(load);
    for _ in 0..rounds {
        for n in 0..N {
            // SAFETY: `STRIDE` bytes at a lane's place lie within `src`, as was checked for all rounds above, or they
            // are `nothing`.
            let plain = unsafe { _mm_loadu_si128(from[n].cast()) };
            states[n] = _mm_xor_si128(states[n], _mm_xor_si128(plain, round_keys[0]));
        }
        for key in &round_keys[1..ROUND_KEYS - 1] {
            for state in &mut states {
                *state = _mm_aesenc_si128(*state, *key);
            }
        }
        for n in 0..N {
            states[n] = _mm_aesenclast_si128(states[n], round_keys[ROUND_KEYS - 1]);
            // SAFETY: as for the load; what is written lies within `dst` or is `nowhere`, and no reference to either is
            // used while this loop runs.
            unsafe {
                _mm_storeu_si128(to[n].cast(), states[n]);
                for at in (BLOCK..STRIDE).step_by(BLOCK) {
                    let clear = _mm_loadu_si128(from[n].add(at).cast());
                    _mm_storeu_si128(to[n].add(at).cast(), clear);
                }
            }
            from[n] = from[n].wrapping_add(steps[n]);
            to[n] = to[n].wrapping_add(steps[n]);
        }
    }
    for (lane, state) in lanes.iter_mut().zip(states) {
        store(&mut lane.previous, state);
        lane.move_on(rounds * STRIDE);
    }
}
