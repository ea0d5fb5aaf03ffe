//! Why a listener, a certificate or a key could not be had. Errors of single requests never come this far.

use std::fmt;

/// What was attempted, what kind of fault stopped it, and its cause.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    attempted: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Who can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// A file was read and does not hold what it should.
    Malformed,
    /// A file that should be there is not.
    NotFound,
    /// The operating system does not allow it.
    Denied,
    /// Something is taken or exhausted; another time or another number may do.
    Unavailable,
    /// A fault of our own.
    Internal,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, attempted: impl Into<String>) -> Self {
        Self {
            kind,
            attempted: attempted.into(),
            source: None,
        }
    }

    pub(crate) fn because(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.source = Some(source.into());
        self
    }

    pub(crate) fn io(attempted: impl Into<String>, source: std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        let kind = match source.kind() {
            Io::NotFound => ErrorKind::NotFound,
            Io::PermissionDenied => ErrorKind::Denied,
            _ => ErrorKind::Unavailable,
        };
        Self::new(kind, attempted).because(source)
    }

    /// What a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    /// One line with the cause, since operators read it as it stands.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.attempted)?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}
