//! Key exchange through the licence server's service and without sockets, over a keystore in memory: each version of
//! SPEKE, documents in and out, and whoever is refused.
//!
//! What these cannot catch: what TLS makes of a client's certificate, and what the origin makes of the keys
//! (`packaging/tests/exchange.rs`).

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

#[path = "../../keystore/cpix/tests/key_server/mod.rs"]
mod key_server;
mod playready;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use conf::{
    ExchangeCallerSettings, ExchangeRecipient, ExchangeRight, ExchangeSettings, SecretSource,
};
use cpix::delivery::{Certificate, RecipientKey as _, RsaRecipient};
use cpix::speke::{Headers, Order, OrderedKey, SpekeVersion, Supply, Usage};
use cpix::{Document, EncryptionScheme, Key, Reading, Secret, SystemId, Version};
use http::{HeaderMap, Method, StatusCode, header};
use http_body_util::BodyExt as _;
use key_server::Payloads;
use keystore::capability::{Assets, Caller, Capability, Grant};
use keystore::{Local, testing};
use keystore_client::exchange::{HandOverRequest, Partner};
use keystore_client::{Keystore, LeaseRequest};
use keystore_types::{
    ConstantIv, ContentKey, Generation, KeyContext, KeyId, Label, SUBSAMPLE_RULE, Scheme,
};
use license::admission::Admission;
use license::decision_log::DecisionLog;
use license::entitlement::Verifier;
use license::exchange::Exchange;
use license::policy::Rules;
use license::session::Sessions;
use license::upstream::Upstreams;
use license::{KeyBook, LicenseService, Parts, SystemClock};
use origin_front::{ClientCertificate, Request, RequestBody, Service as _};
use ring::rand::SystemRandom;
use tempfile::TempDir;

const SECRET: &str = "a secret of the tests";

/// A licence server with one partner, `encryptor`, which is granted `film` and `other`.
struct Rig {
    service: LicenseService,
    local: Local,
    decisions: Arc<DecisionLog>,
    _folder: TempDir,
}

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Reply {
    fn text(&self) -> &str {
        str::from_utf8(&self.body).unwrap()
    }
}

fn recipient_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../keystore/cpix/tests/recipients")
        .join(name)
}

fn recipient(name: &str) -> RsaRecipient {
    let read = |end: &str| std::fs::read_to_string(recipient_file(&format!("{name}.{end}")));
    let certificate = Certificate::from_pem(&read("pem").unwrap()).unwrap();
    RsaRecipient::from_pem(certificate, &read("key").unwrap()).unwrap()
}

impl Rig {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(bend: impl FnOnce(&mut ExchangeCallerSettings)) -> Self {
        Self::of(bend, |_| {}).await
    }

    async fn of(
        bend: impl FnOnce(&mut ExchangeCallerSettings),
        change: impl FnOnce(&mut Parts),
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("encryptor.secret");
        std::fs::write(&secret, format!("{SECRET}\n")).unwrap();
        let mut caller = ExchangeCallerSettings {
            key_cipher: conf::KeyCipher::AesCbc,
            may: vec![
                ExchangeRight::Speke,
                ExchangeRight::Export,
                ExchangeRight::Import,
            ],
            assets: vec!["film".to_owned(), "other".to_owned()],
            certificates: vec![recipient_file("encryptor.pem")],
            secret: Some(SecretSource::file(secret)),
            recipients: vec![recipient_file("encryptor.pem")],
            danger_clear: false,
            danger_unenrolled: false,
        };
        bend(&mut caller);
        let settings = ExchangeSettings {
            body_bytes: 64 << 10,
            recipient: Some(ExchangeRecipient {
                certificate: recipient_file("stranger.pem"),
                key: SecretSource::file(recipient_file("stranger.key")),
            }),
            callers: [("encryptor".to_owned(), caller)].into(),
            vendors: [].into(),
        };
        let local = testing::unsealed().await.unwrap();
        let keystore = licence_role(&local);
        let decisions = Arc::new(DecisionLog::in_memory());
        let exchange = Exchange::open(
            &settings,
            license::exchange::Parts {
                signals: Arc::new(Payloads),
                keystore: Arc::clone(&keystore),
                decisions: Arc::clone(&decisions),
                clock: Arc::new(SystemClock),
                tenant: "default".to_owned(),
            },
        );
        let rules = conf::load(None).unwrap().license;
        let sessions =
            Sessions::open(&rules.sessions, folder.path(), Arc::new(SystemClock)).unwrap();
        let mut parts = Parts {
            keys: KeyBook::new(keystore.clone()),
            verifier: Verifier::new(vec![]),
            rules: Rules::default(),
            keystore,
            decisions: Arc::clone(&decisions),
            clock: Arc::new(SystemClock),
            token_header: header::AUTHORIZATION,
            token_query: None,
            sessions: Arc::new(sessions),
            admission: Admission::new(rules.admission),
            body_bytes: 4096,
            upstreams: Upstreams::open(&[], &conf::CertificateSettings::default()).unwrap(),
            exchange: Some(Arc::new(exchange.unwrap())),
        };
        change(&mut parts);
        Self {
            service: LicenseService::new(parts),
            local,
            decisions,
            _folder: folder,
        }
    }

