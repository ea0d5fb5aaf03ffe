//! What the decision log keeps of a request.

use conf::{AuthorisationSettings, HookSettings, RevocationSettings, SecretSource};

use super::upstreams::{StandIn, answer};
use super::*;
use crate::policy::explain::{Replayed, replay};

#[tokio::test]
async fn the_record_names_the_bearer_once_proven_and_never_the_token() {
    let rig = Rig::new();
    let expired = token(|claims| claims.exp = UnixTime::from_seconds(1));
    let forged = format!("{}AAAA", &expired[..expired.len() - 4]);
    let film = token(|_| ());
    rig.clear_key("film", &expired, &[VIDEO]).await;
    rig.clear_key("film", &forged, &[VIDEO]).await;
    rig.clear_key("film", &film, &[UNKNOWN, VIDEO]).await;
    let entries = serde_json::to_value(rig.decisions.latest(10)).unwrap();
    assert_eq!(
        entries,
        json!([
            {
                "number": 3, "time": NOW.as_seconds(), "system": "clearkey", "asset": "film",
                "kids": [VIDEO], "issuer": "test", "subject": "viewer-1", "token_id": "t1",
                "result": "granted",
                "case": {
                    "time": NOW.as_seconds(), "system": "clearkey", "asset": "film", "covers_asset": true,
                    "requested": [UNKNOWN, VIDEO], "covered": [UNKNOWN, VIDEO],
                    "keys": [{ "key_id": VIDEO, "label": "sd", "scheme": "cbcs" }],
                },
            },
            {
                "number": 2, "time": NOW.as_seconds(), "system": "clearkey", "asset": "film", "kids": [],
                "result": "refused", "reason": "signature_invalid",
                "detail": "the signature does not verify",
            },
            {
                "number": 1, "time": NOW.as_seconds(), "system": "clearkey", "asset": "film", "kids": [],
                "issuer": "test", "subject": "viewer-1", "token_id": "t1",
                "result": "refused", "reason": "token_expired", "detail": "the token has expired",
            },
        ])
    );
}

/// Who got in because nobody answered is told from who was let in, and from those of whom nobody was asked.
#[tokio::test]
async fn the_record_says_by_whose_word_a_licence_passed_the_authorisation_webhook() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("hook.secret");
    std::fs::write(&secret, SECRET).unwrap();
    for (answer, fail_open, status, said) in [
        (
            answer(200, r#"{"allow":true}"#),
            true,
            200,
            json!("allowed"),
        ),
        (answer(500, ""), true, 200, json!("failed_open")),
        (answer(500, ""), false, 503, Value::Null),
        (answer(200, r#"{"allow":false}"#), true, 403, Value::Null),
    ] {
        let asked = StandIn::saying(answer).await;
        let mut settings = no_rules();
        settings.authorisation = Some(AuthorisationSettings {
            hook: HookSettings {
                table: "license.authorisation".to_owned(),
                tls: false,
                authority: asked.authority.clone(),
                path: "/ask".to_owned(),
                secret: SecretSource::file(secret.clone()),
                ca_file: "/none".into(),
                timeout: Duration::from_secs(10),
            },
            cache: Duration::ZERO,
            fail_open,
        });
        let upstreams = Upstreams::open(&[], &CertificateSettings::default()).unwrap();
        let mut rules = None;
        let rig = Rig::of(true, header::AUTHORIZATION, upstreams, &settings, |parts| {
            rules = Some(parts.rules.clone());
        });
        let reply = rig.clear_key("film", &token(|_| ()), &[VIDEO]).await;
        assert_eq!(reply.status, status);
        let record = serde_json::to_value(&rig.decisions.latest(1)[0]).unwrap();
        assert_eq!(record["authorisation"], said);
        let replayed = replay(record.to_string().as_bytes(), &rules.unwrap()).unwrap();
        match status {
            200 => assert!(matches!(replayed, Replayed::Same)),
            _ => assert!(matches!(replayed, Replayed::Apart)),
        }
    }
    let rig = Rig::new();
    rig.clear_key("film", &token(|_| ()), &[VIDEO]).await;
    let record = serde_json::to_value(&rig.decisions.latest(1)[0]).unwrap();
    assert_eq!(record["authorisation"], Value::Null);
}

/// What a revocation, or the keystore, kept back of a licence is no matter of rules: those that decided so before decide so again.
#[tokio::test]
async fn a_key_that_was_withheld_is_recorded_and_is_no_difference_of_rules() {
    let mut settings = no_rules();
    settings.revocations = Some(RevocationSettings {
        interval: Duration::from_secs(3600),
        staleness: Duration::from_secs(3600),
    });
    let upstreams = Upstreams::open(&[], &CertificateSettings::default()).unwrap();
    let (mut sessions, mut rules) = (None, None);
    let rig = Rig::of(true, header::AUTHORIZATION, upstreams, &settings, |parts| {
        sessions = Some(Arc::clone(&parts.sessions));
        rules = Some(parts.rules.clone());
    });
    let revoked = http::Request::post("/api/v1/revocations")
        .header("content-type", "application/json")
        .body(axum::body::Body::from(json!({ "key": VIDEO }).to_string()))
        .unwrap();
    let api = crate::session::api::api(sessions.unwrap(), vec![]);
    let response = tower::ServiceExt::oneshot(api, revoked).await.unwrap();
    assert!(response.status().is_success());
    rig.keystore.destroyed.lock().unwrap().push(VIDEO_NEXT);

    let asked = [VIDEO, AUDIO, VIDEO_NEXT];
    let reply = rig.clear_key("film", &token(|_| ()), &asked).await;
    assert_eq!(key_ids(&reply), [AUDIO.to_base64url()]);
    let record = serde_json::to_value(&rig.decisions.latest(1)[0]).unwrap();
    assert_eq!(record["kids"], json!([AUDIO]));
    assert_eq!(record["withheld"], json!([VIDEO, VIDEO_NEXT]));

    let (line, rules) = (record.to_string(), rules.unwrap());
    assert!(matches!(
        replay(line.as_bytes(), &rules).unwrap(),
        Replayed::Same
    ));
    // Pictures that ask for protected outputs would be a difference, whether they were given or not.
    let pictures = KeyRule {
        hdcp: Hdcp::V1,
        ..KeyRule::default()
    };
    let stricter = Rules {
        policies: BTreeMap::from([(
            "all".to_owned(),
            PolicyRule {
                keys: BTreeMap::from([(Label::Sd, pictures)]),
                ..PolicyRule::default()
            },
        )]),
        default_policy: Some("all".to_owned()),
        ..rules
    };
    let Replayed::Different(difference) = replay(line.as_bytes(), &stricter).unwrap() else {
        panic!("a difference");
    };
    assert_eq!(difference.keys_before, asked);
}
