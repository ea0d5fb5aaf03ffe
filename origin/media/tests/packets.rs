//! Sample tables against ffprobe, an independent reader of the same boxes: size, place, times and key frames
//! of every sample.
//!
//! What it cannot catch: a fault that ffmpeg has too, and edit lists, which both are told to leave alone (the
//! unit tests of `index::build` have those).

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod source;

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use origin_media::codec::CodecConfig;
use origin_media::index::{Edit, Track};
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

/// What is in each shared file, or why it is refused. `UPDATE_GOLDEN=1` writes the text anew.
#[test]
fn every_shared_file_is_indexed_or_refused_with_its_reason() {
    let files = shared_media();
    if files.is_empty() {
        return;
    }
    let found: String = files.iter().map(|path| describe(path)).collect();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/shared_media.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&golden, &found).unwrap();
    }
    let golden = std::fs::read_to_string(golden).unwrap();
    for (found, golden) in found.lines().zip(golden.lines()) {
        assert_eq!(found, golden);
    }
    assert_eq!(found.lines().count(), golden.lines().count());
}

fn describe(path: &Path) -> String {
    let name = path.file_stem().unwrap().to_string_lossy();
    let source = match Source::open(path) {
        Ok(source) => source,
        Err(error) => {
            return format!("{name}\n    {}: {error}\n", error.kind().as_str());
        }
    };
    let mut text = format!("{name}\n");
    for track in source.index.tracks() {
        let Edit { skip, delay } = track.edit();
        let codec = match track.codec() {
            CodecConfig::Avc(avc) => {
                let colour = avc.colour().map_or(String::new(), |colour| {
                    let range = if colour.full_range { "full" } else { "limited" };
                    format!(
                        " colour {}/{}/{} {range}",
                        colour.primaries, colour.transfer, colour.matrix
                    )
                });
                let aspect = avc.pixel_aspect();
                let pixel = format!("pixel {}:{}", aspect.horizontal, aspect.vertical);
                format!("{}x{} {pixel}{colour}", avc.width(), avc.height())
            }
            CodecConfig::Aac(aac) => {
                format!("{} Hz {} channels", aac.sample_rate(), aac.channels())
            }
        };
        writeln!(
            text,
            "    track {} {} {codec}; {} samples, {} sync, {} bytes, {} ticks of {:?}; skip {skip}, delay {delay}; {} {:?}",
            track.track_id(),
            track.codec().rfc6381(),
            track.sample_count(),
            track.sync_count(),
            track.bytes(0..track.sample_count()),
            track.total_duration(),
            track.timescale(),
            track.language().unwrap_or("-"),
            track.name(),
        )
        .unwrap();
    }
    for ignored in source.index.ignored() {
        writeln!(
            text,
            "    ignored {} {}: {}",
            ignored.track_id, ignored.what, ignored.reason
        )
        .unwrap();
    }
    text
}
