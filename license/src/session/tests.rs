//! The rules of sessions, over SQLite and with a clock of their own; and the operators' API.

use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::Body;
use conf::{RateSettings, RevocationSettings};
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::*;
use crate::store::{Device, Revocation, Stored, Stream};

#[derive(Debug)]
struct Hands(AtomicU64);

impl Clock for Hands {
    fn now(&self) -> UnixTime {
        UnixTime::from_seconds(self.0.load(Ordering::SeqCst))
    }
}

const NOW: u64 = 1_700_000_000;

struct Rig {
    sessions: Arc<Sessions>,
    clock: Arc<Hands>,
    folder: tempfile::TempDir,
}

fn settings() -> SessionSettings {
    conf::load(None).unwrap().license.sessions
}

impl Rig {
    fn new(settings: &SessionSettings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(Hands(AtomicU64::new(NOW)));
        let sessions = Sessions::open(settings, folder.path(), clock.clone()).unwrap();
        Self {
            sessions: Arc::new(sessions),
            clock,
            folder,
        }
    }

    fn pass(&self, seconds: u64) {
        self.clock.0.fetch_add(seconds, Ordering::SeqCst);
    }

    fn ask<'a>(&self, bearer: &'a Bearer, headers: &'a HeaderMap, asset: &'a AssetId) -> Ask<'a> {
        Ask {
            bearer,
            demanded: Demanded::default(),
            headers,
            asset,
            request: &[b"challenge"],
            now: self.clock.now(),
        }
    }

    /// What becomes of a licence for this bearer with these headers.
    async fn admit(
        &self,
        bearer: &Bearer,
        headers: &[(&'static str, &str)],
        demanded: Demanded,
    ) -> Result<(), Refusal> {
        let headers = named_headers(headers);
        let asset = "film".parse().unwrap();
        let ask = Ask {
            demanded,
            ..self.ask(bearer, &headers, &asset)
        };
        self.sessions.admit(ask).await.map(Held::given)
    }

    /// Asks the operators' API.
    async fn api(&self, method: &str, uri: &str, body: Option<Value>) -> (StatusCode, Value) {
        let request = Request::builder().method(method).uri(uri);
        let request = match body {
            Some(body) => request
                .header("content-type", "application/json")
                .body(Body::from(body.to_string())),
            None => request.body(Body::empty()),
        };
        let issuers = vec!["shop".to_owned(), "other".to_owned()];
        let response = api::api(Arc::clone(&self.sessions), issuers)
            .oneshot(request.unwrap())
            .await
            .unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }
}

fn named_headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, value.parse().unwrap());
    }
    headers
}

fn bearer(subject: Option<&str>, token_id: Option<&str>) -> Bearer {
    Bearer {
        issuer: "shop".to_owned(),
        subject: subject.map(str::to_owned),
        token_id: token_id.map(str::to_owned),
    }
}

fn ann() -> Bearer {
    bearer(Some("ann"), Some("t1"))
}

#[tokio::test]
async fn without_rules_nothing_is_asked_and_nothing_remembered() {
    let rig = Rig::new(&settings());
    let nobody = bearer(None, None);
    for _ in 0..3 {
        rig.sessions.enter(None, &HeaderMap::new()).unwrap();
        rig.sessions.recognise(&nobody).unwrap();
        rig.admit(&nobody, &[], Demanded::default()).await.unwrap();
    }
    // Not even a store that is gone is noticed: it was not asked.
    assert!(rig.folder.path().join(sqlite::FILE_NAME).exists());
    let viewer = Viewer::new("shop", "ann");
    let streams = rig.sessions.store.streams(viewer, rig.clock.now());
    assert_eq!(streams.await.unwrap(), []);
}

