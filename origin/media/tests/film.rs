//! The index of a film that is built here, number by number; and what becomes of it when one thing is wrong.
//!
//! Each fault is also a file of the fuzzers' corpus, `fuzz/corpus/index/<fault>.mp4`. With
//! `UPDATE_CORPUS=1` the files are written anew; otherwise they are compared.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod source;

use std::path::Path;

use bytes::Bytes;
use origin_media::error::ParseErrorKind::{self, Incomplete, Limit, Malformed, Unsupported};
use origin_media::index::{Edit, Index, IndexFileError, Place};
use origin_media::time::{MediaTime, Timescale};
use source::Source;
use source::film::{Film, MEDIA_AT, Node, words};

fn index(film: &Film) -> Index {
    Source::index(film.bytes()).unwrap().index
}

#[test]
fn samples_are_walked_as_they_are_looked_up() {
    let index = index(&Film::new());
    for track in index.tracks() {
        for first in 0..track.sample_count() {
            let walked: Vec<_> = track.places(first).collect();
            let looked_up: Vec<_> = (first..track.sample_count())
                .map(|n| Place {
                    n,
                    offset: track.offset(n),
                    size: track.size(n),
                })
                .collect();
            assert_eq!(walked, looked_up);

            let mut next = first;
            for run in track.runs(first) {
                assert_eq!(run.samples, next..track.run_end(next));
                assert_eq!(run.offset, track.offset(next));
                assert_eq!(run.bytes, track.bytes(run.samples.clone()));
                next = run.samples.end;
            }
            assert_eq!(next, track.sample_count());

            let last = track.sample_count() - 1;
            let end = track.offset(last) + u64::from(track.size(last));
            assert_eq!(track.span(first..last + 1), track.offset(first)..end);
            assert!(track.span(first..first).is_empty());
        }
    }
}

#[test]
fn every_sample_has_its_size_place_and_time() {
    let index = index(&Film::new());
    let video = &index.tracks()[0];
    let at = u64::from(MEDIA_AT);
    // Size, offset, decode time, presentation time, sync.
    let wanted = [
        (10, at, 0, 0, true),
        (11, at + 10, 512, 1536, false),
        (12, at + 21, 1024, 512, false),
        (13, at + 33, 1536, 1536, true),
        (14, at + 88, 2048, 2048, false),
        (15, at + 102, 2560, 2560, false),
    ];
    let found: Vec<_> = (0..video.sample_count())
        .map(|n| {
            (
                video.size(n),
                video.offset(n),
                video.decode_time(n),
                video.presentation_time(n),
                video.is_sync(n),
            )
        })
        .collect();
    assert_eq!(found, wanted);
    assert_eq!(
        (0..6).map(|n| video.run_end(n)).collect::<Vec<_>>(),
        [4, 4, 4, 4, 6, 6]
    );
    assert_eq!(video.bytes(1..5), 11 + 12 + 13 + 14);
    assert_eq!(video.total_duration(), 6 * 512);
    assert_eq!(
        video.presentation_end(),
        MediaTime::new(6 * 512, video.timescale())
    );
    assert_eq!(
        (
            video.sync_count(),
            video.sync_sample(0),
            video.sync_sample(1)
        ),
        (2, 0, 3)
    );
    for (ticks, sample) in [
        (-1, Some(0)),
        (0, Some(0)),
        (1, Some(3)),
        (1536, Some(3)),
        (1537, None),
    ] {
        assert_eq!(video.sync_at_or_after(ticks), sample, "{ticks}");
    }

    let audio = &index.tracks()[1];
    assert_eq!(
        (0..4)
            .map(|n| audio.presentation_time(n))
            .collect::<Vec<_>>(),
        [-1024, 0, 1024, 2048]
    );
    assert_eq!(
        (0..4).map(|n| audio.decode_time(n)).collect::<Vec<_>>(),
        [0, 1024, 2048, 3072]
    );
    assert_eq!(
        (0..4).map(|n| audio.offset(n) - at).collect::<Vec<_>>(),
        [46, 67, 117, 138]
    );
    assert_eq!(
        (audio.sync_count(), audio.sync_at_or_after(1)),
        (4, Some(2))
    );
    assert_eq!((audio.language(), audio.name()), (Some("en"), "Film"));
    assert_eq!(audio.codec().as_aac().unwrap().sample_rate(), 48_000);
    assert_eq!(
        index.duration(),
        MediaTime::new(240, Timescale::MILLISECONDS)
    );
}

