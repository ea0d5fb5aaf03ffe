//! Challenges of licensed systems, forwarded to stand-ins that check what the public documents state and misbehave on
//! demand. What these cannot catch: whether a real service takes the requests, and whether a device plays. No device is
//! imitated: payloads are arbitrary bytes.

use std::time::Duration;

use aes::Aes256;
use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockModeDecrypt as _, KeyInit as _, KeyIvInit as _};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use conf::{SecretSource, UpstreamBody, UpstreamKind, UpstreamPlace, UpstreamSettings};
use ring::{digest, hkdf, hmac};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

const SIGNING_KEY: [u8; 32] = [0x41; 32];
const SIGNING_IV: [u8; 16] = [0x42; 16];
const GRANT_SECRET: &[u8] = b"a secret of the tests that has more than 32 bytes";

/// How long a service is waited for that never answers.
pub(super) const BRIEF: Duration = Duration::from_secs(1);

/// How long anything else is waited for, on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What came to a stand-in.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

impl Seen {
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(it, _)| *it == name).map(|(_, value)| value)
    }
}

/// A service that answers as it is told; what it is told to say nothing to hangs.
pub(super) struct StandIn {
    pub(super) authority: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl StandIn {
    pub(super) async fn new(answer: impl Fn(&Seen) -> Option<Vec<u8>> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&seen);
        tokio::spawn(async move {
            let mut hanging = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let request = asked(&mut stream).await;
                let said = answer(&request);
                noted.lock().unwrap().push(request);
                match said {
                    Some(bytes) => drop(stream.write_all(&bytes).await),
                    None => hanging.push(stream),
                }
            }
        });
        Self { authority, seen }
    }

    pub(super) async fn saying(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self::new(move |_| Some(bytes.clone())).await
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(super) fn asked(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    pub(super) fn upstream(&self, kind: UpstreamKind) -> UpstreamSettings {
        use conf::System::{FairPlay, PlayReady, Widevine};
        let folder = tempfile::tempdir().unwrap().keep();
        let file = |name: &str, text: &[u8]| {
            std::fs::write(folder.join(name), text).unwrap();
            SecretSource::file(folder.join(name))
        };
        let systems = match kind {
            UpstreamKind::Widevine => vec![Widevine],
            UpstreamKind::PlayReady => vec![PlayReady],
            UpstreamKind::FairPlay => vec![FairPlay],
            UpstreamKind::Vendor => vec![Widevine, PlayReady, FairPlay],
        };
        let hex = |bytes: &[u8]| {
            bytes
                .iter()
                .map(|it| format!("{it:02x}"))
                .collect::<String>()
        };
        let signing = format!("{}\n{}\n", hex(&SIGNING_KEY), hex(&SIGNING_IV));
        let grants = matches!(kind, UpstreamKind::PlayReady | UpstreamKind::Vendor);
        UpstreamSettings {
            name: "stand-in".to_owned(),
            kind,
            systems,
            assets: None,
            place: UpstreamPlace::Url {
                tls: false,
                authority: self.authority.clone(),
                path: "/license".to_owned(),
                ca_file: "/nowhere".into(),
                identity: None,
            },
            holds_keys: false,
            provider: Some("ott".to_owned()),
            signer: (kind == UpstreamKind::Widevine)
                .then(|| ("me".to_owned(), file("signing", signing.as_bytes()))),
            grant: grants.then(|| ("x-grant".to_owned(), file("secret", GRANT_SECRET))),
            body: UpstreamBody::Raw,
            request: Default::default(),
            two_steps: false,
            timeout: PATIENCE,
            in_flight: 4,
            breaker_failures: 3,
            breaker_pause: Duration::from_secs(60),
        }
    }
}

/// The request that comes on a connection.
pub(super) async fn asked(stream: &mut (impl AsyncRead + Unpin)) -> Seen {
    let mut came = Vec::new();
    loop {
        if let Some(seen) = whole(&came) {
            return seen;
        }
        let read = stream.read_buf(&mut came).await.unwrap();
        assert!(read > 0, "the request broke off");
    }
}

fn whole(came: &[u8]) -> Option<Seen> {
    let text = String::from_utf8_lossy(came);
    let (head, _) = text.split_once("\r\n\r\n")?;
    let len = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |len| len.parse().unwrap());
    let body = came.get(head.len() + 4..head.len() + 4 + len)?.to_vec();
    let head = head.to_owned();
    Some(Seen { head, body })
}

