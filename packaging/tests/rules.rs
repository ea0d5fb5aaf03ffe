//! The rules that most often break players, judged from what is served: manifests as text, boxes by a reader that
//! shares nothing with the writer. A test is named after its rule. Rules that are seen inside `origin/media` have
//! their tests there.
//!
//! What it cannot catch: rules about features that are not there yet, and players that keep to other rules.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]
#![allow(dead_code, reason = "each test binary uses a part of the harness")]

mod appliance;
#[path = "../../origin/media/tests/cenc/mod.rs"]
mod cenc;
mod media;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::LazyLock;

use appliance::{Demo, curl, representations};
use cenc::Fragment;

/// One film for each way in which time, tracks or ladders differ.
const FILMS: [&str; 8] = [
    "audio-only",
    "bframes",
    "delayed-audio",
    "ladder",
    "negative-ctts",
    "no-edit-list",
    "ntsc",
    "three-audio",
];
const POLICIES: [&str; 3] = ["cbcs", "cenc", "clear"];

/// An asset under a policy, as a player that fetches everything has it.
struct Served {
    about: String,
    asset: &'static str,
    scheme: &'static str,
    mpd: String,
    multivariant: String,
    playlists: Vec<String>,
    tracks: Vec<Track>,
}

struct Track {
    id: String,
    key_id: Option<String>,
    /// Its element in the MPD.
    element: String,
    init: Vec<u8>,
    fragments: Vec<Fragment>,
}

/// Fetched once: no rule changes what is served.
static SERVED: LazyLock<Vec<Served>> = LazyLock::new(|| {
    let made = media::made();
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("media");
    fs::create_dir(&root).unwrap();
    for film in FILMS {
        let name = if made.join(film).is_dir() {
            film.to_owned()
        } else {
            format!("{film}.mp4")
        };
        std::os::unix::fs::symlink(made.join(&name), root.join(&name)).unwrap();
    }
    let demo = Demo::start(folder.path(), &["--media", root.to_str().unwrap()]);
    assert_eq!(demo.assets(), FILMS);
    FILMS
        .iter()
        .flat_map(|asset| POLICIES.map(|scheme| serve(&demo, asset, scheme)))
        .collect()
});

fn serve(demo: &Demo, asset: &'static str, scheme: &'static str) -> Served {
    let base = format!("{}/v1/{asset}/{scheme}", demo.base("origin"));
    let text = |url: &str| String::from_utf8(curl(&[url]).whole()).unwrap();
    let url = format!("{base}/main.mpd");
    let mpd = text(&url);
    let multivariant = text(&format!("{base}/main.m3u8"));
    let playlists = multivariant
        .lines()
        .filter_map(|line| {
            let named = line.split_once("URI=\"").map(|(_, rest)| rest);
            let named = named.filter(|_| line.starts_with("#EXT-X-MEDIA:"));
            let uri = named.map_or(line, |rest| rest.split('"').next().unwrap());
            uri.ends_with(".m3u8")
                .then(|| text(&format!("{base}/{uri}")))
        })
        .collect();
    let elements = mpd.split("<Representation ").skip(1);
    let tracks = representations(&url, &mpd)
        .into_iter()
        .zip(elements)
        .map(|(found, element)| {
            let key_id = found.key_id;
            let key = key_id.as_ref().map_or([0; 16], |key_id| {
                demo.key(asset, key_id).try_into().unwrap()
            });
            let init = curl(&[&found.init]).whole();
            let tenc = cenc::tenc(&init);
            let fragments = found
                .segments
                .iter()
                .map(|url| cenc::open(&curl(&[url]).whole(), tenc.as_ref(), &key))
                .collect();
            Track {
                id: found.id,
                key_id,
                element: element
                    .split("</Representation>")
                    .next()
                    .unwrap()
                    .to_owned(),
                init,
                fragments,
            }
        })
        .collect();
    Served {
        about: format!("{asset} {scheme}"),
        asset,
        scheme,
        mpd,
        multivariant,
        playlists,
        tracks,
    }
}

/// Every track with what to call it in a message.
fn tracks() -> impl Iterator<Item = (String, &'static Track)> {
    SERVED.iter().flat_map(|served| {
        let about = &served.about;
        let name = move |track: &Track| format!("{about} {}", track.id);
        served.tracks.iter().map(move |track| (name(track), track))
    })
}

impl Track {
    fn is_video(&self) -> bool {
        self.id.starts_with('v')
    }

