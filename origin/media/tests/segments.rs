//! Segments as a client gets them: read back by an independent reader, decrypted by an independent decryptor,
//! and cut into every kind of range.
//!
//! What it cannot catch: whether the protected ranges are the right ones (the tests of `index::protection` do),
//! and what players make of it (the browser tests do).

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test panics on what it does not expect"
)]

mod cenc;
mod source;
mod title;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use keystore_types::{ConstantIv, KeyId, Label, Scheme};
use origin_cipher::Aes128Key;
use origin_media::index::protection::map_sample;
use origin_media::layout::{self, Layout, SPREAD, Step};
use origin_media::presentation::{Pack, Presentation, Track, WRITER};
use origin_media::protect::{SubsampleTable, TrackKey};
use proptest::prelude::*;
use source::Source;
use title::{Made, Spec};

const KEY: [u8; 16] = [7; 16];

fn keys() -> BTreeMap<Label, TrackKey> {
    [(Label::Audio, 1), (Label::Sd, 2), (Label::Hd, 3)]
        .map(|(label, n)| {
            let key = TrackKey {
                key_id: KeyId::new([n; 16]),
                iv: ConstantIv::new([0xa0 + n; 16]),
            };
            (label, key)
        })
        .into()
}

fn pack(scheme: Option<Scheme>) -> Pack {
    Pack {
        name: "pack".to_owned(),
        scheme,
        segment_duration_ms: 2000,
        writer: WRITER,
    }
}

const SCHEMES: [Option<Scheme>; 3] = [None, Some(Scheme::Cenc), Some(Scheme::Cbcs)];

/// A title and the files it was made of.
struct Title {
    files: Vec<Source>,
    presentation: Presentation,
}

impl Title {
    fn made(scheme: Option<Scheme>) -> Self {
        let small = [
            Spec::video(Made::Small, 130, 25).with_b_frames(),
            Spec::audio(260, b"eng"),
        ];
        let large = [Spec::video(Made::Large, 130, 25), Spec::audio(250, b"fra")];
        let (first, a) = title::source("a", &small);
        let (second, b) = title::source("b", &large);
        Self {
            files: vec![first, second],
            presentation: Presentation::assemble(vec![b, a], &pack(scheme)).unwrap(),
        }
    }

    fn subsamples(&self, track: &Track, range: Range<u32>) -> Option<Arc<SubsampleTable>> {
        layout::needs_subsamples(&self.presentation, track).then(|| {
            let sizes = range.map(|n| track.samples().size(n));
            Arc::new(title::subsamples(
                sizes,
                self.presentation.pack().scheme.unwrap(),
            ))
        })
    }

    fn segment(&self, track: &Track, number: u32) -> Layout {
        let range = track.timeline().segment(number).unwrap().samples;
        let subsamples = self.subsamples(track, range);
        layout::segment(&self.presentation, track, number, &keys(), subsamples)
            .unwrap()
            .unwrap()
    }

    fn init(&self, track: &Track) -> Vec<u8> {
        self.read(
            &layout::init(&self.presentation, track, &keys()).unwrap(),
            0..u64::MAX,
            1 << 20,
        )
    }

    fn read(&self, layout: &Layout, range: Range<u64>, max_out: usize) -> Vec<u8> {
        render(&self.files, layout, range, max_out)
    }
}

fn render(files: &[Source], layout: &Layout, range: Range<u64>, max_out: usize) -> Vec<u8> {
    let key = layout
        .is_protected()
        .then(|| Arc::new(Aes128Key::new(&KEY)));
    let mut render = layout.render(range, key).unwrap();
    let mut out = Vec::new();
    while let Some(step) = render.next(max_out) {
        match step {
            Step::Generated(bytes) => {
                assert!(bytes.len() <= max_out);
                out.extend_from_slice(&bytes);
            }
            Step::Media(window) => {
                let read = &files[window.source].file
                    [window.read.start as usize..window.read.end as usize];
                assert!(read.len() <= (SPREAD * max_out).max(16), "{window:?}");
                assert!(window.out_len <= max_out, "{window:?}");
                let mut chunk = vec![0; window.out_len];
                render.produce(&window, read, &mut chunk);
                out.extend(chunk);
            }
        }
    }
    assert_eq!(render.remaining(), 0);
    out
}

