//! Compares decrypted samples with those of the same segment under the clear policy.

use crate::decrypt::{Key, Undecryptable, decrypt};
use crate::mp4::{Fragment, Header, Malformed};

/// A segment with what is needed to read it.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    /// Its init segment.
    pub header: &'a Header,
    /// Its bytes.
    pub bytes: &'a [u8],
}

/// How a protected segment differs from the clear one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Difference {
    /// The protected segment cannot be read.
    #[error("protected segment: {0}")]
    Protected(Malformed),
    /// The clear segment cannot be read.
    #[error("clear segment: {0}")]
    Clear(Malformed),
    /// One of the two is protected or clear where it must not be.
    #[error("the track is not protected under the one policy and clear under the other")]
    Kind,
    /// A sample's own boxes make decryption impossible.
    #[error("sample {sample}: {source}")]
    Undecryptable {
        /// Number of the sample, from 0.
        sample: usize,
        /// What is wrong.
        source: Undecryptable,
    },
    /// The timelines differ.
    #[error("decode time is {protected}, under the clear policy {clear}")]
    DecodeTime {
        /// Of the protected segment, in ticks.
        protected: u64,
        /// Of the clear one.
        clear: u64,
    },
    /// Not the same number of samples.
    #[error("{protected} samples, under the clear policy {clear}")]
    Count {
        /// In the protected segment.
        protected: usize,
        /// In the clear one.
        clear: usize,
    },
    /// A sample's bytes differ after decryption.
    #[error("sample {sample} differs after decryption, first at byte {byte}")]
    Sample {
        /// Number of the sample, from 0.
        sample: usize,
        /// The first byte that differs.
        byte: usize,
    },
    /// Nothing was encrypted at all.
    #[error("no byte of the segment is encrypted")]
    Unprotected,
}

/// Decrypts every sample of `protected` and compares it with `clear`, byte for byte.
///
/// Returns the number of samples compared.
///
/// # Errors
/// The first difference.
pub fn compare(protected: Segment<'_>, key: &Key, clear: Segment<'_>) -> Result<usize, Difference> {
    let (Some(protection), None) = (&protected.header.protection, &clear.header.protection) else {
        return Err(Difference::Kind);
    };
    let ours = Fragment::read(protected.header, protected.bytes).map_err(Difference::Protected)?;
    let theirs = Fragment::read(clear.header, clear.bytes).map_err(Difference::Clear)?;
    if ours.base_decode_time != theirs.base_decode_time {
        return Err(Difference::DecodeTime {
            protected: ours.base_decode_time,
            clear: theirs.base_decode_time,
        });
    }
    let counts = (ours.samples.len(), theirs.samples.len());
    if counts.0 != counts.1 {
        return Err(Difference::Count {
            protected: counts.0,
            clear: counts.1,
        });
    }
    let mut changed = false;
    let mut data = Vec::new();
    for (number, (sample, same)) in ours.samples.iter().zip(&theirs.samples).enumerate() {
        let cipher = &protected.bytes[sample.bytes.clone()];
        let plain = &clear.bytes[same.bytes.clone()];
        changed |= cipher != plain;
        data.clear();
        data.extend_from_slice(cipher);
        decrypt(protection, &key.0, sample, &mut data).map_err(|source| {
            Difference::Undecryptable {
                sample: number,
                source,
            }
        })?;
        if data != plain {
            let byte = data.iter().zip(plain).take_while(|(a, b)| a == b).count();
            return Err(Difference::Sample {
                sample: number,
                byte,
            });
        }
    }
    if !changed {
        return Err(Difference::Unprotected);
    }
    Ok(counts.0)
}

#[cfg(test)]
mod tests {
    use aes::cipher::{KeyIvInit, StreamCipher};

    use super::*;
    use crate::mp4::testing::segment;
    use crate::mp4::{Protection, Scheme};

    const KEY: Key = Key([3; 16]);
    const PLAIN: [&[u8]; 2] = [b"headABCDEFGHIJKLMNOP", b"more"];

    fn clear_header() -> Header {
        Header {
            protection: None,
            codec: *b"avc1",
            pssh: Vec::new(),
            default_sample_size: 0,
        }
    }

    fn header() -> Header {
        let protection = Protection {
            scheme: Scheme::Cenc,
            scheme_offset: 0,
            kid: [0; 16],
            kid_offset: 0,
            per_sample_iv_size: 8,
            constant_iv: None,
            pattern: (0, 0),
        };
        Header {
            protection: Some(protection),
            codec: *b"avc1",
            pssh: Vec::new(),
            default_sample_size: 0,
        }
    }

    /// The first sample with its last 16 bytes encrypted, or not, and the second as it is.
    fn protected(encrypt: bool) -> Vec<u8> {
        let mut first = PLAIN[0].to_vec();
        if encrypt {
            let iv = [5, 5, 5, 5, 5, 5, 5, 5, 0, 0, 0, 0, 0, 0, 0, 0];
            ctr::Ctr128BE::<aes::Aes128>::new(&KEY.0.into(), &iv.into())
                .apply_keystream(&mut first[4..]);
        }
        let (clear, run): ([u8; 2], [u8; 4]) = if encrypt {
            ([0, 4], [0, 0, 0, 16])
        } else {
            ([0, 20], [0; 4])
        };
        let senc = [
            &[0, 0, 0, 2, 0, 0, 0, 2][..],
            &[5; 8],
            &[0, 1],
            &clear,
            &run,
            &[6; 8],
            &[0, 1, 0, 4, 0, 0, 0, 0],
        ]
        .concat();
        segment(&[&first, PLAIN[1]], Some(&senc))
    }

    fn run(protected: &[u8], key: &Key, clear: &[u8]) -> Result<usize, Difference> {
        let (header, clear_header) = (header(), clear_header());
        compare(
            Segment {
                header: &header,
                bytes: protected,
            },
            key,
            Segment {
                header: &clear_header,
                bytes: clear,
            },
        )
    }

    #[test]
    fn equal_samples_are_counted() {
        assert_eq!(run(&protected(true), &KEY, &segment(&PLAIN, None)), Ok(2));
    }

    #[test]
    fn a_wrong_key_and_a_changed_byte_are_noticed() {
        let clear = segment(&PLAIN, None);
        assert_eq!(
            run(&protected(true), &Key([4; 16]), &clear),
            Err(Difference::Sample { sample: 0, byte: 4 })
        );
        let changed = segment(&[PLAIN[0], b"mOre"], None);
        assert_eq!(
            run(&protected(true), &KEY, &changed),
            Err(Difference::Sample { sample: 1, byte: 1 })
        );
    }

    #[test]
    fn a_segment_that_is_not_encrypted_is_noticed() {
        let clear = segment(&PLAIN, None);
        assert_eq!(
            run(&protected(false), &KEY, &clear),
            Err(Difference::Unprotected)
        );
    }

    #[test]
    fn another_number_of_samples_is_noticed() {
        let fewer = segment(&PLAIN[..1], None);
        assert_eq!(
            run(&protected(true), &KEY, &fewer),
            Err(Difference::Count {
                protected: 2,
                clear: 1
            })
        );
    }
}
