//! What players are told where more is asked for than can be done.

use super::*;
use crate::admission::{Class, Place};

impl Rig {
    /// Takes every place: the keystore of this test is never slow.
    pub(super) async fn fill(&self) -> Vec<Place> {
        let mut places = Vec::new();
        for _ in 0..conf::load(None).unwrap().license.admission.at_once {
            places.push(
                (self.admission)
                    .enter(Duration::ZERO, || Class::Start)
                    .await
                    .unwrap(),
            );
        }
        places
    }
}

#[tokio::test(start_paused = true)]
async fn starts_are_shed_and_unrecorded_while_renewals_are_answered() {
    let rig = Rig::new();
    let playing = token(|_| ());
    let begins = token(|claims| claims.jti = Some("another".to_owned()));
    let first = rig.clear_key("film", &playing, &[VIDEO]).await;
    assert_eq!(first.status, StatusCode::OK);

    let mut places = rig.fill().await;
    let (shed, answered, renewed, ()) = tokio::join!(
        rig.clear_key("film", &begins, &[VIDEO]),
        rig.clear_key("film", &playing, &[AUDIO]),
        rig.call(
            Method::POST,
            "/license/session/renew/film",
            Some(&playing),
            ""
        ),
        // Longer than a start may wait.
        async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            places.pop();
        },
    );
    assert_eq!(shed.status, StatusCode::SERVICE_UNAVAILABLE);
    let problem: Value = serde_json::from_slice(&shed.body).unwrap();
    assert_eq!(problem["type"], "urn:castellum:problem:overloaded");
    assert!(shed.headers.contains_key(header::RETRY_AFTER));
    assert_eq!(answered.status, StatusCode::OK);
    assert_eq!(renewed.status, StatusCode::NO_CONTENT);
    assert_eq!(
        rig.decisions.latest(10).len(),
        2,
        "nothing was decided of the start"
    );

    places.clear();
    let again = rig.clear_key("film", &begins, &[VIDEO]).await;
    assert_eq!(again.status, StatusCode::OK);
}

/// What a URL says, anybody can say, with whatever token.
#[tokio::test(start_paused = true)]
async fn whoever_poses_as_a_renewal_begins() {
    let rig = Rig::new();
    let good = token(|_| ());
    let (parts, _) = good.rsplit_once('.').unwrap();
    let forged = format!("{parts}.{}", "A".repeat(43));
    let _places = rig.fill().await;
    for path in [
        "/license/session/renew/film",
        "/license/session/release/film",
        "/license/clearkey/film/release",
    ] {
        for token in [&forged, "garbage", &good] {
            let shed = rig.call(Method::POST, path, Some(token), "");
            let shed = tokio::time::timeout(Duration::from_secs(5), shed).await;
            let shed = shed.expect("it waits as long as a renewal may");
            let told = (shed.status.as_u16(), shed.kind());
            assert_eq!(told, (503, "overloaded".to_owned()), "{path} {token}");
        }
    }
}

/// Its licence came from another node.
#[tokio::test(start_paused = true)]
async fn whoever_has_renewed_here_renews() {
    let mut settings = no_rules();
    settings.streams = Some(1);
    let upstreams = Upstreams::open(&[], &CertificateSettings::default()).unwrap();
    let rig = Rig::of(true, header::AUTHORIZATION, upstreams, &settings, |_| ());
    let playing = token(|_| ());
    let path = "/license/session/renew/film";
    let renew = || rig.call(Method::POST, path, Some(&playing), "");
    assert_eq!(renew().await.status, StatusCode::OK);
    let mut places = rig.fill().await;
    let (renewed, ()) = tokio::join!(renew(), async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        places.pop();
    });
    assert_eq!(renewed.status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_was_refused_renews_nothing() {
    let rig = Rig::new();
    let playing = token(|_| ());
    let refused = rig.clear_key("film", &playing, &[UNKNOWN]).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    let _places = rig.fill().await;
    let shed = rig.clear_key("film", &playing, &[VIDEO]).await;
    assert_eq!(shed.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_release_for_which_there_is_no_room_is_unrecorded_too() {
    let full = conf::AdmissionSettings {
        at_once: 0,
        queue_time: Duration::from_secs(1),
        starts_waiting: 0,
        renewals_waiting: 0,
    };
    let upstreams = Upstreams::open(&[], &CertificateSettings::default()).unwrap();
    let bearer = header::AUTHORIZATION;
    let rig = Rig::of(true, bearer, upstreams, &no_rules(), |parts| {
        parts.admission = Admission::new(full);
    });
    let body = json!({ "kids": [VIDEO.to_base64url()] }).to_string();
    let path = "/license/clearkey/film/release";
    let reply = rig
        .call(Method::POST, path, Some(&token(|_| ())), body)
        .await;
    let told = (reply.status.as_u16(), reply.kind());
    assert_eq!(told, (503, "overloaded".to_owned()));
    assert_eq!(rig.decisions.latest(10), []);
}
