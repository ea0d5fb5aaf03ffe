use http::StatusCode;
use keystore_types::{AssetId, KeyId};

use crate::decision_log::Outcome;

/// Why keys could not be fetched. Nothing was kept then, unless the keystore's own words say so; keys that were fetched
/// before go on working.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// No vendor is configured for the asset.
    #[error(
        "the keys of {0} come from no vendor: name it in the assets of one of license.exchange.vendors"
    )]
    NoVendor(AssetId),
    /// The key ids of earlier orders cannot be read, or those of this one not be kept.
    #[error("{0}")]
    Book(String),
    /// The secret, or what it makes of the request, cannot be had.
    #[error("the vendor {vendor} cannot be asked: {what}")]
    Unready {
        /// Its name.
        vendor: String,
        /// What is missing.
        what: String,
    },
    /// No connection, or it broke.
    #[error("the vendor {vendor} at {place} cannot be reached: {what}")]
    Unreachable {
        /// Its name.
        vendor: String,
        /// Its URL.
        place: String,
        /// What the network said.
        what: String,
    },
    /// It did not answer in time.
    #[error("the vendor {vendor} at {place} did not answer within {seconds} s")]
    Late {
        /// Its name.
        vendor: String,
        /// Its URL.
        place: String,
        /// What it had.
        seconds: u64,
    },
    /// It refused.
    #[error("the vendor {vendor} at {place} answers {status}{help}")]
    Refused {
        /// Its name.
        vendor: String,
        /// Its URL.
        place: String,
        /// How.
        status: StatusCode,
        /// What can be done about it.
        help: &'static str,
    },
    /// The answer is longer than is read.
    #[error("the vendor {vendor} answers with more than {limit} bytes: see license.exchange.body")]
    TooLong {
        /// Its name.
        vendor: String,
        /// In bytes.
        limit: usize,
    },
    /// An order that cannot be written, or an answer that is not what was ordered.
    #[error("the order from the vendor {vendor}: {error}")]
    Document {
        /// Its name.
        vendor: String,
        /// With the place in the document.
        error: cpix::Error,
    },
    /// One key for two kinds of tracks.
    #[error(
        "the vendor {vendor} gives one key under the ids {one} and {other}: tracks that are encrypted apart need keys \
         of their own"
    )]
    OneKeyForTwo {
        /// Its name.
        vendor: String,
        /// The first.
        one: KeyId,
        /// The second.
        other: KeyId,
    },
    /// The keystore does not take them.
    #[error("the keystore does not keep the keys: {0}")]
    Keystore(#[from] keystore_client::Error),
}

impl FetchError {
    /// A short fixed name for logs and metric labels.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoVendor(_) => "vendor_unknown",
            Self::Book(_) => "orders_unavailable",
            Self::Unready { .. } => "vendor_unready",
            Self::Unreachable { .. } => "vendor_unreachable",
            Self::Late { .. } => "vendor_late",
            Self::Refused { .. } => "vendor_refused",
            Self::TooLong { .. } => "answer_too_long",
            Self::Document { .. } => "answer_unfit",
            Self::OneKeyForTwo { .. } => "key_shared",
            Self::Keystore(error) => match error {
                keystore_client::Error::Sealed => "sealed",
                keystore_client::Error::Conflict(_) => "key_conflict",
                keystore_client::Error::Denied(_) => "keystore_denied",
                keystore_client::Error::AuditUnavailable(_) => "audit_unavailable",
                keystore_client::Error::Malformed(_) | keystore_client::Error::Unavailable(_) => {
                    "keystore_unavailable"
                }
            },
        }
    }

    /// As the admin API answers.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::NoVendor(_) => StatusCode::NOT_FOUND,
            Self::Book(_) | Self::Unready { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Late { .. } => StatusCode::GATEWAY_TIMEOUT,
            Self::Unreachable { .. }
            | Self::Refused { .. }
            | Self::TooLong { .. }
            | Self::Document { .. }
            | Self::OneKeyForTwo { .. } => StatusCode::BAD_GATEWAY,
            Self::Keystore(keystore_client::Error::Conflict(_)) => StatusCode::CONFLICT,
            Self::Keystore(keystore_client::Error::Denied(_)) => StatusCode::FORBIDDEN,
            Self::Keystore(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    pub(super) fn outcome(&self) -> Outcome {
        Outcome::Refused {
            reason: self.reason(),
            detail: self.to_string(),
        }
    }
}
