//! A title as a player knows it: which files it must fetch next, and what it learnt from those that came. Pure.
//!
//! ```text
//! manifest -> media playlist (HLS) -> init segment -> licence -> segments
//! ```
//!
//! After the manifest each rendition goes this way for itself, when it is first wanted: a player that changes to
//! another rung fetches what that one needs, and asks for a key only where it does not hold it. Which rung, and when,
//! is for [`crate::viewer`] to say.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Deserialize;
use url::Url;

use crate::decrypt::Key;
use crate::manifest::hls::Playlist;
use crate::manifest::{Licence, Menu, Track, Unplayable, dash, hls};
use crate::mp4::{Header, Malformed};

/// The kind of manifest that a player begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// An MPD.
    Dash,
    /// A multivariant playlist.
    Hls,
}

/// What a player needs fetched. Numbers are those of its renditions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Errand {
    /// The MPD or multivariant playlist.
    Manifest(Url),
    /// A media playlist.
    Playlist(usize, Url),
    /// An init segment.
    Init(usize, Url),
    /// Keys.
    Licence {
        /// Where they are asked for.
        licence: Licence,
        /// The renditions that need them.
        renditions: Vec<usize>,
        /// The body of the request, where it has one (W3C EME 9.1.3).
        body: Option<String>,
    },
    /// The key of another period.
    Renewal {
        /// Where it is asked for.
        licence: Licence,
        /// The body of the request, likewise.
        body: Option<String>,
    },
    /// A media segment.
    Segment {
        /// The rendition.
        rendition: usize,
        /// Which of its segments, from 0.
        index: usize,
        /// Where it is.
        url: Url,
    },
}

impl Errand {
    /// What a player of this licence asks for when the keys have changed so many times. The title's keys stand for those of
    /// the periods, one after the other.
    pub fn renewal(&self, period: usize) -> Option<Self> {
        let Self::Licence { licence, body, .. } = self else {
            return None;
        };
        let one = |body: &String| {
            let mut request: serde_json::Value = serde_json::from_str(body).ok()?;
            let kids = request["kids"].as_array()?;
            let kid = kids.get(period.checked_rem(kids.len())?)?.clone();
            request["kids"] = vec![kid].into();
            Some(request.to_string())
        };
        Some(Self::Renewal {
            licence: licence.clone(),
            body: body.as_ref().and_then(one),
        })
    }
}