    async fn send(&self, request: Request) -> Reply {
        let (head, body) = self.service.call(request).await.into_parts();
        Reply {
            status: head.status,
            headers: head.headers,
            body: body.collect().await.unwrap().to_bytes(),
        }
    }

    async fn post(&self, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        self.send(request(Method::POST, path, headers, body)).await
    }

    /// The answer to an order of the partner, who shows its secret.
    async fn order(&self, order: &Order<'_>) -> Reply {
        let asked = order.request().unwrap();
        let bearer = format!("Bearer {SECRET}");
        let mut headers = vec![("authorization", bearer.as_str())];
        headers.extend(asked.headers.iter().map(|(name, value)| (*name, *value)));
        self.post(order.version.path(), &headers, &asked.body).await
    }

    fn last_reason(&self) -> String {
        let entry = serde_json::to_value(&self.decisions.latest(1)[0]).unwrap();
        entry["reason"].as_str().unwrap_or("granted").to_owned()
    }

    /// The keystore's key of this id.
    async fn kept(&self, key_id: KeyId) -> [u8; 16] {
        let request = HandOverRequest {
            tenant: "default".to_owned(),
            asset: "film".parse().unwrap(),
            scheme: None,
            partner: Partner {
                name: "tests".to_owned(),
                protocol: "none".to_owned(),
                recipients: vec![],
            },
        };
        let handed = licence_role(&self.local).hand_over(request).await.unwrap();
        let key = handed.keys.iter().find(|key| key.key_id == key_id).unwrap();
        *key.key.expose()
    }
}

fn licence_role(local: &Local) -> Arc<dyn Keystore> {
    let grant = |capability| Grant {
        capability,
        tenant: "default".to_owned(),
        assets: Assets::All,
    };
    let grants = [
        Capability::Export,
        Capability::Exchange,
        Capability::Deposit,
    ]
    .map(grant);
    local.handle(Caller::new("license", grants.into()))
}

fn request(method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Request {
    let mut request = Request::new(RequestBody::full(body.to_owned()));
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().unwrap();
    for (name, value) in headers {
        let name = http::HeaderName::try_from(*name).unwrap();
        request.headers_mut().append(name, value.parse().unwrap());
    }
    request
}

fn key_id(number: u8) -> KeyId {
    KeyId::new([number; 16])
}

fn order(version: SpekeVersion, usages: &[Usage]) -> Order<'static> {
    let key = |(number, usage): (u8, &Usage)| OrderedKey {
        key_id: key_id(number),
        scheme: EncryptionScheme::Cbcs,
        explicit_iv: None,
        usage: usage.clone(),
        period: None,
    };
    Order {
        version,
        content_id: "film".to_owned(),
        keys: (1..).zip(usages).map(key).collect(),
        systems: vec![SystemId::WIDEVINE, SystemId::PLAYREADY, SystemId::FAIRPLAY],
        recipient: None,
    }
}

