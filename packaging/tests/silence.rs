//! Tokens, keys and personal data stand in no log, no metric and no error.
//!
//! A whole appliance that says all it can is asked for licences with tokens of every shape, good and bad, from every place in
//! which a token may stand, while upstreams, webhooks and an issuer fail, lie and give back what they were sent. Then
//! everything that it has said is searched: for each token and each of its parts, each claim that names somebody, device,
//! session and address, and each content key and secret of the configuration, in hexadecimal, base64, base64url and the
//! byte order of PlayReady.
//!
//! # Where a name may be
//! | what | where |
//! |---|---|
//! | `sub` and `jti` | `decisions.jsonl`, the keystore's `audit.log`, events that wait in `sessions.db` |
//! | devices and sessions, as players call them | `sessions.db` |
//!
//! Nowhere else; a token, a key or an address nowhere at all. The access log of the licence server has the block that the
//! peer is in.
//!
//! What this cannot catch: what only a failure says that does not happen here.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]
#![allow(dead_code, reason = "each test binary uses a part of the harness")]

mod appliance;
mod search;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use appliance::{Answer, Node, curl, free_port, project, representations, wait_for};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::hmac;
use search::{Search, Secret};
use serde_json::{Value, json};

const SECRET: &str = "an HS256 secret of the tests, which has 47 bytes";
const HOOK_SECRET: &str = "a webhook's secret of the tests, of some length";
const GRANT_SECRET: &str = "a grant's secret of the tests, of some length";
const API_TOKEN: &str = "a-token-of-the-operators-of-the-tests";
const SIGNING_KEY: [u8; 32] = [0x5a; 32];
const COM_KEY_ID: &str = "6e5a1d26-2757-47d7-8046-eaa5d1d34b5a";

/// Who watches, from where and on what.
const SUBJECT: &str = "erika.mustermann@viewers.example";
const TOKEN_ID: &str = "jti-5e1f7c0a9b";
const NAME: &str = "Erika Mustermann";
const ADDRESS: &str = "203.0.113.77";
const PEER: &str = "127.0.0.77";
const DEVICE: &str = "device-4c3b2a1908";
const SESSION: &str = "session-77aa66bb55";

