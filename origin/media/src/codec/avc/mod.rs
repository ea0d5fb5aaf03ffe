//! H.264 as stored by ISO/IEC 14496-15: the decoder configuration record (`avcC`) and length-prefixed NAL
//! units.
//!
//! Parameter sets are parsed as far as a slice header needs them, and no further.

mod nal;
mod parameter_sets;
mod slice_header;

use bytes::Bytes;

pub use nal::{NalKind, NalUnit, NalUnits};
pub use parameter_sets::ParameterSets;
pub use slice_header::{SliceHeaderLen, slice_header_len};

use super::{CodecError, Colour, PixelAspect};
use parameter_sets::SequenceParameterSet;

/// The configuration of an `avc1` track.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AvcConfig {
    avcc: Bytes,
    nal_length_size: NalLengthSize,
    width: u16,
    height: u16,
    colour: Option<Colour>,
    pixel_aspect: PixelAspect,
    parameter_sets: ParameterSets,
}

impl AvcConfig {
    /// Reads an `AVCDecoderConfigurationRecord` (ISO/IEC 14496-15 5.3.3.1.2), the body of `avcC`.
    ///
    /// `colour` and `pixel_aspect` are those of the `colr` and `pasp` boxes; where a box is absent, the
    /// video usability information of the first sequence parameter set stands in.
    ///
    /// # Errors
    /// The record or a parameter set in it is malformed, or the record has no parameter set.
    pub fn parse(
        avcc: Bytes,
        colour: Option<Colour>,
        pixel_aspect: Option<PixelAspect>,
    ) -> Result<Self, CodecError> {
        let mut rest: &[u8] = &avcc;
        let [
            version,
            _profile,
            _constraints,
            _level,
            length_size,
            sps_count,
        ] = take(&mut rest)?;
        if version != 1 {
            return Err(CodecError::unsupported(format!(
                "configurationVersion is {version}, not 1"
            )));
        }
        let nal_length_size = match length_size & 3 {
            0 => NalLengthSize::One,
            1 => NalLengthSize::Two,
            3 => NalLengthSize::Four,
            _ => {
                return Err(CodecError::malformed(
                    "lengthSizeMinusOne is 2; it is 0, 1 or 3",
                ));
            }
        };
        let mut parameter_sets = ParameterSets::default();
        for _ in 0..sps_count & 0x1f {
            parameter_sets.add_sequence(take_nal(&mut rest)?)?;
        }
        let [pps_count] = take(&mut rest)?;
        for _ in 0..pps_count {
            parameter_sets.add_picture(take_nal(&mut rest)?)?;
        }
        // What may follow (chroma format, bit depths, SPS extensions) repeats the parameter sets.
        let sps = parameter_sets.first_sequence().ok_or_else(|| {
            CodecError::malformed("no sequence parameter set in the configuration")
        })?;
        if !parameter_sets.has_picture() {
            return Err(CodecError::malformed(
                "no picture parameter set in the configuration",
            ));
        }
        let (width, height) = picture_size(sps)?;
        let colour = colour.or(sps.colour);
        let pixel_aspect = pixel_aspect
            .or(sps.pixel_aspect)
            .unwrap_or(PixelAspect::SQUARE);
        Ok(Self {
            nal_length_size,
            width,
            height,
            colour,
            pixel_aspect,
            parameter_sets,
            avcc,
        })
    }

    /// The body of `avcC`, as the source has it.
    pub fn avcc(&self) -> &Bytes {
        &self.avcc
    }

    /// Width of the shown picture in pixels, after cropping.
    pub fn width(&self) -> u16 {
        self.width
    }

    /// Height of the shown picture in pixels, after cropping; of a whole frame where fields are coded.
    pub fn height(&self) -> u16 {
        self.height
    }

    /// Bytes of the length before each NAL unit: 1, 2 or 4.
    pub fn nal_length_size(&self) -> NalLengthSize {
        self.nal_length_size
    }

    /// The colour description, if the source gives one.
    pub fn colour(&self) -> Option<Colour> {
        self.colour
    }

    /// The shape of a pixel; square where the source says nothing.
    pub fn pixel_aspect(&self) -> PixelAspect {
        self.pixel_aspect
    }

    /// The parameter sets that slices may name.
    pub fn parameter_sets(&self) -> &ParameterSets {
        &self.parameter_sets
    }

    /// `avc1.PPCCLL` (RFC 6381 3.3): profile, constraint flags and level as hexadecimal digits.
    pub fn rfc6381(&self) -> String {
        let [profile, constraints, level] = [self.avcc[1], self.avcc[2], self.avcc[3]];
        format!("avc1.{profile:02x}{constraints:02x}{level:02x}")
    }