#[test]
fn co64_stz2_and_merged_chunks_say_the_same() {
    let mut film = Film::new();
    let stbl = film.moov.at("trak[1]/mdia/minf/stbl");
    stbl.at("stco").name = *b"co64";
    stbl.at("co64").fields = words(&[0, 2, 0, MEDIA_AT + 46, 0, MEDIA_AT + 46 + 42 + 29]);
    stbl.at("stsz").name = *b"stz2";
    stbl.at("stz2").fields = [words(&[0, 8, 4]), vec![21; 4]].concat();
    let stbl = film.moov.at("trak/mdia/minf/stbl");
    stbl.at("stsc").fields = words(&[0, 1, 1, 2, 1]);
    stbl.at("stco").fields = words(&[0, 3, MEDIA_AT, MEDIA_AT + 21, MEDIA_AT + 88]);
    let (plain, other) = (index(&Film::new()), index(&film));
    for (a, b) in plain.tracks().iter().zip(other.tracks()) {
        for n in 0..a.sample_count() {
            assert_eq!(
                (a.size(n), a.offset(n), a.run_end(n)),
                (b.size(n), b.offset(n), b.run_end(n))
            );
        }
    }
    assert_ne!(plain.moov_digest(), other.moov_digest());
}

#[test]
fn stz2_of_four_bits() {
    let mut film = Film::new();
    let stsz = film.moov.at("trak[1]/mdia/minf/stbl/stsz");
    stsz.name = *b"stz2";
    stsz.fields = [words(&[0, 4, 4]), vec![0x12, 0xf4]].concat();
    let index = index(&film);
    assert_eq!(
        (0..4)
            .map(|n| index.tracks()[1].size(n))
            .collect::<Vec<_>>(),
        [1, 2, 15, 4]
    );
}

#[test]
fn leading_empty_edits_delay() {
    let mut film = Film::new();
    // 44 + 1 ms at 48 kHz are 2160 ticks.
    let elst = words(&[
        0,
        3,
        44,
        u32::MAX,
        0x1_0000,
        1,
        u32::MAX,
        0x1_0000,
        64,
        1024,
        0x1_0000,
    ]);
    film.moov.at("trak[1]/edts/elst").fields = elst;
    let index = index(&film);
    let audio = &index.tracks()[1];
    assert_eq!(
        audio.edit(),
        Edit {
            skip: 1024,
            delay: 2160
        }
    );
    assert_eq!(
        (audio.decode_time(0), audio.presentation_time(0)),
        (2160, 1136)
    );
    assert_eq!(audio.sync_at_or_after(1136), Some(0));
    assert_eq!(audio.sync_at_or_after(1137), Some(1));
}

#[test]
fn negative_composition_offsets_in_either_version() {
    for version in [0, 1] {
        let mut film = Film::new();
        film.moov.at("trak/edts/elst").fields = words(&[0, 0]);
        let mut ctts = words(&[0, 4, 1, 0, 1, 1024, 1, 512_u32.wrapping_neg(), 3, 0]);
        ctts[0] = version;
        film.moov.at("trak/mdia/minf/stbl/ctts").fields = ctts;
        let index = index(&film);
        let video = &index.tracks()[0];
        assert_eq!(
            (0..4)
                .map(|n| video.presentation_time(n))
                .collect::<Vec<_>>(),
            [0, 1536, 512, 1536]
        );
        assert_eq!(video.composition_offset(2), -512);
    }
}

