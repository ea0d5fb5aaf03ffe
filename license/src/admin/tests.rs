//! The API's URLs, and how it refuses.

use std::net::SocketAddr;

use axum::body::Body;
use axum::extract::ConnectInfo;
use http::{Request, StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tower::ServiceExt as _;

use super::*;
use crate::decision_log::{Draft, Outcome};
use crate::policy::System;
use crate::{Refusal, SystemClock, UnixTime};

const DOCUMENT: &str = include_str!("../../design/api.md");

fn api(folder: &tempfile::TempDir, decisions: Arc<DecisionLog>) -> Api {
    let rules = conf::load(None).unwrap().license.sessions;
    let sessions = Sessions::open(&rules, folder.path(), Arc::new(SystemClock)).unwrap();
    Api {
        decisions,
        sessions: Arc::new(sessions),
        issuers: vec!["shop".to_owned()],
        vendors: None,
    }
}

async fn answer(router: &Router, request: Request<Body>) -> (http::response::Parts, Value) {
    let response = router.clone().oneshot(request).await.unwrap();
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (head, serde_json::from_slice(&body).unwrap_or_default())
}

fn request(method: &str, uri: &str, body: &str) -> Request<Body> {
    let request = Request::builder().method(method).uri(uri);
    let request = match body {
        "" => request,
        _ => request.header(header::CONTENT_TYPE, "application/json"),
    };
    request.body(Body::from(body.to_owned())).unwrap()
}

/// A problem of this status and code, as the document has it.
fn check(what: &str, (head, problem): &(http::response::Parts, Value), status: u16, code: &str) {
    assert_eq!(head.status, status, "{what}: {problem}");
    assert_eq!(
        head.headers[header::CONTENT_TYPE],
        "application/problem+json",
        "{what}"
    );
    assert_eq!(problem["status"], status, "{what}");
    assert_eq!(problem["code"], code, "{what}: {problem}");
    assert_eq!(
        problem["type"],
        format!("urn:castellum:problem:{code}"),
        "{what}"
    );
    assert!(problem["title"].is_string(), "{what}: {problem}");
    let rows = DOCUMENT
        .lines()
        .filter(|line| line.starts_with(&format!("| {status} |")));
    let row = rows
        .filter(|row| row.contains(&format!("`{code}`")))
        .count();
    assert_eq!(row, 1, "{code} is not in license/design/api.md");
}

#[tokio::test]
async fn every_refusal_is_one_problem() {
    let folder = tempfile::tempdir().unwrap();
    let router = api(&folder, Arc::new(DecisionLog::in_memory())).routes();
    let (bad, unknown) = ("request-malformed", "issuer-unknown");
    for (method, uri, body, status, code) in [
        ("GET", "decisions?limit=-1", "", 400, bad),
        ("GET", "decisions?other=1", "", 400, bad),
        ("GET", "devices", "", 400, bad),
        ("GET", "devices?issuer=other&subject=ann", "", 400, unknown),
        ("DELETE", "streams?issuer=shop&subject=ann", "", 400, bad),
        // All devices would be forgotten, and one stream is meant.
        (
            "DELETE",
            "devices?issuer=shop&subject=ann&session=s1",
            "",
            400,
            bad,
        ),
        (
            "DELETE",
            "devices?issuer=shop&subject=ann",
            "",
            404,
            "not-there",
        ),
        ("DELETE", "revocations?subject=ann&token=t1", "", 400, bad),
        ("DELETE", "revocations?subject=ann&until=5", "", 400, bad),
        ("POST", "revocations", "", 400, bad),
        ("POST", "revocations", "{", 400, bad),
        ("POST", "revocations", r#"{"subject": 1}"#, 400, bad),
        (
            "POST",
            "revocations",
            r#"{"subject": "ann"}"#,
            409,
            "revocations-off",
        ),
        ("PUT", "decisions", "", 405, "method-not-allowed"),
        ("POST", "devices", "", 405, "method-not-allowed"),
        ("GET", "nothing/here", "", 404, "not-found"),
        // Without key exchange.
        ("POST", "orders/film", "", 404, "not-found"),
    ] {
        let answered = answer(&router, request(method, &format!("/api/v1/{uri}"), body)).await;
        check(&format!("{method} {uri}"), &answered, status, code);
        let allowed = answered.0.headers.contains_key(header::ALLOW);
        assert_eq!(allowed, status == 405, "{method} {uri}");
    }
}

/// URLs that are not there and methods that are not answered tell strangers nothing either.
#[tokio::test]
async fn strangers_are_refused_before_anything_else() {
    let [folder, other] = [tempfile::tempdir(), tempfile::tempdir()].map(Result::unwrap);
    let secret = folder.path().join("token");
    std::fs::write(&secret, "0123456789abcdef").unwrap();
    let token = SecretSource::file(secret);
    let log = || Arc::new(DecisionLog::in_memory());
    let host = api(&folder, log()).guarded(None).unwrap();
    let shown = api(&other, log()).guarded(Some(&token)).unwrap();
    let asked = |method: &str, uri: &str, peer: &str, token: &str| {
        let mut request = request(method, uri, "");
        let peer: SocketAddr = peer.parse().unwrap();
        request.extensions_mut().insert(ConnectInfo(peer));
        if !token.is_empty() {
            let value = format!("Bearer {token}").parse().unwrap();
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        request
    };
    let (far, near) = ("192.0.2.1:4000", "127.0.0.1:4000");
    for (method, uri) in [
        ("GET", "/api/v1/decisions"),
        ("PUT", "/api/v1/decisions"),
        ("GET", "/api/v1/nothing"),
        ("GET", "/api/v1/devices?other"),
    ] {
        let answered = answer(&host, asked(method, uri, far, "")).await;
        check(uri, &answered, 403, "loopback-only");
        let detail = answered.1["detail"].as_str().unwrap();
        assert!(detail.contains("license.admin.token_file"), "{detail}");
        let answered = answer(&shown, asked(method, uri, near, "")).await;
        check(uri, &answered, 401, "token-missing");
        assert_eq!(answered.0.headers[header::WWW_AUTHENTICATE], "Bearer");
        let answered = answer(&shown, asked(method, uri, near, "another")).await;
        check(uri, &answered, 401, "token-refused");
    }
    let uri = "/api/v1/decisions";
    let (head, _) = answer(&host, asked("GET", uri, near, "")).await;
    assert_eq!(head.status, StatusCode::OK);
    let (head, _) = answer(&shown, asked("GET", uri, far, "0123456789abcdef")).await;
    assert_eq!(head.status, StatusCode::OK);
}

/// Paths are looked for in the source, and their methods asked for.
#[tokio::test]
async fn the_document_has_every_url_and_method() {
    let folder = tempfile::tempdir().unwrap();
    let router = api(&folder, Arc::new(DecisionLog::in_memory())).routes();
    let sources = [include_str!("mod.rs"), include_str!("../session/api.rs")];
    let paths: Vec<_> = (sources.iter())
        .flat_map(|source| {
            source
                .split('"')
                .filter(|text| text.starts_with("/api/v1/"))
        })
        .filter(|path| *path != "/api/v1/{*path}")
        .collect();
    assert!(paths.len() >= 5, "{paths:?}");
    for path in paths {
        let (head, _) = answer(&router, request("TRACE", path, "")).await;
        let allowed = match head.headers.get(header::ALLOW) {
            Some(methods) => methods.to_str().unwrap().to_owned(),
            // Is there with key exchange alone.
            None => "POST".to_owned(),
        };
        for method in allowed.split(',').filter(|method| *method != "HEAD") {
            let row = format!("| `{method} {path}` |");
            assert!(
                DOCUMENT.contains(&row),
                "{row} is not in license/design/api.md"
            );
        }
    }
}

#[tokio::test]
async fn the_latest_decisions_newest_first() {
    let log = Arc::new(DecisionLog::in_memory());
    for time in 1..=3 {
        let asset = "film".parse().unwrap();
        let system = System::Hls.as_str();
        let draft = Draft::new(UnixTime::from_seconds(time), system, Some(asset));
        log.record(draft, Outcome::from(&Refusal::NoToken));
    }
    let folder = tempfile::tempdir().unwrap();
    let router = api(&folder, log).routes();
    for (uri, status, numbers) in [
        ("/api/v1/decisions", 200, &[3, 2, 1][..]),
        ("/api/v1/decisions?limit=2", 200, &[3, 2]),
        ("/api/v1/decisions?limit=0", 200, &[]),
        (
            "/api/v1/decisions?limit=18446744073709551615",
            200,
            &[3, 2, 1],
        ),
        ("/api/v1/decisions?limit=-1", 400, &[]),
        ("/api/v1/decisions?other=1", 400, &[]),
    ] {
        let (head, body) = answer(&router, request("GET", uri, "")).await;
        assert_eq!(head.status, status, "{uri}");
        let found = body["decisions"].as_array();
        let found: Vec<_> = (found.into_iter().flatten())
            .map(|entry| entry["number"].as_u64().unwrap())
            .collect();
        assert_eq!(found, numbers, "{uri}");
    }
}
