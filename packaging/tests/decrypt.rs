//! What players are served, against what was put in: ffmpeg decrypts each segment by itself, and whole tracks, to
//! the packets and the pictures of the source; every sample is shown when the source shows it.
//!
//! What it cannot catch: what browsers and their decryption modules do with the same bytes (`playback.rs`), and a
//! fault that ffmpeg has on both sides.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]
#![allow(dead_code, reason = "each test binary uses a part of the harness")]

mod appliance;
#[path = "../../origin/media/tests/cenc/mod.rs"]
mod cenc;
mod ffmpeg;
mod media;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use appliance::{Demo, Representation, castellum, curl, project, representations};
use ffmpeg::{Ffmpeg, Track};

/// The files of `../shared/media` that hold an AVC or AAC-LC track in progressive form.
const FIT_SHARED: [&str; 29] = [
    "androidx__bbb_1ch_16kHz_aac",
    "androidx__bbb_800x640_768kbps_30fps_avc_pyramid_3b",
    "androidx__checkerboard_854x356_avc_baseline",
    "androidx__hlg10-color-test",
    "androidx__long_1080p_lowbitrate",
    "androidx__long_180p_av1",
    "androidx__midroll-5s",
    "androidx__postroll-5s",
    "androidx__preroll-5s",
    "androidx__sample",
    "androidx__sample_12_5fps_720p_1s",
    "androidx__sample_2_byte_NAL_length",
    "androidx__sample_ac3_aac",
    "androidx__sample_audio_only_15s",
    "androidx__sample_av1",
    "androidx__sample_edit_list",
    "androidx__sample_no_bframes",
    "androidx__sample_portrait",
    "androidx__sample_video_only",
    "androidx__sample_with_chapters",
    "androidx__sample_with_colr_mdcv_and_clli",
    "androidx__sample_with_increasing_timestamps_320w_240h",
    "androidx__sample_with_metadata",
    "made__ladder_180p",
    "made__ladder_360p",
    "made__ladder_720p_2audio",
    "mp4ff__bbb_prog_10s",
    "mp4ff__ed_hevc",
    "mp4ff__prog_8s",
];

/// The assets of `make-test-media.sh`; what it puts under `refused` is none.
const FIT_MADE: [&str; 20] = [
    "audio-only",
    "bframes",
    "cavlc-baseline",
    "co64",
    "common-4s",
    "delayed-audio",
    "faststart",
    "high10",
    "interlaced",
    "ladder",
    "mono-16k",
    "multi-slice",
    "negative-ctts",
    "no-bframes",
    "no-edit-list",
    "ntsc",
    "open-gop",
    "single-gop",
    "three-audio",
    "weighted",
];

/// One library at a time: each keeps every core busy.
static STAGE: Mutex<()> = Mutex::new(());

#[test]
fn the_title_decrypts_to_its_sources_in_every_policy() {
    let Some(system) = Ffmpeg::of_the_system() else {
        return;
    };
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let demo = Demo::start(folder.path(), &[]);
    let files = mp4_files(&project().join("packaging/demo/title"));
    assert_eq!(files.len(), 5);
    let sources = BTreeMap::from([("castellum".to_owned(), tracks(&system, &files))]);
    let played = play(&demo, &system, &sources, |_, _| true);
    // Three rungs and two languages in cbcs, cenc and clear; cbcs-identity names the media of cbcs.
    assert_eq!(played, 15);
}

#[test]
fn shared_media_decrypts_to_its_sources_in_both_schemes() {
    let Some(media) = media::shared() else {
        return;
    };
    library_decrypts(&media, &FIT_SHARED);
}

#[test]
fn made_media_decrypts_to_its_sources_in_both_schemes() {
    library_decrypts(&media::made(), &FIT_MADE);
}

fn library_decrypts(media: &Path, fit: &[&str]) {
    let Some(system) = Ffmpeg::of_the_system() else {
        return;
    };
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let demo = Demo::start(folder.path(), &["--media", media.to_str().unwrap()]);
    assert_eq!(demo.assets(), fit);
    let sources = Mutex::new(BTreeMap::new());
    in_parallel(fit, |asset| {
        let file = media.join(format!("{asset}.mp4"));
        let files = if file.exists() {
            vec![file]
        } else {
            mp4_files(&media.join(asset))
        };
        let found = tracks(&system, &files);
        sources.lock().unwrap().insert((*asset).to_owned(), found);
    });
    let sources = sources.into_inner().unwrap();
    play(&demo, &system, &sources, |asset, policy| {
        policy == "cbcs" || policy == "cenc" || (policy == "clear" && asset.ends_with("frames"))
    });
    let log = fs::read_to_string(folder.path().join("castellum.log")).unwrap();
    assert!(!log.contains("panicked"), "{log}");
}

