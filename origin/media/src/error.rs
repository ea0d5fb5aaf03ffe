//! What can be wrong with a source, and where.

use std::fmt;

use crate::bmff::FourCc;

/// Who is at fault, and so what the caller can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ParseErrorKind {
    /// The bytes contradict themselves or the standard: the file is broken.
    Malformed,
    /// The bytes are sound but ask for something that this packager does not do.
    Unsupported,
    /// The bytes end before what they announce: the file may still be being written or copied.
    Incomplete,
    /// A limit that protects the process was passed; the message names the limit and its reason.
    Limit,
}

impl ParseErrorKind {
    /// The kind as one word, for reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unsupported => "unsupported",
            Self::Incomplete => "incomplete",
            Self::Limit => "limit",
        }
    }
}

/// A source that cannot be used: what is wrong, in which box, at which byte of the file.
///
/// Prints as `moov/trak[1]/mdia/minf/stbl/stsz at 0x1f40: 12 entries claimed, 3 present`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {reason}")]
pub struct ParseError {
    kind: ParseErrorKind,
    place: Place,
    reason: String,
}

impl ParseError {
    /// An error of `kind` at `place`.
    pub fn new(kind: ParseErrorKind, place: Place, reason: impl Into<String>) -> Self {
        Self {
            kind,
            place,
            reason: reason.into(),
        }
    }

    pub(crate) fn malformed(place: Place, reason: impl Into<String>) -> Self {
        Self::new(ParseErrorKind::Malformed, place, reason)
    }

    pub(crate) fn unsupported(place: Place, reason: impl Into<String>) -> Self {
        Self::new(ParseErrorKind::Unsupported, place, reason)
    }

    pub(crate) fn incomplete(place: Place, reason: impl Into<String>) -> Self {
        Self::new(ParseErrorKind::Incomplete, place, reason)
    }

    pub(crate) fn limit(place: Place, reason: impl Into<String>) -> Self {
        Self::new(ParseErrorKind::Limit, place, reason)
    }

    /// Who is at fault.
    pub fn kind(&self) -> ParseErrorKind {
        self.kind
    }

    /// Where in the source.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// What is wrong, without the place.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

/// A place in a source: a box path (or another name, such as `sample 12`) and an offset in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    path: String,
    offset: u64,
}

impl Place {
    /// The place called `path` whose first byte is `offset`.
    pub fn new(path: impl Into<String>, offset: u64) -> Self {
        Self {
            path: path.into(),
            offset,
        }
    }

    /// The box path, such as `moov/trak[1]/mdia`. Tracks count from 0.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Bytes from the start of the file; within a sample, from the start of that sample.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The place of the child box `name` of this box.
    pub(crate) fn child(&self, name: FourCc, offset: u64) -> Self {
        Self::new(format!("{}/{name}", self.path), offset)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {:#x}", self.path, self.offset)
    }
}

/// Who is at fault when sound sources cannot be presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PackageErrorKind {
    /// The sources are sound but do not make a title, such as a ladder without common key frames.
    Unsupported,
    /// A limit that protects the process was passed; the message names it.
    Limit,
    /// The caller did not give what the pack needs.
    Internal,
}

/// A title that cannot be presented, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct PackageError {
    kind: PackageErrorKind,
    reason: String,
}

impl PackageError {
    pub(crate) fn unsupported(reason: impl Into<String>) -> Self {
        Self {
            kind: PackageErrorKind::Unsupported,
            reason: reason.into(),
        }
    }

    pub(crate) fn limit(reason: impl Into<String>) -> Self {
        Self {
            kind: PackageErrorKind::Limit,
            reason: reason.into(),
        }
    }

    pub(crate) fn internal(reason: impl Into<String>) -> Self {
        Self {
            kind: PackageErrorKind::Internal,
            reason: reason.into(),
        }
    }

    /// Who is at fault.
    pub fn kind(&self) -> PackageErrorKind {
        self.kind
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_path_offset_and_reason() {
        let place = Place::new("moov/trak[1]/mdia/minf/stbl/stsz", 0x1f40);
        let error = ParseError::malformed(place, "12 entries claimed, 3 present");
        assert_eq!(
            error.to_string(),
            "moov/trak[1]/mdia/minf/stbl/stsz at 0x1f40: 12 entries claimed, 3 present"
        );
    }
}
