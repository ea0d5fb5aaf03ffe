//! Finding `moov` in a file without reading the film.

use std::ops::Range;

use crate::bmff::{BoxHeader, FourCc, HEADER_MAX};
use crate::error::{ParseError, Place};

/// The largest `moov` that is read: tables of a day of video at 60 frames per second take about 40 MB.
pub const MAX_MOOV_BYTES: u64 = 64 << 20;

/// Boxes beside `moov` and `mdat` in one file. Each costs a read; a progressive file has less than ten.
pub const MAX_TOP_LEVEL_BOXES: u32 = 4096;

/// Walks over the top-level boxes of a file, asking its caller for the bytes it needs.
///
/// While [`MoovFinder::wants`] names a range, read it and [`MoovFinder::feed`] it; then ask
/// [`MoovFinder::found`]. The whole file is walked, so that a second `moov`, a fragment or a missing end is
/// noticed.
///
/// ```
/// # fn read(range: std::ops::Range<u64>) -> Vec<u8> { b"\0\0\0\x08moov"[range.start as usize..range.end as usize].to_vec() }
/// # let file_len = 8;
/// let mut finder = origin_media::index::MoovFinder::new(file_len);
/// while let Some(range) = finder.wants() {
///     finder.feed(&read(range))?;
/// }
/// assert_eq!(finder.found(), Some(0..8));
/// # Ok::<(), origin_media::error::ParseError>(())
/// ```
#[derive(Clone, Debug)]
pub struct MoovFinder {
    file_len: u64,
    at: u64,
    boxes: u32,
    moov: Option<Range<u64>>,
    ended: bool,
}

impl MoovFinder {
    /// A finder for a file of `file_len` bytes.
    pub fn new(file_len: u64) -> Self {
        Self {
            file_len,
            at: 0,
            boxes: 0,
            moov: None,
            ended: false,
        }
    }

    /// The bytes of the file that are needed next: at most 16. `None` once the walk has ended.
    pub fn wants(&self) -> Option<Range<u64>> {
        (!self.ended).then(|| {
            let end = self.at.saturating_add(HEADER_MAX as u64).min(self.file_len);
            self.at..end
        })
    }

    /// Takes the bytes that [`MoovFinder::wants`] names. After an error the walk has ended.
    ///
    /// # Errors
    /// `Incomplete` where the file ends before a box does; `Unsupported` for a fragmented file; `Malformed`
    /// where boxes lie about their size, `moov` is absent or there are two, or the file is of another format;
    /// `Limit` past [`MAX_MOOV_BYTES`] or [`MAX_TOP_LEVEL_BOXES`].
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), ParseError> {
        let result = self.step(bytes);
        self.ended |= result.is_err();
        result
    }

    /// Where `moov` lies, header included, once the walk has ended without an error.
    pub fn found(&self) -> Option<Range<u64>> {
        self.moov.clone().filter(|_| self.ended)
    }

    fn step(&mut self, bytes: &[u8]) -> Result<(), ParseError> {
        let here = Place::new("file", self.at);
        if self.file_len == 0 {
            return Err(ParseError::incomplete(here, "the file is empty"));
        }
        let left = self.file_len - self.at;
        let header = match BoxHeader::parse(bytes) {
            Ok(Some(header)) => header,
            Ok(None) => {
                return Err(ParseError::incomplete(
                    here,
                    format!("{left} bytes left, too few for a box header"),
                ));
            }
            Err(reason) => return Err(ParseError::malformed(here, reason)),
        };
        let place = Place::new(header.name.to_string(), self.at);
        if self.boxes == 0 && !may_come_first(header.name) {
            return Err(ParseError::malformed(
                place,
                "no MP4 file begins with this box",
            ));
        }
        self.boxes += 1;
        if self.boxes > MAX_TOP_LEVEL_BOXES {
            return Err(ParseError::limit(
                place,
                format!(
                    "more than {MAX_TOP_LEVEL_BOXES} top-level boxes; a film has less than ten"
                ),
            ));
        }
        let size = header.size.unwrap_or(left);
        if size > left {
            let reason = format!("{size} bytes claimed, {left} left: not complete yet");
            return Err(ParseError::incomplete(place, reason));
        }
        match &header.name.0 {
            b"moov" => self.take_moov(place, size)?,
            b"moof" => {
                return Err(ParseError::unsupported(
                    place,
                    "a fragmented file; give the progressive mezzanine",
                ));
            }
            _ => {}
        }
        self.at += size;
        if self.at == self.file_len {
            self.ended = true;
            if self.moov.is_none() {
                return Err(self.no_moov(header));
            }
        }
        Ok(())
    }

    fn take_moov(&mut self, place: Place, size: u64) -> Result<(), ParseError> {
        if let Some(first) = &self.moov {
            let reason = format!("a second moov; the first is at {:#x}", first.start);
            return Err(ParseError::malformed(place, reason));
        }
        if size > MAX_MOOV_BYTES {
            return Err(ParseError::limit(
                place,
                format!(
                    "{size} bytes; sample tables of a day of film take less than {MAX_MOOV_BYTES}"
                ),
            ));
        }
        self.moov = Some(self.at..self.at + size);
        Ok(())
    }

    fn no_moov(&self, last: BoxHeader) -> ParseError {
        let place = Place::new("file", self.file_len);
        // A muxer that writes moov last leaves mdat open until then.
        if last.size.is_none() || last.name == FourCc(*b"mdat") {
            ParseError::incomplete(place, "no moov after the media data: not complete yet")
        } else {
            ParseError::malformed(place, "no moov box")
        }
    }
}

