//! The edit list (ISO/IEC 14496-12 8.6.6).

use super::BoxRef;
use crate::error::ParseError;

/// The entries of `elst`. Real lists have one or two; the bound is what the index looks at, not memory.
pub(crate) struct Elst {
    pub(crate) entries: Vec<ElstEntry>,
}

/// One edit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ElstEntry {
    /// In ticks of the movie; 0 means up to the end of the media.
    pub(crate) segment_duration: u64,
    /// In ticks of the track; `None` is an empty edit.
    pub(crate) media_time: Option<u64>,
    /// Whether the media plays at its own speed: `media_rate` is 1.
    pub(crate) normal_rate: bool,
}

const MAX_ENTRIES: usize = 1024;

impl Elst {
    pub(crate) fn parse(elst: &BoxRef<'_>) -> Result<Self, ParseError> {
        let mut fields = elst.fields();
        let raw: Vec<(u64, i64, [u8; 4])> = match fields.version(1)? {
            0 => fields
                .table::<12>()?
                .iter()
                .take(MAX_ENTRIES)
                .map(|[d0, d1, d2, d3, t0, t1, t2, t3, rate @ ..]| {
                    let duration = u32::from_be_bytes([*d0, *d1, *d2, *d3]);
                    let time = i32::from_be_bytes([*t0, *t1, *t2, *t3]);
                    (duration.into(), time.into(), *rate)
                })
                .collect(),
            _ => fields
                .table::<20>()?
                .iter()
                .take(MAX_ENTRIES)
                .map(
                    |[
                        d0,
                        d1,
                        d2,
                        d3,
                        d4,
                        d5,
                        d6,
                        d7,
                        t0,
                        t1,
                        t2,
                        t3,
                        t4,
                        t5,
                        t6,
                        t7,
                        rate @ ..,
                    ]| {
                        let duration = u64::from_be_bytes([*d0, *d1, *d2, *d3, *d4, *d5, *d6, *d7]);
                        let time = i64::from_be_bytes([*t0, *t1, *t2, *t3, *t4, *t5, *t6, *t7]);
                        (duration, time, *rate)
                    },
                )
                .collect(),
        };
        let entries = raw
            .into_iter()
            .map(|(segment_duration, media_time, rate)| {
                let media_time = match media_time {
                    -1 => None,
                    0.. => Some(media_time.unsigned_abs()),
                    _ => return Err(elst.malformed(format!("media_time is {media_time}"))),
                };
                Ok(ElstEntry {
                    segment_duration,
                    media_time,
                    normal_rate: rate == [0, 1, 0, 0],
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { entries })
    }
}
