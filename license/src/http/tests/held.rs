//! Services that have the content keys themselves.

use conf::UpstreamKind;

use super::upstreams::{StandIn, base64_id, post, rig, unsigned, widevine};
use super::*;

#[tokio::test]
async fn where_the_service_has_the_keys_none_is_sent_and_the_keystore_has_its_say() {
    let service = StandIn::saying(widevine(b"a licence")).await;
    let upstream = UpstreamSettings {
        holds_keys: true,
        ..service.upstream(UpstreamKind::Widevine)
    };
    let rig = rig(&[upstream]);
    let path = format!("/license/widevine/film?kid={AUDIO}&kid={VIDEO}");
    let reply = post(&rig, &path, "x").await;
    assert_eq!(reply.status, StatusCode::OK);
    let sent = |index: usize| {
        let request = unsigned(&service.seen()[index].json());
        let specs = request["content_key_specs"].as_array().unwrap().clone();
        for spec in &specs {
            assert_eq!((spec.get("key"), spec.get("iv")), (None, None));
        }
        let ids = specs.iter().map(|spec| spec["key_id"].clone());
        ids.collect::<Vec<_>>()
    };
    assert_eq!(sent(0), [base64_id(AUDIO), base64_id(VIDEO)]);
    {
        let audit = rig.keystore.audit.lock().unwrap();
        assert_eq!(audit.len(), 1, "it is recorded by whoever has the keys");
        assert_eq!(audit[0].key_ids, [AUDIO, VIDEO]);
        assert_eq!(audit[0].entitlement.system, "widevine");
    }
    // The server knows the key by now; the keystore is asked all the same.
    rig.keystore.destroyed.lock().unwrap().push(VIDEO);
    assert_eq!(post(&rig, &path, "x").await.status, StatusCode::OK);
    assert_eq!(sent(1), [base64_id(AUDIO)]);
    let record = serde_json::to_value(&rig.decisions.latest(1)[0]).unwrap();
    assert_eq!(record["kids"], json!([AUDIO]));
    let alone = format!("/license/widevine/film?kid={VIDEO}");
    assert_eq!(post(&rig, &alone, "x").await.kind(), "not-entitled");
    rig.keystore.audit_full.store(true, Ordering::Relaxed);
    assert_eq!(post(&rig, &path, "x").await.kind(), "audit-unavailable");
    rig.keystore.seal.send_replace(SealState::Sealed);
    assert_eq!(post(&rig, &path, "x").await.kind(), "sealed");
    assert_eq!(service.asked(), 2, "nobody is asked for what may not be");
}
