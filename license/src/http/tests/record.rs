//! What the decision log keeps of a request.

use conf::RevocationSettings;

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
    assert!(matches!(replay(&line, &rules).unwrap(), Replayed::Same));
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
    let Replayed::Different(difference) = replay(&line, &stricter).unwrap() else {
        panic!("a difference");
    };
    assert_eq!(difference.keys_before, asked);
}
