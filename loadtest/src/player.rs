//! A viewer's player as a pure state machine: it says what to fetch next and is told what came.
//!
//! ```text
//! manifest -> playlists (HLS) -> init segments -> licences -> segments, one per track and turn -> end
//! ```
//!
//! It does no I/O and has no clock: the same title and seat always lead to the same errands.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Deserialize;
use url::Url;

use crate::decrypt::Key;
use crate::manifest::hls::Playlist;
use crate::manifest::{Licence, Menu, Track, Unplayable, dash, hls};
use crate::mp4::{Header, Malformed};

/// The kind of manifest that a player begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// An MPD.
    Dash,
    /// A multivariant playlist.
    Hls,
}

/// What a player needs fetched. Numbers are those of its tracks, in order of the menu.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Errand {
    /// The MPD or multivariant playlist.
    Manifest(Url),
    /// A media playlist.
    Playlist(usize, Url),
    /// An init segment.
    Init(usize, Url),
    /// Keys: the body of a request where there is one, and the tracks that they are for.
    Licence {
        /// Where keys are asked for.
        licence: Licence,
        /// The tracks that need them.
        tracks: Vec<usize>,
    },
    /// A media segment.
    Segment {
        /// The track.
        track: usize,
        /// Which of its segments, from 0.
        index: usize,
        /// Where it is.
        url: Url,
        /// Whether its samples are due for comparison.
        sampled: bool,
    },
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

/// One rendition that is being played.
#[derive(Debug)]
pub struct Playing {
    /// The rendition as its manifest describes it.
    pub track: Track,
    /// Its init segment.
    pub header: Header,
    /// Its key, once a licence brought it.
    pub key: Option<Key>,
}

/// Everything about one viewer of one title.
#[derive(Debug)]
pub struct Player {
    format: Format,
    url: Url,
    seat: usize,
    sample_every: usize,
    stage: Stage,
}

/// How far it got; each stage holds what the one before it brought.
#[derive(Debug)]
enum Stage {
    Opening,
    Listing {
        playlists: Vec<Playlist>,
        tracks: Vec<Option<Track>>,
    },
    Preparing {
        tracks: Vec<Track>,
        headers: Vec<Option<Header>>,
    },
    Licensing {
        tracks: Vec<Playing>,
    },
    Watching {
        tracks: Vec<Playing>,
        turn: usize,
    },
}

impl Player {
    /// A player of the manifest at `url`.
    ///
    /// `seat` decides renditions and starting point, so that neighbours watch different parts;
    /// of every `sample_every` turns one is due for comparison, the first always.
    pub fn new(format: Format, url: Url, seat: usize, sample_every: usize) -> Self {
        Self {
            format,
            url,
            seat,
            sample_every: sample_every.max(1),
            stage: Stage::Opening,
        }
    }

    /// What to fetch now, all at once; empty when the title is over.
    ///
    /// Every errand of a turn must be brought back by [`Player::take`] before the next turn.
    pub fn turn(&mut self) -> Vec<Errand> {
        match &mut self.stage {
            Stage::Opening => vec![Errand::Manifest(self.url.clone())],
            Stage::Listing { playlists, .. } => {
                let urls = playlists.iter().map(|playlist| playlist.url.clone());
                urls.enumerate()
                    .map(|(track, url)| Errand::Playlist(track, url))
                    .collect()
            }
            Stage::Preparing { tracks, .. } => {
                let urls = tracks.iter().map(|track| track.init.clone());
                urls.enumerate()
                    .map(|(track, url)| Errand::Init(track, url))
                    .collect()
            }
            Stage::Licensing { tracks } => licences(tracks),
            Stage::Watching { tracks, turn } => {
                let sampled = (*turn).is_multiple_of(self.sample_every);
                let errands = segments(tracks, self.seat, *turn, sampled);
                *turn += 1;
                errands
            }
        }
    }