/// Why a title cannot be played on.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The manifest cannot be played.
    #[error(transparent)]
    Manifest(#[from] Unplayable),
    /// The init segment cannot be read.
    #[error("init segment: {0}")]
    Init(#[from] Malformed),
    /// Text that is not UTF-8.
    #[error("the manifest is not UTF-8")]
    Encoding,
    /// Manifest and init segment say different things.
    #[error("manifest and init segment of {track} disagree about {what}")]
    Disagreement {
        /// Name of the rendition.
        track: String,
        /// What they disagree about.
        what: &'static str,
    },
    /// The licence is not of the form that was asked for. Its text is never repeated.
    #[error("licence: {0}")]
    Licence(&'static str),
}

/// One rendition whose segments can be watched.
#[derive(Debug, Clone)]
pub struct Playing {
    /// The rendition as its manifest describes it.
    pub track: Arc<Track>,
    /// Its init segment.
    pub header: Header,
    /// Its key; `None` where it is clear.
    pub key: Option<Key>,
}

/// A title, as far as it is known.
#[derive(Debug, Clone)]
pub struct Player {
    format: Format,
    url: Url,
    seat: usize,
    opened: Option<Opened>,
}

/// What the manifest brought.
#[derive(Debug, Clone)]
struct Opened {
    /// The rungs of the ladder, in rising order, and after them the rendition of audio, if there is one.
    renditions: Vec<Rendition>,
    rungs: usize,
}

/// How much of a rendition is known; each form holds what the one before it brought.
#[derive(Debug, Clone)]
enum Rendition {
    Listed(Playlist),
    Described(Arc<Track>),
    Locked(Arc<Track>, Header),
    Ready(Playing),
}

impl Player {
    /// A player of the manifest at `url`. Its `seat` decides which language it hears.
    pub fn new(format: Format, url: Url, seat: usize) -> Self {
        Self {
            format,
            url,
            seat,
            opened: None,
        }
    }

    /// The same title for a viewer with this seat; what is known stays known.
    #[must_use]
    pub fn seated(mut self, seat: usize) -> Self {
        self.seat = seat;
        self
    }

    /// What must be fetched, all at once, before segments of this rung can be watched; nothing where they can.
    ///
    /// Every errand is to be brought back by [`Player::take`]; then there may be more.
    pub fn missing(&self, rung: usize) -> Vec<Errand> {
        let Some(opened) = &self.opened else {
            return vec![Errand::Manifest(self.url.clone())];
        };
        let files: Vec<Errand> = opened
            .wanted(rung)
            .filter_map(|(number, rendition)| match rendition {
                Rendition::Listed(playlist) => Some(Errand::Playlist(number, playlist.url.clone())),
                Rendition::Described(track) => Some(Errand::Init(number, track.init.clone())),
                Rendition::Locked(..) | Rendition::Ready(_) => None,
            })
            .collect();
        // All keys of one place are asked for at once, so when all renditions have said which they need.
        if files.is_empty() {
            opened.licences(rung)
        } else {
            files
        }
    }

    /// The segments of this number: of the rung, and of audio. Nothing where they are not ready, or the title is over.
    pub fn segments(&self, rung: usize, index: usize) -> Vec<Errand> {
        let segment = |(rendition, playing): (usize, &Playing)| {
            let url = playing.track.segments.get(index)?.url.clone();
            Some(Errand::Segment {
                rendition,
                index,
                url,
            })
        };
        self.ready(rung).filter_map(segment).collect()
    }

    /// How long that segment is watched.
    pub fn duration(&self, rung: usize, index: usize) -> Duration {
        let segment = |(_, playing): (usize, &Playing)| {
            let segment = playing.track.segments.get(index)?;
            Some(segment.duration)
        };
        self.ready(rung).find_map(segment).unwrap_or_default()
    }

    /// How many segments the title has; 0 while that is not known.
    pub fn len(&self, rung: usize) -> usize {
        let len = |(_, playing): (usize, &Playing)| playing.track.segments.len();
        self.ready(rung).map(len).max().unwrap_or(0)
    }

    /// Bits per second of each rung, in rising order; nothing before the manifest has come.
    pub fn ladder(&self) -> Vec<u64> {
        let opened = self.opened.iter();
        let rungs = opened.flat_map(|opened| &opened.renditions[..opened.rungs]);
        rungs.map(Rendition::bandwidth).collect()
    }

    /// The rendition of this number, once it is ready.
    pub fn playing(&self, number: usize) -> Option<&Playing> {
        match self.opened.as_ref()?.renditions.get(number)? {
            Rendition::Ready(playing) => Some(playing),
            Rendition::Listed(_) | Rendition::Described(_) | Rendition::Locked(..) => None,
        }
    }

    fn ready(&self, rung: usize) -> impl Iterator<Item = (usize, &Playing)> {
        let wanted = self
            .opened
            .iter()
            .flat_map(move |opened| opened.wanted(rung));
        wanted.filter_map(|(number, _)| Some((number, self.playing(number)?)))
    }

    /// Takes what an errand brought. Segments are the caller's to judge: a player keeps none.
    ///
    /// # Errors
    /// Where it cannot be read, or contradicts what was read before.
    pub fn take(&mut self, errand: &Errand, body: &[u8]) -> Result<(), Fault> {
        let text = || std::str::from_utf8(body).map_err(|_| Fault::Encoding);
        match (errand, &mut self.opened) {
            (Errand::Manifest(url), opened) => {
                *opened = Some(match self.format {
                    Format::Dash => {
                        let menu = dash::read(url, text()?)?;
                        Opened::new(menu, self.seat, |track| {
                            Rendition::Described(Arc::new(track))
                        })
                    }
                    Format::Hls => {
                        let menu = hls::multivariant(url, text()?)?;
                        Opened::new(menu, self.seat, Rendition::Listed)
                    }
                });
            }
            (Errand::Playlist(number, _), Some(opened)) => {
                if let Rendition::Listed(playlist) = &opened.renditions[*number] {
                    let track = hls::media(playlist, text()?)?;
                    opened.renditions[*number] = Rendition::Described(Arc::new(track));
                }
            }
            (Errand::Init(number, _), Some(opened)) => {
                if let Rendition::Described(track) = &opened.renditions[*number] {
                    let header = Header::read(body)?;
                    agree(track, &header)?;
                    opened.renditions[*number] = opened.with_key(Arc::clone(track), header);
                }
            }
            (
                Errand::Licence {
                    licence,
                    renditions,
                    ..
                },
                Some(opened),
            ) => {
                for number in renditions {
                    let Rendition::Locked(track, header) = &opened.renditions[*number] else {
                        continue;
                    };
                    let key = match licence {
                        Licence::Identity(_) => identity_key(body)?,
                        Licence::ClearKey(_) => clear_key(body, kid(header))?,
                    };
                    opened.renditions[*number] = Rendition::Ready(Playing {
                        track: Arc::clone(track),
                        header: header.clone(),
                        key: Some(key),
                    });
                }
            }
            (Errand::Segment { .. } | Errand::Renewal { .. }, _)
            | (Errand::Playlist(..) | Errand::Init(..) | Errand::Licence { .. }, None) => {}
        }
        Ok(())
    }
}

impl Opened {
    fn new<T>(mut menu: Menu<T>, seat: usize, listed: impl Fn(T) -> Rendition) -> Self {
        // What has no picture is a ladder of sound.
        if menu.main.is_empty() {
            menu.main.append(&mut menu.audio);
        }
        let mut renditions: Vec<_> = menu.main.into_iter().map(&listed).collect();
        renditions.sort_by_key(Rendition::bandwidth);
        let rungs = renditions.len();
        if !menu.audio.is_empty() {
            let language = seat % menu.audio.len();
            renditions.push(listed(menu.audio.swap_remove(language)));
        }
        Self { renditions, rungs }
    }

    /// The renditions that are watched together, with their numbers.
    fn wanted(&self, rung: usize) -> impl Iterator<Item = (usize, &Rendition)> {
        let rung = rung.min(self.rungs.saturating_sub(1));
        let renditions = self.renditions.iter().enumerate();
        renditions.filter(move |(number, _)| *number == rung || *number >= self.rungs)
    }

    /// One errand for each place that keys are asked at.
    fn licences(&self, rung: usize) -> Vec<Errand> {
        let mut places = BTreeMap::<&Licence, (Vec<usize>, Vec<String>)>::new();
        for (number, rendition) in self.wanted(rung) {
            if let Rendition::Locked(track, header) = rendition
                && let Some(signalled) = &track.protection
            {
                let (renditions, kids) = places.entry(&signalled.licence).or_default();
                renditions.push(number);
                kids.extend(kid(header).map(|kid| BASE64_URL_SAFE_NO_PAD.encode(kid)));
                kids.dedup();
            }
        }
        let errand = |(licence, (renditions, kids)): (&Licence, (_, _))| Errand::Licence {
            licence: licence.clone(),
            renditions,
            body: match licence {
                Licence::ClearKey(_) => {
                    let request = serde_json::json!({"kids": kids, "type": "temporary"});
                    Some(request.to_string())
                }
                Licence::Identity(_) => None,
            },
        };
        places.into_iter().map(errand).collect()
    }

    /// Ready at once where no key is needed, or the key is held for another rendition.
    fn with_key(&self, track: Arc<Track>, header: Header) -> Rendition {
        let Some(kid) = kid(&header) else {
            return Rendition::Ready(Playing {
                track,
                header,
                key: None,
            });
        };
        let held = self
            .renditions
            .iter()
            .find_map(|rendition| match rendition {
                Rendition::Ready(playing) if self::kid(&playing.header) == Some(kid) => playing.key,
                Rendition::Ready(_)
                | Rendition::Listed(_)
                | Rendition::Described(_)
                | Rendition::Locked(..) => None,
            });
        match held {
            None => Rendition::Locked(track, header),
            key @ Some(_) => Rendition::Ready(Playing { track, header, key }),
        }
    }
}

impl Rendition {
    fn bandwidth(&self) -> u64 {
        match self {
            Self::Listed(playlist) => playlist.bandwidth,
            Self::Described(track) | Self::Locked(track, _) => track.bandwidth,
            Self::Ready(playing) => playing.track.bandwidth,
        }
    }
}

fn kid(header: &Header) -> Option<[u8; 16]> {
    header.protection.as_ref().map(|protection| protection.kid)
}

/// Holds what the manifest signals against `schm` and `tenc`.
fn agree(track: &Track, header: &Header) -> Result<(), Fault> {
    let disagreement = |what| {
        Err(Fault::Disagreement {
            track: track.name.clone(),
            what,
        })
    };
    match (&track.protection, &header.protection) {
        (None, None) => Ok(()),
        (Some(signalled), Some(protection)) if signalled.scheme != protection.scheme => {
            disagreement("the scheme")
        }
        (Some(signalled), Some(protection)) => match signalled.kid {
            Some(kid) if kid != protection.kid => disagreement("the key id"),
            Some(_) | None => Ok(()),
        },
        (Some(_), None) | (None, Some(_)) => disagreement("whether it is protected"),
    }
}

fn identity_key(body: &[u8]) -> Result<Key, Fault> {
    body.try_into()
        .map(Key)
        .map_err(|_| Fault::Licence("an identity key is 16 bytes long"))
}

/// A JWK set as W3C EME 9.1.4 has it.
#[derive(Deserialize)]
struct JwkSet {
    keys: Vec<Jwk>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: String,
    k: String,
}

fn clear_key(body: &[u8], kid: Option<[u8; 16]>) -> Result<Key, Fault> {
    let set: JwkSet =
        serde_json::from_slice(body).map_err(|_| Fault::Licence("the body is not a JWK set"))?;
    let kid = BASE64_URL_SAFE_NO_PAD.encode(kid.ok_or(Fault::Licence("no key id to look for"))?);
    let jwk = set
        .keys
        .iter()
        .find(|jwk| jwk.kty == "oct" && jwk.kid == kid);
    let k = &jwk
        .ok_or(Fault::Licence(
            "a key that was asked for is not in the licence",
        ))?
        .k;
    let key = BASE64_URL_SAFE_NO_PAD
        .decode(k)
        .ok()
        .and_then(|bytes| bytes.try_into().ok());
    key.map(Key)
        .ok_or(Fault::Licence("a key is not 16 bytes of base64url"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mp4::testing::header;

    fn url(path: &str) -> Url {
        Url::parse("http://o/v1/demo/cbcs/")
            .unwrap()
            .join(path)
            .unwrap()
    }

    fn protected_init(kid: u8) -> Vec<u8> {
        let tenc = [
            &[1, 0, 0, 0, 0, 0x19, 1, 0],
            &[kid; 16][..],
            &[16],
            &[9; 16],
        ]
        .concat();
        header(b"encv", Some((b"cbcs", &tenc)))
    }

    /// The higher rung is listed first.
    const MULTIVARIANT: &[u8] = b"#EXTM3U\n\
        #EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",URI=\"a.m3u8\"\n\
        #EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",URI=\"b.m3u8\"\n\
        #EXT-X-STREAM-INF:BANDWIDTH=2\nv2.m3u8\n#EXT-X-STREAM-INF:BANDWIDTH=1\nv1.m3u8\n";

    fn playlist(key: &str) -> Vec<u8> {
        format!(
            "#EXTM3U\n{key}#EXT-X-MAP:URI=\"i\"\n#EXTINF:4,\n1\n#EXTINF:4,\n2\n#EXTINF:1.5,\n3\n"
        )
        .into_bytes()
    }

    fn clear_playlist() -> Vec<u8> {
        playlist("")
    }

    fn key_playlist() -> Vec<u8> {
        playlist("#EXT-X-KEY:METHOD=SAMPLE-AES,KEYFORMAT=\"org.w3.clearkey\",URI=\"http://l/x\"\n")
    }

    fn opened(seat: usize) -> Player {
        let mut player = Player::new(Format::Hls, url("main.m3u8"), seat);
        let missing = player.missing(0);
        assert_eq!(missing, [Errand::Manifest(url("main.m3u8"))]);
        player.take(&missing[0], MULTIVARIANT).unwrap();
        player
    }

    /// As far as the licence of a rung: protected video, clear audio.
    fn locked(player: &mut Player, rung: usize, kid: u8) -> Vec<Errand> {
        for _ in 0..2 {
            for errand in player.missing(rung) {
                let body = match &errand {
                    Errand::Playlist(2, _) => clear_playlist(),
                    Errand::Playlist(..) => key_playlist(),
                    Errand::Init(2, _) => header(b"mp4a", None),
                    _ => protected_init(kid),
                };
                player.take(&errand, &body).unwrap();
            }
        }
        player.missing(rung)
    }

    const LICENCE: &[u8] =
        br#"{"keys":[{"kty":"oct","kid":"np6enp6enp6enp6enp6eng","k":"AQEBAQEBAQEBAQEBAQEBAQ"}]}"#;

    #[test]
    fn fetches_what_a_rung_needs_and_then_its_segments() {
        let mut player = opened(1);
        assert_eq!(player.ladder(), [1, 2], "in rising order");
        // Seat 1 of two languages is the second.
        let missing = player.missing(1);
        assert_eq!(
            missing,
            [
                Errand::Playlist(1, url("v2.m3u8")),
                Errand::Playlist(2, url("b.m3u8"))
            ]
        );
        assert!(player.segments(1, 0).is_empty() && player.len(1) == 0);
        for errand in &missing {
            player.take(errand, &clear_playlist()).unwrap();
        }
        let missing = player.missing(1);
        assert_eq!(
            missing,
            [Errand::Init(1, url("i")), Errand::Init(2, url("i"))]
        );
        for errand in &missing {
            player.take(errand, &header(b"avc1", None)).unwrap();
        }
        assert!(player.missing(1).is_empty());
        assert_eq!(
            (player.len(1), player.duration(1, 2)),
            (3, Duration::from_millis(1500))
        );
        let segment = |rendition, url| Errand::Segment {
            rendition,
            index: 2,
            url,
        };
        assert_eq!(
            player.segments(1, 2),
            [segment(1, url("3")), segment(2, url("3"))]
        );
        assert!(player.segments(1, 3).is_empty());
        // Another rung: its own files, and the audio that is there.
        assert_eq!(player.missing(0), [Errand::Playlist(0, url("v1.m3u8"))]);
        assert_eq!(player.missing(9), [], "no such rung: the highest");
    }

    #[test]
    fn asks_for_the_keys_that_init_segments_name() {
        let mut player = opened(0);
        let missing = locked(&mut player, 0, 0x9e);
        let [
            Errand::Licence {
                renditions, body, ..
            },
        ] = missing.as_slice()
        else {
            panic!("one licence")
        };
        assert_eq!(*renditions, [0]);
        let request = r#"{"kids":["np6enp6enp6enp6enp6eng"],"type":"temporary"}"#;
        assert_eq!(body.as_deref(), Some(request));
        player.take(&missing[0], LICENCE).unwrap();
        assert_eq!(player.playing(0).unwrap().key, Some(Key([1; 16])));
        assert_eq!(player.playing(2).unwrap().key, None);
        assert!(player.missing(0).is_empty());
    }

    #[test]
    fn a_key_is_asked_for_once() {
        let mut player = opened(0);
        let missing = locked(&mut player, 0, 0x9e);
        player.take(&missing[0], LICENCE).unwrap();
        let mut other = player.clone();
        assert_eq!(locked(&mut player, 1, 0x9e), []);
        assert_eq!(player.playing(1).unwrap().key, Some(Key([1; 16])));
        let missing = locked(&mut other, 1, 0x77);
        assert!(matches!(missing.as_slice(), [Errand::Licence { .. }]));
    }

    #[test]
    fn refuses_a_licence_without_the_key() {
        let mut player = opened(0);
        let missing = locked(&mut player, 0, 0x9e);
        let other = String::from_utf8(LICENCE.to_vec())
            .unwrap()
            .replace("np6e", "AAAA");
        let fault = player.take(&missing[0], other.as_bytes()).unwrap_err();
        assert_eq!(
            fault.to_string(),
            "licence: a key that was asked for is not in the licence"
        );
        assert!(player.take(&missing[0], b"<html>").is_err());
    }

    #[test]
    fn notices_that_manifest_and_init_disagree() {
        let mut player = opened(0);
        for errand in player.missing(0) {
            player.take(&errand, &clear_playlist()).unwrap();
        }
        let missing = player.missing(0);
        let fault = player.take(&missing[0], &protected_init(1)).unwrap_err();
        assert_eq!(
            fault.to_string(),
            "manifest and init segment of v1 disagree about whether it is protected"
        );
    }

    #[test]
    fn what_has_no_picture_is_a_ladder_of_sound() {
        let text = b"#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",URI=\"a.m3u8\"\n\
            #EXT-X-STREAM-INF:BANDWIDTH=1\na.m3u8\n";
        let mut player = Player::new(Format::Hls, url("main.m3u8"), 0);
        player.take(&player.missing(0)[0], text).unwrap();
        assert_eq!(player.missing(0), [Errand::Playlist(0, url("a.m3u8"))]);
    }

    #[test]
    fn an_identity_key_is_sixteen_raw_bytes() {
        assert_eq!(identity_key(&[7; 16]).unwrap(), Key([7; 16]));
        assert!(identity_key(&[7; 17]).is_err());
    }
}
