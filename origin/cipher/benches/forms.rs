//! Bytes a second of every form that this processor has, beside the crates that they replace and a plain copy.
//!
//!     cargo bench -p origin-cipher
#![allow(clippy::unwrap_used, reason = "a benchmark's own data is sound")]

use aes::cipher::{BlockModeEncrypt as _, KeyIvInit as _, StreamCipher as _};
use divan::Bencher;
use divan::counter::BytesCount;
use origin_cipher::{Aes128Key, Chain, Form, Pattern, Piece};

const KEY: [u8; 16] = *b"a content key...";
const IV: [u8; 16] = *b"an initial value";

/// What video looks like: frames of 20 kB, each with a clear head.
const FRAME: usize = 20 * 1024;
const HEAD: usize = 100;
const FRAMES: usize = 54;

/// AAC frames.
const SOUND: usize = 400;

fn main() {
    divan::main();
}

fn forms() -> impl Iterator<Item = Form> {
    Form::ALL.into_iter().filter(|form| form.is_available())
}

fn run(bencher: Bencher<'_, '_>, len: usize, mut work: impl FnMut(&[u8], &mut [u8])) {
    let src = vec![0x5a; len];
    let mut dst = vec![0; len];
    bencher
        .counter(BytesCount::new(len))
        .bench_local(|| work(divan::black_box(&src), divan::black_box(&mut dst)));
}

#[divan::bench(args = [16 << 10, 1 << 20])]
fn memcpy(bencher: Bencher<'_, '_>, len: usize) {
    run(bencher, len, |src, dst| dst.copy_from_slice(src));
}

#[divan::bench(args = [16 << 10, 1 << 20])]
fn ctr_crate(bencher: Bencher<'_, '_>, len: usize) {
    run(bencher, len, |src, dst| {
        let mut cipher = ctr::Ctr64BE::<aes::Aes128>::new(&KEY.into(), &IV.into());
        cipher.apply_keystream_b2b(src, dst);
    });
}

#[divan::bench(args = forms())]
fn ctr_16_kib(bencher: Bencher<'_, '_>, form: &Form) {
    let key = Aes128Key::with_form(&KEY, *form);
    run(bencher, 16 << 10, |src, dst| key.ctr([7; 8], 0, src, dst));
}

#[divan::bench(args = forms())]
fn ctr_1_mib(bencher: Bencher<'_, '_>, form: &Form) {
    let key = Aes128Key::with_form(&KEY, *form);
    run(bencher, 1 << 20, |src, dst| key.ctr([7; 8], 0, src, dst));
}

#[divan::bench(args = forms())]
fn cenc_video(bencher: Bencher<'_, '_>, form: &Form) {
    let key = Aes128Key::with_form(&KEY, *form);
    run(bencher, FRAMES * FRAME, |src, dst| {
        for (src, dst) in src.chunks(FRAME).zip(dst.chunks_mut(FRAME)) {
            dst[..HEAD].copy_from_slice(&src[..HEAD]);
            key.ctr([7; 8], 0, &src[HEAD..], &mut dst[HEAD..]);
        }
    });
}

#[divan::bench(args = forms())]
fn cenc_audio(bencher: Bencher<'_, '_>, form: &Form) {
    let key = Aes128Key::with_form(&KEY, *form);
    run(bencher, 300 * SOUND, |src, dst| {
        for (src, dst) in src.chunks(SOUND).zip(dst.chunks_mut(SOUND)) {
            key.ctr([7; 8], 0, src, dst);
        }
    });
}

/// Samples of `size` bytes, each clear up to `head`.
fn pieces(samples: usize, size: usize, head: usize) -> impl Iterator<Item = Piece> {
    (0..samples).flat_map(move |n| {
        let at = n * size;
        let clear = Piece::Clear {
            from: at,
            to: at,
            len: head,
        };
        let chain = Piece::Chain(Chain {
            from: at + head,
            to: at + head,
            len: size - head,
            previous: IV,
        });
        [clear, chain]
    })
}

#[divan::bench(args = forms())]
fn cbcs_video(bencher: Bencher<'_, '_>, form: &Form) {
    let key = Aes128Key::with_form(&KEY, *form);
    run(bencher, FRAMES * FRAME, |src, dst| {
        key.cbc(Pattern::OneInTen, src, dst, pieces(FRAMES, FRAME, HEAD));
    });
}

#[divan::bench(args = forms())]
fn cbcs_audio(bencher: Bencher<'_, '_>, form: &Form) {
    let key = Aes128Key::with_form(&KEY, *form);
    run(bencher, 300 * SOUND, |src, dst| {
        key.cbc(Pattern::Whole, src, dst, pieces(300, SOUND, 0));
    });
}

#[divan::bench]
fn cbc_crate_audio(bencher: Bencher<'_, '_>) {
    run(bencher, 300 * SOUND, |src, dst| {
        dst.copy_from_slice(src);
        for sample in dst.chunks_mut(SOUND) {
            let mut cipher = cbc::Encryptor::<aes::Aes128>::new(&KEY.into(), &IV.into());
            for block in sample.as_chunks_mut::<16>().0 {
                cipher.encrypt_block(block.into());
            }
        }
    });
}
