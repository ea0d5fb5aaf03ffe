//! HLS playlists (RFC 8216; where its draft successor adds an attribute, that is said).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keystore_types::{DrmSystem, HlsClearKeyFlavour, KeyId, Scheme};

use super::bandwidth::Bandwidth;
use super::url::{Depth, MediaObject, UrlScheme};
use super::{Picture, Subject, longest_segment, push_number, push_seconds};
use crate::codec::{CodecConfig, Media};
use crate::drm::{KEY_FORMAT_VERSIONS, Signalling, clearkey, fairplay, playready, widevine};
use crate::presentation::{SwitchingSet, Track};
use crate::protect::TrackKey;
use crate::time::{MediaTime, Rounding, Timescale};

/// The one audio group.
const AUDIO: &str = "audio";

/// The multivariant playlist of `subject`, written for a URL at `depth`.
pub fn multivariant(subject: &Subject<'_>, depth: Depth) -> String {
    let urls = UrlScheme::new(depth, subject.revision);
    let sets = || subject.presentation.switching_sets().iter();
    let audio: Vec<Rendition<'_>> =
        renditions(subject, sets().filter(|set| set.media == Media::Audio));
    let video = sets()
        .filter(|set| set.media == Media::Video)
        .find(|set| subject.tracks_of(set).next().is_some());
    // A single language without pictures needs no group: each rate is a variant.
    let grouped = video.is_some() || audio.len() > 1;
    let keys = session_keys(subject);

    let mut out = "#EXTM3U\n".to_owned();
    match (keys.is_empty(), grouped && !audio.is_empty()) {
        (false, _) => out.push_str("#EXT-X-VERSION:5\n"), // KEYFORMAT
        (true, true) => out.push_str("#EXT-X-VERSION:4\n"), // EXT-X-MEDIA
        (true, false) => {}
    }
    if (subject.listed()).all(|track| track.timeline().is_independent()) {
        out.push_str("#EXT-X-INDEPENDENT-SEGMENTS\n");
    }
    for key in keys {
        line(&mut out, format_args!("#EXT-X-SESSION-KEY:{key}"));
    }
    if grouped {
        for (at, rendition) in audio.iter().enumerate() {
            line(
                &mut out,
                format_args!("#EXT-X-MEDIA:{}", rendition.attributes(at == 0, urls)),
            );
        }
    }
    let sound = sets().find(|set| set.media == Media::Audio);
    match (video, sound) {
        (Some(set), _) => {
            for (track, _) in subject.tracks_of(set) {
                variant(&mut out, subject, track, &audio, urls);
            }
        }
        (None, Some(first)) if grouped => {
            if let Some((default, _)) = subject.tracks_of(first).last() {
                variant(&mut out, subject, default, &audio, urls);
            }
        }
        (None, Some(only)) => {
            for (track, _) in subject.tracks_of(only) {
                variant(&mut out, subject, track, &[], urls);
            }
        }
        (None, None) => {}
    }
    out
}

/// The media playlist of the track at position `at` of the presentation. It stands beside the manifest of its
/// revision.
///
/// # Panics
/// When there are no more than `at` tracks.
pub fn media_playlist(subject: &Subject<'_>, at: usize) -> String {
    let urls = UrlScheme::new(Depth::Revision, subject.revision);
    let track = &subject.presentation.tracks()[at];
    let media = subject.media_ids[at];
    let pack = &subject.presentation.pack().name;
    let target = longest_segment(subject.presentation)
        .to_timescale(Timescale::new(1).expect("not zero"), Rounding::Nearest)
        .ticks
        .max(1);

    // EXT-X-MAP in a playlist that is not of I-frames needs version 6.
    let mut out = "#EXTM3U\n#EXT-X-VERSION:6\n".to_owned();
    line(&mut out, format_args!("#EXT-X-TARGETDURATION:{target}"));
    out.push_str("#EXT-X-MEDIA-SEQUENCE:1\n#EXT-X-PLAYLIST-TYPE:VOD\n");
    let init = urls.media(pack, track.name(), media.init, MediaObject::Init);
    line(&mut out, format_args!("#EXT-X-MAP:URI=\"{init}\""));
    if let Some((signalling, key)) = subject.protection(track) {
        for key in key_lines(signalling, key) {
            line(&mut out, format_args!("#EXT-X-KEY:{}", key.attributes));
        }
    }
    let folder = urls.media_folder(pack, track.name(), media.segments);
    let count = usize::try_from(track.timeline().segment_count()).unwrap_or_default();
    out.reserve(count * (folder.len() + EXTINF_LEN));
    // Lengths are differences of rounded instants, so that rounding never adds up.
    let instant = |ticks: u64| {
        let time = MediaTime::new(ticks.cast_signed(), track.timescale());
        let rounded = time.to_timescale(super::MICROSECONDS, Rounding::Nearest);
        rounded.ticks.unsigned_abs()
    };
    let mut begin = instant(track.timeline().start());
    for segment in track.timeline().segments() {
        let end = instant(segment.start + segment.duration);
        out.push_str("#EXTINF:");
        push_seconds(&mut out, end - begin);
        out.push_str(",\n");
        out.push_str(&folder);
        push_number(&mut out, segment.number.into());
        out.push_str(MediaObject::SEGMENT_SUFFIX);
        out.push('\n');
        begin = end;
    }
    out.push_str("#EXT-X-ENDLIST\n");
    out
}

