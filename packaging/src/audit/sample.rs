//! Whether a key is that of encrypted samples, told from what comes out of them.
//!
//! A sample of sound is encrypted whole, and what begins every frame (an element id of AAC, a sync word) is alike in all of
//! them only under the right key: there the answer is sure. Slices of pictures leave their headers clear, and entropy-coded
//! data looks like noise under any key; what gives a wrong one away is a byte sequence that no NAL unit may hold
//! (ISO/IEC 14496-10 7.4.1), about one in each 6 MB. So for pictures a wrong key may stay unseen, and no right one is accused.

use keystore_types::ContentKey;
use reader::decrypt::decrypt;
use reader::mp4::{Fragment, Header, Protection};

/// What samples say of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is theirs.
    Right,
    /// It is not.
    Wrong(&'static str),
    /// They do not tell.
    Unknown,
}

/// Frames of sound that are looked at: at half of them alike a wrong key is told from a right one beyond doubt.
const FRAMES: usize = 64;
/// With fewer nothing is said.
const MIN_FRAMES: usize = 16;

/// Judges a key by a segment.
///
/// # Errors
/// What stands in the way of reading or decrypting it.
pub(crate) fn judge(
    header: &Header,
    protection: &Protection,
    key: &ContentKey,
    segment: &[u8],
) -> Result<Verdict, String> {
    let fragment = Fragment::read(header, segment).map_err(|error| error.to_string())?;
    let sound = matches!(&header.codec, b"mp4a" | b"ac-3" | b"ec-3" | b"fLaC");
    let pictures = matches!(&header.codec, b"avc1" | b"avc3" | b"hvc1" | b"hev1");
    let mut firsts = [0_usize; 8];
    let mut frames = 0;
    for sample in &fragment.samples {
        let cipher = segment.get(sample.bytes.clone()).unwrap_or_default();
        // A wrong key is no secret, but this may be the right one: what it decrypts is film, and dropped at once.
        let mut plain = cipher.to_vec();
        decrypt(protection, key.expose(), sample, &mut plain).map_err(|error| error.to_string())?;
        if sound && plain.len() >= 16 && frames < FRAMES {
            firsts[usize::from(plain[0] >> 5)] += 1;
            frames += 1;
        }
        if pictures && plain != cipher && breaks_nal_units(&plain) {
            return Ok(Verdict::Wrong(
                "decrypted with it, NAL units hold bytes that none may hold",
            ));
        }
    }
    let alike = firsts.into_iter().max().unwrap_or_default();
    Ok(match frames >= MIN_FRAMES {
        true if 10 * alike >= 6 * frames => Verdict::Right,
        true => Verdict::Wrong("decrypted with it, frames of sound begin with noise"),
        false => Verdict::Unknown,
    })
}

/// Whether a sample is no chain of NAL units, or one of them holds a start code or three zeros before its end.
fn breaks_nal_units(sample: &[u8]) -> bool {
    let mut rest = sample;
    while let Some((len, after)) = rest.split_first_chunk() {
        let len = usize::try_from(u32::from_be_bytes(*len)).unwrap_or(usize::MAX);
        let Some((unit, after)) = after.split_at_checked(len) else {
            // Lengths of another size than 4 bytes, which are not read here.
            return false;
        };
        // Zeros at the end are sloppy, and met.
        let end = unit.iter().rposition(|byte| *byte != 0).unwrap_or(0);
        let unit = unit.get(..=end).unwrap_or_default();
        if unit.windows(3).any(|bytes| matches!(bytes, [0, 0, 0..=2])) {
            return true;
        }
        rest = after;
    }
    false
}

#[cfg(test)]
mod tests {
    use reader::mp4::testing::{header, segment};

    use super::*;

    /// Frames of AAC as they begin: a channel pair.
    fn frames() -> Vec<Vec<u8>> {
        (0..40_u8)
            .map(|n| [vec![0x21], vec![n; 47]].concat())
            .collect()
    }

    fn init(entry: &[u8; 4]) -> Header {
        let tenc = [&[1, 0, 0, 0, 0, 0, 1, 0][..], &[7; 16], &[16], &[9; 16]].concat();
        Header::read(&header(entry, Some((b"cbcs", &tenc)))).unwrap()
    }

    fn verdict(header: &Header, segment: &[u8], key: u8) -> Verdict {
        let key = ContentKey::take(&mut [key; 16]);
        let protection = header.protection.as_ref().unwrap();
        judge(header, protection, &key, segment).unwrap()
    }

    #[test]
    fn frames_that_begin_alike_prove_the_key() {
        let mut header = init(b"enca");
        header.codec = *b"mp4a";
        let key = cbc([3; 16], [9; 16]);
        let encrypted: Vec<Vec<u8>> = frames().iter().map(|frame| key(frame)).collect();
        let encrypted: Vec<&[u8]> = encrypted.iter().map(Vec::as_slice).collect();
        let file = segment(&encrypted, None);
        assert_eq!(verdict(&header, &file, 3), Verdict::Right);
        assert!(matches!(verdict(&header, &file, 4), Verdict::Wrong(_)));
        let few = segment(&encrypted[..8], None);
        assert_eq!(verdict(&header, &few, 4), Verdict::Unknown);
    }

    /// CBC over whole blocks.
    fn cbc(key: [u8; 16], iv: [u8; 16]) -> impl Fn(&[u8]) -> Vec<u8> {
        use aes::cipher::{BlockCipherEncrypt as _, KeyInit as _};
        let cipher = aes::Aes128::new(&key.into());
        move |plain| {
            let mut chain = iv;
            let mut out = Vec::new();
            let (blocks, tail) = plain.as_chunks::<16>();
            for block in blocks {
                let mut mixed = *block;
                mixed
                    .iter_mut()
                    .zip(chain)
                    .for_each(|(byte, with)| *byte ^= with);
                let mut mixed = mixed.into();
                cipher.encrypt_block(&mut mixed);
                chain = mixed.into();
                out.extend(chain);
            }
            out.extend(tail);
            out
        }
    }

    #[test]
    fn a_nal_unit_holds_no_start_code() {
        let unit = |payload: &[u8]| {
            let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
            [&len[..], payload].concat()
        };
        assert!(!breaks_nal_units(&unit(&[0x65, 0, 0, 3, 1, 9, 0, 0, 0])));
        assert!(breaks_nal_units(&unit(&[0x65, 0, 0, 1, 9])));
        let second = [unit(&[0x65, 9]), unit(&[0x65, 0, 0, 0, 9])].concat();
        assert!(breaks_nal_units(&second));
        assert!(!breaks_nal_units(&[0, 0, 0, 9, 1]));
    }
}
