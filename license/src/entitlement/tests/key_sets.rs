//! JWK Sets, of files and of issuers that publish them, and what issuers may configure beside their keys.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use conf::{IssuerKeys, IssuerSettings, KeyPlace, SecretSource, TokenAlgorithm};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::Clock;

/// A pair of P-256, and its public half as a JWK.
struct Pair {
    private: SigningKey,
    jwk: Value,
}

fn pair(key_id: &str) -> Pair {
    let random = SystemRandom::new();
    let with = &ECDSA_P256_SHA256_FIXED_SIGNING;
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(with, &random).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(with, pkcs8.as_ref(), &random).unwrap();
    let point = &pair.public_key().as_ref()[1..];
    let [x, y] = [&point[..32], &point[32..]].map(|it| URL_SAFE_NO_PAD.encode(it));
    let pem = pem("PRIVATE KEY", pkcs8.as_ref());
    Pair {
        private: SigningKey::read(Algorithm::Es256, pem.as_bytes()).unwrap(),
        jwk: json!({ "kty": "EC", "crv": "P-256", "kid": key_id, "use": "sig", "x": x, "y": y }),
    }
}

impl Pair {
    fn token(&self, key_id: &str) -> String {
        let claims = Claims {
            assets: Some(AssetGrant::All),
            ..Claims::new(
                "ott",
                "castellum",
                NOW.plus(Duration::from_secs(86_400 * 3)),
            )
        };
        mint(&claims, Some(key_id), &self.private).unwrap()
    }
}

fn set(keys: &[&Value]) -> Vec<u8> {
    json!({ "keys": keys }).to_string().into_bytes()
}

#[test]
fn a_set_is_read_key_by_key_and_a_bad_one_is_skipped() {
    let good = pair("good").jwk;
    let with = |name: &str, value: Value| {
        let mut jwk = good.clone();
        jwk["kid"] = json!(format!("{name}-{value}").replace(['"', '[', ']', ','], ""));
        jwk[name] = value;
        jwk
    };
    let rsa = json!({ "kty": "RSA", "kid": "rsa", "n": "AQAB", "e": "AQAB" });
    let mut off_curve = with("ext", json!(true));
    off_curve["y"] = off_curve["x"].clone();
    let secret = json!({ "kty": "oct", "kid": "oct", "k": URL_SAFE_NO_PAD.encode(SECRET) });
    let bad = [
        with("use", json!("enc")),
        with("key_ops", json!(["sign"])),
        with("key_ops", json!("verify")),
        with("alg", json!("ES384")),
        with("alg", json!("HS256")),
        with("alg", json!(7)),
        with("d", json!("AAAA")),
        with("crv", json!("P-384")),
        with("kid", json!("../x")),
        off_curve,
        rsa,
        secret,
        json!(null),
        // The same name again.
        good.clone(),
    ];
    let fit = [
        with("key_ops", json!(["verify"])),
        with("alg", json!("ES256")),
    ];
    let keys: Vec<&Value> = [&good].into_iter().chain(&bad).chain(&fit).collect();
    let reading = KeySet::read(&set(&keys), &[Algorithm::Es256]).unwrap();
    let skipped: Vec<usize> = reading.skipped.iter().map(|it| it.index).collect();
    assert_eq!(skipped, (1..=bad.len()).collect::<Vec<_>>());
    assert_eq!(reading.members.len(), 3);
    let shown: Vec<String> = reading.skipped.iter().map(ToString::to_string).collect();
    assert!(!shown.concat().contains(&URL_SAFE_NO_PAD.encode(SECRET)));

    for content in [
        &b"[]"[..],
        b"{}",
        br#"{"keys":{}}"#,
        br#"{"keys":[]}"#,
        br#"{"keys":[],"keys":[]}"#,
        &set(&[&bad[0]]),
        &vec![b' '; KeySet::MAX_LEN + 1],
    ] {
        assert!(KeySet::read(content, &[Algorithm::Es256]).is_err());
    }
}

/// RSA keys fit two algorithms: which one it is must not be left to the token.
#[test]
fn a_key_is_for_one_algorithm_that_the_issuer_pins() {
    let modulus = URL_SAFE_NO_PAD.encode([&[0x80; 255][..], &[1]].concat());
    let bare = json!({ "kty": "RSA", "n": modulus, "e": "AQAB" });
    let mut named = bare.clone();
    named["alg"] = json!("PS256");
    use Algorithm::{Es256, Ps256, Rs256};
    for (key, algorithms, taken) in [
        (&bare, &[Rs256][..], true),
        (&bare, &[Rs256, Ps256], false),
        (&bare, &[Es256], false),
        (&named, &[Rs256, Ps256], true),
        (&named, &[Rs256], false),
    ] {
        let reading = KeySet::read(&set(&[key]), algorithms);
        assert_eq!(reading.is_ok(), taken, "{algorithms:?}");
    }
}