pub(super) fn answer(status: u16, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

pub(super) fn widevine(license: &[u8]) -> Vec<u8> {
    let reply = json!({
        "status": "OK",
        "license": STANDARD.encode(license),
        "make": "Maker",
        "of_the_future": { "nested": [1, 2] },
    });
    answer(200, reply.to_string())
}

pub(super) fn rig(upstreams: &[UpstreamSettings]) -> Rig {
    Rig::with_upstreams(upstreams, &CertificateSettings::default())
}

pub(super) async fn post(rig: &Rig, path: &str, body: impl Into<Bytes>) -> Reply {
    rig.call(Method::POST, path, Some(&token(|_| ())), body)
        .await
}

/// The request in a Widevine envelope, its signature checked.
pub(super) fn unsigned(envelope: &Value) -> Value {
    let field = |name: &str| STANDARD.decode(envelope[name].as_str().unwrap()).unwrap();
    assert_eq!(envelope["signer"], "me");
    let request = field("request");
    let mut signature = field("signature");
    let cipher = cbc::Decryptor::<Aes256>::new((&SIGNING_KEY).into(), (&SIGNING_IV).into());
    let digest = cipher.decrypt_padded::<Pkcs7>(&mut signature).unwrap();
    let expected = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &request);
    assert_eq!(digest, expected.as_ref());
    serde_json::from_slice(&request).unwrap()
}

/// The payload of a grant, its tag checked, and bound to this challenge.
pub(super) fn granted(seen: &Seen, challenge: &[u8]) -> Value {
    let grant = seen.header("x-grant").unwrap();
    let (signed, tag) = grant.rsplit_once('.').unwrap();
    let key = hmac::Key::new(hmac::HMAC_SHA256, GRANT_SECRET);
    let tag = URL_SAFE_NO_PAD.decode(tag).unwrap();
    hmac::verify(&key, signed.as_bytes(), &tag).unwrap();
    let (_, payload) = signed.split_once('.').unwrap();
    let payload: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
    let digest = digest::digest(&digest::SHA256, challenge);
    assert_eq!(payload["challenge"], URL_SAFE_NO_PAD.encode(digest));
    assert_eq!(payload["exp"], NOW.as_seconds() + 60);
    payload
}

/// A key of a grant, unwrapped.
pub(super) fn unwrapped(entry: &Value) -> [u8; 16] {
    let mut kek = [0; 32];
    let derived = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(GRANT_SECRET);
    let info: &[&[u8]] = &[b"castellum grant keys"];
    (derived.expand(info, hkdf::HKDF_SHA256).unwrap())
        .fill(&mut kek)
        .unwrap();
    let wrapped = URL_SAFE_NO_PAD
        .decode(entry["key"].as_str().unwrap())
        .unwrap();
    let mut key = [0; 16];
    let kek = aes_kw::KwAes256::new((&kek).into());
    kek.unwrap_key(&wrapped, &mut key).unwrap();
    key
}

pub(super) fn base64_id(key_id: KeyId) -> String {
    STANDARD.encode(key_id.as_bytes())
}