fn accept(order: &Order<'_>, reply: &Reply) -> Supply {
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    let field = |name: &str| reply.headers.get(name).map(|value| value.to_str().unwrap());
    let headers = Headers {
        content_type: field("content-type"),
        speke_version: field("x-speke-version"),
    };
    let random = SystemRandom::new();
    order
        .accept(&headers, &reply.body, &Reading::default(), &random)
        .unwrap()
}

const BEARER: (&str, &str) = ("authorization", "Bearer a secret of the tests");

#[tokio::test]
async fn each_version_gives_the_keystores_keys_encrypted_and_twice_the_same() {
    for version in [SpekeVersion::V1_0, SpekeVersion::V2_0, SpekeVersion::V2_1] {
        let rig = Rig::new().await;
        let encryptor = recipient("encryptor");
        let usages = match version {
            SpekeVersion::V1_0 => vec![Usage::all()],
            SpekeVersion::V2_0 | SpekeVersion::V2_1 => Label::ALL.map(Usage::of_label).to_vec(),
        };
        let order = Order {
            recipient: Some(&encryptor),
            ..order(version, &usages)
        };
        let reply = rig.order(&order).await;
        assert_eq!(reply.headers[header::CACHE_CONTROL], "no-store");
        assert!(!reply.text().contains("PlainValue"));
        let first = accept(&order, &reply);
        let again = accept(&order, &rig.order(&order).await);
        assert_eq!(first.keys.len(), usages.len());
        for (one, other) in first.keys.iter().zip(&again.keys) {
            assert_eq!(one.key.expose(), other.key.expose(), "{version}");
            assert_eq!(one.explicit_iv, other.explicit_iv);
            assert_eq!(*one.key.expose(), rig.kept(one.key_id).await, "{version}");
        }
        assert_eq!(rig.last_reason(), "granted");
        let entry = serde_json::to_value(&rig.decisions.latest(1)[0]).unwrap();
        assert_eq!(
            (&entry["partner"], &entry["asset"]),
            (&"encryptor".into(), &"film".into())
        );
    }
}

#[tokio::test]
async fn more_keys_than_the_keystore_gives_at_once_are_given_too() {
    let rig = Rig::with(|caller| caller.danger_clear = true).await;
    let mut order = order(SpekeVersion::V2_0, &[]);
    order.systems.clear();
    order.systems.push(SystemId::FAIRPLAY);
    for number in 0..70_u8 {
        order.keys.push(OrderedKey {
            key_id: key_id(number + 1),
            scheme: EncryptionScheme::Cbcs,
            explicit_iv: None,
            usage: Usage::of_label(Label::Audio),
            period: Some(cpix::Period {
                id: Some(format!("period-{number}")),
                index: Some(u32::from(number)),
                ..cpix::Period::default()
            }),
        });
    }
    let supply = accept(&order, &rig.order(&order).await);
    let keys: std::collections::BTreeSet<_> =
        supply.keys.iter().map(|key| *key.key.expose()).collect();
    assert_eq!(keys.len(), 70);
}