    /// What the edit list takes off, in ticks.
    fn skip(&self) -> i64 {
        cenc::find(&self.init, &[b"moov", b"trak", b"edts", b"elst"])
            .map_or(0, |elst| cenc::u64_at(elst, 16).cast_signed())
    }

    /// The first and one past the last tick of each fragment on the timeline of presentation.
    fn presented(&self) -> Vec<(i64, i64)> {
        let span = |fragment: &Fragment| {
            let mut decoded = fragment.decode_time.cast_signed() - self.skip();
            let (mut start, mut end) = (i64::MAX, i64::MIN);
            for sample in &fragment.samples {
                let shown = decoded + sample.composition_offset;
                let duration = i64::from(sample.duration);
                start = start.min(shown);
                end = end.max(shown + duration);
                decoded += duration;
            }
            (start.max(0), end)
        };
        self.fragments.iter().map(span).collect()
    }

    /// The sample entry: its name and the boxes in it.
    fn sample_entry(&self) -> ([u8; 4], Vec<cenc::Box<'_>>) {
        let path: [&[u8; 4]; 6] = [b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd"];
        let stsd = cenc::find(&self.init, &path).unwrap();
        assert_eq!(cenc::u32_at(stsd, 4), 1, "one sample entry");
        let entry = cenc::boxes(&stsd[8..])[0];
        let fields = if self.is_video() { 78 } else { 28 };
        (entry.name, cenc::boxes(&entry.body[fields..]))
    }
}

fn names(boxes: &[cenc::Box<'_>]) -> Vec<String> {
    let name = |found: &cenc::Box<'_>| String::from_utf8_lossy(&found.name).into_owned();
    boxes.iter().map(name).collect()
}

fn attribute<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("{name}=\""))?;
    Some(rest.split_once('"')?.0)
}

#[test]
fn t4_at_most_one_edit_and_it_only_skips() {
    let mut edits = 0;
    for (about, track) in tracks() {
        if let Some(elst) = cenc::find(&track.init, &[b"moov", b"trak", b"edts", b"elst"]) {
            assert_eq!(cenc::u32_at(elst, 4), 1, "{about}");
            assert!(track.skip() > 0, "{about}");
            edits += 1;
        }
    }
    assert!(edits > 0);
}

#[test]
fn t7_t8_the_mpd_s_times_are_those_of_the_fragments() {
    for (about, track) in tracks() {
        let mut expected = Vec::new();
        for run in track.element.split("<S ").skip(1) {
            let run = run.split("/>").next().unwrap();
            let number = |name| attribute(run, name).map(|value| value.parse::<i64>().unwrap());
            let duration = number("d").unwrap();
            assert!(duration > 0, "{about}");
            let mut start = number("t").unwrap_or_else(|| {
                let &(start, duration) = expected.last().unwrap();
                start + duration
            });
            for _ in 0..=number("r").unwrap_or(0) {
                expected.push((start, duration));
                start += duration;
            }
        }
        let presented = track.presented();
        assert_eq!(presented.len(), expected.len(), "{about}");
        for (n, (&(start, duration), &(first, end))) in expected.iter().zip(&presented).enumerate()
        {
            assert_eq!(start, first, "{about}: start of segment {}", n + 1);
            assert_eq!(start + duration, end, "{about}: end of segment {}", n + 1);
        }
    }
}

#[test]
fn t9_the_first_thing_shown_is_at_the_offset_of_the_period() {
    for served in SERVED.iter() {
        let mut starts = Vec::new();
        for track in &served.tracks {
            let number =
                |name| attribute(&track.element, name).map(|value| value.parse::<i64>().unwrap());
            let timescale = number("timescale").unwrap();
            let offset = number("presentationTimeOffset").unwrap_or(0);
            let start = track.presented()[0].0 - offset;
            assert!(start >= 0, "{} {}", served.about, track.id);
            starts.push(start * 1_000_000 / timescale);
        }
        assert_eq!(starts.iter().min(), Some(&0), "{}", served.about);
    }
}

#[test]
fn b1_one_track_and_one_run_in_each_file() {
    for (about, track) in tracks() {
        let moov = cenc::find(&track.init, &[b"moov"]).unwrap();
        let count = |name: &str| {
            names(&cenc::boxes(moov))
                .iter()
                .filter(|found| *found == name)
                .count()
        };
        assert_eq!((count("trak"), count("mvex")), (1, 1), "{about}");
        let mvex = cenc::find(moov, &[b"mvex"]).unwrap();
        let trex = names(&cenc::boxes(mvex))
            .iter()
            .filter(|name| *name == "trex")
            .count();
        assert_eq!(trex, 1, "{about}");
        // One traf, one trun, default-base-is-moof and the data offset: `cenc::open` has asserted them.
        assert!(!track.fragments.is_empty(), "{about}");
    }
}

