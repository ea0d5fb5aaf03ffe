//! What a viewer learns from a manifest, in the same words for DASH and HLS.

pub mod dash;
pub mod hls;

use std::time::Duration;

use url::Url;

use crate::mp4::Scheme;
use crate::xml::NotXml;

/// Segments that one track may list; a 24 h title of 2 s segments has 43,200.
const SEGMENT_LIMIT: usize = 100_000;

/// The choices of a manifest: one of `main` and one of `audio` are played together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Menu<T> {
    /// Video renditions, or the variants of an audio-only playlist.
    pub main: Vec<T>,
    /// Audio renditions of every language; empty where there are none of their own.
    pub audio: Vec<T>,
}

/// One rendition with all that is needed to fetch it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Track {
    /// Name of the rendition: an MPD's Representation id, an HLS playlist's file stem.
    pub name: String,
    /// Bits per second, as the manifest says; 0 where it does not.
    pub bandwidth: u64,
    /// The init segment.
    pub init: Url,
    /// Media segments in order of time.
    pub segments: Vec<Segment>,
    /// What the manifest says about protection; `None` for a clear track.
    pub protection: Option<Signalled>,
}

/// A media segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Where it is.
    pub url: Url,
    /// How long it is watched.
    pub duration: Duration,
}

/// Protection as a manifest signals it, to be held against what the init segment says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signalled {
    /// Common encryption scheme.
    pub scheme: Scheme,
    /// Key id, where the manifest names it.
    pub kid: Option<[u8; 16]>,
    /// Where the key is to be had.
    pub licence: Licence,
}

/// How a player asks for a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Licence {
    /// `POST` of an EME ClearKey request, answered by a JWK set.
    ClearKey(Url),
    /// `GET` of the 16 bytes of an HLS identity key.
    Identity(Url),
}

/// Why a manifest cannot be played.
#[derive(Debug, thiserror::Error)]
pub enum Unplayable {
    /// It is no XML.
    #[error("the MPD cannot be read: {0}")]
    Xml(#[from] NotXml),
    /// Something that a player needs is not there.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// Something is there but cannot be read.
    #[error("{what} cannot be read: {text}")]
    Unreadable {
        /// Element, attribute or tag.
        what: &'static str,
        /// What stands there.
        text: String,
    },
    /// More segments than a viewer takes on.
    #[error("more than {SEGMENT_LIMIT} segments in one track")]
    TooMany,
}

impl Unplayable {
    fn unreadable(what: &'static str, text: &str) -> Self {
        Self::Unreadable {
            what,
            text: text.to_owned(),
        }
    }
}

/// Resolves a reference as RFC 3986 5 says.
///
/// # Errors
/// Where it is none.
pub fn resolve(base: &Url, reference: &str) -> Result<Url, Unplayable> {
    base.join(reference)
        .map_err(|_| Unplayable::unreadable("URL", reference))
}

fn number(what: &'static str, text: &str) -> Result<u64, Unplayable> {
    text.parse().map_err(|_| Unplayable::unreadable(what, text))
}

/// Sixteen bytes from hexadecimal text; hyphens are skipped.
pub fn key_id(text: &str) -> Option<[u8; 16]> {
    let mut digits = text.chars().filter(|c| *c != '-').map(|c| c.to_digit(16));
    let mut kid = [0; 16];
    for byte in &mut kid {
        *byte = u8::try_from(digits.next()?? << 4 | digits.next()??).ok()?;
    }
    digits.next().is_none().then_some(kid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_key_ids_with_and_without_hyphens() {
        let kid = key_id("9eb4050d-e44b-4802-932e-27d75083e266").unwrap();
        assert_eq!((kid[0], kid[15]), (0x9e, 0x66));
        assert_eq!(key_id("9eb4050de44b4802932e27d75083e266"), Some(kid));
        assert_eq!(key_id("9eb4050de44b4802932e27d75083e2"), None);
        assert_eq!(key_id("9eb4050de44b4802932e27d75083e26600"), None);
        assert_eq!(key_id("9eb4050de44b4802932e27d75083e2zz"), None);
    }
}
