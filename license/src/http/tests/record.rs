//! What the decision log keeps of a request.

use super::*;

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
