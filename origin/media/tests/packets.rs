//! Sample tables against ffprobe, an independent reader of the same boxes: size, place, times and key frames
//! of every sample.
//!
//! What it cannot catch: a fault that ffmpeg has too, and edit lists, which both are told to leave alone (the
//! unit tests of `index::build` have those).

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod source;

use std::path::Path;
use std::process::Command;

use origin_media::error::ParseErrorKind;
use origin_media::index::Track;
use source::{Source, has, shared_media};

#[derive(Debug, PartialEq)]
struct Packet {
    composed: i64,
    decoded: i64,
    size: u32,
    offset: u64,
    sync: bool,
}

/// The samples of `track` as ffprobe finds them.
fn probed(path: &Path, track: &Track) -> Vec<Packet> {
    let output = Command::new("ffprobe")
        .args([
            "-v",
            "error",
            "-ignore_editlist",
            "1",
            "-show_packets",
            "-select_streams",
        ])
        .arg(format!("i:{}", track.track_id()))
        .args([
            "-show_entries",
            "packet=pts,dts,size,pos,flags",
            "-of",
            "csv=p=0",
            "-i",
        ])
        .arg(path)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| {
            let fields: Vec<&str> = line.split(',').collect();
            let [pts, dts, size, pos, flags, ..] = fields[..] else {
                panic!("{line}")
            };
            Packet {
                composed: pts.parse().unwrap(),
                decoded: dts.parse().unwrap(),
                size: size.parse().unwrap(),
                offset: pos.parse().unwrap(),
                sync: flags.starts_with('K'),
            }
        })
        .collect()
}

fn indexed(track: &Track) -> Vec<Packet> {
    let edit = track.edit();
    (0..track.sample_count())
        .map(|n| Packet {
            composed: track.presentation_time(n) + edit.skip - edit.delay,
            decoded: track.decode_time(n).cast_signed() - edit.delay,
            size: track.size(n),
            offset: track.offset(n),
            sync: track.is_sync(n),
        })
        .collect()
}

#[test]
fn samples_are_where_ffprobe_finds_them() {
    if !has("ffprobe") {
        return;
    }
    for path in shared_media() {
        let Ok(source) = Source::open(&path) else {
            continue;
        };
        for track in source.index.tracks() {
            let (ours, mut theirs) = (indexed(track), probed(&path, track));
            // ffmpeg moves decode times so that none comes after its composition time; we keep the file's.
            let moved = ours[0].decoded - theirs[0].decoded;
            theirs.iter_mut().for_each(|packet| packet.decoded += moved);
            assert_eq!(
                ours.len(),
                theirs.len(),
                "{} track {}",
                path.display(),
                track.track_id()
            );
            for (n, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
                assert_eq!(
                    ours,
                    theirs,
                    "sample {n} of track {} of {}",
                    track.track_id(),
                    path.display()
                );
            }
        }
    }
}

#[test]
fn every_shared_file_is_indexed_or_refused_with_its_reason() {
    for path in shared_media() {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        match Source::open(&path) {
            Ok(source) => {
                println!("{name}: {:?}", source.index.duration());
                for track in source.index.tracks() {
                    println!(
                        "   {} {} {:?} {:?} {:?} {}x {} syncs {:?}",
                        track.track_id(),
                        track.codec().rfc6381(),
                        track.language(),
                        track.name(),
                        track.edit(),
                        track.sample_count(),
                        track.sync_count(),
                        track.codec().as_avc().map(|avc| (
                            avc.width(),
                            avc.height(),
                            avc.colour(),
                            avc.pixel_aspect()
                        )),
                    );
                }
                for ignored in source.index.ignored() {
                    println!(
                        "   ignored {} {}: {}",
                        ignored.track_id, ignored.what, ignored.reason
                    );
                }
            }
            Err(error) => {
                println!("{name}: {} {error}", error.kind().as_str());
                assert_eq!(error.kind(), ParseErrorKind::Unsupported, "{name}: {error}");
            }
        }
    }
}