#[tokio::test]
async fn streams_are_counted_by_the_players_name_or_the_tokens() {
    let by_token = Rig::new(&SessionSettings {
        streams: Some(1),
        ..settings()
    });
    let refused = Err(Refusal::StreamLimit { retry_after: 150 });
    let none = Demanded::default;
    let second = bearer(Some("ann"), Some("t2"));
    assert_eq!(by_token.admit(&ann(), &[], none()).await, Ok(()));
    assert_eq!(by_token.admit(&second, &[], none()).await, refused);
    let other = bearer(Some("bob"), Some("t2"));
    assert_eq!(by_token.admit(&other, &[], none()).await, Ok(()));
    for (bearer, missing) in [
        (bearer(None, Some("t3")), "sub"),
        (bearer(Some("ann"), None), "jti"),
    ] {
        let refused = Err(Refusal::ClaimMissing(missing));
        assert_eq!(by_token.admit(&bearer, &[], none()).await, refused);
    }
    // A token may name its stream by itself.
    let named = Demanded {
        session: Some("t1".to_owned()),
        ..none()
    };
    assert_eq!(by_token.admit(&second, &[], named).await, Ok(()));
    // And say another number.
    let two = || Demanded {
        streams: Some(2),
        ..none()
    };
    assert_eq!(by_token.admit(&second, &[], two()).await, Ok(()));

    let by_name = Rig::new(&SessionSettings {
        streams: Some(1),
        session_header: Some("x-session-id".to_owned()),
        ..settings()
    });
    let named = |name| [("x-session-id", name)];
    assert_eq!(by_name.admit(&ann(), &named("a"), none()).await, Ok(()));
    assert_eq!(by_name.admit(&second, &named("a"), none()).await, Ok(()));
    assert_eq!(by_name.admit(&ann(), &named("b"), none()).await, refused);
    let unnamed = Err(Refusal::Unnamed("session"));
    let long = "x".repeat(129);
    for headers in [
        &[][..],
        &named(""),
        &named("a b"),
        &named(&long),
        &[("x-session-id", "a"), ("x-session-id", "b")],
    ] {
        assert_eq!(by_name.admit(&ann(), headers, none()).await, unnamed);
    }
}

#[tokio::test]
async fn a_stream_goes_on_while_it_is_renewed_and_ends_when_it_is_released() {
    let rig = Rig::new(&SessionSettings {
        streams: Some(1),
        ..settings()
    });
    let (headers, asset) = (HeaderMap::new(), "film".parse().unwrap());
    let (ann, second) = (ann(), bearer(Some("ann"), Some("t2")));
    rig.admit(&ann, &[], Demanded::default()).await.unwrap();
    for _ in 0..5 {
        rig.pass(100);
        let ends = rig.sessions.renew(rig.ask(&ann, &headers, &asset)).await;
        assert_eq!(
            ends.unwrap(),
            Some(rig.clock.now().plus(Duration::from_secs(120)))
        );
        let other = rig.sessions.renew(rig.ask(&second, &headers, &asset)).await;
        assert_eq!(other, Err(Refusal::StreamLimit { retry_after: 150 }));
    }
    let release = rig.sessions.release(rig.ask(&ann, &headers, &asset)).await;
    assert_eq!(release, Ok(()));
    assert_eq!(rig.admit(&second, &[], Demanded::default()).await, Ok(()));
    rig.pass(150);
    assert_eq!(rig.admit(&ann, &[], Demanded::default()).await, Ok(()));
}

#[tokio::test]
async fn a_single_use_token_gets_one_licence_and_its_lost_answer_again() {
    let rig = Rig::new(&settings());
    let single = || Demanded {
        single_use: true,
        until: Some(UnixTime::from_seconds(NOW + 330)),
        ..Demanded::default()
    };
    let (headers, asset) = (HeaderMap::new(), "film".parse().unwrap());
    let bearers = [ann(), bearer(None, Some("t1"))];
    let with = async |bearer: &Bearer, request: &[u8]| {
        let ask = Ask {
            demanded: single(),
            request: &[request],
            ..rig.ask(bearer, &headers, &asset)
        };
        rig.sessions.admit(ask).await.map(Held::given)
    };
    assert_eq!(with(&bearers[0], b"one").await, Ok(()));
    assert_eq!(with(&bearers[0], b"one").await, Ok(()), "a retry");
    // Also where the same id comes without its subject.
    for bearer in &bearers {
        assert_eq!(with(bearer, b"other").await, Err(Refusal::TokenReplayed));
    }
    rig.pass(31);
    assert_eq!(with(&bearers[0], b"one").await, Err(Refusal::TokenReplayed));
    let nameless = bearer(Some("ann"), None);
    let refused = Err(Refusal::ClaimMissing("jti"));
    assert_eq!(with(&nameless, b"one").await, refused);
    // By configuration, whatever the token says.
    let all = Rig::new(&SessionSettings {
        single_use: true,
        ..settings()
    });
    assert_eq!(
        all.admit(&nameless, &[], Demanded::default()).await,
        refused
    );
}

