//! Which bytes of a sample are protected, on samples that are built here, NAL unit by NAL unit, and on real ones.
//!
//! The samples are also the corpus of the fuzzer `sample`: with `UPDATE_CORPUS=1` its files are written anew,
//! otherwise they are compared.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod source;

use std::path::Path;

use bytes::Bytes;
use keystore_types::Scheme;
use origin_media::codec::AvcConfig;
use origin_media::codec::avc::{NalKind, slice_header_len};
use origin_media::error::ParseErrorKind;
use origin_media::index::IndexFileError;
use origin_media::index::protection::{
    MAX_SUBSAMPLES, ProtectionMap, ProtectionMapBuilder, Subsample, map_sample,
};
use source::film::{Film, PPS, SPS};
use source::{Source, shared_media};

fn avcc(length_size: u8) -> Vec<u8> {
    let head = [1, 0x64, 0, 0x0d, 0xfc | (length_size - 1), 0xe1, 0, 25];
    [&head[..], SPS, &[1, 0, 6], PPS].concat()
}

fn config(length_size: u8) -> AvcConfig {
    AvcConfig::parse(avcc(length_size).into(), None, None).unwrap()
}

/// NAL units with their lengths.
fn sample(length_size: u8, units: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    for unit in units {
        let length = u32::try_from(unit.len()).unwrap().to_be_bytes();
        out.extend_from_slice(&length[4 - usize::from(length_size)..]);
        out.extend_from_slice(unit);
    }
    out
}

/// An IDR slice up to the end of its header, which is 34 bits: 5 bytes with its NAL header.
///
/// `first_mb_in_slice` 0 `1`, `slice_type` 7 `0001000`, `pic_parameter_set_id` 0 `1`, `frame_num` `0000`,
/// `idr_pic_id` 0 `1`, `pic_order_cnt_lsb` `000000`, two flags `00`, `slice_qp_delta` 0 `1`; then
/// `disable_deblocking_filter_idc` 1 `010`.
const IDR: [u8; 5] = [0x65, 0b1000_1000, 0b1000_0100, 0b0000_0010, 0b1011_1111];

fn idr(payload: usize) -> Vec<u8> {
    [&IDR[..], &vec![0xaa; payload]].concat()
}

fn other(len: usize) -> Vec<u8> {
    [vec![6], vec![0x55; len - 1]].concat()
}

fn map(length_size: u8, scheme: Scheme, units: &[Vec<u8>]) -> Vec<(u16, u32)> {
    let mut out = Vec::new();
    map_sample(
        &config(length_size),
        scheme,
        &sample(length_size, units),
        &mut out,
    )
    .unwrap();
    out.iter()
        .map(|part| (part.clear, part.protected))
        .collect()
}

#[test]
fn the_slice_header_ends_where_it_is_said_to() {
    let config = config(4);
    let len = slice_header_len(&idr(9), config.parameter_sets()).unwrap();
    assert_eq!((len.bits, len.bytes), (34, 5));
}

/// E1 and E3: whole blocks under cenc, the remainder on the clear side; to the end under cbcs.
#[test]
fn e1_e3_remainders() {
    assert_eq!(map(4, Scheme::Cenc, &[idr(32)]), [(9, 32)]);
    assert_eq!(map(4, Scheme::Cbcs, &[idr(32)]), [(9, 32)]);
    assert_eq!(map(4, Scheme::Cenc, &[idr(47)]), [(24, 32)]);
    assert_eq!(map(4, Scheme::Cbcs, &[idr(47)]), [(9, 47)]);
    assert_eq!(map(1, Scheme::Cbcs, &[idr(47)]), [(6, 47)]);
    assert_eq!(map(2, Scheme::Cbcs, &[idr(47)]), [(7, 47)]);
}

/// A payload without a whole block is clear, and joins the clear run after it.
#[test]
fn less_than_a_block_is_clear() {
    for scheme in Scheme::ALL {
        assert_eq!(map(4, scheme, &[idr(15)]), [(24, 0)]);
        assert_eq!(map(4, scheme, &[idr(15), idr(16)]), [(24 + 9, 16)]);
        assert_eq!(map(4, scheme, &[idr(16), idr(0)]), [(9, 16), (9, 0)]);
    }
}

