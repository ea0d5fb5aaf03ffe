//! HLS playlists (RFC 8216): a multivariant playlist, and media playlists of fMP4 segments.

use std::time::Duration;

use url::Url;

use super::{Licence, Menu, SEGMENT_LIMIT, Segment, Signalled, Track, Unplayable, key_id, resolve};
use crate::mp4::Scheme;

/// A media playlist that a multivariant playlist names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Playlist {
    /// Its file stem, which is the name of the rendition.
    pub name: String,
    /// Where it is.
    pub url: Url,
    /// Bits per second of the variant that names it first; 0 for a rendition of audio.
    pub bandwidth: u64,
}

impl Playlist {
    fn new(base: &Url, reference: &str, bandwidth: u64) -> Result<Self, Unplayable> {
        let url = resolve(base, reference)?;
        let file = url
            .path_segments()
            .and_then(|mut parts| parts.next_back())
            .unwrap_or_default();
        let name = file
            .rsplit_once('.')
            .map_or(file, |(stem, _)| stem)
            .to_owned();
        Ok(Self {
            name,
            url,
            bandwidth,
        })
    }
}

/// Reads a multivariant playlist that was fetched from `url`.
///
/// # Errors
/// Where it is no playlist or names no variant.
pub fn multivariant(url: &Url, text: &str) -> Result<Menu<Playlist>, Unplayable> {
    let mut menu = Menu {
        main: Vec::new(),
        audio: Vec::new(),
    };
    let mut variant = None;
    for line in lines(text)? {
        if let Some(list) = line.strip_prefix("#EXT-X-STREAM-INF:") {
            let bandwidth = Attributes(list).get("BANDWIDTH");
            variant = Some(bandwidth.and_then(|text| text.parse().ok()).unwrap_or(0));
        } else if let Some(list) = line.strip_prefix("#EXT-X-MEDIA:") {
            let attributes = Attributes(list);
            if attributes.get("TYPE") == Some("AUDIO")
                && let Some(uri) = attributes.get("URI")
            {
                add(&mut menu.audio, Playlist::new(url, uri, 0)?);
            }
        } else if !line.starts_with('#')
            && let Some(bandwidth) = variant.take()
        {
            // One line for each audio group: the same playlist comes several times.
            add(&mut menu.main, Playlist::new(url, line, bandwidth)?);
        }
    }
    // An audio-only variant may be listed as a rendition of its own group as well.
    menu.main
        .retain(|playlist| menu.audio.iter().all(|audio| audio.url != playlist.url));
    if menu.main.is_empty() && menu.audio.is_empty() {
        return Err(Unplayable::Missing("#EXT-X-STREAM-INF"));
    }
    Ok(menu)
}

/// Reads the media playlist `playlist`.
///
/// # Errors
/// Where it is not an fMP4 playlist, or its keys are in no format known here.
pub fn media(playlist: &Playlist, text: &str) -> Result<Track, Unplayable> {
    let base = &playlist.url;
    let mut init = None;
    let mut protection = None;
    let mut segments = Vec::new();
    let mut duration = Duration::ZERO;
    for line in lines(text)? {
        if let Some(list) = line.strip_prefix("#EXT-X-MAP:") {
            let uri = Attributes(list)
                .get("URI")
                .ok_or(Unplayable::Missing("EXT-X-MAP URI"))?;
            init = Some(resolve(base, uri)?);
        } else if let Some(list) = line.strip_prefix("#EXT-X-KEY:") {
            // Lines of several formats give one key: the first that is understood is taken.
            if protection.is_none() {
                protection = key(base, &Attributes(list))?;
            }
        } else if let Some(text) = line.strip_prefix("#EXTINF:") {
            let text = text.split(',').next().unwrap_or_default();
            let seconds = text.parse().map(Duration::try_from_secs_f64);
            duration = match seconds {
                Ok(Ok(seconds)) => seconds,
                Ok(Err(_)) | Err(_) => return Err(Unplayable::unreadable("EXTINF", text)),
            };
        } else if !line.starts_with('#') {
            if segments.len() == SEGMENT_LIMIT {
                return Err(Unplayable::TooMany);
            }
            segments.push(Segment {
                url: resolve(base, line)?,
                duration,
            });
        }
    }
    if text.contains("#EXT-X-KEY:") && protection.is_none() {
        return Err(Unplayable::Missing("an EXT-X-KEY for ClearKey or identity"));
    }
    let init = init.ok_or(Unplayable::Missing("EXT-X-MAP"))?;
    Ok(Track {
        name: playlist.name.clone(),
        bandwidth: playlist.bandwidth,
        init,
        segments,
        protection,
    })
}

