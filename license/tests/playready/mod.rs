//! A PlayReady server whose key API is the export of key exchange (`license/design/upstreams.md`).

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use conf::{UpstreamKind, UpstreamPlace, UpstreamSettings};
use license::Clock as _;
use license::entitlement::{
    Algorithm, AssetGrant, Claims, Issuer, SigningKey, VerificationKey, mint,
};
use license::policy::PolicyRule;
use license::policy::terms::{KeyRule, PlayReadyLevel};
use ring::hmac;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

const SHARED: &[u8] = b"a secret of the tests that has more than 32 bytes";

/// A PlayReady server that takes the policy from the grant, and fetches the key as a partner. It gives a licence if both are
/// what was decided.
async fn playready(listener: TcpListener, service: LicenseService) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut came = vec![0; 16 << 10];
    let read = stream.read(&mut came).await.unwrap();
    let came = str::from_utf8(&came[..read]).unwrap();
    let grant = came.lines().find_map(|line| line.strip_prefix("x-grant: "));
    let (signed, tag) = grant.unwrap().rsplit_once('.').unwrap();
    let tag = URL_SAFE_NO_PAD.decode(tag).unwrap();
    let key = hmac::Key::new(hmac::HMAC_SHA256, SHARED);
    hmac::verify(&key, signed.as_bytes(), &tag).unwrap();
    let payload = URL_SAFE_NO_PAD.decode(signed.split_once('.').unwrap().1);
    let grant: serde_json::Value = serde_json::from_slice(&payload.unwrap()).unwrap();
    let granted = &grant["keys"][0];
    assert_eq!(granted["playready_level"], 3000);
    assert_eq!(granted.get("key"), None, "it has them from elsewhere");

    let export = request(Method::GET, "/cpix/film", &[BEARER], "");
    let body = service.call(export).await.into_body();
    let body = body.collect().await.unwrap().to_bytes();
    let mut document = Document::read(&body, &Reading::default()).unwrap();
    (document.decrypt(&recipient("encryptor"), &SystemRandom::new())).unwrap();
    let key = (document.keys.iter()).find(|key| granted["kid"] == key.key_id.to_string());
    assert!(matches!(&key.unwrap().secret, Secret::Clear(key) if key.expose() == &[7; 16]));
    let body = "<s:Envelope xmlns:s=\"x\"><s:Body><License/></s:Body></s:Envelope>";
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await.unwrap();
}

#[tokio::test]
async fn a_playready_server_may_fetch_the_keys_and_take_the_policy_from_the_grant() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let shared = folder.path().join("grant.secret");
    std::fs::write(&shared, SHARED).unwrap();
    let upstream = UpstreamSettings {
        name: "server".to_owned(),
        kind: UpstreamKind::PlayReady,
        systems: vec![conf::System::PlayReady],
        assets: None,
        place: UpstreamPlace::Url {
            tls: false,
            authority: listener.local_addr().unwrap().to_string(),
            path: "/rightsmanager.asmx".to_owned(),
            ca_file: "/none".into(),
            identity: None,
        },
        holds_keys: true,
        provider: None,
        signer: None,
        grant: Some(("x-grant".to_owned(), SecretSource::file(shared))),
        body: conf::UpstreamBody::Raw,
        request: Default::default(),
        two_steps: false,
        timeout: std::time::Duration::from_secs(10),
        in_flight: 1,
        breaker_failures: 1,
        breaker_pause: std::time::Duration::from_secs(60),
    };
    let protected = PolicyRule {
        keys: [(
            Label::Hd,
            KeyRule {
                playready: PlayReadyLevel::Sl3000,
                ..KeyRule::default()
            },
        )]
        .into(),
        ..PolicyRule::default()
    };
    let change = |parts: &mut Parts| {
        let key = VerificationKey::read(Algorithm::Hs256, SHARED).unwrap();
        parts.verifier = Verifier::new(vec![Issuer::new("shop", "ott", "castellum", key)]);
        parts.upstreams = Upstreams::open(&[upstream], &Default::default()).unwrap();
        parts.rules.policies.insert("premium".to_owned(), protected);
        parts.rules.default_policy = Some("premium".to_owned());
    };
    let rig = Rig::of(|_| {}, change).await;
    rig.post("/cpix/film", &[BEARER], &encrypted(1, [7; 16]))
        .await;
    let server = tokio::spawn(playready(listener, rig.service.clone()));

    let until = SystemClock.now().plus(std::time::Duration::from_secs(60));
    let claims = Claims {
        assets: Some(AssetGrant::Only(["film".parse().unwrap()].into())),
        ..Claims::new("ott", "castellum", until)
    };
    let signing = SigningKey::read(Algorithm::Hs256, SHARED).unwrap();
    let bearer = format!("Bearer {}", mint(&claims, None, &signing).unwrap());
    let kid = STANDARD.encode(key_id(1).to_guid());
    let challenge = format!(
        "<s:Envelope xmlns:s=\"x\"><s:Body><WRMHEADER><DATA><KID>{kid}</KID></DATA></WRMHEADER></s:Body></s:Envelope>"
    );
    let headers = [("authorization", bearer.as_str())];
    let reply = rig
        .post("/license/playready/film", &headers, &challenge)
        .await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    server.await.unwrap();
    // The keystore's record of the key is that of the export to the server.
    let latest = serde_json::to_value(rig.decisions.latest(2)).unwrap();
    assert_eq!(latest[0]["upstream"]["name"], "server");
    assert_eq!(latest[1]["system"], "cpix-export");
}
