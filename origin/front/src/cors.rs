//! Cross-origin headers: players run on pages of other origins than ours.
//!
//! Everything here is public or guarded by a token in a header, never by a cookie, so any origin may read it.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use crate::body::Body;
use crate::service::Response;

/// What a preflight of one kind of resource is told.
#[derive(Clone, Copy, Debug)]
pub struct Cors {
    methods: &'static str,
    headers: &'static str,
}

/// Media and manifests: reads, with ranges and conditions.
pub const MEDIA: Cors = Cors {
    methods: "GET, HEAD, OPTIONS",
    headers: "Range, If-Range, If-Match, If-None-Match, Authorization",
};

/// Licences and keys: a token in `Authorization` (which `*` would not cover) and a body of some type.
pub const LICENSE: Cors = Cors {
    methods: "GET, POST, OPTIONS",
    headers: "Authorization, Content-Type",
};

/// What scripts may read beyond the safelisted headers; players estimate bandwidth and clocks from these.
const EXPOSED: &str =
    "Content-Length, Content-Range, Accept-Ranges, ETag, Date, Age, Retry-After, WWW-Authenticate";

/// Without it a page sees neither the protocol nor the sizes of its own requests.
const TIMING_ALLOW_ORIGIN: HeaderName = HeaderName::from_static("timing-allow-origin");

/// Lets pages of any origin read a response, its exposed headers and its timing. For refusals too: a player that
/// may not read a 403 reports a network error.
pub fn allow(headers: &mut HeaderMap) {
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_ORIGIN,
        HeaderValue::from_static("*"),
    );
    headers.insert(
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static(EXPOSED),
    );
    headers.insert(TIMING_ALLOW_ORIGIN, HeaderValue::from_static("*"));
}

/// Lets the page that asked read a response to a request with credentials, where [`allow`] is not enough: browsers
/// take `*` only without. A player may ask so because it sets `Authorization` (dash.js does, unless told not to).
/// No cookie is ever read here, so a foreign page gains nothing.
pub fn allow_with_credentials(headers: &mut HeaderMap, page: Option<&HeaderValue>) {
    allow(headers);
    // Whether or not there was an origin: a cache must know that the answer depends on it.
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    if let Some(page) = page {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, page.clone());
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
            HeaderValue::from_static("true"),
        );
    }
}

impl Cors {
    /// The answer to a preflight (and to any OPTIONS): no token is asked for, and browsers keep it for a day.
    pub fn preflight(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        allow(headers);
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static(self.methods),
        );
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            HeaderValue::from_static(self.headers),
        );
        headers.insert(
            header::ACCESS_CONTROL_MAX_AGE,
            HeaderValue::from_static("86400"),
        );
        headers.insert(header::ALLOW, HeaderValue::from_static(self.methods));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preflight_names_authorization_since_a_star_does_not_cover_it() {
        for cors in [MEDIA, LICENSE] {
            let response = cors.preflight();
            assert_eq!(response.status(), 204);
            let headers = response.headers();
            assert_eq!(headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
            let named = headers[header::ACCESS_CONTROL_ALLOW_HEADERS]
                .to_str()
                .unwrap();
            assert!(named.split(", ").any(|name| name == "Authorization"));
            assert!(!named.contains('*'));
        }
    }

    #[test]
    fn what_players_measure_by_is_exposed() {
        let mut headers = HeaderMap::new();
        allow(&mut headers);
        assert_eq!(headers[TIMING_ALLOW_ORIGIN], "*");
        let exposed = headers[header::ACCESS_CONTROL_EXPOSE_HEADERS]
            .to_str()
            .unwrap();
        for name in ["Content-Length", "Content-Range", "ETag", "Date"] {
            assert!(exposed.split(", ").any(|exposed| exposed == name), "{name}");
        }
    }
}
