//! Refusals in `application/problem+json` (RFC 9457).

use std::borrow::Cow;

use http::{HeaderValue, StatusCode, header};

use crate::body::Body;
use crate::service::Response;

/// A refusal that a client can read. Never holds a token, a key or a path of the server's own.
#[derive(Clone, Debug)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    known_as: Option<&'static str>,
    title: &'static str,
    detail: Option<Cow<'static, str>>,
    retry_after: Option<u32>,
}

impl Problem {
    /// A refusal with its status, its code such as `sealed`, and one sentence for people. Its type is
    /// `urn:castellum:problem:` and the code.
    pub fn new(status: StatusCode, code: &'static str, title: &'static str) -> Self {
        Self {
            status,
            code,
            known_as: None,
            title,
            detail: None,
            retry_after: None,
        }
    }

    /// Gives it the type by which others know it; the code stays ours.
    #[must_use]
    pub fn known_as(mut self, uri: &'static str) -> Self {
        self.known_as = Some(uri);
        self
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
        let own = || format!("urn:castellum:problem:{}", self.code);
        let document = serde_json::json!({
            "type": self.known_as.map_or_else(own, str::to_owned),
            "code": self.code,
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

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    #[tokio::test]
    async fn a_problem_is_a_document_that_no_cache_keeps() {
        let response = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "sealed", "Sealed")
            .detail("a \"quoted\" word")
            .retry_after(5)
            .into_response();
        assert_eq!(response.status(), 503);
        let headers = response.headers();
        assert_eq!(headers[header::CONTENT_TYPE], "application/problem+json");
        assert_eq!(headers[header::CACHE_CONTROL], "no-store");
        assert_eq!(headers[header::RETRY_AFTER], "5");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let document: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            document,
            serde_json::json!({
                "type": "urn:castellum:problem:sealed",
                "code": "sealed",
                "title": "Sealed",
                "status": 503,
                "detail": "a \"quoted\" word",
            })
        );
    }
}
