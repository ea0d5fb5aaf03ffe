use std::io;

/// Why bytes of a source cannot be had, or can no longer be trusted.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Fault {
    /// Its length, modification time or change time is not what it was when the source was opened.
    #[error("the file was changed while it was open")]
    Changed,
    /// It ends before the bytes asked for.
    #[error("the file became shorter while it was open")]
    Truncated,
    /// The operating system's refusal.
    #[error("the file cannot be read: {0}")]
    Io(#[source] std::sync::Arc<io::Error>),
    /// Reads are queued up to the limit.
    #[error("the storage is overloaded")]
    Overloaded,
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(std::sync::Arc::new(error))
    }
}
