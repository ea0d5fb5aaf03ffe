//! What a track is coded with: enough to write a fresh sample entry, to name the codec in a manifest, and
//! to know which bytes of a sample must stay clear.

pub mod aac;
pub mod avc;
mod bits;

use std::fmt;

use crate::error::{ParseError, ParseErrorKind, Place};

pub use aac::AacConfig;
pub use avc::AvcConfig;

/// The codec of a track that can be packaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CodecConfig {
    /// H.264 in an `avc1` sample entry (ISO/IEC 14496-15 5.4).
    Avc(AvcConfig),
    /// AAC-LC in an `mp4a` sample entry (ISO/IEC 14496-14 5.6).
    Aac(AacConfig),
}

impl CodecConfig {
    /// The `codecs` value of RFC 6381, such as `avc1.640028` or `mp4a.40.2`.
    pub fn rfc6381(&self) -> String {
        match self {
            Self::Avc(avc) => avc.rfc6381(),
            Self::Aac(aac) => aac.rfc6381(),
        }
    }

    /// Whether the track shows pictures or plays sound.
    pub const fn media(&self) -> Media {
        match self {
            Self::Avc(_) => Media::Video,
            Self::Aac(_) => Media::Audio,
        }
    }

    /// The video configuration, if this is video.
    pub const fn as_avc(&self) -> Option<&AvcConfig> {
        match self {
            Self::Avc(avc) => Some(avc),
            Self::Aac(_) => None,
        }
    }

    /// The audio configuration, if this is audio.
    pub const fn as_aac(&self) -> Option<&AacConfig> {
        match self {
            Self::Avc(_) => None,
            Self::Aac(aac) => Some(aac),
        }
    }
}

/// Pictures or sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Media {
    /// Pictures.
    Video,
    /// Sound.
    Audio,
}

impl fmt::Display for Media {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Video => "video",
            Self::Audio => "audio",
        })
    }
}

/// Colour as code points of ITU-T H.273: what `colr` of type `nclx` carries (ISO/IEC 14496-12 12.1.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Colour {
    /// `colour_primaries`.
    pub primaries: u16,
    /// `transfer_characteristics`: 16 is PQ, 18 is HLG.
    pub transfer: u16,
    /// `matrix_coefficients`.
    pub matrix: u16,
    /// Whether samples use the full range of values.
    pub full_range: bool,
}

/// The shape of a pixel, width to height (`pasp`, ISO/IEC 14496-12 12.1.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PixelAspect {
    /// `hSpacing`.
    pub horizontal: u32,
    /// `vSpacing`.
    pub vertical: u32,
}

impl PixelAspect {
    /// Square pixels.
    pub const SQUARE: Self = Self {
        horizontal: 1,
        vertical: 1,
    };

    /// The shape in its smallest numbers, since sources write 65536:65536 too; `None` where a side is 0,
    /// which says nothing.
    pub const fn new(horizontal: u32, vertical: u32) -> Option<Self> {
        if horizontal == 0 || vertical == 0 {
            return None;
        }
        let (mut divisor, mut rest) = (horizontal, vertical);
        while rest != 0 {
            (divisor, rest) = (rest, divisor % rest);
        }
        Some(Self {
            horizontal: horizontal / divisor,
            vertical: vertical / divisor,
        })
    }
}

/// A decoder configuration or a coded unit that cannot be used; its reader knows the place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct CodecError {
    kind: ParseErrorKind,
    reason: String,
}

impl CodecError {
    pub(crate) fn malformed(reason: impl Into<String>) -> Self {
        Self {
            kind: ParseErrorKind::Malformed,
            reason: reason.into(),
        }
    }

    pub(crate) fn unsupported(reason: impl Into<String>) -> Self {
        Self {
            kind: ParseErrorKind::Unsupported,
            reason: reason.into(),
        }
    }

    /// Who is at fault.
    pub fn kind(&self) -> ParseErrorKind {
        self.kind
    }

    /// The same fault with its place.
    pub(crate) fn at(self, place: Place) -> ParseError {
        ParseError::new(self.kind, place, self.reason)
    }
}

impl From<bits::BitsError> for CodecError {
    fn from(error: bits::BitsError) -> Self {
        Self::malformed(error.0)
    }
}