/// What one key line says; `None` where its format is another DRM system's.
fn key(base: &Url, attributes: &Attributes<'_>) -> Result<Option<Signalled>, Unplayable> {
    let method = attributes
        .get("METHOD")
        .ok_or(Unplayable::Missing("EXT-X-KEY METHOD"))?;
    let scheme = match method {
        "SAMPLE-AES" => Scheme::Cbcs,
        "SAMPLE-AES-CTR" => Scheme::Cenc,
        _ => return Err(Unplayable::unreadable("EXT-X-KEY METHOD", method)),
    };
    let uri = attributes
        .get("URI")
        .ok_or(Unplayable::Missing("EXT-X-KEY URI"))?;
    let licence = match attributes.get("KEYFORMAT").unwrap_or("identity") {
        "identity" => Licence::Identity(resolve(base, uri)?),
        "org.w3.clearkey" => Licence::ClearKey(resolve(base, uri)?),
        _ => return Ok(None),
    };
    let kid = match attributes.get("KEYID") {
        None => None,
        Some(text) => {
            let kid = text.strip_prefix("0x").and_then(key_id);
            Some(kid.ok_or_else(|| Unplayable::unreadable("EXT-X-KEY KEYID", text))?)
        }
    };
    Ok(Some(Signalled {
        scheme,
        kid,
        licence,
    }))
}

/// The lines of a playlist that hold something.
///
/// # Errors
/// Where it is no playlist.
pub fn lines(text: &str) -> Result<impl Iterator<Item = &str>, Unplayable> {
    if !text.starts_with("#EXTM3U") {
        return Err(Unplayable::Missing("#EXTM3U"));
    }
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()))
}

fn add(list: &mut Vec<Playlist>, playlist: Playlist) {
    if list.iter().all(|listed| listed.url != playlist.url) {
        list.push(playlist);
    }
}

