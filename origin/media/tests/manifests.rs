//! Manifests: golden texts, read as a diff when they change, and the rules that players are strict about.
//!
//! `CASTELLUM_UPDATE_GOLDEN=1 cargo test -p origin-media` rewrites the golden files.
//!
//! What it cannot catch: a rule that no test names, and players' own opinions (the browser tests have those).

#![expect(
    clippy::unwrap_used,
    reason = "a test panics on what it does not expect"
)]
#![allow(
    dead_code,
    reason = "test modules are shared with other test crates, which use all of them"
)]

mod source;
mod title;

use std::collections::BTreeMap;
use std::path::Path;

use keystore_types::{
    AssetId, ConstantIv, DrmSystem, HlsClearKeyFlavour, KeyId, Label, ProtectionPolicy, Scheme,
};
use origin_media::drm::Signalling;
use origin_media::identity::{MediaIds, Revision};
use origin_media::layout;
use origin_media::manifest::{Depth, Subject, dash, hls};
use origin_media::presentation::{Pack, Presentation, WRITER};
use origin_media::protect::TrackKey;
use title::{Made, Spec};

/// A title under a policy, with all that its manifests are written from.
struct Title {
    presentation: Presentation,
    media_ids: Vec<MediaIds>,
    keys: BTreeMap<Label, TrackKey>,
    policy: Option<ProtectionPolicy>,
    asset: AssetId,
    revision: Revision,
    max_video: Option<Label>,
}

impl Title {
    fn new(sources: &[(&str, Vec<Spec>)], policy: Option<ProtectionPolicy>) -> Self {
        let scheme = policy.as_ref().map(|policy| policy.scheme);
        let name = scheme.map_or("clear2", |scheme| match scheme {
            Scheme::Cenc => "cenc2",
            Scheme::Cbcs => "cbcs2",
        });
        let pack = Pack {
            name: name.to_owned(),
            scheme,
            segment_duration_ms: 2000,
            writer: WRITER,
        };
        let sources = sources
            .iter()
            .map(|(name, specs)| title::source(name, specs).1)
            .collect();
        let presentation = Presentation::assemble(sources, &pack).unwrap();
        let keys: BTreeMap<Label, TrackKey> = [(Label::Audio, 1), (Label::Sd, 2), (Label::Hd, 3)]
            .map(|(label, n)| {
                let key = TrackKey {
                    key_id: KeyId::new([n; 16]),
                    iv: ConstantIv::new([0xa0 + n; 16]),
                };
                (label, key)
            })
            .into();
        let media_ids: Vec<MediaIds> = presentation
            .tracks()
            .iter()
            .map(|track| MediaIds::compute(&presentation, track, &keys).unwrap())
            .collect();
        let names = presentation.tracks().iter().map(|track| track.name());
        let revision = Revision::compute(
            [b"document".as_slice()],
            names.zip(media_ids.iter().copied()),
        );
        Self {
            presentation,
            media_ids,
            keys,
            policy,
            asset: "film".parse().unwrap(),
            revision,
            max_video: None,
        }
    }

