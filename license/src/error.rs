use std::fmt;

/// Why the licence server cannot start, or a token tool cannot do its work. What a player did wrong is a
/// [`crate::Refusal`], not an error.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    attempted: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// What the caller can do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// What was given breaks a rule: a key, a claim.
    Malformed,
    /// A newer version of this program has written what is there.
    Unsupported,
    /// A file, a socket, a listener or a database cannot be had.
    Unavailable,
    /// A fault of this program or of the system below it.
    Internal,
}

impl Error {
    pub(crate) fn malformed(attempted: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::Malformed,
            attempted: attempted.into(),
            source: None,
        }
    }

    pub(crate) fn unsupported(attempted: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::Unsupported,
            attempted: attempted.into(),
            source: None,
        }
    }

    pub(crate) fn unavailable(
        attempted: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self {
            kind: ErrorKind::Unavailable,
            attempted: attempted.into(),
            source: Some(source.into()),
        }
    }

    pub(crate) fn internal(
        attempted: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self {
            kind: ErrorKind::Internal,
            attempted: attempted.into(),
            source: Some(source.into()),
        }
    }

    /// What it was that failed, if it was this.
    pub(crate) fn cause<E: std::error::Error + 'static>(&self) -> Option<&E> {
        self.source.as_deref()?.downcast_ref()
    }

    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.attempted)?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().and_then(|source| source.source())
    }
}