fn each_track(check: impl Fn(&Title, &Track)) {
    for scheme in SCHEMES {
        let title = Title::made(scheme);
        for track in title.presentation.tracks() {
            check(&title, track);
        }
    }
}

#[test]
fn decrypted_samples_are_the_source_s() {
    each_track(|title, track| {
        let tenc = cenc::tenc(&title.init(track));
        assert_eq!(tenc.is_some(), title.presentation.pack().scheme.is_some());
        let mut n = 0;
        for segment in track.timeline().segments() {
            let layout = title.segment(track, segment.number);
            let bytes = title.read(&layout, 0..u64::MAX, 1000);
            assert_eq!(bytes.len() as u64, layout.len());
            for sample in cenc::open(&bytes, tenc.as_ref(), &KEY).samples {
                let source = title.files[track.source()].sample(track.samples(), n);
                assert_eq!(sample.data, source, "{} sample {n}", track.name());
                n += 1;
            }
        }
        assert_eq!(n, track.samples().sample_count());
    });
}

#[test]
fn e17_protection_changes_bytes_but_no_size() {
    let clear = Title::made(None);
    for scheme in Scheme::ALL {
        let title = Title::made(Some(scheme));
        for (track, twin) in title
            .presentation
            .tracks()
            .iter()
            .zip(clear.presentation.tracks())
        {
            let bytes = title.read(&title.segment(track, 1), 0..u64::MAX, 1 << 20);
            let plain = clear.read(&clear.segment(twin, 1), 0..u64::MAX, 1 << 20);
            let mdat = |bytes: &[u8]| cenc::find(bytes, &[b"mdat"]).unwrap().to_vec();
            assert_eq!(mdat(&bytes).len(), mdat(&plain).len());
            assert_ne!(mdat(&bytes), mdat(&plain));
        }
    }
}

#[test]
fn t1_tfdt_is_the_sum_of_the_durations_before_it() {
    each_track(|title, track| {
        let tenc = cenc::tenc(&title.init(track));
        let mut expected = 0;
        for segment in track.timeline().segments() {
            let bytes = title.read(&title.segment(track, segment.number), 0..u64::MAX, 1 << 20);
            let fragment = cenc::open(&bytes, tenc.as_ref(), &KEY);
            assert_eq!(fragment.decode_time, expected);
            expected += fragment
                .samples
                .iter()
                .map(|sample| u64::from(sample.duration))
                .sum::<u64>();
        }
    });
}

#[test]
fn t3_t5_one_edit_skips_what_is_decoded_and_not_shown() {
    each_track(|title, track| {
        let init = title.init(track);
        let elst = cenc::find(&init, &[b"moov", b"trak", b"edts", b"elst"]);
        let skip = track.samples().edit().skip;
        match elst {
            None => assert_eq!(skip, 0),
            Some(elst) => {
                assert_eq!(
                    (elst[0], cenc::u32_at(elst, 4)),
                    (1, 1),
                    "version 1, one entry"
                );
                assert_eq!(
                    (cenc::u64_at(elst, 8), cenc::u64_at(elst, 16).cast_signed()),
                    (0, skip)
                );
            }
        }
    });
}

#[test]
fn t8_segment_times_are_those_of_the_samples() {
    each_track(|title, track| {
        let tenc = cenc::tenc(&title.init(track));
        for segment in track.timeline().segments() {
            let bytes = title.read(&title.segment(track, segment.number), 0..u64::MAX, 1 << 20);
            let fragment = cenc::open(&bytes, tenc.as_ref(), &KEY);
            let shown = fragment.decode_time.cast_signed() + fragment.samples[0].composition_offset
                - track.samples().edit().skip;
            assert_eq!(shown.max(0), segment.start.cast_signed());
        }
    });
}

#[test]
fn b4_flags_say_which_samples_are_sync_and_what_depends() {
    each_track(|title, track| {
        let tenc = cenc::tenc(&title.init(track));
        for segment in track.timeline().segments() {
            let bytes = title.read(&title.segment(track, segment.number), 0..u64::MAX, 1 << 20);
            let fragment = cenc::open(&bytes, tenc.as_ref(), &KEY);
            for (n, sample) in segment.samples.zip(fragment.samples) {
                let expected = if track.samples().is_sync(n) {
                    0x0200_0000
                } else {
                    0x0101_0000
                };
                assert_eq!(sample.flags, expected, "{} sample {n}", track.name());
            }
        }
    });
}

