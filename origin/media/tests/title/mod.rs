//! Progressive MP4 files made of whole cloth: any sample sizes, times, key frames and edits, with the samples of
//! all tracks interleaved in chunks. Sample bytes are noise, so subsamples are made up too.

use std::sync::Arc;

use origin_media::identity::{SourceIdentity, probe_ranges};
use origin_media::index::protection::Subsample;
use origin_media::presentation::SourceRef;
use origin_media::protect::SubsampleTable;

use crate::source::Source;

/// A track to be written.
#[derive(Clone, Debug)]
pub struct Spec {
    pub media: Made,
    pub timescale: u32,
    pub duration: u32,
    pub sizes: Vec<u32>,
    /// For every sample; empty for none.
    pub composition_offsets: Vec<i32>,
    /// Sample numbers from 0; empty where all are.
    pub syncs: Vec<u32>,
    /// Segment duration in milliseconds and media time; empty for no edit list.
    pub edits: Vec<(u32, i32)>,
    pub language: &'static [u8; 3],
    pub samples_per_chunk: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// 320x180.
    Small,
    /// 1280x720.
    Large,
    Stereo,
}

impl Spec {
    /// `count` pictures at 25 a second, a key frame every `gop`.
    pub fn video(media: Made, count: u32, gop: u32) -> Self {
        let factor = if media == Made::Large { 3 } else { 1 };
        Self {
            media,
            timescale: 12_800,
            duration: 512,
            sizes: (0..count)
                .map(|n| factor * if n % gop == 0 { 900 } else { 60 + n * 37 % 400 })
                .collect(),
            composition_offsets: Vec::new(),
            syncs: (0..count).step_by(gop as usize).collect(),
            edits: Vec::new(),
            language: b"und",
            samples_per_chunk: 5,
        }
    }

    /// `count` frames of AAC at 48 kHz with 1024 samples of priming.
    pub fn audio(count: u32, language: &'static [u8; 3]) -> Self {
        Self {
            media: Made::Stereo,
            timescale: 48_000,
            duration: 1024,
            sizes: (0..count).map(|n| 30 + n * 13 % 60).collect(),
            composition_offsets: Vec::new(),
            syncs: Vec::new(),
            edits: vec![(count * 1024 / 48 - 21, 1024)],
            language,
            samples_per_chunk: 3,
        }
    }

    /// Reordered pictures: offsets of 2, 4, 1, 1 frames in turn, and the edit that makes the first one 0.
    pub fn with_b_frames(mut self) -> Self {
        let step = self.duration.cast_signed();
        self.composition_offsets = (0..self.sizes.len())
            .map(|n| if self.is_sync(n) { 2 } else { [2, 3, 1][n % 3] } * step)
            .collect();
        self.edits = vec![(u32::try_from(self.sizes.len()).unwrap() * 40, 2 * step)];
        self
    }

    fn is_sync(&self, n: usize) -> bool {
        self.syncs.is_empty() || self.syncs.contains(&u32::try_from(n).unwrap())
    }
}

/// A file with `tracks`, indexed, as a source called `name`.
pub fn source(name: &str, tracks: &[Spec]) -> (Source, SourceRef) {
    let source = Source::index(file(tracks)).unwrap();
    let reference = reference(name, &source);
    (source, reference)
}

pub fn reference(name: &str, source: &Source) -> SourceRef {
    let ranges = probe_ranges(source.file.len() as u64);
    let at = |offset: u64| usize::try_from(offset).unwrap();
    let probes: Vec<_> = ranges
        .into_iter()
        .map(|range| (range.clone(), &source.file[at(range.start)..at(range.end)]))
        .collect();
    SourceRef {
        name: name.to_owned(),
        identity: SourceIdentity::compute(&source.index, &probes),
        generation_number: 0,
        index: Arc::new(source.index.clone()),
    }
}

/// Made-up subsamples that cover samples of `sizes`: small and large protected ranges, some none, several to
/// a sample.
pub fn subsamples(
    sizes: impl IntoIterator<Item = u32>,
    scheme: keystore_types::Scheme,
) -> SubsampleTable {
    let mut table = SubsampleTable::new();
    for (n, size) in (0_u32..).zip(sizes) {
        let mut left = size;
        let mut entries = Vec::new();
        for part in 0..=n % 3 {
            let clear = left.min(5 + (n + part) % 23);
            let rest = left - clear;
            let mut protected = if part == n % 3 { rest } else { rest / 2 };
            if scheme == keystore_types::Scheme::Cenc {
                protected -= protected % 16;
            }
            entries.push(Subsample {
                clear: u16::try_from(clear).unwrap(),
                protected,
            });
            left = rest - protected;
        }
        if left > 0 {
            entries.push(Subsample {
                clear: u16::try_from(left).unwrap(),
                protected: 0,
            });
        }
        table.push(entries);
    }
    table
}

