//! What a licence that fails leaves behind: nothing. And what is told of it: that it was refused.

use std::sync::atomic::AtomicUsize;

use conf::{HookSettings, SecretSource, SessionSettings, UpstreamKind, WebhookEvent};

use super::upstreams::{Seen, StandIn, answer, widevine};
use super::*;

/// Every token is good once, for one device and one stream.
fn strict() -> SessionSettings {
    let mut settings = no_rules();
    settings.single_use = true;
    settings.retry_window = Duration::from_secs(30);
    settings.streams = Some(1);
    settings.devices = Some(1);
    settings.device_header = Some("x-device-id".to_owned());
    settings.session_header = Some("x-session-id".to_owned());
    settings
}

fn rig(upstreams: &[UpstreamSettings], settings: &SessionSettings) -> Rig {
    let upstreams = Upstreams::open(upstreams, &CertificateSettings::default()).unwrap();
    Rig::of(true, header::AUTHORIZATION, upstreams, settings, |_| ())
}

/// Asks for a licence with the one token of these tests, on this device and in a session of the same name.
async fn ask(rig: &Rig, device: &str, path: &str, challenge: &str) -> Reply {
    let mut request = Request::new(RequestBody::full(challenge.to_owned()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = path.parse().unwrap();
    let bearer = format!("Bearer {}", token(|_| ()));
    for (name, value) in [
        ("authorization", bearer.as_str()),
        ("x-device-id", device),
        ("x-session-id", device),
    ] {
        (request.headers_mut()).insert(name, value.parse().unwrap());
    }
    Reply::of(rig.service.call(request).await).await
}

#[tokio::test]
async fn a_keystore_that_gives_no_key_leaves_token_device_and_stream_as_they_were() {
    let rig = rig(&[], &strict());
    let path = "/license/clearkey/film";
    // Each on another device and with another challenge, as nothing was had by the last.
    let fail = |state, full| {
        rig.keystore.seal.send_replace(state);
        rig.keystore.audit_full.store(full, Ordering::Relaxed);
    };
    // Once described, the key is known: the next failures are of the export.
    fail(SealState::Unsealed, true);
    let reply = ask(&rig, "one", path, &asking(&[VIDEO])).await;
    assert_eq!(reply.kind(), "audit-unavailable");
    for (state, kind) in [
        (SealState::Sealed, "sealed"),
        (SealState::Unreachable, "keystore-unavailable"),
    ] {
        fail(state, false);
        let reply = ask(&rig, kind, path, &asking(&[VIDEO])).await;
        assert_eq!((reply.status.as_u16(), &*reply.kind()), (503, kind));
    }
    fail(SealState::Unsealed, false);
    let reply = ask(&rig, "two", path, &asking(&[AUDIO, VIDEO])).await;
    assert_eq!(reply.status, StatusCode::OK);
    // Now it is taken.
    let reply = ask(&rig, "two", path, &asking(&[AUDIO])).await;
    assert_eq!(reply.kind(), "token-used");
}

#[tokio::test]
async fn a_service_that_gives_no_licence_leaves_token_device_and_stream_as_they_were() {
    let said = Arc::new(Mutex::new(Vec::new()));
    let saying = Arc::clone(&said);
    let service = StandIn::new(move |_| Some(saying.lock().unwrap().clone())).await;
    let rig = rig(&[service.upstream(UpstreamKind::Widevine)], &strict());
    let path = format!("/license/widevine/film?kid={VIDEO}");
    let refusal = answer(200, json!({ "status": "DEVICE_REVOKED" }).to_string());
    for (device, bytes, kind) in [
        ("one", answer(500, ""), "license-service-unavailable"),
        ("two", answer(200, "garbage"), "license-service-failed"),
        ("three", refusal, "challenge-refused"),
    ] {
        *said.lock().unwrap() = bytes;
        let reply = ask(&rig, device, &path, device).await;
        assert_eq!(reply.kind(), kind);
    }
    *said.lock().unwrap() = widevine(b"a licence");
    let reply = ask(&rig, "four", &path, "four").await;
    assert_eq!(reply.status, StatusCode::OK);
    let reply = ask(&rig, "four", &path, "five").await;
    assert_eq!(reply.kind(), "token-used");
}

/// The first try fails after the retry was granted: what the retry has stays its own.
#[tokio::test]
async fn a_retry_that_was_granted_meanwhile_keeps_what_it_has() {
    let asked = AtomicUsize::new(0);
    let service = StandIn::new(move |_| {
        let again = asked.fetch_add(1, Ordering::Relaxed) > 0;
        again.then(|| widevine(b"a licence"))
    })
    .await;
    // In which the retry is granted.
    let upstream = UpstreamSettings {
        timeout: Duration::from_secs(5),
        ..service.upstream(UpstreamKind::Widevine)
    };
    let rig = rig(&[upstream], &strict());
    let path = format!("/license/widevine/film?kid={VIDEO}");
    let first = ask(&rig, "tv", &path, "challenge");
    let retry = async {
        while service.seen().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        ask(&rig, "tv", &path, "challenge").await
    };
    let (first, retry) = tokio::join!(first, retry);
    assert_eq!(first.kind(), "license-service-unavailable");
    assert_eq!(retry.status, StatusCode::OK);
    let other = ask(&rig, "tv", &path, "another").await;
    assert_eq!(other.kind(), "token-used");
}

/// A player that goes away while its licence is on the way has none.
#[tokio::test]
async fn whoever_does_not_wait_for_a_licence_has_used_nothing_up() {
    let asked = AtomicUsize::new(0);
    let service = StandIn::new(move |_| {
        let again = asked.fetch_add(1, Ordering::Relaxed) > 0;
        again.then(|| widevine(b"a licence"))
    })
    .await;
    let upstream = UpstreamSettings {
        timeout: Duration::from_secs(600),
        ..service.upstream(UpstreamKind::Widevine)
    };
    let rig = rig(&[upstream], &strict());
    let path = format!("/license/widevine/film?kid={VIDEO}");
    let gone = async {
        while service.seen().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        reply = ask(&rig, "one", &path, "challenge") => panic!("{reply:?}"),
        () = gone => {}
    }
    // It is given back by itself, at some moment.
    for _ in 0..1000 {
        let reply = ask(&rig, "two", &path, "another").await;
        if reply.status == StatusCode::OK {
            return;
        }
        assert!(["token-used", "device-limit"].contains(&&*reply.kind()));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it stays taken");
}

/// Each failure is told as a refusal, and no device and no stream of it.
#[tokio::test]
async fn of_a_licence_that_failed_no_device_and_no_stream_is_told() {
    let told = StandIn::saying(answer(204, "")).await;
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "a key of the tests that has more than 32 bytes").unwrap();
    let hook = HookSettings {
        table: "license.webhooks.crm".to_owned(),
        tls: false,
        authority: told.authority.clone(),
        path: "/hook".to_owned(),
        secret: SecretSource::file(secret),
        ca_file: folder.path().join("none"),
        timeout: Duration::from_secs(5),
    };
    let mut settings = strict();
    let events = vec![
        WebhookEvent::Granted,
        WebhookEvent::Refused,
        WebhookEvent::SessionStarted,
        WebhookEvent::DeviceAdded,
    ];
    let webhook = conf::WebhookSettings { hook, events };
    settings.webhooks.insert("crm".to_owned(), webhook);
    let rig = rig(&[], &settings);
    let path = "/license/clearkey/film";
    let kinds = |seen: Vec<Seen>| {
        let mut kinds: Vec<_> = (seen.iter())
            .map(|seen| seen.json()["type"].as_str().unwrap().to_owned())
            .collect();
        kinds.sort();
        kinds
    };
    let heard = async |count: usize| {
        for _ in 0..2000 {
            if told.seen().len() >= count {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        kinds(told.seen())
    };
    rig.keystore.audit_full.store(true, Ordering::Relaxed);
    let reply = ask(&rig, "one", path, &asking(&[VIDEO])).await;
    assert_eq!(reply.kind(), "audit-unavailable");
    assert_eq!(heard(1).await, ["refused"]);
    rig.keystore.audit_full.store(false, Ordering::Relaxed);
    let reply = ask(&rig, "two", path, &asking(&[AUDIO])).await;
    assert_eq!(reply.status, StatusCode::OK);
    let all = ["device_added", "granted", "refused", "session_started"];
    assert_eq!(heard(4).await, all);
}
