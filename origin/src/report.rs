//! Tracks and ladders in words, for `inspect` and `ingest`.

use origin_media::codec::CodecConfig;
use origin_media::index::Index;
use origin_media::presentation::Presentation;

/// Every track that can be packaged, a line each.
pub fn tracks(index: &Index) -> Vec<String> {
    index
        .tracks()
        .iter()
        .map(|track| {
            let what = match track.codec() {
                CodecConfig::Avc(avc) => format!("{}x{}", avc.width(), avc.height()),
                CodecConfig::Aac(aac) => {
                    format!("{} Hz, {} channels", aac.sample_rate(), aac.channels())
                }
            };
            format!(
                "track {}: {} {what}, {}, {} samples, {} key frames, {:.3} s",
                track.track_id(),
                track.codec().rfc6381(),
                track.language().unwrap_or("und"),
                track.sample_count(),
                track.sync_count(),
                track.presentation_end().as_seconds_f64(),
            )
        })
        .collect()
}

/// Every track that is left out, with the reason.
pub fn ignored(index: &Index) -> Vec<String> {
    index
        .ignored()
        .iter()
        .map(|track| {
            format!(
                "track {} ({}): {}",
                track.track_id, track.what, track.reason
            )
        })
        .collect()
}

/// The names of a presentation's tracks, and the segments of the one that has most.
pub fn renditions(presentation: &Presentation) -> (Vec<String>, u32) {
    let names = presentation
        .tracks()
        .iter()
        .map(|track| track.name().to_owned())
        .collect();
    let segments = presentation
        .tracks()
        .iter()
        .map(|track| track.timeline().segment_count())
        .max();
    (names, segments.unwrap_or_default())
}
