//! Keys from another vendor's key server on loopback: what it gives is leased by the origin, with a record each, and
//! nothing is kept of what is not exactly what was ordered.
//!
//! What these cannot catch: what other vendors' key servers make of an order.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

#[path = "../../keystore/cpix/tests/key_server/mod.rs"]
mod key_server;

mod authority;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use authority::Authority;
use conf::{
    ExchangeRecipient, ExchangeSettings, PackScheme, SecretSource, System, TrackLabel,
    VendorProtocol, VendorSettings,
};
use cpix::delivery::Certificate;
use key_server::{Payloads, key_of};
use keystore::capability::{Assets, Caller, Capability, Grant};
use keystore::{Local, testing};
use keystore_client::exchange::{AskedKey, ExchangeRequest, HandOverRequest, KeyUsage, Partner};
use keystore_client::{Keystore, LeaseRequest, LeasedKey};
use keystore_types::{Generation, KeyContext, KeyId, Label, SUBSAMPLE_RULE, Scheme};
use license::SystemClock;
use license::decision_log::DecisionLog;
use license::exchange::vendor::{FetchError, Fetched, FetchedKey, Vendors};
use rcgen::ExtendedKeyUsagePurpose;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tempfile::TempDir;

const SECRET: &str = "a secret of the tests";

/// A key server: each request, head and document, and the bytes that answer it; none: no answer, and no end.
struct KeyServer {
    port: u16,
    heads: Arc<Mutex<Vec<String>>>,
}

type Behaviour = dyn Fn(&str, &str) -> Option<Vec<u8>> + Send + Sync;

