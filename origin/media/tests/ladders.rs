//! Where segments begin: in one track, and in the rungs of a ladder together.

#![expect(
    clippy::unwrap_used,
    reason = "a test panics on what it does not expect"
)]
#![allow(
    dead_code,
    reason = "test modules are shared with other test crates, which use all of them"
)]

mod source;
mod title;

use origin_media::error::{PackageError, PackageErrorKind};
use origin_media::presentation::{Pack, Presentation, WRITER};
use origin_media::time::MediaTime;
use proptest::prelude::*;
use title::{Made, Spec};

fn assemble(tracks: &[Spec], segment_duration_ms: u32) -> Result<Presentation, PackageError> {
    let pack = Pack {
        name: "clear".to_owned(),
        scheme: None,
        segment_duration_ms,
        writer: WRITER,
    };
    let names = ["a", "b", "c", "d"];
    let sources = names
        .iter()
        .zip(tracks)
        .map(|(name, track)| title::source(name, std::slice::from_ref(track)).1);
    Presentation::assemble(sources.collect(), &pack)
}

/// Segment starts in milliseconds, of every track.
fn starts(presentation: &Presentation) -> Vec<Vec<i64>> {
    presentation
        .tracks()
        .iter()
        .map(|track| {
            let scale = i64::from(track.timescale().get());
            track
                .timeline()
                .segments()
                .map(|s| s.start.cast_signed() * 1000 / scale)
                .collect()
        })
        .collect()
}

fn refused(tracks: &[Spec], segment_duration_ms: u32) -> String {
    let error = assemble(tracks, segment_duration_ms).unwrap_err();
    assert_eq!(error.kind(), PackageErrorKind::Unsupported);
    error.to_string()
}

/// Key frames at these frames, 25 a second.
fn with_keys(media: Made, count: u32, keys: &[u32]) -> Spec {
    Spec {
        syncs: keys.to_vec(),
        ..Spec::video(media, count, 1)
    }
}

#[test]
fn a_segment_begins_at_the_first_key_frame_at_or_after_each_multiple() {
    // Key frames at 0, 1.2, 2.4, 3.6, 8.4 and 8.8 s.
    let track = with_keys(Made::Small, 250, &[0, 30, 60, 90, 210, 220]);
    let presentation = assemble(&[track], 2000).unwrap();
    // 2 s: 2.4. 4 s and 6 s and 8 s: 8.4, once.
    assert_eq!(starts(&presentation), [[0, 2400, 8400]]);
}

#[test]
fn a_single_rung_is_never_refused() {
    let track = with_keys(Made::Small, 500, &[0]);
    assert_eq!(starts(&assemble(&[track], 2000).unwrap()), [[0]]);
}

#[test]
fn t6_rungs_begin_their_segments_together() {
    // Every second, and every half second.
    let presentation = assemble(
        &[
            Spec::video(Made::Small, 250, 25),
            Spec::video(Made::Large, 250, 5),
        ],
        4000,
    )
    .unwrap();
    assert_eq!(starts(&presentation), [[0, 4000, 8000], [0, 4000, 8000]]);
}

#[test]
fn the_first_instant_in_common_counts_not_the_first_key_frame() {
    let a = with_keys(Made::Small, 250, &[0, 100, 110, 200]);
    let b = with_keys(Made::Large, 250, &[0, 105, 110, 200]);
    assert_eq!(
        starts(&assemble(&[a, b], 4000).unwrap())[0],
        [0, 4400, 8000]
    );
}

#[test]
fn a_ladder_without_common_key_frames_is_refused_with_the_instants() {
    let a = with_keys(Made::Small, 250, &[0, 100, 200]);
    let b = with_keys(Made::Large, 250, &[0, 105, 130, 200]);
    let message = refused(&[a, b], 4000);
    assert!(message.contains("from 4.000 s to 8.000 s"), "{message}");
    assert!(
        message.contains("v180-") && message.contains(": 4.000 s"),
        "{message}"
    );
    assert!(
        message.contains("v720-") && message.contains(": 4.200 s, 5.200 s"),
        "{message}"
    );
}

