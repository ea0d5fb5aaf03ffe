//! HLS playlists (RFC 8216) with every key tag.

use reader::manifest::hls::{Attributes, lines};
use reader::manifest::key_id;
use url::Url;

use super::{MAX_TRACKS, Signal, Track, Walk, base64};
use crate::audit::fetch::Resource;
use crate::audit::finding::{Fault, Finding, Place};
use crate::audit::system::System;

/// Segments of a playlist that are listed; samples are drawn of them.
const MAX_SEGMENTS: usize = 100_000;

/// A multivariant playlist.
#[derive(Debug, Default)]
pub(crate) struct Multivariant {
    pub(crate) playlists: Vec<Playlist>,
    pub(crate) session: Vec<Signal>,
    /// There are more than [`MAX_TRACKS`].
    pub(crate) cut: bool,
}

/// A media playlist that it names.
#[derive(Debug)]
pub(crate) struct Playlist {
    pub(crate) url: Url,
    pub(crate) name: String,
    pub(crate) picture: Option<(u32, u32)>,
    pub(crate) is_sound: bool,
    pub(crate) rules: Vec<String>,
}

impl Playlist {
    /// The playlist at `url`, named by its file.
    pub(crate) fn at(url: Url) -> Self {
        let file = url.path().rsplit('/').next().unwrap_or_default();
        let name = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
        Self {
            name: name.to_owned(),
            url,
            picture: None,
            is_sound: false,
            rules: Vec::new(),
        }
    }
}

/// Whether a text names other playlists, and not segments.
pub(crate) fn is_multivariant(text: &str) -> bool {
    text.contains("#EXT-X-STREAM-INF")
}

/// Reads a multivariant playlist that was fetched from `url`.
pub(crate) fn multivariant(
    url: &Url,
    text: &str,
    findings: &mut Vec<Finding>,
) -> Option<Multivariant> {
    let mut walk = Walk { url, findings };
    let mut read = Multivariant::default();
    let mut variant = None;
    for line in walk.lines(text)? {
        if let Some(list) = line.strip_prefix("#EXT-X-STREAM-INF:") {
            variant = Some(Attributes(list));
        } else if let Some(list) = line.strip_prefix("#EXT-X-MEDIA:") {
            let attributes = Attributes(list);
            if attributes.get("TYPE") == Some("AUDIO")
                && let Some(uri) = attributes.get("URI")
                && let Some(mut playlist) = walk.playlist(uri, "#EXT-X-MEDIA")
            {
                playlist.is_sound = true;
                read.add(playlist);
            }
        } else if let Some(list) = line.strip_prefix("#EXT-X-SESSION-KEY:") {
            let at = format!("#EXT-X-SESSION-KEY[{}]", read.session.len() + 1);
            let signal = walk.key(Attributes(list), url, None, at);
            if read.session.len() < MAX_TRACKS {
                read.session.extend(signal);
            }
        } else if !line.starts_with('#')
            && let Some(attributes) = variant.take()
            && let Some(mut playlist) = walk.playlist(line, "#EXT-X-STREAM-INF")
        {
            let resolution = attributes.get("RESOLUTION");
            playlist.picture = resolution.and_then(|resolution| {
                let (width, height) = resolution.split_once('x')?;
                Some((width.parse().ok()?, height.parse().ok()?))
            });
            for name in ["HDCP-LEVEL", "ALLOWED-CPC"] {
                let rule = attributes.get(name).map(|value| format!("{name}={value}"));
                playlist.rules.extend(rule);
            }
            read.add(playlist);
        }
    }
    Some(read)
}

impl Multivariant {
    fn add(&mut self, playlist: Playlist) {
        // One line for each audio group: the same playlist comes several times.
        if self
            .playlists
            .iter()
            .any(|listed| listed.url == playlist.url)
        {
            return;
        }
        if self.playlists.len() == MAX_TRACKS {
            self.cut = true;
            return;
        }
        self.playlists.push(playlist);
    }
}