impl KeyServer {
    fn start(tls: Option<Arc<ServerConfig>>, behaviour: Box<Behaviour>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&heads);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                stream
                    .set_read_timeout(Some(Duration::from_secs(20)))
                    .unwrap();
                match &tls {
                    Some(config) => {
                        let connection = ServerConnection::new(Arc::clone(config)).unwrap();
                        answer(StreamOwned::new(connection, stream), &*behaviour, &seen);
                    }
                    None => answer(stream, &*behaviour, &seen),
                }
            }
        });
        Self { port, heads }
    }

    /// One that knows the product's own half of SPEKE, and encrypts to the certificate of the tests.
    fn sound() -> Self {
        Self::start(None, Box::new(|head, body| Some(sound(head, body))))
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

/// A peer that goes away in the middle is a test's intent, or its client's complaint.
fn answer(mut stream: impl Read + Write, behaviour: &Behaviour, seen: &Mutex<Vec<String>>) {
    let mut text = Vec::new();
    let (head, body) = loop {
        let mut bytes = [0; 4096];
        match stream.read(&mut bytes) {
            Ok(len @ 1..) => text.extend(&bytes[..len]),
            _ => return,
        }
        let so_far = String::from_utf8(text.clone()).unwrap();
        if let Some((head, body)) = so_far.split_once("\r\n\r\n") {
            let length = field(head, "content-length").and_then(|it| it.parse().ok());
            if length.is_some_and(|length| body.len() >= length) {
                break (head.to_owned(), body.to_owned());
            }
        }
    };
    seen.lock().unwrap().push(head.clone());
    match behaviour(&head, &body) {
        Some(bytes) => {
            let _ = stream.write_all(&bytes).and_then(|()| stream.flush());
        }
        // Until the client has gone.
        None => while stream.read(&mut [0; 64]).is_ok_and(|len| len > 0) {},
    }
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let fields = head.lines().filter_map(|line| line.split_once(": "));
    let mut values = fields.filter(|(it, _)| it.eq_ignore_ascii_case(name));
    values.next().map(|(_, value)| value)
}

fn http(status: &str, content_type: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\r\n{body}")
        .into_bytes()
}

/// What the appliance is as a recipient of keys.
fn recipient_file(end: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../keystore/cpix/tests/recipients/stranger")
        .with_extension(end)
}

fn own_certificate() -> Certificate {
    Certificate::from_pem(&std::fs::read_to_string(recipient_file("pem")).unwrap()).unwrap()
}

fn document(head: &str, body: &str) -> String {
    let version = field(head, "x-speke-version");
    let response = key_server::serve(version, body, &[own_certificate()]).unwrap();
    response.body.to_string()
}

fn sound(head: &str, body: &str) -> Vec<u8> {
    http("200 OK", "application/xml", &document(head, body))
}

/// An appliance's keystore, whose asset `film` has its keys from the vendor, and the licence role's orders.
struct Rig {
    local: Local,
    vendors: Vendors,
    decisions: Arc<DecisionLog>,
    settings: ExchangeSettings,
    folder: TempDir,
}

impl Rig {
    async fn new(server: &KeyServer) -> Self {
        Self::with(server, |_| {}).await
    }

    async fn with(server: &KeyServer, bend: impl FnOnce(&mut VendorSettings)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut vendor = VendorSettings {
            tls: false,
            authority: format!("127.0.0.1:{}", server.port),
            path: "/speke".to_owned(),
            protocol: VendorProtocol::Speke20,
            assets: vec!["film".to_owned()],
            labels: vec![TrackLabel::Sd, TrackLabel::Hd, TrackLabel::Audio],
            schemes: vec![PackScheme::Cbcs],
            systems: vec![System::Widevine, System::PlayReady, System::FairPlay],
            identity: None,
            user: None,
            secret: None,
            ca_file: PathBuf::from("/nonexistent"),
            timeout: Duration::from_secs(10),
            danger_clear: false,
        };
        bend(&mut vendor);
        let settings = ExchangeSettings {
            body_bytes: 64 << 10,
            recipient: Some(ExchangeRecipient {
                certificate: recipient_file("pem"),
                key: SecretSource::file(recipient_file("key")),
            }),
            callers: BTreeMap::new(),
            vendors: [("acme".to_owned(), vendor)].into(),
        };
        let keystore = conf::KeystoreSettings {
            external_assets: vec!["film".to_owned()],
            ..testing::settings(folder.path())
        };
        let clock = Arc::new(keystore::SystemClock);
        let local = Local::open(&keystore, clock).await.unwrap();
        let operator = testing::operator(&local);
        operator.init(testing::PASSPHRASE.into()).await.unwrap();
        let decisions = Arc::new(DecisionLog::in_memory());
        let vendors = orders(&settings, folder.path(), &local, &decisions).unwrap();
        Self {
            local,
            vendors,
            decisions,
            settings,
            folder,
        }
    }

    async fn fetch(&self) -> Result<Fetched, FetchError> {
        self.vendors.fetch(&"film".parse().unwrap(), false).await
    }

    /// What the origin gets for these tracks of `film`.
    async fn lease(
        &self,
        scheme: Scheme,
        label: Label,
    ) -> Result<LeasedKey, keystore_client::Error> {
        let context = KeyContext {
            tenant: "default".to_owned(),
            asset: "film".parse().unwrap(),
            label,
            scheme,
            subsample_rule: SUBSAMPLE_RULE,
            generation: Generation {
                sources: [7; 32],
                number: 0,
            },
        };
        let request = LeaseRequest {
            contexts: vec![context],
        };
        let lease = testing::origin(&self.local).lease(request).await?;
        Ok(lease.keys.into_iter().next().unwrap())
    }

    /// The ids of the keys that the keystore has of `film`.
    async fn kept(&self) -> Vec<KeyId> {
        let request = HandOverRequest {
            tenant: "default".to_owned(),
            asset: "film".parse().unwrap(),
            scheme: None,
            partner: tests(),
        };
        let handed = licence_role(&self.local).hand_over(request).await.unwrap();
        handed.keys.iter().map(|key| key.key_id).collect()
    }

    fn audit_log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("state/audit.log")).unwrap()
    }
}

fn orders(
    settings: &ExchangeSettings,
    folder: &Path,
    local: &Local,
    decisions: &Arc<DecisionLog>,
) -> Result<Vendors, license::Error> {
    let parts = license::exchange::Parts {
        signals: Arc::new(Payloads),
        keystore: licence_role(local),
        decisions: Arc::clone(decisions),
        clock: Arc::new(SystemClock),
        tenant: "default".to_owned(),
    };
    Vendors::open(settings, folder, parts)
}

fn tests() -> Partner {
    Partner {
        name: "tests".to_owned(),
        protocol: "none".to_owned(),
        recipients: vec![],
    }
}

fn licence_role(local: &Local) -> Arc<dyn Keystore> {
    let grants = [Capability::Exchange, Capability::Deposit].map(|capability| Grant {
        capability,
        tenant: "default".to_owned(),
        assets: Assets::All,
    });
    local.handle(Caller::new("license", grants.into()))
}