/// E6: only coded slices are protected; every byte is covered.
#[test]
fn e6_only_slices_are_protected() {
    for scheme in Scheme::ALL {
        let units = [
            other(2),
            SPS.to_vec(),
            PPS.to_vec(),
            other(500),
            idr(160),
            other(7),
        ];
        let clear = u16::try_from(6 + 29 + 10 + 504 + 9).unwrap();
        assert_eq!(map(4, scheme, &units), [(clear, 160), (11, 0)]);
    }
}

/// E7: a clear run of more than 65,535 bytes is split, and the protected bytes follow its last part.
#[test]
fn e7_long_clear_runs_are_split() {
    for scheme in Scheme::ALL {
        assert_eq!(
            map(4, scheme, &[other(65_535 - 4 - 9), idr(16)]),
            [(65_535, 16)]
        );
        assert_eq!(
            map(4, scheme, &[other(65_536 - 4 - 9), idr(16)]),
            [(65_535, 0), (1, 16)]
        );
        assert_eq!(
            map(4, scheme, &[other(140_000)]),
            [(65_535, 0), (65_535, 0), (8_934, 0)]
        );
    }
    // The remainder that cenc moves may be what makes the run too long.
    let units = [other(65_535 - 4 - 9), idr(17)];
    assert_eq!(map(4, Scheme::Cbcs, &units), [(65_535, 17)]);
    assert_eq!(map(4, Scheme::Cenc, &units), [(65_535, 0), (1, 16)]);
}

/// E8: as many subsamples as a saiz entry can count, and no more.
#[test]
fn e8_too_many_slices_are_refused() {
    let config = config(4);
    for scheme in Scheme::ALL {
        assert_eq!(
            map(4, scheme, &vec![idr(16); MAX_SUBSAMPLES]).len(),
            MAX_SUBSAMPLES
        );
        let sample = sample(4, &vec![idr(16); MAX_SUBSAMPLES + 1]);
        let mut out = vec![Subsample {
            clear: 1,
            protected: 0,
        }];
        let error = map_sample(&config, scheme, &sample, &mut out).unwrap_err();
        assert_eq!(error.kind(), ParseErrorKind::Unsupported);
        assert_eq!(out.len(), 1, "what was appended is taken back");
    }
}

#[test]
fn what_avc1_does_not_have_is_refused() {
    let mut another_sps = SPS.to_vec();
    another_sps[3] = 0x0e;
    let unknown_pps = [0x65, 0b1000_1000, 0b0100_0000, 0, 0, 0];
    for (unit, reason) in [
        (another_sps, "a parameter set that avcC does not hold"),
        (vec![0x42, 0xff], "a slice data partition"),
        (
            unknown_pps.to_vec(),
            "a slice names picture parameter set 1",
        ),
        (vec![0x65, 0x80], "the bits end too early"),
        (
            vec![0x65, 0, 0, 0, 0, 0, 0],
            "an Exp-Golomb code is longer than 32 bits",
        ),
    ] {
        let sample = sample(4, &[other(4), unit]);
        let error = map_sample(&config(4), Scheme::Cbcs, &sample, &mut Vec::new()).unwrap_err();
        assert_eq!(error.place().to_string(), "sample at 0x8");
        assert!(error.reason().starts_with(reason), "{error}");
    }
}

#[test]
fn a_kept_map_says_what_the_sample_says() {
    for path in shared_media() {
        let Ok(source) = Source::open(&path) else {
            continue;
        };
        for track in source.index.tracks() {
            let Some(mut builder) = ProtectionMapBuilder::new(&source.index, track) else {
                continue;
            };
            while let Some(n) = builder.wants() {
                builder.push(source.sample(track, n)).unwrap();
            }
            let built = builder.finish().unwrap();
            let kept =
                ProtectionMap::from_bytes(built.as_bytes().clone(), &source.index, track).unwrap();
            let config = track.codec().as_avc().unwrap();
            for n in 0..track.sample_count() {
                for scheme in Scheme::ALL {
                    let sample = source.sample(track, n);
                    let mut fresh = Vec::new();
                    map_sample(config, scheme, sample, &mut fresh).unwrap();
                    assert!(
                        kept.lookup(n, scheme).eq(fresh.iter().copied()),
                        "sample {n} of {}",
                        path.display()
                    );
                    let slices = config
                        .nal_units(sample)
                        .filter(|unit| unit.as_ref().unwrap().kind() == NalKind::Slice);
                    let protected = fresh.iter().filter(|part| part.protected > 0).count();
                    assert!(protected <= slices.count());
                    let covered: u64 = fresh
                        .iter()
                        .map(|part| u64::from(part.clear) + u64::from(part.protected))
                        .sum();
                    assert_eq!(covered, sample.len() as u64);
                }
            }
        }
    }
}