#[test]
fn a_set_has_a_bounded_number_of_keys() {
    let jwk = pair("x").jwk;
    let keys: Vec<Value> = (0..KeySet::MAX_KEYS + 5)
        .map(|number| {
            let mut jwk = jwk.clone();
            jwk["kid"] = json!(number.to_string());
            jwk
        })
        .collect();
    let reading = KeySet::read(&set(&keys.iter().collect::<Vec<_>>()), &[Algorithm::Es256]);
    let reading = reading.unwrap();
    assert_eq!(reading.members.len(), KeySet::MAX_KEYS);
    assert_eq!(reading.skipped.len(), 5);
}

/// An issuer that publishes keys, and misbehaves as told.
struct Publisher {
    address: SocketAddr,
    reply: Arc<Mutex<Reply>>,
    asked: Arc<AtomicUsize>,
    heads: Arc<Mutex<Vec<String>>>,
}

#[derive(Clone)]
enum Reply {
    Say(String),
    /// One answer to the path, and another to all else.
    At(&'static str, String, String),
    /// Accepts and never answers.
    Hang,
}

fn ok(headers: &str, body: &[u8]) -> Reply {
    Reply::Say(text(headers, body))
}

fn text(headers: &str, body: &[u8]) -> String {
    let body = String::from_utf8(body.to_vec()).unwrap();
    let len = body.len();
    format!("HTTP/1.1 200 OK\r\ncontent-length: {len}\r\n{headers}\r\n{body}")
}

fn status(line: &str) -> Reply {
    Reply::Say(format!("HTTP/1.1 {line}\r\ncontent-length: 0\r\n\r\n"))
}

impl Publisher {
    async fn open(reply: Reply) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let publisher = Self {
            address: listener.local_addr().unwrap(),
            reply: Arc::new(Mutex::new(reply)),
            asked: Arc::default(),
            heads: Arc::default(),
        };
        let (reply, asked, heads) = (
            Arc::clone(&publisher.reply),
            Arc::clone(&publisher.asked),
            Arc::clone(&publisher.heads),
        );
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (reply, heads) = (reply.lock().unwrap().clone(), Arc::clone(&heads));
                asked.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    let mut head = vec![0; 4096];
                    let read = stream.read(&mut head).await.unwrap();
                    head.truncate(read);
                    let head = String::from_utf8(head).unwrap();
                    let text = match reply {
                        Reply::Say(text) => text,
                        Reply::At(path, text, _) if head.contains(path) => text,
                        Reply::At(_, _, text) => text,
                        Reply::Hang => std::future::pending().await,
                    };
                    heads.lock().unwrap().push(head);
                    // As others may be asking at the same time.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    let _ = stream.write_all(text.as_bytes()).await;
                });
            }
        });
        publisher
    }

    fn reply(&self, reply: Reply) {
        *self.reply.lock().unwrap() = reply;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    fn settings(&self) -> IssuerSettings {
        IssuerSettings {
            algorithms: vec![TokenAlgorithm::Es256],
            keys: IssuerKeys::Fetched(KeyPlace {
                tls: false,
                authority: self.address.to_string(),
                path: "/jwks".to_owned(),
                discovery: false,
                ca_file: "/none".into(),
                timeout: Duration::from_secs(5),
            }),
            ..IssuerSettings::of_key(
                "test",
                "ott",
                "castellum",
                TokenAlgorithm::Es256,
                SecretSource::file("/none"),
            )
        }
    }

    fn load(&self, state_dir: &Path) -> (Verifier, Refresher) {
        let (issuer, refresher) = Issuer::load(&self.settings(), state_dir).unwrap();
        (Verifier::new(vec![issuer]), refresher.unwrap())
    }
}

#[derive(Debug)]
struct Still(UnixTime);

impl Clock for Still {
    fn now(&self) -> UnixTime {
        self.0
    }
}

fn verdict(verifier: &Verifier, token: &str, now: UnixTime) -> Option<Refusal> {
    verifier.verify(token, now).err().map(|it| it.refusal)
}