/// The licence server's attack row "token in the URL", among others.
#[test]
fn nothing_that_is_said_holds_a_token_a_key_or_a_name() {
    let folder = tempfile::tempdir().unwrap();
    let liar = echo();
    let port = free_port();
    let node = node(folder.path(), port, liar);
    let _running = node.start("origin,license,keystore");
    let license = format!("http://127.0.0.1:{port}/license");
    wait_for("the licence server to answer", || {
        curl(&[&license]).status == 404
    });
    let (url, mpd) = node.mpd("film", "cbcs");
    let mut key_ids: Vec<_> = (representations(&url, &mpd).into_iter())
        .map(|track| track.key_id.unwrap())
        .collect();
    key_ids.sort();
    key_ids.dedup();

    let mut said = Said::default();
    let keys: Vec<_> = (key_ids.iter())
        .map(|key_id| {
            let url = format!("{license}/hls/film/{key_id}");
            let token = native(json!({ "jti": format!("{TOKEN_ID}-{key_id}") }));
            let answer = said.ask(&url, &[&bearer(&token)], &token);
            assert_eq!(answer.status, 200, "{}", answer.text());
            answer.body
        })
        .collect();

    let before = said.errors.len();
    ask_everything(&mut said, &license, &key_ids);
    assert!(said.errors.len() > before + 40, "{}", said.errors.len());
    // So that there are a device and a stream.
    let token = native(json!({}));
    let url = format!("{license}/hls/film/{}", key_ids[0]);
    assert_eq!(said.ask(&url, &[&bearer(&token)], &token).status, 200);
    operate(&mut said, &node.admin);
    for (url, status) in [
        (format!("{}/metrics", node.admin), 200),
        (format!("{}/readyz?verbose", node.admin), 200),
    ] {
        let answer = curl(&[&url]);
        assert_eq!(answer.status, status, "{url}");
        if url.ends_with("/metrics") {
            for result in ["hit", "miss"] {
                let counted = format!("castellum_license_token_cache_total{{result=\"{result}\"}}");
                assert!(
                    answer.text().contains(&counted),
                    "{counted}: {}",
                    answer.text()
                );
            }
        }
        said.errors.push((url, answer.body));
    }
    for verb in [&["config", "dump"][..], &["check-config"]] {
        let output = node.command(verb).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        assert!(!text.is_empty(), "{verb:?}");
        said.errors.push((verb.join(" "), text));
    }
    let log = node.log();
    assert!(
        log.contains("TRACE") && log.contains("\"access\"") && log.contains("127.0.0.0/24"),
        "it did not say all"
    );
    assert!(!log.contains("panicked"), "{log}");
    let acts: Vec<_> = (log.lines())
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|line| line["target"] == "audit" && line["act"].is_string())
        .map(|line| json!([line["act"], line["kind"], line["issuer"], line["count"]]))
        .collect();
    let expected = json!([
        ["revoke", "subject", "shop", 1],
        ["revoke", "token", null, 1],
        ["revoke", "key", null, 1],
        ["reinstate", "subject", "shop", 1],
        ["forget", "device", "shop", 1],
        ["release", "stream", "shop", 1],
        ["release", "stream", "shop", 0],
    ]);
    assert_eq!(Value::from(acts), expected);
    for line in log.lines() {
        let target = serde_json::from_str::<Value>(line).map(|event| event["target"].clone());
        let place = format!("the log of {}", target.unwrap_or_default());
        said.errors.push((place, line.as_bytes().to_vec()));
    }

    // Where keys and tokens may be: nowhere.
    let mut secrets: Vec<Secret> = said.secrets();
    for (key_id, key) in key_ids.iter().zip(&keys) {
        secrets.push(Secret::bytes(format!("the key {key_id}"), key));
        let guid = [3, 2, 1, 0, 5, 4, 7, 6].map(|at| key[at]);
        let turned = [&guid[..], &key[8..]].concat();
        secrets.push(Secret::bytes(format!("the key {key_id}, turned"), &turned));
    }
    for (name, secret) in [
        ("the issuer's secret", SECRET.as_bytes()),
        ("the hook's secret", HOOK_SECRET.as_bytes()),
        ("the grant's secret", GRANT_SECRET.as_bytes()),
        ("the operators' token", API_TOKEN.as_bytes()),
        ("the signing key", &SIGNING_KEY),
        ("the passphrase", b"a passphrase of the tests"),
    ] {
        secrets.push(Secret::bytes(name, secret));
    }
    secrets.push(Secret::text("a name", NAME));
    secrets.push(Secret::text("an address", ADDRESS));
    secrets.push(Secret::text("a peer's address", PEER));
    let named = [
        Secret::text("the subject", SUBJECT),
        Secret::text("the token's id", TOKEN_ID),
    ];
    let own = [
        Secret::text("the device", DEVICE),
        Secret::text("the session", SESSION),
    ];

    let everything = Search::new(secrets.iter().chain(&named).chain(&own));
    // One of a kind is enough to see where it comes from.
    let mut found = BTreeMap::new();
    for (what, text) in &said.errors {
        let mut here = Vec::new();
        everything.bytes(text, |_| what.clone(), &mut here);
        for it in here {
            let shown: String = String::from_utf8_lossy(text).chars().take(900).collect();
            found.entry((it.secret, it.place)).or_insert(shown);
        }
    }
    let shown: BTreeMap<_, _> = found.iter().take(20).collect();
    assert!(found.is_empty(), "{} kinds: {shown:#?}", found.len());

    // At rest: what is named may be in the records that say who, and nowhere else.
    let at = |name: &str| node.folder.join(name);
    let configured = [
        "shop.secret",
        "hook.secret",
        "grant.secret",
        "api.token",
        "signing.key",
        "passphrase",
    ]
    .map(at);
    let configured = configured.each_ref().map(|path| path.as_path());
    let found = Search::new(&secrets).files(&node.folder, &configured);
    assert!(found.is_empty(), "{found:#?}");
    let records = ["license/decisions.jsonl", "keystore/audit.log"].map(at);
    let sessions = ["license/sessions.db", "license/sessions.db-wal"].map(at);
    let found = Search::new(&named).files(&node.folder, &[]);
    for record in &records {
        let record = record.display().to_string();
        assert!(
            found.iter().any(|it| it.place.starts_with(&record)),
            "{record} says not who it was"
        );
    }
    let own = Search::new(&own).files(&node.folder, &[]);
    let allowed = |place: &str, secret: &str| {
        let of = |paths: &[PathBuf]| {
            (paths.iter()).any(|path| place.starts_with(&path.display().to_string()))
        };
        match secret {
            "the device" | "the session" => of(&sessions),
            _ => of(&records) || of(&sessions),
        }
    };
    let stray: Vec<_> = (found.iter().chain(&own))
        .filter(|it| !allowed(&it.place, &it.secret))
        .collect();
    assert!(stray.is_empty(), "{stray:#?}");
}

