//! Undoing common encryption, one sample at a time, in place (ISO/IEC 23001-7 clauses 9 and 10).

use aes::Aes128;
use aes::cipher::{BlockCipherEncrypt, BlockModeDecrypt, KeyInit, KeyIvInit, StreamCipher};

use crate::mp4::{Protection, Sample, Scheme};

/// A content key, as a licence hands it to a player.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Key(pub [u8; 16]);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

/// Why a sample cannot be decrypted at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Undecryptable {
    /// Neither `senc` nor `tenc` holds an IV.
    #[error("the sample has no IV")]
    NoIv,
    /// The byte counts of `senc` do not add up to the sample.
    #[error("subsamples cover {covered} bytes of a sample of {size}")]
    Coverage {
        /// What the subsamples add up to.
        covered: usize,
        /// What the sample holds.
        size: usize,
    },
}

/// Decrypts the bytes of `sample` where they lie.
///
/// # Errors
/// Where the segment's own boxes make decryption impossible; a wrong key is not noticed here.
pub fn decrypt(
    protection: &Protection,
    key: &[u8; 16],
    sample: &Sample,
    data: &mut [u8],
) -> Result<(), Undecryptable> {
    let iv = sample
        .iv
        .or(protection.constant_iv)
        .ok_or(Undecryptable::NoIv)?;
    let ranges = protected(sample, data.len())?;
    match protection.scheme {
        Scheme::Cenc => {
            // The counter is the low 64 bits of the block and runs on over the ranges of a sample.
            let mut cipher = ctr::Ctr64BE::<Aes128>::new(key.into(), &iv.into());
            for range in ranges {
                cipher.apply_keystream(&mut data[range]);
            }
        }
        Scheme::Cbcs => {
            for range in ranges {
                decrypt_pattern(&mut data[range], key, &iv, protection.pattern);
            }
        }
    }
    Ok(())
}

/// The checksum of a key in a PlayReady header (PlayReady Header Specification): the first 8 bytes of its id, in GUID order,
/// under AES-128-ECB.
pub fn checksum(key: &[u8; 16], guid: &[u8; 16]) -> [u8; 8] {
    let mut block = (*guid).into();
    Aes128::new(key.into()).encrypt_block(&mut block);
    let mut first = [0; 8];
    first.copy_from_slice(&block[..8]);
    first
}

/// The protected ranges of a sample of `size` bytes.
fn protected(sample: &Sample, size: usize) -> Result<Vec<std::ops::Range<usize>>, Undecryptable> {
    let Some(subsamples) = &sample.subsamples else {
        return Ok(std::iter::once(0..size).collect());
    };
    let mut at = 0_usize;
    let mut ranges = Vec::with_capacity(subsamples.len());
    for &(clear, protected) in subsamples {
        let start = at.saturating_add(usize::from(clear));
        at = start.saturating_add(usize::try_from(protected).unwrap_or(usize::MAX));
        ranges.push(start..at);
    }
    if at != size {
        return Err(Undecryptable::Coverage { covered: at, size });
    }
    Ok(ranges)
}

