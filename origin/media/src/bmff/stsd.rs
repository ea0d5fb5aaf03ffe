//! Sample entries (ISO/IEC 14496-12 8.5.2, 12.1.3, 12.2.3).

use super::esds::Esds;
use super::{BoxRef, FourCc, only, required};
use crate::codec::{Colour, PixelAspect};
use crate::error::ParseError;

/// `stsd`: its entries, each still to be read.
pub(crate) struct Stsd<'a> {
    version: u8,
    pub(crate) entries: Vec<BoxRef<'a>>,
}

impl<'a> Stsd<'a> {
    pub(crate) fn parse(stsd: &BoxRef<'a>) -> Result<Self, ParseError> {
        let mut fields = stsd.fields();
        let version = fields.version(1)?;
        let claimed = fields.u32()?;
        let entries = stsd.children_after(8)?;
        if entries.is_empty() || u32::try_from(entries.len()) != Ok(claimed) {
            return Err(stsd.malformed(format!(
                "{claimed} sample entries claimed, {} present",
                entries.len()
            )));
        }
        Ok(Self { version, entries })
    }
}

/// What every sample entry begins with.
pub(crate) struct SampleEntry {
    pub(crate) data_reference_index: u16,
}

impl SampleEntry {
    pub(crate) fn parse(entry: &BoxRef<'_>) -> Result<Self, ParseError> {
        let mut fields = entry.fields();
        fields.skip(6)?; // reserved
        Ok(Self {
            data_reference_index: fields.u16()?,
        })
    }
}

/// A `VisualSampleEntry` with the boxes that AVC needs.
pub(crate) struct VisualSampleEntry<'a> {
    pub(crate) avcc: BoxRef<'a>,
    pub(crate) colour: Option<Colour>,
    pub(crate) pixel_aspect: Option<PixelAspect>,
}

impl<'a> VisualSampleEntry<'a> {
    /// Bytes before the boxes inside.
    const FIELDS: usize = 78;

    pub(crate) fn parse(entry: &BoxRef<'a>) -> Result<Self, ParseError> {
        let boxes = entry.children_after(Self::FIELDS)?;
        let avcc = required(entry, &boxes, b"avcC")?.clone();
        let mut colour = None;
        for colr in boxes.iter().filter(|child| child.name == FourCc(*b"colr")) {
            colour = colour.or(parse_colr(colr)?);
        }
        let pixel_aspect = match only(&boxes, b"pasp")? {
            Some(pasp) => parse_pasp(pasp)?,
            None => None,
        };
        Ok(Self {
            avcc,
            colour,
            pixel_aspect,
        })
    }
}

/// `colr` of type `nclx`, or `nclc` as QuickTime writes it; `None` for an ICC profile.
fn parse_colr(colr: &BoxRef<'_>) -> Result<Option<Colour>, ParseError> {
    let mut fields = colr.fields();
    let kind = fields.array()?;
    if !matches!(&kind, b"nclx" | b"nclc") {
        return Ok(None);
    }
    let (primaries, transfer, matrix) = (fields.u16()?, fields.u16()?, fields.u16()?);
    let full_range = &kind == b"nclx" && fields.u8()? & 0x80 != 0;
    Ok(Some(Colour {
        primaries,
        transfer,
        matrix,
        full_range,
    }))
}

/// `pasp`; `None` where a side is 0, which says nothing.
fn parse_pasp(pasp: &BoxRef<'_>) -> Result<Option<PixelAspect>, ParseError> {
    let mut fields = pasp.fields();
    Ok(PixelAspect::new(fields.u32()?, fields.u32()?))
}

/// An `AudioSampleEntry` of MPEG-4 audio.
pub(crate) struct AudioSampleEntry<'a> {
    pub(crate) esds: BoxRef<'a>,
    /// `objectTypeIndication`.
    pub(crate) object_type: u8,
    pub(crate) decoder_specific_info: &'a [u8],
}

impl<'a> AudioSampleEntry<'a> {
    pub(crate) fn parse(entry: &BoxRef<'a>, stsd: &Stsd<'_>) -> Result<Self, ParseError> {
        let mut fields = entry.fields();
        fields.skip(8)?; // reserved, data_reference_index
        let version = fields.u16()?;
        // QuickTime's sound description of version 1 and 2 has more fields (QuickTime File Format, "Sound
        // Sample Descriptions"); the standard's version 1, which needs stsd version 1, has none.
        let fields = match (stsd.version, version) {
            (0, 1) => 28 + 16,
            (0, 2) => 28 + 36,
            _ => 28,
        };
        let boxes = entry.children_after(fields)?;
        let esds = match only(&boxes, b"esds")? {
            Some(esds) => esds.clone(),
            None => {
                let wave =
                    only(&boxes, b"wave")?.ok_or_else(|| entry.malformed("no esds box inside"))?;
                required(wave, &wave.children()?, b"esds")?.clone()
            }
        };
        let Esds {
            object_type,
            decoder_specific_info,
        } = Esds::parse(&esds)?;
        Ok(Self {
            esds,
            object_type,
            decoder_specific_info,
        })
    }
}
