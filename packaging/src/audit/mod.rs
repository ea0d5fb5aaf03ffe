//! Walking a title as a player would (manifests, init segments, some segments, licences), at any origin, and naming the
//! faults that players do not name.
//!
//! ```text
//! URLs --fetch--> manifest --> Title -----------------+
//!                    |                                |
//!                    +--fetch--> init, segments ------+--> check --> Finding
//!                    |                                |      ^
//!                    +--licence--> keys --------------+    policy (the operator's own configuration)
//! ```
//!
//! It reads with [`reader`], which shares nothing with the packager, so that this origin is judged as any other. What is
//! fetched is bounded ([`fetch::Bounds`]); keys and tokens are in no text that it makes.

mod check;
mod fetch;
mod finding;
mod licences;
mod manifest;
mod playready;
mod policy;
mod sample;
mod system;
mod widevine;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use keystore_types::KeyId;
use reader::mp4::Header;
use serde::Serialize;
use url::Url;

pub(crate) use finding::{Fault, Finding};
pub(crate) use licences::Token;

use crate::failure::Failure;
use fetch::{Bounds, Fetched, Fetcher, Resource};
use finding::Place;
use manifest::{Title, Track, dash, hls};

/// Bytes of a manifest: an MPD with a day of 2 s segments has 4 MB.
const MAX_MANIFEST: usize = 16 << 20;
/// Bytes of an init segment.
const MAX_INIT: usize = 1 << 20;
/// Bytes of a segment: 10 s at 50 Mbit/s.
const MAX_SEGMENT: usize = 64 << 20;

/// The bounds of one audit: a ladder of [`manifest::MAX_TRACKS`] in two manifests, with samples.
const BOUNDS: Bounds = Bounds {
    requests: 1000,
    time: Duration::from_secs(300),
};

/// What is to be audited.
pub(crate) struct Plan<'a> {
    /// Manifests of one title.
    pub(crate) urls: Vec<Url>,
    /// Segments of each track that are drawn, evenly from the first to the last.
    pub(crate) segments: usize,
    /// The authorities that are believed, in PEM.
    pub(crate) ca_file: PathBuf,
    /// What is shown to the licence server.
    pub(crate) token: Option<Token>,
    /// Where ClearKey licences are asked for instead of where the manifest says.
    pub(crate) license_url: Option<Url>,
    /// The operator's configuration, if the title is the operator's.
    pub(crate) settings: Option<&'a conf::Settings>,
    /// The policy by whose rules the title is licensed; without it, the one that the URL names.
    pub(crate) policy: Option<String>,
}

/// What came of an audit.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) manifests: usize,
    pub(crate) tracks: usize,
    pub(crate) segments: usize,
    /// Keys that licences gave.
    pub(crate) keys: usize,
    /// Tracks whose samples show that the key is theirs.
    pub(crate) proved: usize,
    pub(crate) requests: u32,
    /// False where a bound ended it before the end.
    pub(crate) complete: bool,
    pub(crate) findings: Vec<Finding>,
    /// What was not looked at, and what is no fault.
    pub(crate) notes: Vec<String>,
}

/// A title with what its manifest names.
struct Looked {
    title: Title,
    /// In the order of the title's tracks.
    parts: Vec<Parts>,
}

/// What of a track was fetched.
#[derive(Default)]
struct Parts {
    /// The init segment, and what it says.
    init: Option<(Arc<[u8]>, Header)>,
    segments: Vec<Arc<[u8]>>,
}

impl Looked {
    /// Each track with its parts.
    fn tracks(&self) -> impl Iterator<Item = (&Track, &Parts)> {
        self.title.tracks.iter().zip(&self.parts)
    }

    fn place(&self, track: &Track, at: impl Into<String>) -> Place {
        Place::of(&self.title.url, Some(&track.name), at)
    }
}

impl Parts {
    fn protection(&self) -> Option<&reader::mp4::Protection> {
        self.init.as_ref()?.1.protection.as_ref()
    }

    /// The key id of `tenc`.
    fn key_id(&self) -> Option<KeyId> {
        Some(KeyId::new(self.protection()?.kid))
    }
}

/// Audits.
///
/// # Errors
/// The authorities cannot be read. Whatever the origin does is a finding.
pub(crate) async fn audit(plan: Plan<'_>) -> Result<Report, Failure> {
    let mut findings = Vec::new();
    let mut notes = Vec::new();
    let mut fetcher = Fetcher::new(plan.ca_file.clone(), BOUNDS)?;
    let policy = policy::Policies::new(&plan);
    policy.check_names(&plan, &mut findings);
    let mut looked = Vec::new();
    for url in &plan.urls {
        let Some(title) = walk(&mut fetcher, url, &policy, &mut findings).await else {
            continue;
        };
        if title.cut {
            notes.push(format!(
                "{}: more than {} tracks: the rest was not looked at",
                finding::shown(url),
                manifest::MAX_TRACKS,
            ));
        }
        let mut parts = Vec::new();
        for track in &title.tracks {
            parts.push(look_into(&mut fetcher, &title, track, plan.segments, &mut findings).await);
        }
        looked.push(Looked { title, parts });
    }
    let keys = licences::ask(&mut fetcher, &looked, &plan, &mut findings, &mut notes).await;
    let proved = check::all(&looked, &keys, &mut findings);
    policy.check_shared_keys(&looked, &mut findings);
    findings.sort();
    findings.dedup();
    let parts = || looked.iter().flat_map(|looked| &looked.parts);
    Ok(Report {
        manifests: looked.len(),
        tracks: parts().count(),
        segments: parts().map(|parts| parts.segments.len()).sum(),
        keys: keys.len(),
        proved,
        requests: fetcher.asked(),
        complete: !fetcher.bound,
        findings,
        notes,
    })
}

