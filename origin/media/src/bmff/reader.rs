//! Views of boxes in bytes: sizes are checked against the parent before anything inside is looked at, and
//! every error knows the path and the place in the file.

use super::FourCc;
use crate::error::{ParseError, Place};

/// Children of one box. The largest boxes of real films hold some dozens; the bound keeps a `moov` of millions
/// of empty boxes from costing more than a walk over a thousand.
const MAX_CHILDREN: usize = 1024;

/// Bytes of the longest box header that is read: size, type and `largesize`.
pub(crate) const HEADER_MAX: usize = 16;

/// Size and type of a box (ISO/IEC 14496-12 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BoxHeader {
    pub(crate) name: FourCc,
    /// Bytes of the header itself.
    pub(crate) len: u64,
    /// Bytes of the whole box; `None` where it reaches to the end of the file.
    pub(crate) size: Option<u64>,
}

impl BoxHeader {
    /// Reads the header at the beginning of `bytes`.
    ///
    /// `Err` is the reason; `Ok(None)` asks for more bytes than are there.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Self>, String> {
        let Some((size, rest)) = bytes.split_first_chunk() else {
            return Ok(None);
        };
        let Some((name, rest)) = rest.split_first_chunk() else {
            return Ok(None);
        };
        let name = FourCc(*name);
        match u32::from_be_bytes(*size) {
            0 => Ok(Some(Self {
                name,
                len: 8,
                size: None,
            })),
            1 => {
                let Some(size) = rest.first_chunk() else {
                    return Ok(None);
                };
                match u64::from_be_bytes(*size) {
                    size @ 16.. => Ok(Some(Self {
                        name,
                        len: 16,
                        size: Some(size),
                    })),
                    size => Err(format!(
                        "largesize is {size}, less than the header's 16 bytes"
                    )),
                }
            }
            size @ 8.. => Ok(Some(Self {
                name,
                len: 8,
                size: Some(size.into()),
            })),
            size => Err(format!("size is {size}, less than the header's 8 bytes")),
        }
    }
}

/// A box whose bytes are all there.
#[derive(Clone, Debug)]
pub(crate) struct BoxRef<'a> {
    pub(crate) name: FourCc,
    pub(crate) place: Place,
    body: &'a [u8],
    body_offset: u64,
}

impl<'a> BoxRef<'a> {
    /// The box that `bytes` are, whole and alone, at `offset` of the file.
    pub(crate) fn whole(bytes: &'a [u8], name: FourCc, offset: u64) -> Result<Self, ParseError> {
        let place = Place::new(name.to_string(), offset);
        let header = BoxHeader::parse(bytes)
            .map_err(|reason| ParseError::malformed(place.clone(), reason))?
            .filter(|header| header.name == name)
            .ok_or_else(|| ParseError::malformed(place.clone(), "the bytes are of another box"))?;
        let len = bytes.len() as u64;
        if header.size.unwrap_or(len) != len {
            return Err(ParseError::malformed(
                place,
                format!("{len} bytes given of another size"),
            ));
        }
        let body = bytes
            .get(usize::try_from(header.len).unwrap_or(bytes.len())..)
            .unwrap_or_default();
        Ok(Self {
            name,
            place,
            body,
            body_offset: offset + header.len,
        })
    }

    /// Bytes of the whole box, header included.
    pub(crate) fn len(&self) -> u64 {
        self.body_offset - self.place.offset() + self.body.len() as u64
    }