    fn with<T>(&self, write: impl FnOnce(&Subject<'_>) -> T) -> T {
        let signalling = self.policy.as_ref().map(|policy| Signalling {
            policy,
            license_url: "https://license.example:8444",
            asset: &self.asset,
        });
        write(&Subject {
            presentation: &self.presentation,
            media_ids: &self.media_ids,
            revision: self.revision,
            keys: &self.keys,
            signalling: signalling.as_ref(),
            max_video: self.max_video,
        })
    }

    fn mpd(&self) -> String {
        self.with(|subject| dash::write(subject, Depth::Alias))
    }

    fn multivariant(&self) -> String {
        self.with(|subject| hls::multivariant(subject, Depth::Alias))
    }

    fn playlist(&self, at: usize) -> String {
        self.with(|subject| hls::media_playlist(subject, at))
    }
}

/// Two rungs of different labels, two languages.
fn film() -> [(&'static str, Vec<Spec>); 2] {
    [
        (
            "a",
            vec![
                Spec::video(Made::Small, 130, 25).with_b_frames(),
                Spec::audio(248, b"eng"),
            ],
        ),
        (
            "b",
            vec![Spec::video(Made::Large, 130, 25), Spec::audio(245, b"fra")],
        ),
    ]
}

fn clear_key(scheme: Scheme, hls_clear_key: HlsClearKeyFlavour) -> ProtectionPolicy {
    ProtectionPolicy {
        scheme,
        systems: vec![DrmSystem::ClearKey],
        hls_clear_key,
    }
}

fn studio(scheme: Scheme) -> ProtectionPolicy {
    ProtectionPolicy {
        scheme,
        systems: vec![
            DrmSystem::Widevine,
            DrmSystem::PlayReady,
            DrmSystem::FairPlay,
        ],
        hls_clear_key: HlsClearKeyFlavour::ClearKey,
    }
}

fn every_title() -> Vec<Title> {
    vec![
        Title::new(&film(), None),
        Title::new(
            &film(),
            Some(clear_key(Scheme::Cenc, HlsClearKeyFlavour::Both)),
        ),
        Title::new(
            &film(),
            Some(clear_key(Scheme::Cbcs, HlsClearKeyFlavour::ClearKey)),
        ),
        Title::new(
            &film(),
            Some(clear_key(Scheme::Cbcs, HlsClearKeyFlavour::Identity)),
        ),
        Title::new(&film(), Some(studio(Scheme::Cenc))),
        Title::new(&film(), Some(studio(Scheme::Cbcs))),
    ]
}

/// Compares `text` with `tests/golden/NAME`, or writes it there when asked.
fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("CASTELLUM_UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(expected == text, "{name} changed; it is now:\n{text}");
}

#[test]
fn golden_manifests() {
    let clear = Title::new(&film(), None);
    golden("clear.mpd", &clear.mpd());
    golden("clear.m3u8", &clear.multivariant());
    let cenc = Title::new(
        &film(),
        Some(clear_key(Scheme::Cenc, HlsClearKeyFlavour::Both)),
    );
    golden("cenc.mpd", &cenc.mpd());
    golden("cenc.m3u8", &cenc.multivariant());
    golden("cenc.video.m3u8", &cenc.playlist(0));
    let cbcs = Title::new(
        &film(),
        Some(clear_key(Scheme::Cbcs, HlsClearKeyFlavour::ClearKey)),
    );
    golden("cbcs.m3u8", &cbcs.multivariant());
    golden("cbcs.audio.m3u8", &cbcs.playlist(1));
    let studio = Title::new(&film(), Some(studio(Scheme::Cbcs)));
    golden("studio.mpd", &studio.mpd());
    golden("studio.m3u8", &studio.multivariant());
    let radio = Title::new(
        &[(
            "a",
            vec![Spec::audio(248, b"eng"), Spec::audio(248, b"fra")],
        )],
        None,
    );
    golden("radio.m3u8", &radio.multivariant());
    golden("radio.mpd", &radio.mpd());
}

#[test]
fn golden_layouts() {
    let title = Title::new(
        &film(),
        Some(clear_key(Scheme::Cenc, HlsClearKeyFlavour::Both)),
    );
    for (at, track) in title.presentation.tracks().iter().enumerate().take(2) {
        let init = layout::init(&title.presentation, track, &title.keys).unwrap();
        golden(&format!("cenc.{at}.init.txt"), &init.to_string());
        let range = track.timeline().segment(1).unwrap().samples;
        let sizes = range.map(|n| track.samples().size(n));
        let table = layout::needs_subsamples(&title.presentation, track)
            .then(|| std::sync::Arc::new(title::subsamples(sizes, Scheme::Cenc)));
        let segment = layout::segment(&title.presentation, track, 1, &title.keys, table)
            .unwrap()
            .unwrap();
        golden(&format!("cenc.{at}.segment.txt"), &segment.to_string());
    }
}

/// The values of attribute `name` of every element `element` of `xml`.
fn attributes<'a>(xml: &'a str, element: &str, name: &str) -> Vec<&'a str> {
    let open = format!("<{element} ");
    xml.lines()
        .filter(|line| line.trim_start().starts_with(&open))
        .filter_map(|line| {
            line.split_once(&format!(" {name}=\""))?
                .1
                .split_once('"')
                .map(|(value, _)| value)
        })
        .collect()
}

#[test]
fn s1_default_kid_is_dashed_and_in_tenc_order() {
    let title = Title::new(
        &film(),
        Some(clear_key(Scheme::Cbcs, HlsClearKeyFlavour::ClearKey)),
    );
    let ids = attributes(&title.mpd(), "ContentProtection", "cenc:default_KID").join(" ");
    let expected = [2, 3, 1, 1]
        .map(|n| KeyId::new([n; 16]).to_string())
        .join(" ");
    assert_eq!(ids, expected);
}