#[tokio::test]
async fn devices_are_limited_listed_and_reset() {
    let rig = Rig::new(&SessionSettings {
        devices: Some(2),
        device_header: Some("x-device-id".to_owned()),
        ..settings()
    });
    let on = async |device| {
        let headers = [("x-device-id", device)];
        rig.admit(&ann(), &headers, Demanded::default()).await
    };
    assert_eq!(on("tv").await, Ok(()));
    assert_eq!(on("phone").await, Ok(()));
    assert_eq!(on("car").await, Err(Refusal::DeviceLimit));
    let unnamed = rig.admit(&ann(), &[], Demanded::default()).await;
    assert_eq!(unnamed, Err(Refusal::Unnamed("device")));
    // What a token says goes before what a player says.
    let tokens = |devices, device: &str| Demanded {
        devices,
        device: Some(device.to_owned()),
        ..Demanded::default()
    };
    let header = [("x-device-id", "phone")];
    let refused = rig.admit(&ann(), &header, tokens(None, "car")).await;
    assert_eq!(refused, Err(Refusal::DeviceLimit));
    assert_eq!(rig.admit(&ann(), &[], tokens(None, "phone")).await, Ok(()));
    let uri = "/api/v1/devices?issuer=shop&subject=ann";
    let listed = json!({"devices": [
        {"device": "phone", "added": NOW, "seen": NOW},
        {"device": "tv", "added": NOW, "seen": NOW},
    ]});
    assert_eq!(rig.api("GET", uri, None).await, (StatusCode::OK, listed));
    let one = format!("{uri}&device=tv");
    let (status, _) = rig.api("DELETE", &one, None).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    assert_eq!(on("car").await, Ok(()));
    let (status, problem) = rig.api("DELETE", &one, None).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(problem["detail"], "the subject has no such device");
    let (status, _) = rig.api("DELETE", uri, None).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    assert_eq!(on("boat").await, Ok(()));
    let refused = rig.admit(&ann(), &[], tokens(Some(1), "car")).await;
    assert_eq!(refused, Err(Refusal::DeviceLimit));
}

#[tokio::test]
async fn streams_are_listed_and_ended_by_operators() {
    let rig = Rig::new(&SessionSettings {
        streams: Some(1),
        ..settings()
    });
    rig.admit(&ann(), &[], Demanded::default()).await.unwrap();
    let uri = "/api/v1/streams?issuer=shop&subject=ann";
    let stream = json!({
        "session": "t1", "asset": "film", "began": NOW, "leased": NOW + 120, "until": NOW + 150,
    });
    let listed = json!({"streams": [stream]});
    assert_eq!(rig.api("GET", uri, None).await, (StatusCode::OK, listed));
    let (status, _) = rig.api("DELETE", uri, None).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let one = format!("{uri}&session=t1");
    let (status, _) = rig.api("DELETE", &one, None).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let second = bearer(Some("ann"), Some("t2"));
    assert_eq!(rig.admit(&second, &[], Demanded::default()).await, Ok(()));
}