#[test]
fn a_rung_without_key_frames_in_a_window_is_refused_where_another_has_some() {
    let a = with_keys(Made::Small, 250, &[0, 200]);
    let b = with_keys(Made::Large, 250, &[0, 100, 200]);
    assert!(refused(&[a, b], 4000).contains(": none"));
}

#[test]
fn a_window_in_which_no_rung_has_a_key_frame_begins_nothing() {
    let a = with_keys(Made::Small, 400, &[0, 100, 300]);
    let b = with_keys(Made::Large, 400, &[0, 100, 300]);
    assert_eq!(
        starts(&assemble(&[a, b], 4000).unwrap())[1],
        [0, 4000, 12_000]
    );
}

#[test]
fn instants_are_compared_across_timescales() {
    // 29.97 pictures a second, once exactly and once in a timescale that has to round.
    let exact = Spec {
        timescale: 30_000,
        duration: 1001,
        ..Spec::video(Made::Small, 300, 30)
    };
    let fine = Spec {
        timescale: 90_000,
        duration: 3003,
        ..Spec::video(Made::Large, 300, 30)
    };
    let presentation = assemble(&[exact, fine], 2000).unwrap();
    let [a, b] = presentation.tracks() else {
        panic!("two tracks")
    };
    assert!(a.timeline().segment_count() > 3);
    for (a_segment, b_segment) in a.timeline().segments().zip(b.timeline().segments()) {
        let at = |ticks: u64, scale| MediaTime::new(ticks.cast_signed(), scale);
        assert_eq!(
            at(a_segment.start, a.timescale()),
            at(b_segment.start, b.timescale())
        );
    }
    // 25 pictures a second in 25 ticks and in 90,000.
    let coarse = Spec {
        timescale: 25,
        duration: 1,
        ..Spec::video(Made::Small, 250, 50)
    };
    let fine = Spec {
        timescale: 90_000,
        duration: 3600,
        ..Spec::video(Made::Large, 250, 50)
    };
    assert_eq!(
        starts(&assemble(&[coarse, fine], 2000).unwrap())[0],
        [0, 2000, 4000, 6000, 8000]
    );
}

#[test]
fn a_rung_that_is_a_little_shorter_has_as_many_segments() {
    let a = Spec::video(Made::Small, 200, 25);
    let b = Spec::video(Made::Large, 203, 25);
    let presentation = assemble(&[a, b], 2000).unwrap();
    assert_eq!(
        starts(&presentation),
        [[0, 2000, 4000, 6000], [0, 2000, 4000, 6000]]
    );
}

#[test]
fn rungs_of_other_lengths_are_refused() {
    let message = refused(
        &[
            Spec::video(Made::Small, 100, 25),
            Spec::video(Made::Large, 250, 25),
        ],
        2000,
    );
    assert!(
        message.contains("4.000 s") && message.contains("10.000 s"),
        "{message}"
    );
}

#[test]
fn rungs_that_begin_apart_are_refused() {
    let mut late = Spec::video(Made::Large, 100, 25);
    late.edits = vec![(80, -1), (4000, 0)];
    let message = refused(&[Spec::video(Made::Small, 100, 25), late], 2000);
    assert!(
        message.contains("0.000 s") && message.contains("0.080 s"),
        "{message}"
    );
}

#[test]
fn t5_priming_stays_in_the_first_segment_and_moves_no_time_below_zero() {
    let presentation = assemble(&[Spec::audio(300, b"eng")], 2000).unwrap();
    let timeline = presentation.tracks()[0].timeline();
    let first = timeline.segment(1).unwrap();
    assert_eq!((first.samples.start, first.start), (0, 0));
    // Frame 94 is shown at 93 x 1024: the first at or after 96,000.
    assert_eq!((first.samples.end, first.duration), (95, 94 * 1024));
    assert_eq!(timeline.end(), 299 * 1024);
}