#[test]
fn s2_different_keys_are_different_sets_linked_for_switching() {
    let title = Title::new(
        &film(),
        Some(clear_key(Scheme::Cenc, HlsClearKeyFlavour::Both)),
    );
    let mpd = title.mpd();
    assert_eq!(
        attributes(&mpd, "AdaptationSet", "contentType"),
        ["video", "video", "audio", "audio"]
    );
    assert_eq!(
        attributes(&mpd, "SupplementalProperty", "value"),
        ["2", "1"]
    );
    // Clear, nothing parts them.
    let clear = Title::new(&film(), None).mpd();
    assert_eq!(
        attributes(&clear, "AdaptationSet", "contentType"),
        ["video", "audio", "audio"]
    );
    assert!(attributes(&clear, "SupplementalProperty", "value").is_empty());
}

#[test]
fn s3_clearkey_stands_alone_in_an_mpd() {
    for scheme in Scheme::ALL {
        let mpd = Title::new(&film(), Some(clear_key(scheme, HlsClearKeyFlavour::Both))).mpd();
        assert!(
            !mpd.contains("pssh"),
            "dash.js fails on a common pssh beside ClearKey"
        );
        let url = "https://license.example:8444/license/clearkey/film";
        assert!(mpd.contains(&format!(
            "<clearkey:Laurl Lic_type=\"EME-1.0\">{url}</clearkey:Laurl>"
        )));
        assert!(mpd.contains(&format!(
            "<dashif:Laurl licenseType=\"EME-1.0\">{url}</dashif:Laurl>"
        )));
    }
}

#[test]
fn s7_methods_and_formats_follow_the_scheme() {
    let cenc = Title::new(&film(), Some(studio(Scheme::Cenc))).playlist(0);
    assert!(cenc.contains("METHOD=SAMPLE-AES-CTR,") && !cenc.contains("METHOD=SAMPLE-AES,"));
    assert!(!cenc.contains("skd://"), "FairPlay decrypts cbcs only");
    let cbcs = Title::new(&film(), Some(studio(Scheme::Cbcs))).playlist(0);
    assert!(cbcs.contains("METHOD=SAMPLE-AES,") && !cbcs.contains("METHOD=SAMPLE-AES-CTR,"));
    assert!(cbcs.contains("URI=\"skd://02020202-0202-0202-0202-020202020202\""));
}

#[test]
fn s10_session_keys_are_the_keys_of_the_playlists() {
    for title in every_title() {
        let multivariant = title.multivariant();
        let session: Vec<&str> = multivariant
            .lines()
            .filter_map(|line| line.strip_prefix("#EXT-X-SESSION-KEY:"))
            .collect();
        let mut keys: Vec<String> = (0..title.presentation.tracks().len())
            .flat_map(|at| {
                let playlist = title.playlist(at);
                playlist
                    .lines()
                    .filter_map(|line| line.strip_prefix("#EXT-X-KEY:").map(str::to_owned))
                    .filter(|key| !key.contains("KEYFORMAT=\"identity\""))
                    .collect::<Vec<_>>()
            })
            .collect();
        keys.sort();
        keys.dedup();
        let mut sorted = session.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, keys);
    }
}

/// A player fails on a track whose key it is refused, so one that is not allowed is nowhere named, and neither is its key.
#[test]
fn larger_pictures_than_the_policy_allows_are_not_listed() {
    for mut title in every_title() {
        let largest = title.presentation.tracks().iter();
        let largest = largest.max_by_key(|track| track.label()).unwrap();
        let (name, hd) = (largest.name().to_owned(), KeyId::new([3; 16]).to_string());
        assert_eq!(largest.label(), Label::Hd);
        for (max_video, listed) in [
            (None, true),
            (Some(Label::Hd), true),
            (Some(Label::Sd), false),
        ] {
            title.max_video = max_video;
            let (mpd, hls) = (title.mpd(), title.multivariant());
            assert_eq!(mpd.contains(&name), listed, "{mpd}");
            assert_eq!(hls.contains(&name), listed, "{hls}");
            let signals = |text: &str| {
                text.contains(&hd) || text.contains(&format!("0x{}", hd.replace('-', "")))
            };
            let named = listed && title.policy.is_some();
            assert_eq!(signals(&mpd), named, "{mpd}");
            assert!(named || !signals(&hls), "{hls}");
            let pictures = attributes(&mpd, "Representation", "width").len();
            assert_eq!(pictures, 1 + usize::from(listed));
            assert_eq!(hls.matches("#EXT-X-STREAM-INF:").count(), pictures);
            assert_eq!(attributes(&mpd, "AdaptationSet", "lang"), ["en", "fr"]);
        }
    }
}

