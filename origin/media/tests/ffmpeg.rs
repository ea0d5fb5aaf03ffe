//! Every shared file through every scheme and back through ffmpeg, which decrypts init and segment by itself: the
//! packets are the source's, byte for byte.
//!
//! What it cannot catch: decoding (packets are compared, not pictures), and what browsers do with it.

#![expect(
    clippy::unwrap_used,
    reason = "a test panics on what it does not expect"
)]
#![allow(
    dead_code,
    clippy::cast_possible_truncation,
    reason = "test modules are shared with other test crates, which use all of them"
)]

mod source;
mod title;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use keystore_types::{ConstantIv, KeyId, Label, Scheme};
use origin_cipher::Aes128Key;
use origin_media::index::protection::map_sample;
use origin_media::layout::{self, Layout, Step};
use origin_media::presentation::{Pack, Presentation, Track, WRITER};
use origin_media::protect::{SubsampleTable, TrackKey};
use source::{Source, has, shared_media};

const KEY: [u8; 16] = [0x2b; 16];

#[test]
fn ffmpeg_decrypts_every_segment_to_the_source_s_packets() {
    if !has("ffmpeg") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for path in shared_media() {
        let Ok(file) = Source::open(&path) else {
            continue;
        };
        for scheme in [None, Some(Scheme::Cenc), Some(Scheme::Cbcs)] {
            let pack = Pack {
                name: "pack".to_owned(),
                scheme,
                segment_duration_ms: 20_000,
                writer: WRITER,
            };
            let reference = title::reference("a", &file);
            let presentation = Presentation::assemble(vec![reference], &pack).unwrap();
            for track in presentation.tracks() {
                let expected = packets(&path, track.samples().track_id(), false);
                let mut found = Vec::new();
                for segment in track.timeline().segments() {
                    let bytes = init_and_segment(&file, &presentation, track, segment.number);
                    let out = folder.path().join("segment.mp4");
                    std::fs::write(&out, bytes).unwrap();
                    found.extend(packets(&out, 1, true));
                }
                assert_eq!(
                    found,
                    expected,
                    "{} {} {scheme:?}",
                    path.display(),
                    track.name()
                );
            }
        }
    }
}

/// The digests of the packets of a track, as ffmpeg copies them; edit lists left alone.
fn packets(path: &Path, track_id: u32, decrypt: bool) -> Vec<String> {
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "error", "-ignore_editlist", "1"]);
    if decrypt {
        let key: String = KEY.iter().map(|byte| format!("{byte:02x}")).collect();
        command.args(["-decryption_key", &key]);
    }
    let output = command
        .arg("-i")
        .arg(path)
        .args([
            "-map",
            &format!("0:i:{track_id}"),
            "-c",
            "copy",
            "-copyinkf",
            "-f",
            "framemd5",
            "-",
        ])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && errors.is_empty(),
        "{}: {errors}",
        path.display()
    );
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter(|line| !line.starts_with('#'))
        // stream, dts, pts, duration, size, digest, and then whatever side data a packet has.
        .map(|line| line.split(',').nth(5).unwrap().trim().to_owned())
        .collect()
}

fn init_and_segment(
    file: &Source,
    presentation: &Presentation,
    track: &Track,
    number: u32,
) -> Vec<u8> {
    let key = TrackKey {
        key_id: KeyId::new([1; 16]),
        iv: ConstantIv::new([2; 16]),
    };
    let keys: BTreeMap<Label, TrackKey> = std::iter::once((track.label(), key)).collect();
    let subsamples = layout::needs_subsamples(presentation, track).then(|| {
        let mut table = SubsampleTable::new();
        let config = track.samples().codec().as_avc().unwrap();
        for n in track.timeline().segment(number).unwrap().samples {
            let sample = file.sample(track.samples(), n);
            let scheme = presentation.pack().scheme.unwrap();
            table
                .push_with(|out| map_sample(config, scheme, sample, out))
                .unwrap();
        }
        Arc::new(table)
    });
    let init = layout::init(presentation, track, &keys).unwrap();
    let segment = layout::segment(presentation, track, number, &keys, subsamples)
        .unwrap()
        .unwrap();
    [init, segment]
        .iter()
        .flat_map(|layout| read(file, layout))
        .collect()
}

fn read(file: &Source, layout: &Layout) -> Vec<u8> {
    let key = layout
        .is_protected()
        .then(|| Arc::new(Aes128Key::new(&KEY)));
    let mut render = layout.render(0..layout.len(), key).unwrap();
    let mut out = Vec::new();
    while let Some(step) = render.next(128 * 1024) {
        match step {
            Step::Generated(bytes) => out.extend_from_slice(&bytes),
            Step::Media(window) => {
                let read = &file.file[window.read.start as usize..window.read.end as usize];
                let begin = out.len();
                out.resize(begin + window.out_len, 0);
                render.produce(&window, read, &mut out[begin..]);
            }
        }
    }
    out
}