#[test]
fn b2_brands_say_cmaf() {
    for (about, track) in tracks() {
        let ftyp = cenc::find(&track.init, &[b"ftyp"]).unwrap();
        let brands: Vec<&[u8]> = ftyp[8..].chunks(4).collect();
        assert!(brands.contains(&&b"cmfc"[..]), "{about}");
        assert_eq!(brands.contains(&&b"caac"[..]), !track.is_video(), "{about}");
    }
}

#[test]
fn b5_sequence_numbers_rise_from_one() {
    for (about, track) in tracks() {
        let numbers = track.fragments.iter().map(|fragment| fragment.sequence);
        assert!(
            numbers.eq(1..=u32::try_from(track.fragments.len()).unwrap()),
            "{about}"
        );
    }
}

#[test]
fn b6_parameter_sets_are_in_the_sample_entry_and_nowhere_else() {
    for (about, track) in tracks().filter(|(_, track)| track.is_video()) {
        let (_, boxes) = track.sample_entry();
        let avcc = boxes
            .iter()
            .find(|found| &found.name == b"avcC")
            .unwrap()
            .body;
        assert!(avcc[5] & 31 > 0, "{about}: a sequence parameter set");
        let length = usize::from(avcc[4] & 3) + 1;
        for sample in track
            .fragments
            .iter()
            .flat_map(|fragment| &fragment.samples)
        {
            let mut left = &sample.data[..];
            while !left.is_empty() {
                let size = left[..length]
                    .iter()
                    .fold(0, |size, &byte| size << 8 | usize::from(byte));
                assert!(!matches!(left[length] & 31, 7 | 8), "{about}");
                left = &left[length + size..];
            }
        }
    }
}

#[test]
fn b7_pictures_say_how_wide_a_pixel_is() {
    for (about, track) in tracks().filter(|(_, track)| track.is_video()) {
        let (_, boxes) = track.sample_entry();
        let pasp = boxes
            .iter()
            .find(|found| &found.name == b"pasp")
            .expect("pasp")
            .body;
        let sar = format!("{}:{}", cenc::u32_at(pasp, 0), cenc::u32_at(pasp, 4));
        assert_eq!(attribute(&track.element, "sar"), Some(&sar[..]), "{about}");
    }
}

#[test]
fn b9_protected_sample_entries_keep_the_format_behind_the_configuration() {
    for (about, track) in tracks() {
        let (name, boxes) = track.sample_entry();
        let (clear, protected, configuration) = if track.is_video() {
            (b"avc1", b"encv", "avcC")
        } else {
            (b"mp4a", b"enca", "esds")
        };
        let order = names(&boxes);
        assert_eq!(order[0], configuration, "{about}");
        if track.key_id.is_none() {
            assert_eq!(&name, clear, "{about}");
            assert!(!order.contains(&"sinf".to_owned()), "{about}");
            continue;
        }
        assert_eq!(&name, protected, "{about}");
        let sinf = boxes.iter().find(|found| &found.name == b"sinf").unwrap();
        let children = cenc::boxes(sinf.body);
        assert_eq!(names(&children), ["frma", "schm", "schi"], "{about}");
        assert_eq!(children[0].body, clear, "{about}");
        assert_eq!(names(&cenc::boxes(children[2].body)), ["tenc"], "{about}");
    }
}

#[test]
fn e10_once_one_sample_has_subsamples_all_have() {
    for (about, track) in tracks() {
        for fragment in &track.fragments {
            let counts = (fragment.subsamples.len(), fragment.samples.len());
            let whole = track.key_id.is_none() || !track.is_video();
            assert_eq!(counts.0, if whole { 0 } else { counts.1 }, "{about}");
        }
    }
}

#[test]
fn e13_s1_the_key_id_is_one_and_the_same_in_mpd_and_init() {
    for served in SERVED.iter() {
        for track in &served.tracks {
            let about = format!("{} {}", served.about, track.id);
            let tenc = cenc::tenc(&track.init);
            let hex = |bytes: &[u8]| {
                bytes
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect::<String>()
            };
            let in_init = tenc.as_ref().map(|tenc| hex(&tenc.key_id));
            let in_mpd = track.key_id.as_ref().map(|key_id| key_id.replace('-', ""));
            assert_eq!(in_init, in_mpd, "{about}");
            assert_ne!(in_init, Some("0".repeat(32)), "{about}");
            let scheme = tenc.map(|tenc| String::from_utf8(tenc.scheme.to_vec()).unwrap());
            assert_eq!(
                scheme.as_deref().unwrap_or("clear"),
                served.scheme,
                "{about}"
            );
        }
    }
}