/// Holds each track of each asset under each wanted policy to one of the asset's sources, each source to one track.
/// Returns how many there were.
fn play(
    demo: &Demo,
    system: &Ffmpeg,
    sources: &BTreeMap<String, Vec<Track>>,
    wanted: impl Fn(&str, &str) -> bool,
) -> usize {
    let newer = Ffmpeg::newer();
    let mut served = Vec::new();
    let mut seen = BTreeSet::new();
    for asset in demo.json["assets"].as_array().unwrap() {
        let id = asset["id"].as_str().unwrap();
        for stream in asset["streams"].as_array().unwrap() {
            let policy = stream["policy"].as_str().unwrap();
            if !wanted(id, policy) {
                continue;
            }
            let url = stream["dash"].as_str().unwrap();
            let mpd = String::from_utf8(curl(&[url]).whole()).unwrap();
            let found = representations(url, &mpd);
            assert_eq!(found.len(), sources[id].len(), "the tracks of {id}");
            for representation in found {
                assert_eq!(representation.key_id.is_none(), policy == "clear");
                if seen.insert(representation.init.clone()) {
                    served.push((id, policy, representation));
                }
            }
        }
    }
    let matched = Mutex::new(BTreeSet::new());
    in_parallel(&served, |(asset, policy, representation)| {
        let source = decrypts(
            demo,
            asset,
            representation,
            &sources[*asset],
            system,
            newer.as_ref(),
        );
        let first = matched.lock().unwrap().insert((*asset, *policy, source));
        assert!(first, "{asset} {policy}: two tracks are {source}");
    });
    served.len()
}

/// Checks one representation, and returns the name of the source track that it is.
fn decrypts<'a>(
    demo: &Demo,
    asset: &str,
    representation: &Representation,
    sources: &'a [Track],
    system: &Ffmpeg,
    newer: Option<&Ffmpeg>,
) -> &'a str {
    let about = format!("{asset} {}", representation.init);
    let key = representation
        .key_id
        .as_ref()
        .map(|key_id| demo.key(asset, key_id));
    let key = key.as_deref();
    let init = curl(&[&representation.init]).whole();
    let segments: Vec<Vec<u8>> = representation
        .segments
        .iter()
        .map(|url| curl(&[url]).whole())
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let read = |by: &Ffmpeg, segments: &[Vec<u8>], decode: bool| {
        let file = folder.path().join("track.mp4");
        fs::write(
            &file,
            [std::slice::from_ref(&init), segments].concat().concat(),
        )
        .unwrap();
        by.digests(&file, 0, key, decode)
    };

    let decode = sources
        .iter()
        .all(|source| !source.video || source.decodes_segment_by_segment());
    let decode = decode && representation.id.starts_with('v');
    let (mut packets, mut pictures) = (Vec::new(), Vec::new());
    for segment in &segments {
        let found = read(system, std::slice::from_ref(segment), decode);
        assert_eq!(found.complaint, "", "{about}");
        packets.extend(found.packets);
        pictures.extend(found.pictures);
    }
    let source = sources
        .iter()
        .find(|source| source.digests.packets == packets)
        .unwrap_or_else(|| panic!("{about}: its {} packets are no source's", packets.len()));
    if decode {
        assert!(pictures == source.digests.pictures, "{about}: pictures");
    }
    if let Some(newer) = newer {
        let joined = read(newer, &segments, source.leading);
        assert_eq!(joined.complaint, "", "{about}, joined");
        assert!(joined.packets == packets, "{about}: joined packets");
        if source.leading {
            let expected = &source.digests.pictures;
            assert!(&joined.pictures == expected, "{about}: joined pictures");
        }
    }
    shown_when_the_source_shows_it(&about, &init, &segments, key, source);
    &source.name
}

