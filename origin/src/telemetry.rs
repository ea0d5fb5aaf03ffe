//! What is counted. Labels are constants of this program: no asset, policy or viewer ever becomes one.

use std::sync::LazyLock;
use std::time::Duration;

use metrics::Counter;

use origin_media::error::ParseErrorKind;

/// Where bytes of a mezzanine came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadFrom {
    /// Pages of the mapping that were in memory.
    Mapping,
    /// The page cache, by a read that does not wait.
    PageCache,
    /// The storage thread, which waits for the disk.
    Disk,
}

/// Counts bytes of a mezzanine that were handed out.
pub(crate) fn mezzanine_read(from: ReadFrom, bytes: u64) {
    // Looked up once: windows are counted one by one.
    static READ: LazyLock<[Counter; 3]> = LazyLock::new(|| {
        ["mapping", "page_cache", "disk"]
            .map(|from| metrics::counter!("castellum_mezz_read_bytes_total", "from" => from))
    });
    let at = match from {
        ReadFrom::Mapping => 0,
        ReadFrom::PageCache => 1,
        ReadFrom::Disk => 2,
    };
    READ[at].increment(bytes);
}

/// Counts bytes of a mezzanine that are to be read before they are asked for.
pub(crate) fn read_ahead(bytes: u64) {
    metrics::counter!("castellum_mezz_read_ahead_bytes_total").increment(bytes);
}

/// Counts a range that is not read ahead, since the disk has enough to do.
pub(crate) fn read_ahead_shed() {
    metrics::counter!("castellum_mezz_read_ahead_shed_total").increment(1);
}

/// What was made of a title.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Made {
    /// The plan of a segment, with its boxes.
    Segment,
    /// An MPD.
    Dash,
    /// A playlist.
    Hls,
}

/// Counts something that was made, and the time that it took.
pub(crate) fn packaged(made: Made, took: Duration) {
    let format = match made {
        Made::Segment => "cmaf",
        Made::Dash => "dash",
        Made::Hls => "hls",
    };
    metrics::histogram!("castellum_package_duration_seconds", "format" => format)
        .record(took.as_secs_f64());
}

/// Counts a plan that was there.
pub(crate) fn layout_hit() {
    metrics::counter!("castellum_segment_cache_hits_total").increment(1);
}

/// Counts a plan that had to be made or waited for.
pub(crate) fn layout_missed() {
    metrics::counter!("castellum_segment_cache_misses_total").increment(1);
}

/// Counts a plan that made room for others.
pub(crate) fn layout_evicted() {
    metrics::counter!("castellum_segment_cache_evictions_total").increment(1);
}

/// Counts a file that the parser refused.
pub(crate) fn rejected(class: ParseErrorKind) {
    metrics::counter!("castellum_parser_rejects_total", "class" => class.as_str()).increment(1);
}