fn file(tracks: &[Spec]) -> Vec<u8> {
    let mut out = boxed(b"ftyp", &[b"isom\0\0\0\0isom"]);
    let mut media = Vec::new();
    let mut chunks: Vec<Vec<u32>> = vec![Vec::new(); tracks.len()];
    let begin = out.len() + 8;
    let mut noise = 1_u32;
    let rounds = tracks
        .iter()
        .map(|track| track.sizes.len().div_ceil(track.samples_per_chunk))
        .max()
        .unwrap();
    for round in 0..rounds {
        for (track, chunks) in tracks.iter().zip(&mut chunks) {
            let Some(sizes) = track.sizes.chunks(track.samples_per_chunk).nth(round) else {
                continue;
            };
            chunks.push(u32::try_from(begin + media.len()).unwrap());
            media.extend((0..sizes.iter().sum()).map(|_| {
                noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                noise.to_be_bytes()[0]
            }));
        }
    }
    out.extend(boxed(b"mdat", &[&media]));
    let traks: Vec<Vec<u8>> = tracks
        .iter()
        .zip(&chunks)
        .enumerate()
        .map(|(n, (track, chunks))| trak(n, track, chunks))
        .collect();
    let mvhd = full(
        b"mvhd",
        0,
        &[
            &words(&[0, 0, 1000, 0, 0x1_0000]),
            &[1, 0],
            &[0; 10],
            &matrix(),
            &[0; 24],
            &[0, 0, 0, 9],
        ],
    );
    out.extend(boxed(b"moov", &[&mvhd, &traks.concat()]));
    out
}

fn trak(number: usize, track: &Spec, chunks: &[u32]) -> Vec<u8> {
    let count = u32::try_from(track.sizes.len()).unwrap();
    let id = u32::try_from(number + 1).unwrap();
    let (width, height) = match track.media {
        Made::Small => (320, 180),
        Made::Large => (1280, 720),
        Made::Stereo => (0, 0),
    };
    let tkhd = full(
        b"tkhd",
        3,
        &[
            &words(&[0, 0, id, 0, 0]),
            &[0; 16],
            &matrix(),
            &words(&[width << 16, height << 16]),
        ],
    );
    let edts = if track.edits.is_empty() {
        Vec::new()
    } else {
        let entries: Vec<u8> = track
            .edits
            .iter()
            .flat_map(|&(duration, time)| words(&[duration, time.cast_unsigned(), 0x1_0000]))
            .collect();
        let count = u32::try_from(track.edits.len()).unwrap();
        boxed(b"edts", &[&full(b"elst", 0, &[&words(&[count]), &entries])])
    };
    let language = track.language.iter().fold(0_u16, |packed, letter| {
        packed << 5 | u16::from(letter - 0x60)
    });
    let mdhd = full(
        b"mdhd",
        0,
        &[
            &words(&[0, 0, track.timescale, count * track.duration]),
            &language.to_be_bytes(),
            &[0, 0],
        ],
    );
    let (handler, header) = match track.media {
        Made::Small | Made::Large => (b"vide", full(b"vmhd", 1, &[&[0; 8]])),
        Made::Stereo => (b"soun", full(b"smhd", 0, &[&[0; 4]])),
    };
    let hdlr = full(b"hdlr", 0, &[&[0; 4], handler, &[0; 12], b"\0"]);
    let dinf = boxed(
        b"dinf",
        &[&full(b"dref", 0, &[&words(&[1]), &full(b"url ", 1, &[])])],
    );
    let entry = match track.media {
        Made::Small | Made::Large => avc1(width, height),
        Made::Stereo => mp4a(),
    };
    let per_chunk = u32::try_from(track.samples_per_chunk).unwrap();
    let last = count - (u32::try_from(chunks.len()).unwrap() - 1) * per_chunk;
    let stsc = if last == per_chunk {
        words(&[1, 1, per_chunk, 1])
    } else if chunks.len() == 1 {
        words(&[1, 1, last, 1])
    } else {
        words(&[
            2,
            1,
            per_chunk,
            1,
            u32::try_from(chunks.len()).unwrap(),
            last,
            1,
        ])
    };
    let mut stbl = vec![
        full(b"stsd", 0, &[&words(&[1]), &entry]),
        full(b"stts", 0, &[&words(&[1, count, track.duration])]),
        full(b"stsc", 0, &[&stsc]),
        full(b"stsz", 0, &[&words(&[0, count]), &words(&track.sizes)]),
        full(
            b"stco",
            0,
            &[
                &words(&[u32::try_from(chunks.len()).unwrap()]),
                &words(chunks),
            ],
        ),
    ];
    if !track.composition_offsets.is_empty() {
        let runs: Vec<u8> = track
            .composition_offsets
            .iter()
            .flat_map(|offset| words(&[1, offset.cast_unsigned()]))
            .collect();
        let mut ctts = full(b"ctts", 0, &[&words(&[count]), &runs]);
        ctts[8] = 1; // version: offsets are signed
        stbl.push(ctts);
    }
    if !track.syncs.is_empty() {
        let numbers: Vec<u32> = track.syncs.iter().map(|n| n + 1).collect();
        let count = u32::try_from(numbers.len()).unwrap();
        stbl.push(full(b"stss", 0, &[&words(&[count]), &words(&numbers)]));
    }
    let minf = boxed(
        b"minf",
        &[&header, &dinf, &boxed(b"stbl", &[&stbl.concat()])],
    );
    boxed(
        b"trak",
        &[&tkhd, &edts, &boxed(b"mdia", &[&mdhd, &hdlr, &minf])],
    )
}