/// What was asked with which token, and everything that was answered.
#[derive(Default)]
struct Said {
    tokens: Vec<String>,
    errors: Vec<(String, Vec<u8>)>,
}

impl Said {
    /// Asks, by HTTP/1.1 and HTTP/2 in turn, in the name of the one viewer. What is refused is kept.
    fn ask(&mut self, url: &str, more: &[&str], token: &str) -> Answer {
        self.tokens.push(token.to_owned());
        let version = match self.tokens.len() % 2 {
            0 => "--http1.1",
            _ => "--http2-prior-knowledge",
        };
        let viewer = [
            format!("X-Forwarded-For: {ADDRESS}"),
            format!("X-Device-Id: {DEVICE}"),
            format!("X-Session-Id: {SESSION}"),
        ];
        let mut args = vec![version, "--include", "--interface", PEER];
        args.extend(viewer.iter().flat_map(|header| ["-H", header]));
        args.extend(more);
        args.push(url);
        let answer = curl(&args);
        if answer.status != 200 {
            let what = format!("{} of {url}", answer.status);
            let head = format!("{:?}", answer.headers).into_bytes();
            self.errors.push((what, [&head, &answer.body[..]].concat()));
        }
        answer
    }

    /// The tokens and their parts; a header alone is no secret.
    fn secrets(&self) -> Vec<Secret> {
        let mut texts: Vec<_> = (self.tokens.iter())
            .flat_map(|token| token.split('.').skip(1).chain([token.as_str()]))
            .filter(|text| text.len() > 8)
            .collect();
        texts.sort_unstable();
        texts.dedup();
        let named = |text: &str| {
            let front: String = text.chars().take(24).collect();
            Secret::text(format!("of a token: {front}..."), text)
        };
        texts.into_iter().map(named).collect()
    }
}

/// Everything that operators change, of the one viewer; what they are answered without their token, or for nobody, is kept.
fn operate(said: &mut Said, admin: &str) {
    let whose = format!("issuer=shop&subject={SUBJECT}");
    let token = bearer(API_TOKEN);
    let wrong = bearer("another-token-of-nobody");
    let json = "-HContent-Type: application/json";
    let revocations = format!("{admin}/api/v1/revocations");
    let mut ask = |status: u16, args: &[&str]| {
        let answer = curl(args);
        assert_eq!(answer.status, status, "{args:?}: {}", answer.text());
        if status >= 400 {
            let problem: Value = serde_json::from_str(&answer.text()).unwrap();
            assert!(problem["code"].is_string(), "{problem}");
            let kept = (format!("{status} of the API"), answer.body.clone());
            said.errors.push(kept);
        }
        answer.text()
    };
    ask(401, &[&revocations]);
    ask(401, &[&wrong, &revocations]);
    for body in [
        json!({ "subject": SUBJECT, "issuer": "shop" }),
        json!({ "token": TOKEN_ID }),
        json!({ "key": COM_KEY_ID }),
    ] {
        let body = body.to_string();
        ask(201, &[&token, json, "-d", &body, &revocations]);
    }
    let listed = ask(200, &[&token, &format!("{admin}/api/v1/devices?{whose}")]);
    assert!(listed.contains(DEVICE), "{listed}");
    let stream = format!("{admin}/api/v1/streams?{whose}&session={SESSION}");
    for (status, url) in [
        (204, format!("{revocations}?{whose}")),
        (
            204,
            format!("{admin}/api/v1/devices?{whose}&device={DEVICE}"),
        ),
        (204, stream.clone()),
        (404, stream),
    ] {
        ask(status, &[&token, "-X", "DELETE", &url]);
    }
}