/// Reads a media playlist that was fetched from where `playlist` says.
///
/// Keys may change within it. What is read is the first run of segments under one set of keys, a clear lead left out.
pub(crate) fn media(
    playlist: Playlist,
    text: &str,
    multivariant: &Url,
    findings: &mut Vec<Finding>,
) -> Option<Track> {
    let base = playlist.url.clone();
    let mut walk = Walk {
        url: multivariant,
        findings,
    };
    let name = playlist.name.clone();
    let mut track = Track {
        name: playlist.name,
        picture: playlist.picture,
        is_sound: playlist.is_sound,
        init: None,
        segments: Vec::new(),
        signals: Vec::new(),
        rules: playlist.rules,
    };
    let mut keys = 0;
    let mut range = None;
    let mut next = 0;
    for line in walk.lines(text)? {
        if let Some(list) = line.strip_prefix("#EXT-X-KEY:") {
            if !track.segments.is_empty() && !track.signals.is_empty() {
                break;
            }
            track.segments.clear();
            keys += 1;
            let attributes = Attributes(list);
            if attributes.get("METHOD") != Some("NONE") {
                let at = format!("#EXT-X-KEY[{keys}]");
                let signal = walk.key(attributes, &base, Some(&name), at);
                track.signals.extend(signal);
            }
        } else if let Some(list) = line.strip_prefix("#EXT-X-MAP:") {
            let attributes = Attributes(list);
            let uri = attributes.get("URI").unwrap_or_default();
            let Ok(url) = base.join(uri) else {
                walk.find(
                    Fault::Malformed,
                    Some(&name),
                    "#EXT-X-MAP",
                    "its URI is no URL",
                );
                continue;
            };
            let range = attributes.get("BYTERANGE");
            let range = range.and_then(|range| byte_range(range, 0));
            track.init = Some(Resource { url, range });
        } else if let Some(text) = line.strip_prefix("#EXT-X-BYTERANGE:") {
            range = byte_range(text, next);
        } else if !line.starts_with('#') {
            let Ok(url) = base.join(line) else {
                walk.find(Fault::Malformed, Some(&name), line, "it is no URL");
                continue;
            };
            if track.segments.len() == MAX_SEGMENTS {
                break;
            }
            next = range.map_or(0, |(_, end)| end);
            track.segments.push(Resource {
                url,
                range: range.take(),
            });
        }
    }
    Some(track)
}

/// `LENGTH[@OFFSET]` (RFC 8216 4.3.2.2): the first byte, and one past the last.
fn byte_range(text: &str, next: u64) -> Option<(u64, u64)> {
    let (len, start) = text.split_once('@').unwrap_or((text, ""));
    let start = match start {
        "" => next,
        start => start.trim().parse().ok()?,
    };
    Some((start, start.checked_add(len.trim().parse().ok()?)?))
}

impl Walk<'_> {
    fn lines<'t>(&mut self, text: &'t str) -> Option<impl Iterator<Item = &'t str> + use<'t>> {
        match lines(text) {
            Ok(lines) => Some(lines),
            Err(error) => {
                self.find(Fault::Malformed, None, "#EXTM3U", error.to_string());
                None
            }
        }
    }

    fn playlist(&mut self, uri: &str, at: &str) -> Option<Playlist> {
        match self.url.join(uri) {
            Ok(url) => Some(Playlist::at(url)),
            Err(_) => {
                self.find(Fault::Malformed, None, at, "it names no URL");
                None
            }
        }
    }

    fn key(
        &mut self,
        attributes: Attributes<'_>,
        base: &Url,
        track: Option<&str>,
        at: String,
    ) -> Option<Signal> {
        let format = attributes.get("KEYFORMAT").unwrap_or("identity");
        let mut signal = Signal::new(at, System::of_key_format(format));
        signal.key_format = Some(format.to_owned());
        let method = attributes.get("METHOD").unwrap_or_default();
        signal.scheme = Some(match method {
            "SAMPLE-AES" => "cbcs".to_owned(),
            "SAMPLE-AES-CTR" => "cenc".to_owned(),
            other => other.to_owned(),
        });
        if let Some(text) = attributes.get("KEYID") {
            let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
            signal.key_id = digits.and_then(key_id);
            if signal.key_id.is_none() {
                let what = "KEYID is not 0x and 32 hexadecimal digits";
                self.find(Fault::Malformed, track, &signal.at.clone(), what);
            }
        }
        let Some(uri) = attributes.get("URI") else {
            self.find(Fault::Malformed, track, &signal.at.clone(), "it has no URI");
            return None;
        };
        signal.key_uri = Some(uri.to_owned());
        let taken = match (uri.strip_prefix("data:"), signal.system) {
            (Some(data), system) => {
                let data = data.split_once("base64,").map_or("", |(_, data)| data);
                match system {
                    System::PlayReady => {
                        base64(data).and_then(|object| signal.take_object(&object, base))
                    }
                    System::Widevine => signal.take_pssh(data, base),
                    System::Common
                    | System::ClearKey
                    | System::Identity
                    | System::FairPlay
                    | System::Other => Ok(()),
                }
            }
            (None, System::ClearKey | System::Identity) => base
                .join(uri)
                .map(|url| signal.license_urls.push(("URI", url)))
                .map_err(|_| "its URI is no URL".to_owned()),
            (None, _) => Ok(()),
        };
        if let Err(what) = taken {
            self.find(Fault::Malformed, track, &signal.at.clone(), what);
        }
        Some(signal)
    }
}

