//! The boxes that a viewer of protected CMAF has to understand, and no others.
//!
//! This reader is written from ISO/IEC 14496-12 and ISO/IEC 23001-7, apart from the packager's own:
//! a mistake made in both places would have to be made twice.

mod fragment;
mod header;
mod pssh;

pub use fragment::{Fragment, Sample};
pub use header::{Header, Protection, Scheme};
pub use pssh::Pssh;

/// Why bytes are not the CMAF they claim to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path} at {offset:#x}: {reason}")]
pub struct Malformed {
    path: &'static str,
    offset: usize,
    reason: &'static str,
}

/// One box: its four letters, its payload, and where both stand in the file.
#[derive(Debug, Clone, Copy)]
struct Atom<'a> {
    kind: [u8; 4],
    /// Offset of the first byte of the box, its header included.
    start: usize,
    body: Fields<'a>,
}

/// A cursor over big-endian fields that remembers where it stands in the file.
#[derive(Debug, Clone, Copy)]
struct Fields<'a> {
    path: &'static str,
    offset: usize,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn new(path: &'static str, file: &'a [u8]) -> Self {
        Self {
            path,
            offset: 0,
            rest: file,
        }
    }

    fn named(self, path: &'static str) -> Self {
        Self { path, ..self }
    }

    fn fault(&self, reason: &'static str) -> Malformed {
        Malformed {
            path: self.path,
            offset: self.offset,
            reason,
        }
    }

    fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(self.fault("ends too early"))?;
        self.rest = rest;
        self.offset += len;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    fn size(&mut self) -> Result<usize, Malformed> {
        usize::try_from(self.u32()?).map_err(|_| self.fault("size beyond this machine's memory"))
    }

    /// Version and flags of a FullBox.
    fn full(&mut self) -> Result<(u8, u32), Malformed> {
        let word = self.u32()?;
        let [version, ..] = word.to_be_bytes();
        Ok((version, word & 0x00ff_ffff))
    }

    /// The next child box, or `None` at the end.
    fn atom(&mut self) -> Result<Option<Atom<'a>>, Malformed> {
        if self.is_empty() {
            return Ok(None);
        }
        let start = self.offset;
        let remaining = self.rest.len();
        let short = self.u32()?;
        let kind = self.array()?;
        let size = match short {
            0 => remaining,
            1 => usize::try_from(self.u64()?).map_err(|_| self.fault("box size beyond memory"))?,
            _ => usize::try_from(short).map_err(|_| self.fault("box size beyond memory"))?,
        };
        let header = self.offset - start;
        let len = size
            .checked_sub(header)
            .ok_or(self.fault("box smaller than its header"))?;
        let offset = self.offset;
        let rest = self.take(len)?;
        Ok(Some(Atom {
            kind,
            start,
            body: Fields {
                path: self.path,
                offset,
                rest,
            },
        }))
    }

    /// The first child of this kind.
    fn find(mut self, kind: &[u8; 4], path: &'static str) -> Result<Option<Fields<'a>>, Malformed> {
        while let Some(atom) = self.atom()? {
            if &atom.kind == kind {
                return Ok(Some(atom.body.named(path)));
            }
        }
        Ok(None)
    }

    /// The first child of this kind, which must be there.
    fn child(self, kind: &[u8; 4], path: &'static str) -> Result<Fields<'a>, Malformed> {
        self.find(kind, path)?
            .ok_or(self.named(path).fault("missing"))
    }
}

#[cfg(any(test, feature = "testing"))]
#[allow(clippy::unwrap_used, reason = "boxes for tests are small")]
pub mod testing {
    //! Boxes written by hand.

    pub use super::fragment::testing::segment;
    pub use super::header::testing::header;

    /// Writes one box around its payload, for samples in tests.
    pub fn boxed(kind: &[u8; 4], parts: &[&[u8]]) -> Vec<u8> {
        let body = parts.concat();
        let size = u32::try_from(body.len() + 8).unwrap();
        [&size.to_be_bytes(), kind, body.as_slice()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use testing::boxed;

    #[test]
    fn walks_short_long_and_open_ended_boxes() {
        let mut file = boxed(b"styp", &[b"abc"]);
        file.extend([0, 0, 0, 1]);
        file.extend(b"free");
        file.extend(18_u64.to_be_bytes());
        file.extend([7, 7]);
        file.extend([0, 0, 0, 0]);
        file.extend(b"mdat!");
        let mut fields = Fields::new("file", &file);
        let mut seen = Vec::new();
        while let Some(atom) = fields.atom().unwrap() {
            seen.push((atom.kind, atom.start, atom.body.rest.len()));
        }
        assert_eq!(
            seen,
            [(*b"styp", 0, 3), (*b"free", 11, 2), (*b"mdat", 29, 1)]
        );
    }

    #[test]
    fn refuses_a_box_that_claims_more_than_there_is() {
        let mut fields = Fields::new("file", b"\0\0\0\x20moov....");
        let fault = fields.atom().unwrap_err();
        assert_eq!(fault.to_string(), "file at 0x8: ends too early");
    }

    #[test]
    fn refuses_a_box_smaller_than_its_header() {
        let fault = Fields::new("file", b"\0\0\0\x04moov").atom().unwrap_err();
        assert_eq!(fault.reason, "box smaller than its header");
    }
}
