use std::error::Error as StdError;
use std::fmt;

/// Why the keystore could not do something: what kind of failure, what was attempted, and its source.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    attempted: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// Who or what is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// What is stored is not what was written: damage or tampering.
    Damaged,
    /// A newer version has written it.
    Unsupported,
    /// The passphrase does not open the root.
    WrongPassphrase,
    /// What else was to open the root does not: another key, a token's or service's refusal.
    DoesNotOpen,
    /// A record is wrapped under a version that is not, or no longer, in use: a rotation has overtaken whoever read
    /// it, or somebody has put an old record back.
    Superseded,
    /// It was destroyed, and does not come back.
    Destroyed,
    /// The audit log cannot be written, or has no room left: nothing leaves without a record.
    AuditUnavailable,
    /// The disk, the memory or the random generator fails, or another process has the state folder.
    Unavailable,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, attempted: impl Into<String>) -> Self {
        Self {
            kind,
            attempted: attempted.into(),
            source: None,
        }
    }

    pub(crate) fn unavailable(
        attempted: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self {
            kind: ErrorKind::Unavailable,
            attempted: attempted.into(),
            source: Some(source.into()),
        }
    }

    pub(crate) fn audit_unavailable(
        attempted: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self {
            kind: ErrorKind::AuditUnavailable,
            ..Self::unavailable(attempted, source)
        }
    }

    pub(crate) fn damaged(attempted: impl Into<String>) -> Self {
        Self::new(ErrorKind::Damaged, attempted)
    }

    /// Who or what is at fault.
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

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// What a caller is told. It says what to look at, never what a record held.
impl From<Error> for keystore_client::Error {
    fn from(error: Error) -> Self {
        tracing::error!(%error, "the keystore failed");
        match error.kind {
            ErrorKind::AuditUnavailable => Self::AuditUnavailable(error.to_string()),
            ErrorKind::Destroyed => Self::Denied(error.to_string()),
            ErrorKind::Damaged
            | ErrorKind::Unsupported
            | ErrorKind::WrongPassphrase
            | ErrorKind::DoesNotOpen
            | ErrorKind::Superseded
            | ErrorKind::Unavailable => Self::Unavailable(error.to_string()),
        }
    }
}