/// Boxes that files of this family begin with. Text and other formats read as boxes of absurd sizes, which
/// would otherwise look like an incomplete copy.
fn may_come_first(name: FourCc) -> bool {
    matches!(
        &name.0,
        b"ftyp"
            | b"styp"
            | b"moov"
            | b"moof"
            | b"mdat"
            | b"free"
            | b"skip"
            | b"wide"
            | b"pnot"
            | b"uuid"
            | b"sidx"
            | b"pdin"
            | b"udta"
            | b"meta"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ParseErrorKind;

    fn find(file: &[u8]) -> Result<Range<u64>, ParseError> {
        let mut finder = MoovFinder::new(file.len() as u64);
        while let Some(range) = finder.wants() {
            let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
            finder.feed(&file[range])?;
        }
        Ok(finder.found().unwrap())
    }

    #[test]
    fn finds_moov_before_and_after_the_media() {
        assert_eq!(
            find(b"\0\0\0\x08ftyp\0\0\0\x08moov\0\0\0\x0amdatxx").unwrap(),
            8..16
        );
        assert_eq!(
            find(b"\0\0\0\x08ftyp\0\0\0\x0amdatxx\0\0\0\x08moov").unwrap(),
            18..26
        );
        assert_eq!(find(b"\0\0\0\x08ftyp\0\0\0\0moov").unwrap(), 8..16);
        assert_eq!(
            find(b"\0\0\0\x08moov\0\0\0\x01mdat\0\0\0\0\0\0\0\x10").unwrap(),
            0..8
        );
    }

    #[test]
    fn says_who_is_at_fault() {
        use ParseErrorKind::{Incomplete, Malformed, Unsupported};
        for (file, kind, message) in [
            (&b""[..], Incomplete, "file at 0x0: the file is empty"),
            (
                b"\0\0\0\x08fty",
                Incomplete,
                "file at 0x0: 7 bytes left, too few for a box header",
            ),
            (b"\0\0\0\x08ftyp", Malformed, "file at 0x8: no moov box"),
            (
                b"\0\0\0\x01mdat\0\0\0\0\0\0\0\x0f",
                Malformed,
                "file at 0x0: largesize is 15, less than the header's 16 bytes",
            ),
            (
                b"\0\0\0\x07free",
                Malformed,
                "file at 0x0: size is 7, less than the header's 8 bytes",
            ),
            (
                b"\0\0\0\x08ftyp\0\0\0\x09mdat",
                Incomplete,
                "mdat at 0x8: 9 bytes claimed, 8 left: not complete yet",
            ),
            (
                b"\0\0\0\x08ftyp\0\0\0\0mdat",
                Incomplete,
                "file at 0x10: no moov after the media data: not complete yet",
            ),
            (
                b"\0\0\0\x08moov\0\0\0\x08moov",
                Malformed,
                "moov at 0x8: a second moov; the first is at 0x0",
            ),
            (
                b"\0\0\0\x08moov\0\0\0\x08moof",
                Unsupported,
                "moof at 0x8: a fragmented file; give the progressive mezzanine",
            ),
            (
                b"Once upon a time",
                Malformed,
                " upo at 0x0: no MP4 file begins with this box",
            ),
            (
                b"\0\0\0\x01mdat\xff\xff\xff\xff\xff\xff\xff\xff",
                Incomplete,
                "mdat at 0x0: 18446744073709551615 bytes claimed, 16 left: not complete yet",
            ),
        ] {
            let error = find(file).unwrap_err();
            assert_eq!((error.kind(), error.to_string().as_str()), (kind, message));
        }
    }

    #[test]
    fn a_million_empty_boxes_end_at_the_limit() {
        let error = find(&b"\0\0\0\x08free".repeat(1_000_000)).unwrap_err();
        assert_eq!(error.kind(), ParseErrorKind::Limit);
    }

    #[test]
    fn a_moov_too_large_is_refused_unread() {
        let mut finder = MoovFinder::new(1 << 40);
        let error = finder
            .feed(b"\x04\0\0\x01moov\0\0\0\0\0\0\0\0")
            .unwrap_err();
        assert_eq!(error.kind(), ParseErrorKind::Limit);
        assert_eq!(finder.wants(), None);
        assert_eq!(finder.found(), None);
    }
}
