//! The MPD (ISO/IEC 23009-1): one static period, one AdaptationSet for each switching set and key.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keystore_types::{DrmSystem, Scheme};

use super::bandwidth::Bandwidth;
use super::url::{Depth, MediaObject, UrlScheme};
use super::xml::{Attribute, Xml};
use super::{MICROSECONDS, Picture, Subject, decimal_seconds};
use crate::codec::{CodecConfig, Media};
use crate::drm::{Signalling, clearkey, playready, widevine};
use crate::identity::MediaIds;
use crate::presentation::{SwitchingSet, Track, ticks_at_or_before};
use crate::protect::TrackKey;
use crate::time::{MediaTime, Rounding};

const MPD: &str = "urn:mpeg:dash:schema:mpd:2011";
const CENC: &str = "urn:mpeg:cenc:2013";
const PLAYREADY: &str = "urn:microsoft:playready";
/// The first generation of licence URL elements, for ClearKey only. Media3 matches the literal `clearkey:Laurl`.
const CLEARKEY: &str = "http://dashif.org/guidelines/clearKey";
/// The second generation (DASH-IF IOP v5 part 6). Media3 matches the literal `dashif:Laurl`.
const DASHIF: &str = "https://dashif.org/CPS";

/// The MPD of `subject`, written for a URL at `depth`.
pub fn write(subject: &Subject<'_>, depth: Depth) -> String {
    let urls = UrlScheme::new(depth, subject.revision);
    let presentation = subject.presentation;
    let duration = span(presentation.start(), presentation.end());
    let longest = duration_text(super::longest_segment(presentation));
    let mut namespaces: Vec<Attribute<'_>> = vec![("xmlns", MPD)];
    if let Some(signalling) = subject.signalling {
        namespaces.push(("xmlns:cenc", CENC));
        let signals = |system| signalling.policy.systems.contains(&system);
        if signals(DrmSystem::ClearKey) {
            namespaces.push(("xmlns:clearkey", CLEARKEY));
        }
        namespaces.push(("xmlns:dashif", DASHIF));
        if signals(DrmSystem::PlayReady) {
            namespaces.push(("xmlns:mspr", PLAYREADY));
        }
    }
    let own = [
        ("profiles", "urn:mpeg:dash:profile:isoff-live:2011"),
        ("type", "static"),
        ("mediaPresentationDuration", &duration),
        ("maxSegmentDuration", &longest),
        ("minBufferTime", &longest),
    ];
    namespaces.extend(own);
    let mut xml = Xml::new();
    xml.element("MPD", &namespaces, |xml| {
        xml.element(
            "Period",
            &[("id", "1"), ("start", "PT0S"), ("duration", &duration)],
            |xml| {
                for set in adaptation_sets(subject) {
                    set.write(xml, subject, urls);
                }
            },
        );
    });
    xml.finish()
}

/// Tracks that share a switching set and a key (rule S2).
struct AdaptationSet<'a> {
    id: usize,
    of: &'a SwitchingSet,
    tracks: Vec<(&'a Track, MediaIds)>,
    /// The other sets to which a player may switch: those of the same switching set.
    siblings: Vec<usize>,
    /// `main`, or `alternate` for every language after the first: one of them is to start with.
    role: &'static str,
}

fn adaptation_sets<'a>(subject: &Subject<'a>) -> Vec<AdaptationSet<'a>> {
    let mut sets: Vec<AdaptationSet<'a>> = Vec::new();
    for of in subject.presentation.switching_sets() {
        let first = sets.len();
        let role = if sets.iter().any(|set| set.of.media == of.media) {
            "alternate"
        } else {
            "main"
        };
        for (track, media) in subject.tracks_of(of) {
            let same_key = |set: &&mut AdaptationSet<'a>| {
                subject.signalling.is_none()
                    || set
                        .tracks
                        .iter()
                        .all(|(other, _)| other.label() == track.label())
            };
            match sets[first..].iter_mut().find(same_key) {
                Some(set) => set.tracks.push((track, media)),
                None => {
                    let id = sets.len() + 1;
                    sets.push(AdaptationSet {
                        id,
                        of,
                        tracks: vec![(track, media)],
                        siblings: Vec::new(),
                        role,
                    });
                }
            }
        }
        let ids: Vec<usize> = sets[first..].iter().map(|set| set.id).collect();
        for set in &mut sets[first..] {
            set.siblings = ids.iter().copied().filter(|&id| id != set.id).collect();
        }
    }
    sets
}

