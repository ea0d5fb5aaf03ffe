//! Sample tables (ISO/IEC 14496-12 8.6 and 8.7): each is a view of entries that are all present.

use super::BoxRef;
use crate::error::ParseError;

/// `stts`: runs of samples with one duration.
pub(crate) struct Stts<'a>(&'a [[u8; 8]]);

impl<'a> Stts<'a> {
    pub(crate) fn parse(stts: &BoxRef<'a>) -> Result<Self, ParseError> {
        let mut fields = stts.fields();
        fields.version(0)?;
        Ok(Self(fields.table()?))
    }

    /// Sample count and sample delta of each run.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (u32, u32)> + 'a {
        self.0.iter().map(pair)
    }
}

/// `ctts`: runs of samples with one composition offset.
pub(crate) struct Ctts<'a>(&'a [[u8; 8]]);

impl<'a> Ctts<'a> {
    pub(crate) fn parse(ctts: &BoxRef<'a>) -> Result<Self, ParseError> {
        let mut fields = ctts.fields();
        fields.version(1)?;
        Ok(Self(fields.table()?))
    }

    /// Sample count and sample offset of each run.
    ///
    /// Version 0 is read as signed too: muxers write negative offsets there, and an offset of 2^31 ticks or
    /// more is seen nowhere.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (u32, i32)> + 'a {
        self.0
            .iter()
            .map(pair)
            .map(|(count, offset)| (count, offset.cast_signed()))
    }
}

/// `stss`: numbers of the sync samples, counting from 1.
pub(crate) struct Stss<'a>(&'a [[u8; 4]]);

impl<'a> Stss<'a> {
    pub(crate) fn parse(stss: &BoxRef<'a>) -> Result<Self, ParseError> {
        let mut fields = stss.fields();
        fields.version(0)?;
        Ok(Self(fields.table()?))
    }

    pub(crate) fn numbers(&self) -> impl Iterator<Item = u32> + 'a {
        self.0.iter().map(|bytes| u32::from_be_bytes(*bytes))
    }
}

/// `stsc`: runs of chunks with one number of samples.
pub(crate) struct Stsc<'a>(&'a [[u8; 12]]);

/// An entry of `stsc`.
pub(crate) struct StscRun {
    /// Counting from 1.
    pub(crate) first_chunk: u32,
    pub(crate) samples_per_chunk: u32,
    /// Counting from 1.
    pub(crate) sample_description_index: u32,
}

impl<'a> Stsc<'a> {
    pub(crate) fn parse(stsc: &BoxRef<'a>) -> Result<Self, ParseError> {
        let mut fields = stsc.fields();
        fields.version(0)?;
        Ok(Self(fields.table()?))
    }

    pub(crate) fn runs(&self) -> impl Iterator<Item = StscRun> + 'a {
        self.0
            .iter()
            .map(|[a, b, c, d, e, f, g, h, i, j, k, l]| StscRun {
                first_chunk: u32::from_be_bytes([*a, *b, *c, *d]),
                samples_per_chunk: u32::from_be_bytes([*e, *f, *g, *h]),
                sample_description_index: u32::from_be_bytes([*i, *j, *k, *l]),
            })
    }
}