/// A language or layout of audio: the best track of its switching set.
struct Rendition<'a> {
    track: &'a Track,
    name: String,
    bandwidth: Bandwidth,
}

fn renditions<'a>(
    subject: &Subject<'a>,
    sets: impl Iterator<Item = &'a SwitchingSet>,
) -> Vec<Rendition<'a>> {
    let mut names: BTreeMap<String, u32> = BTreeMap::new();
    sets.filter_map(|set| {
        let (track, _) = subject.tracks_of(set).last()?;
        let stem = set.language.clone().unwrap_or_else(|| "und".to_owned());
        // A name is unique in its group (RFC 8216 4.3.4.1.1).
        let count = names.entry(stem.clone()).or_default();
        *count += 1;
        let name = match (*count, track.samples().codec().as_aac()) {
            (1, _) | (_, None) => stem,
            (count, Some(aac)) => format!("{stem} ({} channels, {count})", aac.channels()),
        };
        Some(Rendition {
            track,
            name,
            bandwidth: Bandwidth::of(subject.presentation, track),
        })
    })
    .collect()
}

impl Rendition<'_> {
    fn attributes(&self, default: bool, urls: UrlScheme) -> String {
        let mut out = format!(
            "TYPE=AUDIO,GROUP-ID=\"{AUDIO}\",NAME=\"{}\"",
            quoted(&self.name)
        );
        let samples = self.track.samples();
        if let Some(language) = samples.language() {
            push(&mut out, format_args!(",LANGUAGE=\"{}\"", quoted(language)));
        }
        push(
            &mut out,
            format_args!(
                ",DEFAULT={},AUTOSELECT=YES",
                if default { "YES" } else { "NO" }
            ),
        );
        match samples.codec() {
            CodecConfig::Avc(_) => {}
            CodecConfig::Aac(aac) => {
                push(&mut out, format_args!(",CHANNELS=\"{}\"", aac.channels()))
            }
        }
        push(
            &mut out,
            format_args!(",URI=\"{}\"", urls.playlist(self.track.name())),
        );
        out
    }
}