#[tokio::test]
async fn what_operators_revoke_gets_no_licence() {
    let rule = RevocationSettings {
        interval: Duration::from_millis(50),
        staleness: Duration::from_secs(60),
    };
    let rig = Rig::new(&SessionSettings {
        revocations: Some(rule),
        ..settings()
    });
    // Another server on the same store, which is told nothing.
    let store = Arc::clone(&rig.sessions.store);
    let other = SessionSettings {
        revocations: Some(rule),
        ..settings()
    };
    let other = Sessions::with_store(&other, store, rig.clock.clone()).unwrap();
    let keys = || vec![KeyId::new([1; 16]), KeyId::new([2; 16])];
    let subject = json!({"subject": "ann", "issuer": "shop"});
    let token = json!({"token": "t9", "until": NOW + 60});
    let key = json!({"key": KeyId::new([1; 16])});
    for body in [&subject, &token, &key] {
        let (status, problem) = rig
            .api("POST", "/api/v1/revocations", Some(body.clone()))
            .await;
        assert_eq!(status, StatusCode::CREATED, "{problem}");
    }
    // Here at once.
    let recognise = |subject, token| rig.sessions.recognise(&bearer(Some(subject), Some(token)));
    assert_eq!(recognise("ann", "t1"), Err(Refusal::SubjectRevoked));
    assert_eq!(recognise("bob", "t9"), Err(Refusal::TokenRevoked));
    assert_eq!(recognise("bob", "t1"), Ok(()));
    let elsewhere = Bearer {
        issuer: "other".to_owned(),
        ..ann()
    };
    assert_eq!(rig.sessions.recognise(&elsewhere), Ok(()));
    let mut asked = keys();
    rig.sessions.retain(&mut asked).unwrap();
    assert_eq!(asked, [KeyId::new([2; 16])]);
    asked = vec![KeyId::new([1; 16])];
    assert_eq!(rig.sessions.retain(&mut asked), Err(Refusal::KeysRevoked));
    // There within the interval.
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while other.recognise(&ann()) != Err(Refusal::SubjectRevoked) {
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (_, listed) = rig.api("GET", "/api/v1/revocations", None).await;
    assert_eq!(listed["revocations"].as_array().unwrap().len(), 3);
    let (status, _) = rig
        .api(
            "DELETE",
            "/api/v1/revocations?subject=ann&issuer=shop",
            None,
        )
        .await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    assert_eq!(recognise("ann", "t1"), Ok(()));
    let (status, _) = rig
        .api("DELETE", "/api/v1/revocations?subject=ann", None)
        .await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    for wrong in [
        json!({}),
        json!({"subject": "ann", "token": "t1"}),
        json!({"subject": ""}),
        json!({"key": "no key"}),
        json!({"key": KeyId::new([1; 16]), "issuer": "shop"}),
        json!({"subject": "ann", "until": NOW}),
        json!({"subject": "ann", "other": 1}),
        json!({"subject": "ann", "issuer": "https://shop.example"}),
    ] {
        let (status, _) = rig
            .api("POST", "/api/v1/revocations", Some(wrong.clone()))
            .await;
        assert!(status.is_client_error(), "{wrong}: {status}");
    }
    let off = Rig::new(&settings());
    let (status, _) = off.api("POST", "/api/v1/revocations", Some(subject)).await;
    assert_eq!(status, StatusCode::CONFLICT);
}

/// Such as the claim `iss`, which is not what revocations go by.
#[tokio::test]
async fn an_issuer_that_is_not_configured_is_refused_with_those_that_are() {
    let rig = Rig::new(&SessionSettings {
        streams: Some(2),
        revocations: Some(RevocationSettings {
            interval: Duration::from_secs(3600),
            staleness: Duration::from_secs(3600),
        }),
        ..settings()
    });
    let whose = "subject=ann&issuer=https://shop.example";
    let body = json!({"subject": "ann", "issuer": "https://shop.example"});
    for (method, uri, body) in [
        ("POST", "/api/v1/revocations".to_owned(), Some(body)),
        ("DELETE", format!("/api/v1/revocations?{whose}"), None),
        ("GET", format!("/api/v1/devices?{whose}"), None),
        ("DELETE", format!("/api/v1/devices?{whose}"), None),
        ("GET", format!("/api/v1/streams?{whose}"), None),
        (
            "DELETE",
            format!("/api/v1/streams?{whose}&session=t1"),
            None,
        ),
    ] {
        let (status, problem) = rig.api(method, &uri, body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{method} {uri}");
        assert_eq!(problem["code"], "issuer-unknown", "{method} {uri}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("`https://shop.example`"), "{detail}");
        assert!(detail.ends_with("there are: shop, other"), "{detail}");
    }
    // What is left of one that was configured once can be taken away.
    let once = Bearer {
        issuer: "gone".to_owned(),
        ..ann()
    };
    rig.admit(&once, &[], Demanded::default()).await.unwrap();
    let uri = "/api/v1/streams?subject=ann&issuer=gone&session=t1";
    let (status, _) = rig.api("DELETE", uri, None).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let (status, _) = rig.api("DELETE", uri, None).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_question_has_what_is_counted_and_where_it_comes_from() {
    let rig = Rig::new(&SessionSettings {
        streams: Some(2),
        devices: Some(2),
        device_header: Some("x-device-id".to_owned()),
        access: conf::AccessSettings {
            proxies: vec!["10.0.0.0/8".parse().unwrap()],
            country_header: Some("x-country".to_owned()),
            ..conf::AccessSettings::default()
        },
        ..settings()
    });
    let headers = named_headers(&[("x-device-id", "tv"), ("x-country", "se")]);
    let (ann, film) = (ann(), "film".parse().unwrap());
    let ask = rig.ask(&ann, &headers, &film);
    let kids = [KeyId::new([2; 16]), KeyId::new([1; 16])];
    let proxy = Some("10.0.0.1".parse().unwrap());
    let question = Question {
        country: rig.sessions.country(proxy, &headers, None),
        policy: Some("premium"),
        ..(rig.sessions.question(&ask, &kids, System::Widevine)).unwrap()
    };
    let expected = json!({
        "issuer": "shop", "subject": "ann", "token_id": "t1", "asset": "film",
        "kids": [KeyId::new([1; 16]), KeyId::new([2; 16])],
        "system": "widevine", "policy": "premium", "session": "t1", "device": "tv", "country": "SE",
    });
    assert_eq!(serde_json::to_value(&question).unwrap(), expected);
    // The word of somebody who is no proxy.
    let stranger = Some("192.0.2.1".parse().unwrap());
    assert_eq!(rig.sessions.country(stranger, &headers, None), None);
    let nameless = HeaderMap::new();
    let ask = rig.ask(&ann, &nameless, &film);
    let refused = rig.sessions.question(&ask, &kids, System::Widevine);
    assert_eq!(refused.unwrap_err(), Refusal::Unnamed("device"));
    let nobody = Bearer {
        subject: None,
        ..ann.clone()
    };
    let ask = rig.ask(&nobody, &headers, &film);
    let refused = rig.sessions.question(&ask, &kids, System::Widevine);
    assert_eq!(refused.unwrap_err(), Refusal::ClaimMissing("sub"));

    let uncounted = Rig::new(&settings());
    let ask = uncounted.ask(&ann, &headers, &film);
    let question = uncounted
        .sessions
        .question(&ask, &kids, System::Hls)
        .unwrap();
    assert_eq!((question.session, question.device), (None, None));
}

#[tokio::test]
async fn what_was_revoked_is_not_believed_for_ever() {
    let rig = Rig::new(&SessionSettings {
        revocations: Some(RevocationSettings {
            interval: Duration::from_secs(3600),
            staleness: Duration::from_secs(5),
        }),
        ..settings()
    });
    assert_eq!(rig.sessions.recognise(&ann()), Ok(()));
    tokio::time::sleep(Duration::from_millis(5050)).await;
    let refused = Err(Refusal::SessionsUnavailable);
    assert_eq!(rig.sessions.recognise(&ann()), refused);
}

#[tokio::test]
async fn each_rate_refuses_with_the_time_to_come_again() {
    let with = |rates| {
        Rig::new(&SessionSettings {
            rates,
            ..settings()
        })
    };
    let exceeded = |of| {
        Err(Refusal::RateExceeded {
            of,
            retry_after: 30,
        })
    };
    let none = RateSettings::default();
    let address = |text: &str| Some(text.parse().unwrap());
    let headers = HeaderMap::new();

    let rig = with(RateSettings { tenant: 2, ..none });
    rig.sessions.recognise(&ann()).unwrap();
    rig.sessions.recognise(&bearer(None, None)).unwrap();
    let third = rig.sessions.recognise(&bearer(Some("bob"), None));
    assert_eq!(third, exceeded(RateOf::Tenant));

    let rig = with(RateSettings { address: 2, ..none });
    for (from, expected) in [
        ("2001:db8::1", Ok(())),
        ("2001:db8::2", Ok(())),
        ("2001:db8::3", exceeded(RateOf::Address)),
        ("192.0.2.1", Ok(())),
    ] {
        let entered = rig.sessions.enter(address(from), &headers);
        assert_eq!(entered.map(|_| ()), expected, "{from}");
    }

    let rig = with(RateSettings { subject: 2, ..none });
    for (bearer, expected) in [
        (ann(), Ok(())),
        (ann(), Ok(())),
        (ann(), exceeded(RateOf::Subject)),
        (bearer(Some("bob"), None), Ok(())),
        (bearer(None, None), Ok(())),
    ] {
        assert_eq!(rig.sessions.recognise(&bearer), expected);
    }

    let rig = with(RateSettings { key: 2, ..none });
    let (one, two) = (KeyId::new([1; 16]), KeyId::new([2; 16]));
    assert_eq!(rig.sessions.retain(&mut vec![one, two]), Ok(()));
    assert_eq!(rig.sessions.retain(&mut vec![one]), Ok(()));
    assert_eq!(
        rig.sessions.retain(&mut vec![two, one]),
        exceeded(RateOf::Key)
    );
}

/// Rules by which all that happens is told to a hook that takes connections and never answers.
fn told_to_the_deaf(folder: &Path, deaf: &std::net::TcpListener) -> SessionSettings {
    let secret = folder.join("secret");
    std::fs::write(&secret, "a key of the tests that has more than 32 bytes").unwrap();
    let hook = conf::HookSettings {
        table: "license.webhooks.crm".to_owned(),
        tls: false,
        authority: deaf.local_addr().unwrap().to_string(),
        path: "/hook".to_owned(),
        secret: conf::SecretSource::file(secret),
        ca_file: folder.join("none"),
        timeout: Duration::from_secs(60),
    };
    use conf::WebhookEvent::{DeviceAdded, Granted, SessionEnded, SessionExpired, SessionStarted};
    let events = vec![
        DeviceAdded,
        Granted,
        SessionEnded,
        SessionExpired,
        SessionStarted,
    ];
    let webhook = conf::WebhookSettings { hook, events };
    SessionSettings {
        streams: Some(2),
        devices: Some(2),
        device_header: Some("x-device-id".to_owned()),
        webhooks: [("crm".to_owned(), webhook)].into(),
        ..settings()
    }
}

/// Whatever is told waits in the store, where the next start finds it: no server hears it, and this one ends at once.
#[tokio::test]
async fn what_happened_is_told_after_a_kill_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let rules = told_to_the_deaf(folder.path(), &deaf);
    let clock = Arc::new(Hands(AtomicU64::new(NOW)));
    let sessions = Sessions::open(&rules, folder.path(), clock.clone()).unwrap();
    let headers = named_headers(&[("x-device-id", "tv")]);
    let asset = "film".parse().unwrap();
    let bearers = [ann(), bearer(Some("ann"), Some("t2"))];
    let ask = |bearer| Ask {
        bearer,
        demanded: Demanded::default(),
        headers: &headers,
        asset: &asset,
        request: &[],
        now: clock.now(),
    };
    for bearer in &bearers {
        let held = sessions.admit(ask(bearer)).await.unwrap();
        let events = sessions.decided(bearer, &asset, &[], None, clock.now());
        sessions.post(events).await;
        // Killed in between: nobody says that the licence was given.
        std::mem::forget(held);
    }
    sessions.release(ask(&bearers[1])).await.unwrap();
    drop(sessions);

    let store = Sqlite::open(&folder.path().join(sqlite::FILE_NAME), 1000).unwrap();
    let hooks = vec!["crm".to_owned()];
    let now = clock.now().plus(Duration::from_secs(150));
    store::sweep(&store, now, &hooks).await.unwrap();
    let left = store.take_events("crm", UnixTime::MAX, UnixTime::MAX, 100);
    let mut left: Vec<_> = (left.await.unwrap().into_iter())
        .map(|event| {
            let told: Value = serde_json::from_str(&event.body).unwrap();
            assert_eq!(told["data"]["subject"], "ann");
            assert_eq!(told["data"]["asset"], "film");
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let data = &told["data"];
            let which = [text(&data["device"]), text(&data["session"])].concat();
            let after = told["timestamp"].as_u64().unwrap() - NOW;
            (text(&told["type"]), after, which)
        })
        .collect();
    left.sort();
    let expected = [
        ("device_added", 0, "tv"),
        ("granted", 0, ""),
        ("granted", 0, ""),
        ("session_ended", 0, "t2"),
        ("session_expired", 150, "t1"),
        ("session_started", 0, "t1"),
        ("session_started", 0, "t2"),
    ];
    let expected = expected.map(|(kind, after, which)| (kind.to_owned(), after, which.to_owned()));
    assert_eq!(left, expected);
}

/// Its first try began the stream, and fails after all.
#[tokio::test]
async fn what_a_retry_shares_in_is_told_as_soon_as_its_licence_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let rig = Rig::new(&told_to_the_deaf(folder.path(), &deaf));
    let (ann, asset) = (ann(), "film".parse().unwrap());
    let headers = named_headers(&[("x-device-id", "tv")]);
    let first = rig.sessions.admit(rig.ask(&ann, &headers, &asset)).await;
    let retry = rig.sessions.admit(rig.ask(&ann, &headers, &asset)).await;
    first.unwrap().give_back().await;
    retry.unwrap().given();
    // Those that are told are taken by the server itself, for two minutes; those that wait are due in ten.
    let soon = rig.clock.now().plus(Duration::from_secs(300));
    let mut told = 0;
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while told < 2 {
        assert!(std::time::Instant::now() < deadline, "{told} are told");
        let store = &rig.sessions.store;
        let due = store.take_events("crm", soon, UnixTime::MAX, 100).await;
        told += due.unwrap().len();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A store that has done what a claim asks for and does not say so yet.
#[derive(Debug)]
struct Slow {
    store: Sqlite,
    admitted: tokio::sync::Semaphore,
    answered: tokio::sync::Semaphore,
}

impl Store for Slow {
    fn admit(&self, claim: Claim) -> Stored<'_, (Verdict, Taken)> {
        Box::pin(async move {
            let admitted = self.store.admit(claim).await;
            self.admitted.add_permits(1);
            self.answered.acquire().await.unwrap().forget();
            admitted
        })
    }

    fn change(&self, change: Change) -> Stored<'_, u64> {
        self.store.change(change)
    }

    fn streams(&self, viewer: Viewer, now: UnixTime) -> Stored<'_, Vec<Stream>> {
        self.store.streams(viewer, now)
    }

    fn devices(&self, viewer: Viewer, now: UnixTime) -> Stored<'_, Vec<Device>> {
        self.store.devices(viewer, now)
    }

    fn revocations(&self, now: UnixTime) -> Stored<'_, Vec<Revocation>> {
        self.store.revocations(now)
    }

    fn take_events(
        &self,
        hook: &str,
        now: UnixTime,
        again: UnixTime,
        limit: u32,
    ) -> Stored<'_, Vec<Event>> {
        self.store.take_events(hook, now, again, limit)
    }
}