#[test]
fn b5_sequence_numbers_are_the_segment_s() {
    each_track(|title, track| {
        let tenc = cenc::tenc(&title.init(track));
        let last = track.timeline().segment_count();
        for number in [last, 1] {
            let bytes = title.read(&title.segment(track, number), 0..u64::MAX, 1 << 20);
            assert_eq!(cenc::open(&bytes, tenc.as_ref(), &KEY).sequence, number);
        }
        let beyond = layout::segment(&title.presentation, track, last + 1, &keys(), None).unwrap();
        assert!(beyond.is_none());
    });
}

#[test]
fn e2_ivs_are_the_rank_and_the_sample_s_number() {
    let title = Title::made(Some(Scheme::Cenc));
    let mut seen = BTreeSet::new();
    for track in title.presentation.tracks() {
        let tenc = cenc::tenc(&title.init(track));
        for segment in track.timeline().segments() {
            let bytes = title.read(&title.segment(track, segment.number), 0..u64::MAX, 1 << 20);
            for (n, iv) in segment
                .samples
                .zip(cenc::open(&bytes, tenc.as_ref(), &KEY).ivs)
            {
                assert_eq!(
                    iv,
                    (u64::from(track.rank()) << 48 | u64::from(n)).to_be_bytes()
                );
                assert!(
                    seen.insert((track.label(), iv)),
                    "{} sample {n}",
                    track.name()
                );
            }
        }
    }
}

#[test]
fn e4_cbcs_audio_has_no_senc_and_video_has_no_ivs() {
    let title = Title::made(Some(Scheme::Cbcs));
    for track in title.presentation.tracks() {
        let tenc = cenc::tenc(&title.init(track)).unwrap();
        let bytes = title.read(&title.segment(track, 1), 0..u64::MAX, 1 << 20);
        let traf = cenc::find(&bytes, &[b"moof", b"traf"]).unwrap();
        let present = [b"senc", b"saiz", b"saio"].map(|name| cenc::find(traf, &[name]).is_some());
        if track.label() == Label::Audio {
            assert_eq!(((tenc.crypt, tenc.skip), present), ((0, 0), [false; 3]));
        } else {
            assert_eq!(((tenc.crypt, tenc.skip), present), ((1, 9), [true; 3]));
            let fragment = cenc::open(&bytes, Some(&tenc), &KEY);
            assert!(fragment.ivs.iter().all(Vec::is_empty));
            assert!(
                fragment
                    .subsamples
                    .iter()
                    .all(|subsamples| !subsamples.is_empty())
            );
        }
    }
}

#[test]
fn e13_tenc_names_the_label_s_key() {
    for scheme in Scheme::ALL {
        let title = Title::made(Some(scheme));
        for track in title.presentation.tracks() {
            let tenc = cenc::tenc(&title.init(track)).unwrap();
            assert_eq!(tenc.scheme, scheme.four_cc());
            assert_eq!(tenc.key_id, *keys()[&track.label()].key_id.as_bytes());
        }
    }
}

#[test]
fn what_is_contiguous_and_what_is_ahead_hold_for_every_step() {
    for scheme in [None, Some(Scheme::Cenc), Some(Scheme::Cbcs)] {
        let title = Title::made(scheme);
        for track in title.presentation.tracks() {
            let layout = title.segment(track, 1);
            let key = scheme.map(|_| Arc::new(Aes128Key::new(&[7; 16])));
            let mut render = layout.render(3..layout.len(), key).unwrap();
            loop {
                let (ahead, contiguous) = (render.ahead(), render.contiguous());
                assert_eq!(contiguous == 0, render.remaining() == 0);
                match render.next_in_one_piece(1000) {
                    None => break,
                    Some(Step::Generated(bytes)) => assert!(bytes.len() as u64 <= contiguous),
                    Some(Step::Media(window)) => {
                        let ahead = ahead.unwrap();
                        assert!(ahead.start <= window.read.end && window.read.end <= ahead.end);
                        if scheme.is_none() {
                            assert_eq!(window.out_len as u64, contiguous.min(1000));
                        }
                    }
                }
            }
            assert_eq!(render.ahead(), None);
        }
    }
}

