//! The elementary stream descriptor of MPEG-4 audio (ISO/IEC 14496-1 7.2.6, 14496-14 5.6).

use super::BoxRef;
use crate::error::ParseError;

/// What `esds` says of the decoder.
pub(crate) struct Esds<'a> {
    /// `objectTypeIndication`: 0x40 is MPEG-4 audio.
    pub(crate) object_type: u8,
    /// The `DecoderSpecificInfo`: for MPEG-4 audio an `AudioSpecificConfig`. May be empty.
    pub(crate) decoder_specific_info: &'a [u8],
}

const ES_DESCRIPTOR: u8 = 3;
const DECODER_CONFIG_DESCRIPTOR: u8 = 4;
const DECODER_SPECIFIC_INFO: u8 = 5;

impl<'a> Esds<'a> {
    pub(crate) fn parse(esds: &BoxRef<'a>) -> Result<Self, ParseError> {
        let mut fields = esds.fields();
        fields.version(0)?;
        let bytes = fields.rest();
        Self::parse_descriptors(bytes).map_err(|reason| esds.malformed(reason))
    }

    fn parse_descriptors(mut bytes: &'a [u8]) -> Result<Self, String> {
        let mut es = descriptor(&mut bytes, ES_DESCRIPTOR)?;
        let [_, _, flags] = take(&mut es)?;
        if flags & 0x80 != 0 {
            take::<2>(&mut es)?; // dependsOn_ES_ID
        }
        if flags & 0x40 != 0 {
            let [len] = take(&mut es)?;
            es = es
                .get(usize::from(len)..)
                .ok_or("the URL is longer than its descriptor")?;
        }
        if flags & 0x20 != 0 {
            take::<2>(&mut es)?; // OCR_ES_Id
        }
        let mut config = descriptor(&mut es, DECODER_CONFIG_DESCRIPTOR)?;
        // objectTypeIndication, streamType, bufferSizeDB, maxBitrate, avgBitrate
        let [object_type, ..] = take::<13>(&mut config)?;
        let decoder_specific_info = if config.is_empty() {
            config
        } else {
            descriptor(&mut config, DECODER_SPECIFIC_INFO)?
        };
        Ok(Self {
            object_type,
            decoder_specific_info,
        })
    }
}

/// Takes the descriptor `tag` off the front of `rest`.
fn descriptor<'a>(rest: &mut &'a [u8], tag: u8) -> Result<&'a [u8], String> {
    let [found] = take(rest)?;
    if found != tag {
        return Err(format!("descriptor {found} where {tag} is due"));
    }
    // At most four bytes of length (ISO/IEC 14496-1 8.3.3).
    let mut len = 0_usize;
    for byte in 0.. {
        if byte == 4 {
            return Err(format!(
                "the length of descriptor {tag} has more than 4 bytes"
            ));
        }
        let [bits] = take(rest)?;
        len = len << 7 | usize::from(bits & 0x7f);
        if bits & 0x80 == 0 {
            break;
        }
    }
    let (body, after) = rest
        .split_at_checked(len)
        .ok_or_else(|| format!("descriptor {tag} of {len} bytes, {} present", rest.len()))?;
    *rest = after;
    Ok(body)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], String> {
    let (head, tail) = rest.split_first_chunk().ok_or_else(|| {
        format!(
            "{N} more bytes needed in a descriptor, {} present",
            rest.len()
        )
    })?;
    *rest = tail;
    Ok(*head)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As ffmpeg writes it: lengths of four bytes, AAC-LC 48 kHz stereo.
    const FFMPEG: &[u8] = &[
        3, 0x80, 0x80, 0x80, 0x25, 0, 2, 0, 4, 0x80, 0x80, 0x80, 0x17, 0x40, 0x15, 0, 0, 0, 0, 1,
        0xf4, 0, 0, 1, 0xf4, 0, 5, 0x80, 0x80, 0x80, 5, 0x11, 0x90, 0x56, 0xe5, 0, 6, 0x80, 0x80,
        0x80, 1, 2,
    ];

    #[test]
    fn finds_the_audio_specific_config() {
        let esds = Esds::parse_descriptors(FFMPEG).unwrap();
        assert_eq!(esds.object_type, 0x40);
        assert_eq!(esds.decoder_specific_info, [0x11, 0x90, 0x56, 0xe5, 0]);
    }

    #[test]
    fn an_endless_length_chain_is_refused() {
        let error = Esds::parse_descriptors(&[3, 0x80, 0x80, 0x80, 0x80, 0x80])
            .err()
            .unwrap();
        assert_eq!(error, "the length of descriptor 3 has more than 4 bytes");
    }

    #[test]
    fn every_truncation_is_refused_or_leaves_no_config() {
        for len in 0..FFMPEG.len() - 6 {
            assert!(
                Esds::parse_descriptors(&FFMPEG[..len]).is_err(),
                "{len} bytes"
            );
        }
    }
}
