//! The statuses of the licence server, through its service and without sockets.
//!
//! The keystore is a double that keeps the rules of the real one: a grant per asset, one audit record before any
//! key leaves, nothing while sealed. What these cannot catch: what a protocol makes of a response.

mod breaker;
mod certificates;
mod double;
mod fairplay;
mod guesses;
mod hanging;
mod held;
mod overload;
mod passed_through;
mod periods;
mod proof;
mod record;
mod refusals;
mod release;
mod sessions;
mod undone;
mod upstreams;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use conf::{CertificateSettings, UpstreamSettings};
use http::{HeaderMap, HeaderName, Method, StatusCode, header};
use http_body_util::BodyExt as _;
use keystore_client::{
    Answer, DescribeRequest, ExportRequest, ExportedKey, KeyDescription, Keystore, Lease,
    LeaseRequest, SealState,
};
use keystore_types::{AssetId, ConstantIv, ContentKey, KeyId, Label, Scheme};
use origin_front::{Request, RequestBody, Response, Service as _};
use serde_json::{Value, json};
use tokio::sync::watch;

use self::double::Double;
use super::service::{LicenseService, Parts};
use crate::admission::Admission;
use crate::decision_log::DecisionLog;
use crate::entitlement::mint::{Claims, mint};
use crate::entitlement::{Algorithm, AssetGrant, Issuer, SigningKey, VerificationKey, Verifier};
use crate::policy::terms::{Hdcp, KeyRule, PlayReadyLevel, Terms, WidevineLevel};
use crate::policy::{PolicyRule, Rules};
use crate::session::Sessions;
use crate::upstream::Upstreams;
use crate::{Clock, KeyBook, UnixTime};

const BODY_BYTES: usize = 4096;
const SECRET: &[u8] = b"an HS256 secret of the tests, which has 47 bytes";
const NOW: UnixTime = UnixTime::from_seconds(1_700_000_000);

/// Keys of `film`: audio and video in `cbcs`, video in `cenc`.
const AUDIO: KeyId = KeyId::new([0xa0; 16]);
const VIDEO: KeyId = KeyId::new([0xb0; 16]);
const VIDEO_CENC: KeyId = KeyId::new([0xc0; 16]);
/// The key that follows `VIDEO` when it is rotated.
const VIDEO_NEXT: KeyId = KeyId::new([0xb1; 16]);
/// The key of `series`.
const OTHER: KeyId = KeyId::new([0xd0; 16]);
const UNKNOWN: KeyId = KeyId::new([0xee; 16]);

/// Every key is its id with the bits turned round.
fn key_of(key_id: KeyId) -> [u8; 16] {
    key_id.as_bytes().map(|byte| !byte)
}

#[derive(Debug)]
struct Fixed;

impl Clock for Fixed {
    fn now(&self) -> UnixTime {
        NOW
    }
}

fn no_rules() -> conf::SessionSettings {
    conf::load(None).unwrap().license.sessions
}