fn bearer(token: &str) -> String {
    format!("-HAuthorization: Bearer {token}")
}

/// Every token to every system, and every place in which a token may stand.
fn ask_everything(said: &mut Said, license: &str, key_ids: &[String]) {
    let key_id = &key_ids[0];
    let bytes: Vec<u8> = (key_id.replace('-', "").as_bytes().chunks(2))
        .map(|digits| u8::from_str_radix(str::from_utf8(digits).unwrap(), 16).unwrap())
        .collect();
    let guid = [3, 2, 1, 0, 5, 4, 7, 6].map(|at| bytes[at]);
    let guid = STANDARD.encode([&guid[..], &bytes[8..]].concat());
    let kids = json!({ "kids": [URL_SAFE_NO_PAD.encode(&bytes)] }).to_string();
    let spc = STANDARD.encode([&[0, 0, 0, 1][..], &[0xab; 60]].concat());
    let soap = |custom: &str| {
        format!(
            "<e:Envelope xmlns:e=\"x\"><e:Body><A><WRMHEADER><DATA><KID>{guid}</KID></DATA></WRMHEADER>\
             {custom}</A></e:Body></e:Envelope>"
        )
    };
    let soap_alone = soap("");
    let clear_key = format!("{license}/clearkey/film");
    let systems = [
        (clear_key.clone(), Some(kids.as_str())),
        (format!("{license}/hls/film/{key_id}"), None),
        (
            format!("{license}/widevine/film?kid={key_id}"),
            Some("challenge"),
        ),
        (format!("{license}/playready/film"), Some(&soap_alone)),
        (format!("{license}/fairplay/film?kid={key_id}"), Some(&spc)),
        (format!("{license}/session/renew/film"), Some("")),
        (format!("{license}/session/release/film"), Some("")),
        (format!("{license}/marlin/film"), Some("challenge")),
    ];
    for token in tokens() {
        for (url, body) in &systems {
            let bearer = bearer(&token);
            let mut args = vec![bearer.as_str()];
            args.extend(body.iter().flat_map(|body| ["--data-binary", body]));
            said.ask(url, &args, &token);
        }
    }
    for (number, shape) in [native, message].into_iter().enumerate() {
        let token = shape(json!({ "number": number }));
        let other = shape(json!({ "other": number }));
        let own = format!("-HX-Token: {token}");
        let custom = soap(&format!("<CustomData>{token}</CustomData>"));
        let playready = format!("{license}/playready/film");
        let query = format!("{clear_key}?token={token}");
        said.ask(&clear_key, &[&own, "-d", &kids], &token);
        said.ask(&clear_key, &[&own, &bearer(&other), "-d", &kids], &token);
        said.ask(&query, &["-d", &kids], &token);
        said.ask(&query, &["-d", "no request"], &token);
        said.ask(&query, &[&own, "-d", &kids], &token);
        said.ask(&playready, &["--data-binary", &custom], &token);
        said.ask(&playready, &[&own, "--data-binary", &custom], &other);
        // What breaks off, is too long or is no HTTP.
        let long = "x".repeat(70_000);
        said.ask(&clear_key, &[&own, "-d", &long], &token);
        let authority = license.split('/').nth(2).unwrap();
        for rest in [
            "content-length: 99\r\n\r\n{",
            "\x01: x\r\n\r\n",
            "content-length: x\r\n\r\n",
        ] {
            let mut stream = TcpStream::connect(authority).unwrap();
            let head = format!(
                "POST /license/clearkey/film?token={token} HTTP/1.1\r\nhost: x\r\nx-token: {token}\r\n{rest}"
            );
            stream.write_all(head.as_bytes()).unwrap();
            stream
                .set_read_timeout(Some(Duration::from_millis(100)))
                .unwrap();
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            said.errors.push((format!("what came of {rest:?}"), answer));
        }
    }
}