#[tokio::test]
async fn what_the_vendor_gives_in_each_protocol_is_what_the_origin_leases() {
    for protocol in [
        VendorProtocol::Speke10,
        VendorProtocol::Speke20,
        VendorProtocol::Speke21,
    ] {
        let server = KeyServer::sound();
        let rig = Rig::with(&server, |vendor| {
            vendor.protocol = protocol;
            vendor.schemes = vec![PackScheme::Cbcs, PackScheme::Cenc];
        })
        .await;
        let fetched = rig.fetch().await.unwrap();
        assert_eq!((fetched.vendor.as_str(), fetched.keys.len()), ("acme", 6));
        for key in &fetched.keys {
            let leased = rig.lease(key.scheme, key.label).await.unwrap();
            assert_eq!(leased.key_id, key.key_id, "{protocol:?}");
            assert_eq!(leased.key.expose(), key_of(key.key_id).expose());
            let iv_of_vendor = leased.iv.as_bytes() == &[9; 16];
            assert_eq!(iv_of_vendor, key.scheme == Scheme::Cbcs);
        }
        let log = rig.audit_log();
        let deposit = log
            .lines()
            .find(|line| line.contains("\"deposit\""))
            .unwrap();
        assert!(deposit.contains("\"acme\""), "{deposit}");
        assert!(deposit.contains(&own_certificate().fingerprint()));
        for key in &fetched.keys {
            assert!(deposit.contains(&key.key_id.to_string()));
        }
        let decision = serde_json::to_value(&rig.decisions.latest(1)[0]).unwrap();
        assert_eq!(decision["partner"], "acme");
    }
}

#[tokio::test]
async fn no_key_is_made_here_for_a_vendors_asset() {
    let server = KeyServer::sound();
    let rig = Rig::new(&server).await;
    let error = rig.lease(Scheme::Cbcs, Label::Hd).await.unwrap_err();
    let keystore_client::Error::Conflict(why) = &error else {
        panic!("{error}");
    };
    assert!(why.contains("castellum key fetch film"), "{why}");
    // Nor does an encryptor that orders from here have one made, which the origin would then use.
    let usage = KeyUsage {
        label: Label::Hd,
        scheme: Scheme::Cbcs,
        elsewhere: None,
    };
    let request = ExchangeRequest {
        tenant: "default".to_owned(),
        asset: "film".parse().unwrap(),
        keys: vec![AskedKey {
            key_id: KeyId::new([5; 16]),
            usage,
            iv: None,
        }],
        partner: tests(),
    };
    let made = licence_role(&rig.local).exchange(request).await;
    assert!(matches!(made, Err(keystore_client::Error::Conflict(_))));
    assert_eq!(rig.kept().await, []);
    rig.fetch().await.unwrap();
    rig.lease(Scheme::Cbcs, Label::Hd).await.unwrap();
    // Not ordered, so still none.
    for (scheme, label) in [(Scheme::Cbcs, Label::Uhd1), (Scheme::Cenc, Label::Hd)] {
        rig.lease(scheme, label).await.unwrap_err();
    }
}

#[tokio::test]
async fn ordered_again_the_same_ids_are_asked_for_and_nothing_changes() {
    let server = KeyServer::sound();
    let rig = Rig::new(&server).await;
    let first = rig.fetch().await.unwrap();
    rig.lease(Scheme::Cbcs, Label::Sd).await.unwrap();
    assert_eq!(rig.fetch().await.unwrap(), first);
    // The role was started anew.
    let again = orders(&rig.settings, rig.folder.path(), &rig.local, &rig.decisions).unwrap();
    let film = "film".parse().unwrap();
    assert_eq!(again.fetch(&film, false).await.unwrap(), first);

    // Other keys only where the old ones are gone.
    let error = again.fetch(&film, true).await.unwrap_err();
    assert_eq!(error.reason(), "key_conflict", "{error}");
    for key in &first.keys {
        let operator = testing::operator(&rig.local);
        operator.key_destroy(key.key_id).await.unwrap();
    }
    let renewed = again.fetch(&film, true).await.unwrap();
    let ids = |fetched: &Fetched| {
        fetched
            .keys
            .iter()
            .map(|key| key.key_id)
            .collect::<Vec<_>>()
    };
    assert!(ids(&renewed).iter().all(|id| !ids(&first).contains(id)));
}