    /// The NAL units of `sample`, in order.
    pub fn nal_units<'a>(&self, sample: &'a [u8]) -> NalUnits<'a> {
        NalUnits::new(sample, self.nal_length_size)
    }
}

/// How many bytes the length before a NAL unit has (`lengthSizeMinusOne` + 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NalLengthSize {
    /// 1 byte.
    One,
    /// 2 bytes.
    Two,
    /// 4 bytes.
    Four,
}

impl NalLengthSize {
    /// The size in bytes.
    pub const fn bytes(self) -> usize {
        match self {
            Self::One => 1,
            Self::Two => 2,
            Self::Four => 4,
        }
    }
}

fn picture_size(sps: &SequenceParameterSet) -> Result<(u16, u16), CodecError> {
    let (width, height) = sps.cropped_size()?;
    match (u16::try_from(width), u16::try_from(height)) {
        (Ok(width), Ok(height)) => Ok((width, height)),
        _ => Err(CodecError::unsupported(format!(
            "a picture of {width}x{height}; a sample entry holds at most 65535 either way"
        ))),
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], CodecError> {
    let (head, tail) = rest.split_first_chunk().ok_or_else(|| {
        CodecError::malformed(format!("{N} more bytes needed, {} present", rest.len()))
    })?;
    *rest = tail;
    Ok(*head)
}

fn take_nal<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], CodecError> {
    let len = usize::from(u16::from_be_bytes(take(rest)?));
    let (nal, tail) = rest.split_at_checked(len).ok_or_else(|| {
        CodecError::malformed(format!(
            "a parameter set of {len} bytes, {} present",
            rest.len()
        ))
    })?;
    *rest = tail;
    Ok(nal)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// x264, High profile level 1.3, 320x180 (coded 320x192), CABAC: the 180p rung of the demo ladder.
    const SPS: &[u8] = &[
        0x67, 0x64, 0x00, 0x0d, 0xac, 0xd9, 0x41, 0x41, 0x9f, 0x9e, 0x10, 0x00, 0x00, 0x03, 0x00,
        0x10, 0x00, 0x00, 0x03, 0x03, 0x20, 0xf1, 0x42, 0x99, 0x60,
    ];
    const PPS: &[u8] = &[0x68, 0xeb, 0xe3, 0xcb, 0x22, 0xc0];

    fn record(length_size_minus_one: u8, sps: &[&[u8]], pps: &[&[u8]]) -> Bytes {
        let mut out = vec![1, 0x64, 0, 0x0d, 0xfc | length_size_minus_one];
        let mut sets = |count: u8, sets: &[&[u8]]| {
            out.push(count);
            for set in sets {
                out.extend_from_slice(&u16::try_from(set.len()).unwrap().to_be_bytes());
                out.extend_from_slice(set);
            }
        };
        sets(0xe0 | u8::try_from(sps.len()).unwrap(), sps);
        sets(u8::try_from(pps.len()).unwrap(), pps);
        out.into()
    }

    #[test]
    fn reads_a_record_of_x264() {
        let config = AvcConfig::parse(record(3, &[SPS], &[PPS]), None, None).unwrap();
        assert_eq!((config.width(), config.height()), (320, 180));
        assert_eq!(config.nal_length_size(), NalLengthSize::Four);
        assert_eq!(config.rfc6381(), "avc1.64000d");
        assert_eq!(config.pixel_aspect(), PixelAspect::SQUARE);
        assert_eq!(config.colour(), None);
    }

    #[test]
    fn length_sizes_are_1_2_and_4() {
        for (field, size) in [(0, 1), (1, 2), (3, 4)] {
            let config = AvcConfig::parse(record(field, &[SPS], &[PPS]), None, None).unwrap();
            assert_eq!(config.nal_length_size().bytes(), size);
        }
        assert!(AvcConfig::parse(record(2, &[SPS], &[PPS]), None, None).is_err());
    }

    #[test]
    fn every_truncation_is_refused() {
        let whole = record(3, &[SPS], &[PPS]);
        for len in 0..whole.len() {
            assert!(
                AvcConfig::parse(whole.slice(..len), None, None).is_err(),
                "{len} bytes"
            );
        }
    }

    #[test]
    fn a_record_without_parameter_sets_is_refused() {
        assert!(AvcConfig::parse(record(3, &[], &[PPS]), None, None).is_err());
        assert!(AvcConfig::parse(record(3, &[SPS], &[]), None, None).is_err());
    }

    #[test]
    fn thirty_one_sets_of_65535_bytes_in_a_short_record_are_refused() {
        let mut bytes = vec![1, 0x64, 0, 0x0d, 0xff, 0xff];
        bytes.extend_from_slice(&[0xff; 40]);
        let error = AvcConfig::parse(bytes.into(), None, None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "a parameter set of 65535 bytes, 38 present"
        );
    }
}
