//! What operators are told where nothing comes of what they ask: one form for all of the API (RFC 9457), and readers of requests
//! that answer in it.

use axum::extract::{self, FromRequest, FromRequestParts, Request};
use axum::response::{IntoResponse, Response};
use http::header::WWW_AUTHENTICATE;
use http::{HeaderValue, StatusCode, request};
use origin_front::Problem;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Error;

/// How soon an operator may come again where the store does not answer, in seconds.
const RETRY_AFTER: u32 = 5;

/// Why nothing was done.
pub(crate) struct Fault(Problem);

impl Fault {
    /// A status, a code such as `not-there`, one sentence for all of that code, and one for this request.
    pub(crate) fn new(
        status: StatusCode,
        code: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        Self(Problem::new(status, code, title).detail(detail.into()))
    }

    /// The request is not what this URL is asked.
    pub(crate) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "request-malformed",
            "The request is not what this URL is asked.",
            detail,
        )
    }

    /// Nothing that is there is meant.
    pub(crate) fn not_there(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not-there",
            "What is meant is not there, so nothing was done.",
            detail,
        )
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let problem = Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "sessions-unavailable",
            "The store does not answer at the moment.",
        );
        Self(problem.detail(error.to_string()).retry_after(RETRY_AFTER))
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let mut response = self.0.into_response().map(axum::body::Body::new);
        if response.status() == StatusCode::UNAUTHORIZED {
            // RFC 9110 15.5.2 asks for it.
            (response.headers_mut()).insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// No URL of the API.
pub(super) async fn not_found() -> Fault {
    Fault(Problem::new(
        StatusCode::NOT_FOUND,
        "not-found",
        "There is nothing at this URL.",
    ))
}

/// A URL of the API with another method than its own, which `Allow` names.
pub(super) async fn method_not_allowed() -> Fault {
    Fault(Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method-not-allowed",
        "This URL has other methods.",
    ))
}

/// The parameters of a query.
pub(crate) struct Query<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut request::Parts, state: &S) -> Result<Self, Fault> {
        let query = extract::Query::from_request_parts(parts, state).await;
        query
            .map(|extract::Query(query)| Self(query))
            .map_err(|error| Fault::malformed(error.body_text()))
    }
}

/// The parts of a path.
pub(crate) struct Path<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut request::Parts, state: &S) -> Result<Self, Fault> {
        let path = extract::Path::from_request_parts(parts, state).await;
        path.map(|extract::Path(path)| Self(path))
            .map_err(|error| Fault::malformed(error.body_text()))
    }
}

/// A body in JSON.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Fault;

    async fn from_request(request: Request, state: &S) -> Result<Self, Fault> {
        let body = axum::Json::from_request(request, state).await;
        body.map(|axum::Json(body)| Self(body))
            .map_err(|error| Fault::malformed(error.body_text()))
    }
}
