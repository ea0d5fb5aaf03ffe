//! A clear title as the stand-in serves it: two rungs of six segments of a second, no sound.

use crate::stand_in::Answer;

/// Segments of the title.
pub const SEGMENTS: usize = 6;

/// Bytes of a segment of each rung.
pub const LENGTHS: [usize; 2] = [10_000, 40_000];

/// What is at a path below `/TITLE/`.
pub fn answer(path: &str) -> Answer {
    let name = path.rsplit('/').next().unwrap_or_default();
    let rung = usize::from(path.contains("/high/"));
    match name {
        "main.mpd" => (200, mpd().into_bytes()),
        "main.m3u8" => {
            let rungs = [("low", LENGTHS[0]), ("high", LENGTHS[1])];
            let rungs = rungs.map(|(name, len)| {
                format!(
                    "#EXT-X-STREAM-INF:BANDWIDTH={}\n{name}/list.m3u8\n",
                    len * 8
                )
            });
            (200, format!("#EXTM3U\n{}", rungs.concat()).into_bytes())
        }
        "list.m3u8" => {
            let segments: String = (1..=SEGMENTS)
                .map(|n| format!("#EXTINF:1,\n{n}.m4s\n"))
                .collect();
            (
                200,
                format!("#EXTM3U\n#EXT-X-MAP:URI=\"init.mp4\"\n{segments}").into_bytes(),
            )
        }
        "init.mp4" => (200, init()),
        _ if name.ends_with(".m4s") => (200, vec![b'x'; LENGTHS[rung]]),
        _ => (404, Vec::new()),
    }
}

fn mpd() -> String {
    let rungs = [("low", LENGTHS[0]), ("high", LENGTHS[1])];
    let rungs = rungs
        .map(|(name, len)| format!(r#"<Representation id="{name}" bandwidth="{}"/>"#, len * 8));
    format!(
        r#"<MPD type="static"><Period><AdaptationSet contentType="video">
           <SegmentTemplate initialization="$RepresentationID$/init.mp4" media="$RepresentationID$/$Number$.m4s">
           <SegmentTimeline><S d="1" r="{}"/></SegmentTimeline></SegmentTemplate>{}
           </AdaptationSet></Period></MPD>"#,
        SEGMENTS - 1,
        rungs.concat()
    )
}

/// The least that says how a clear track is read (ISO/IEC 14496-12 8.5.2, 8.8.3).
fn init() -> Vec<u8> {
    let entry = boxed(b"avc1", &[&[0; 78]]);
    let stsd = boxed(b"stsd", &[&[0; 4], &1_u32.to_be_bytes(), &entry]);
    let stbl = boxed(b"stbl", &[&stsd]);
    let mdia = boxed(b"mdia", &[&boxed(b"minf", &[&stbl])]);
    let mvex = boxed(b"mvex", &[&boxed(b"trex", &[&[0; 24]])]);
    boxed(b"moov", &[&boxed(b"trak", &[&mdia]), &mvex])
}

fn boxed(kind: &[u8; 4], parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let size = u32::try_from(body.len() + 8).unwrap();
    [&size.to_be_bytes(), kind, body.as_slice()].concat()
}