impl AdaptationSet<'_> {
    fn write(&self, xml: &mut Xml, subject: &Subject<'_>, urls: UrlScheme) {
        let id = self.id.to_string();
        let (content, mime) = match self.of.media {
            Media::Video => ("video", "video/mp4"),
            Media::Audio => ("audio", "audio/mp4"),
        };
        let mut attributes: Vec<Attribute<'_>> =
            vec![("id", &id), ("contentType", content), ("mimeType", mime)];
        if let Some(language) = &self.of.language {
            attributes.push(("lang", language));
        }
        let independent = |(track, _): &(&Track, MediaIds)| track.timeline().is_independent();
        let sap = if self.tracks.iter().all(independent) {
            "1"
        } else {
            "3"
        };
        attributes.extend([("segmentAlignment", "true"), ("startWithSAP", sap)]);
        let pictures: Vec<Picture> = self
            .tracks
            .iter()
            .filter_map(|(track, _)| Picture::of(track))
            .collect();
        let widest = pictures
            .iter()
            .map(|picture| picture.width)
            .max()
            .unwrap_or(0)
            .to_string();
        let highest = pictures
            .iter()
            .map(|picture| picture.height)
            .max()
            .unwrap_or(0)
            .to_string();
        let fastest = pictures
            .iter()
            .max_by_key(|picture| picture.rate)
            .map(Picture::rate_ratio)
            .unwrap_or_default();
        let shape = pictures.first().map(Picture::shape).unwrap_or_default();
        if !pictures.is_empty() {
            attributes.extend([
                ("maxWidth", widest.as_str()),
                ("maxHeight", &highest),
                ("maxFrameRate", &fastest),
            ]);
            // One shape stands for the set only where all have it.
            if pictures.iter().all(|picture| picture.shape() == shape) {
                attributes.push(("par", &shape));
            }
        }
        xml.element("AdaptationSet", &attributes, |xml| {
            if let Some((signalling, key)) = self
                .tracks
                .first()
                .and_then(|(track, _)| subject.protection(track))
            {
                content_protection(xml, signalling, key);
            }
            if !self.siblings.is_empty() {
                let ids: Vec<String> = self.siblings.iter().map(usize::to_string).collect();
                let scheme = "urn:mpeg:dash:adaptation-set-switching:2016";
                xml.empty(
                    "SupplementalProperty",
                    &[("schemeIdUri", scheme), ("value", &ids.join(","))],
                );
            }
            xml.empty(
                "Role",
                &[
                    ("schemeIdUri", "urn:mpeg:dash:role:2011"),
                    ("value", self.role),
                ],
            );
            for (track, media) in &self.tracks {
                representation(xml, subject, track, *media, urls);
            }
        });
    }
}

fn representation(
    xml: &mut Xml,
    subject: &Subject<'_>,
    track: &Track,
    media: MediaIds,
    urls: UrlScheme,
) {
    let bandwidth = Bandwidth::of(subject.presentation, track).peak.to_string();
    let codecs = track.samples().codec().rfc6381();
    let mut attributes: Vec<(&str, String)> = vec![
        ("id", track.name().to_owned()),
        ("bandwidth", bandwidth),
        ("codecs", codecs),
    ];
    if let Some(picture) = Picture::of(track) {
        attributes.push(("width", picture.width.to_string()));
        attributes.push(("height", picture.height.to_string()));
        attributes.push(("frameRate", picture.rate_ratio()));
        attributes.push(("sar", picture.pixel_shape()));
    }
    let channels = match track.samples().codec() {
        CodecConfig::Avc(_) => None,
        CodecConfig::Aac(aac) => {
            attributes.push(("audioSamplingRate", aac.sample_rate().to_string()));
            Some(aac.channel_configuration().get().to_string())
        }
    };
    let attributes: Vec<Attribute<'_>> = attributes
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    xml.element("Representation", &attributes, |xml| {
        if let Some(channels) = channels {
            let scheme = "urn:mpeg:mpegB:cicp:ChannelConfiguration";
            xml.empty(
                "AudioChannelConfiguration",
                &[("schemeIdUri", scheme), ("value", &channels)],
            );
        }
        segments(xml, subject, track, media, urls);
    });
}

