//! Hooks against servers that listen, lie, fail and hang.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes as Body;
use axum::extract::State;
use axum::routing::post;
use conf::{AuthorisationSettings, WebhookEvent, WebhookSettings};
use http::StatusCode;
use keystore_types::KeyId;
use serde_json::{Value, json};

use super::*;
use crate::decision_log::Authorisation;
use crate::entitlement::Bearer;
use crate::store::Store;
use crate::store::sqlite::Sqlite;
use crate::{Clock, Refusal};

const SECRET: &str = "a key of the tests that has more than 32 bytes";

/// How long anything may take to come about on the slowest machine before a test says that it did not.
const PATIENCE: Duration = Duration::from_secs(60);

/// As a delay: no answer.
const NEVER: Duration = Duration::from_secs(86_400);

#[derive(Debug)]
struct Hands(AtomicU64);

impl Clock for Hands {
    fn now(&self) -> UnixTime {
        UnixTime::from_seconds(self.0.load(Ordering::SeqCst))
    }
}

/// What came, and what is answered in turn; the last again and again.
struct Listener {
    came: Mutex<Vec<(HeaderMap, String)>>,
    answers: Vec<(StatusCode, &'static str)>,
    asked: AtomicUsize,
    delay: Duration,
}

async fn hear(
    State(listener): State<Arc<Listener>>,
    headers: HeaderMap,
    body: Body,
) -> (StatusCode, &'static str) {
    let index = listener.asked.fetch_add(1, Ordering::SeqCst);
    let body = String::from_utf8(body.to_vec()).unwrap();
    listener.came.lock().unwrap().push((headers, body));
    tokio::time::sleep(listener.delay).await;
    listener.answers[index.min(listener.answers.len() - 1)]
}

async fn listener(
    folder: &Path,
    delay: Duration,
    answers: &[(StatusCode, &'static str)],
) -> (Arc<Listener>, HookSettings) {
    let listener = Arc::new(Listener {
        came: Mutex::default(),
        answers: answers.to_vec(),
        asked: AtomicUsize::new(0),
        delay,
    });
    let app = Router::new()
        .route("/hook", post(hear))
        .with_state(Arc::clone(&listener));
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = socket.local_addr().unwrap().to_string();
    tokio::spawn(async move { axum::serve(socket, app).await.unwrap() });
    let secret = folder.join("secret");
    std::fs::write(&secret, SECRET).unwrap();
    let settings = HookSettings {
        table: "license.test".to_owned(),
        tls: false,
        authority,
        path: "/hook".to_owned(),
        secret: SecretSource::file(secret),
        ca_file: folder.join("none"),
        timeout: PATIENCE,
    };
    (listener, settings)
}

fn bearer() -> Bearer {
    Bearer {
        issuer: "shop".to_owned(),
        subject: Some("ann".to_owned()),
        token_id: Some("t1".to_owned()),
    }
}

impl Listener {
    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// The bodies, each with its signature checked; and the ids.
    fn heard(&self) -> Vec<(String, Value)> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
        let came = self.came.lock().unwrap();
        let heard = came.iter().map(|(headers, body)| {
            let text = |name| headers[name].to_str().unwrap();
            let (id, timestamp) = (text("webhook-id"), text("webhook-timestamp"));
            let signed = format!("{id}.{timestamp}.{body}");
            let signature = text("webhook-signature").strip_prefix("v1,").unwrap();
            let signature = STANDARD.decode(signature).unwrap();
            hmac::verify(&key, signed.as_bytes(), &signature).unwrap();
            (id.to_owned(), serde_json::from_str(body).unwrap())
        });
        heard.collect()
    }
}

async fn until(what: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !what() {
        assert!(Instant::now() < deadline, "it does not come about");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn an_event_is_told_until_it_was_heard_and_by_one_id() {
    let folder = tempfile::tempdir().unwrap();
    let answers = [(StatusCode::BAD_GATEWAY, ""), (StatusCode::NO_CONTENT, "")];
    let (heard, hook) = listener(folder.path(), Duration::ZERO, &answers).await;
    let (deaf, deaf_hook) = listener(folder.path(), Duration::ZERO, &answers[1..]).await;
    let hooks = BTreeMap::from([
        (
            "crm".to_owned(),
            WebhookSettings {
                hook,
                events: vec![WebhookEvent::Granted],
            },
        ),
        (
            "other".to_owned(),
            WebhookSettings {
                hook: deaf_hook,
                events: vec![WebhookEvent::SessionEnded],
            },
        ),
    ]);
    let store: Arc<dyn Store> =
        Arc::new(Sqlite::open(&folder.path().join("sessions.db"), 1000).unwrap());
    let clock = Arc::new(Hands(AtomicU64::new(1_700_000_000)));
    let (teller, telling) = Teller::open(&hooks, Arc::clone(&store), clock.clone()).unwrap();
    tokio::spawn(telling.run());
    let told = Told {
        kids: vec![KeyId::new([1; 16])],
        ..Told::new(WebhookEvent::Granted, &bearer(), &"film".parse().unwrap())
    };
    teller.tell(&told, clock.now());
    // Nobody wants to hear that.
    let refused = Told {
        event: WebhookEvent::Refused,
        ..told
    };
    teller.tell(&refused, clock.now());
    until(|| heard.asked() == 1).await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(heard.asked(), 1, "it waits before it tries again");
    clock.0.fetch_add(2, Ordering::SeqCst);
    until(|| heard.asked() == 2).await;
    clock.0.fetch_add(9999, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let heard = heard.heard();
    assert_eq!(heard.len(), 2, "once it was heard it is told no more");
    assert_eq!(heard[0], heard[1], "with one id");
    let said = json!({
        "type": "granted",
        "timestamp": 1_700_000_000,
        "data": {
            "issuer": "shop", "subject": "ann", "token_id": "t1", "asset": "film",
            "kids": [KeyId::new([1; 16])],
        },
    });
    assert_eq!(heard[0].1, said);
    assert_eq!(deaf.asked(), 0);
    for hook in ["crm", "other"] {
        let left = store.take_events(hook, UnixTime::MAX, UnixTime::MAX, 10);
        assert_eq!(left.await.unwrap(), []);
    }
}

/// More events than are told at once wait for a hook that never answers, and those of another are told at once.
#[tokio::test]
async fn a_hook_that_hangs_holds_up_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let answers = [(StatusCode::NO_CONTENT, "")];
    let (hanging, slow) = listener(folder.path(), NEVER, &answers).await;
    let (prompt, quick) = listener(folder.path(), Duration::ZERO, &answers).await;
    let hook = |hook| WebhookSettings {
        hook,
        events: vec![WebhookEvent::Granted],
    };
    let slow = HookSettings {
        timeout: NEVER,
        ..slow
    };
    // By name the one that hangs comes first.
    let hooks = BTreeMap::from([("a".to_owned(), hook(slow)), ("b".to_owned(), hook(quick))]);
    let path = folder.path().join("sessions.db");
    let store: Arc<dyn Store> = Arc::new(Sqlite::open(&path, 1000).unwrap());
    let clock = Arc::new(Hands(AtomicU64::new(1_700_000_000)));
    let (teller, telling) = Teller::open(&hooks, store, clock.clone()).unwrap();
    tokio::spawn(telling.run());
    for _ in 0..100 {
        let told = Told::new(WebhookEvent::Granted, &bearer(), &"film".parse().unwrap());
        teller.tell(&told, clock.now());
    }
    until(|| prompt.asked() == 100).await;
    until(|| hanging.asked() == 32).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(hanging.asked(), 32, "so many wait for it, and no more");
}

async fn judged(authoriser: &Authoriser, asset: &str) -> Result<Authorisation, Refusal> {
    let asset = asset.parse().unwrap();
    let now = UnixTime::from_seconds(1_700_000_000);
    let (bearer, kids) = (bearer(), [KeyId::new([1; 16])]);
    let question = Question::new(&bearer, &asset, &kids, "hls");
    authoriser.judge(&question, now).await
}

fn of_timeout(seconds: u64, hook: HookSettings) -> HookSettings {
    HookSettings {
        timeout: Duration::from_secs(seconds),
        ..hook
    }
}

fn asking(hook: HookSettings, cache: u64, fail_open: bool) -> Authoriser {
    Authoriser::open(&AuthorisationSettings {
        hook,
        cache: Duration::from_secs(cache),
        fail_open,
    })
    .unwrap()
}

#[tokio::test]
async fn an_answer_counts_and_is_remembered_for_its_question() {
    let folder = tempfile::tempdir().unwrap();
    let answers = [
        (StatusCode::OK, r#"{"allow": true}"#),
        (StatusCode::OK, r#"{"allow": false, "why": "unpaid"}"#),
    ];
    let (listener, hook) = listener(folder.path(), Duration::ZERO, &answers).await;
    let authoriser = asking(hook.clone(), 60, false);
    for _ in 0..3 {
        assert_eq!(
            judged(&authoriser, "film").await,
            Ok(Authorisation::Allowed)
        );
        let refused = Err(Refusal::NotAuthorised);
        assert_eq!(judged(&authoriser, "other").await, refused);
    }
    assert_eq!(listener.asked(), 2);
    let question = json!({
        "issuer": "shop", "subject": "ann", "token_id": "t1", "asset": "film",
        "kids": [KeyId::new([1; 16])], "system": "hls",
    });
    assert_eq!(listener.heard()[0].1, question);
    let forgetful = asking(hook, 0, false);
    for _ in 0..2 {
        let refused = Err(Refusal::NotAuthorised);
        assert_eq!(judged(&forgetful, "film").await, refused);
    }
    assert_eq!(listener.asked(), 4);
}

/// Each member may be what the answer hangs on.
#[tokio::test]
async fn no_answer_counts_for_a_question_that_differs_in_a_member() {
    let folder = tempfile::tempdir().unwrap();
    let answer = [(StatusCode::OK, r#"{"allow": true}"#)];
    let (listener, hook) = listener(folder.path(), Duration::ZERO, &answer).await;
    let authoriser = asking(hook, 60, false);
    let (bearer, film) = (bearer(), "film".parse().unwrap());
    let question = || Question::new(&bearer, &film, &[], "hls");
    let some = || Some("SE".to_owned());
    let questions = [
        question(),
        Question::new(&bearer, &film, &[], "widevine"),
        Question {
            policy: Some("SE"),
            ..question()
        },
        Question {
            session: some(),
            ..question()
        },
        Question {
            device: some(),
            ..question()
        },
        Question {
            country: some(),
            ..question()
        },
    ];
    for asked in questions.iter().chain(&questions) {
        let now = UnixTime::from_seconds(1_700_000_000);
        let allowed = authoriser.judge(asked, now).await;
        assert_eq!(allowed, Ok(Authorisation::Allowed));
    }
    assert_eq!(listener.asked(), questions.len());
}

#[tokio::test]
async fn whoever_fails_is_left_alone_and_the_rule_stands_in() {
    let folder = tempfile::tempdir().unwrap();
    for answer in [
        (StatusCode::INTERNAL_SERVER_ERROR, r#"{"allow": true}"#),
        (StatusCode::OK, "nonsense"),
        (StatusCode::FOUND, r#"{"allow": true}"#),
    ] {
        for (fail_open, expected) in [
            (true, Ok(Authorisation::FailedOpen)),
            (false, Err(Refusal::AuthoriserUnavailable)),
        ] {
            let (listener, hook) = listener(folder.path(), Duration::ZERO, &[answer]).await;
            let authoriser = asking(hook, 60, fail_open);
            for _ in 0..9 {
                assert_eq!(judged(&authoriser, "film").await, expected);
            }
            assert_eq!(listener.asked(), 5, "after that it is left alone");
        }
    }
}

#[tokio::test]
async fn nobody_waits_longer_than_the_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let answer = [(StatusCode::OK, r#"{"allow": true}"#)];
    let (_listener, hook) = listener(folder.path(), NEVER, &answer).await;
    let authoriser = asking(of_timeout(1, hook), 60, false);
    let refused = Err(Refusal::AuthoriserUnavailable);
    let judged = tokio::time::timeout(PATIENCE, judged(&authoriser, "film")).await;
    assert_eq!(judged.expect("it is waited for in vain"), refused);
}

/// How many of many questions at once have which end. The `n`th is of the subject and for the keys that these say.
async fn all_at_once(
    authoriser: Authoriser,
    count: u8,
    question: impl Fn(u8) -> (String, Vec<KeyId>),
) -> [usize; 3] {
    let authoriser = Arc::new(authoriser);
    let asking = (0..count).map(|number| {
        let (subject, kids) = question(number);
        let authoriser = Arc::clone(&authoriser);
        tokio::spawn(async move {
            let bearer = Bearer {
                subject: Some(subject),
                ..bearer()
            };
            let (film, now) = (
                "film".parse().unwrap(),
                UnixTime::from_seconds(1_700_000_000),
            );
            let question = Question::new(&bearer, &film, &kids, "hls");
            authoriser.judge(&question, now).await
        })
    });
    let asking: Vec<_> = asking.collect();
    let mut ends = [0; 3];
    for asking in asking {
        ends[match asking.await.unwrap() {
            Ok(_) => 0,
            Err(Refusal::NotAuthorised) => 1,
            Err(Refusal::AuthoriserUnavailable) => 2,
            Err(other) => panic!("{other}"),
        }] += 1;
    }
    assert_eq!(authoriser.lines_kept(), 0, "nobody is in line any more");
    ends
}

/// Each question for other keys, so that no answer counts for another.
#[tokio::test]
async fn a_viewer_who_is_denied_gets_in_by_no_number_of_questions() {
    let folder = tempfile::tempdir().unwrap();
    let answer = [(StatusCode::OK, r#"{"allow": false}"#)];
    // Whoever waits for its turn gives up after twice the time of an answer: sixteen are answered by then.
    let delay = Duration::from_millis(500);
    let (listener, hook) = listener(folder.path(), delay, &answer).await;
    let authoriser = asking(of_timeout(4, hook), 60, true);
    let [let_in, denied, unheard] = all_at_once(authoriser, 200, |number| {
        ("ann".to_owned(), vec![KeyId::new([number; 16])])
    })
    .await;
    assert_eq!(let_in, 0);
    assert_eq!(denied + unheard, 200);
    assert_eq!(listener.asked(), denied, "one after the other");
    assert!(denied < 20, "{denied}");
}

/// More viewers than may ask at once.
#[tokio::test]
async fn a_crowd_that_is_denied_waits_for_the_answer() {
    let folder = tempfile::tempdir().unwrap();
    let answer = [(StatusCode::OK, r#"{"allow": false}"#)];
    let delay = Duration::from_millis(200);
    let (_listener, hook) = listener(folder.path(), delay, &answer).await;
    let ends = all_at_once(asking(hook, 60, true), 250, |number| {
        (format!("viewer-{number}"), vec![KeyId::new([1; 16])])
    });
    assert_eq!(ends.await, [0, 250, 0]);
}

#[tokio::test]
async fn one_question_is_asked_once_whatever_the_order_of_its_keys() {
    let folder = tempfile::tempdir().unwrap();
    let answer = [(StatusCode::OK, r#"{"allow": true}"#)];
    let delay = Duration::from_millis(100);
    let (listener, hook) = listener(folder.path(), delay, &answer).await;
    let ends = all_at_once(asking(hook, 60, false), 60, |number| {
        let mut kids = [1, 2, 3].map(|byte| KeyId::new([byte; 16]));
        kids.rotate_left(usize::from(number) % 3);
        let again = kids[0];
        let kids = kids.into_iter().chain([again]);
        ("ann".to_owned(), kids.collect())
    });
    assert_eq!(ends.await, [60, 0, 0]);
    assert_eq!(listener.asked(), 1);
}

/// Behind a question that hangs, the rule for no answer stands in at once for the others.
#[tokio::test]
async fn those_who_wait_behind_a_question_without_an_answer_have_none() {
    let folder = tempfile::tempdir().unwrap();
    let answer = [(StatusCode::OK, r#"{"allow": true}"#)];
    for (fail_open, expected) in [(true, [20, 0, 0]), (false, [0, 0, 20])] {
        let (listener, hook) = listener(folder.path(), NEVER, &answer).await;
        let authoriser = asking(of_timeout(2, hook), 60, fail_open);
        let ends = all_at_once(authoriser, 20, |number| {
            ("ann".to_owned(), vec![KeyId::new([number; 16])])
        });
        assert_eq!(ends.await, expected);
        assert_eq!(listener.asked(), 1);
    }
}

#[test]
fn a_short_key_is_refused_and_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "hunter2").unwrap();
    let error = key("license.webhooks.crm", &SecretSource::file(&secret)).unwrap_err();
    let said = error.to_string();
    assert!(said.contains("license.webhooks.crm.secret_file"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn a_key_after_whsec_is_in_base64() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    let read = |written: &str| {
        std::fs::write(&path, written).unwrap();
        key("license.webhooks.crm", &SecretSource::file(&path))
    };
    let of = |bytes: &[u8]| signature(&hmac::Key::new(hmac::HMAC_SHA256, bytes), "a", "1", "b");
    // As long as the standard's libraries draw them.
    let bytes = [0xfb; 24];
    let written = format!("whsec_{}\n", STANDARD.encode(bytes));
    let found = read(&written).unwrap();
    assert_eq!(signature(&found, "a", "1", "b"), of(&bytes));
    let raw = "wh5ec_+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7";
    let found = read(raw).unwrap();
    assert_eq!(signature(&found, "a", "1", "b"), of(raw.as_bytes()));
    for (wrong, why) in [
        ("whsec_-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_v7", "is not Base64"),
        ("whsec_+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v", "is not Base64"),
        ("whsec_+/v7+/v7+/v7", "less than 24 bytes"),
        ("whsec_", "less than 24 bytes"),
    ] {
        let error = read(wrong).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Malformed, "{wrong}");
        let said = error.to_string();
        assert!(said.contains(why), "{said}");
        assert!(said.contains("license.webhooks.crm.secret_file"), "{said}");
        assert!(!said.contains(wrong), "{said}");
    }
}

const DOCUMENT: &str = include_str!("../../design/webhooks.md");

#[test]
fn the_documents_example_has_its_signature() {
    let part = |name: &str| {
        let mut lines = (DOCUMENT.lines()).filter_map(|line| line.strip_prefix(name));
        let value = lines.next().unwrap().trim();
        assert_eq!(lines.next(), None, "{name} twice");
        value
    };
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, part("key  ")).unwrap();
    let key = key("license.webhooks.crm", &SecretSource::file(secret)).unwrap();
    let (id, timestamp, body) = (part("id  "), part("timestamp  "), part("body  "));
    assert_eq!(signature(&key, id, timestamp, body), part("signature  "));
    let mut told = Told {
        device: Some("tv-4c3b2a19".to_owned()),
        ..Told::new(
            WebhookEvent::DeviceAdded,
            &bearer(),
            &"film".parse().unwrap(),
        )
    };
    let example: Value = serde_json::from_str(body).unwrap();
    assert_eq!(example["data"], serde_json::to_value(&told).unwrap());
    told.device = None;
    assert_ne!(example["data"], serde_json::to_value(&told).unwrap());
}

#[test]
fn the_document_has_every_event_and_every_member() {
    use WebhookEvent::{
        DeviceAdded, Granted, Refused, SessionEnded, SessionExpired, SessionStarted,
    };
    // A new kind does not compile until it has a place here.
    let listed = |event: &WebhookEvent| match event {
        Granted | Refused | DeviceAdded | SessionStarted | SessionEnded | SessionExpired => (),
    };
    let every = [
        Granted,
        Refused,
        DeviceAdded,
        SessionStarted,
        SessionEnded,
        SessionExpired,
    ];
    every.iter().for_each(listed);
    for event in every {
        let name = serde_json::to_value(event).unwrap();
        let row = format!("\n| `{}` | ", name.as_str().unwrap());
        assert!(DOCUMENT.contains(&row), "{row}");
    }
    let (bearer, film) = (bearer(), "film".parse().unwrap());
    let some = || Some("it".to_owned());
    let kids = [KeyId::new([1; 16])];
    let told = Told {
        device: some(),
        session: some(),
        kids: kids.to_vec(),
        reason: Some("it"),
        ..Told::new(Granted, &bearer, &film)
    };
    let question = Question {
        policy: Some("it"),
        session: some(),
        device: some(),
        country: some(),
        ..Question::new(&bearer, &film, &kids, "hls")
    };
    let members =
        |value: &Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    let (events, asked) = DOCUMENT
        .split_once("## The question before a licence")
        .unwrap();
    for (text, value) in [
        (events, serde_json::to_value(&told).unwrap()),
        (asked, serde_json::to_value(&question).unwrap()),
    ] {
        for member in members(&value) {
            assert!(text.contains(&format!("`{member}`")), "{member}");
        }
    }
    let example = asked
        .split("```json")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    let example: Value = serde_json::from_str(example).unwrap();
    assert_eq!(
        members(&example),
        members(&serde_json::to_value(&question).unwrap())
    );
}
