//! ClearKey licences that are kept, and given up again.

use super::*;

fn asking_to_keep(key_ids: &[KeyId]) -> String {
    let kids: Vec<_> = key_ids.iter().map(KeyId::to_base64url).collect();
    json!({ "kids": kids, "type": "persistent-license" }).to_string()
}

/// What `MediaKeySession.remove()` has a player send.
fn giving_up(key_ids: &[KeyId]) -> String {
    let kids: Vec<_> = key_ids.iter().map(KeyId::to_base64url).collect();
    json!({ "kids": kids }).to_string()
}

const FILM: &str = "/license/clearkey/film";
const RELEASE: &str = "/license/clearkey/film/release";

fn kept(claims: &mut Claims) {
    claims.policy = Some("kept".to_owned());
}

async fn post(rig: &Rig, path: &str, token: &str, body: String) -> Reply {
    rig.call(Method::POST, path, Some(token), body).await
}

fn last(rig: &Rig) -> Value {
    serde_json::to_value(&rig.decisions.latest(1)[0]).unwrap()
}

#[tokio::test]
async fn a_licence_is_kept_and_its_release_acknowledged() {
    let rig = Rig::new();
    let token = token(kept);
    let license = post(&rig, FILM, &token, asking_to_keep(&[AUDIO, VIDEO])).await;
    assert_eq!(license.status, StatusCode::OK);
    assert_eq!(license.json()["type"], "persistent-license");
    let exports = rig.keystore.audit.lock().unwrap().len();

    let body = giving_up(&[AUDIO, VIDEO]);
    // Also where nothing else is done: no key leaves.
    rig.keystore.seal.send_replace(SealState::Sealed);
    for _ in 0..2 {
        let reply = post(&rig, RELEASE, &token, body.clone()).await;
        assert_eq!(reply.status, StatusCode::OK);
        assert_eq!(reply.headers["content-type"], "application/json");
        assert_eq!(reply.headers["cache-control"], "no-store");
        assert_eq!(reply.body, body.as_bytes(), "EME 9.1.6");
    }
    assert_eq!(rig.keystore.audit.lock().unwrap().len(), exports);
    assert_eq!(
        last(&rig),
        json!({
            "number": 3, "time": NOW.as_seconds(), "system": "clearkey", "asset": "film", "kids": [AUDIO, VIDEO],
            "issuer": "test", "subject": "viewer-1", "token_id": "t1", "result": "released",
        })
    );
}

/// The same body asks for a temporary licence at one URL and gives one up at the other.
#[tokio::test]
async fn the_url_tells_a_release_from_a_request() {
    let rig = Rig::new();
    let token = token(kept);
    let asked = post(&rig, FILM, &token, giving_up(&[VIDEO])).await;
    assert_eq!(asked.json()["type"], "temporary");
    let wrong = post(&rig, RELEASE, &token, asking_to_keep(&[VIDEO])).await;
    assert_eq!(
        (wrong.status.as_u16(), &*wrong.kind()),
        (400, "request-malformed")
    );
    assert!(
        wrong.json()["detail"]
            .as_str()
            .unwrap()
            .contains("/release")
    );
    assert_eq!(last(&rig)["result"], "refused");
    let get = rig.call(Method::GET, RELEASE, Some(&token), "").await;
    assert_eq!(get.status, StatusCode::METHOD_NOT_ALLOWED);
    let preflight = rig.call(Method::OPTIONS, RELEASE, None, "").await;
    assert_eq!(preflight.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn only_what_a_token_covers_is_given_up() {
    let rig = Rig::new();
    let film = token(|_| ());
    let one = token(|claims| claims.kids = Some(vec![VIDEO]));
    let reply = post(&rig, RELEASE, &one, giving_up(&[AUDIO, VIDEO])).await;
    assert_eq!(reply.body, giving_up(&[VIDEO]).as_bytes());
    for (path, token, body, reason) in [
        (RELEASE, &one, giving_up(&[AUDIO]), "keys_not_entitled"),
        (
            "/license/clearkey/series/release",
            &film,
            giving_up(&[OTHER]),
            "asset_not_entitled",
        ),
        (RELEASE, &film, String::new(), "request_malformed"),
        (RELEASE, &film, giving_up(&[]), "request_malformed"),
    ] {
        let reply = post(&rig, path, token, body).await;
        assert!(reply.status.is_client_error());
        assert_eq!(rig.last_reason(), reason);
    }
    let nobody = rig
        .call(Method::POST, RELEASE, None, giving_up(&[VIDEO]))
        .await;
    assert_eq!(nobody.status, StatusCode::UNAUTHORIZED);
    assert_eq!(rig.last_reason(), "no_token");
}

#[tokio::test]
async fn a_licence_is_kept_only_by_policy() {
    let rig = Rig::new();
    for (policy, status) in [(None, 403), (Some("cbcs"), 403), (Some("kept"), 200)] {
        let token = token(|claims| claims.policy = policy.map(str::to_owned));
        let reply = post(&rig, FILM, &token, asking_to_keep(&[VIDEO])).await;
        assert_eq!(reply.status, status, "{policy:?}");
    }
}

#[tokio::test]
async fn the_stream_of_a_licence_ends_with_it() {
    let mut settings = no_rules();
    settings.streams = Some(1);
    let upstreams = Upstreams::open(&[], &CertificateSettings::default()).unwrap();
    let rig = Rig::of(true, header::AUTHORIZATION, upstreams, &settings, |_| ());
    let first = token(kept);
    let second = token(|claims| {
        kept(claims);
        claims.jti = Some("t2".to_owned());
    });
    let body = asking_to_keep(&[VIDEO]);
    assert_eq!(
        post(&rig, FILM, &first, body.clone()).await.status,
        StatusCode::OK
    );
    let limited = post(&rig, FILM, &second, body.clone()).await;
    assert_eq!(limited.kind(), "stream-limit");
    // A token without an id names no stream, and gives up its licence all the same.
    let nameless = token(|claims| claims.jti = None);
    let given_up = post(&rig, RELEASE, &nameless, giving_up(&[VIDEO])).await;
    assert_eq!(given_up.status, StatusCode::OK);
    assert_eq!(
        post(&rig, FILM, &second, body.clone()).await.kind(),
        "stream-limit"
    );
    let given_up = post(&rig, RELEASE, &first, giving_up(&[VIDEO])).await;
    assert_eq!(given_up.status, StatusCode::OK);
    assert_eq!(post(&rig, FILM, &second, body).await.status, StatusCode::OK);
}