fn variant(
    out: &mut String,
    subject: &Subject<'_>,
    track: &Track,
    audio: &[Rendition<'_>],
    urls: UrlScheme,
) {
    let own = Bandwidth::of(subject.presentation, track);
    let picture = Picture::of(track);
    let heaviest = audio
        .iter()
        .map(|rendition| rendition.bandwidth)
        .max_by_key(|b| (b.peak, b.average));
    // An audio variant is a member of the group itself, and is not counted twice.
    let bandwidth = match (heaviest, &picture) {
        (Some(audio), Some(_)) => own.with(audio),
        (Some(audio), None) => audio,
        (None, _) => own,
    };
    let mut codecs = vec![track.samples().codec().rfc6381()];
    for rendition in audio {
        let codec = rendition.track.samples().codec().rfc6381();
        if !codecs.contains(&codec) {
            codecs.push(codec);
        }
    }
    push(
        out,
        format_args!("#EXT-X-STREAM-INF:BANDWIDTH={}", bandwidth.peak),
    );
    push(
        out,
        format_args!(",AVERAGE-BANDWIDTH={}", bandwidth.average),
    );
    push(out, format_args!(",CODECS=\"{}\"", codecs.join(",")));
    if let Some(picture) = &picture {
        push(
            out,
            format_args!(",RESOLUTION={}x{}", picture.width, picture.height),
        );
        push(out, format_args!(",FRAME-RATE={}", picture.rate_decimal()));
        if let Some(range) = picture.range {
            push(out, format_args!(",VIDEO-RANGE={range}")); // draft successor 4.4.6.2
        }
    }
    if !audio.is_empty() {
        push(out, format_args!(",AUDIO=\"{AUDIO}\""));
    }
    if picture.is_some() {
        out.push_str(",CLOSED-CAPTIONS=NONE");
    }
    out.push('\n');
    line(out, format_args!("{}", urls.playlist(track.name())));
}

/// A key as one DRM system reads it.
struct KeyLine {
    attributes: String,
    /// Whether it may stand in the multivariant playlist too.
    in_session: bool,
}

fn key_lines(signalling: &Signalling<'_>, key: &TrackKey) -> Vec<KeyLine> {
    let scheme = signalling.policy.scheme;
    let method = match scheme {
        Scheme::Cbcs => "SAMPLE-AES",
        Scheme::Cenc => "SAMPLE-AES-CTR",
    };
    let written = |uri: &str, key_id: Option<KeyId>, format: &str| {
        let mut out = format!("METHOD={method},URI=\"{uri}\"");
        if let Some(key_id) = key_id {
            out.push_str(",KEYID=0x");
            key_id
                .as_bytes()
                .iter()
                .for_each(|byte| push(&mut out, format_args!("{byte:02x}")));
        }
        push(
            &mut out,
            format_args!(",KEYFORMAT=\"{format}\",KEYFORMATVERSIONS=\"{KEY_FORMAT_VERSIONS}\""),
        );
        KeyLine {
            attributes: out,
            in_session: true,
        }
    };
    let license = || {
        written(
            &signalling.clear_key_url_of(key.key_id),
            Some(key.key_id),
            clearkey::KEY_FORMAT,
        )
    };
    // shaka-player maps an identity key to the id in the init segment; a session key has none, and would be
    // taken for key 0.
    let raw = || KeyLine {
        in_session: false,
        ..written(
            &signalling.hls_key_url(key.key_id),
            None,
            clearkey::IDENTITY_KEY_FORMAT,
        )
    };
    let mut lines = Vec::new();
    for system in &signalling.policy.systems {
        match (system, signalling.policy.hls_clear_key) {
            (DrmSystem::ClearKey, HlsClearKeyFlavour::ClearKey) => lines.push(license()),
            (DrmSystem::ClearKey, HlsClearKeyFlavour::Identity) => lines.push(raw()),
            (DrmSystem::ClearKey, HlsClearKeyFlavour::Both) => lines.extend([license(), raw()]),
            (DrmSystem::Widevine, _) => {
                let pssh = STANDARD.encode(widevine::pssh(&[key.key_id], scheme).to_bytes());
                let uri = format!("data:text/plain;base64,{pssh}");
                lines.push(written(&uri, Some(key.key_id), &widevine::SYSTEM.urn()));
            }
            (DrmSystem::PlayReady, _) => {
                let url = signalling.playready_url(key.key_id);
                let header = playready::Header {
                    key_id: key.key_id,
                    scheme,
                    license_url: Some(&url),
                    checksum: None,
                };
                let object = STANDARD.encode(header.to_object());
                let uri = format!("data:text/plain;charset=UTF-16;base64,{object}");
                lines.push(written(&uri, None, playready::KEY_FORMAT));
            }
            // FairPlay decrypts cbcs only.
            (DrmSystem::FairPlay, _) => match scheme {
                Scheme::Cbcs => lines.push(written(
                    &fairplay::key_uri(key.key_id),
                    None,
                    fairplay::KEY_FORMAT,
                )),
                Scheme::Cenc => {}
            },
        }
    }
    lines
}

/// Every key of the listed tracks in every spelling (rule S10), by label.
fn session_keys(subject: &Subject<'_>) -> Vec<String> {
    let Some(signalling) = subject.signalling else {
        return Vec::new();
    };
    let used = |label| subject.listed().any(|track| track.label() == label);
    let keys = subject.keys.iter().filter(|(label, _)| used(**label));
    keys.flat_map(|(_, key)| key_lines(signalling, key))
        .filter(|line| line.in_session)
        .map(|line| line.attributes)
        .collect()
}

/// What may stand in a quoted string: no quote and no line break (RFC 8216 4.2).
fn quoted(text: &str) -> String {
    text.chars()
        .filter(|c| !matches!(c, '"' | '\r' | '\n'))
        .collect()
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text)
        .expect("a string takes all that is written to it");
}

/// `#EXTINF` with its line, and the name of the segment.
const EXTINF_LEN: usize = 32;

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    push(out, text);
    out.push('\n');
}