/// A film whose video samples are the same IDR slice.
fn film_of_slices() -> Source {
    let mut film = Film::new();
    let one = sample(4, &[other(4), idr(40)]);
    let len = u32::try_from(one.len()).unwrap();
    film.media = one.repeat(6);
    film.moov.boxes.truncate(2);
    let stbl = film.moov.at("trak/mdia/minf/stbl");
    stbl.at("stsz").fields = source::film::words(&[0, len, 6]);
    stbl.at("stsc").fields = source::film::words(&[0, 1, 1, 6, 1]);
    stbl.at("stco").fields = source::film::words(&[0, 1, source::film::MEDIA_AT]);
    Source::index(film.bytes()).unwrap()
}

#[test]
fn a_damaged_or_foreign_map_is_refused() {
    let source = film_of_slices();
    let track = &source.index.tracks()[0];
    let mut builder = ProtectionMapBuilder::new(&source.index, track).unwrap();
    for n in 0..6 {
        assert_eq!(builder.wants(), Some(n));
        builder.push(source.sample(track, n)).unwrap();
    }
    let built = builder.finish().unwrap();
    let open = |bytes: Bytes| ProtectionMap::from_bytes(bytes, &source.index, track);
    for n in 0..6 {
        let expected = [Subsample {
            clear: 17 + 8,
            protected: 32,
        }];
        assert!(
            open(built.as_bytes().clone())
                .unwrap()
                .lookup(n, Scheme::Cenc)
                .eq(expected)
        );
    }
    for at in 0..built.as_bytes().len() {
        assert!(open(built.as_bytes().slice(..at)).is_err(), "{at} bytes");
        let mut damaged = built.as_bytes().to_vec();
        damaged[at] ^= 1;
        assert!(open(damaged.into()).is_err(), "byte {at}");
    }
    let other = Source::index(Film::new().bytes()).unwrap();
    let error = ProtectionMap::from_bytes(
        built.as_bytes().clone(),
        &other.index,
        &other.index.tracks()[0],
    );
    assert_eq!(
        error.unwrap_err(),
        IndexFileError::Content("it belongs to another source or track")
    );
}

#[test]
fn an_unfinished_map_is_none() {
    let source = film_of_slices();
    let builder = ProtectionMapBuilder::new(&source.index, &source.index.tracks()[0]).unwrap();
    assert!(builder.finish().is_none());
}

#[test]
fn a_fault_names_its_sample() {
    let source = film_of_slices();
    let mut builder = ProtectionMapBuilder::new(&source.index, &source.index.tracks()[0]).unwrap();
    builder
        .push(source.sample(&source.index.tracks()[0], 0))
        .unwrap();
    let error = builder.push(&[0, 0, 0, 9, 1]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "track 1 sample 1 at 0x0: a NAL unit of 9 bytes, 1 left in the sample"
    );
}

#[test]
fn the_corpus_is_what_is_built_here() {
    let seeds = [
        ("idr", 4, vec![idr(47)]),
        ("length_size_1", 1, vec![idr(47)]),
        ("length_size_2", 2, vec![other(3), idr(47)]),
        (
            "parameter_sets_repeated",
            4,
            vec![SPS.to_vec(), PPS.to_vec(), idr(160)],
        ),
        ("many_slices", 4, vec![idr(16); MAX_SUBSAMPLES]),
        ("slices_without_a_block", 4, vec![idr(3), idr(15)]),
        ("header_cut_off", 4, vec![IDR[..3].to_vec()]),
        (
            "header_of_escapes",
            4,
            vec![vec![0x65, 0, 0, 3, 0, 0, 3, 0x80]],
        ),
        ("empty_units", 4, vec![vec![], vec![], idr(16)]),
    ];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/sample");
    for (name, length_size, units) in seeds {
        let avcc = avcc(length_size);
        let len = u16::try_from(avcc.len()).unwrap().to_be_bytes();
        let seed = [&len[..], &avcc, &sample(length_size, &units)].concat();
        let path = folder.join(name);
        if std::env::var_os("UPDATE_CORPUS").is_some() {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&path, &seed).unwrap();
        }
        let same = std::fs::read(&path).is_ok_and(|kept| kept == seed);
        assert!(same, "{} is not what is built here", path.display());
    }
}
