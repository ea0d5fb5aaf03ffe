//! The headers inside `moov`, as far as an index needs them.

use super::{BoxRef, FourCc};
use crate::error::ParseError;
use crate::time::Timescale;

/// `mvhd` (ISO/IEC 14496-12 8.2.2).
pub(crate) struct Mvhd {
    pub(crate) timescale: Timescale,
}

impl Mvhd {
    pub(crate) fn parse(mvhd: &BoxRef<'_>) -> Result<Self, ParseError> {
        let mut fields = mvhd.fields();
        let version = fields.version(1)?;
        fields.skip(if version == 1 { 16 } else { 8 })?; // creation_time, modification_time
        Ok(Self {
            timescale: timescale(mvhd, fields.u32()?)?,
        })
    }
}

/// `tkhd` (ISO/IEC 14496-12 8.3.2).
pub(crate) struct Tkhd {
    pub(crate) track_id: u32,
    pub(crate) matrix: [i32; 9],
}

impl Tkhd {
    pub(crate) fn parse(tkhd: &BoxRef<'_>) -> Result<Self, ParseError> {
        let mut fields = tkhd.fields();
        let version = fields.version(1)?;
        fields.skip(if version == 1 { 16 } else { 8 })?; // creation_time, modification_time
        let track_id = fields.u32()?;
        if track_id == 0 {
            return Err(tkhd.malformed("track_ID is 0"));
        }
        fields.skip(if version == 1 { 12 } else { 8 })?; // reserved, duration
        fields.skip(16)?; // reserved, layer, alternate_group, volume, reserved
        let mut matrix = [0; 9];
        for value in &mut matrix {
            *value = i32::from_be_bytes(fields.array()?);
        }
        Ok(Self { track_id, matrix })
    }
}

/// `mdhd` (ISO/IEC 14496-12 8.4.2).
pub(crate) struct Mdhd {
    pub(crate) timescale: Timescale,
    /// The packed ISO 639-2/T code; `None` where the field holds a Macintosh language code or nothing.
    pub(crate) language: Option<[u8; 3]>,
}

impl Mdhd {
    pub(crate) fn parse(mdhd: &BoxRef<'_>) -> Result<Self, ParseError> {
        let mut fields = mdhd.fields();
        let version = fields.version(1)?;
        fields.skip(if version == 1 { 16 } else { 8 })?; // creation_time, modification_time
        let timescale = timescale(mdhd, fields.u32()?)?;
        fields.skip(if version == 1 { 8 } else { 4 })?; // duration: the sample table knows better
        let packed = fields.u16()?;
        let letter = |shift: u16| (packed >> shift & 0x1f) as u8 + 0x60;
        let letters = [letter(10), letter(5), letter(0)];
        // Values below 0x400 are Macintosh codes (QuickTime File Format, "Language Code Values").
        let language = letters
            .iter()
            .all(u8::is_ascii_lowercase)
            .then_some(letters);
        Ok(Self {
            timescale,
            language,
        })
    }
}

/// `elng` (ISO/IEC 14496-12 8.4.6): a BCP 47 tag.
pub(crate) struct Elng;

impl Elng {
    pub(crate) fn parse(elng: &BoxRef<'_>) -> Result<String, ParseError> {
        let mut fields = elng.fields();
        fields.version(0)?;
        Ok(text(fields.rest()))
    }
}

/// `hdlr` (ISO/IEC 14496-12 8.4.3).
pub(crate) struct Hdlr {
    pub(crate) handler: FourCc,
    pub(crate) name: String,
}

impl Hdlr {
    pub(crate) fn parse(hdlr: &BoxRef<'_>) -> Result<Self, ParseError> {
        let mut fields = hdlr.fields();
        fields.version(0)?;
        fields.skip(4)?; // pre_defined
        let handler = FourCc(fields.array()?);
        fields.skip(12)?; // reserved
        // QuickTime writes a string with its length in front; the standard's is terminated.
        let name = match fields.rest() {
            [len, pascal @ ..] if usize::from(*len) == pascal.len() => text(pascal),
            rest => text(rest),
        };
        Ok(Self { handler, name })
    }
}

/// `dref` (ISO/IEC 14496-12 8.7.2).
pub(crate) struct Dref {
    self_contained: Vec<bool>,
}

impl Dref {
    pub(crate) fn parse(dref: &BoxRef<'_>) -> Result<Self, ParseError> {
        let mut fields = dref.fields();
        fields.version(0)?;
        let mut self_contained = Vec::new();
        for entry in dref.children_after(8)? {
            let (_version, flags) = entry.fields().full_box()?;
            self_contained.push(flags & 1 == 1);
        }
        Ok(Self { self_contained })
    }

    /// Whether entry `index`, counting from 1, says that samples are in this very file.
    pub(crate) fn is_self_contained(&self, index: u16) -> bool {
        usize::from(index)
            .checked_sub(1)
            .and_then(|at| self.self_contained.get(at))
            == Some(&true)
    }
}

fn timescale(header: &BoxRef<'_>, ticks: u32) -> Result<Timescale, ParseError> {
    Timescale::new(ticks).ok_or_else(|| header.malformed("timescale is 0"))
}

/// Text up to its terminator or its end: bytes that are not UTF-8 become U+FFFD, control characters go.
fn text(bytes: &[u8]) -> String {
    const LONGEST: usize = 255;
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end.min(LONGEST)])
        .chars()
        .filter(|c| !c.is_control())
        .collect()
}