    /// Takes what an errand brought.
    ///
    /// # Errors
    /// Where it cannot be read, or contradicts what was read before.
    pub fn take(&mut self, errand: &Errand, body: &[u8]) -> Result<(), Fault> {
        match (errand, &mut self.stage) {
            (Errand::Manifest(url), Stage::Opening) => {
                let text = std::str::from_utf8(body).map_err(|_| Fault::Encoding)?;
                self.stage = match self.format {
                    Format::Dash => Stage::preparing(choose(dash::read(url, text)?, self.seat)),
                    Format::Hls => Stage::listing(choose(hls::multivariant(url, text)?, self.seat)),
                };
            }
            (Errand::Playlist(number, _), Stage::Listing { playlists, tracks }) => {
                let text = std::str::from_utf8(body).map_err(|_| Fault::Encoding)?;
                tracks[*number] = Some(hls::media(&playlists[*number], text)?);
                if tracks.iter().all(Option::is_some) {
                    self.stage = Stage::preparing(tracks.drain(..).flatten().collect());
                }
            }
            (Errand::Init(number, _), Stage::Preparing { tracks, headers }) => {
                let header = Header::read(body)?;
                agree(&tracks[*number], &header)?;
                headers[*number] = Some(header);
                if headers.iter().all(Option::is_some) {
                    let pairs = tracks.drain(..).zip(headers.drain(..).flatten());
                    self.stage = Stage::licensing(
                        pairs
                            .map(|(track, header)| Playing {
                                track,
                                header,
                                key: None,
                            })
                            .collect(),
                    );
                }
            }
            (
                Errand::Licence {
                    licence,
                    tracks: numbers,
                },
                Stage::Licensing { tracks },
            ) => {
                for number in numbers {
                    let playing = &mut tracks[*number];
                    playing.key = Some(match licence {
                        Licence::Identity(_) => identity_key(body)?,
                        Licence::ClearKey(_) => clear_key(body, playing.kid())?,
                    });
                }
                if tracks.iter().all(Playing::is_ready) {
                    self.stage = Stage::Watching {
                        tracks: std::mem::take(tracks),
                        turn: 0,
                    };
                }
            }
            // Segments are the caller's to judge: the player keeps none.
            _ => {}
        }
        Ok(())
    }

    /// The track of this number, while segments are being watched.
    pub fn playing(&self, number: usize) -> Option<&Playing> {
        match &self.stage {
            Stage::Watching { tracks, .. } => tracks.get(number),
            Stage::Opening
            | Stage::Listing { .. }
            | Stage::Preparing { .. }
            | Stage::Licensing { .. } => None,
        }
    }

    /// The body of a ClearKey request for the keys of these tracks (W3C EME 9.1.3).
    pub fn licence_request(&self, numbers: &[usize]) -> String {
        let tracks: &[Playing] = match &self.stage {
            Stage::Licensing { tracks } | Stage::Watching { tracks, .. } => tracks,
            Stage::Opening | Stage::Listing { .. } | Stage::Preparing { .. } => &[],
        };
        let wanted = numbers
            .iter()
            .filter_map(|number| tracks.get(*number)?.kid());
        let mut kids: Vec<_> = wanted
            .map(|kid| BASE64_URL_SAFE_NO_PAD.encode(kid))
            .collect();
        kids.dedup();
        serde_json::json!({"kids": kids, "type": "temporary"}).to_string()
    }
}

impl Stage {
    fn listing(playlists: Vec<Playlist>) -> Self {
        let tracks = playlists.iter().map(|_| None).collect();
        Self::Listing { playlists, tracks }
    }

    fn preparing(tracks: Vec<Track>) -> Self {
        let headers = tracks.iter().map(|_| None).collect();
        Self::Preparing { tracks, headers }
    }

    fn licensing(tracks: Vec<Playing>) -> Self {
        if tracks.iter().all(Playing::is_ready) {
            Self::Watching { tracks, turn: 0 }
        } else {
            Self::Licensing { tracks }
        }
    }
}

