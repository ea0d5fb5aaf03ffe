//! Why a partner gets nothing, and the one place where that becomes a status.

use cpix::ErrorKind;
use http::{HeaderValue, StatusCode, header};
use origin_front::{Body, BodyError, Response};

use crate::decision_log::Outcome;

/// How soon a partner may come again when the keystore cannot answer, in seconds.
const RETRY_AFTER: &str = "5";

/// Why a partner gets nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// No credentials that are known here.
    #[error(
        "credentials of a partner are needed: a client certificate, or Basic or Bearer with its secret"
    )]
    Unknown,
    /// The partner may not do this, or not with this asset.
    #[error("{0}")]
    NotGranted(String),
    /// The document is not one, breaks the contract, or names recipients that are not enrolled.
    #[error("{0}")]
    Document(#[from] cpix::Error),
    /// The document says what this server cannot do.
    #[error("{0}")]
    Unfit(String),
    /// There are no keys.
    #[error("{0} has no keys")]
    NoKeys(keystore_types::AssetId),
    /// The body broke off, or came too slowly.
    #[error("the document did not arrive whole")]
    Incomplete,
    /// The body is longer than is read.
    #[error("the document is too long: {0} bytes are read")]
    TooLong(usize),
    /// A key would take the place of another.
    #[error("{0}")]
    Conflict(String),
    /// The keystore is sealed.
    #[error("the keystore is sealed")]
    Sealed,
    /// The keystore grants this server no exchange of the asset's keys.
    #[error("the keystore does not grant this server the exchange of these keys")]
    KeystoreDenied,
    /// The keystore cannot record what it would hand out.
    #[error("keys cannot be handed out: the keystore cannot record it")]
    AuditUnavailable,
    /// The keystore does not answer.
    #[error("keys cannot be had at the moment")]
    Unavailable,
}

impl Refusal {
    /// A short fixed name for logs and metric labels.
    fn reason(&self) -> &'static str {
        match self {
            Self::Unknown => "partner_unknown",
            Self::NotGranted(_) => "not_granted",
            Self::Document(error) => match error.kind() {
                ErrorKind::Malformed => "document_malformed",
                ErrorKind::TooLarge => "document_too_large",
                ErrorKind::Invalid => "contract_broken",
                ErrorKind::Unsupported => "unsupported",
                ErrorKind::Denied => "recipient_not_enrolled",
                ErrorKind::Mismatch => "recipient_unknown",
                ErrorKind::Unopened => "document_unopened",
                ErrorKind::Unavailable => "no_randomness",
            },
            Self::Unfit(_) => "document_unfit",
            Self::NoKeys(_) => "keys_unknown",
            Self::Incomplete => "request_incomplete",
            Self::TooLong(_) => "request_too_long",
            Self::Conflict(_) => "key_conflict",
            Self::Sealed => "sealed",
            Self::KeystoreDenied => "keystore_denied",
            Self::AuditUnavailable => "audit_unavailable",
            Self::Unavailable => "keystore_unavailable",
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Unknown => StatusCode::UNAUTHORIZED,
            Self::NotGranted(_) | Self::KeystoreDenied => StatusCode::FORBIDDEN,
            Self::Document(error) => match error.kind() {
                ErrorKind::Malformed => StatusCode::BAD_REQUEST,
                ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
                // A document for another recipient, or one that does not open, is the sender's to put right.
                ErrorKind::Invalid
                | ErrorKind::Unsupported
                | ErrorKind::Mismatch
                | ErrorKind::Unopened => StatusCode::UNPROCESSABLE_ENTITY,
                ErrorKind::Denied => StatusCode::FORBIDDEN,
                ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            },
            Self::Unfit(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::NoKeys(_) => StatusCode::NOT_FOUND,
            Self::Incomplete => StatusCode::BAD_REQUEST,
            Self::TooLong(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::Sealed | Self::AuditUnavailable | Self::Unavailable => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    /// As the decision log has it.
    pub(super) fn outcome(&self) -> Outcome {
        Outcome::Refused {
            reason: self.reason(),
            detail: self.to_string(),
        }
    }

    /// What the partner is told: the reason, in plain text.
    pub(super) fn into_response(self) -> Response {
        let mut response = text(self.status(), self.to_string());
        let headers = response.headers_mut();
        match self.status() {
            // RFC 9110 15.5.2 asks for it.
            StatusCode::UNAUTHORIZED => {
                let basic =
                    HeaderValue::from_static("Basic realm=\"castellum\", charset=\"UTF-8\"");
                headers.append(header::WWW_AUTHENTICATE, basic);
                headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
            }
            _ => {}
        }
        response
    }
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLarge { limit } => Self::TooLong(limit),
            BodyError::Broken | BodyError::Slow => Self::Incomplete,
        }
    }
}

impl From<keystore_client::Error> for Refusal {
    fn from(error: keystore_client::Error) -> Self {
        match error {
            keystore_client::Error::Sealed => Self::Sealed,
            keystore_client::Error::Conflict(reason) => Self::Conflict(reason),
            keystore_client::Error::Denied(reason) => {
                tracing::warn!(
                    reason,
                    "the keystore does not let this server exchange keys of the asset"
                );
                Self::KeystoreDenied
            }
            keystore_client::Error::AuditUnavailable(reason) => {
                tracing::error!(reason, "the keystore cannot record what it hands out");
                Self::AuditUnavailable
            }
            keystore_client::Error::Malformed(reason)
            | keystore_client::Error::Unavailable(reason) => {
                tracing::error!(reason, "the keystore cannot answer");
                Self::Unavailable
            }
        }
    }
}

/// One of these URLs with another method than its own.
pub(super) fn method_not_allowed(allow: &'static str) -> Response {
    let mut response = text(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("this URL answers {allow}"),
    );
    response
        .headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static(allow));
    response
}

fn text(status: StatusCode, mut text: String) -> Response {
    text.push('\n');
    let mut response = Response::new(Body::full(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}
