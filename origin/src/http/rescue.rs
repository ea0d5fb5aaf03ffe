//! The one place where an error becomes a status.

use http::{HeaderValue, StatusCode, header};
use origin_front::{Problem, Response, cors};

use crate::error::Error;
use crate::storage::Fault;

/// How long a cache may keep a refusal that time may mend, in seconds: short, so that a title that appears is
/// seen, and not zero, so that a missing one costs a shield one request.
const NEGATIVE_TTL: &str = "public, max-age=2";

/// The answer to a request that failed.
pub(super) fn response(error: &Error) -> Response {
    let problem = match error {
        Error::Malformed => Problem::new(
            StatusCode::BAD_REQUEST,
            "malformed-path",
            "The path is malformed",
        ),
        Error::NotFound => {
            Problem::new(StatusCode::NOT_FOUND, "not-found", "There is nothing here")
        }
        Error::Gone => Problem::new(
            StatusCode::GONE,
            "gone",
            "This was superseded; begin again at the manifest",
        ),
        // Why is for the log and the admin API: it may quote the file.
        Error::Unfit { .. } => Problem::new(
            StatusCode::NOT_FOUND,
            "unfit",
            "The asset cannot be packaged",
        ),
        Error::Settling { .. } => Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "settling",
            "A file of the asset is still being written",
        )
        .retry_after(2),
        Error::Quarantined { .. } => Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "quarantined",
            "A file of the asset was overwritten in place and is being read anew",
        )
        .retry_after(5),
        Error::Sealed => Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "sealed",
            "The keystore is sealed",
        )
        .retry_after(10),
        Error::Keystore(_) => Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "keystore",
            "No keys can be had now",
        )
        .retry_after(5),
        Error::Storage(Fault::Overloaded) => Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "overloaded",
            "The storage is overloaded",
        )
        .retry_after(1),
        Error::Storage(Fault::Changed | Fault::Truncated) => Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "source-changed",
            "A file of the asset was changed while it was read",
        )
        .retry_after(2),
        Error::Storage(Fault::Io(_)) => Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "storage",
            "The storage cannot be read",
        )
        .retry_after(5),
        Error::Internal(_) => Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "The origin failed; its log says why",
        ),
    };
    let mut response = problem.into_response();
    cors::allow(response.headers_mut());
    if matches!(
        error,
        Error::NotFound | Error::Gone | Error::Unfit { .. } | Error::Malformed
    ) {
        response.headers_mut().insert(
            header::CACHE_CONTROL,
            HeaderValue::from_static(NEGATIVE_TTL),
        );
    }
    response
}
