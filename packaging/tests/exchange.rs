//! Key exchange with the whole appliance: an encryptor with a client certificate has keys made, and the origin encrypts
//! with them; keys that a partner brings are those that are played.
//!
//! What it cannot catch: what other vendors' encryptors send.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]
#![allow(dead_code, reason = "each test binary uses a part of the harness")]

mod appliance;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cpix::delivery::{Certificate, RecipientKey as _, RsaRecipient};
use cpix::speke::{Headers, Order, OrderedKey, SpekeVersion, Usage};
use cpix::usage::UsageRule;
use cpix::{Document, EncryptionScheme, Key, Reading, Secret, SystemId, Version};
use keystore_types::{ContentKey, KeyId, Label};
use ring::rand::SystemRandom;
use serde_json::Value;

use appliance::{Answer, Node, Running, curl, free_port, project, representations};

fn recipient_file(name: &str) -> PathBuf {
    project().join("keystore/cpix/tests/recipients").join(name)
}

fn recipient(name: &str) -> RsaRecipient {
    let read = |end: &str| fs::read_to_string(recipient_file(&format!("{name}.{end}"))).unwrap();
    let certificate = Certificate::from_pem(&read("pem")).unwrap();
    RsaRecipient::from_pem(certificate, &read("key")).unwrap()
}

/// An appliance with the title `film`, whose partner `encryptor` shows a client certificate.
struct Exchanging {
    node: Node,
    license: String,
    folder: tempfile::TempDir,
    _roles: Running,
}

