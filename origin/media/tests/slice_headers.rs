//! Slice header lengths against those of ffmpeg's `trace_headers`, an independent reader of the same syntax:
//! to the bit, for every slice of every file.
//!
//! Three families: files that nobody here wrote, streams of x264, and headers drawn by lot, which have what no
//! encoder at hand writes. What they cannot catch is a misreading that ffmpeg shares.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod source;

use std::path::Path;
use std::process::Command;

use origin_media::codec::CodecConfig;
use origin_media::codec::avc::{NalKind, slice_header_len};
use source::film::{Film, MEDIA_AT, words};
use source::syntax::{Draw, Sets};
use source::{Source, has, shared_media};

/// The lengths in bits that ffmpeg reads, slice by slice, of the first video stream.
fn traced(path: &Path) -> Vec<usize> {
    let output = Command::new("ffmpeg")
        .args(["-hide_banner", "-nostdin", "-ignore_editlist", "1", "-i"])
        .arg(path)
        .args([
            "-map",
            "0:v:0",
            "-c",
            "copy",
            "-copyinkf",
            "-bsf:v",
            "trace_headers",
            "-f",
            "null",
            "-",
        ])
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    let mut lengths = Vec::new();
    let mut slice = false;
    for line in log.lines() {
        let Some((_, line)) = line
            .strip_prefix("[trace_headers @ ")
            .and_then(|line| line.split_once("] "))
        else {
            continue;
        };
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            // Position, name, bits, "=", value.
            [position, name, bits, "=", _] if slice && name != "cabac_alignment_one_bit" => {
                *lengths.last_mut().unwrap() = position.parse::<usize>().unwrap() + bits.len();
            }
            [_, "cabac_alignment_one_bit", ..] => {}
            _ => {
                slice = line == "Slice Header";
                if slice {
                    lengths.push(0);
                }
            }
        }
    }
    lengths
}

/// The lengths in bits that we read, each with the bytes checked against a walk over the escapes.
fn measured(source: &Source) -> Vec<usize> {
    let track = source
        .index
        .tracks()
        .iter()
        .find(|track| track.codec().as_avc().is_some())
        .unwrap();
    let CodecConfig::Avc(config) = track.codec() else {
        unreachable!("found as AVC")
    };
    let mut lengths = Vec::new();
    for n in 0..track.sample_count() {
        for unit in config.nal_units(source.sample(track, n)) {
            let unit = unit.unwrap();
            if unit.kind() == NalKind::Slice {
                let len = slice_header_len(unit.bytes, config.parameter_sets()).unwrap();
                assert_eq!(len.bytes, stored_bytes(unit.bytes, len.bits.div_ceil(8)));
                lengths.push(len.bits);
            }
        }
    }
    lengths
}

/// Bytes of `nal` that hold its first `wanted` bytes without escapes.
fn stored_bytes(nal: &[u8], wanted: usize) -> usize {
    let mut plain = 0;
    for (at, byte) in nal.iter().enumerate() {
        if plain == wanted {
            return at;
        }
        plain += usize::from(!(*byte == 3 && at >= 2 && nal[at - 2..at] == [0, 0]));
    }
    nal.len()
}

fn compare(path: &Path, source: &Source) -> usize {
    let (ours, theirs) = (measured(source), traced(path));
    assert_eq!(
        ours.len(),
        theirs.len(),
        "number of slices of {}",
        path.display()
    );
    for (at, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
        assert_eq!(ours, theirs, "slice {at} of {}", path.display());
    }
    ours.len()
}

#[test]
fn of_shared_media() {
    if !has("ffmpeg") {
        return;
    }
    for path in shared_media() {
        let Ok(source) = Source::open(&path) else {
            continue;
        };
        if source
            .index
            .tracks()
            .iter()
            .any(|track| track.codec().as_avc().is_some())
        {
            let slices = compare(&path, &source);
            println!("{slices} slices of {}", path.display());
        }
    }
}