struct Rig {
    service: LicenseService,
    keystore: Arc<Double>,
    decisions: Arc<DecisionLog>,
    admission: Arc<Admission>,
    _folder: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        Self::with(true, header::AUTHORIZATION)
    }

    fn with(allow_clear_key: bool, token_header: HeaderName) -> Self {
        let upstreams = Upstreams::open(&[], &CertificateSettings::default()).unwrap();
        Self::of(
            allow_clear_key,
            token_header,
            upstreams,
            &no_rules(),
            |_| (),
        )
    }

    fn with_upstreams(upstreams: &[UpstreamSettings], certificates: &CertificateSettings) -> Self {
        let upstreams = Upstreams::open(upstreams, certificates).unwrap();
        Self::of(true, header::AUTHORIZATION, upstreams, &no_rules(), |_| ())
    }

    fn of(
        allow_clear_key: bool,
        token_header: HeaderName,
        upstreams: Upstreams,
        sessions: &conf::SessionSettings,
        change: impl FnOnce(&mut Parts),
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let sessions = Sessions::open(sessions, folder.path(), Arc::new(Fixed)).unwrap();
        let keystore = Arc::new(Double {
            seal: watch::Sender::new(SealState::Unsealed),
            audit: Mutex::default(),
            audit_full: AtomicBool::new(false),
            destroyed: Mutex::default(),
        });
        let decisions = Arc::new(DecisionLog::in_memory());
        let admission = Admission::new(conf::load(None).unwrap().license.admission);
        let rule = |clear_key: bool, scheme| PolicyRule {
            systems: Some(match clear_key {
                true => vec![conf::System::ClearKey],
                false => vec![conf::System::Widevine],
            }),
            scheme,
            ..PolicyRule::default()
        };
        let premium = PolicyRule {
            systems: Some(vec![
                conf::System::ClearKey,
                conf::System::Widevine,
                conf::System::PlayReady,
            ]),
            terms: Terms {
                license_duration: Some(Duration::from_secs(3600)),
                ..Terms::default()
            },
            keys: BTreeMap::from([(
                Label::Sd,
                KeyRule {
                    hdcp: Hdcp::V2_2,
                    widevine: WidevineLevel::HwSecureAll,
                    playready: PlayReadyLevel::Sl3000,
                    ..KeyRule::default()
                },
            )]),
            ..PolicyRule::default()
        };
        let policies = BTreeMap::from([
            ("premium".to_owned(), premium),
            (
                "kept".to_owned(),
                PolicyRule {
                    terms: Terms {
                        persistent: true,
                        ..Terms::default()
                    },
                    ..PolicyRule::default()
                },
            ),
            ("cbcs".to_owned(), rule(true, Some(Scheme::Cbcs))),
            ("cenc".to_owned(), rule(true, Some(Scheme::Cenc))),
            ("widevine".to_owned(), rule(false, Some(Scheme::Cenc))),
            ("clear".to_owned(), rule(false, None)),
        ]);
        let mut parts = Parts {
            keys: KeyBook::new(keystore.clone()),
            verifier: Verifier::new(vec![Issuer::new(
                "test",
                "ott",
                "castellum",
                VerificationKey::read(Algorithm::Hs256, SECRET).unwrap(),
            )]),
            rules: Rules {
                allow_clear_key,
                policies,
                default_policy: None,
            },
            keystore: keystore.clone(),
            decisions: Arc::clone(&decisions),
            clock: Arc::new(Fixed),
            token_header,
            sessions: Arc::new(sessions),
            admission: Arc::clone(&admission),
            token_query: None,
            body_bytes: BODY_BYTES,
            upstreams,
            exchange: None,
        };
        change(&mut parts);
        Self {
            service: LicenseService::new(parts),
            keystore,
            decisions,
            admission,
            _folder: folder,
        }
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: impl Into<Bytes>,
    ) -> Reply {
        let mut request = Request::new(RequestBody::full(body));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().unwrap();
        if let Some(token) = token {
            let value = format!("Bearer {token}").parse().unwrap();
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        Reply::of(self.service.call(request).await).await
    }

    async fn clear_key(&self, asset: &str, token: &str, key_ids: &[KeyId]) -> Reply {
        let path = format!("/license/clearkey/{asset}");
        self.call(Method::POST, &path, Some(token), asking(key_ids))
            .await
    }

    fn last_reason(&self) -> String {
        let entry = serde_json::to_value(&self.decisions.latest(1)[0]).unwrap();
        entry["reason"].as_str().unwrap_or("granted").to_owned()
    }
}

#[derive(Debug, PartialEq)]
struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Reply {
    async fn of(response: Response) -> Self {
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Self {
            status: head.status,
            headers: head.headers,
            body,
        }
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn kind(&self) -> String {
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["status"], self.status.as_u16());
        problem["code"].as_str().unwrap().to_owned()
    }
}

fn asking(key_ids: &[KeyId]) -> String {
    let key_ids: Vec<_> = key_ids.iter().map(KeyId::to_base64url).collect();
    json!({ "kids": key_ids, "type": "temporary" }).to_string()
}

fn token(change: impl FnOnce(&mut Claims)) -> String {
    let mut claims = Claims {
        sub: Some("viewer-1".to_owned()),
        jti: Some("t1".to_owned()),
        assets: Some(assets(&["film"])),
        ..Claims::new(
            "ott",
            "castellum",
            UnixTime::from_seconds(NOW.as_seconds() + 60),
        )
    };
    change(&mut claims);
    mint(
        &claims,
        None,
        &SigningKey::read(Algorithm::Hs256, SECRET).unwrap(),
    )
    .unwrap()
}

fn assets(names: &[&str]) -> AssetGrant {
    AssetGrant::Only(
        names
            .iter()
            .map(|name| name.parse::<AssetId>().unwrap())
            .collect(),
    )
}