#[test]
fn e15_no_key_serves_two_schemes_or_two_films() {
    let mut users: BTreeMap<&str, BTreeSet<(&str, &str)>> = BTreeMap::new();
    for served in SERVED.iter() {
        for key_id in served
            .tracks
            .iter()
            .filter_map(|track| track.key_id.as_deref())
        {
            users
                .entry(key_id)
                .or_default()
                .insert((served.asset, served.scheme));
        }
    }
    assert!(users.len() > FILMS.len());
    for (key_id, users) in users {
        assert_eq!(users.len(), 1, "{key_id}: {users:?}");
    }
}

#[test]
fn s4_one_key_has_one_set_of_descriptors() {
    let mut seen = BTreeMap::new();
    for served in SERVED.iter() {
        for set in served.mpd.split("<AdaptationSet ").skip(1) {
            let Some(key_id) = attribute(set, "cenc:default_KID") else {
                assert!(!set.contains("<ContentProtection"), "{}", served.about);
                continue;
            };
            let begin = set.find("<ContentProtection").unwrap();
            let end = set.rfind("</ContentProtection>").unwrap();
            let descriptors = &set[begin..end];
            assert_eq!(
                *seen.entry(key_id).or_insert(descriptors),
                descriptors,
                "{}",
                served.about
            );
        }
    }
}

#[test]
fn m2_codecs_are_those_of_the_variant_and_of_its_group_once_each() {
    for served in SERVED.iter() {
        let codecs = |video: bool| {
            let tracks = served.tracks.iter();
            tracks
                .filter(move |track| track.is_video() == video)
                .map(|track| attribute(&track.element, "codecs").unwrap())
        };
        let audio: BTreeSet<_> = codecs(false).collect();
        let video: Vec<_> = codecs(true).collect();
        let variants: Vec<_> = served
            .multivariant
            .lines()
            .filter(|line| line.starts_with("#EXT-X-STREAM-INF:"))
            .collect();
        assert_eq!(variants.len(), video.len().max(1), "{}", served.about);
        for (n, variant) in variants.iter().enumerate() {
            let listed: Vec<_> = attribute(variant, "CODECS").unwrap().split(',').collect();
            let once: BTreeSet<_> = listed.iter().copied().collect();
            assert_eq!(once.len(), listed.len(), "{}: {variant}", served.about);
            let mut expected = audio.clone();
            expected.extend(video.get(n));
            assert_eq!(once, expected, "{}: {variant}", served.about);
        }
    }
}

#[test]
fn m9_playlists_are_whole() {
    for served in SERVED.iter() {
        assert_eq!(
            served.playlists.len(),
            served.tracks.len(),
            "{}",
            served.about
        );
        for playlist in &served.playlists {
            assert!(
                playlist.starts_with("#EXTM3U\n"),
                "no byte order mark: {playlist}"
            );
            assert!(
                playlist.contains("#EXT-X-PLAYLIST-TYPE:VOD\n"),
                "{playlist}"
            );
            assert!(playlist.ends_with("#EXT-X-ENDLIST\n"), "{playlist}");
        }
    }
}

#[test]
fn m11_representations_say_what_they_are() {
    for (about, track) in tracks() {
        let said = |name| attribute(&track.element, name);
        if track.is_video() {
            let rate = if about.starts_with("ntsc") {
                "30000/1001"
            } else {
                "25"
            };
            assert_eq!(said("frameRate"), Some(rate), "{about}");
        } else {
            assert_eq!(said("audioSamplingRate"), Some("48000"), "{about}");
            assert!(
                track.element.contains("<AudioChannelConfiguration "),
                "{about}"
            );
        }
    }
    let languages = |asset: &str| -> Vec<&str> {
        let served = SERVED.iter().find(|served| served.asset == asset).unwrap();
        let sets = served.mpd.split("<AdaptationSet ").skip(1);
        sets.filter_map(|set| attribute(set.split('>').next().unwrap(), "lang"))
            .collect()
    };
    assert_eq!(languages("ladder"), ["en", "fr"]);
    // BCP 47, and nothing where the source says "undetermined".
    assert_eq!(languages("three-audio"), ["en", "de"]);
}
