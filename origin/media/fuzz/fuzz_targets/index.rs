//! A whole file: the walk to `moov`, the index of it, every lookup, and the file form of the index.
//!
//! Its corpus is written by `tests/film.rs`: one fault a file.
#![no_main]

use std::ops::Range;

use libfuzzer_sys::fuzz_target;
use origin_media::index::{self, Index, MoovFinder};

fuzz_target!(|file: &[u8]| {
    let slice = |range: Range<u64>| &file[range.start as usize..range.end as usize];
    let mut finder = MoovFinder::new(file.len() as u64);
    while let Some(range) = finder.wants() {
        if finder.feed(slice(range)).is_err() {
            return;
        }
    }
    let moov = finder.found().expect("the walk ended without an error");
    let Ok(index) = index::build(slice(moov.clone()), moov.start, file.len() as u64) else {
        return;
    };
    for track in index.tracks() {
        let count = track.sample_count();
        let (mut bytes, mut time) = (0, track.decode_time(0));
        for n in 0..count {
            let end = track.offset(n) + u64::from(track.size(n));
            assert!(end <= file.len() as u64, "sample {n} ends in the file");
            assert!(track.run_end(n) > n && track.run_end(n) <= count);
            if n + 1 < track.run_end(n) {
                assert_eq!(track.offset(n + 1), end);
            }
            assert_eq!(track.decode_time(n), time);
            time += u64::from(track.duration(n));
            bytes += u64::from(track.size(n));
            let shown = track.decode_time(n).cast_signed() + i64::from(track.composition_offset(n));
            assert_eq!(track.presentation_time(n), shown - track.edit().skip);
        }
        assert_eq!(track.bytes(0..count), bytes);
        assert_eq!(time, track.decode_time(0) + track.total_duration());
        for k in 0..track.sync_count() {
            let sync = track.sync_sample(k);
            assert!(track.is_sync(sync));
            let found = track
                .sync_at_or_after(track.presentation_time(sync))
                .expect("this one at least");
            assert!(
                found <= sync && track.presentation_time(found) == track.presentation_time(sync)
            );
        }
    }
    let opened = Index::from_bytes(index.as_bytes().clone()).expect("an index is read back");
    assert_eq!(format!("{opened:?}"), format!("{index:?}"));
});
