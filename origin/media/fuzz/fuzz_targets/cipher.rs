//! Every form gives the bytes of the portable one, whatever the lengths, places and patterns.
#![no_main]

use libfuzzer_sys::fuzz_target;
use origin_cipher::{Aes128Key, BLOCK, Chain, Form, Pattern, Piece};

fuzz_target!(|input: (u64, u16, bool, Vec<(u8, u16)>, Vec<u8>)| {
    let (position, skip, one_in_ten, lens, bytes) = input;
    let key = |form| Aes128Key::with_form(&[0x42; BLOCK], form);
    let reference = key(Form::Portable);
    let src = &bytes[usize::from(skip).min(bytes.len())..];
    // A position counts bytes of one sample.
    let position = position & 0xffff_ffff_ffff;
    let pattern = if one_in_ten {
        Pattern::OneInTen
    } else {
        Pattern::Whole
    };
    let mut end = 0;
    let mut pieces = Vec::new();
    for (gap, len) in lens {
        let (gap, len) = (usize::from(gap), usize::from(len));
        if end + gap + len > src.len() {
            break;
        }
        pieces.push(Piece::Clear {
            from: end,
            to: end,
            len: gap,
        });
        pieces.push(Piece::Chain(Chain {
            from: end + gap,
            to: end + gap,
            len,
            previous: [gap.to_le_bytes()[0]; BLOCK],
        }));
        end += gap + len;
    }
    let run = |key: &Aes128Key| {
        let (mut counter, mut chained) = (vec![0; src.len()], vec![0; src.len()]);
        key.ctr([7; 8], position, src, &mut counter);
        key.cbc(pattern, src, &mut chained, pieces.iter().copied());
        (counter, chained)
    };
    let expected = run(&reference);
    for form in Form::ALL.into_iter().filter(|form| form.is_available()) {
        assert!(run(&key(form)) == expected, "{form}");
    }
});
