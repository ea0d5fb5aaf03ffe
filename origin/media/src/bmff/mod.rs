//! Boxes of the ISO base media file format: one file for each family, with the standard's own names.

mod elst;
mod esds;
pub(crate) mod header;
pub(crate) mod moof;
mod moov;
pub(crate) mod pssh;
mod reader;
mod sample_entry;
pub(crate) mod sinf;
mod stbl;
mod stsd;
pub(crate) mod writer;

pub(crate) use elst::Elst;
pub(crate) use moov::{Dref, Elng, Hdlr, Mdhd, Mvhd, Tkhd};
pub(crate) use reader::{BoxHeader, BoxRef, HEADER_MAX, only, required};
pub(crate) use stbl::{ChunkOffsets, Ctts, SampleSizes, Sdtp, Stsc, Stss, Stts};
pub(crate) use stsd::{AudioSampleEntry, SampleEntry, Stsd, VisualSampleEntry};

use std::fmt;

/// The four characters that name a box, a brand, a handler or a codec.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FourCc(pub [u8; 4]);

impl fmt::Display for FourCc {
    /// The characters, those that cannot be printed as `\xNN`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.escape_ascii().fmt(f)
    }
}

impl fmt::Debug for FourCc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
