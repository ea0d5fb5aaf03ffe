//! Which bytes of a sample are protected, under which IV, and how.
//!
//! - [`subsample`]: which bytes, as found by the index.
//! - [`iv`]: which IV, with the argument that no counter is ever used twice.
//! - `pattern`: how, through `origin-cipher`.
//!
//! Keys come in as [`TrackKey`] (id and IV) for planning; the cipher itself is given to the render only.

pub mod iv;
pub(crate) mod pattern;
pub mod subsample;

use keystore_types::{ConstantIv, KeyId, Scheme};

use crate::bmff::sinf::TrackEncryption;
use crate::codec::Media;

pub use subsample::SubsampleTable;

/// What is public about a content key: enough to plan and to write manifests, never enough to encrypt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrackKey {
    /// `default_KID`.
    pub key_id: KeyId,
    /// `default_constant_IV` under `cbcs`; unused under `cenc`, whose IVs are structural.
    pub iv: ConstantIv,
}

/// The `tenc` of a track (ISO/IEC 23001-7 8.2, 9 and 10).
pub(crate) fn track_encryption(scheme: Scheme, media: Media, key: &TrackKey) -> TrackEncryption {
    let (pattern, per_sample_iv_size, constant_iv) = match (scheme, media) {
        (Scheme::Cenc, Media::Video | Media::Audio) => (None, iv::SAMPLE_IV_SIZE, None),
        (Scheme::Cbcs, Media::Video) => (Some((1, 9)), 0, Some(*key.iv.as_bytes())),
        // Whole-block full sample encryption is written as pattern 0:0 (9.7).
        (Scheme::Cbcs, Media::Audio) => (Some((0, 0)), 0, Some(*key.iv.as_bytes())),
    };
    TrackEncryption {
        pattern,
        per_sample_iv_size,
        key_id: key.key_id,
        constant_iv,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: TrackKey = TrackKey {
        key_id: KeyId::new([1; 16]),
        iv: ConstantIv::new([2; 16]),
    };

    #[test]
    fn e4_cbcs_audio_is_whole_block_with_a_constant_iv() {
        let tenc = track_encryption(Scheme::Cbcs, Media::Audio, &KEY);
        assert_eq!(tenc.pattern, Some((0, 0)));
        assert_eq!(
            (tenc.per_sample_iv_size, tenc.constant_iv),
            (0, Some([2; 16]))
        );
    }

    #[test]
    fn e3_cbcs_video_is_one_block_in_ten() {
        let tenc = track_encryption(Scheme::Cbcs, Media::Video, &KEY);
        assert_eq!(tenc.pattern, Some((1, 9)));
        assert_eq!(
            (tenc.per_sample_iv_size, tenc.constant_iv),
            (0, Some([2; 16]))
        );
    }

    #[test]
    fn e2_cenc_has_8_byte_ivs_and_shows_no_constant_one() {
        for media in [Media::Video, Media::Audio] {
            let tenc = track_encryption(Scheme::Cenc, media, &KEY);
            assert_eq!(
                (tenc.pattern, tenc.per_sample_iv_size, tenc.constant_iv),
                (None, 8, None)
            );
        }
    }
}