fn key_ids(reply: &Reply) -> Vec<String> {
    let keys = reply.json();
    let keys = keys["keys"].as_array().unwrap();
    keys.iter()
        .map(|key| key["kid"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_clear_key_licence_holds_what_is_requested_and_entitled() {
    let rig = Rig::new();
    let any = token(|claims| claims.assets = Some(AssetGrant::All));
    let one = token(|claims| claims.kids = Some(vec![VIDEO, OTHER]));
    let only_key = token(|claims| {
        claims.assets = None;
        claims.kids = Some(vec![AUDIO]);
    });
    let cenc = token(|claims| claims.policy = Some("cenc".to_owned()));
    let film = token(|_| ());
    for (token, asked, given) in [
        (&film, &[VIDEO, AUDIO][..], &[VIDEO, AUDIO][..]),
        (&film, &[AUDIO, VIDEO], &[AUDIO, VIDEO]),
        (&film, &[UNKNOWN, VIDEO, OTHER], &[VIDEO]),
        (&any, &[AUDIO], &[AUDIO]),
        (&one, &[AUDIO, VIDEO], &[VIDEO]),
        (&only_key, &[AUDIO, VIDEO], &[AUDIO]),
        (&cenc, &[AUDIO, VIDEO, VIDEO_CENC], &[VIDEO_CENC]),
    ] {
        let reply = rig.clear_key("film", token, asked).await;
        assert_eq!(reply.status, StatusCode::OK);
        assert_eq!(reply.headers["content-type"], "application/json");
        let given: Vec<_> = given.iter().map(KeyId::to_base64url).collect();
        assert_eq!(key_ids(&reply), given);
        assert_eq!(rig.last_reason(), "granted");
    }
    let reply = rig.clear_key("film", &film, &[AUDIO]).await;
    assert_eq!(
        reply.json(),
        json!({
            "keys": [{ "kty": "oct", "kid": "oKCgoKCgoKCgoKCgoKCgoA", "k": "X19fX19fX19fX19fX19fXw" }],
            "type": "temporary",
        })
    );
}

#[tokio::test]
async fn an_hls_key_is_sixteen_bytes() {
    let rig = Rig::new();
    let path = format!("/license/hls/film/{VIDEO}");
    for method in [Method::GET, Method::HEAD] {
        let reply = rig.call(method, &path, Some(&token(|_| ())), "").await;
        assert_eq!(reply.status, StatusCode::OK);
        assert_eq!(reply.headers["content-type"], "application/octet-stream");
        assert_eq!(reply.body, key_of(VIDEO).as_slice());
    }
    let audit = rig.keystore.audit.lock().unwrap();
    assert_eq!(audit.len(), 2);
    let word = &audit[0].entitlement;
    assert_eq!(
        (word.issuer.as_str(), word.system.as_str()),
        ("test", "hls")
    );
    assert_eq!(
        (word.subject.as_deref(), word.token_id.as_deref()),
        (Some("viewer-1"), Some("t1"))
    );
}

#[tokio::test]
async fn unknown_not_entitled_and_unmet_look_alike() {
    let rig = Rig::new();
    let mut replies = Vec::new();
    let film = token(|_| ());
    let series = token(|claims| claims.assets = Some(assets(&["series"])));
    let everything = token(|claims| claims.assets = Some(AssetGrant::All));
    let widevine = token(|claims| claims.policy = Some("widevine".to_owned()));
    for (asset, token, key_id) in [
        ("film", &film, UNKNOWN),
        ("film", &film, OTHER),
        ("film", &series, VIDEO),
        ("nowhere", &everything, VIDEO),
        ("private", &everything, VIDEO),
        ("film", &widevine, VIDEO),
    ] {
        replies.push(rig.clear_key(asset, token, &[key_id]).await);
    }
    assert_eq!(replies[0].status, StatusCode::FORBIDDEN);
    assert!(
        replies.windows(2).all(|pair| pair[0] == pair[1]),
        "{replies:#?}"
    );
}

#[tokio::test]
async fn a_tenant_without_clear_key_gives_no_key_in_the_open() {
    let rig = Rig::with(false, header::AUTHORIZATION);
    let reply = rig.clear_key("film", &token(|_| ()), &[VIDEO]).await;
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
    assert_eq!(rig.last_reason(), "clear_key_not_allowed");
    assert!(rig.keystore.audit.lock().unwrap().is_empty());
}

#[tokio::test]
async fn sealed_says_so_to_those_who_are_entitled() {
    let rig = Rig::new();
    let film = token(|_| ());
    let series = token(|claims| claims.assets = Some(assets(&["series"])));
    for (state, kind) in [
        (SealState::Sealed, "sealed"),
        (SealState::Uninitialised, "sealed"),
        (SealState::Unreachable, "keystore-unavailable"),
    ] {
        rig.keystore.seal.send_replace(state);
        let reply = rig.clear_key("film", &film, &[VIDEO]).await;
        assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(reply.kind(), kind);
        assert!(reply.headers.contains_key("retry-after"));
        assert_eq!(
            rig.clear_key("film", &series, &[VIDEO]).await.status,
            StatusCode::FORBIDDEN
        );
    }
    rig.keystore.seal.send_replace(SealState::Unsealed);
    assert_eq!(
        rig.clear_key("film", &film, &[VIDEO]).await.status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn no_response_is_kept_and_every_page_may_read_it() {
    let rig = Rig::new();
    let film = token(|_| ());
    let asked = asking(&[VIDEO]);
    for (method, path, token, status) in [
        (
            Method::POST,
            "/license/clearkey/film",
            Some(film.as_str()),
            200,
        ),
        (Method::POST, "/license/clearkey/film", None, 401),
        (Method::POST, "/license/clearkey/other", Some(&film), 403),
        (Method::GET, "/license/clearkey/film", Some(&film), 405),
        (
            Method::POST,
            "/license/hls/film/9eb4050d-e44b-4802-932e-27d75083e266",
            Some(&film),
            405,
        ),
        (Method::POST, "/license/widevine/film", Some(&film), 404),
        (Method::GET, "/license/fairplay/certificate", None, 404),
        (Method::POST, "/speke/v2.0", Some(&film), 404),
        (Method::GET, "/license/hls/film/x", Some(&film), 404),
        (Method::GET, "/", None, 404),
        (Method::OPTIONS, "/license/clearkey/film", None, 204),
    ] {
        let reply = rig.call(method.clone(), path, token, asked.clone()).await;
        assert_eq!(reply.status.as_u16(), status, "{method} {path}");
        assert_eq!(
            reply.headers["cache-control"], "no-store",
            "{method} {path}"
        );
        assert_eq!(
            reply.headers["access-control-allow-origin"], "*",
            "{method} {path}"
        );
        if status >= 400 {
            reply.kind();
        }
        assert_eq!(
            reply.headers.contains_key("allow"),
            matches!(status, 405 | 204)
        );
    }
}

#[tokio::test]
async fn a_preflight_names_the_token_header() {
    let path = "/license/clearkey/film";
    let reply = Rig::new().call(Method::OPTIONS, path, None, "").await;
    assert_eq!(
        reply.headers["access-control-allow-headers"],
        "Authorization, Content-Type"
    );
    assert!(
        reply.headers["access-control-allow-methods"]
            .to_str()
            .unwrap()
            .contains("POST")
    );

    let rig = Rig::with(true, HeaderName::from_static("x-token"));
    let reply = rig.call(Method::OPTIONS, path, None, "").await;
    assert_eq!(
        reply.headers["access-control-allow-headers"],
        "Authorization, Content-Type, x-token"
    );
}

#[tokio::test]
async fn a_page_may_ask_with_credentials() {
    for (method, status) in [(Method::OPTIONS, 204), (Method::POST, 401)] {
        let mut request = Request::new(RequestBody::full(asking(&[VIDEO])));
        *request.method_mut() = method;
        *request.uri_mut() = "/license/clearkey/film".parse().unwrap();
        request
            .headers_mut()
            .insert("origin", "https://player.example".parse().unwrap());
        let reply = Rig::new().service.call(request).await;
        assert_eq!(reply.status().as_u16(), status);
        let headers = reply.headers();
        assert_eq!(
            headers["access-control-allow-origin"],
            "https://player.example"
        );
        assert_eq!(headers["access-control-allow-credentials"], "true");
        assert_eq!(headers["vary"], "Origin");
    }
}

#[tokio::test]
async fn a_configured_header_carries_the_token_alone_or_authorization_does() {
    let rig = Rig::with(true, HeaderName::from_static("x-token"));
    let bearer = format!("Bearer {}", token(|_| ()));
    for (headers, status) in [
        (&[("x-token", token(|_| ()))][..], StatusCode::OK),
        (&[("authorization", bearer.clone())], StatusCode::OK),
        (
            &[
                ("x-token", token(|_| ())),
                ("authorization", bearer.clone()),
            ],
            StatusCode::FORBIDDEN,
        ),
    ] {
        let mut request = Request::new(RequestBody::full(asking(&[VIDEO])));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = "/license/clearkey/film?kid=ignored".parse().unwrap();
        for (name, value) in headers {
            (request.headers_mut()).insert(*name, value.parse().unwrap());
        }
        assert_eq!(rig.service.call(request).await.status(), status);
    }
    let last = serde_json::to_string(&rig.decisions.latest(1)).unwrap();
    assert!(last.contains("\"token_ambiguous\""), "{last}");
}
