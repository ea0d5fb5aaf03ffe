use std::ops::Range;

use crate::{Aes128Key, BLOCK};

/// How many chains are encrypted side by side. CBC within a chain is serial and leaves an AES unit idle nine
/// cycles in ten, which the other chains fill.
pub(crate) const LANES: usize = 8;

/// Which blocks of a protected range are encrypted (ISO/IEC 23001-7 9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Every block: `cbcs` audio.
    Whole,
    /// One block, then nine clear ones: `cbcs` video.
    OneInTen,
}

impl Pattern {
    /// From one encrypted block to the next, in bytes.
    pub const fn stride(self) -> usize {
        match self {
            Self::Whole => BLOCK,
            Self::OneInTen => 10 * BLOCK,
        }
    }
}

/// Bytes on their way from a source to an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Copied as they are.
    Clear {
        /// Where they begin in the source.
        from: usize,
        /// Where they begin in the output.
        to: usize,
        /// How many there are.
        len: usize,
    },
    /// A protected range.
    Chain(Chain),
}

/// A protected range, whose first block and every further one after a [stride](Pattern::stride) are one CBC chain.
///
/// Bytes between the blocks, and a partial block at the end, stay clear (ISO/IEC 23001-7 9.6 and 9.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Where the first block begins in the source.
    pub from: usize,
    /// Where it begins in the output.
    pub to: usize,
    /// The length of the range in bytes.
    pub len: usize,
    /// The IV, or the last ciphertext block where a chain is carried on.
    pub previous: [u8; BLOCK],
}

impl Chain {
    const NONE: Self = Self {
        from: 0,
        to: 0,
        len: 0,
        previous: [0; BLOCK],
    };

    /// How many blocks are encrypted.
    pub fn blocks(&self, pattern: Pattern) -> usize {
        match self.len.checked_sub(BLOCK) {
            Some(before_last) => before_last / pattern.stride() + 1,
            None => 0,
        }
    }

    /// Where the last block lies in the output, if there is one: its ciphertext carries the chain on.
    pub fn last_block(&self, pattern: Pattern) -> Option<Range<usize>> {
        let last = self.to + self.blocks(pattern).checked_sub(1)? * pattern.stride();
        Some(last..last + BLOCK)
    }

    /// How many whole strides are left.
    fn strides(&self, pattern: Pattern) -> usize {
        self.len / pattern.stride()
    }

    /// Leaves `len` bytes behind.
    pub(crate) fn move_on(&mut self, len: usize) {
        self.from += len;
        self.to += len;
        self.len -= len;
    }
}

impl Aes128Key {
    /// Copies `pieces` from `src` to `dst` and encrypts the blocks of the chains on the way.
    ///
    /// The pieces do not overlap in the output; bytes of it that are in none are left as they are.
    ///
    /// # Panics
    /// When a piece reaches beyond `src` or `dst`.
    pub fn cbc(
        &self,
        pattern: Pattern,
        src: &[u8],
        dst: &mut [u8],
        pieces: impl IntoIterator<Item = Piece>,
    ) {
        let mut waiting = pieces.into_iter().fuse();
        let mut lanes = [Chain::NONE; LANES];
        let mut live = 0;
        loop {
            // A lane whose chain has ended takes up the next one at once, so that all stay busy.
            while live < LANES
                && let Some(piece) = waiting.next()
            {
                match piece {
                    Piece::Clear { from, to, len } => {
                        crate::copy(&src[from..from + len], &mut dst[to..to + len]);
                    }
                    Piece::Chain(chain) if chain.strides(pattern) == 0 => {
                        self.end_chain(src, dst, &chain);
                    }
                    Piece::Chain(chain) => {
                        lanes[live] = chain;
                        live += 1;
                    }
                }
            }
            let lane = |chain: &Chain| chain.strides(pattern);
            let Some(rounds) = lanes[..live].iter().map(lane).min() else {
                break;
            };
            self.cbc_rounds(pattern, src, dst, &mut lanes[..live], rounds);
            let mut lane = 0;
            while lane < live {
                if lanes[lane].strides(pattern) == 0 {
                    self.end_chain(src, dst, &lanes[lane]);
                    live -= 1;
                    lanes.swap(lane, live);
                } else {
                    lane += 1;
                }
            }
        }
    }