#[tokio::test]
async fn a_renewal_leaves_the_old_order_until_its_keys_are_kept() {
    // Answers while it is well, and keeps what it was asked.
    let well = Arc::new(AtomicBool::new(true));
    let asked = Arc::new(Mutex::new(Vec::new()));
    let server = KeyServer::start(None, {
        let (well, asked) = (Arc::clone(&well), Arc::clone(&asked));
        Box::new(move |head, body| {
            asked.lock().unwrap().push(body.to_owned());
            Some(match well.load(Ordering::Relaxed) {
                true => sound(head, body),
                false => http("503 Service Unavailable", "text/plain", ""),
            })
        })
    });
    let last_asked = |key: &FetchedKey| {
        let asked = asked.lock().unwrap();
        asked.last().unwrap().contains(&key.key_id.to_string())
    };
    let rig = Rig::new(&server).await;
    let film = "film".parse().unwrap();
    let renew = async || rig.vendors.fetch(&film, true).await;
    let old = rig.fetch().await.unwrap();

    // The vendor is away: the old order stands, for the same keys.
    well.store(false, Ordering::Relaxed);
    let error = renew().await.unwrap_err();
    assert_eq!(error.reason(), "vendor_refused", "{error}");
    assert!(!last_asked(&old.keys[0]));
    let begun = asked.lock().unwrap().last().unwrap().clone();
    well.store(true, Ordering::Relaxed);
    assert_eq!(rig.fetch().await.unwrap(), old);
    assert!(last_asked(&old.keys[0]));
    for key in &old.keys {
        let leased = rig.lease(key.scheme, key.label).await.unwrap();
        assert_eq!(leased.key_id, key.key_id);
    }

    // Nor do keys that are refused change it, and other ids are drawn after that.
    let error = renew().await.unwrap_err();
    assert_eq!(error.reason(), "key_conflict", "{error}");
    let refused = asked.lock().unwrap().last().unwrap().clone();
    assert_eq!(rig.fetch().await.unwrap(), old);
    // What was begun was gone on with: the vendor was asked for the same keys.
    assert_eq!(ids_in(&refused), ids_in(&begun));

    let operator = testing::operator(&rig.local);
    for key in &old.keys {
        operator.key_destroy(key.key_id).await.unwrap();
    }
    let renewed = renew().await.unwrap();
    for key in &renewed.keys {
        assert!(!refused.contains(&key.key_id.to_string()));
        assert!(old.keys.iter().all(|old| old.key_id != key.key_id));
    }
    // It is the order that stands now, after a restart too.
    let again = orders(&rig.settings, rig.folder.path(), &rig.local, &rig.decisions).unwrap();
    assert_eq!(again.fetch(&film, false).await.unwrap(), renewed);
}

#[tokio::test]
async fn a_renewal_whose_end_was_not_written_down_is_finished_by_the_next() {
    let server = KeyServer::sound();
    let rig = Rig::new(&server).await;
    let film = "film".parse().unwrap();
    let old = rig.fetch().await.unwrap();
    let operator = testing::operator(&rig.local);
    for key in &old.keys {
        operator.key_destroy(key.key_id).await.unwrap();
    }
    let page = rig.folder.path().join("orders/acme/film.json");
    let before = std::fs::read(&page).unwrap();
    let renewed = rig.vendors.fetch(&film, true).await.unwrap();
    // As after a crash between the deposit and the new order's coming in force.
    std::fs::rename(&page, page.with_extension("json.renewed")).unwrap();
    std::fs::write(&page, before).unwrap();
    assert_eq!(rig.vendors.fetch(&film, true).await.unwrap(), renewed);
    assert_eq!(rig.fetch().await.unwrap(), renewed);
}

/// The key ids of an order's document.
fn ids_in(document: &str) -> BTreeSet<&str> {
    let values = document.split("kid=\"").skip(1);
    values.filter_map(|rest| rest.split('"').next()).collect()
}