impl Playing {
    fn kid(&self) -> Option<[u8; 16]> {
        self.header
            .protection
            .as_ref()
            .map(|protection| protection.kid)
    }

    fn is_ready(&self) -> bool {
        self.key.is_some() || self.header.protection.is_none()
    }
}

/// One rendition of each kind, by the viewer's seat.
fn choose<T>(menu: Menu<T>, seat: usize) -> Vec<T> {
    let pick = |mut list: Vec<T>| (!list.is_empty()).then(|| list.swap_remove(seat % list.len()));
    [menu.main, menu.audio]
        .into_iter()
        .filter_map(pick)
        .collect()
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

/// One errand for each place that keys are asked at.
fn licences(tracks: &[Playing]) -> Vec<Errand> {
    let mut places = std::collections::BTreeMap::<_, Vec<usize>>::new();
    for (number, playing) in tracks.iter().enumerate() {
        if let Some(signalled) = &playing.track.protection {
            places.entry(&signalled.licence).or_default().push(number);
        }
    }
    let errand = |(licence, tracks): (&Licence, _)| Errand::Licence {
        licence: licence.clone(),
        tracks,
    };
    places.into_iter().map(errand).collect()
}

/// The segments of one turn: each track from a place of the seat's own to its end.
fn segments(tracks: &[Playing], seat: usize, turn: usize, sampled: bool) -> Vec<Errand> {
    let mut errands = Vec::with_capacity(tracks.len());
    for (track, playing) in tracks.iter().enumerate() {
        let segments = &playing.track.segments;
        let index = seat.checked_rem(segments.len()).unwrap_or(0) + turn;
        if let Some(segment) = segments.get(index) {
            let sampled = sampled && playing.key.is_some();
            errands.push(Errand::Segment {
                track,
                index,
                url: segment.url.clone(),
                sampled,
            });
        }
    }
    errands
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

    const KID: [u8; 16] = [0x9e; 16];

    fn url(path: &str) -> Url {
        Url::parse("http://o/v1/demo/cbcs/")
            .unwrap()
            .join(path)
            .unwrap()
    }

    fn protected_init() -> Vec<u8> {
        let tenc = [&[1, 0, 0, 0, 0, 0x19, 1, 0], &KID[..], &[16], &[9; 16]].concat();
        header(b"encv", Some((b"cbcs", &tenc)))
    }

    const MULTIVARIANT: &[u8] = b"#EXTM3U\n\
        #EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",URI=\"a.m3u8\"\n\
        #EXT-X-STREAM-INF:BANDWIDTH=1\nv1.m3u8\n#EXT-X-STREAM-INF:BANDWIDTH=1\nv2.m3u8\n";

    fn playlist(key: &str) -> Vec<u8> {
        format!("#EXTM3U\n{key}#EXT-X-MAP:URI=\"i\"\n1\n2\n3\n").into_bytes()
    }

    fn clear_playlist() -> Vec<u8> {
        playlist("")
    }

    fn key_playlist() -> Vec<u8> {
        playlist("#EXT-X-KEY:METHOD=SAMPLE-AES,KEYFORMAT=\"org.w3.clearkey\",URI=\"http://l/x\"\n")
    }

    /// Plays as far as the licences: protected video, clear audio.
    fn licensed(seat: usize) -> Player {
        let mut player = Player::new(Format::Hls, url("main.m3u8"), seat, 2);
        let turn = player.turn();
        player.take(&turn[0], MULTIVARIANT).unwrap();
        let turn = player.turn();
        player.take(&turn[0], &key_playlist()).unwrap();
        player.take(&turn[1], &clear_playlist()).unwrap();
        let turn = player.turn();
        player.take(&turn[0], &protected_init()).unwrap();
        player.take(&turn[1], &header(b"mp4a", None)).unwrap();
        player
    }

    const LICENCE: &[u8] =
        br#"{"keys":[{"kty":"oct","kid":"np6enp6enp6enp6enp6eng","k":"AQEBAQEBAQEBAQEBAQEBAQ"}]}"#;

    #[test]
    fn plays_hls_from_manifest_to_end() {
        let mut player = Player::new(Format::Hls, url("main.m3u8"), 3, 1);
        assert_eq!(player.turn(), [Errand::Manifest(url("main.m3u8"))]);
        player
            .take(&Errand::Manifest(url("main.m3u8")), MULTIVARIANT)
            .unwrap();
        // Seat 3 of two variants is the second.
        let turn = player.turn();
        assert_eq!(
            turn,
            [
                Errand::Playlist(0, url("v2.m3u8")),
                Errand::Playlist(1, url("a.m3u8"))
            ]
        );
        for errand in &turn {
            player.take(errand, &clear_playlist()).unwrap();
        }
        let turn = player.turn();
        assert_eq!(turn, [Errand::Init(0, url("i")), Errand::Init(1, url("i"))]);
        for errand in &turn {
            player.take(errand, &header(b"avc1", None)).unwrap();
        }
        let mut watched = Vec::new();
        loop {
            let turn = player.turn();
            if turn.is_empty() {
                break;
            }
            for errand in turn {
                if let Errand::Segment {
                    track,
                    index,
                    sampled,
                    ..
                } = errand
                {
                    watched.push((track, index, sampled));
                }
            }
        }
        assert_eq!(
            watched,
            [0, 1, 2].map(|i| [(0, i, false), (1, i, false)]).concat()
        );
    }

    #[test]
    fn asks_for_the_keys_that_init_segments_name() {
        let mut player = licensed(0);
        let turn = player.turn();
        let [Errand::Licence { tracks, .. }] = turn.as_slice() else {
            panic!("one licence")
        };
        assert_eq!(
            player.licence_request(tracks),
            r#"{"kids":["np6enp6enp6enp6enp6eng"],"type":"temporary"}"#
        );
        player.take(&turn[0], LICENCE).unwrap();
        assert_eq!(player.playing(0).unwrap().key, Some(Key([1; 16])));
        let sampled = |errand: &Errand| matches!(errand, Errand::Segment { sampled: true, .. });
        // Every second turn, protected tracks only.
        assert_eq!(
            player.turn().iter().map(sampled).collect::<Vec<_>>(),
            [true, false]
        );
        assert_eq!(
            player.turn().iter().map(sampled).collect::<Vec<_>>(),
            [false, false]
        );
    }

    #[test]
    fn a_seat_decides_where_watching_begins() {
        let mut player = licensed(4);
        let turn = player.turn();
        player.take(&turn[0], LICENCE).unwrap();
        let turn = player.turn();
        assert!(matches!(turn[0], Errand::Segment { index: 1, .. }));
    }

    #[test]
    fn refuses_a_licence_without_the_key() {
        let mut player = licensed(0);
        let turn = player.turn();
        let other = String::from_utf8(LICENCE.to_vec())
            .unwrap()
            .replace("np6e", "AAAA");
        let fault = player.take(&turn[0], other.as_bytes()).unwrap_err();
        assert_eq!(
            fault.to_string(),
            "licence: a key that was asked for is not in the licence"
        );
        assert!(player.take(&turn[0], b"<html>").is_err());
    }

    #[test]
    fn notices_that_manifest_and_init_disagree() {
        let mut player = Player::new(Format::Hls, url("main.m3u8"), 0, 1);
        player
            .take(&Errand::Manifest(url("main.m3u8")), MULTIVARIANT)
            .unwrap();
        for errand in player.turn() {
            player.take(&errand, &clear_playlist()).unwrap();
        }
        let turn = player.turn();
        let fault = player.take(&turn[0], &protected_init()).unwrap_err();
        assert_eq!(
            fault.to_string(),
            "manifest and init segment of v1 disagree about whether it is protected"
        );
    }

    #[test]
    fn an_identity_key_is_sixteen_raw_bytes() {
        assert_eq!(identity_key(&[7; 16]).unwrap(), Key([7; 16]));
        assert!(identity_key(&[7; 17]).is_err());
    }
}
