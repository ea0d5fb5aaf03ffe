//! Refusals in `application/problem+json` (RFC 9457).

use std::borrow::Cow;

use http::{HeaderValue, StatusCode, header};

use crate::body::Body;
use crate::service::Response;

/// A refusal that a client can read. Never holds a token, a key or a path of the server's own.
#[derive(Clone, Debug)]
pub struct Problem {
    status: StatusCode,
    kind: &'static str,
    title: &'static str,
    detail: Option<Cow<'static, str>>,
    retry_after: Option<u32>,
}

impl Problem {
    /// A refusal with its status, the last word of its type such as `sealed`, and one sentence for people.
    pub fn new(status: StatusCode, kind: &'static str, title: &'static str) -> Self {
        Self {
            status,
            kind,
            title,
            detail: None,
            retry_after: None,
        }
    }

    /// Says what was wrong with this very request.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Says when to come again, in seconds.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// The status that this answers with.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The response, which no cache keeps. Add CORS headers with [`crate::cors::allow`].
    pub fn into_response(self) -> Response {
        let document = serde_json::json!({
            "type": format!("urn:castellum:problem:{}", self.kind),
            "title": self.title,
            "status": self.status.as_u16(),
        });
        let document = match (document, self.detail) {
            (serde_json::Value::Object(mut fields), Some(detail)) => {
                fields.insert("detail".to_owned(), detail.into_owned().into());
                serde_json::Value::Object(fields)
            }
            (document, _) => document,
        };
        let mut response = Response::new(Body::full(document.to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

impl From<Problem> for Response {
    fn from(problem: Problem) -> Self {
        problem.into_response()
    }
}