/// Tokens that are taken and tokens that are not, each of its own.
fn tokens() -> Vec<String> {
    let now = now();
    let good = native(json!({}));
    let (parts, _) = good.rsplit_once('.').unwrap();
    let forged = format!("{parts}.{}", URL_SAFE_NO_PAD.encode([7; 32]));
    vec![
        good.clone(),
        forged,
        format!("{good}x"),
        format!("not.a.{NAME}"),
        "noise-without-dots-0123456789".to_owned(),
        native(json!({ "exp": now - 60 })),
        native(json!({ "nbf": now + 600 })),
        native(json!({ "iss": "https://stranger.example" })),
        native(json!({ "aud": SUBJECT })),
        native(json!({ "assets": [NAME] })),
        native(json!({ "assets": ["other"] })),
        native(json!({ "sub": [SUBJECT] })),
        native(json!({ "policy": "of-nobody" })),
        native(json!({ "single_use": true })),
        native(json!({ "iss": "https://id.example" })),
        native(json!({ "iss": "https://dash.example", "authorized_kids": [] })),
        native(json!({ "iss": "https://dash.example", "authorized_kids": [NAME] })),
        message(json!({})),
        message(json!({ "type": NAME })),
        message(
            json!({ "license_server": { "access_control": { "allowed_ip_addresses": [ADDRESS] } } }),
        ),
        message(
            json!({ "license_server": { "access_control": { "allowed_ip_addresses": ["192.0.2.1"] } } }),
        ),
        message(
            json!({ "content_keys_source": { "inline": [{ "id": NAME, "encrypted_key": SECRET }] } }),
        ),
        message(json!({ "content_keys_source": { "inline": [{ "id": NAME }] } })),
    ]
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_secs()
}

fn merged(mut base: Value, over: Value) -> Value {
    let Value::Object(over) = over else {
        panic!("no object: {over}");
    };
    base.as_object_mut().unwrap().extend(over);
    base
}

/// A token of our own shape that names its viewer, with these claims.
fn native(over: Value) -> String {
    signed(&merged(
        json!({
            "iss": "https://shop.example", "aud": "castellum", "exp": now() + 600, "assets": ["film"],
            "sub": SUBJECT, "jti": TOKEN_ID, "name": NAME, "https://shop.example/address": ADDRESS,
        }),
        over,
    ))
}

/// An entitlement message, with these members.
fn message(over: Value) -> String {
    let base = json!({
        "type": "entitlement_message", "version": 2, "name": NAME,
        "content_keys_source": { "license_request": {} },
    });
    signed(&json!({
        "version": 1, "com_key_id": COM_KEY_ID, "id": TOKEN_ID, "message": merged(base, over),
    }))
}