/// `stsz` or `stz2`.
pub(crate) enum SampleSizes<'a> {
    /// So many samples of one size: no entries are stored.
    Constant { size: u32, count: u32 },
    /// 4 bytes each.
    Words(&'a [[u8; 4]]),
    /// 2 bytes each.
    Halves(&'a [[u8; 2]]),
    /// 1 byte each.
    Bytes(&'a [u8]),
    /// 4 bits each, the first in the upper half of a byte.
    Nibbles { bytes: &'a [u8], count: u32 },
}

impl<'a> SampleSizes<'a> {
    pub(crate) fn parse_stsz(stsz: &BoxRef<'a>) -> Result<Self, ParseError> {
        let mut fields = stsz.fields();
        fields.version(0)?;
        let size = fields.u32()?;
        let count = fields.u32()?;
        if size != 0 {
            Ok(Self::Constant { size, count })
        } else {
            fields.entries(count).map(Self::Words)
        }
    }

    pub(crate) fn parse_stz2(stz2: &BoxRef<'a>) -> Result<Self, ParseError> {
        let mut fields = stz2.fields();
        fields.version(0)?;
        let [_, _, _, field_size] = fields.array()?;
        let count = fields.u32()?;
        match field_size {
            4 => {
                let bytes = fields.entries::<1>(count.div_ceil(2))?.as_flattened();
                Ok(Self::Nibbles { bytes, count })
            }
            8 => fields
                .entries::<1>(count)
                .map(|entries| Self::Bytes(entries.as_flattened())),
            16 => fields.entries(count).map(Self::Halves),
            other => Err(stz2.malformed(format!("field_size is {other}, not 4, 8 or 16"))),
        }
    }

    pub(crate) fn count(&self) -> usize {
        match self {
            Self::Constant { count, .. } | Self::Nibbles { count, .. } => *count as usize,
            Self::Words(entries) => entries.len(),
            Self::Halves(entries) => entries.len(),
            Self::Bytes(entries) => entries.len(),
        }
    }

    /// The size of sample `n`, which is below [`SampleSizes::count`].
    pub(crate) fn size(&self, n: usize) -> u32 {
        match self {
            Self::Constant { size, .. } => *size,
            Self::Words(entries) => u32::from_be_bytes(entries[n]),
            Self::Halves(entries) => u16::from_be_bytes(entries[n]).into(),
            Self::Bytes(entries) => entries[n].into(),
            Self::Nibbles { bytes, .. } => {
                let byte = bytes[n / 2];
                u32::from(if n.is_multiple_of(2) {
                    byte >> 4
                } else {
                    byte & 0xf
                })
            }
        }
    }
}

/// `stco` or `co64`.
pub(crate) enum ChunkOffsets<'a> {
    /// `stco`.
    Short(&'a [[u8; 4]]),
    /// `co64`.
    Long(&'a [[u8; 8]]),
}

impl<'a> ChunkOffsets<'a> {
    pub(crate) fn parse_stco(stco: &BoxRef<'a>) -> Result<Self, ParseError> {
        let mut fields = stco.fields();
        fields.version(0)?;
        fields.table().map(Self::Short)
    }

    pub(crate) fn parse_co64(co64: &BoxRef<'a>) -> Result<Self, ParseError> {
        let mut fields = co64.fields();
        fields.version(0)?;
        fields.table().map(Self::Long)
    }

    pub(crate) fn count(&self) -> usize {
        match self {
            Self::Short(entries) => entries.len(),
            Self::Long(entries) => entries.len(),
        }
    }

    /// The offset of chunk `n`, counting from 0, if there is one.
    pub(crate) fn offset(&self, n: usize) -> Option<u64> {
        match self {
            Self::Short(entries) => entries
                .get(n)
                .map(|bytes| u32::from_be_bytes(*bytes).into()),
            Self::Long(entries) => entries.get(n).map(|bytes| u64::from_be_bytes(*bytes)),
        }
    }
}

/// `sdtp`: for each sample, what depends on what (ISO/IEC 14496-12 8.6.4.3).
pub(crate) struct Sdtp<'a>(pub(crate) &'a [u8]);

impl<'a> Sdtp<'a> {
    pub(crate) fn parse(sdtp: &BoxRef<'a>) -> Result<Self, ParseError> {
        let mut fields = sdtp.fields();
        fields.version(0)?;
        Ok(Self(fields.rest()))
    }
}

fn pair(bytes: &[u8; 8]) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = *bytes;
    (
        u32::from_be_bytes([a, b, c, d]),
        u32::from_be_bytes([e, f, g, h]),
    )
}
