//! A manifest as all that it says of tracks and their protection, right or wrong, with the place of each word.

pub(crate) mod dash;
pub(crate) mod hls;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reader::mp4::Pssh;
use url::Url;

use super::fetch::Resource;
use super::finding::{Fault, Finding, Place};
use super::playready;
use super::system::System;

/// Tracks of one manifest that are looked at: a ladder of a dozen, languages, periods.
pub(crate) const MAX_TRACKS: usize = 64;

/// What a manifest describes.
#[derive(Debug)]
pub(crate) struct Title {
    pub(crate) url: Url,
    pub(crate) tracks: Vec<Track>,
    /// `EXT-X-SESSION-KEY` tags.
    pub(crate) session: Vec<Signal>,
    /// There are more than [`MAX_TRACKS`].
    pub(crate) cut: bool,
}

/// A Representation or a rendition.
#[derive(Debug)]
pub(crate) struct Track {
    /// Representation@id, or the file stem of the playlist.
    pub(crate) name: String,
    /// Width and height, where the manifest says them.
    pub(crate) picture: Option<(u32, u32)>,
    pub(crate) is_sound: bool,
    pub(crate) init: Option<Resource>,
    pub(crate) segments: Vec<Resource>,
    pub(crate) signals: Vec<Signal>,
    /// Rules that the manifest itself shows, such as `HDCP-LEVEL=TYPE-1`.
    pub(crate) rules: Vec<String>,
}

/// A descriptor or a key tag.
#[derive(Debug)]
pub(crate) struct Signal {
    /// The element or the tag.
    pub(crate) at: String,
    pub(crate) system: System,
    /// `cenc`, `cbcs`, or what the method is otherwise.
    pub(crate) scheme: Option<String>,
    /// `cenc:default_KID` or `KEYID`.
    pub(crate) key_id: Option<[u8; 16]>,
    pub(crate) pssh: Vec<Pssh>,
    pub(crate) playready: Vec<playready::Header>,
    /// Where licences are to be had, and what says so.
    pub(crate) license_urls: Vec<(&'static str, Url)>,
    /// `URI` of a key tag.
    pub(crate) key_uri: Option<String>,
    /// `KEYFORMAT` of a key tag.
    pub(crate) key_format: Option<String>,
}

impl Signal {
    fn new(at: String, system: System) -> Self {
        Self {
            at,
            system,
            scheme: None,
            key_id: None,
            pssh: Vec::new(),
            playready: Vec::new(),
            license_urls: Vec::new(),
            key_uri: None,
            key_format: None,
        }
    }

    /// Takes a `pssh` box in base64, and what is in it.
    fn take_pssh(&mut self, text: &str, base: &Url) -> Result<(), String> {
        let bytes = base64(text)?;
        let pssh = Pssh::read(&bytes).map_err(|error| error.to_string())?;
        let named = System::of_id(pssh.system);
        if named != self.system {
            return Err(format!(
                "the box is of {named}, and stands under {}",
                self.system
            ));
        }
        if self.system == System::PlayReady {
            self.take_object(&pssh.data, base)?;
        }
        self.pssh.push(pssh);
        Ok(())
    }

    /// Takes a PlayReady Object.
    fn take_object(&mut self, object: &[u8], base: &Url) -> Result<(), String> {
        let Some(header) = playready::Header::read(object)? else {
            return Ok(());
        };
        if self.playready.contains(&header) {
            return Ok(());
        }
        if let Some(url) = &header.license_url {
            let url = base.join(url);
            let url = url.map_err(|_| "LA_URL is no URL".to_owned())?;
            self.license_urls.push(("LA_URL", url));
        }
        self.playready.push(header);
        Ok(())
    }
}

/// base64 in which an MPD may have put line breaks.
fn base64(text: &str) -> Result<Vec<u8>, String> {
    let text: String = text.split_whitespace().collect();
    STANDARD
        .decode(text)
        .map_err(|_| "it is no base64".to_owned())
}

/// Where what is found in a manifest goes.
struct Walk<'a> {
    url: &'a Url,
    findings: &'a mut Vec<Finding>,
}

impl Walk<'_> {
    fn find(&mut self, fault: Fault, track: Option<&str>, at: &str, what: impl Into<String>) {
        let place = Place::of(self.url, track, at);
        self.findings.push(Finding::new(fault, place, what));
    }
}