fn signed(claims: &Value) -> String {
    let [header, claims] =
        [&json!({ "alg": "HS256" }), claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    let signed = format!("{header}.{claims}");
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let tag = hmac::sign(&key, signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
}

/// Someone who is asked for licences and keys, and gives back what was asked in one bad answer after the other.
fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let mut came = vec![0; 64 << 10];
            let _ = stream.set_read_timeout(Some(Duration::from_millis(50)));
            let mut len = 0;
            while let Ok(read @ 1..) = stream.read(&mut came[len..]) {
                len += read;
            }
            let came = String::from_utf8_lossy(&came[..len]).into_owned();
            let line = came.replace(['\r', '\n'], " ");
            let whole = |status: &str, body: &str| {
                format!(
                    "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                )
            };
            let license = STANDARD.encode("a licence");
            let answer = match number % 7 {
                0 => whole("200 OK", &json!({
                    "status": "OK", "license": license, "client_info": [DEVICE, NAME], "echo": came,
                }).to_string()),
                1 => whole("200 OK", &json!({ "status": line }).to_string()),
                2 => whole("200 OK", &json!({ "status": DEVICE }).to_string()),
                3 => whole("500 Oh", &came),
                4 => whole("200 OK", &came),
                5 => format!("HTTP/1.1 200 {line}\r\n{line}\r\n\r\n"),
                _ => String::new(),
            };
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    port
}

/// A node with a film that says all that it can say, whose services are all at `liar`, and whose hooks are gone.
fn node(folder: &Path, port: u16, liar: u16) -> Node {
    let node = Node::new(folder, &folder.join("run"));
    let film = folder.join("media/film");
    fs::create_dir_all(&film).unwrap();
    let title = project().join("packaging/demo/title");
    for name in ["castellum-180.mp4", "castellum-eng.mp4"] {
        fs::copy(title.join(name), film.join(name)).unwrap();
    }
    let file = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let shop = file("shop.secret", SECRET);
    let hook = file("hook.secret", HOOK_SECRET);
    let grant = file("grant.secret", GRANT_SECRET);
    let api = file("api.token", API_TOKEN);
    let hex: String = SIGNING_KEY.map(|byte| format!("{byte:02x}")).concat();
    let signing = file("signing.key", &format!("{hex}\n{}\n", &hex[..32]));
    let path = folder.join("castellum.toml");
    let written = fs::read_to_string(&path).unwrap();
    let written = written.replace(
        "[license.plain]\nlisten = \"127.0.0.1:0\"",
        &format!("[license.plain]\nlisten = \"127.0.0.1:{port}\""),
    );
    let written = written.replace(
        "[license]\n",
        "[license]\ntoken_header = \"X-Token\"\ntoken_query = \"token\"\n",
    );
    let written = written.replace(
        "[license.admin]\n",
        &format!("[license.admin]\ntoken_file = {api:?}\n"),
    );
    let more = format!(
        r#"
[log]
filter = "trace"
format = "json"
access = true
[license.sessions]
streams = 1000
session_header = "X-Session-Id"
devices = 1000
device_header = "X-Device-Id"
revocations = true
[license.access]
proxies = ["127.0.0.0/24"]
address_header = "X-Forwarded-For"
[license.webhooks.crm]
url = "http://127.0.0.1:{liar}/hook"
events = ["granted", "refused", "session_started", "session_ended", "session_expired", "device_added"]
secret_file = {hook:?}
[license.authorisation]
url = "http://127.0.0.1:{liar}/authorise"
secret_file = {hook:?}
fail_open = true
[license.upstreams.widevine]
kind = "widevine"
url = "http://127.0.0.1:{liar}/widevine"
provider = "me"
signer = "me"
signing_key_file = {signing:?}
breaker_failures = 1000
[license.upstreams.playready]
kind = "playready"
url = "http://127.0.0.1:{liar}/playready"
secret_file = {grant:?}
breaker_failures = 1000
[license.upstreams.fairplay]
kind = "fairplay"
url = "http://127.0.0.1:{liar}/fairplay"
breaker_failures = 1000
[[license.issuers]]
name = "shop"
issuer = "https://shop.example"
audience = "castellum"
algorithm = "HS256"
key_file = {shop:?}
[[license.issuers]]
name = "dash"
shape = "dash-if"
issuer = "https://dash.example"
audience = "castellum"
algorithm = "HS256"
key_file = {shop:?}
[[license.issuers]]
name = "vendor"
shape = "axinom"
key_id = "{COM_KEY_ID}"
algorithm = "HS256"
key_file = {shop:?}
[[license.issuers]]
name = "id"
issuer = "https://id.example"
audience = "castellum"
algorithms = ["ES256"]
jwks_url = "http://127.0.0.1:{liar}/jwks"
"#
    );
    fs::write(&path, format!("{written}\n{more}")).unwrap();
    node
}