#[test]
fn clear_samples_are_never_sent_for_protected_ones() {
    let title = Title::made(Some(Scheme::Cenc));
    let layout = title.segment(&title.presentation.tracks()[0], 1);
    assert!(layout.render(0..10, None).is_err());
}

#[test]
fn subsamples_that_do_not_fit_the_samples_are_refused() {
    let title = Title::made(Some(Scheme::Cbcs));
    let track = title
        .presentation
        .tracks()
        .iter()
        .find(|track| track.label() == Label::Sd)
        .unwrap();
    let range = track.timeline().segment(1).unwrap().samples;
    let sizes: Vec<u32> = range.map(|n| track.samples().size(n)).collect();
    let short = title::subsamples(sizes[1..].iter().copied(), Scheme::Cbcs);
    let wrong = title::subsamples(sizes.iter().map(|size| size + 1), Scheme::Cbcs);
    for table in [None, Some(Arc::new(short)), Some(Arc::new(wrong))] {
        assert!(layout::segment(&title.presentation, track, 1, &keys(), table).is_err());
    }
}

/// Made once: they are the same in every case.
static TITLES: LazyLock<[Title; 3]> = LazyLock::new(|| SCHEMES.map(Title::made));

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn h1_any_range_is_the_slice_of_the_whole(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0..400_usize, 1..600_usize), 12),
        max_out in prop_oneof![1..40_usize, 100..5000_usize],
    ) {
        for title in &*TITLES {
            for track in title.presentation.tracks() {
                let layout = title.segment(track, 2);
                let whole = title.read(&layout, 0..u64::MAX, 1 << 20);
                prop_assert_eq!(&title.read(&layout, 0..u64::MAX, max_out), &whole);
                for (start, len, max_out) in &cuts {
                    let start = start.index(whole.len());
                    let end = (start + len).min(whole.len());
                    let part = title.read(&layout, start as u64..end as u64, *max_out);
                    prop_assert_eq!(&part, &whole[start..end]);
                }
            }
        }
    }
}

/// Real slices: the subsamples come from slice headers, the samples from an encoder.
#[test]
fn shared_media_decrypts_to_itself_in_every_scheme() {
    let mut checked = 0;
    for path in source::shared_media() {
        let Ok(file) = Source::open(&path) else {
            continue;
        };
        let reference = title::reference("a", &file);
        let files = [file];
        for scheme in SCHEMES {
            let pack = Pack {
                segment_duration_ms: 4000,
                ..pack(scheme)
            };
            let presentation = match Presentation::assemble(vec![reference.clone()], &pack) {
                Ok(presentation) => presentation,
                Err(error) => panic!("{}: {error}", path.display()),
            };
            for track in presentation.tracks() {
                let keys: BTreeMap<Label, TrackKey> =
                    std::iter::once((track.label(), keys()[&Label::Audio])).collect();
                let init = layout::init(&presentation, track, &keys).unwrap();
                let tenc = cenc::tenc(&render(&files, &init, 0..u64::MAX, 1 << 20));
                let count = track.timeline().segment_count();
                for number in BTreeSet::from([1, count]) {
                    let range = track.timeline().segment(number).unwrap().samples;
                    let subsamples = layout::needs_subsamples(&presentation, track).then(|| {
                        let mut table = SubsampleTable::new();
                        let config = track.samples().codec().as_avc().unwrap();
                        for n in range.clone() {
                            let sample = files[0].sample(track.samples(), n);
                            table
                                .push_with(|out| map_sample(config, scheme.unwrap(), sample, out))
                                .unwrap();
                        }
                        Arc::new(table)
                    });
                    let layout = layout::segment(&presentation, track, number, &keys, subsamples)
                        .unwrap()
                        .unwrap();
                    let bytes = render(&files, &layout, 0..u64::MAX, 64 * 1024);
                    for (n, sample) in range.zip(cenc::open(&bytes, tenc.as_ref(), &KEY).samples) {
                        assert_eq!(
                            sample.data,
                            files[0].sample(track.samples(), n),
                            "{}",
                            path.display()
                        );
                        checked += 1;
                    }
                }
            }
        }
    }
    println!("{checked} samples decrypted");
}