#[test]
fn a_title_of_larger_pictures_alone_is_sound() {
    let title = |sources: &[(&str, Vec<Spec>)], max_video| Title {
        max_video,
        ..Title::new(sources, None)
    };
    let large = title(&film()[1..], Some(Label::Sd));
    let (mpd, hls) = (large.mpd(), large.multivariant());
    assert_eq!(attributes(&mpd, "AdaptationSet", "contentType"), ["audio"]);
    assert!(!hls.contains("RESOLUTION"), "{hls}");
    assert_eq!(hls.matches("#EXT-X-STREAM-INF:").count(), 1);
}

#[test]
fn m1_versions_are_the_least_for_what_is_used() {
    let version = |text: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix("#EXT-X-VERSION:").map(str::to_owned))
            .unwrap_or_default()
    };
    assert_eq!(version(&Title::new(&film(), None).multivariant()), "4");
    let protected = Title::new(
        &film(),
        Some(clear_key(Scheme::Cbcs, HlsClearKeyFlavour::ClearKey)),
    );
    assert_eq!(version(&protected.multivariant()), "5");
    assert_eq!(version(&protected.playlist(0)), "6");
    let alone = Title::new(&film()[1..], None);
    assert_eq!(
        version(&Title::new(&[("a", vec![Spec::audio(248, b"eng")])], None).multivariant()),
        ""
    );
    assert_eq!(version(&alone.multivariant()), "4");
}

#[test]
fn m3_no_segment_is_heavier_than_its_bandwidth() {
    for title in every_title() {
        let mpd = title.mpd();
        let (ids, rates) = (
            attributes(&mpd, "Representation", "id"),
            attributes(&mpd, "Representation", "bandwidth"),
        );
        let rates: BTreeMap<&str, u64> = ids
            .into_iter()
            .zip(rates.into_iter().map(|r| r.parse().unwrap()))
            .collect();
        for track in title.presentation.tracks() {
            for segment in track.timeline().segments() {
                let sizes = segment.samples.clone().map(|n| track.samples().size(n));
                let table = layout::needs_subsamples(&title.presentation, track).then(|| {
                    std::sync::Arc::new(title::subsamples(
                        sizes,
                        title.presentation.pack().scheme.unwrap(),
                    ))
                });
                let layout = layout::segment(
                    &title.presentation,
                    track,
                    segment.number,
                    &title.keys,
                    table,
                )
                .unwrap()
                .unwrap();
                let bits = layout.len() * 8 * u64::from(track.timescale().get());
                let rate = bits.div_ceil(segment.duration);
                let last = segment.number == track.timeline().segment_count();
                assert!(
                    last || rate <= rates[track.name()],
                    "{} segment {}",
                    track.name(),
                    segment.number
                );
            }
        }
    }
}

#[test]
fn m4_groups_have_one_default_and_distinct_names() {
    let text = Title::new(&film(), None).multivariant();
    let media: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("#EXT-X-MEDIA:"))
        .collect();
    assert_eq!(media.len(), 2);
    assert_eq!(
        media
            .iter()
            .filter(|line| line.contains("DEFAULT=YES"))
            .count(),
        1
    );
    assert!(media.iter().all(|line| line.contains("AUTOSELECT=YES")));
    let variants = text
        .lines()
        .filter(|line| line.starts_with("#EXT-X-STREAM-INF:"));
    assert!(
        variants
            .clone()
            .all(|line| line.contains("AUDIO=\"audio\"") && line.contains("CLOSED-CAPTIONS=NONE"))
    );
    assert_eq!(variants.count(), 2);
}

/// M5, and T6: with pictures that follow a key frame to be shown before it, segments lean on each other.
#[test]
fn m5_open_gops_are_not_called_independent() {
    let closed = Title::new(&film(), None);
    assert!(
        closed
            .multivariant()
            .contains("#EXT-X-INDEPENDENT-SEGMENTS")
    );
    assert!(!closed.mpd().contains("startWithSAP=\"3\""));

    let mut open = Spec::video(Made::Small, 130, 25);
    // The key frame comes after one picture more, and the two behind it are shown before it.
    open.composition_offsets = (0..130)
        .map(|n| match n % 25 {
            0 => 3 * 512,
            1 | 2 if n > 25 => 0,
            _ => 512,
        })
        .collect();
    let open = Title::new(&[("open", vec![open, Spec::audio(245, b"eng")])], None);
    assert!(!open.multivariant().contains("#EXT-X-INDEPENDENT-SEGMENTS"));
    let mpd = open.mpd();
    assert_eq!(
        attributes(&mpd, "AdaptationSet", "startWithSAP"),
        ["3", "1"]
    );
}