/// Fetches a manifest and the playlists that it names.
async fn walk(
    fetcher: &mut Fetcher,
    url: &Url,
    policy: &policy::Policies<'_>,
    findings: &mut Vec<Finding>,
) -> Option<Title> {
    let Fetched { url, bytes } = match fetcher.get(&url.clone().into(), MAX_MANIFEST).await {
        Ok(fetched) => fetched,
        Err(error) => {
            let place = Place::of(url, None, "manifest");
            // That the policy is missing says more.
            if !policy.explains_absence(url) {
                findings.push(Finding::new(Fault::NotServed, place, error.to_string()));
            }
            return None;
        }
    };
    let url = &url;
    let Ok(text) = str::from_utf8(&bytes) else {
        let place = Place::of(url, None, "manifest");
        findings.push(Finding::new(Fault::Malformed, place, "it is not UTF-8"));
        return None;
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if !text.starts_with("#EXTM3U") {
        return dash::read(url, text, findings);
    }
    let multivariant = match hls::is_multivariant(text) {
        true => hls::multivariant(url, text, findings)?,
        false => hls::Multivariant {
            playlists: vec![hls::Playlist::at(url.clone())],
            ..hls::Multivariant::default()
        },
    };
    let mut title = Title {
        url: url.clone(),
        tracks: Vec::new(),
        session: multivariant.session,
        cut: multivariant.cut,
    };
    for mut playlist in multivariant.playlists {
        let fetched = fetcher
            .get(&playlist.url.clone().into(), MAX_MANIFEST)
            .await;
        let text = match &fetched {
            Ok(Fetched { url, bytes }) => {
                playlist.url.clone_from(url);
                str::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())
            }
            Err(error) => Err(error.to_string()),
        };
        match text {
            Ok(text) => title
                .tracks
                .extend(hls::media(playlist, text, url, findings)),
            Err(what) => findings.push(hls::unread(url, &playlist.name, what)),
        }
    }
    Some(title)
}

/// Fetches the init segment of a track, and some of its segments.
async fn look_into(
    fetcher: &mut Fetcher,
    title: &Title,
    track: &Track,
    samples: usize,
    findings: &mut Vec<Finding>,
) -> Parts {
    let mut parts = Parts::default();
    let mut find = |fault, at: &str, what: String| {
        let place = Place::of(&title.url, Some(&track.name), at);
        findings.push(Finding::new(fault, place, what));
    };
    if let Some(init) = &track.init {
        match fetcher.get(init, MAX_INIT).await {
            Ok(Fetched { bytes, .. }) => match Header::read(&bytes) {
                Ok(header) => parts.init = Some((bytes, header)),
                Err(error) => find(Fault::Malformed, "init segment", error.to_string()),
            },
            Err(error) => find(Fault::NotServed, "init segment", error.to_string()),
        }
    }
    for segment in drawn(&track.segments, samples) {
        match fetcher.get(segment, MAX_SEGMENT).await {
            Ok(Fetched { bytes, .. }) => parts.segments.push(bytes),
            Err(error) => find(Fault::NotServed, "segment", error.to_string()),
        }
    }
    parts
}

/// So many of them, evenly from the first to the last.
fn drawn(segments: &[Resource], count: usize) -> impl Iterator<Item = &Resource> {
    let last = segments.len().saturating_sub(1);
    let count = count.min(segments.len());
    (0..count).filter_map(move |n| segments.get(n * last / count.saturating_sub(1).max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_drawn_from_the_first_to_the_last() {
        let url = |n: usize| Url::parse(&format!("https://o.example/{n}")).unwrap();
        let segments: Vec<Resource> = (0..10).map(|n| url(n).into()).collect();
        let paths = |count| -> Vec<String> {
            let drawn = drawn(&segments, count);
            drawn.map(|segment| segment.url.path().to_owned()).collect()
        };
        assert_eq!(paths(3), ["/0", "/4", "/9"]);
        assert_eq!(paths(1), ["/0"]);
        assert_eq!(paths(0), [""; 0]);
        assert_eq!(paths(50).len(), 10);
        assert_eq!(drawn(&[], 3).count(), 0);
    }
}