#[tokio::test]
async fn without_credentials_nothing_is_said_but_that_they_are_needed() {
    let rig = Rig::new().await;
    let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
    let other_name = basic(&format!("somebody:{SECRET}"));
    let wrong = basic("encryptor:a secret of the test");
    for headers in [
        &[][..],
        &[("authorization", "Bearer a secret of the test")],
        &[("authorization", other_name.as_str())],
        &[("authorization", wrong.as_str())],
        &[("authorization", "Basic !")],
        &[BEARER, BEARER],
    ] {
        for path in ["/speke/v1.0", "/speke/v2.0", "/cpix/film"] {
            let reply = rig.post(path, headers, "no document").await;
            assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{headers:?}");
            assert_eq!(
                reply
                    .headers
                    .get_all(header::WWW_AUTHENTICATE)
                    .iter()
                    .count(),
                2
            );
            assert!(!reply.text().contains("document"), "{}", reply.text());
            assert_eq!(rig.last_reason(), "partner_unknown");
        }
    }
    let right = basic(&format!("encryptor:{SECRET}"));
    let reply = rig
        .post("/speke/v2.0", &[("authorization", &right)], "no document")
        .await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_client_certificate_is_known_byte_for_byte() {
    let rig = Rig::with(|caller| caller.secret = None).await;
    let with = |name: &str| {
        let certificate = recipient(name);
        let mut request = request(Method::GET, "/cpix/film", &[], "");
        let shown = ClientCertificate::new(certificate.certificate().der());
        request.extensions_mut().insert(shown);
        request
    };
    assert_eq!(
        rig.send(with("encryptor")).await.status,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        rig.send(with("stranger")).await.status,
        StatusCode::UNAUTHORIZED
    );
    // A secret that is wrong is not made good by a certificate.
    let mut both = with("encryptor");
    let (name, value) = BEARER;
    both.headers_mut().insert(name, value.parse().unwrap());
    assert_eq!(rig.send(both).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn what_is_not_granted_is_refused_and_logged() {
    let rig = Rig::with(|caller| {
        caller.may = vec![ExchangeRight::Speke];
        caller.assets = vec!["other".to_owned()];
    })
    .await;
    let reply = rig.order(&order(SpekeVersion::V2_0, &[Usage::all()])).await;
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
    assert!(
        reply
            .text()
            .contains("encryptor is not granted the asset film")
    );
    let entry = serde_json::to_value(&rig.decisions.latest(1)[0]).unwrap();
    assert_eq!(
        (&entry["asset"], &entry["reason"]),
        (&"film".into(), &"not_granted".into())
    );
    for method in [Method::GET, Method::POST] {
        let reply = rig
            .send(request(method, "/cpix/other", &[BEARER], ""))
            .await;
        assert_eq!(reply.status, StatusCode::FORBIDDEN, "{}", reply.text());
    }
    let mut strange = order(SpekeVersion::V2_0, &[Usage::all()]);
    strange.content_id = "a b".to_owned();
    let reply = rig.order(&strange).await;
    assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn a_certificate_that_merely_comes_is_no_recipient_until_that_is_switched_on() {
    let stranger = recipient("stranger");
    let order = Order {
        recipient: Some(&stranger),
        ..order(SpekeVersion::V2_0, &[Usage::all()])
    };
    let rig = Rig::new().await;
    let reply = rig.order(&order).await;
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
    assert!(reply.text().contains("is not enrolled"), "{}", reply.text());
    assert_eq!(rig.last_reason(), "recipient_not_enrolled");
    let rig = Rig::with(|caller| caller.danger_unenrolled = true).await;
    accept(&order, &rig.order(&order).await);
}

#[tokio::test]
async fn keys_leave_in_the_clear_only_where_that_is_switched_on() {
    let order = order(SpekeVersion::V2_0, &[Usage::all()]);
    let rig = Rig::new().await;
    assert_eq!(rig.order(&order).await.status, StatusCode::FORBIDDEN);
    let rig = Rig::with(|caller| {
        caller.danger_clear = true;
        caller.recipients.clear();
    })
    .await;
    accept(&order, &rig.order(&order).await);
    let reply = rig
        .send(request(Method::GET, "/cpix/film", &[BEARER], ""))
        .await;
    assert!(reply.text().contains("PlainValue"), "{}", reply.text());
}

#[tokio::test]
async fn a_broken_contract_is_answered_with_its_place() {
    let rig = Rig::new().await;
    let asked = order(SpekeVersion::V2_0, &[Usage::all()])
        .request()
        .unwrap();
    let broken = asked.body.replace(" intendedTrackType=\"ALL\"", "");
    assert_ne!(broken, asked.body);
    let headers = [BEARER, ("x-speke-version", "2.0")];
    let reply = rig.post("/speke/v2.0", &headers, &broken).await;
    assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(
        reply.headers[header::CONTENT_TYPE],
        "text/plain; charset=utf-8"
    );
    let place = "/CPIX/ContentKeyUsageRuleList[1]/ContentKeyUsageRule[1]/@intendedTrackType (line ";
    assert!(reply.text().starts_with(place), "{}", reply.text());
    assert_eq!(rig.last_reason(), "contract_broken");

    let reply = rig.post("/speke/v1.0", &headers, &asked.body).await;
    assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(
        reply.text().contains("answered at /speke/v2.0"),
        "{}",
        reply.text()
    );
    let headers = [BEARER, ("x-speke-version", "3.0")];
    let reply = rig.post("/speke/v2.0", &headers, &asked.body).await;
    assert_eq!(reply.text(), "Unsupported SPEKE version\n");
}

#[tokio::test]
async fn what_is_too_long_and_other_methods_are_refused() {
    let rig = Rig::new().await;
    let long = "x".repeat((64 << 10) + 1);
    let reply = rig.post("/speke/v2.0", &[BEARER], &long).await;
    assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE);
    for (method, path, allow) in [
        (Method::GET, "/speke/v2.0", "POST"),
        (Method::OPTIONS, "/speke/v1.0", "POST"),
        (Method::DELETE, "/cpix/film", "GET, HEAD, POST"),
    ] {
        let reply = rig.send(request(method, path, &[BEARER], "")).await;
        assert_eq!(reply.status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
        assert_eq!(reply.headers[header::ALLOW], allow);
        assert!(
            !reply
                .headers
                .contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN)
        );
    }
}

#[tokio::test]
async fn while_sealed_it_is_503() {
    let rig = Rig::with(|caller| caller.danger_clear = true).await;
    testing::operator(&rig.local).seal().await.unwrap();
    let reply = rig.order(&order(SpekeVersion::V2_0, &[Usage::all()])).await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(reply.headers.contains_key(header::RETRY_AFTER));
    assert_eq!(rig.last_reason(), "sealed");
}

/// A document of a partner's key for the HD tracks of `film`.
fn document(number: u8, key: [u8; 16]) -> Document {
    let mut document = Document::new(Version::V2_3);
    document.content_id = Some("film".to_owned());
    document.keys.push(Key {
        scheme: Some(EncryptionScheme::Cbcs),
        explicit_iv: Some(ConstantIv::new([9; 16])),
        secret: Secret::Clear(ContentKey::take(&mut { key })),
        ..Key::new(key_id(number))
    });
    let usage = Usage::of_label(Label::Hd);
    document.rules.push(cpix::usage::UsageRule {
        key_id: key_id(number),
        intended_track_type: Some(usage.intended_track_type),
        filters: usage.filters,
    });
    document
}

fn encrypted(number: u8, key: [u8; 16]) -> String {
    let mut document = document(number, key);
    let server = recipient("stranger");
    let recipients = [server.certificate()];
    document
        .encrypt(
            &recipients,
            cpix::delivery::KeyCipher::AesKw,
            &SystemRandom::new(),
        )
        .unwrap();
    document.to_xml().unwrap().to_string()
}

#[tokio::test]
async fn an_imported_key_is_what_the_origin_leases_and_is_never_replaced() {
    let rig = Rig::new().await;
    for _ in 0..2 {
        let reply = rig
            .post("/cpix/film", &[BEARER], &encrypted(1, [7; 16]))
            .await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
        assert!(
            reply
                .text()
                .starts_with(&format!("{} hd cbcs: ", key_id(1))),
            "{}",
            reply.text()
        );
    }
    let context = KeyContext {
        tenant: "default".to_owned(),
        asset: "film".parse().unwrap(),
        label: Label::Hd,
        scheme: Scheme::Cbcs,
        subsample_rule: SUBSAMPLE_RULE,
        generation: Generation {
            sources: [1; 32],
            number: 0,
        },
    };
    let request = LeaseRequest {
        contexts: vec![context],
    };
    let leased = testing::origin(&rig.local).lease(request).await.unwrap();
    let key = &leased.keys[0];
    assert_eq!((key.key_id, key.iv), (key_id(1), ConstantIv::new([9; 16])));
    assert_eq!(key.key.expose(), &[7; 16]);

    for body in [encrypted(1, [8; 16]), encrypted(2, [7; 16])] {
        let reply = rig.post("/cpix/film", &[BEARER], &body).await;
        assert_eq!(reply.status, StatusCode::CONFLICT, "{}", reply.text());
    }
    let reply = rig
        .post("/cpix/other", &[BEARER], &encrypted(1, [7; 16]))
        .await;
    assert_eq!(
        reply.status,
        StatusCode::UNPROCESSABLE_ENTITY,
        "{}",
        reply.text()
    );
}

#[tokio::test]
async fn keys_come_in_the_clear_only_where_that_is_switched_on() {
    let clear = document(1, [7; 16]).export_clear();
    let rig = Rig::new().await;
    let reply = rig.post("/cpix/film", &[BEARER], &clear).await;
    assert_eq!(reply.status, StatusCode::FORBIDDEN, "{}", reply.text());
    let rig = Rig::with(|caller| caller.danger_clear = true).await;
    let reply = rig.post("/cpix/film", &[BEARER], &clear).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    assert_eq!(rig.kept(key_id(1)).await, [7; 16]);
    // A document that names keys and holds none brings nothing.
    let mut empty = document(2, [7; 16]);
    empty.keys[0].secret = Secret::Absent;
    let reply = rig
        .post(
            "/cpix/other",
            &[BEARER],
            &empty.export_clear().replace("film", "other"),
        )
        .await;
    assert_eq!(
        reply.status,
        StatusCode::UNPROCESSABLE_ENTITY,
        "{}",
        reply.text()
    );
}

#[tokio::test]
async fn an_export_opens_with_the_enrolled_key_and_says_which_tracks() {
    let rig = Rig::new().await;
    rig.post("/cpix/film", &[BEARER], &encrypted(1, [7; 16]))
        .await;
    let get = |path: &str| request(Method::GET, path, &[BEARER], "");
    let reply = rig.send(get("/cpix/film")).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    assert!(!reply.text().contains("PlainValue"));
    let mut document = Document::read(&reply.body, &Reading::default()).unwrap();
    assert_eq!(document.rules[0].intended_track_type.as_deref(), Some("HD"));
    (document.decrypt(&recipient("encryptor"), &SystemRandom::new())).unwrap();
    assert!(matches!(&document.keys[0].secret, Secret::Clear(key) if key.expose() == &[7; 16]));

    assert_eq!(
        rig.send(get("/cpix/film?scheme=cenc")).await.status,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        rig.send(get("/cpix/film?scheme=cbcs")).await.status,
        StatusCode::OK
    );
    let reply = rig.send(get("/cpix/film?all")).await;
    assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(
        rig.send(get("/cpix/other")).await.status,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn weak_secrets_and_shared_proofs_stop_the_start() {
    let open = |secrets: [&str; 2]| {
        let folder = tempfile::tempdir().unwrap();
        let caller = |(number, secret): (usize, &str)| {
            let path = folder.path().join(number.to_string());
            std::fs::write(&path, secret).unwrap();
            let caller = ExchangeCallerSettings {
                key_cipher: conf::KeyCipher::AesCbc,
                may: vec![ExchangeRight::Import],
                assets: vec!["*".to_owned()],
                certificates: vec![],
                secret: Some(SecretSource::file(path)),
                recipients: vec![],
                danger_clear: false,
                danger_unenrolled: false,
            };
            (format!("partner-{number}"), caller)
        };
        let settings = ExchangeSettings {
            body_bytes: 1 << 16,
            recipient: None,
            callers: secrets.into_iter().enumerate().map(caller).collect(),
            vendors: [].into(),
        };
        async move {
            let parts = license::exchange::Parts {
                signals: Arc::new(Payloads),
                keystore: licence_role(&testing::unsealed().await.unwrap()),
                decisions: Arc::new(DecisionLog::in_memory()),
                clock: Arc::new(SystemClock),
                tenant: "default".to_owned(),
            };
            let opened = Exchange::open(&settings, parts);
            drop(folder);
            opened.err().map(|error| error.to_string())
        }
    };
    let weak = open([SECRET, "hunter2"]).await.unwrap();
    assert!(
        weak.contains("less than 16 bytes") && !weak.contains("hunter2"),
        "{weak}"
    );
    let shared = open([SECRET, SECRET]).await.unwrap();
    assert!(
        shared.contains("cannot be told apart") && !shared.contains(SECRET),
        "{shared}"
    );
    assert_eq!(open([SECRET, "another secret of the tests"]).await, None);
}