    /// The boxes inside, of a box that holds nothing else.
    pub(crate) fn children(&self) -> Result<Vec<BoxRef<'a>>, ParseError> {
        self.children_after(0)
    }

    /// The boxes inside, after `fields` bytes of fields.
    pub(crate) fn children_after(&self, fields: usize) -> Result<Vec<BoxRef<'a>>, ParseError> {
        let mut rest = self.body.get(fields..).ok_or_else(|| {
            self.malformed(format!(
                "{fields} bytes of fields needed, {} present",
                self.body.len()
            ))
        })?;
        let mut offset = self.body_offset + fields as u64;
        let mut children = Vec::new();
        let mut tracks = 0;
        while !rest.is_empty() {
            // QuickTime ends lists with a zero of 32 bits; some muxers pad.
            if rest.len() < 8 && rest.iter().all(|byte| *byte == 0) {
                break;
            }
            if children.len() == MAX_CHILDREN {
                return Err(ParseError::limit(
                    self.place.clone(),
                    format!("more than {MAX_CHILDREN} boxes inside; a film has some dozens"),
                ));
            }
            let (mut child, after) = self.child(rest, offset)?;
            if child.name == FourCc(*b"trak") {
                child.place = Place::new(format!("{}/trak[{tracks}]", self.place.path()), offset);
                tracks += 1;
            }
            offset += (rest.len() - after.len()) as u64;
            rest = after;
            children.push(child);
        }
        Ok(children)
    }

    fn child(&self, rest: &'a [u8], offset: u64) -> Result<(BoxRef<'a>, &'a [u8]), ParseError> {
        let header = BoxHeader::parse(rest)
            .map_err(|reason| {
                let name = rest
                    .get(4..8)
                    .and_then(|name| name.try_into().ok())
                    .unwrap_or(*b"????");
                ParseError::malformed(self.place.child(FourCc(name), offset), reason)
            })?
            .ok_or_else(|| {
                let reason = format!("{} bytes left, too few for a box header", rest.len());
                ParseError::malformed(Place::new(self.place.path(), offset), reason)
            })?;
        let place = self.place.child(header.name, offset);
        let Some(size) = header.size else {
            let reason = "size 0 (to the end of the file) inside another box";
            return Err(ParseError::malformed(place, reason));
        };
        let present = rest.len();
        let whole = usize::try_from(size)
            .ok()
            .and_then(|size| rest.split_at_checked(size));
        let Some((bytes, after)) = whole else {
            let reason = format!("{size} bytes claimed, {present} left in the box around it");
            return Err(ParseError::malformed(place, reason));
        };
        // `size` is at least `len`: BoxHeader::parse saw to it.
        let header_len = if header.len == 16 { 16 } else { 8 };
        let body_offset = offset + header.len;
        Ok((
            BoxRef {
                name: header.name,
                place,
                body: &bytes[header_len..],
                body_offset,
            },
            after,
        ))
    }

    /// A reader of the fields of the body.
    pub(crate) fn fields(&self) -> Fields<'a, '_> {
        Fields {
            rest: self.body,
            place: &self.place,
        }
    }

    /// The bytes after the header.
    pub(crate) fn body(&self) -> &'a [u8] {
        self.body
    }

    pub(crate) fn malformed(&self, reason: impl Into<String>) -> ParseError {
        ParseError::malformed(self.place.clone(), reason)
    }

    pub(crate) fn unsupported(&self, reason: impl Into<String>) -> ParseError {
        ParseError::unsupported(self.place.clone(), reason)
    }
}

/// The one box called `name` among `boxes`, if there is one. Two are an error: readers that take the first
/// and readers that take the last would see two films.
pub(crate) fn only<'b, 'a>(
    boxes: &'b [BoxRef<'a>],
    name: &[u8; 4],
) -> Result<Option<&'b BoxRef<'a>>, ParseError> {
    let mut found = boxes.iter().filter(|child| child.name.0 == *name);
    let first = found.next();
    match found.next() {
        None => Ok(first),
        Some(second) => Err(second.malformed("a second box where one is allowed")),
    }
}

/// The one box called `name` among `boxes`, the children of `parent`.
pub(crate) fn required<'b, 'a>(
    parent: &BoxRef<'_>,
    boxes: &'b [BoxRef<'a>],
    name: &[u8; 4],
) -> Result<&'b BoxRef<'a>, ParseError> {
    only(boxes, name)?.ok_or_else(|| parent.malformed(format!("no {} box inside", FourCc(*name))))
}

/// Reads the fields of a box in their order.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'a, 'p> {
    rest: &'a [u8],
    place: &'p Place,
}