#[test]
fn tracks_are_ranked_by_content_not_by_name() {
    let (_, a) = title::source("a", &[Spec::video(Made::Small, 100, 25)]);
    let (_, b) = title::source("b", &[Spec::video(Made::Small, 100, 20)]);
    let pack = Pack {
        name: "clear".to_owned(),
        scheme: None,
        segment_duration_ms: 4000,
        writer: WRITER,
    };
    let ranks = |sources| {
        let presentation = Presentation::assemble(sources, &pack).unwrap();
        let mut ranks: Vec<_> = presentation
            .tracks()
            .iter()
            .map(|track| {
                (
                    presentation.sources()[track.source()].identity,
                    track.rank(),
                    track.generation(),
                )
            })
            .collect();
        ranks.sort_by_key(|(_, rank, _)| *rank);
        ranks
    };
    let straight = ranks(vec![a.clone(), b.clone()]);
    let swapped = ranks(vec![
        origin_media::presentation::SourceRef {
            name: "z".to_owned(),
            ..a
        },
        origin_media::presentation::SourceRef {
            name: "y".to_owned(),
            ..b
        },
    ]);
    assert_eq!(straight, swapped);
    assert_eq!(
        straight
            .iter()
            .map(|(_, rank, _)| *rank)
            .collect::<Vec<_>>(),
        [0, 1]
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn segments_add_up_to_the_track_and_begin_on_key_frames(
        count in 1..400_u32,
        gaps in prop::collection::vec(1..90_u32, 0..12),
        segment_duration_ms in 200..9000_u32,
        reordered: bool,
    ) {
        let mut keys = vec![0];
        keys.extend(gaps.iter().scan(0, |at, gap| { *at += gap; Some(*at) }).filter(|at| *at < count));
        let mut track = with_keys(Made::Small, count, &keys);
        if reordered {
            track = track.with_b_frames();
        }
        let presentation = assemble(&[track], segment_duration_ms).unwrap();
        let track = &presentation.tracks()[0];
        let mut next = 0;
        for segment in track.timeline().segments() {
            prop_assert_eq!(segment.samples.start, next);
            prop_assert!(track.samples().is_sync(segment.samples.start));
            next = segment.samples.end;
            if segment.number > 1 {
                // The window rule: no key frame before it in its own window.
                let window = segment.start * 1000 / u64::from(track.timescale().get()) / u64::from(segment_duration_ms);
                let begin = window * u64::from(segment_duration_ms) * u64::from(track.timescale().get());
                let first = track.samples().sync_at_or_after(begin.div_ceil(1000).cast_signed());
                prop_assert_eq!(first, Some(segment.samples.start));
            }
        }
        prop_assert_eq!(next, track.samples().sample_count());
    }
}

#[test]
fn t6_the_shared_ladder_of_three_files_has_one_timeline() {
    let rungs: Vec<_> = source::shared_media()
        .iter()
        .filter(|path| {
            path.file_stem()
                .unwrap()
                .to_string_lossy()
                .starts_with("made__ladder")
        })
        .map(|path| {
            title::reference(
                &path.to_string_lossy(),
                &source::Source::open(path).unwrap(),
            )
        })
        .collect();
    if rungs.is_empty() {
        return;
    }
    let pack = Pack {
        name: "clear".to_owned(),
        scheme: None,
        segment_duration_ms: 4000,
        writer: WRITER,
    };
    let presentation = Presentation::assemble(rungs, &pack).unwrap();
    let video = &presentation.switching_sets()[0];
    let timelines: Vec<Vec<MediaTime>> = presentation
        .tracks_of(video)
        .map(|track| {
            let at = |ticks: u64| MediaTime::new(ticks.cast_signed(), track.timescale());
            track
                .timeline()
                .segments()
                .map(|segment| at(segment.start))
                .collect()
        })
        .collect();
    assert_eq!(timelines.len(), 3);
    assert!(timelines[0].len() > 1 && timelines.iter().all(|timeline| *timeline == timelines[0]));
}