#[tokio::test]
async fn widevine_gets_a_signed_request_with_the_keys_of_the_grant() {
    let service = StandIn::saying(widevine(b"a licence")).await;
    let rig = rig(&[service.upstream(UpstreamKind::Widevine)]);
    let path = format!("/license/widevine/film?kid={AUDIO}&kid={VIDEO}&kid={OTHER}");
    let reply = post(&rig, &path, &b"\x08\x01challenge"[..]).await;
    assert_eq!(
        (reply.status, &reply.body[..]),
        (StatusCode::OK, &b"a licence"[..])
    );
    assert_eq!(reply.headers["content-type"], "application/octet-stream");
    assert_eq!(reply.headers["cache-control"], "no-store");
    assert_eq!(rig.last_reason(), "granted");

    let request = unsigned(&service.seen()[0].json());
    assert_eq!(request["payload"], STANDARD.encode(b"\x08\x01challenge"));
    assert_eq!(request["provider"], "ott");
    assert_eq!(request["content_id"], STANDARD.encode("film"));
    assert_eq!(request["allowed_track_types"], "SD_ONLY");
    assert_eq!(request["policy_overrides"]["can_play"], true);
    assert_eq!(request["policy_overrides"]["can_persist"], false);
    let specs = request["content_key_specs"].as_array().unwrap();
    // The key of another asset is not there.
    assert_eq!(specs.len(), 2);
    for (spec, key_id) in specs.iter().zip([AUDIO, VIDEO]) {
        assert_eq!(spec["key_id"], base64_id(key_id));
        assert_eq!(spec["key"], STANDARD.encode(key_of(key_id)));
        assert_eq!(spec["security_level"], 1);
        assert_eq!(spec["required_output_protection"]["hdcp"], "HDCP_NONE");
    }
    let audit = rig.keystore.audit.lock().unwrap();
    assert_eq!(
        (audit.len(), audit[0].entitlement.system.as_str()),
        (1, "widevine")
    );
}