impl Exchanging {
    fn start() -> Self {
        let file = |name: &str| format!("{:?}", recipient_file(name));
        let caller = "LICENSE__EXCHANGE__CALLERS__ENCRYPTOR__";
        Self::with(&[
            (
                "LICENSE__EXCHANGE__RECIPIENT_CERTIFICATE",
                file("stranger.pem"),
            ),
            (
                "LICENSE__EXCHANGE__RECIPIENT_KEY_FILE",
                file("stranger.key"),
            ),
            (
                &format!("{caller}MAY"),
                r#"["speke", "import", "export"]"#.to_owned(),
            ),
            (&format!("{caller}ASSETS"), r#"["film"]"#.to_owned()),
            (
                &format!("{caller}CERTIFICATE_FILES"),
                format!("[{}]", file("encryptor.pem")),
            ),
            (
                &format!("{caller}RECIPIENT_FILES"),
                format!("[{}]", file("encryptor.pem")),
            ),
        ])
    }

    /// One that is a client of the first: the keys of `film` come from there.
    fn of_vendor(vendor: &Self) -> Self {
        let file = |name: &str| format!("{:?}", recipient_file(name));
        let authority = vendor.folder.path().join("license/self-signed.pem");
        let table = "LICENSE__EXCHANGE__VENDORS__DRM__";
        Self::with(&[
            (
                "LICENSE__EXCHANGE__RECIPIENT_CERTIFICATE",
                file("encryptor.pem"),
            ),
            (
                "LICENSE__EXCHANGE__RECIPIENT_KEY_FILE",
                file("encryptor.key"),
            ),
            (
                &format!("{table}URL"),
                format!("{}/speke/v2.0", vendor.license),
            ),
            (&format!("{table}ASSETS"), r#"["film"]"#.to_owned()),
            (&format!("{table}CA_FILE"), format!("{authority:?}")),
            (&format!("{table}CERTIFICATE"), file("encryptor.pem")),
            (&format!("{table}KEY_FILE"), file("encryptor.key")),
        ])
    }

    fn with(settings: &[(&str, String)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let node = Node::new(folder.path(), &folder.path().join("run"));
        let film = folder.path().join("media/film");
        fs::create_dir_all(&film).unwrap();
        for part in ["360", "720", "eng"] {
            let name = format!("castellum-{part}.mp4");
            let title = project().join("packaging/demo/title").join(&name);
            fs::copy(title, film.join(&name)).unwrap();
        }
        let port = free_port();
        let mut serve = node.command(&["serve", "--role", "origin,license,keystore"]);
        for (name, value) in [
            ("LICENSE__TLS__LISTEN", &format!("127.0.0.1:{port}")),
            ("LICENSE__EXCHANGE__ENABLED", &"true".to_owned()),
            (
                "KEYSTORE__CALLERS__LICENSE__MAY",
                &r#"["export", "exchange", "deposit"]"#.to_owned(),
            ),
        ]
        .into_iter()
        .chain(settings.iter().map(|(name, value)| (*name, value)))
        {
            serve.env(format!("CASTELLUM__{name}"), value);
        }
        let roles = node.spawn_by(serve);
        node.wait_until_it_answers();
        Self {
            license: format!("https://127.0.0.1:{port}"),
            node,
            folder,
            _roles: roles,
        }
    }

    /// Asks the licence listener; with a client certificate where one is named.
    fn ask(&self, path: &str, certificate: Option<&str>, args: &[&str]) -> Answer {
        let url = format!("{}{path}", self.license);
        let mut all = vec!["-k".to_owned()];
        if let Some(name) = certificate {
            for (flag, end) in [("--cert", "pem"), ("--key", "key")] {
                let file = recipient_file(&format!("{name}.{end}"));
                all.extend([flag.to_owned(), file.to_str().unwrap().to_owned()]);
            }
        }
        all.extend(args.iter().map(|arg| (*arg).to_owned()));
        all.push(url);
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        curl(&all)
    }

    fn post(
        &self,
        path: &str,
        certificate: Option<&str>,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let file = self.folder.path().join("body.xml");
        fs::write(&file, body).unwrap();
        let data = format!("@{}", file.display());
        let headers: Vec<String> = (headers.iter())
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        let mut args = vec!["--data-binary", data.as_str()];
        for header in &headers {
            args.extend(["-H", header.as_str()]);
        }
        self.ask(path, certificate, &args)
    }

    fn order(&self, order: &Order<'_>, certificate: Option<&str>) -> Answer {
        let asked = order.request().unwrap();
        self.post(
            order.version.path(),
            certificate,
            &asked.headers,
            &asked.body,
        )
    }

    /// The audit log's records of an operation.
    fn records(&self, op: &str) -> Vec<Value> {
        let log = fs::read_to_string(self.folder.path().join("keystore/audit.log")).unwrap();
        let records = log.lines().map(|line| serde_json::from_str(line).unwrap());
        records
            .filter(|record: &Value| record["op"] == op)
            .collect()
    }

    /// What the origin serves of `film`: the key id of each set, and a file that has its init and first segment.
    fn served(&self) -> Vec<(String, PathBuf)> {
        let (url, mpd) = self.node.mpd("film", "cbcs");
        (representations(&url, &mpd).into_iter().enumerate())
            .map(|(number, representation)| {
                let mut bytes = curl(&[&representation.init]).whole();
                bytes.extend(curl(&[&representation.segments[0]]).whole());
                let file = self.folder.path().join(format!("{number}.mp4"));
                fs::write(&file, bytes).unwrap();
                (representation.key_id.unwrap(), file)
            })
            .collect()
    }
}

fn order(version: SpekeVersion, usages: &[Usage]) -> Order<'static> {
    let key = |(number, usage): (u8, &Usage)| OrderedKey {
        key_id: KeyId::new([number; 16]),
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

fn keys(order: &Order<'_>, answer: &Answer) -> Vec<(KeyId, [u8; 16])> {
    assert_eq!((answer.exit, answer.status), (0, 200), "{}", answer.text());
    let field = |name: &str| answer.headers.get(name).map(String::as_str);
    let headers = Headers {
        content_type: field("content-type"),
        speke_version: field("x-speke-version"),
    };
    let random = SystemRandom::new();
    let supply = order.accept(&headers, &answer.body, &Reading::default(), &random);
    let keys = supply.unwrap().keys.into_iter();
    keys.map(|key| (key.key_id, *key.key.expose())).collect()
}

/// The keys of `film`, as a licence server is handed them.
fn exported(appliance: &Exchanging) -> Vec<(KeyId, [u8; 16])> {
    let answer = appliance.ask("/cpix/film", Some("encryptor"), &[]);
    let mut document = Document::read(&answer.body, &Reading::default()).unwrap();
    let random = SystemRandom::new();
    document.decrypt(&recipient("encryptor"), &random).unwrap();
    let bytes = |key: &Key| match &key.secret {
        Secret::Clear(secret) => (key.key_id, *secret.expose()),
        Secret::Absent | Secret::Encrypted(_) => panic!("{} is not open", key.key_id),
    };
    document.keys.iter().map(bytes).collect()
}

/// What ffmpeg complains of when it decrypts with this key and decodes.
fn complaints(file: &Path, key: &[u8; 16]) -> String {
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-decryption_key", &hex, "-i"])
        .arg(file)
        .args(["-f", "null", "-"])
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn what_an_encryptor_has_made_by_speke_the_origin_encrypts_with() {
    let appliance = Exchanging::start();
    let encryptor = recipient("encryptor");
    let usages = [Label::Sd, Label::Hd, Label::Audio].map(Usage::of_label);
    let order = Order {
        recipient: Some(&encryptor),
        ..order(SpekeVersion::V2_0, &usages)
    };
    // Nobody without credentials, and nobody with a certificate that means nothing here.
    for certificate in [None, Some("stranger")] {
        let answer = appliance.order(&order, certificate);
        assert_eq!(answer.status, 401, "{}", answer.text());
    }
    let answer = appliance.order(&order, Some("encryptor"));
    assert_eq!(answer.headers["cache-control"], "no-store");
    let made = keys(&order, &answer);
    assert_eq!(
        keys(&order, &appliance.order(&order, Some("encryptor"))),
        made
    );

    let served = appliance.served();
    assert_eq!(served.len(), 3);
    for (key_id, file) in served {
        let (_, key) = made
            .iter()
            .find(|(made, _)| made.to_string() == key_id)
            .unwrap();
        assert_eq!(complaints(&file, key), "", "{key_id}");
        assert_ne!(complaints(&file, &[0x55; 16]), "", "{key_id}");
    }
    let exchanges = appliance.records("exchange");
    assert_eq!(exchanges.len(), 2);
    assert_eq!(exchanges[0]["partner"]["name"], "encryptor");
    assert_eq!(
        exchanges[0]["partner"]["recipients"][0],
        encryptor.certificate().fingerprint()
    );
    assert_eq!(
        appliance.records("lease")[0]["claimed"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
    // Neither log holds a key.
    let logs = appliance.node.log()
        + &fs::read_to_string(appliance.folder.path().join("keystore/audit.log")).unwrap();
    for (_, key) in &made {
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(!logs.contains(&hex));
    }
}

#[test]
fn each_version_is_answered_over_tls_and_players_are_unaffected() {
    let appliance = Exchanging::start();
    let encryptor = recipient("encryptor");
    for (version, number) in [
        (SpekeVersion::V1_0, 1),
        (SpekeVersion::V2_0, 2),
        (SpekeVersion::V2_1, 3),
    ] {
        let mut order = Order {
            recipient: Some(&encryptor),
            ..order(version, &[Usage::all()])
        };
        order.keys[0].key_id = KeyId::new([number; 16]);
        let answer = appliance.order(&order, Some("encryptor"));
        assert_eq!(keys(&order, &answer).len(), 1);
        assert!(answer.protocol == "2", "{}", answer.protocol);
    }
    let other = Order {
        content_id: "other".to_owned(),
        ..order(SpekeVersion::V2_0, &[Usage::all()])
    };
    let answer = appliance.order(&other, Some("encryptor"));
    assert_eq!(answer.status, 403, "{}", answer.text());
    let decisions = appliance.folder.path().join("license/decisions.jsonl");
    let logged =
        || fs::read_to_string(&decisions).is_ok_and(|text| text.contains("\"not_granted\""));
    appliance.node.wait_for("the refusal to be logged", logged);
    // A player has no certificate, or one that means nothing here: both hear of the token alone.
    for certificate in [None, Some("stranger"), Some("encryptor")] {
        let answer = appliance.ask("/license/clearkey/film", certificate, &["-d", "{}"]);
        assert_eq!(answer.status, 401, "{}", answer.text());
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
    }
}

#[test]
fn an_imported_key_is_the_one_that_is_played() {
    let appliance = Exchanging::start();
    let mut document = Document::new(Version::V2_3);
    document.content_id = Some("film".to_owned());
    for (number, label) in (1_u8..).zip([Label::Sd, Label::Hd, Label::Audio]) {
        let key_id = KeyId::new([number; 16]);
        document.keys.push(Key {
            scheme: Some(EncryptionScheme::Cbcs),
            secret: Secret::Clear(ContentKey::take(&mut [number + 0x70; 16])),
            ..Key::new(key_id)
        });
        let usage = Usage::of_label(label);
        document.rules.push(UsageRule {
            key_id,
            intended_track_type: Some(usage.intended_track_type),
            filters: usage.filters,
        });
    }
    let server = recipient("stranger");
    let random = SystemRandom::new();
    document
        .encrypt(
            &[server.certificate()],
            cpix::delivery::KeyCipher::AesCbc,
            &random,
        )
        .unwrap();
    let body = document.to_xml().unwrap();
    let answer = appliance.post("/cpix/film", Some("encryptor"), &[], &body);
    assert_eq!(answer.status, 200, "{}", answer.text());

    for (key_id, file) in appliance.served() {
        let number: u8 = key_id[..2].parse().unwrap();
        assert_eq!(key_id, KeyId::new([number; 16]).to_string());
        assert_eq!(complaints(&file, &[number + 0x70; 16]), "", "{key_id}");
    }
    assert_eq!(
        appliance.records("deposit")[0]["new"]
            .as_array()
            .unwrap()
            .len(),
        3
    );

    let exported = exported(&appliance);
    let exported: Vec<_> = exported.into_iter().map(|(_, key)| key).collect();
    assert_eq!(exported, [[0x71; 16], [0x72; 16], [0x73; 16]]);
}

#[test]
fn what_is_fetched_from_a_vendor_the_origin_encrypts_with() {
    let vendor = Exchanging::start();
    let appliance = Exchanging::of_vendor(&vendor);
    let fetch = || {
        let mut command = appliance.node.command(&["key", "fetch", "film", "--json"]);
        command.output().unwrap()
    };
    // Whoever asks before has nothing, and no key is made that the vendor does not know.
    let mpd = format!("{}/v1/film/cbcs/main.mpd", appliance.node.origin);
    let refused = || curl(&[&mpd]).status == 503;
    appliance.node.wait_for("the title to be there", refused);
    let output = fetch();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}\n{}", appliance.node.log());
    let first: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(first["vendor"], "drm");

    let keys = exported(&vendor);
    let served = appliance.served();
    assert_eq!((keys.len(), served.len()), (3, 3));
    for (key_id, file) in served {
        let (_, key) = (keys.iter())
            .find(|(id, _)| id.to_string() == key_id)
            .unwrap();
        assert_eq!(complaints(&file, key), "", "{key_id}");
    }
    let again: Value = serde_json::from_slice(&fetch().stdout).unwrap();
    assert_eq!(again, first);
    let deposits = appliance.records("deposit");
    assert_eq!(deposits.len(), 2);
    assert_eq!(deposits[0]["partner"]["name"], "drm");
    assert_eq!(deposits[0]["new"].as_array().unwrap().len(), 3);
    assert_eq!(vendor.records("exchange").len(), 2);

    // The vendor is gone: what was fetched plays on, and an order says what is wrong.
    drop(vendor);
    let output = fetch();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("cannot be reached"), "{said}");
    appliance.served();
}