#[test]
fn an_unfit_track_is_listed_and_its_tables_are_not_read() {
    let mut film = Film::new();
    film.moov.at("trak[1]/mdia/minf/stbl/stsd/mp4a").name = *b"ac-3";
    film.moov.at("trak[1]/mdia/minf/stbl").remove(b"stsz");
    let index = index(&film);
    assert_eq!(index.tracks().len(), 1);
    let ignored = &index.ignored()[0];
    assert_eq!((ignored.track_id, ignored.what.as_str()), (2, "ac-3 audio"));
    assert_eq!(ignored.reason, "Dolby audio is not packaged yet");
}

#[test]
fn the_language_of_elng_wins() {
    let mut film = Film::new();
    let elng = Node::full(b"elng", b"pt-BR\0", []);
    film.moov.at("trak[1]/mdia").boxes.push(elng);
    assert_eq!(index(&film).tracks()[1].language(), Some("pt-BR"));
}

#[test]
fn the_file_form_says_what_was_built() {
    let built = index(&Film::new());
    let opened = Index::from_bytes(built.as_bytes().clone()).unwrap();
    assert_eq!(format!("{built:?}"), format!("{opened:?}"));
}

#[test]
fn a_damaged_index_file_is_refused() {
    let built = index(&Film::new());
    let bytes = built.as_bytes();
    for len in 0..bytes.len() {
        assert!(
            Index::from_bytes(bytes.slice(..len)).is_err(),
            "{len} bytes"
        );
    }
    for at in 0..bytes.len() {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 0x10;
        assert!(
            Index::from_bytes(Bytes::from(damaged)).is_err(),
            "byte {at}"
        );
    }
    let mut next = bytes.to_vec();
    next[8] = 3;
    assert_eq!(
        Index::from_bytes(next.into()).unwrap_err(),
        IndexFileError::Format(3)
    );
    assert_eq!(
        Index::from_bytes(Bytes::new()).unwrap_err(),
        IndexFileError::Foreign
    );
}

const STBL: &str = "trak/mdia/minf/stbl";

/// A name, what is done to the film, and what is said of it.
type Fault = (&'static str, fn(&mut Film), ParseErrorKind, &'static str);

/// Puts `fields` into a box of the sample table of the video track.
fn table(film: &mut Film, name: &str, fields: &[u32]) {
    film.moov.at(STBL).at(name).fields = [vec![0; 4], words(fields)].concat();
}