#[tokio::test]
async fn who_leaves_while_the_store_works_leaves_no_claim_behind() {
    let folder = tempfile::tempdir().unwrap();
    let slow = Arc::new(Slow {
        store: Sqlite::open(&folder.path().join(sqlite::FILE_NAME), 1000).unwrap(),
        admitted: tokio::sync::Semaphore::new(0),
        answered: tokio::sync::Semaphore::new(0),
    });
    let rules = SessionSettings {
        single_use: true,
        ..settings()
    };
    let clock = Arc::new(Hands(AtomicU64::new(NOW)));
    let sessions = Sessions::with_store(&rules, slow.clone(), clock.clone()).unwrap();
    let (ann, headers, asset) = (ann(), HeaderMap::new(), "film".parse().unwrap());
    let ask = |request| Ask {
        bearer: &ann,
        demanded: Demanded::default(),
        headers: &headers,
        asset: &asset,
        request,
        now: clock.now(),
    };
    tokio::select! {
        biased;
        _ = sessions.admit(ask(&[b"left"])) => panic!("the store has not answered"),
        admitted = slow.admitted.acquire() => admitted.unwrap().forget(),
    }
    slow.answered.add_permits(1000);
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while let Err(refusal) = sessions.admit(ask(&[b"another"])).await.map(Held::given) {
        assert_eq!(refusal, Refusal::TokenReplayed);
        assert!(std::time::Instant::now() < deadline, "the token stays used");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
