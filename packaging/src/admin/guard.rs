//! Who may speak to the admin listener: most of it asks for no password, so a page of another site must not reach it through a
//! browser on this host, neither by a name that is rebound to loopback (`Host`) nor across origins (`Origin`).

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::Response;
use origin_front::Problem;

/// The names by which the listener may be addressed.
#[derive(Clone)]
pub(super) struct Hosts(Arc<Vec<String>>);

impl Hosts {
    /// Loopback, the listener's own address, and those configured.
    pub(super) fn new(address: SocketAddr, configured: Vec<String>) -> Self {
        let mut hosts = vec![
            "localhost".to_owned(),
            "127.0.0.1".to_owned(),
            "[::1]".to_owned(),
        ];
        hosts.push(match address {
            SocketAddr::V4(address) => address.ip().to_string(),
            SocketAddr::V6(address) => format!("[{}]", address.ip()),
        });
        hosts.extend(configured.into_iter().map(|host| host.to_ascii_lowercase()));
        Self(Arc::new(hosts))
    }

    /// Whether the authority is one of ours, whatever its port: tunnels change that.
    fn allow(&self, authority: &str) -> bool {
        let host = match authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            _ => authority,
        };
        let host = host.to_ascii_lowercase();
        self.0.contains(&host)
    }

    fn allow_request(&self, headers: &HeaderMap) -> bool {
        let mut hosts = headers.get_all(HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else {
            return false;
        };
        let named = host.to_str().is_ok_and(|host| self.allow(host));
        let from_us = headers.get_all(ORIGIN).iter().all(|origin| {
            let origin = origin
                .to_str()
                .ok()
                .and_then(|origin| origin.parse::<Uri>().ok());
            let authority = origin.as_ref().and_then(Uri::authority);
            authority.is_some_and(|authority| self.allow(authority.as_str()))
        });
        named && from_us
    }
}

/// Lets a request pass, or answers 403.
pub(super) async fn check(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    if hosts.allow_request(request.headers()) {
        return next.run(request).await;
    }
    let title = "This name or site may not speak to the admin listener.";
    Problem::new(StatusCode::FORBIDDEN, "host-not-allowed", title)
        .detail("see admin.hosts")
        .into_response()
        .map(Body::new)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn allowed(host: &[&str], origin: Option<&str>) -> bool {
        let hosts = Hosts::new(
            "192.0.2.1:9090".parse().unwrap(),
            vec!["Ops.example".to_owned()],
        );
        let mut headers = HeaderMap::new();
        for host in host {
            headers.append(HOST, HeaderValue::from_str(host).unwrap());
        }
        if let Some(origin) = origin {
            headers.insert(ORIGIN, HeaderValue::from_str(origin).unwrap());
        }
        hosts.allow_request(&headers)
    }

    #[test]
    fn names_of_ours() {
        for host in [
            "localhost",
            "localhost:9090",
            "127.0.0.1:1",
            "[::1]:9090",
            "[::1]",
            "192.0.2.1:9090",
            "OPS.example",
        ] {
            assert!(allowed(&[host], None), "{host}");
        }
    }

    #[test]
    fn names_rebound_to_loopback() {
        for host in [
            "evil.example:9090",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "",
            ":9090",
            "::1",
        ] {
            assert!(!allowed(&[host], None), "{host}");
        }
        assert!(!allowed(&[], None));
        assert!(!allowed(&["localhost", "evil.example"], None));
    }

    #[test]
    fn other_sites() {
        assert!(allowed(&["localhost"], Some("http://localhost:9090")));
        for origin in [
            "http://evil.example",
            "null",
            "https://localhost.evil.example",
            "http://evil.example:9090",
        ] {
            assert!(!allowed(&["localhost"], Some(origin)), "{origin}");
        }
    }
}