#[tokio::test]
async fn nothing_is_kept_of_an_answer_that_is_not_what_was_ordered() {
    let bent = |bend: fn(String) -> String| -> Box<Behaviour> {
        Box::new(move |head, body| {
            Some(http(
                "200 OK",
                "application/xml",
                &bend(document(head, body)),
            ))
        })
    };
    let fixed =
        |status: &'static str, content_type: &'static str, body: &'static str| -> Box<Behaviour> {
            Box::new(move |_, _| Some(http(status, content_type, body)))
        };
    let cases: Vec<(&str, Box<Behaviour>)> = vec![
        (
            "answer_unfit",
            fixed("200 OK", "application/xml", "<garbage"),
        ),
        ("answer_unfit", fixed("200 OK", "application/xml", "")),
        (
            "answer_unfit",
            Box::new(|head, body| Some(http("200 OK", "text/html", &document(head, body)))),
        ),
        // The order itself comes back: keys without values.
        (
            "answer_unfit",
            Box::new(|_, body| Some(http("200 OK", "application/xml", body))),
        ),
        // The ids of another order.
        (
            "answer_unfit",
            bent(|text| {
                let at = text.find("kid=\"").unwrap() + 5;
                let id = text[at..at + 36].to_owned();
                text.replace(&id, "0f083e4e-b831-4a3d-917e-000000000001")
            }),
        ),
        (
            "answer_unfit",
            bent(|text| text.replace("contentId=\"film\"", "contentId=\"other\"")),
        ),
        (
            "answer_unfit",
            bent(|text| text[..text.len() / 2].to_owned()),
        ),
        ("answer_too_long", bent(|text| text + &" ".repeat(64 << 10))),
        (
            "vendor_refused",
            fixed("401 Unauthorized", "text/plain", ""),
        ),
        (
            "vendor_refused",
            fixed("500 Internal Server Error", "text/plain", ""),
        ),
        (
            "vendor_refused",
            Box::new(|_, _| {
                Some(b"HTTP/1.1 307 Temporary Redirect\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n".to_vec())
            }),
        ),
        (
            "vendor_unreachable",
            Box::new(|_, _| Some(b"220 mail.example ESMTP\r\n".to_vec())),
        ),
        ("vendor_unreachable", Box::new(|_, _| Some(Vec::new()))),
        (
            "vendor_unreachable",
            Box::new(|head, body| {
                let mut whole = sound(head, body);
                whole.truncate(whole.len() - 10);
                Some(whole)
            }),
        ),
        ("vendor_late", Box::new(|_, _| None)),
    ];
    for (number, (reason, behaviour)) in cases.into_iter().enumerate() {
        let server = KeyServer::start(None, behaviour);
        // None but the last is waited for.
        let late = reason == "vendor_late";
        let timeout = if late { 2 } else { 600 };
        let rig = Rig::with(&server, |vendor| {
            vendor.timeout = Duration::from_secs(timeout);
        })
        .await;
        let fetched = tokio::time::timeout(Duration::from_secs(60), rig.fetch()).await;
        let error = fetched.expect("it ends").unwrap_err();
        assert_eq!(error.reason(), reason, "{number}: {error}");
        assert!(error.to_string().contains("acme"), "{error}");
        assert_eq!(rig.kept().await, [], "{number}");
        let decision = serde_json::to_value(&rig.decisions.latest(1)[0]).unwrap();
        assert_eq!(decision["reason"], reason);
    }
}

#[tokio::test]
async fn keys_in_the_clear_are_taken_only_where_that_is_switched_on() {
    // Whatever is ordered, this one does not encrypt.
    let server = || {
        KeyServer::start(
            None,
            Box::new(|head, body| {
                let clear = without(body, "DeliveryDataList");
                Some(sound(head, &clear))
            }),
        )
    };
    let refusing = server();
    let rig = Rig::new(&refusing).await;
    let error = rig.fetch().await.unwrap_err();
    assert!(error.to_string().contains("in the clear"), "{error}");
    assert_eq!(rig.kept().await, []);

    let taking = server();
    let rig = Rig::with(&taking, |vendor| vendor.danger_clear = true).await;
    let fetched = rig.fetch().await.unwrap();
    let key = &fetched.keys[0];
    let leased = rig.lease(key.scheme, key.label).await.unwrap();
    assert_eq!(leased.key.expose(), key_of(key.key_id).expose());
}

/// The document without an element of this name, whatever its prefix.
fn without(text: &str, name: &str) -> String {
    let Some(begin) = text.find(&format!("{name}>")) else {
        return text.to_owned();
    };
    let begin = text[..begin].rfind('<').unwrap();
    let end = text.rfind(&format!("{name}>")).unwrap() + name.len() + 1;
    format!("{}{}", &text[..begin], &text[end..])
}

