use std::ops::Range;

use crate::{Aes128Key, BLOCK};

/// How many chains are encrypted side by side. CBC within a chain is serial and leaves an AES unit idle nine
/// cycles in ten; eight chains fill it, sixteen gained nothing when measured.
pub(crate) const LANES: usize = 8;

/// One CBC chain within a buffer: the blocks at `at`, `at + stride`, ... that end by `end`.
///
/// `stride` is [`Chain::WHOLE`] for every block, [`Chain::ONE_IN_TEN`] for the 1:9 pattern of `cbcs` video.
/// Bytes between the blocks, and a partial block before `end`, stay clear (ISO/IEC 23001-7 9.6 and 9.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Where the first block begins.
    pub at: usize,
    /// Where the protected bytes end.
    pub end: usize,
    /// The distance from block to block in bytes.
    pub stride: usize,
    /// The IV, or the last ciphertext block where a chain is carried on.
    pub previous: [u8; BLOCK],
}

impl Chain {
    /// The stride of a chain over every block.
    pub const WHOLE: usize = BLOCK;
    /// The stride of a chain over one block, then nine clear ones.
    pub const ONE_IN_TEN: usize = 10 * BLOCK;

    const NONE: Self = Self {
        at: 0,
        end: 0,
        stride: BLOCK,
        previous: [0; BLOCK],
    };

    /// How many blocks the chain has.
    pub fn blocks(&self) -> usize {
        match self.end.checked_sub(self.at) {
            Some(len) if len >= BLOCK => (len - BLOCK) / self.stride + 1,
            Some(_) | None => 0,
        }
    }

    /// Where the last block lies, if there is one: its ciphertext carries the chain on.
    pub fn last_block(&self) -> Option<Range<usize>> {
        let last = self.at + self.blocks().checked_sub(1)? * self.stride;
        Some(last..last + BLOCK)
    }
}

impl Aes128Key {
    /// Copies `src` to `dst` and encrypts the blocks of `chains` on the way. The chains do not overlap.
    ///
    /// # Panics
    /// When `src` and `dst` differ in length, or a chain reaches beyond them.
    pub fn cbc(&self, src: &[u8], dst: &mut [u8], chains: impl IntoIterator<Item = Chain>) {
        dst.copy_from_slice(src);
        let mut waiting = chains.into_iter().filter(|chain| chain.blocks() > 0).fuse();
        let mut lanes = [Chain::NONE; LANES];
        let mut live = 0;
        loop {
            // A lane whose chain has ended takes up the next one at once, so that all stay busy.
            while live < LANES
                && let Some(chain) = waiting.next()
            {
                lanes[live] = chain;
                live += 1;
            }
            let Some(rounds) = lanes[..live].iter().map(Chain::blocks).min() else {
                break;
            };
            self.cbc_rounds(dst, &mut lanes[..live], rounds);
            let mut lane = 0;
            while lane < live {
                if lanes[lane].blocks() == 0 {
                    live -= 1;
                    lanes.swap(lane, live);
                } else {
                    lane += 1;
                }
            }
        }
    }

    /// The last ciphertext block of `chain` over `src`, without writing the others: how a chain is taken up in
    /// its middle. The IV, when the chain has no block.
    ///
    /// # Panics
    /// When the chain reaches beyond `src`.
    pub fn cbc_carry(&self, src: &[u8], chain: Chain) -> [u8; BLOCK] {
        let mut block = chain.previous;
        for at in (chain.at..).step_by(chain.stride).take(chain.blocks()) {
            block
                .iter_mut()
                .zip(&src[at..at + BLOCK])
                .for_each(|(byte, other)| *byte ^= other);
            block = self.block(&block);
        }
        block
    }
}

#[cfg(test)]
mod tests {
    use aes::Block;
    use aes::cipher::{BlockModeEncrypt as _, KeyIvInit as _};
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{KEY, hex, key};

    const IV: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

    #[test]
    fn known_answer_whole_blocks() {
        let plain: Vec<u8> = (0x00..=0x3f).collect();
        let mut cipher = vec![0; plain.len()];
        let chain = Chain {
            at: 0,
            end: plain.len(),
            stride: Chain::WHOLE,
            previous: IV,
        };
        key().cbc(&plain, &mut cipher, [chain]);
        assert_eq!(
            cipher,
            hex(
                "5fbf9fece9c2d9dcebf4a832c0629881e0c70e7262732bae435f4a24c855905c\
                 75abf04bfba41ab11ada008685eea475e2be0dd0f74c96f07a29f6cc9de13f1b"
            )
        );
    }

    #[test]
    fn known_answer_one_in_ten() {
        let plain: Vec<u8> = (0x00..=0xaf).collect();
        let mut cipher = vec![0; plain.len()];
        let chain = Chain {
            at: 0,
            end: plain.len(),
            stride: Chain::ONE_IN_TEN,
            previous: IV,
        };
        key().cbc(&plain, &mut cipher, [chain]);
        assert_eq!(cipher[..16], hex("5fbf9fece9c2d9dcebf4a832c0629881"));
        assert_eq!(cipher[16..160], plain[16..160]);
        assert_eq!(cipher[160..], hex("4b2e2511f510e6496e464d372bea9eaf"));
    }

    /// Every chain by itself, through the `cbc` crate.
    fn one_by_one(src: &[u8], chains: &[Chain]) -> Vec<u8> {
        let mut data = src.to_vec();
        for chain in chains {
            let mut mode = cbc::Encryptor::<aes::Aes128>::new(&KEY.into(), &chain.previous.into());
            let mut at = chain.at;
            while at + BLOCK <= chain.end {
                let mut block = Block::try_from(&data[at..at + BLOCK]).unwrap();
                mode.encrypt_block(&mut block);
                data[at..at + BLOCK].copy_from_slice(&block);
                at += chain.stride;
            }
        }
        data
    }

    fn chains() -> impl Strategy<Value = (Vec<u8>, Vec<Chain>)> {
        let chain = (
            0..40usize,
            prop_oneof![0..40usize, 0..900usize],
            any::<bool>(),
            any::<[u8; 16]>(),
        );
        prop::collection::vec(chain, 0..30).prop_flat_map(|parts| {
            let mut end = 0;
            let mut chains = Vec::new();
            for (gap, len, whole, previous) in parts {
                let at = end + gap;
                end = at + len;
                let stride = if whole {
                    Chain::WHOLE
                } else {
                    Chain::ONE_IN_TEN
                };
                chains.push(Chain {
                    at,
                    end,
                    stride,
                    previous,
                });
            }
            (prop::collection::vec(any::<u8>(), end), Just(chains))
        })
    }

    proptest! {
        #[test]
        fn lanes_equal_chains_one_by_one((src, chains) in chains()) {
            let mut dst = vec![0; src.len()];
            key().cbc(&src, &mut dst, chains.iter().copied());
            prop_assert_eq!(&dst, &one_by_one(&src, &chains));
            for chain in chains {
                let carry = chain.last_block().map_or(chain.previous, |at| dst[at].try_into().unwrap());
                prop_assert_eq!(key().cbc_carry(&src, chain), carry);
            }
        }
    }
}
