//! The edit list: what of it is carried out, and what is refused.

use super::Source;
use crate::bmff::{BoxRef, Elst, only};
use crate::error::ParseError;
use crate::index::file::Columns;
use crate::index::{Edit, MAX_DURATION_SECONDS};
use crate::time::{MediaTime, Rounding, Timescale, rescale};

/// How much of a track's end an edit may leave out unnoticed. Encoders pad the last frame and editors round
/// to the movie's timescale; what an editor cut off on purpose is longer than that.
const UNNOTICED_MS: i64 = 1000;

impl Source {
    /// Reads `edts/elst` among the `boxes` of a track: leading empty edits delay it, one edit chooses where it begins.
    pub(super) fn read_edit(
        &self,
        boxes: &[BoxRef<'_>],
        columns: &Columns,
        timescale: Timescale,
    ) -> Result<Edit, ParseError> {
        let Some(edts) = only(boxes, b"edts")? else {
            return Ok(Edit::default());
        };
        let inside = edts.children()?;
        let Some(elst) = only(&inside, b"elst")? else {
            return Ok(Edit::default());
        };
        let entries = Elst::parse(elst)?.entries;
        let longest =
            |timescale: Timescale| u64::from(MAX_DURATION_SECONDS) * u64::from(timescale.get());
        let empty = entries
            .iter()
            .take_while(|entry| entry.media_time.is_none())
            .count();
        let mut delay = 0_u64;
        for entry in &entries[..empty] {
            delay = delay
                .checked_add(entry.segment_duration)
                .filter(|delay| *delay <= longest(self.movie_timescale))
                .ok_or_else(|| {
                    ParseError::limit(
                        elst.place.clone(),
                        format!("empty edits of more than {MAX_DURATION_SECONDS} seconds"),
                    )
                })?;
        }
        let (media_time, segment_duration) = match &entries[empty..] {
            // An edit list without entries changes nothing.
            [] if empty == 0 => return Ok(Edit::default()),
            [] => return Err(elst.unsupported("only empty edits: nothing of the track is shown")),
            [edit] if !edit.normal_rate => {
                return Err(elst.unsupported("the edit changes the speed or dwells on a picture"));
            }
            [edit] => (edit.media_time.unwrap_or(0), edit.segment_duration),
            more => {
                return Err(elst.unsupported(format!(
                    "{} edits after the leading empty ones; one is carried out. Render the cut first",
                    more.len()
                )));
            }
        };
        let skip = i64::try_from(media_time)
            .ok()
            .filter(|skip| *skip < columns.composition_end)
            .ok_or_else(|| {
                elst.malformed(format!(
                    "the edit begins at tick {media_time}, after the track's end"
                ))
            })?;
        if segment_duration > 0 {
            let shown = i64::try_from(segment_duration.min(longest(self.movie_timescale)))
                .expect("a week of 32-bit ticks is below 2^53");
            let end = MediaTime::new(
                skip + rescale(shown, self.movie_timescale, timescale, Rounding::Nearest),
                timescale,
            );
            let left_out = MediaTime::new(columns.composition_end - end.ticks, timescale);
            if left_out > MediaTime::new(UNNOTICED_MS, Timescale::MILLISECONDS) {
                return Err(elst.unsupported(format!(
                    "the edit leaves out the last {:.3} s of the track. Render the cut first",
                    left_out.as_seconds_f64()
                )));
            }
        }
        let delay = i64::try_from(delay).expect("a week of 32-bit ticks is below 2^53");
        Ok(Edit {
            skip,
            delay: rescale(delay, self.movie_timescale, timescale, Rounding::Nearest),
        })
    }
}