impl<'a> Fields<'a, '_> {
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], ParseError> {
        let (head, tail) = self.rest.split_first_chunk().ok_or_else(|| self.short(N))?;
        self.rest = tail;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, ParseError> {
        self.array().map(u8::from_be_bytes)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, ParseError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, ParseError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn skip(&mut self, count: usize) -> Result<(), ParseError> {
        self.take(count).map(drop)
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], ParseError> {
        let (head, tail) = self
            .rest
            .split_at_checked(count)
            .ok_or_else(|| self.short(count))?;
        self.rest = tail;
        Ok(head)
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The version and the flags of a full box.
    pub(crate) fn full_box(&mut self) -> Result<(u8, u32), ParseError> {
        let [version, a, b, c] = self.array()?;
        Ok((version, u32::from_be_bytes([0, a, b, c])))
    }

    /// The version of a full box, at most `max`.
    pub(crate) fn version(&mut self, max: u8) -> Result<u8, ParseError> {
        let (version, _flags) = self.full_box()?;
        if version > max {
            let reason = format!("version {version}; {max} is the last one known");
            return Err(ParseError::unsupported(self.place.clone(), reason));
        }
        Ok(version)
    }

    /// A count of 32 bits and as many entries of `N` bytes, all present.
    pub(crate) fn table<const N: usize>(&mut self) -> Result<&'a [[u8; N]], ParseError> {
        let claimed = self.u32()?;
        self.entries(claimed)
    }

    /// `claimed` entries of `N` bytes, all present.
    pub(crate) fn entries<const N: usize>(
        &mut self,
        claimed: u32,
    ) -> Result<&'a [[u8; N]], ParseError> {
        let (present, _) = self.rest.as_chunks();
        usize::try_from(claimed)
            .ok()
            .and_then(|claimed| present.get(..claimed))
            .ok_or_else(|| {
                let reason = format!("{claimed} entries claimed, {} present", present.len());
                ParseError::malformed(self.place.clone(), reason)
            })
    }

    fn short(&self, needed: usize) -> ParseError {
        let reason = format!("{needed} more bytes needed, {} present", self.rest.len());
        ParseError::malformed(self.place.clone(), reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> Result<Vec<String>, String> {
        let mut whole = u32::try_from(bytes.len() + 8)
            .unwrap()
            .to_be_bytes()
            .to_vec();
        whole.extend_from_slice(b"moov");
        whole.extend_from_slice(bytes);
        let moov =
            BoxRef::whole(&whole, FourCc(*b"moov"), 0x100).map_err(|error| error.to_string())?;
        match moov.children() {
            Ok(children) => Ok(children
                .iter()
                .map(|child| child.place.to_string())
                .collect()),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn children_know_their_places_and_tracks_their_number() {
        let places =
            parse(b"\0\0\0\x09mvhd!\0\0\0\x08trak\0\0\0\x01trak\0\0\0\0\0\0\0\x10").unwrap();
        assert_eq!(
            places,
            [
                "moov/mvhd at 0x108",
                "moov/trak[0] at 0x111",
                "moov/trak[1] at 0x119"
            ]
        );
    }

    #[test]
    fn sizes_that_lie_are_refused() {
        for (bytes, message) in [
            (
                &b"\0\0\0\x07free"[..],
                "moov/free at 0x108: size is 7, less than the header's 8 bytes",
            ),
            (
                b"\0\0\0\x00free",
                "moov/free at 0x108: size 0 (to the end of the file) inside another box",
            ),
            (
                b"\0\0\0\x09free",
                "moov/free at 0x108: 9 bytes claimed, 8 left in the box around it",
            ),
            (
                b"\0\0\0\x01free\0\0\0\0\0\0\0\x0f",
                "moov/free at 0x108: largesize is 15, less than the header's 16 bytes",
            ),
            (
                b"\0\0\0\x01free\xff\xff\xff\xff\xff\xff\xff\xff",
                "moov/free at 0x108: 18446744073709551615 bytes claimed, 16 left in the box around it",
            ),
            (
                b"\0\0\0\x08freejunk!",
                "moov at 0x110: 5 bytes left, too few for a box header",
            ),
        ] {
            assert_eq!(parse(bytes).unwrap_err(), message);
        }
    }

    #[test]
    fn a_zero_word_may_end_a_list() {
        assert_eq!(parse(b"\0\0\0\x08free\0\0\0\0").unwrap().len(), 1);
    }

    #[test]
    fn the_number_of_children_is_bounded() {
        let many = b"\0\0\0\x08free".repeat(MAX_CHILDREN + 1);
        assert!(parse(&many[8..]).is_ok());
        assert!(parse(&many).unwrap_err().contains("more than 1024 boxes"));
    }
}
