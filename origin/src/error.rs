//! Why requests and verbs fail.

use keystore_types::AssetId;

use crate::storage::Fault;

/// Why a request cannot be answered with what it asks for. `http/rescue.rs` turns it into a status.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The path is not spelt as any URL here ever is.
    #[error("the path is malformed")]
    Malformed,
    /// There is nothing of this name, or not yet in this version.
    #[error("there is nothing here")]
    NotFound,
    /// There was something of this name; it was superseded or its source went away.
    #[error("this is gone; begin again at the manifest")]
    Gone,
    /// The asset's files cannot be packaged.
    #[error("{asset} cannot be packaged: {reason}")]
    Unfit {
        /// The asset.
        asset: AssetId,
        /// What is wrong, with box path and offset where a file is at fault.
        reason: String,
    },
    /// A file of the asset is still being written.
    #[error("{asset} is still being written")]
    Settling {
        /// The asset.
        asset: AssetId,
    },
    /// A file of the asset was overwritten in place and is being read in full.
    #[error("{asset} was overwritten in place and is being read anew")]
    Quarantined {
        /// The asset.
        asset: AssetId,
    },
    /// The keystore is sealed; clear media plays on.
    #[error("the keystore is sealed")]
    Sealed,
    /// The keystore does not answer, or refuses this node.
    #[error("no keys can be had: {0}")]
    Keystore(String),
    /// A source cannot be read or trusted.
    #[error(transparent)]
    Storage(#[from] Fault),
    /// A fault of this node.
    #[error("{0}")]
    Internal(String),
}

impl Error {
    pub(crate) fn internal(error: impl std::fmt::Display) -> Self {
        Self::Internal(error.to_string())
    }
}

impl From<keystore_client::Error> for Error {
    fn from(error: keystore_client::Error) -> Self {
        match error {
            keystore_client::Error::Sealed => Self::Sealed,
            keystore_client::Error::Denied(_)
            | keystore_client::Error::Malformed(_)
            | keystore_client::Error::AuditUnavailable(_)
            | keystore_client::Error::Unavailable(_) => Self::Keystore(error.to_string()),
        }
    }
}
