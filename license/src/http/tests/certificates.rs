//! Certificates, which players fetch before they ask for a licence.

use conf::{CertificateSettings, UpstreamKind};

use super::upstreams::{StandIn, answer, rig, unsigned, widevine};
use super::*;

#[tokio::test]
async fn a_certificate_needs_no_token_and_is_fetched_once() {
    let certificate = b"\x0a\x04cert\x12\x02ok";
    let message = [&[8, 5, 0x12, 10][..], certificate].concat();
    let service = StandIn::saying(widevine(&message)).await;
    let rig = rig(&[service.upstream(UpstreamKind::Widevine)]);
    for _ in 0..3 {
        let path = "/license/widevine/film";
        let reply = rig.call(Method::POST, path, None, &[8, 4][..]).await;
        assert_eq!(
            (reply.status, &reply.body[..]),
            (StatusCode::OK, &message[..])
        );
        let path = "/license/widevine/certificate";
        let reply = rig.call(Method::GET, path, None, "").await;
        assert_eq!(
            (reply.status, &reply.body[..]),
            (StatusCode::OK, &certificate[..])
        );
    }
    assert_eq!(service.asked(), 1);
    let request = unsigned(&service.seen()[0].json());
    assert_eq!(request, json!({ "payload": "CAQ=", "provider": "ott" }));
    assert!(rig.decisions.latest(9).is_empty());
    assert!(rig.keystore.audit.lock().unwrap().is_empty());
    // One byte more, and it is a challenge.
    let reply = rig
        .call(Method::POST, "/license/widevine/film", None, &[8, 4, 0][..])
        .await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_licence_is_not_taken_for_a_certificate() {
    let service = StandIn::saying(widevine(b"\x08\x02\x12\x04keys")).await;
    let rig = rig(&[service.upstream(UpstreamKind::Widevine)]);
    let path = "/license/widevine/certificate";
    let reply = rig.call(Method::GET, path, None, "").await;
    assert_eq!(reply.status, StatusCode::BAD_GATEWAY);
}

#[tokio::test]
async fn strangers_cannot_have_a_broken_service_asked_for_certificates() {
    let service = StandIn::saying(answer(500, "")).await;
    let rig = rig(&[service.upstream(UpstreamKind::Widevine)]);
    for _ in 0..5 {
        let reply = rig
            .call(Method::GET, "/license/widevine/certificate", None, "")
            .await;
        assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    }
    assert_eq!(service.asked(), 1);
}

#[tokio::test]
async fn fairplay_certificates_are_by_asset_or_the_one_of_all_others() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| {
        std::fs::write(folder.path().join(name), name).unwrap();
        folder.path().join(name)
    };
    let certificates = CertificateSettings {
        widevine: None,
        fairplay: Some(file("old")),
        fairplay_assets: BTreeMap::from([("film".to_owned(), file("new"))]),
    };
    let rig = Rig::with_upstreams(&[], &certificates);
    for (path, expected) in [
        ("/license/fairplay/certificate", Some("old")),
        ("/license/fairplay/certificate/film", Some("new")),
        ("/license/fairplay/certificate/series", Some("old")),
        ("/license/widevine/certificate", None),
        ("/license/fairplay/film", None),
    ] {
        let reply = rig.call(Method::GET, path, None, "").await;
        match expected {
            Some(certificate) => assert_eq!(
                (reply.status, &*reply.body),
                (StatusCode::OK, certificate.as_bytes())
            ),
            None => assert_eq!(reply.status, StatusCode::NOT_FOUND, "{path}"),
        }
    }
    let reply = rig
        .call(Method::POST, "/license/fairplay/certificate", None, "")
        .await;
    assert_eq!(reply.status, StatusCode::METHOD_NOT_ALLOWED);
}