#[rustfmt::skip]
const FAULTS: &[Fault] = &[
    ("no_mvhd", |film| film.moov.remove(b"mvhd"), Malformed, "moov: no mvhd box inside"),
    ("no_trak", |film| film.moov.remove(b"trak"), Malformed, "moov: no trak box inside"),
    ("no_stbl", |film| film.moov.at("trak/mdia/minf").remove(b"stbl"), Malformed,
        "moov/trak[0]/mdia/minf: no stbl box inside"),
    ("no_stsz", |film| film.moov.at(STBL).remove(b"stsz"), Malformed,
        "moov/trak[0]/mdia/minf/stbl: neither stsz nor stz2 inside"),
    ("two_stsz", |film| { let stsz = film.moov.at(STBL).at("stsz").clone(); film.moov.at(STBL).boxes.push(stsz) },
        Malformed, "moov/trak[0]/mdia/minf/stbl/stsz: a second box where one is allowed"),
    ("mvex", |film| film.moov.boxes.push(Node::new(b"mvex", [], [])), Unsupported,
        "moov/mvex: a fragmented file; give the progressive mezzanine"),
    ("two_tracks_with_one_id", |film| film.moov.at("trak[1]/tkhd").fields[15] = 1, Malformed,
        "moov/trak[1]: a second track with track_ID 1"),
    ("timescale_0", |film| film.moov.at("trak/mdia/mdhd").fields[12..16].fill(0), Malformed,
        "moov/trak[0]/mdia/mdhd: timescale is 0"),
    ("mvhd_version_9", |film| film.moov.at("mvhd").fields[0] = 9, Unsupported,
        "moov/mvhd: version 9; 1 is the last one known"),
    ("stsz_claims_2_32_samples", |film| table(film, "stsz", &[0, u32::MAX]), Malformed,
        "moov/trak[0]/mdia/minf/stbl/stsz: 4294967295 entries claimed, 0 present"),
    ("stsz_constant_2_32_samples", |film| table(film, "stsz", &[1, u32::MAX]), Limit,
        "moov/trak[0]/mdia/minf/stbl/stsz: more than 32000000 samples in all tracks; a week of audio has 28 million"),
    ("stsz_constant_beyond_the_file", |film| table(film, "stsz", &[1000, 6]), Incomplete,
        "moov/trak[0]/mdia/minf/stbl/stsz: 6 samples of 1000 bytes in a file of 1348: not complete yet"),
    ("stsz_cut_off", |film| table(film, "stsz", &[0, 6, 10, 11, 12]), Malformed,
        "moov/trak[0]/mdia/minf/stbl/stsz: 6 entries claimed, 3 present"),
    ("stz2_of_12_bits", |film| { table(film, "stsz", &[12, 6, 0, 0, 0]); film.moov.at(STBL).at("stsz").name = *b"stz2" },
        Malformed, "moov/trak[0]/mdia/minf/stbl/stz2: field_size is 12, not 4, 8 or 16"),
    ("stts_of_too_few", |film| table(film, "stts", &[1, 5, 512]), Malformed,
        "moov/trak[0]/mdia/minf/stbl/stts: times for 5 samples, of 6"),
    ("stts_delta_0_for_2_32", |film| table(film, "stts", &[1, u32::MAX, 0]), Malformed,
        "moov/trak[0]/mdia/minf/stbl/stts: 4294967295 more samples after 0, of 6"),
    ("stts_without_time", |film| table(film, "stts", &[1, 6, 0]), Malformed,
        "moov/trak[0]/mdia/minf/stbl/stts: all samples together last 0 ticks"),
    ("stts_negative_delta", |film| table(film, "stts", &[2, 5, 512, 1, u32::MAX]), Malformed,
        "moov/trak[0]/mdia/minf/stbl/stts: sample 5 lasts -1 ticks"),
    ("stts_of_eight_days", |film| table(film, "stts", &[1, 6, 0x7fff_ffff]), Limit,
        "moov/trak[0]/mdia/minf/stbl/stts: samples last more than 604800 seconds"),
    ("ctts_of_too_many", |film| table(film, "ctts", &[1, 7, 0]), Malformed,
        "moov/trak[0]/mdia/minf/stbl/ctts: 7 more samples after 0, of 6"),
    ("stss_of_0", |film| table(film, "stss", &[1, 0]), Malformed,
        "moov/trak[0]/mdia/minf/stbl/stss: sync sample 0 after 0, of 6 samples counting from 1"),
    ("stss_beyond_the_end", |film| table(film, "stss", &[2, 1, 7]), Malformed,
        "moov/trak[0]/mdia/minf/stbl/stss: sync sample 7 after 1, of 6 samples counting from 1"),
    ("stss_falling", |film| table(film, "stss", &[3, 1, 4, 3]), Malformed,
        "moov/trak[0]/mdia/minf/stbl/stss: sync sample 3 after 4, of 6 samples counting from 1"),
    ("stss_empty", |film| table(film, "stss", &[0]), Unsupported,
        "moov/trak[0]/mdia/minf/stbl/stss: no sync sample: decoding can begin nowhere"),
    ("stss_without_the_first", |film| table(film, "stss", &[1, 4]), Unsupported,
        "moov/trak[0]/mdia/minf/stbl/stss: the first sample is no sync sample: its pictures cannot be decoded"),
    ("key_frames_out_of_order", |film| table(film, "stss", &[3, 1, 2, 3]), Unsupported,
        "moov/trak[0]/mdia/minf/stbl: sync sample 2 is shown before the sync sample that is decoded before it"),
    ("stsc_from_chunk_0", |film| table(film, "stsc", &[1, 0, 3, 1]), Malformed,
        "moov/trak[0]/mdia/minf/stbl/stsc: the first entry names chunk 0, not 1"),
    ("stsc_falling", |film| table(film, "stsc", &[2, 1, 4, 1, 1, 2, 1]), Malformed,
        "moov/trak[0]/mdia/minf/stbl/stsc: entry 0 covers chunks 1 to 0, of 2"),
    ("stsc_past_stco", |film| table(film, "stsc", &[2, 1, 4, 1, 9, 2, 1]), Malformed,
        "moov/trak[0]/mdia/minf/stbl/stsc: entry 0 covers chunks 1 to 8, of 2"),
    ("stsc_of_too_many_samples", |film| table(film, "stsc", &[1, 1, 4, 1]), Malformed,
        "moov/trak[0]/mdia/minf/stbl/stsc: chunk 2 holds 4 samples after the first 4, of 6"),
    ("stsc_of_too_few_samples", |film| table(film, "stsc", &[1, 1, 2, 1]), Malformed,
        "moov/trak[0]/mdia/minf/stbl/stsc: the chunks hold 4 samples, of 6"),
    ("stsc_chunk_of_no_samples", |film| table(film, "stsc", &[1, 1, 0, 1]), Malformed,
        "moov/trak[0]/mdia/minf/stbl/stsc: chunk 1 holds 0 samples after the first 0, of 6"),
    ("stsc_second_sample_entry", |film| table(film, "stsc", &[2, 1, 4, 1, 2, 2, 2]), Malformed,
        "moov/trak[0]/mdia/minf/stbl/stsc: entry 1 names sample entry 2, of 1"),
    ("stsc_empty", |film| table(film, "stsc", &[0]), Malformed,
        "moov/trak[0]/mdia/minf/stbl/stsc: the chunks hold 0 samples, of 6"),
    ("stco_past_the_end", |film| table(film, "stco", &[2, MEDIA_AT, 0x1000]), Incomplete,
        "moov/trak[0]/mdia/minf/stbl/stco: chunk 2 ends at 0x101d, the file at 0x55c: not complete yet"),
    ("stco_in_moov", |film| table(film, "stco", &[2, MEDIA_AT, 0x100]), Malformed,
        "moov/trak[0]/mdia/minf/stbl/stco: chunk 2 lies in moov"),
    ("co64_of_2_64", |film| { table(film, "stco", &[2, 0, MEDIA_AT, u32::MAX, u32::MAX]); film.moov.at(STBL).at("stco").name = *b"co64" },
        Malformed, "moov/trak[0]/mdia/minf/stbl/co64: chunk 2 ends past 2^64"),
    ("elst_of_two_cuts", |film| film.moov.at("trak/edts/elst").fields = words(&[0, 2, 100, 512, 0x1_0000, 100, 2048, 0x1_0000]), Unsupported,
        "moov/trak[0]/edts/elst: 2 edits after the leading empty ones; one is carried out. Render the cut first"),
    ("elst_only_empty", |film| film.moov.at("trak/edts/elst").fields = words(&[0, 1, 100, u32::MAX, 0x1_0000]), Unsupported,
        "moov/trak[0]/edts/elst: only empty edits: nothing of the track is shown"),
    ("elst_slow_motion", |film| film.moov.at("trak/edts/elst").fields = words(&[0, 1, 100, 512, 0x8000]), Unsupported,
        "moov/trak[0]/edts/elst: the edit changes the speed or dwells on a picture"),
    ("elst_media_time_minus_2", |film| film.moov.at("trak/edts/elst").fields = words(&[0, 1, 100, u32::MAX - 1, 0x1_0000]), Malformed,
        "moov/trak[0]/edts/elst: media_time is -2"),
    ("elst_begins_after_the_end", |film| film.moov.at("trak/edts/elst").fields = words(&[0, 1, 100, 9999, 0x1_0000]), Malformed,
        "moov/trak[0]/edts/elst: the edit begins at tick 9999, after the track's end"),
    ("elst_empty_for_2_63", |film| film.moov.at("trak/edts/elst").fields = words(&[0x0100_0000, 2, 0x8000_0000, 0, u32::MAX, u32::MAX, 0x1_0000, 0, 100, 0, 512, 0x1_0000]), Limit,
        "moov/trak[0]/edts/elst: empty edits of more than 604800 seconds"),
    ("stsd_empty", |film| { let stsd = film.moov.at(STBL).at("stsd"); stsd.boxes.clear(); stsd.fields[7] = 0 }, Malformed,
        "moov/trak[0]/mdia/minf/stbl/stsd: 0 sample entries claimed, 0 present"),
    ("no_avcc", |film| film.moov.at(STBL).at("stsd/avc1").boxes.clear(), Malformed,
        "moov/trak[0]/mdia/minf/stbl/stsd/avc1: no avcC box inside"),
    ("avcc_of_31_sets", |film| film.moov.at(STBL).at("stsd/avc1/avcC").fields[5..8].fill(0xff), Malformed,
        "moov/trak[0]/mdia/minf/stbl/stsd/avc1/avcC: a parameter set of 65535 bytes, 34 present"),
    ("esds_endless_length", |film| film.moov.at("trak[1]/mdia/minf/stbl/stsd/mp4a/esds").fields = [&[0; 4], &[3][..], &[0x80; 20]].concat(), Malformed,
        "moov/trak[1]/mdia/minf/stbl/stsd/mp4a/esds: the length of descriptor 3 has more than 4 bytes"),
    ("nothing_fit", |film| for track in ["trak", "trak[1]"] {
            film.moov.at(track).at("mdia/hdlr").fields[8..12].copy_from_slice(b"hint");
        }, Unsupported,
        "moov: no track can be packaged: track 1 (avc1 hint): the sample entry does not fit the handler; \
         track 2 (mp4a hint): the sample entry does not fit the handler"),
    ("encrypted", |film| {
            film.moov.at(STBL).at("stsd/avc1").name = *b"encv";
            film.moov.at("trak[1]/mdia/minf/stbl/stsd/mp4a").name = *b"enca";
        }, Unsupported,
        "moov: no track can be packaged: track 1 (encv video): it is encrypted; give the clear mezzanine; \
         track 2 (enca audio): it is encrypted; give the clear mezzanine"),
];

