//! The portable form: safe code on the RustCrypto block cipher, which picks the processor's AES itself.

use aes::cipher::{
    BlockCipherEncrypt as _, InnerIvInit as _, KeyInit as _, StreamCipher as _,
    StreamCipherSeek as _,
};
use aes::{Aes128Enc, Block};

use crate::BLOCK;
use crate::chain::{Chain, LANES, Pattern};

type Keystream<'a> = ctr::Ctr64BE<&'a Aes128Enc>;

/// An expanded key, wiped when dropped. It lives on the heap, so that moving it leaves no copy behind.
pub(crate) struct Portable(Box<Aes128Enc>);

impl Portable {
    pub(crate) fn new(key: &[u8; BLOCK]) -> Self {
        Self(Box::new(Aes128Enc::new(key.into())))
    }

    pub(crate) fn block(&self, block: &[u8; BLOCK]) -> [u8; BLOCK] {
        let mut out = (*block).into();
        self.0.encrypt_block(&mut out);
        out.into()
    }

    pub(crate) fn ctr(&self, iv: [u8; 8], position: u64, src: &[u8], dst: &mut [u8]) {
        let mut counter = [0; BLOCK];
        counter[..8].copy_from_slice(&iv);
        let core = ctr::CtrCore::inner_iv_init(&*self.0, &counter.into());
        let mut keystream = Keystream::from_core(core);
        keystream.seek(position);
        keystream.apply_keystream_b2b(src, dst);
    }

    /// Encrypts `rounds` strides of every lane and moves the lanes on.
    pub(crate) fn cbc(
        &self,
        pattern: Pattern,
        src: &[u8],
        dst: &mut [u8],
        lanes: &mut [Chain],
        rounds: usize,
    ) {
        let stride = pattern.stride();
        let mut blocks = [Block::default(); LANES];
        let blocks = &mut blocks[..lanes.len()];
        for (block, lane) in blocks.iter_mut().zip(lanes.iter()) {
            *block = Block::from(lane.previous);
        }
        for _ in 0..rounds {
            for (block, lane) in blocks.iter_mut().zip(lanes.iter()) {
                for (byte, plain) in block.iter_mut().zip(&src[lane.from..lane.from + BLOCK]) {
                    *byte ^= plain;
                }
            }
            self.0.encrypt_blocks(blocks);
            for (block, lane) in blocks.iter().zip(lanes.iter_mut()) {
                let dst = &mut dst[lane.to..lane.to + stride];
                dst.copy_from_slice(&src[lane.from..lane.from + stride]);
                dst[..BLOCK].copy_from_slice(block);
                lane.move_on(stride);
            }
        }
        for (block, lane) in blocks.iter().zip(lanes) {
            lane.previous = (*block).into();
        }
    }
}
