//! What players are told of the rules of sessions.

use std::net::IpAddr;
use std::time::Duration;

use conf::{RateSettings, SessionSettings};
use origin_front::{ConnectionInfo, Protocol};

use super::refusals::{COM_KEY_ID, jwt};
use super::*;
use crate::entitlement::Shape;

fn rig(change: impl FnOnce(&mut SessionSettings)) -> Rig {
    let mut settings = no_rules();
    change(&mut settings);
    let upstreams = Upstreams::open(&[], &CertificateSettings::default()).unwrap();
    Rig::of(true, header::AUTHORIZATION, upstreams, &settings, |_| ())
}

impl Rig {
    async fn from(&self, peer: &str, headers: &[(&'static str, &str)], path: &str) -> Reply {
        let mut request = Request::new(RequestBody::full(asking(&[VIDEO])));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = path.parse().unwrap();
        let bearer = format!("Bearer {}", token(|_| ()));
        let headers = headers.iter().copied();
        for (name, value) in headers.chain([("authorization", bearer.as_str())]) {
            request.headers_mut().append(name, value.parse().unwrap());
        }
        let peer: IpAddr = peer.parse().unwrap();
        request.extensions_mut().insert(ConnectionInfo {
            peer: (peer, 1).into(),
            protocol: Protocol::H1,
            tls: true,
            listener: "license_tls",
        });
        Reply::of(self.service.call(request).await).await
    }

    pub(super) fn exports(&self) -> usize {
        self.keystore.audit.lock().unwrap().len()
    }
}

/// Status, code, and when to come again.
fn told(reply: &Reply) -> (u16, String, Option<&str>) {
    let document: Value = serde_json::from_slice(&reply.body).unwrap();
    let kind = document["code"].as_str().unwrap_or_default().to_owned();
    let retry_after = reply.headers.get("retry-after");
    let retry_after = retry_after.map(|value| value.to_str().unwrap());
    (reply.status.as_u16(), kind, retry_after)
}

const FILM: &str = "/license/clearkey/film";

/// An entitlement message, as Axinom's customers write them: whose streams, and how many, is all in it.
#[tokio::test]
async fn an_entitlement_message_limits_the_streams_of_its_user() {
    let messages = |parts: &mut Parts| {
        let key = VerificationKey::read(Algorithm::Hs256, SECRET).unwrap();
        parts.verifier = Verifier::new(vec![Issuer {
            shape: Shape::Axinom,
            iss: Some(COM_KEY_ID.to_owned()),
            audience: None,
            ..Issuer::new("axinom", "", "", key)
        }]);
    };
    let mut settings = no_rules();
    settings.session_header = Some("x-session-id".to_owned());
    settings.rates.subject = 5;
    let upstreams = Upstreams::open(&[], &CertificateSettings::default()).unwrap();
    let rig = Rig::of(true, header::AUTHORIZATION, upstreams, &settings, messages);
    let ask = async |user: &str, session: &str| {
        let over = json!({
            "license": { "concurrency_interval": 60, "concurrency_grace_period": 30 },
            "license_server": { "access_control": { "concurrency_limit": 1 } },
            "session": { "user_id": user },
        });
        let token = jwt(&format!("message {over}"));
        let mut request = Request::new(RequestBody::full(asking(&[VIDEO])));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = FILM.parse().unwrap();
        let bearer = format!("Bearer {token}");
        for (name, value) in [
            ("authorization", bearer.as_str()),
            ("x-session-id", session),
        ] {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        Reply::of(rig.service.call(request).await).await
    };
    for session in ["tv", "tv"] {
        assert_eq!(ask("ann", session).await.status, StatusCode::OK);
    }
    let limited = (403, "stream-limit".to_owned(), Some("90"));
    assert_eq!(told(&ask("ann", "phone").await), limited);
    assert_eq!(ask("bob", "phone").await.status, StatusCode::OK);
    let audited = rig.keystore.audit.lock().unwrap()[0].entitlement.clone();
    assert_eq!(audited.subject.as_deref(), Some("ann"));
    // What else goes by subjects goes by this one.
    for _ in 0..2 {
        ask("ann", "tv").await;
    }
    assert_eq!(ask("ann", "tv").await.kind(), "too-many-requests");
    assert_eq!(ask("bob", "phone").await.status, StatusCode::OK);
}

#[tokio::test]
async fn streams_are_limited_renewed_and_released() {
    let rig = rig(|settings| {
        settings.streams = Some(1);
        settings.session_header = Some("x-session-id".to_owned());
    });
    let on = async |session, path| {
        let headers = [("x-session-id", session)];
        rig.from("192.0.2.1", &headers, path).await
    };
    assert_eq!(on("tv", FILM).await.status, StatusCode::OK);
    assert_eq!(on("tv", FILM).await.status, StatusCode::OK, "the next key");
    let limited = (403, "stream-limit".to_owned(), Some("150"));
    assert_eq!(told(&on("phone", FILM).await), limited);
    assert_eq!(rig.last_reason(), "stream_limit");
    assert_eq!(rig.exports(), 2, "no key left for the phone");
    let renewed = on("tv", "/license/session/renew/film").await;
    assert_eq!(renewed.status, StatusCode::OK);
    let leased: Value = serde_json::from_slice(&renewed.body).unwrap();
    assert_eq!(leased, json!({"leased": NOW.as_seconds() + 120}));
    let other = on("phone", "/license/session/renew/film").await;
    assert_eq!(told(&other), limited);
    let unnamed = rig.from("192.0.2.1", &[], FILM).await;
    assert_eq!(told(&unnamed), (403, "unnamed".to_owned(), None));
    for _ in 0..2 {
        let released = on("tv", "/license/session/release/film").await;
        assert_eq!(released.status, StatusCode::NO_CONTENT);
    }
    assert_eq!(on("phone", FILM).await.status, StatusCode::OK);
    // Pages of other origins may send it.
    let preflight = rig.call(Method::OPTIONS, FILM, None, "").await;
    let allowed = preflight.headers["access-control-allow-headers"]
        .to_str()
        .unwrap();
    assert!(allowed.contains("x-session-id"), "{allowed}");
    let get = rig.call(Method::GET, "/license/session/renew/film", None, "");
    assert_eq!(get.await.status, StatusCode::METHOD_NOT_ALLOWED);
    let nobody = rig.call(Method::POST, "/license/session/renew/film", None, "");
    assert_eq!(nobody.await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_lost_answer_is_given_again_and_no_other() {
    let rig = rig(|settings| {
        settings.single_use = true;
        settings.retry_window = Duration::from_secs(30);
    });
    let film = token(|_| ());
    let first = rig.clear_key("film", &film, &[VIDEO]).await;
    assert_eq!(first.status, StatusCode::OK);
    let again = rig.clear_key("film", &film, &[VIDEO]).await;
    assert_eq!((again.status, &again.body), (StatusCode::OK, &first.body));
    let used = (403, "token-used".to_owned(), None);
    let audio = rig.clear_key("film", &film, &[AUDIO]).await;
    assert_eq!(told(&audio), used);
    let path = format!("/license/hls/film/{VIDEO}");
    let hls = rig.call(Method::GET, &path, Some(&film), "").await;
    assert_eq!(told(&hls), used);
    assert_eq!(rig.exports(), 2);
}

#[tokio::test]
async fn devices_addresses_and_rates_are_refused_in_their_own_words() {
    let devices = rig(|settings| {
        settings.devices = Some(1);
        settings.device_header = Some("x-device-id".to_owned());
    });
    let on = async |device| {
        let headers = [("x-device-id", device)];
        devices.from("192.0.2.1", &headers, FILM).await
    };
    assert_eq!(on("tv").await.status, StatusCode::OK);
    let limited = (403, "device-limit".to_owned(), None);
    assert_eq!(told(&on("phone").await), limited);

    let somewhere = rig(|settings| {
        settings.access.proxies = vec!["10.0.0.0/8".parse().unwrap()];
        settings.access.address_header = Some("x-forwarded-for".to_owned());
        settings.access.country_header = Some("x-country".to_owned());
        settings.access.deny = vec!["198.51.100.0/24".parse().unwrap()];
        settings.access.denied_countries = vec!["NO".to_owned()];
    });
    let from = async |address, country| {
        let headers = [("x-forwarded-for", address), ("x-country", country)];
        somewhere.from("10.0.0.1", &headers, FILM).await
    };
    assert_eq!(from("192.0.2.1", "SE").await.status, StatusCode::OK);
    let location = (403, "location-not-allowed".to_owned(), None);
    assert_eq!(told(&from("198.51.100.1", "SE").await), location);
    assert_eq!(somewhere.last_reason(), "address_not_allowed");
    assert_eq!(told(&from("192.0.2.1", "NO").await), location);
    assert_eq!(somewhere.last_reason(), "country_not_allowed");

    let rates = rig(|settings| {
        settings.rates = RateSettings {
            address: 1,
            ..RateSettings::default()
        };
    });
    let first = rates.from("192.0.2.1", &[], FILM).await;
    assert_eq!(first.status, StatusCode::OK);
    let second = rates.from("192.0.2.1", &[], FILM).await;
    assert_eq!(
        told(&second),
        (429, "too-many-requests".to_owned(), Some("60"))
    );
    let other = rates.from("192.0.2.2", &[], FILM).await;
    assert_eq!(other.status, StatusCode::OK);
}