/// Every sample is presented when the source presents it: to the tick among the samples of the track, and within a
/// tick among tracks, since edit lists count delays in ticks of the movie.
fn shown_when_the_source_shows_it(
    about: &str,
    init: &[u8],
    segments: &[Vec<u8>],
    key: Option<&[u8]>,
    source: &Track,
) {
    let mdhd = cenc::find(init, &[b"moov", b"trak", b"mdia", b"mdhd"]).unwrap();
    let timescale = cenc::u32_at(mdhd, if mdhd[0] == 1 { 20 } else { 12 });
    assert_eq!(timescale, source.timescale, "{about}");
    let skip = cenc::find(init, &[b"moov", b"trak", b"edts", b"elst"])
        .map_or(0, |elst| cenc::u64_at(elst, 16).cast_signed());
    let tenc = cenc::tenc(init);
    let key = key.map_or([0; 16], |key| key.try_into().unwrap());
    let mut times = Vec::new();
    for segment in segments {
        let fragment = cenc::open(segment, tenc.as_ref(), &key);
        let mut decoded = fragment.decode_time.cast_signed();
        for sample in fragment.samples {
            times.push(decoded + sample.composition_offset - skip);
            decoded += i64::from(sample.duration);
        }
    }
    assert_eq!(times.len(), source.times.len(), "{about}");
    for (n, time) in times.iter().enumerate() {
        assert_eq!(
            time - times[0],
            source.raw_times[n] - source.raw_times[0],
            "{about}: sample {n} from the first"
        );
        if let Some(expected) = source.times[n] {
            assert!(
                (time - expected).abs() <= 1,
                "{about}: sample {n} is shown at {time}, in the source at {expected}"
            );
        }
    }
}

#[test]
fn a_wrong_key_decrypts_nothing() {
    let Some(system) = Ffmpeg::of_the_system() else {
        return;
    };
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let demo = Demo::start(folder.path(), &[]);
    for policy in ["cbcs", "cenc"] {
        let url = format!("{}/v1/castellum/{policy}/main.mpd", demo.base("origin"));
        let found = representations(&url, &String::from_utf8(curl(&[&url]).whole()).unwrap());
        for representation in found {
            let key = demo.key("castellum", representation.key_id.as_ref().unwrap());
            let mut wrong = key.clone();
            wrong[15] ^= 1;
            let file = folder.path().join("segment.mp4");
            let init = curl(&[&representation.init]).whole();
            let segment = curl(&[&representation.segments[0]]).whole();
            fs::write(&file, [init, segment].concat()).unwrap();
            let right = system.digests(&file, 0, Some(&key), false).packets;
            let wrong = system.digests(&file, 0, Some(&wrong), false).packets;
            assert_eq!(right.len(), wrong.len());
            let same = right.iter().zip(&wrong).filter(|(a, b)| a == b).count();
            // Pictures in which nothing moves are slices shorter than a block, which stay clear.
            assert!(
                10 * same < right.len(),
                "{policy} {}: {same}",
                representation.id
            );
        }
    }
}

#[test]
fn unfit_files_are_refused_with_place_and_reason() {
    let mut checked = 0;
    let mut refused = |folder: &Path, fit: &[&str]| {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let stem = path.file_stem().unwrap().to_str().unwrap();
            if path.is_dir() {
                continue;
            }
            let fit =
                path.extension().is_some_and(|extension| extension == "mp4") && fit.contains(&stem);
            let output = castellum().arg("inspect").arg(&path).output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            let code = i32::from(!fit);
            assert_eq!(
                output.status.code(),
                Some(code),
                "{}: {said}",
                path.display()
            );
            let reason = said.lines().find(|line| line.trim().starts_with("REFUSED"));
            assert_eq!(reason.is_none(), fit, "{}: {said}", path.display());
            if let Some(reason) = reason {
                let (_, why) = reason.split_once(" at 0x").expect("a place");
                assert!(
                    why.split_once(": ").is_some_and(|(_, why)| why.len() > 10),
                    "{reason}"
                );
                checked += 1;
            }
        }
    };
    refused(&media::made().join("refused"), &[]);
    if let Some(media) = media::shared() {
        refused(&media, &FIT_SHARED);
    }
    assert!(checked >= 4, "{checked}");
}