/// An attribute list (RFC 8216 4.2).
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a>(pub &'a str);

impl<'a> Attributes<'a> {
    /// The value of an attribute, without its quotes.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        let mut rest = self.0;
        while let Some((key, value)) = rest.split_once('=') {
            let quoted = value
                .strip_prefix('"')
                .and_then(|inner| inner.split_once('"'));
            let (value, tail) = match quoted {
                Some((inner, tail)) => (inner, tail.strip_prefix(',').unwrap_or(tail)),
                None => value.split_once(',').unwrap_or((value, "")),
            };
            if key.trim() == name {
                return Some(value);
            }
            rest = tail;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(path: &str) -> Url {
        Url::parse("http://127.0.0.1:8080/v1/demo/cbcs/")
            .unwrap()
            .join(path)
            .unwrap()
    }

    const MULTIVARIANT: &str = "#EXTM3U\n#EXT-X-VERSION:6\n#EXT-X-INDEPENDENT-SEGMENTS\n\
        #EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"aac, low\",NAME=\"English\",URI=\"~r/a-en-128k.m3u8\"\n\
        #EXT-X-MEDIA:TYPE=SUBTITLES,GROUP-ID=\"t\",NAME=\"x\",URI=\"~r/t.m3u8\"\n\
        #EXT-X-STREAM-INF:BANDWIDTH=2,AUDIO=\"aac\"\n~r/v720-2000k.m3u8\n\
        #EXT-X-STREAM-INF:BANDWIDTH=2,AUDIO=\"aac2\"\n~r/v720-2000k.m3u8\n\
        #EXT-X-I-FRAME-STREAM-INF:BANDWIDTH=2,URI=\"~r/i-v720-2000k.m3u8\"\n\
        #EXT-X-STREAM-INF:BANDWIDTH=1\n~r/v360-600k.m3u8\n";

    #[test]
    fn lists_each_playlist_once() {
        let menu = multivariant(&url("main.m3u8"), MULTIVARIANT).unwrap();
        let names = |list: &[Playlist]| list.iter().map(|p| p.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&menu.main), ["v720-2000k", "v360-600k"]);
        assert_eq!(names(&menu.audio), ["a-en-128k"]);
        assert_eq!(menu.audio[0].url, url("~r/a-en-128k.m3u8"));
        let bandwidths = [&menu.main[0], &menu.main[1], &menu.audio[0]].map(|p| p.bandwidth);
        assert_eq!(bandwidths, [2, 1, 0]);
    }

    fn playlist(keys: &str) -> Result<Track, Unplayable> {
        let text = format!(
            "#EXTM3U\n#EXT-X-TARGETDURATION:4\n{keys}#EXT-X-MAP:URI=\"../v/init.mp4\"\n\
             #EXTINF:4.0,\n../v/1.m4s\n#EXTINF:2.5,\n../v/2.m4s\n#EXT-X-ENDLIST\n"
        );
        media(
            &Playlist {
                name: "v".into(),
                url: url("~r/v.m3u8"),
                bandwidth: 7,
            },
            &text,
        )
    }

    #[test]
    fn reads_a_clear_playlist() {
        let track = playlist("").unwrap();
        assert_eq!(track.init, url("v/init.mp4"));
        let segment = |path, millis| Segment {
            url: url(path),
            duration: Duration::from_millis(millis),
        };
        let segments = [segment("v/1.m4s", 4000), segment("v/2.m4s", 2500)];
        assert_eq!((track.bandwidth, track.segments), (7, segments.to_vec()));
        assert_eq!(track.protection, None);
    }

    #[test]
    fn takes_the_first_key_it_understands() {
        let keys = "#EXT-X-KEY:METHOD=SAMPLE-AES,URI=\"skd://x,y=z\",KEYFORMAT=\"com.apple.streamingkeydelivery\"\n\
            #EXT-X-KEY:METHOD=SAMPLE-AES,URI=\"https://l.example/license/clearkey/demo\",\
            KEYID=0x9EB4050DE44B4802932E27D75083E266,KEYFORMAT=\"org.w3.clearkey\"\n\
            #EXT-X-KEY:METHOD=SAMPLE-AES,URI=\"https://l.example/k\"\n";
        let signalled = playlist(keys).unwrap().protection.unwrap();
        assert_eq!(signalled.scheme, Scheme::Cbcs);
        assert_eq!(
            signalled.kid,
            key_id("9eb4050d-e44b-4802-932e-27d75083e266")
        );
        let licence = Url::parse("https://l.example/license/clearkey/demo").unwrap();
        assert_eq!(signalled.licence, Licence::ClearKey(licence));
    }

    #[test]
    fn a_key_without_format_is_identity() {
        let keys = "#EXT-X-KEY:METHOD=SAMPLE-AES-CTR,URI=\"https://l.example/k\"\n";
        let signalled = playlist(keys).unwrap().protection.unwrap();
        assert_eq!((signalled.scheme, signalled.kid), (Scheme::Cenc, None));
        let licence = Url::parse("https://l.example/k").unwrap();
        assert_eq!(signalled.licence, Licence::Identity(licence));
    }

    #[test]
    fn refuses_what_it_cannot_play() {
        let text = |result: Result<Track, Unplayable>| result.unwrap_err().to_string();
        let foreign = "#EXT-X-KEY:METHOD=SAMPLE-AES,URI=\"skd://x\",KEYFORMAT=\"com.apple\"\n";
        assert_eq!(
            text(playlist(foreign)),
            "an EXT-X-KEY for ClearKey or identity is missing"
        );
        let whole = "#EXT-X-KEY:METHOD=AES-128,URI=\"k\"\n";
        assert_eq!(
            text(playlist(whole)),
            "EXT-X-KEY METHOD cannot be read: AES-128"
        );
        let no_map = media(
            &Playlist {
                name: "v".into(),
                url: url("v.m3u8"),
                bandwidth: 7,
            },
            "#EXTM3U\n1.m4s\n",
        );
        assert_eq!(text(no_map), "EXT-X-MAP is missing");
        let endless = playlist("#EXTINF:inf,\n");
        assert_eq!(text(endless), "EXTINF cannot be read: inf");
        let html = multivariant(&url("main.m3u8"), "<html>").unwrap_err();
        assert_eq!(html.to_string(), "#EXTM3U is missing");
    }
}