#[tokio::test]
async fn a_lying_service_is_a_bounded_refusal_and_the_next_one_is_asked() {
    let status = |status: &str| answer(200, json!({ "status": status }).to_string());
    let long = answer(200, vec![b'x'; 300 << 10]);
    for (said, code, reason) in [
        (Some(answer(500, "oh")), 503, "upstream_unavailable"),
        (None, 503, "upstream_unavailable"),
        (
            Some(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhi".to_vec()),
            503,
            "upstream_unavailable",
        ),
        (Some(Vec::new()), 503, "upstream_unavailable"),
        (Some(status("INTERNAL_ERROR")), 503, "upstream_unavailable"),
        (
            Some(b"\x00garbage\r\n\r\n".to_vec()),
            503,
            "upstream_unavailable",
        ),
        (Some(answer(200, "garbage")), 502, "upstream_unfit"),
        (Some(answer(200, "[]")), 502, "upstream_unfit"),
        (Some(status("OK")), 502, "upstream_unfit"),
        (
            Some(answer(200, r#"{"status":"OK","license":"!"}"#)),
            502,
            "upstream_unfit",
        ),
        (
            Some(answer(200, r#"{"license":"AAAA"}"#)),
            502,
            "upstream_unfit",
        ),
        (Some(long), 502, "upstream_unfit"),
        (Some(answer(302, "")), 502, "upstream_unfit"),
        (Some(answer(401, "")), 502, "upstream_unfit"),
    ] {
        let shown = format!("{:.60?}", said.as_deref().map(String::from_utf8_lossy));
        let timeout = if said.is_none() { BRIEF } else { PATIENCE };
        let liar = StandIn::new(move |_| said.clone()).await;
        let upstream = UpstreamSettings {
            timeout,
            ..liar.upstream(UpstreamKind::Widevine)
        };
        let alone = rig(std::slice::from_ref(&upstream));
        let path = format!("/license/widevine/film?kid={VIDEO}");
        let reply = tokio::time::timeout(PATIENCE / 2, post(&alone, &path, "x")).await;
        let reply = reply.expect("it is waited for in vain");
        assert_eq!(reply.status.as_u16(), code, "{shown}");
        assert_eq!(alone.last_reason(), reason, "{shown}");
        assert_eq!(reply.headers["content-type"], "application/problem+json");

        let honest = StandIn::saying(widevine(b"a licence")).await;
        let both = rig(&[upstream, honest.upstream(UpstreamKind::Widevine)]);
        let reply = post(&both, &path, "x").await;
        assert_eq!(reply.status, StatusCode::OK, "{shown}");
    }
}

#[tokio::test]
async fn a_refusal_of_the_challenge_is_final_and_no_failure() {
    let refusing = StandIn::saying(answer(200, r#"{"status":"DEVICE_REVOKED"}"#)).await;
    let other = StandIn::saying(widevine(b"a licence")).await;
    let rig = rig(&[
        refusing.upstream(UpstreamKind::Widevine),
        other.upstream(UpstreamKind::Widevine),
    ]);
    // More often than the breaker has patience.
    for _ in 0..5 {
        let reply = post(&rig, &format!("/license/widevine/film?kid={VIDEO}"), "x").await;
        assert_eq!(
            (reply.status, &*reply.kind()),
            (StatusCode::FORBIDDEN, "challenge-refused")
        );
        assert_eq!(rig.last_reason(), "upstream_refused");
    }
    assert_eq!((refusing.asked(), other.asked()), (5, 0));
}

#[tokio::test]
async fn what_fails_is_left_alone_and_holds_up_no_other_system() {
    let broken = StandIn::new(|_| None).await;
    let module = StandIn::saying(answer(
        200,
        json!({ "ckc": STANDARD.encode(ckc()) }).to_string(),
    ))
    .await;
    let of = |timeout| {
        let broken = UpstreamSettings {
            timeout,
            ..broken.upstream(UpstreamKind::Widevine)
        };
        rig(&[broken, module.upstream(UpstreamKind::FairPlay)])
    };
    let [widevine, fairplay] =
        ["widevine", "fairplay"].map(|system| format!("/license/{system}/film?kid={VIDEO}"));
    let brief = of(BRIEF);
    for _ in 0..5 {
        let reply = post(&brief, &widevine, "x").await;
        assert_eq!(reply.kind(), "license-service-unavailable");
        let reply = post(&brief, &fairplay, spc()).await;
        assert_eq!(reply.status, StatusCode::OK);
    }
    assert_eq!(broken.asked(), 3, "then the breaker is open");

    let patient = of(Duration::from_secs(600));
    let meanwhile = async {
        while broken.asked() < 4 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        post(&patient, &fairplay, spc()).await
    };
    tokio::select! {
        reply = post(&patient, &widevine, "x") => panic!("{reply:?}"),
        reply = meanwhile => assert_eq!(reply.status, StatusCode::OK),
    }
}

const SOAP: &str = "<?xml version=\"1.0\"?>\n<soap:Envelope xmlns:soap=\"x\"><soap:Body><AcquireLicense><WRMHEADER>\
    <DATA><KID>KID1</KID></DATA></WRMHEADER></AcquireLicense></soap:Body></soap:Envelope>\n";

pub(super) fn soap(key_id: KeyId) -> String {
    SOAP.replace("KID1", &STANDARD.encode(key_id.to_guid()))
}

#[tokio::test]
async fn playready_gets_the_message_as_it_came_and_a_grant_for_it() {
    const REPLY: &str = "<s:Envelope xmlns:s=\"x\"><s:Body><License/></s:Body></s:Envelope>";
    let server = StandIn::saying(answer(200, REPLY)).await;
    let rig = rig(&[server.upstream(UpstreamKind::PlayReady)]);
    // The message names the key, whatever the URL says.
    let path = format!("/license/playready/film?kid={AUDIO}");
    let reply = post(&rig, &path, soap(VIDEO)).await;
    assert_eq!(
        (reply.status, &*reply.body),
        (StatusCode::OK, REPLY.as_bytes())
    );
    assert_eq!(reply.headers["content-type"], "text/xml; charset=utf-8");

    let seen = &server.seen()[0];
    assert_eq!(seen.body, soap(VIDEO).as_bytes());
    assert!(
        seen.header("soapaction")
            .unwrap()
            .ends_with("/AcquireLicense\"")
    );
    let grant = granted(seen, soap(VIDEO).as_bytes());
    assert_eq!(
        (&grant["system"], &grant["asset"]),
        (&json!("playready"), &json!("film"))
    );
    let keys = grant["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 1);
    assert_eq!(keys[0]["kid"], json!(VIDEO));
    assert_eq!(unwrapped(&keys[0]), key_of(VIDEO));
    assert_eq!(keys[0]["playready_level"], 150);
    assert!(!seen.head.contains(&STANDARD.encode(key_of(VIDEO))));
}

#[tokio::test]
async fn a_playready_challenge_must_name_its_keys_and_a_fault_is_a_refusal() {
    let fault = "<s:Envelope xmlns:s=\"x\"><s:Body><s:Fault/></s:Body></s:Envelope>";
    let server = StandIn::saying(answer(500, fault)).await;
    let rig = rig(&[server.upstream(UpstreamKind::PlayReady)]);
    for _ in 0..4 {
        let reply = post(&rig, "/license/playready/film", soap(VIDEO)).await;
        assert_eq!(reply.kind(), "challenge-refused");
    }
    for body in [
        "",
        "<a/>",
        "<!DOCTYPE a><a/>",
        &SOAP.replace("KID1", "AAAA"),
    ] {
        let reply = post(&rig, "/license/playready/film", body.to_owned()).await;
        assert_eq!(reply.kind(), "request-malformed", "{body}");
        assert_eq!(rig.last_reason(), "challenge_malformed");
    }
    assert_eq!(server.asked(), 4);
}

#[tokio::test]
async fn a_playready_answer_that_is_no_message_is_no_licence() {
    let garbage = StandIn::saying(answer(200, "<html>")).await;
    let astray = rig(&[garbage.upstream(UpstreamKind::PlayReady)]);
    let reply = post(&astray, "/license/playready/film", soap(VIDEO)).await;
    assert_eq!(reply.kind(), "license-service-failed");
}

pub(super) fn spc() -> Vec<u8> {
    [&[0, 0, 0, 1][..], &[0xab; 60]].concat()
}

pub(super) fn ckc() -> Vec<u8> {
    [&[0, 0, 0, 1][..], &[0; 20], &[0, 0, 0, 8], &[0xcd; 8]].concat()
}

#[tokio::test]
async fn a_fairplay_module_gets_the_spc_and_one_key_and_players_their_shape() {
    let module = StandIn::saying(answer(
        200,
        json!({ "ckc": STANDARD.encode(ckc()) }).to_string(),
    ))
    .await;
    let rig = rig(&[module.upstream(UpstreamKind::FairPlay)]);
    let path = format!("/license/fairplay/film?kid={VIDEO}");
    let (spc64, ckc64) = (STANDARD.encode(spc()), STANDARD.encode(ckc()));
    for (body, expected) in [
        (spc(), ckc()),
        (spc64.clone().into(), ckc64.clone().into()),
        (
            format!("spc={spc64}&assetId=x").into(),
            format!("<ckc>{ckc64}</ckc>").into(),
        ),
        (
            json!({ "spc": spc64 }).to_string().into(),
            json!({ "ckc": ckc64 }).to_string().into(),
        ),
    ] {
        let reply = post(&rig, &path, body).await;
        assert_eq!(
            (reply.status, reply.body.to_vec()),
            (StatusCode::OK, expected)
        );
    }
    for seen in module.seen() {
        let request = seen.json();
        assert_eq!(
            (&request["version"], &request["ask"]),
            (&json!(1), &json!("license"))
        );
        assert_eq!(request["spc"], spc64);
        assert_eq!(
            (&request["asset"], &request["key_id"]),
            (&json!("film"), &json!(VIDEO))
        );
        assert_eq!(request["key"], STANDARD.encode(key_of(VIDEO)));
        assert_eq!(request["iv"], STANDARD.encode([0; 16]));
        assert_eq!(
            request["policy"],
            json!({ "hdcp": "none", "persistent": false })
        );
    }
    let two = format!("{path}&kid={AUDIO}");
    assert_eq!(post(&rig, &two, spc()).await.kind(), "challenge-refused");
    assert_eq!(
        post(&rig, &path, "no spc").await.kind(),
        "request-malformed"
    );
}

#[tokio::test]
async fn a_fairplay_module_may_name_the_key_first() {
    let module = StandIn::new(|seen| {
        let reply = match seen.json()["ask"].as_str().unwrap() {
            "asset" => json!({ "asset": format!("skd://{VIDEO}") }),
            _ => json!({ "ckc": STANDARD.encode(ckc()) }),
        };
        Some(answer(200, reply.to_string()))
    })
    .await;
    let upstream = UpstreamSettings {
        two_steps: true,
        ..module.upstream(UpstreamKind::FairPlay)
    };
    let rig = rig(&[upstream]);
    let reply = post(&rig, "/license/fairplay/film", spc()).await;
    assert_eq!(reply.status, StatusCode::OK);
    let seen = module.seen();
    assert_eq!(
        seen[0].json(),
        json!({ "version": 1, "ask": "asset", "spc": STANDARD.encode(spc()) })
    );
    assert_eq!(seen[1].json()["key_id"], json!(VIDEO));
    // The key that it names is granted or refused as any other.
    let one = token(|claims| claims.kids = Some(vec![AUDIO]));
    let reply = rig
        .call(Method::POST, "/license/fairplay/film", Some(&one), spc())
        .await;
    assert_eq!(reply.kind(), "not-entitled");
    assert_eq!(module.asked(), 3);
}

#[tokio::test]
async fn a_ckc_of_another_length_than_it_says_is_none() {
    let mut cut = ckc();
    cut.pop();
    let module = StandIn::saying(answer(
        200,
        json!({ "ckc": STANDARD.encode(cut) }).to_string(),
    ))
    .await;
    let rig = rig(&[module.upstream(UpstreamKind::FairPlay)]);
    let reply = post(&rig, &format!("/license/fairplay/film?kid={VIDEO}"), spc()).await;
    assert_eq!(
        (reply.status.as_u16(), &*reply.kind()),
        (502, "license-service-failed")
    );
}

#[tokio::test]
async fn a_vendor_gets_the_challenge_raw_or_in_json_and_the_grant() {
    let service = StandIn::new(|seen| {
        let json = seen.header("content-type") == Some("application/json");
        let body = if json {
            r#"{"license":"AAEC"}"#
        } else {
            "raw licence"
        };
        Some(answer(200, body))
    })
    .await;
    let raw = service.upstream(UpstreamKind::Vendor);
    let in_json = UpstreamSettings {
        body: UpstreamBody::Json,
        signer: service.upstream(UpstreamKind::Widevine).signer,
        ..raw.clone()
    };
    let path = format!("/license/widevine/film?kid={VIDEO}");
    let reply = post(&rig(&[raw]), &path, "challenge").await;
    assert_eq!(
        (reply.status, &reply.body[..]),
        (StatusCode::OK, &b"raw licence"[..])
    );
    let seen = &service.seen()[0];
    assert_eq!(seen.body, b"challenge");
    assert_eq!(
        unwrapped(&granted(seen, b"challenge")["keys"][0]),
        key_of(VIDEO)
    );

    let rig = rig(&[in_json]);
    let reply = post(&rig, &path, "challenge").await;
    assert_eq!(
        (reply.status, &reply.body[..]),
        (StatusCode::OK, &[0, 1, 2][..])
    );
    let seen = &service.seen()[1];
    granted(seen, b"challenge");
    let request = unsigned(&seen.json());
    assert_eq!(request["challenge"], STANDARD.encode("challenge"));
    assert_eq!(
        (&request["system"], &request["asset"]),
        (&json!("widevine"), &json!("film"))
    );
    assert_eq!(request["keys"][0]["kid"], json!(VIDEO));
    // What a player wrapped around an SPC stays here.
    let body = json!({ "spc": STANDARD.encode(spc()) }).to_string();
    let reply = post(&rig, &format!("/license/fairplay/film?kid={VIDEO}"), body).await;
    assert_eq!(reply.json(), json!({ "ckc": "AAEC" }));
    let seen = &service.seen()[2];
    granted(seen, &spc());
    assert_eq!(unsigned(&seen.json())["challenge"], STANDARD.encode(spc()));
}

#[tokio::test]
async fn no_key_and_no_token_is_in_what_is_recorded() {
    let service = StandIn::saying(answer(200, "garbage")).await;
    let rig = rig(&[service.upstream(UpstreamKind::Widevine)]);
    let token = token(|_| ());
    let path = format!("/license/widevine/film?kid={VIDEO}");
    let reply = rig.call(Method::POST, &path, Some(&token), "x").await;
    let record = serde_json::to_string(&rig.decisions.latest(1)[0]).unwrap();
    for text in [record.as_str(), &String::from_utf8_lossy(&reply.body)] {
        assert!(!text.contains(&token), "{text}");
        assert!(!text.contains(&STANDARD.encode(key_of(VIDEO))), "{text}");
    }
    assert!(record.contains("stand-in"), "{record}");
    assert!(!String::from_utf8_lossy(&reply.body).contains("stand-in"));
}

#[tokio::test]
async fn one_policy_is_kept_in_every_system() {
    let services = [
        StandIn::saying(widevine(b"a licence")).await,
        StandIn::saying(answer(
            200,
            "<s:Envelope xmlns:s=\"x\"><s:Body/></s:Envelope>",
        ))
        .await,
    ];
    let rig = rig(&[
        services[0].upstream(UpstreamKind::Widevine),
        services[1].upstream(UpstreamKind::PlayReady),
    ]);
    let premium = token(|claims| claims.policy = Some("premium".to_owned()));
    let ask = async |path: &str, body: &[u8]| {
        let body = Bytes::copy_from_slice(body);
        rig.call(Method::POST, path, Some(&premium), body).await
    };

    let path = format!("/license/widevine/film?kid={AUDIO}&kid={VIDEO}");
    assert_eq!(ask(&path, b"\x08\x01").await.status, StatusCode::OK);
    let request = unsigned(&services[0].seen()[0].json());
    assert_eq!(
        request["policy_overrides"]["license_duration_seconds"],
        3600
    );
    let specs = request["content_key_specs"].as_array().unwrap();
    let asked = |spec: &Value| {
        let hdcp = spec["required_output_protection"]["hdcp"].clone();
        (spec["security_level"].clone(), hdcp)
    };
    assert_eq!(asked(&specs[0]), (json!(1), json!("HDCP_NONE")), "sound");
    assert_eq!(asked(&specs[1]), (json!(5), json!("HDCP_V2_2")), "pictures");

    let challenge = soap(VIDEO);
    let reply = ask("/license/playready/film", challenge.as_bytes()).await;
    assert_eq!(reply.status, StatusCode::OK);
    let grant = granted(&services[1].seen()[0], challenge.as_bytes());
    assert_eq!(grant["keys"][0]["playready_level"], 3000);
    assert_eq!(grant["keys"][0]["hdcp"], "2.2");

    // ClearKey can promise nothing: the sound is given, and of the pictures it is recorded why not.
    let reply = rig.clear_key("film", &premium, &[AUDIO, VIDEO]).await;
    assert_eq!(key_ids(&reply).len(), 1);
    let record = serde_json::to_value(&rig.decisions.latest(1)[0]).unwrap();
    let left_out = json!([{ "key_id": VIDEO, "why": "outputs" }]);
    assert_eq!(record["left_out"], left_out);
    let reply = rig.clear_key("film", &premium, &[VIDEO]).await;
    assert_eq!(
        (reply.status.as_u16(), reply.kind()),
        (403, "not-entitled".into())
    );
    assert_eq!(rig.last_reason(), "rules_unmet");
}

#[tokio::test]
async fn a_playready_challenge_may_carry_the_token() {
    let server = StandIn::saying(answer(
        200,
        "<s:Envelope xmlns:s=\"x\"><s:Body/></s:Envelope>",
    ));
    let rig = rig(&[server.await.upstream(UpstreamKind::PlayReady)]);
    let film = token(|_| ());
    let custom = format!("<CustomData>{film}</CustomData></AcquireLicense>");
    let body = soap(VIDEO).replace("</AcquireLicense>", &custom);
    let path = "/license/playready/film";
    let reply = rig.call(Method::POST, path, None, body.clone()).await;
    assert_eq!(reply.status, StatusCode::OK);
    let reply = rig.call(Method::POST, path, Some(&film), body).await;
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
    assert_eq!(rig.last_reason(), "token_ambiguous");
    let reply = rig.call(Method::POST, path, None, soap(VIDEO)).await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
}
