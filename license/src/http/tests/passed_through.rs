//! Members that this server does not know: those that a service asks for go along with every request, and those that it answers
//! stand in the record.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use conf::{UpstreamBody, UpstreamKind, UpstreamSettings};

use super::upstreams::{StandIn, answer, rig, unsigned};
use super::*;

const CHALLENGE: &[u8] = b"\x08\x01challenge";

/// An upstream whose settings add this to requests.
fn adding(
    stand_in: &StandIn,
    kind: UpstreamKind,
    body: UpstreamBody,
    more: &str,
) -> UpstreamSettings {
    let of_kind = match kind {
        UpstreamKind::Widevine => {
            "kind = \"widevine\"\nprovider = \"me\"\nsigner = \"me\"\nsigning_key_file = \"/key\""
        }
        _ => "kind = \"vendor\"\nsystems = [\"widevine\"]\nbody = \"json\"",
    };
    let file = format!(
        "[license.upstreams.service]\nurl = \"https://license.example.com\"\nholds_keys = true\n{of_kind}\n\
         [license.upstreams.service.request]\n{more}\n"
    );
    let written = conf::parse("castellum.toml", &file).unwrap();
    UpstreamSettings {
        body,
        request: written.license.upstreams[0].request.clone(),
        ..stand_in.upstream(kind)
    }
}

async fn ask(rig: &Rig) -> Reply {
    let path = format!("/license/widevine/film?kid={VIDEO}");
    let token = token(|_| ());
    rig.call(Method::POST, &path, Some(&token), CHALLENGE).await
}

#[tokio::test]
async fn a_widevine_service_gets_what_it_asks_for_besides() {
    let message = [&[8, 5, 0x12, 10][..], b"\x0a\x04cert\x12\x02ok"].concat();
    let reply = json!({ "status": "OK", "license": STANDARD.encode(message) });
    let service = StandIn::saying(answer(200, reply.to_string())).await;
    let more = "policy_name = \"default\"\nsession_init = { deep = [1, true] }\n\
                policy_overrides = { renew_with_usage = true }";
    let kind = UpstreamKind::Widevine;
    let rig = rig(&[adding(&service, kind, UpstreamBody::Raw, more)]);
    assert_eq!(ask(&rig).await.status, StatusCode::OK);
    let certificate = rig.call(Method::GET, "/license/widevine/certificate", None, "");
    assert_eq!(certificate.await.status, StatusCode::OK);
    let [challenge, certificate] = [0, 1].map(|at| unsigned(&service.seen()[at].json()));
    for request in [&challenge, &certificate] {
        assert_eq!(request["policy_name"], "default");
        assert_eq!(request["session_init"], json!({ "deep": [1, true] }));
    }
    let overrides = &challenge["policy_overrides"];
    assert_eq!(overrides["renew_with_usage"], true);
    assert_eq!(overrides["can_play"], true);
    assert_eq!(challenge["content_key_specs"].as_array().unwrap().len(), 1);
    assert_eq!(certificate.get("policy_overrides"), None);
}

#[tokio::test]
async fn a_vendor_in_json_gets_what_it_asks_for_besides() {
    let service = StandIn::saying(answer(200, r#"{"license":"AAEC","plan":"gold"}"#)).await;
    let kind = UpstreamKind::Vendor;
    let rig = rig(&[adding(&service, kind, UpstreamBody::Json, "site = \"se\"")]);
    assert_eq!(ask(&rig).await.status, StatusCode::OK);
    let request = service.seen()[0].json();
    assert_eq!(request["site"], "se");
    assert_eq!(request["challenge"], STANDARD.encode(CHALLENGE));
    let record = serde_json::to_value(&rig.decisions.latest(1)[0]).unwrap();
    let word = json!({ "name": "stand-in", "said": { "plan": "gold" } });
    assert_eq!(record["upstream"], word);
}

#[tokio::test]
async fn what_a_service_says_besides_is_recorded_without_the_keys() {
    let key = STANDARD.encode(key_of(VIDEO));
    let status = |status: &str| {
        let reply = json!({
            "status": status, "license": STANDARD.encode("a licence"), "make": "Maker",
            "security_level": 1, "echo": [{ "key": key }], "of_the_future": { "nested": true },
        });
        answer(200, reply.to_string())
    };
    let said = json!({
        "make": "Maker", "security_level": 1, "echo": [{ "key": "(24 bytes)" }],
        "of_the_future": { "nested": true },
    });
    let service = StandIn::saying(status("OK")).await;
    let granting = rig(&[service.upstream(UpstreamKind::Widevine)]);
    let reply = ask(&granting).await;
    assert_eq!(
        (reply.status, &*reply.body),
        (StatusCode::OK, &b"a licence"[..])
    );
    let record = serde_json::to_value(&granting.decisions.latest(1)[0]).unwrap();
    assert_eq!(
        record["upstream"],
        json!({ "name": "stand-in", "said": said })
    );
    assert!(!record.to_string().contains(&key), "{record}");

    // The player is told no more than that it is refused.
    let service = StandIn::saying(status("DEVICE_REVOKED")).await;
    let refusing = rig(&[service.upstream(UpstreamKind::Widevine)]);
    let reply = ask(&refusing).await;
    assert_eq!(reply.kind(), "challenge-refused");
    assert!(!String::from_utf8_lossy(&reply.body).contains("Maker"));
    let record = serde_json::to_value(&refusing.decisions.latest(1)[0]).unwrap();
    let detail = record["detail"].as_str().unwrap();
    assert!(
        detail.contains("DEVICE_REVOKED") && detail.contains(&said.to_string()),
        "{detail}"
    );
    assert!(!detail.contains(&key), "{detail}");
}