#[test]
fn every_fault_has_its_kind_its_place_and_its_reason() {
    let update = std::env::var_os("UPDATE_CORPUS").is_some();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/index");
    let mut wrong = Vec::new();
    for (name, fault, kind, message) in FAULTS {
        let mut film = Film::new();
        fault(&mut film);
        let bytes = film.bytes();
        let path = folder.join(format!("{name}.mp4"));
        if update {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&path, &bytes).unwrap();
        }
        let same = std::fs::read(&path).is_ok_and(|kept| kept == bytes);
        assert!(same, "{} is not what is built here", path.display());
        let Err(error) = Source::index(bytes.clone()) else {
            wrong.push(format!("{name}: indexed"));
            continue;
        };
        let place = error.place();
        let said = format!("{}: {}", place.path(), error.reason());
        // The offset is that of a box with the name that ends the path.
        let at = usize::try_from(place.offset()).unwrap() + 4;
        let named = place
            .path()
            .rsplit('/')
            .next()
            .unwrap()
            .split('[')
            .next()
            .unwrap();
        if (error.kind(), said.as_str()) != (*kind, message)
            || bytes[at..at + 4] != *named.as_bytes()
        {
            wrong.push(format!("{name}: {:?} {error}", error.kind()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_truncation_and_every_flipped_byte_is_survived() {
    let bytes = Film::new().bytes();
    for len in 0..bytes.len() {
        assert!(Source::index(bytes[..len].to_vec()).is_err(), "{len} bytes");
    }
    for at in 0..bytes.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[at] = value;
            // Either answer will do: what is asked is that there is one.
            if let Ok(source) = Source::index(damaged) {
                for track in source.index.tracks() {
                    let last = track.sample_count() - 1;
                    assert!(
                        track.offset(last) + u64::from(track.size(last)) <= bytes.len() as u64,
                        "byte {at}"
                    );
                }
            }
        }
    }
}