/// Streams of x264, each for some syntax of the slice header.
const STREAMS: [(&str, &str); 12] = [
    ("baseline", "cabac=0:bframes=0:ref=1:weightp=0:8x8dct=0"),
    ("cavlc", "cabac=0:bframes=2:ref=3"),
    ("deblocking_off", "no-deblock=1:bframes=2"),
    ("deblocking_offsets", "deblock=-3,2:bframes=1"),
    ("interlaced", "tff=1:bframes=3:ref=4"),
    (
        "interlaced_cavlc_slices",
        "bff=1:cabac=0:slices=4:bframes=2",
    ),
    (
        "long_gop_16_refs",
        "ref=16:bframes=8:b-pyramid=normal:keyint=250",
    ),
    ("open_gop", "open-gop=1:keyint=12:bframes=3"),
    (
        "pyramid_strict",
        "bframes=5:b-pyramid=strict:b-adapt=0:ref=5",
    ),
    ("slices", "slices=4:bframes=2"),
    (
        "slices_by_size",
        "slice-max-size=400:bframes=3:ref=4:weightp=2:weightb=1",
    ),
    (
        "weights",
        "weightp=2:weightb=1:bframes=3:ref=6:direct=temporal",
    ),
];

#[test]
fn of_streams_made_by_x264() {
    if !has("ffmpeg") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for (name, parameters) in STREAMS {
        let path = folder.path().join(format!("{name}.mp4"));
        // A fade gives weighted prediction something to do; noise makes bytes that need escapes.
        let picture =
            "testsrc2=size=176x144:rate=25:duration=3,noise=alls=20,fade=in:0:25,fade=out:50:25";
        let output = Command::new("ffmpeg")
            .args([
                "-hide_banner",
                "-nostdin",
                "-loglevel",
                "error",
                "-f",
                "lavfi",
                "-i",
                picture,
            ])
            .args([
                "-pix_fmt",
                "yuv420p",
                "-c:v",
                "libx264",
                "-preset",
                "slower",
                "-x264-params",
                parameters,
            ])
            .arg(&path)
            .output()
            .unwrap();
        if !output.status.success() {
            eprintln!(
                "skipped: {name}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            continue;
        }
        let slices = compare(&path, &Source::open(&path).unwrap());
        assert!(slices >= 75, "{name}: {slices} slices");
    }
}

/// A film of one track whose samples are these slices, under these parameter sets.
fn film_of(sets: &Sets, slices: &[Vec<u8>]) -> Film {
    let len = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap();
    let short = |bytes: &[u8]| u16::try_from(bytes.len()).unwrap().to_be_bytes();
    let mut film = Film::new();
    film.moov.boxes.truncate(2);
    let stbl = film.moov.at("trak/mdia/minf/stbl");
    let avcc = [
        &[1, sets.sps[1], 0, 40, 0xff, 0xe1][..],
        &short(&sets.sps),
        &sets.sps,
        &[1],
        &short(&sets.pps),
        &sets.pps,
    ];
    stbl.at("stsd/avc1/avcC").fields = avcc.concat();
    stbl.remove(b"ctts");
    stbl.remove(b"stss");
    let count = u32::try_from(slices.len()).unwrap();
    stbl.at("stts").fields = words(&[0, 1, count, 512]);
    stbl.at("stsc").fields = words(&[0, 1, 1, count, 1]);
    stbl.at("stco").fields = words(&[0, 1, MEDIA_AT]);
    let mut sizes = vec![0, 0, count];
    sizes.extend(slices.iter().map(|slice| len(slice) + 4));
    stbl.at("stsz").fields = words(&sizes);
    film.moov.at("trak").remove(b"edts");
    film.media = slices
        .iter()
        .flat_map(|slice| [&len(slice).to_be_bytes()[..], slice].concat())
        .collect();
    film
}

#[test]
fn of_headers_drawn_by_lot() {
    let referee = has("ffmpeg");
    let folder = tempfile::tempdir().unwrap();
    for seed in 0..DRAWS {
        let mut draw = Draw::new(seed);
        let sets = Sets::draw(&mut draw);
        let (slices, lengths): (Vec<_>, Vec<_>) =
            (0..40).map(|_| sets.draw_slice(&mut draw)).unzip();
        let film = film_of(&sets, &slices).bytes();
        let source =
            Source::index(film.clone()).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(measured(&source), lengths, "seed {seed}");
        if referee && seed < REFEREED {
            let path = folder.path().join(format!("seed_{seed}.mp4"));
            std::fs::write(&path, &film).unwrap();
            compare(&path, &source);
        }
    }
}

/// Sets of parameters that are drawn, each for 40 slices.
const DRAWS: u64 = 200;

/// Draws that ffmpeg is asked about as well; each costs a process. 60 agreed when this was written.
const REFEREED: u64 = 20;