#[tokio::test]
async fn keys_are_published_before_they_are_used_and_stand_side_by_side() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (pair("old"), pair("new"));
    let publisher = Publisher::open(ok("", &set(&[&old.jwk]))).await;
    let (verifier, mut refresher) = publisher.load(folder.path());
    let unavailable = Some(Refusal::IssuerKeysUnavailable);
    let unknown = Some(Refusal::IssuerUnknown(IssuerMismatch::KeyId));
    assert_eq!(verdict(&verifier, &old.token("old"), NOW), unavailable);
    for (keys, of_old, of_new) in [
        (&[&old.jwk][..], None, unknown.clone()),
        (&[&old.jwk, &new.jwk], None, None),
        (&[&new.jwk], unknown.clone(), None),
    ] {
        publisher.reply(ok("", &set(keys)));
        refresher.refresh(NOW).await.unwrap();
        assert_eq!(verdict(&verifier, &old.token("old"), NOW), of_old);
        assert_eq!(verdict(&verifier, &new.token("new"), NOW), of_new);
    }
    // The name alone does not make it the key.
    let forged = old.token("new");
    assert_eq!(
        verdict(&verifier, &forged, NOW),
        Some(Refusal::SignatureInvalid)
    );
}

#[tokio::test]
async fn age_and_tag_of_the_answer_are_honoured_within_bounds() {
    let folder = tempfile::tempdir().unwrap();
    let key = pair("a");
    let keys = set(&[&key.jwk]);
    let publisher = Publisher::open(ok("etag: \"v1\"\r\n", &keys)).await;
    let (verifier, mut refresher) = publisher.load(folder.path());
    for (headers, seconds) in [
        ("", 600),
        ("cache-control: public, max-age=1200\r\n", 1200),
        ("cache-control: max-age=0\r\n", 60),
        ("cache-control: max-age=99999999\r\n", 43_200),
        ("cache-control: max-age=x\r\n", 600),
        ("cache-control: no-store\r\n", 600),
    ] {
        publisher.reply(ok(&format!("etag: \"v1\"\r\n{headers}"), &keys));
        let age = refresher.refresh(NOW).await;
        assert_eq!(age, Some(Duration::from_secs(seconds)), "{headers}");
    }
    publisher.reply(Reply::Say(
        "HTTP/1.1 304 Not Modified\r\ncache-control: max-age=90\r\n\r\n".to_owned(),
    ));
    let later = NOW.plus(Duration::from_secs(86_000));
    let age = refresher.refresh(later).await;
    assert_eq!(age, Some(Duration::from_secs(90)));
    let heads = publisher.heads.lock().unwrap();
    assert!(!heads[0].contains("if-none-match"));
    assert!(heads.last().unwrap().contains("if-none-match: \"v1\""));
    // The answer renewed the keys.
    let end = later.plus(Duration::from_secs(86_399));
    assert_eq!(verdict(&verifier, &key.token("a"), end), None);
}

#[tokio::test]
async fn an_issuer_that_is_down_is_not_missed_for_a_day_nor_by_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let key = pair("a");
    let token = key.token("a");
    let publisher = Publisher::open(ok("", &set(&[&key.jwk]))).await;
    let (_, refresher) = publisher.load(folder.path());
    let running = tokio::spawn(refresher.run(Arc::new(Still(NOW))));
    while std::fs::read_dir(folder.path().join("issuer-keys")).map_or(0, Iterator::count) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    running.abort();

    let (verifier, mut refresher) = publisher.load(folder.path());
    let hour = |count: u64| NOW.plus(Duration::from_secs(3600 * count));
    for reply in [
        status("500 Internal Server Error"),
        status("404 Not Found"),
        Reply::Say(format!(
            "HTTP/1.1 302 Found\r\nlocation: http://{}/jwks\r\ncontent-length: 0\r\n\r\n",
            publisher.address
        )),
        // Not asked for: nothing was fetched since the start.
        status("304 Not Modified"),
        Reply::Say(String::new()),
        Reply::Hang,
        ok("", b"<html>"),
        ok("", br#"{"keys":[]}"#),
        ok("", &vec![b' '; KeySet::MAX_LEN + 1]),
    ] {
        publisher.reply(reply);
        assert_eq!(refresher.refresh(hour(1)).await, None);
        assert_eq!(verdict(&verifier, &token, hour(23)), None);
    }
    assert_eq!(
        verdict(&verifier, &token, hour(24)),
        Some(Refusal::IssuerKeysUnavailable)
    );
    // No redirect was followed.
    assert_eq!(publisher.asked(), 1 + 9);

    // What was kept is not believed for longer because the file is there.
    let (verifier, _) = publisher.load(folder.path());
    assert_eq!(
        verdict(&verifier, &token, hour(24)),
        Some(Refusal::IssuerKeysUnavailable)
    );
    let kept = std::fs::read_dir(folder.path().join("issuer-keys")).unwrap();
    for file in kept {
        std::fs::write(file.unwrap().path(), "{").unwrap();
    }
    let (verifier, _) = publisher.load(folder.path());
    assert_eq!(
        verdict(&verifier, &token, hour(1)),
        Some(Refusal::IssuerKeysUnavailable)
    );
}

