//! Keys that are rotated: those of several periods in one licence, so that a player asks once and not at each change.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use conf::UpstreamKind;

use super::upstreams::{StandIn, answer, base64_id, granted, rig, unsigned, unwrapped, widevine};
use super::*;

const PERIODS: [KeyId; 2] = [VIDEO, VIDEO_NEXT];

/// A token that is good for these periods, and a later one without the first.
fn tokens() -> [String; 2] {
    [&PERIODS[..], &PERIODS[1..]]
        .map(|periods| token(|claims| claims.kids = Some(periods.to_vec())))
}

#[tokio::test]
async fn clear_key_gives_the_periods_that_are_asked_for_and_entitled() {
    let rig = Rig::new();
    let [both, later] = tokens();
    assert_eq!(
        key_ids(&rig.clear_key("film", &both, &PERIODS).await).len(),
        2
    );
    let reply = rig.clear_key("film", &later, &PERIODS).await;
    assert_eq!(key_ids(&reply), [VIDEO_NEXT.to_base64url()]);
    let reply = rig.clear_key("film", &later, &[VIDEO]).await;
    assert_eq!(reply.kind(), "not-entitled");
}

#[tokio::test]
async fn a_challenge_that_names_no_key_gets_the_periods_of_its_token() {
    let service = StandIn::saying(widevine(b"a licence")).await;
    let rig = rig(&[service.upstream(UpstreamKind::Widevine)]);
    let path = "/license/widevine/film";
    for (token, periods) in tokens().iter().zip([&PERIODS[..], &PERIODS[1..]]) {
        let challenge = &b"\x08\x01challenge"[..];
        let reply = rig.call(Method::POST, path, Some(token), challenge).await;
        assert_eq!(reply.status, StatusCode::OK);
        let request = unsigned(&service.seen().last().unwrap().json());
        let specs = request["content_key_specs"].as_array().unwrap();
        assert_eq!(specs.len(), periods.len());
        for (spec, key_id) in specs.iter().zip(periods) {
            assert_eq!(spec["key_id"], base64_id(*key_id));
            assert_eq!(spec["key"], STANDARD.encode(key_of(*key_id)));
        }
    }
}

#[tokio::test]
async fn a_playready_header_with_several_keys_gets_them_all() {
    let reply = "<s:Envelope xmlns:s=\"x\"><s:Body><License/></s:Body></s:Envelope>";
    let server = StandIn::saying(answer(200, reply)).await;
    let rig = rig(&[server.upstream(UpstreamKind::PlayReady)]);
    let kids = PERIODS.map(|key_id| {
        let kid = STANDARD.encode(key_id.to_guid());
        format!("<KID ALGID=\"AESCBC\" VALUE=\"{kid}\"></KID>")
    });
    let challenge = format!(
        "<?xml version=\"1.0\"?><soap:Envelope xmlns:soap=\"x\"><soap:Body><AcquireLicense><WRMHEADER version=\"4.3.0.0\">\
         <DATA><PROTECTINFO><KIDS>{}</KIDS></PROTECTINFO></DATA></WRMHEADER></AcquireLicense></soap:Body></soap:Envelope>",
        kids.concat()
    );
    let [both, later] = tokens();
    for (token, periods) in [(both, &PERIODS[..]), (later, &PERIODS[1..])] {
        let body = challenge.clone();
        let path = "/license/playready/film";
        let reply = rig.call(Method::POST, path, Some(&token), body).await;
        assert_eq!(reply.status, StatusCode::OK);
        let grant = granted(server.seen().last().unwrap(), challenge.as_bytes());
        let keys = grant["keys"].as_array().unwrap();
        assert_eq!(keys.len(), periods.len());
        for (entry, key_id) in keys.iter().zip(periods) {
            assert_eq!(entry["kid"], json!(key_id));
            assert_eq!(unwrapped(entry), key_of(*key_id));
        }
    }
}