#[test]
fn t7_t8_timelines_tile_and_agree_with_the_playlists() {
    for title in every_title() {
        for (at, track) in title.presentation.tracks().iter().enumerate() {
            let mut expected = track.timeline().start();
            for segment in track.timeline().segments() {
                assert_eq!(segment.start, expected, "no gap, no overlap");
                assert!(segment.duration > 0);
                expected += segment.duration;
            }
            assert_eq!(expected, track.timeline().end());
            let playlist = title.playlist(at);
            let micros = playlist
                .lines()
                .filter_map(|line| line.strip_prefix("#EXTINF:")?.strip_suffix(','))
                .map(|text| text.replace('.', "").parse::<u64>().unwrap());
            assert_eq!(
                micros.clone().count(),
                track.timeline().segment_count() as usize
            );
            let scale = u64::from(track.timescale().get());
            let exact = (track.timeline().end() - track.timeline().start()) * 1_000_000 / scale;
            assert!(
                micros.sum::<u64>().abs_diff(exact) <= 1,
                "rounding does not add up"
            );
        }
    }
}

#[test]
fn t10_the_period_is_as_long_as_the_presentation() {
    let mpd = Title::new(&film(), None).mpd();
    assert_eq!(attributes(&mpd, "Period", "start"), ["PT0S"]);
    assert_eq!(
        attributes(&mpd, "Period", "duration"),
        attributes(&mpd, "MPD", "mediaPresentationDuration")
    );
}

#[test]
fn t11_target_duration_bounds_every_segment_and_is_one_for_all() {
    for title in every_title() {
        let targets: Vec<String> = (0..title.presentation.tracks().len())
            .map(|at| {
                let text = title.playlist(at);
                let longest = text
                    .lines()
                    .filter_map(|line| line.strip_prefix("#EXTINF:")?.strip_suffix(','))
                    .map(|text| text.parse::<f64>().unwrap().round())
                    .fold(0.0, f64::max);
                let target = text
                    .lines()
                    .find_map(|line| line.strip_prefix("#EXT-X-TARGETDURATION:"))
                    .unwrap();
                assert!(target.parse::<f64>().unwrap() >= longest);
                target.to_owned()
            })
            .collect();
        assert!(targets.iter().all(|target| *target == targets[0]));
    }
}

#[test]
fn t9_a_presentation_that_begins_late_is_offset_as_a_whole() {
    // Both tracks wait a second and a half; the sound a little longer.
    let mut video = Spec::video(Made::Small, 130, 25);
    video.edits = vec![(1500, -1), (5200, 0)];
    let mut audio = Spec::audio(248, b"eng");
    audio.edits = vec![(1600, -1), (5200, 0)];
    let title = Title::new(&[("a", vec![video, audio])], None);
    let mpd = title.mpd();
    assert_eq!(
        attributes(&mpd, "SegmentTemplate", "presentationTimeOffset"),
        ["19200", "72000"]
    );
    assert_eq!(attributes(&mpd, "S", "t"), ["19200", "76800"]);
}

#[test]
fn names_of_files_and_packs_rename_no_segment() {
    let film = film();
    let first = Title::new(&film, None);
    let [a, b] = film;
    let renamed = Title::new(&[("z", a.1), ("y", b.1)], None);
    let ids = |title: &Title| {
        let tracks = title
            .presentation
            .tracks()
            .iter()
            .map(|track| track.name().to_owned());
        tracks
            .zip(title.media_ids.iter().copied())
            .collect::<BTreeMap<_, _>>()
    };
    assert_eq!(ids(&first), ids(&renamed));
}

#[test]
fn an_added_rung_renames_those_that_share_its_key() {
    let policy = || Some(clear_key(Scheme::Cenc, HlsClearKeyFlavour::Both));
    let one = Title::new(&film()[..1], policy());
    let two = Title::new(&film(), policy());
    let id = |title: &Title, label: Label| {
        let at = title
            .presentation
            .tracks()
            .iter()
            .position(|track| track.label() == label)
            .unwrap();
        title.media_ids[at]
    };
    // The new file brings HD and a language: SD keeps its key and its name, the first language does not.
    assert_eq!(id(&one, Label::Sd).segments, id(&two, Label::Sd).segments);
    assert_ne!(
        id(&one, Label::Audio).segments,
        id(&two, Label::Audio).segments
    );
}