#[tokio::test]
async fn one_key_for_two_kinds_of_tracks_is_refused() {
    let server = KeyServer::start(
        None,
        Box::new(|head, body| {
            let text = document(head, body);
            // The first key's value stands for all.
            let mut values = text.split("PlainValue>").skip(1).step_by(2);
            let first = values.next().unwrap().to_owned();
            let bent = values.fold(text.clone(), |text, value| text.replace(value, &first));
            Some(http("200 OK", "application/xml", &bent))
        }),
    );
    let rig = Rig::with(&server, |vendor| vendor.danger_clear = true).await;
    let error = rig.fetch().await.unwrap_err();
    assert_eq!(error.reason(), "key_shared", "{error}");
    assert_eq!(rig.kept().await, []);
}

#[tokio::test]
async fn a_vendor_that_is_away_takes_nothing_with_it() {
    let server = KeyServer::sound();
    let mut rig = Rig::new(&server).await;
    let fetched = rig.fetch().await.unwrap();
    let vendor = rig.settings.vendors.get_mut("acme").unwrap();
    // Where nobody listens: the port of tcpmux (RFC 1078).
    vendor.authority = "127.0.0.1:1".to_owned();
    rig.vendors = orders(&rig.settings, rig.folder.path(), &rig.local, &rig.decisions).unwrap();
    let error = rig.fetch().await.unwrap_err();
    assert_eq!(error.reason(), "vendor_unreachable", "{error}");
    for key in &fetched.keys {
        let leased = rig.lease(key.scheme, key.label).await.unwrap();
        assert_eq!(leased.key_id, key.key_id);
    }
    let other = rig.vendors.fetch(&"other".parse().unwrap(), false).await;
    assert_eq!(other.unwrap_err().reason(), "vendor_unknown");
}

#[tokio::test]
async fn the_secret_goes_to_the_vendor_and_nowhere_else() {
    for (user, expected) in [
        (None, format!("Bearer {SECRET}")),
        // Of `castellum:a secret of the tests`.
        (
            Some("castellum"),
            "Basic Y2FzdGVsbHVtOmEgc2VjcmV0IG9mIHRoZSB0ZXN0cw==".to_owned(),
        ),
    ] {
        let server = KeyServer::sound();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("{SECRET}\n")).unwrap();
        let rig = Rig::with(&server, |vendor| {
            vendor.secret = Some(SecretSource::file(file.path()));
            vendor.user = user.map(str::to_owned);
        })
        .await;
        rig.fetch().await.unwrap();
        let head = &server.heads()[0];
        assert_eq!(field(head, "authorization"), Some(expected.as_str()));
        assert!(head.starts_with("POST /speke HTTP/1.1\r\n"), "{head}");
        assert!(!rig.audit_log().contains(SECRET));

        if user.is_none() {
            std::fs::write(file.path(), "a\nsecret of two lines").unwrap();
            let error = rig.fetch().await.unwrap_err();
            assert_eq!(error.reason(), "vendor_unready");
            assert!(!format!("{error}{error:?}").contains("two lines"));
        }
    }
}

#[tokio::test]
async fn by_tls_both_sides_prove_who_they_are() {
    let authority = Authority::new();
    let server = KeyServer::start(
        Some(authority.server()),
        Box::new(|head, body| Some(sound(head, body))),
    );

    let files = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| {
        let path = files.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let ca = file("ca.pem", authority.issuer.pem());
    let stranger = file("stranger.pem", Authority::new().issuer.pem());
    let (shown, private) = authority.vouch(ExtendedKeyUsagePurpose::ClientAuth);
    let identity = (
        file("client.pem", shown.pem()),
        SecretSource::file(file("client.key", private.serialize_pem())),
    );
    for (ca_file, identity, taken) in [
        (&ca, Some(&identity), true),
        (&ca, None, false),
        (&stranger, Some(&identity), false),
    ] {
        let rig = Rig::with(&server, |vendor| {
            vendor.tls = true;
            vendor.ca_file = ca_file.clone();
            vendor.identity = identity.cloned();
        })
        .await;
        match rig.fetch().await {
            Ok(fetched) => assert!(taken && fetched.keys.len() == 3),
            Err(error) => {
                assert!(!taken, "{error}");
                assert_eq!(error.reason(), "vendor_unreachable", "{error}");
                assert_eq!(rig.kept().await, []);
            }
        }
    }
    let heads = server.heads();
    assert_eq!(heads.len(), 1, "an order went to somebody unknown");
}
