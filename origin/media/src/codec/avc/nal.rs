use super::NalLengthSize;
use crate::error::{ParseError, Place};

/// What a NAL unit is, as far as protection cares (ITU-T H.264 table 7-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NalKind {
    /// A coded slice (types 1 and 5): its header stays clear, the rest is protected.
    Slice,
    /// A slice data partition (types 2, 3 and 4) of the Extended profile, which no player of CMAF decodes.
    Partition,
    /// A sequence or picture parameter set, or an extension of one (types 7, 8, 13 and 15).
    ParameterSet,
    /// Anything else, wholly clear: SEI, delimiters, end of sequence, filler, auxiliary and scalable layers.
    Other,
}

impl NalKind {
    const fn of_header(byte: u8) -> Self {
        match byte & 0x1f {
            1 | 5 => Self::Slice,
            2..=4 => Self::Partition,
            7 | 8 | 13 | 15 => Self::ParameterSet,
            _ => Self::Other,
        }
    }
}

/// One NAL unit of a sample.
#[derive(Clone, Copy, Debug)]
pub struct NalUnit<'a> {
    /// Where its length stands, in bytes from the start of the sample.
    pub offset: usize,
    /// The unit with its header byte, without its length. Empty where the length is 0.
    pub bytes: &'a [u8],
}

impl NalUnit<'_> {
    /// What it is; an empty unit is [`NalKind::Other`].
    pub fn kind(&self) -> NalKind {
        self.bytes
            .first()
            .map_or(NalKind::Other, |byte| NalKind::of_header(*byte))
    }
}

/// The NAL units of a sample (ISO/IEC 14496-15 5.3.3.1.1), ending at the first error.
#[derive(Clone, Debug)]
pub struct NalUnits<'a> {
    sample: &'a [u8],
    at: usize,
    length_size: NalLengthSize,
}

impl<'a> NalUnits<'a> {
    pub(super) fn new(sample: &'a [u8], length_size: NalLengthSize) -> Self {
        Self {
            sample,
            at: 0,
            length_size,
        }
    }

    fn read(&mut self) -> Result<NalUnit<'a>, String> {
        let rest = &self.sample[self.at..];
        let (length, rest) = match self.length_size {
            NalLengthSize::One => rest
                .split_first_chunk()
                .map(|(b, rest)| (u32::from(u8::from_be_bytes(*b)), rest)),
            NalLengthSize::Two => rest
                .split_first_chunk()
                .map(|(b, rest)| (u32::from(u16::from_be_bytes(*b)), rest)),
            NalLengthSize::Four => rest
                .split_first_chunk()
                .map(|(b, rest)| (u32::from_be_bytes(*b), rest)),
        }
        .ok_or_else(|| format!("{} bytes left, too few for a NAL length", rest.len()))?;
        let bytes = usize::try_from(length)
            .ok()
            .and_then(|length| rest.get(..length))
            .ok_or_else(|| {
                format!(
                    "a NAL unit of {length} bytes, {} left in the sample",
                    rest.len()
                )
            })?;
        let unit = NalUnit {
            offset: self.at,
            bytes,
        };
        self.at += self.length_size.bytes() + bytes.len();
        Ok(unit)
    }
}

impl<'a> Iterator for NalUnits<'a> {
    type Item = Result<NalUnit<'a>, ParseError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at == self.sample.len() {
            return None;
        }
        let offset = self.at as u64;
        Some(self.read().map_err(|reason| {
            self.at = self.sample.len();
            ParseError::malformed(Place::new("sample", offset), reason)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(sample: &[u8], size: NalLengthSize) -> Result<Vec<usize>, ParseError> {
        NalUnits::new(sample, size)
            .map(|unit| unit.map(|unit| unit.bytes.len()))
            .collect()
    }

    #[test]
    fn walks_every_length_size() {
        assert_eq!(
            lengths(&[1, 9, 0, 2, 6, 6], NalLengthSize::One).unwrap(),
            [1, 0, 2]
        );
        assert_eq!(
            lengths(&[0, 1, 9, 0, 2, 6, 6], NalLengthSize::Two).unwrap(),
            [1, 2]
        );
        assert_eq!(lengths(&[0, 0, 0, 1, 9], NalLengthSize::Four).unwrap(), [1]);
        assert_eq!(lengths(&[], NalLengthSize::Four).unwrap(), [0; 0]);
    }

    #[test]
    fn a_length_past_the_sample_is_refused_where_it_stands() {
        let error = lengths(&[0, 0, 0, 1, 9, 0, 0, 0, 2, 6], NalLengthSize::Four).unwrap_err();
        assert_eq!(
            error.to_string(),
            "sample at 0x5: a NAL unit of 2 bytes, 1 left in the sample"
        );
        assert!(lengths(&[0, 0, 0], NalLengthSize::Four).is_err());
        assert!(lengths(&[0xff, 0xff, 0xff, 0xff, 1], NalLengthSize::Four).is_err());
    }
}