/// One chain over the encrypted blocks of the pattern; a block cut short stays as it is (clause 9.6).
fn decrypt_pattern(data: &mut [u8], key: &[u8; 16], iv: &[u8; 16], (crypt, skip): (u8, u8)) {
    let mut chain = cbc::Decryptor::<Aes128>::new(key.into(), iv.into());
    let period = usize::from(crypt) + usize::from(skip);
    for (number, block) in data.chunks_exact_mut(16).enumerate() {
        if period == 0 || number % period < usize::from(crypt) {
            let mut whole: [u8; 16] = [0; 16];
            whole.copy_from_slice(block);
            let mut whole = whole.into();
            chain.decrypt_block(&mut whole);
            block.copy_from_slice(&whole);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of OpenSSL (`openssl enc -aes-128-ctr`, `-aes-128-cbc -nopad`).
    const KEY: Key = Key([
        0x00, 0x10, 0x01, 0x00, 0x20, 0x03, 0x00, 0x50, 0x08, 0x01, 0x30, 0x21, 0x03, 0x40, 0x55,
        0x00,
    ]);

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap())
            .collect()
    }

    fn counting(len: u8) -> Vec<u8> {
        (0..len).collect()
    }

    fn protection(scheme: Scheme, pattern: (u8, u8)) -> Protection {
        let mut iv = [0; 16];
        iv.copy_from_slice(&counting(16));
        let constant_iv = (scheme == Scheme::Cbcs).then_some(iv);
        Protection {
            scheme,
            scheme_offset: 0,
            kid: [0; 16],
            kid_offset: 0,
            per_sample_iv_size: 8,
            constant_iv,
            pattern,
        }
    }

    fn sample(iv: Option<[u8; 16]>, subsamples: Option<Vec<(u16, u32)>>) -> Sample {
        Sample {
            bytes: 0..0,
            iv,
            subsamples,
        }
    }

    const CTR: &str = concat!(
        "591e3e4f381575db10f068eec589d54f6ff3948ed395c24822097a715632cc97",
        "6a875eb39d357b83b41431391f8e4efec81ff74dd0e3c1048c6c08cf55e66675",
    );
    const CTR_IV: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 0, 0, 0, 0, 0, 0, 0, 0];
    const CBC: &str = concat!(
        "5fbf9fece9c2d9dcebf4a832c0629881e0c70e7262732bae435f4a24c855905c",
        "75abf04bfba41ab11ada008685eea475e2be0dd0f74c96f07a29f6cc9de13f1b",
    );

    #[test]
    fn cenc_whole_sample() {
        let protection = protection(Scheme::Cenc, (0, 0));
        let mut data = hex(CTR);
        decrypt(&protection, &KEY.0, &sample(Some(CTR_IV), None), &mut data).unwrap();
        assert_eq!(data, counting(64));
    }

    #[test]
    fn cenc_counter_runs_on_over_subsamples() {
        let protection = protection(Scheme::Cenc, (0, 0));
        let cipher = hex(CTR);
        let mut data = [b"clear", &cipher[..16], b"again", &cipher[16..]].concat();
        let sample = sample(Some(CTR_IV), Some(vec![(5, 16), (5, 48)]));
        decrypt(&protection, &KEY.0, &sample, &mut data).unwrap();
        let plain = counting(64);
        assert_eq!(
            data,
            [b"clear", &plain[..16], b"again", &plain[16..]].concat()
        );
    }

    #[test]
    fn cbcs_audio_is_every_whole_block_and_leaves_the_tail() {
        let protection = protection(Scheme::Cbcs, (0, 0));
        let mut data = [hex(CBC).as_slice(), b"tail"].concat();
        decrypt(&protection, &KEY.0, &sample(None, None), &mut data).unwrap();
        assert_eq!(data, [counting(64).as_slice(), b"tail"].concat());
    }

    #[test]
    fn cbcs_video_is_one_block_in_ten_and_restarts_at_each_subsample() {
        let protection = protection(Scheme::Cbcs, (1, 9));
        let mut cipher = counting(0xb0);
        cipher[..16].copy_from_slice(&hex("5fbf9fece9c2d9dcebf4a832c0629881"));
        cipher[160..].copy_from_slice(&hex("4b2e2511f510e6496e464d372bea9eaf"));
        let mut data = [b"nal", cipher.as_slice(), b"nal", cipher.as_slice()].concat();
        let sample = sample(None, Some(vec![(3, 0xb0), (3, 0xb0)]));
        decrypt(&protection, &KEY.0, &sample, &mut data).unwrap();
        let plain = counting(0xb0);
        assert_eq!(
            data,
            [b"nal", plain.as_slice(), b"nal", plain.as_slice()].concat()
        );
    }

    #[test]
    fn refuses_what_cannot_be_decrypted() {
        let cenc = protection(Scheme::Cenc, (0, 0));
        let without_iv = decrypt(&cenc, &KEY.0, &sample(None, None), &mut [0; 16]);
        assert_eq!(without_iv, Err(Undecryptable::NoIv));
        let short = sample(Some(CTR_IV), Some(vec![(4, 16)]));
        let coverage = decrypt(&cenc, &KEY.0, &short, &mut [0; 21]);
        assert_eq!(
            coverage,
            Err(Undecryptable::Coverage {
                covered: 20,
                size: 21
            })
        );
    }
}
