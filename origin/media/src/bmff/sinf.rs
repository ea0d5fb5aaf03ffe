//! `sinf` and what it holds: how a track is protected (ISO/IEC 14496-12 8.12, ISO/IEC 23001-7 4 and 8.2).

use keystore_types::{KeyId, Scheme};

use super::writer::BoxWriter;

/// The fields of `tenc`: the defaults of a protected track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TrackEncryption {
    /// `default_crypt_byte_block` and `default_skip_byte_block`; `None` writes version 0.
    pub(crate) pattern: Option<(u8, u8)>,
    /// `default_Per_Sample_IV_Size`: 0 with a constant IV, else 8.
    pub(crate) per_sample_iv_size: u8,
    /// `default_KID`.
    pub(crate) key_id: KeyId,
    /// `default_constant_IV`.
    pub(crate) constant_iv: Option<[u8; 16]>,
}

/// Writes `sinf`{`frma`, `schm`, `schi`{`tenc`}} for a sample entry that was called `original`.
pub(crate) fn write(w: &mut BoxWriter, original: &[u8; 4], scheme: Scheme, tenc: &TrackEncryption) {
    w.boxed(b"sinf", |w| {
        w.boxed(b"frma", |w| w.raw(original));
        w.full(b"schm", 0, 0, |w| {
            w.raw(&scheme.four_cc());
            w.u32(0x0001_0000);
        });
        w.boxed(b"schi", |w| write_tenc(w, tenc));
    });
}

fn write_tenc(w: &mut BoxWriter, tenc: &TrackEncryption) {
    let (version, blocks) = match tenc.pattern {
        Some((crypt, skip)) => (1, crypt << 4 | skip),
        None => (0, 0),
    };
    w.full(b"tenc", version, 0, |w| {
        w.u8(0);
        w.u8(blocks);
        w.u8(1);
        w.u8(tenc.per_sample_iv_size);
        w.raw(tenc.key_id.as_bytes());
        if let Some(iv) = tenc.constant_iv {
            w.u8(16);
            w.raw(&iv);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY_ID: KeyId = KeyId::new([0xaa; 16]);

    #[test]
    fn e13_cbcs_video_has_version_1_pattern_and_constant_iv() {
        let mut w = BoxWriter::new();
        let tenc = TrackEncryption {
            pattern: Some((1, 9)),
            per_sample_iv_size: 0,
            key_id: KEY_ID,
            constant_iv: Some([0xbb; 16]),
        };
        write(&mut w, b"avc1", Scheme::Cbcs, &tenc);
        let expected = [
            b"\0\0\0\x61sinf\0\0\0\x0cfrmaavc1\0\0\0\x14schm\0\0\0\0cbcs\0\x01\0\0".as_slice(),
            b"\0\0\0\x39schi\0\0\0\x31tenc\x01\0\0\0\0\x19\x01\0",
            &[0xaa; 16],
            b"\x10",
            &[0xbb; 16],
        ]
        .concat();
        assert_eq!(w.into_bytes(), expected);
    }

    #[test]
    fn e13_cenc_has_version_0_and_an_iv_per_sample() {
        let mut w = BoxWriter::new();
        let tenc = TrackEncryption {
            pattern: None,
            per_sample_iv_size: 8,
            key_id: KEY_ID,
            constant_iv: None,
        };
        write_tenc(&mut w, &tenc);
        let expected = [
            b"\0\0\0\x20tenc\0\0\0\0\0\0\x01\x08".as_slice(),
            &[0xaa; 16],
        ]
        .concat();
        assert_eq!(w.into_bytes(), expected);
    }
}