/// What becomes of a request, which waits for keys that are missing.
async fn admit(verifier: &Verifier, token: &str) -> Result<Entitlement, Rejection> {
    let verdict = verifier.verify(token, NOW);
    let missing = (verdict.as_ref().err())
        .and_then(|rejection| verifier.missing_keys(token, &rejection.refusal));
    match missing {
        Some(missing) => match missing.fetched().await {
            true => verifier.verify(token, NOW),
            false => verdict,
        },
        None => verdict,
    }
}

/// The attack row "unknown kid storm".
#[tokio::test]
async fn a_storm_of_unknown_key_ids_costs_one_fetch_in_an_interval() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (pair("old"), pair("new"));
    let publisher = Publisher::open(ok("", &set(&[&old.jwk]))).await;
    let (verifier, refresher) = publisher.load(folder.path());
    let running = tokio::spawn(refresher.run(Arc::new(Still(NOW))));
    // The first token waits for the first fetch.
    admit(&verifier, &old.token("old")).await.unwrap();
    assert_eq!(publisher.asked(), 1);

    let verifier = Arc::new(verifier);
    let storm = async || {
        let mut tasks = Vec::new();
        for number in 0..50 {
            let (verifier, token) = (Arc::clone(&verifier), old.token(&format!("k{number}")));
            tasks.push(tokio::spawn(async move {
                let rejection = admit(&verifier, &token).await.unwrap_err();
                assert_eq!(
                    rejection.refusal,
                    Refusal::IssuerUnknown(IssuerMismatch::KeyId)
                );
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
    };
    storm().await;
    assert_eq!(publisher.asked(), 1, "it was asked just now");

    let later = async || {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(31)).await;
        tokio::time::resume();
    };
    later().await;
    storm().await;
    assert_eq!(publisher.asked(), 2);

    // A key that was published meanwhile is found by the token that needs it.
    publisher.reply(ok("", &set(&[&old.jwk, &new.jwk])));
    admit(&verifier, &new.token("new")).await.unwrap_err();
    later().await;
    admit(&verifier, &new.token("new")).await.unwrap();
    assert_eq!(publisher.asked(), 3);
    running.abort();
}

#[tokio::test]
async fn an_issuer_of_whom_no_key_is_known_is_asked_again_soon() {
    let folder = tempfile::tempdir().unwrap();
    let key = pair("a");
    let failing = "HTTP/1.1 500 Down\r\ncontent-length: 0\r\n\r\n".to_owned();
    let publisher = Publisher::open(Reply::Say(failing)).await;
    let (verifier, refresher) = publisher.load(folder.path());
    let running = tokio::spawn(refresher.run(Arc::new(Still(NOW))));
    admit(&verifier, &key.token("a")).await.unwrap_err();
    publisher.reply(ok("", &set(&[&key.jwk])));
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(6)).await;
    tokio::time::resume();
    while admit(&verifier, &key.token("a")).await.is_err() {
        assert!(
            publisher.asked() < 3,
            "it was asked, and the key is not there"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(publisher.asked(), 2);
    running.abort();
}

#[tokio::test]
async fn nobody_waits_for_the_keys_of_another_issuer() {
    let folder = tempfile::tempdir().unwrap();
    let publisher = Publisher::open(Reply::Hang).await;
    let (slow, refresher) = Issuer::load(&publisher.settings(), folder.path()).unwrap();
    let slow = Issuer {
        iss: Some("slow".to_owned()),
        ..slow
    };
    let running = tokio::spawn(refresher.unwrap().run(Arc::new(Still(NOW))));
    let own = issuer(VerificationKey::read(Algorithm::Hs256, SECRET).unwrap());
    let verifier = Verifier::new(vec![slow, own]);
    let theirs = signed(HEADER, &CLAIMS.replace("\"ott\"", "\"slow\""));
    let mut waiting = std::pin::pin!(admit(&verifier, &theirs));
    let others = async {
        admit(&verifier, &signed(HEADER, CLAIMS)).await.unwrap();
        let forged = format!("{}A", signed(HEADER, CLAIMS));
        admit(&verifier, &forged).await.unwrap_err();
    };
    tokio::select! {
        biased;
        rejection = &mut waiting => panic!("{rejection:?}"),
        () = others => {}
    }

    // And who must wait, does not wait for ever.
    let rejection = tokio::time::timeout(Duration::from_secs(60), waiting).await;
    assert_eq!(
        rejection.expect("it ends").unwrap_err().refusal,
        Refusal::IssuerKeysUnavailable
    );
    running.abort();
}

#[tokio::test]
async fn an_openid_provider_is_found_by_its_own_name_alone() {
    let folder = tempfile::tempdir().unwrap();
    let key = pair("a");
    let keys = Publisher::open(ok("", &set(&[&key.jwk]))).await;
    let provider = Publisher::open(status("404 Not Found")).await;
    let iss = format!("http://{}", provider.address);
    let IssuerKeys::Fetched(place) = provider.settings().keys else {
        panic!("it publishes its keys");
    };
    let settings = IssuerSettings {
        issuer: Some(iss.clone()),
        keys: IssuerKeys::Fetched(KeyPlace {
            discovery: true,
            path: "/.well-known/openid-configuration".to_owned(),
            ..place
        }),
        ..provider.settings()
    };
    let (issuer, refresher) = Issuer::load(&settings, folder.path()).unwrap();
    assert!(issuer.openid);
    let mut refresher = refresher.unwrap();
    let document = |issuer: &str, jwks_uri: Value| {
        let document = json!({ "issuer": issuer, "jwks_uri": jwks_uri });
        ok("", document.to_string().as_bytes())
    };
    let elsewhere = json!(format!("http://{}/jwks", keys.address));
    for (issuer, jwks_uri) in [
        ("https://other.example", elsewhere.clone()),
        (&format!("{iss}/"), elsewhere.clone()),
        // Without TLS only where the provider itself is.
        (&iss, elsewhere),
        (&iss, json!("file:///etc/passwd")),
        (&iss, json!("/jwks")),
        (&iss, json!(7)),
        (&iss, Value::Null),
    ] {
        provider.reply(document(issuer, jwks_uri.clone()));
        assert_eq!(refresher.refresh(NOW).await, None, "{issuer} {jwks_uri}");
    }
    assert_eq!(keys.asked(), 0);

    let document = json!({ "issuer": iss, "jwks_uri": format!("{iss}/keys?v=1") });
    provider.reply(Reply::At(
        "GET /keys?v=1 ",
        text("", &set(&[&key.jwk])),
        text("", document.to_string().as_bytes()),
    ));
    refresher.refresh(NOW).await.unwrap();
    let claims = Claims {
        assets: Some(AssetGrant::All),
        ..Claims::new(iss, "castellum", NOW.plus(Duration::from_secs(60)))
    };
    let token = mint(&claims, Some("a"), &key.private).unwrap();
    Verifier::new(vec![issuer]).verify(&token, NOW).unwrap();
}

/// ID tokens tell a client who signed in; access tokens say so in their type.
#[test]
fn openid_issuers_give_access_tokens_and_no_other() {
    let verifier = |openid| {
        let key = VerificationKey::read(Algorithm::Hs256, SECRET).unwrap();
        Verifier::new(vec![Issuer {
            openid,
            ..issuer(key)
        }])
    };
    let access = signed(r#"{"alg":"HS256","typ":"at+jwt"}"#, CLAIMS);
    verifier(true).verify(&access, NOW).unwrap();
    assert_eq!(
        refusal(&verifier(false), &access),
        Refusal::TokenMalformed(Malformation::Header("typ"))
    );
    for claim in [
        r#""nonce":"n""#,
        r#""at_hash":"h""#,
        r#""c_hash":"h""#,
        r#""typ":"ID""#,
        r#""token_use":"id""#,
    ] {
        let claims = format!("{},{claim}}}", &CLAIMS[..CLAIMS.len() - 1]);
        let token = signed(HEADER, &claims);
        assert_eq!(
            refusal(&verifier(true), &token),
            Refusal::IdToken,
            "{claim}"
        );
        verifier(false).verify(&token, NOW).unwrap();
    }
}