/// Sequence parameter set of x264, High profile level 1.3, 320x180.
const SPS_180: &[u8] = &[
    0x67, 0x64, 0x00, 0x0d, 0xac, 0xd9, 0x41, 0x41, 0x9f, 0x9e, 0x10, 0x00, 0x00, 0x03, 0x00, 0x10,
    0x00, 0x00, 0x03, 0x03, 0x20, 0xf1, 0x42, 0x99, 0x60,
];
/// x264, High profile level 3.1, 1280x720.
const SPS_720: &[u8] = &[
    0x67, 0x64, 0x00, 0x1f, 0xac, 0xd9, 0x40, 0x50, 0x05, 0xbb, 0x01, 0x6a, 0x02, 0x02, 0x02, 0x80,
    0x00, 0x00, 0x03, 0x00, 0x80, 0x00, 0x00, 0x1e, 0x07, 0x8c, 0x18, 0xcb,
];
const PPS: &[u8] = &[0x68, 0xeb, 0xe3, 0xcb, 0x22, 0xc0];

fn avc1(width: u32, height: u32) -> Vec<u8> {
    let sps = if width == 1280 { SPS_720 } else { SPS_180 };
    let half = |value: u32| u16::try_from(value).unwrap().to_be_bytes();
    let len = |bytes: &[u8]| u16::try_from(bytes.len()).unwrap().to_be_bytes();
    let avcc = boxed(
        b"avcC",
        &[
            &[1],
            &sps[1..4],
            &[0xff, 0xe1],
            &len(sps),
            sps,
            &[1],
            &len(PPS),
            PPS,
        ],
    );
    let colr = boxed(b"colr", &[b"nclx\0\x01\0\x01\0\x01\0"]);
    boxed(
        b"avc1",
        &[
            &[0, 0, 0, 0, 0, 0, 0, 1],
            &[0; 16],
            &half(width),
            &half(height),
            &[0, 0x48, 0, 0, 0, 0x48, 0, 0, 0, 0, 0, 0, 0, 1],
            &[0; 32],
            &[0, 0x18, 0xff, 0xff],
            &avcc,
            &colr,
        ],
    )
}

fn mp4a() -> Vec<u8> {
    let esds = full(
        b"esds",
        0,
        &[
            &[3, 25, 0, 0, 0, 4, 17, 0x40, 0x15],
            &[0; 11],
            &[5, 2, 0x11, 0x90, 6, 1, 2],
        ],
    );
    boxed(
        b"mp4a",
        &[
            &[0, 0, 0, 0, 0, 0, 0, 1],
            &[0; 8],
            &[0, 2, 0, 16, 0, 0, 0, 0],
            &words(&[48_000 << 16]),
            &esds,
        ],
    )
}

fn matrix() -> Vec<u8> {
    words(&[0x1_0000, 0, 0, 0, 0x1_0000, 0, 0, 0, 0x4000_0000])
}

fn words(values: &[u32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_be_bytes())
        .collect()
}

fn boxed(name: &[u8; 4], parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let size = u32::try_from(body.len() + 8).unwrap();
    [&size.to_be_bytes()[..], name, &body].concat()
}

fn full(name: &[u8; 4], flags: u32, parts: &[&[u8]]) -> Vec<u8> {
    boxed(name, &[&flags.to_be_bytes(), &parts.concat()])
}