    /// What is left of a chain when less than a stride is: perhaps a block, and clear bytes.
    fn end_chain(&self, src: &[u8], dst: &mut [u8], chain: &Chain) {
        let src = &src[chain.from..chain.from + chain.len];
        let dst = &mut dst[chain.to..chain.to + chain.len];
        dst.copy_from_slice(src);
        if let Some((block, _)) = dst.split_first_chunk_mut() {
            *block = self.link(&chain.previous, block);
        }
    }

    /// The last ciphertext block of `chain` over `src`, without writing the others: how a chain is taken up in
    /// its middle. The IV, when the chain has no block.
    ///
    /// # Panics
    /// When the chain reaches beyond `src`.
    pub fn cbc_carry(&self, pattern: Pattern, src: &[u8], chain: Chain) -> [u8; BLOCK] {
        (chain.from..)
            .step_by(pattern.stride())
            .take(chain.blocks(pattern))
            .fold(chain.previous, |previous, at| {
                self.link(&previous, &src[at..at + BLOCK])
            })
    }

    /// The next ciphertext block of a chain.
    fn link(&self, previous: &[u8; BLOCK], plain: &[u8]) -> [u8; BLOCK] {
        let mut block = *previous;
        for (byte, other) in block.iter_mut().zip(plain) {
            *byte ^= other;
        }
        self.block(&block)
    }
}

#[cfg(test)]
mod tests {
    use aes::Block;
    use aes::cipher::{BlockModeEncrypt as _, KeyIvInit as _};
    use proptest::prelude::*;

    use super::*;
    use crate::Form;
    use crate::testing::{KEY, hex, key, keys, noise};

    const IV: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

    #[test]
    fn known_answer_whole_blocks() {
        let plain: Vec<u8> = (0x00..=0x3f).collect();
        let mut cipher = vec![0; plain.len()];
        key().cbc(Pattern::Whole, &plain, &mut cipher, [whole(plain.len())]);
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
        key().cbc(Pattern::OneInTen, &plain, &mut cipher, [whole(plain.len())]);
        assert_eq!(cipher[..16], hex("5fbf9fece9c2d9dcebf4a832c0629881"));
        assert_eq!(cipher[16..160], plain[16..160]);
        assert_eq!(cipher[160..], hex("4b2e2511f510e6496e464d372bea9eaf"));
    }

    /// Wycheproof's valid vectors, padded here, since nothing that ships pads. There is no decryption to put the
    /// invalid ones to.
    #[test]
    fn whole_blocks_of_wycheproof() {
        use wycheproof::cipher::{TestName, TestSet};

        let mut tried = 0;
        for group in TestSet::load(TestName::AesCbcPkcs5).unwrap().test_groups {
            for test in group.tests {
                if group.key_size != 128 || test.result.must_fail() {
                    continue;
                }
                let pad = BLOCK - test.pt.len() % BLOCK;
                let mut plain = test.pt.to_vec();
                plain.resize(plain.len() + pad, u8::try_from(pad).unwrap());
                let chain = Piece::Chain(Chain {
                    from: 0,
                    to: 0,
                    len: plain.len(),
                    previous: test.nonce[..].try_into().unwrap(),
                });
                for form in Form::ALL.into_iter().filter(|form| form.is_available()) {
                    let key = Aes128Key::with_form(test.key[..].try_into().unwrap(), form);
                    let mut cipher = vec![0; plain.len()];
                    key.cbc(Pattern::Whole, &plain, &mut cipher, [chain]);
                    assert!(cipher == test.ct[..], "{} by {form}", test.tc_id);
                    tried += 1;
                }
            }
        }
        assert!(tried >= 24, "{tried}");
    }

