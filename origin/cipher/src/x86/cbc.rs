//! CBC over several chains at once: the latency of one chain's block hides behind the others'.
//!
//! Two blocks in a register would have to be gathered from two places and scattered again, which takes what VAES
//! gives: sixteen lanes so gained nothing in the server, where a window of `cbcs` video rarely has more than eight
//! chains.

use std::arch::x86_64::{
    __m128i, _mm_aesenc_si128, _mm_aesenclast_si128, _mm_loadu_si128, _mm_storeu_si128,
    _mm_xor_si128,
};

use super::{ROUND_KEYS, RoundKeys, load, store};
use crate::BLOCK;
use crate::chain::{Chain, LANES};

/// Encrypts `rounds` blocks of each of at most [`LANES`] lanes and moves the lanes on. Lanes that are not there
/// are computed on a block of their own: eight take no longer than one.
#[target_feature(enable = "aes")]
pub(super) fn aes_ni(keys: &RoundKeys, data: &mut [u8], lanes: &mut [Chain], rounds: usize) {
    if rounds == 0 {
        return;
    }
    let mut nowhere = [0_u8; BLOCK];
    let mut places: [*mut u8; LANES] = [nowhere.as_mut_ptr(); LANES];
    let mut strides = [0_usize; LANES];
    let mut states: [__m128i; LANES] = [load(&[0; BLOCK]); LANES];
    for (n, lane) in lanes.iter().enumerate() {
        let end = (rounds - 1)
            .checked_mul(lane.stride)
            .and_then(|last| last.checked_add(lane.at + BLOCK));
        assert!(
            end.is_some_and(|end| end <= data.len()),
            "a chain ends within the data"
        );
        places[n] = data.as_mut_ptr().wrapping_add(lane.at);
        strides[n] = lane.stride;
        states[n] = load(&lane.previous);
    }
    let round_keys = keys.0.each_ref().map(load);
    for _ in 0..rounds {
        for n in 0..LANES {
            // SAFETY: a lane's place is a block within `data`, as was checked for its last one above and holds for
            // those before; or it is `nowhere`. No reference to either is alive.
            let plain = unsafe { _mm_loadu_si128(places[n].cast()) };
            states[n] = _mm_xor_si128(states[n], _mm_xor_si128(plain, round_keys[0]));
        }
        for key in &round_keys[1..ROUND_KEYS - 1] {
            for state in &mut states {
                *state = _mm_aesenc_si128(*state, *key);
            }
        }
        for n in 0..LANES {
            states[n] = _mm_aesenclast_si128(states[n], round_keys[ROUND_KEYS - 1]);
            // SAFETY: as for the load.
            unsafe { _mm_storeu_si128(places[n].cast(), states[n]) };
            places[n] = places[n].wrapping_add(strides[n]);
        }
    }
    for (lane, state) in lanes.iter_mut().zip(states) {
        store(&mut lane.previous, state);
        lane.at += rounds * lane.stride;
    }
}