#[test]
fn files_of_one_folder_are_one_ladder() {
    let Some(shared) = media::shared() else {
        return;
    };
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let film = folder.path().join("media/film");
    fs::create_dir_all(&film).unwrap();
    for name in [
        "made__ladder_180p",
        "made__ladder_360p",
        "made__ladder_720p_2audio",
    ] {
        let name = format!("{name}.mp4");
        fs::copy(shared.join(&name), film.join(&name)).unwrap();
    }
    let made = media::made();
    let misaligned = made.join("refused/misaligned");
    copy_folder(&misaligned, &folder.path().join("media/misaligned"));
    fs::copy(
        misaligned.join("b.mp4"),
        folder.path().join("media/alone.mp4"),
    )
    .unwrap();
    let media = folder.path().join("media");
    let demo = Demo::start(folder.path(), &["--media", media.to_str().unwrap()]);

    assert_eq!(demo.assets(), ["alone", "film"]);
    let url = format!("{}/v1/film/cenc/main.mpd", demo.base("origin"));
    let mpd = String::from_utf8(curl(&[&url]).whole()).unwrap();
    let found = representations(&url, &mpd);
    let ids: Vec<_> = found
        .iter()
        .map(|found| found.id.split('-').collect::<Vec<_>>())
        .collect();
    let kinds: Vec<_> = ids.iter().map(|parts| (parts[0], parts[1])).collect();
    assert_eq!(kinds.len(), 5, "{kinds:?}");
    for rung in ["v180", "v360", "v720"] {
        assert!(kinds.iter().any(|(kind, _)| *kind == rung), "{kinds:?}");
    }
    for language in ["en", "fr"] {
        assert!(kinds.contains(&("a", language)), "{kinds:?}");
        assert!(mpd.contains(&format!("lang=\"{language}\"")), "{mpd}");
    }
    assert!(
        found.iter().all(|found| found.segments.len() == 10),
        "40 s in segments of 4 s"
    );

    let said = castellum()
        .arg("inspect")
        .arg(&misaligned)
        .output()
        .unwrap();
    assert_eq!(said.status.code(), Some(1));
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let log = fs::read_to_string(folder.path().join("castellum.log")).unwrap();
    for text in [said, log] {
        for instant in ["4.000 s to 8.000 s", "4.800 s, 7.200 s", "4.000 s, 6.000 s"] {
            assert!(text.contains(instant), "{instant} is missing in: {text}");
        }
    }
}

#[test]
fn a_turned_picture_stays_turned() {
    let Some(shared) = media::shared() else {
        return;
    };
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let media = folder.path().join("media");
    fs::create_dir_all(&media).unwrap();
    let name = "androidx__sample_portrait.mp4";
    let mut file = fs::read(shared.join(name)).unwrap();
    let upright = matrix(&file).to_vec();
    // A quarter turn to the right, as telephones write it.
    let turned: Vec<u8> = [
        0,
        0x1_0000,
        0,
        -0x1_0000,
        0,
        0,
        0x2d0_0000,
        0,
        0x4000_0000_i32,
    ]
    .iter()
    .flat_map(|field| field.to_be_bytes())
    .collect();
    let at = file
        .windows(36)
        .position(|window| window == upright)
        .unwrap();
    // The first in the file may be that of the movie: the track's comes after its header.
    let track = file
        .windows(4)
        .position(|window| window == b"tkhd")
        .unwrap();
    let at = if at < track {
        track
            + file[track..]
                .windows(36)
                .position(|window| window == upright)
                .unwrap()
    } else {
        at
    };
    file[at..at + 36].copy_from_slice(&turned);
    fs::write(media.join("turned.mp4"), file).unwrap();
    fs::copy(shared.join(name), media.join("upright.mp4")).unwrap();
    let demo = Demo::start(folder.path(), &["--media", media.to_str().unwrap()]);
    for (asset, expected) in [("turned", &turned), ("upright", &upright)] {
        let url = format!("{}/v1/{asset}/cbcs/main.mpd", demo.base("origin"));
        let found = representations(&url, &String::from_utf8(curl(&[&url]).whole()).unwrap());
        let picture = found
            .iter()
            .find(|found| found.id.starts_with('v'))
            .unwrap();
        assert_eq!(matrix(&curl(&[&picture.init]).whole()), expected, "{asset}");
    }
}

/// The matrix of the first track.
fn matrix(file: &[u8]) -> &[u8] {
    let tkhd = cenc::find(file, &[b"moov", b"trak", b"tkhd"]).unwrap();
    let at = if tkhd[0] == 1 { 52 } else { 40 };
    &tkhd[at..at + 36]
}

fn tracks(ffmpeg: &Ffmpeg, files: &[PathBuf]) -> Vec<Track> {
    files.iter().flat_map(|file| ffmpeg.tracks(file)).collect()
}

fn mp4_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "mp4"));
    files
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in mp4_files(from) {
        fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
    }
}

fn alone() -> std::sync::MutexGuard<'static, ()> {
    STAGE
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Does `work` for each of `items`, a few at a time. A failure of one is a failure of the test.
fn in_parallel<T: Sync>(items: &[T], work: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    let hands = std::thread::available_parallelism().map_or(2, |cores| cores.get() + 1);
    std::thread::scope(|scope| {
        for _ in 0..hands {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    work(item);
                }
            });
        }
    });
}
