//! Sample entries, written fresh from the codec configuration: nothing that a source's own entry may carry beside
//! it gets through (ISO/IEC 14496-12 8.5.2, 12.1.3, 12.2.3).

use keystore_types::Scheme;

use super::sinf::{self, TrackEncryption};
use super::writer::BoxWriter;
use crate::codec::{AacConfig, AvcConfig, CodecConfig};

/// Writes the sample entry of `codec`; a protected one is renamed and says what it was (`sinf` comes last, after
/// the codec's own boxes).
pub(crate) fn write(
    w: &mut BoxWriter,
    codec: &CodecConfig,
    protection: Option<(Scheme, &TrackEncryption)>,
) {
    let (clear, protected) = match codec {
        CodecConfig::Avc(_) => (b"avc1", b"encv"),
        CodecConfig::Aac(_) => (b"mp4a", b"enca"),
    };
    w.boxed(
        if protection.is_some() {
            protected
        } else {
            clear
        },
        |w| {
            w.zeros(6);
            w.u16(1); // data_reference_index
            match codec {
                CodecConfig::Avc(avc) => visual(w, avc),
                CodecConfig::Aac(aac) => audio(w, aac),
            }
            if let Some((scheme, tenc)) = protection {
                sinf::write(w, clear, scheme, tenc);
            }
        },
    );
}

fn visual(w: &mut BoxWriter, avc: &AvcConfig) {
    w.zeros(16);
    w.u16(avc.width());
    w.u16(avc.height());
    w.u32(0x0048_0000); // 72 dpi
    w.u32(0x0048_0000);
    w.u32(0);
    w.u16(1); // frame_count
    w.zeros(32); // compressorname
    w.u16(0x0018); // depth: colour without alpha
    w.u16(0xffff);
    w.boxed(b"avcC", |w| w.raw(avc.avcc()));
    if let Some(colour) = avc.colour() {
        w.boxed(b"colr", |w| {
            w.raw(b"nclx");
            w.u16(colour.primaries);
            w.u16(colour.transfer);
            w.u16(colour.matrix);
            w.u8(if colour.full_range { 0x80 } else { 0 });
        });
    }
    let aspect = avc.pixel_aspect();
    w.boxed(b"pasp", |w| {
        w.u32(aspect.horizontal);
        w.u32(aspect.vertical);
    });
}

fn audio(w: &mut BoxWriter, aac: &AacConfig) {
    w.zeros(8);
    w.u16(aac.channels());
    w.u16(16); // samplesize
    w.zeros(4);
    // 16.16 cannot hold 88.2 or 96 kHz; readers take those from the AudioSpecificConfig.
    w.u32(u16::try_from(aac.sample_rate()).map_or(0, |rate| u32::from(rate) << 16));
    w.full(b"esds", 0, 0, |w| {
        elementary_stream(w, aac.audio_specific_config())
    });
}

/// `ES_Descriptor` (ISO/IEC 14496-1 7.2.6.5) with its three children.
fn elementary_stream(w: &mut BoxWriter, audio_specific_config: &[u8]) {
    const ES: u8 = 3;
    const DECODER_CONFIG: u8 = 4;
    const DECODER_SPECIFIC_INFO: u8 = 5;
    const SYNC_LAYER_CONFIG: u8 = 6;
    const AAC: u8 = 0x40;
    const AUDIO_STREAM: u8 = 5 << 2 | 1;

    let specific = descriptor(DECODER_SPECIFIC_INFO, audio_specific_config);
    // Buffer size and bit rates are 0: not stated.
    let decoder = [&[AAC, AUDIO_STREAM], [0; 11].as_slice(), &specific].concat();
    let children = [
        descriptor(DECODER_CONFIG, &decoder),
        descriptor(SYNC_LAYER_CONFIG, &[2]),
    ]
    .concat();
    // ES_ID is 0 and there are no optional fields.
    w.raw(&descriptor(ES, &[&[0, 0, 0], children.as_slice()].concat()));
}

/// Tag, length in 7-bit groups, body.
fn descriptor(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let len = body.len();
    for shift in [21, 14, 7] {
        if len >> shift > 0 {
            out.push(0x80 | low_seven(len >> shift));
        }
    }
    out.push(low_seven(len));
    out.extend(body);
    out
}

fn low_seven(value: usize) -> u8 {
    let [low, ..] = value.to_le_bytes();
    low & 0x7f
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_have_the_shortest_length() {
        assert_eq!(descriptor(5, &[0x11, 0x90]), [5, 2, 0x11, 0x90]);
        assert_eq!(descriptor(3, &[0; 200])[..3], [3, 0x81, 0x48]);
    }

    #[test]
    fn esds_of_stereo_aac() {
        let mut w = BoxWriter::new();
        elementary_stream(&mut w, &[0x11, 0x90]);
        let expected = [
            &[3, 25, 0, 0, 0, 4, 17, 0x40, 0x15][..],
            &[0; 11],
            &[5, 2, 0x11, 0x90, 6, 1, 2],
        ];
        assert_eq!(w.into_bytes(), expected.concat());
    }
}