    fn whole(len: usize) -> Piece {
        Piece::Chain(Chain {
            from: 0,
            to: 0,
            len,
            previous: IV,
        })
    }

    /// Every piece by itself, through the `cbc` crate.
    fn one_by_one(pattern: Pattern, src: &[u8], pieces: &[Piece], len: usize) -> Vec<u8> {
        let mut data = vec![0xa5; len];
        for piece in pieces {
            let (Piece::Clear { from, to, len } | Piece::Chain(Chain { from, to, len, .. })) =
                *piece;
            data[to..to + len].copy_from_slice(&src[from..from + len]);
            let Piece::Chain(chain) = piece else { continue };
            let mut mode = cbc::Encryptor::<aes::Aes128>::new(&KEY.into(), &chain.previous.into());
            let mut at = to;
            while at + BLOCK <= to + len {
                let mut block = Block::try_from(&data[at..at + BLOCK]).unwrap();
                mode.encrypt_block(&mut block);
                data[at..at + BLOCK].copy_from_slice(&block);
                at += pattern.stride();
            }
        }
        data
    }

    fn check(pattern: Pattern, src: &[u8], pieces: &[Piece]) {
        let expected = one_by_one(pattern, src, pieces, src.len());
        for key in keys() {
            let mut dst = vec![0xa5; src.len()];
            key.cbc(pattern, src, &mut dst, pieces.iter().copied());
            assert!(dst == expected, "{pattern:?} by {key:?}: {pieces:?}");
            for piece in pieces {
                let Piece::Chain(chain) = *piece else {
                    continue;
                };
                let last = chain.last_block(pattern);
                let carry = last.map_or(chain.previous, |at| dst[at].try_into().unwrap());
                assert_eq!(key.cbc_carry(pattern, src, chain), carry);
            }
        }
    }

    /// Chains of these lengths with `gap` clear bytes before each and one byte after the last, taken from a source
    /// where they stand in the opposite order.
    fn laid_out(gap: usize, lens: impl IntoIterator<Item = usize>) -> (Vec<u8>, Vec<Piece>) {
        let lens: Vec<usize> = lens.into_iter().collect();
        let whole: usize = lens.iter().map(|len| gap + len).sum();
        let mut end = 0;
        let mut pieces = Vec::new();
        for (n, len) in (1..).zip(lens) {
            let to = end + gap;
            pieces.push(Piece::Clear {
                from: end,
                to: end,
                len: gap,
            });
            end = to + len;
            pieces.push(Piece::Chain(Chain {
                from: whole - end,
                to,
                len,
                previous: [n; BLOCK],
            }));
        }
        (noise(whole + 1), pieces)
    }

    #[test]
    fn one_chain_of_every_length() {
        for pattern in [Pattern::Whole, Pattern::OneInTen] {
            for len in 0..=4096 {
                let (src, chains) = laid_out(len % 7, [len]);
                check(pattern, &src, &chains);
            }
        }
    }

    #[test]
    fn every_number_of_lanes_full_or_not() {
        for pattern in [Pattern::Whole, Pattern::OneInTen] {
            for count in 1..=3 * LANES {
                let (src, chains) = laid_out(3, std::iter::repeat_n(1601, count));
                check(pattern, &src, &chains);
                // Each chain ends at another time than its neighbours.
                let (src, chains) = laid_out(0, (0..count).map(|n| 1 + n * 331 % 2003));
                check(pattern, &src, &chains);
            }
        }
    }

    proptest! {
        #[test]
        fn lanes_equal_chains_one_by_one(
            gap in 0..40usize,
            lens in prop::collection::vec(prop_oneof![0..40usize, 0..900usize], 0..30),
            one_in_ten: bool,
        ) {
            let (src, pieces) = laid_out(gap, lens);
            let pattern = if one_in_ten { Pattern::OneInTen } else { Pattern::Whole };
            check(pattern, &src, &pieces);
        }
    }
}