fn segments(xml: &mut Xml, subject: &Subject<'_>, track: &Track, media: MediaIds, urls: UrlScheme) {
    let pack = &subject.presentation.pack().name;
    let timescale = track.timescale().to_string();
    let offset = ticks_at_or_before(subject.presentation.start(), track.timescale());
    let offset_text = offset.to_string();
    let init = urls.media(pack, track.name(), media.init, MediaObject::Init);
    let template = urls.segment_template(pack, track.name(), media.segments);
    let mut attributes: Vec<Attribute<'_>> = vec![("timescale", &timescale)];
    if offset > 0 {
        attributes.push(("presentationTimeOffset", &offset_text));
    }
    attributes.extend([
        ("startNumber", "1"),
        ("initialization", init.as_str()),
        ("media", &template),
    ]);
    xml.element("SegmentTemplate", &attributes, |xml| {
        xml.element("SegmentTimeline", &[], |xml| {
            let mut segments = track.timeline().segments().peekable();
            let mut first = true;
            while let Some(segment) = segments.next() {
                let mut repeats = 0;
                while segments
                    .next_if(|next| next.duration == segment.duration)
                    .is_some()
                {
                    repeats += 1;
                }
                let start = first.then_some(("t", segment.start));
                let repeats = (repeats > 0).then_some(("r", repeats));
                let duration = Some(("d", segment.duration));
                xml.numbers("S", [start, duration, repeats].into_iter().flatten());
                first = false;
            }
        });
    });
}

fn content_protection(xml: &mut Xml, signalling: &Signalling<'_>, key: &TrackKey) {
    let scheme = signalling.policy.scheme;
    let key_id = key.key_id.to_string();
    let common = [
        ("schemeIdUri", "urn:mpeg:dash:mp4protection:2011"),
        ("value", scheme.as_str()),
        ("cenc:default_KID", &key_id),
    ];
    xml.empty("ContentProtection", &common);
    for system in &signalling.policy.systems {
        match system {
            DrmSystem::ClearKey => {
                let urn = clearkey::SYSTEM.urn();
                let url = signalling.clear_key_url();
                xml.element(
                    "ContentProtection",
                    &[("schemeIdUri", &urn), ("value", clearkey::NAME)],
                    |xml| {
                        xml.text("clearkey:Laurl", &[("Lic_type", "EME-1.0")], &url);
                        xml.text("dashif:Laurl", &[("licenseType", "EME-1.0")], &url);
                    },
                );
            }
            DrmSystem::Widevine => {
                let urn = widevine::SYSTEM.urn();
                let pssh = STANDARD.encode(widevine::pssh(&[key.key_id], scheme).to_bytes());
                xml.element(
                    "ContentProtection",
                    &[("schemeIdUri", &urn), ("value", widevine::NAME)],
                    |xml| {
                        xml.text("cenc:pssh", &[], &pssh);
                        xml.text("dashif:Laurl", &[], &signalling.widevine_url(key.key_id));
                    },
                );
            }
            DrmSystem::PlayReady => playready_protection(xml, signalling, key, scheme),
            // FairPlay plays HLS only: there is nothing that a DASH client would read.
            DrmSystem::FairPlay => {}
        }
    }
}

fn playready_protection(
    xml: &mut Xml,
    signalling: &Signalling<'_>,
    key: &TrackKey,
    scheme: Scheme,
) {
    let urn = playready::SYSTEM.urn();
    let url = signalling.playready_url(key.key_id);
    let header = playready::Header {
        key_id: key.key_id,
        scheme,
        license_url: Some(&url),
        checksum: None,
    };
    xml.element(
        "ContentProtection",
        &[("schemeIdUri", &urn), ("value", playready::NAME)],
        |xml| {
            xml.text("cenc:pssh", &[], &STANDARD.encode(header.pssh().to_bytes()));
            xml.text("mspr:pro", &[], &STANDARD.encode(header.to_object()));
            xml.text("dashif:Laurl", &[], &url);
        },
    );
}

/// The time from `start` to `end` as an `xs:duration`, rounded up to the microsecond.
fn span(start: MediaTime, end: MediaTime) -> String {
    let ticks = end.to_timescale(MICROSECONDS, Rounding::Up).ticks
        - start.to_timescale(MICROSECONDS, Rounding::Down).ticks;
    duration_text(MediaTime::new(ticks, MICROSECONDS))
}

fn duration_text(time: MediaTime) -> String {
    let text = decimal_seconds(time, Rounding::Up).to_string();
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("PT{}S", if text.is_empty() { "0" } else { text })
}