/// What is said of a playlist that is none.
pub(crate) fn unread(manifest: &Url, track: &str, what: impl Into<String>) -> Finding {
    let place = Place::of(manifest, Some(track), "media playlist");
    Finding::new(Fault::NotServed, place, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url() -> Url {
        Url::parse("https://o.example/v/main.m3u8").unwrap()
    }

    #[test]
    fn reads_the_keys_after_a_clear_lead_and_before_the_next_ones() {
        let text = "#EXTM3U\n#EXT-X-MAP:URI=\"i.mp4\",BYTERANGE=\"700@0\"\n#EXTINF:1,\n0.m4s\n\
            #EXT-X-KEY:METHOD=SAMPLE-AES,URI=\"skd://1\",KEYFORMAT=\"com.apple.streamingkeydelivery\"\n\
            #EXT-X-KEY:METHOD=SAMPLE-AES,URI=\"k\"\n#EXTINF:1,\n#EXT-X-BYTERANGE:10@20\n1.m4s\n\
            #EXT-X-BYTERANGE:5\n#EXTINF:1,\n1.m4s\n\
            #EXT-X-KEY:METHOD=SAMPLE-AES,URI=\"k2\"\n#EXTINF:1,\n2.m4s\n";
        let mut findings = Vec::new();
        let track = media(Playlist::at(url()), text, &url(), &mut findings).unwrap();
        assert!(findings.is_empty(), "{findings:?}");
        let systems: Vec<_> = track.signals.iter().map(|signal| signal.system).collect();
        assert_eq!(systems, [System::FairPlay, System::Identity]);
        assert_eq!(track.signals[1].license_urls[0].1.path(), "/v/k");
        let ranges: Vec<_> = track.segments.iter().map(|segment| segment.range).collect();
        assert_eq!(ranges, [Some((20, 30)), Some((30, 35))]);
        assert_eq!(track.init.unwrap().range, Some((0, 700)));
    }

    #[test]
    fn reads_variants_with_their_rules_and_session_keys() {
        let text = "#EXTM3U\n#EXT-X-SESSION-KEY:METHOD=SAMPLE-AES,URI=\"k\",KEYFORMAT=\"org.w3.clearkey\",KEYID=0x12\n\
            #EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",URI=\"a.m3u8\"\n\
            #EXT-X-STREAM-INF:BANDWIDTH=1,RESOLUTION=1280x720,HDCP-LEVEL=TYPE-0\nhd.m3u8\n\
            #EXT-X-STREAM-INF:BANDWIDTH=1,AUDIO=\"a\"\nhd.m3u8\n";
        let mut findings = Vec::new();
        let read = multivariant(&url(), text, &mut findings).unwrap();
        let names: Vec<_> = read
            .playlists
            .iter()
            .map(|p| (p.name.as_str(), p.picture))
            .collect();
        assert_eq!(names, [("a", None), ("hd", Some((1280, 720)))]);
        assert_eq!(read.playlists[1].rules, ["HDCP-LEVEL=TYPE-0"]);
        assert_eq!(read.session.len(), 1);
        assert_eq!(findings[0].fault, Fault::Malformed, "a KEYID of one byte");
        assert_eq!(findings.len(), 1);
    }
}
