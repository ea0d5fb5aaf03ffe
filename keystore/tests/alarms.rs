//! What an operator is woken for: the metrics that alarms hang on.
//!
//! The process has one recorder, so each test looks at names or labels of its own.
#![expect(clippy::unwrap_used, reason = "a test's panic is its report")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use conf::{AuditSettings, BudgetSettings};
use keystore::capability::Caller;
use keystore::{Clock, Local, testing};
use keystore_client::{
    DescribeRequest, EntitlementRef, Error, ExportRequest, Keystore, LeaseRequest,
};
use keystore_types::{Generation, KeyContext, KeyId, Label, SUBSAMPLE_RULE, Scheme};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

/// Every counter and gauge, as bits, by its name and labels.
#[derive(Default)]
struct Values(Mutex<BTreeMap<String, Arc<AtomicU64>>>);

impl Values {
    fn of(&self, key: &Key) -> Arc<AtomicU64> {
        let labels: Vec<_> = key
            .labels()
            .map(|label| format!("{}={}", label.key(), label.value()))
            .collect();
        let name = format!("{}{{{}}}", key.name(), labels.join(","));
        self.0.lock().unwrap().entry(name).or_default().clone()
    }

    fn bits(&self, name: &str) -> u64 {
        let values = self.0.lock().unwrap();
        values
            .get(name)
            .map_or(0, |bits| bits.load(Ordering::Relaxed))
    }
}

struct Recording(Arc<Values>);

impl Recorder for Recording {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.0.of(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.0.of(key))
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

fn values() -> Arc<Values> {
    static VALUES: OnceLock<Arc<Values>> = OnceLock::new();
    let values = VALUES.get_or_init(|| {
        let values = Arc::new(Values::default());
        metrics::set_global_recorder(Recording(values.clone()))
            .unwrap_or_else(|_| panic!("there is a recorder already"));
        values
    });
    values.clone()
}

struct Hand(Mutex<SystemTime>);

impl Clock for Hand {
    fn now(&self) -> SystemTime {
        *self.0.lock().unwrap()
    }
}

fn contexts(numbers: std::ops::Range<u32>) -> LeaseRequest {
    let context = |number| KeyContext {
        tenant: "default".to_owned(),
        asset: "film".parse().unwrap(),
        label: Label::Hd,
        scheme: Scheme::Cbcs,
        subsample_rule: SUBSAMPLE_RULE,
        generation: Generation {
            sources: [7; 32],
            number,
        },
    };
    LeaseRequest {
        contexts: numbers.map(context).collect(),
    }
}

fn export(key_ids: Vec<KeyId>) -> ExportRequest {
    ExportRequest {
        asset: "film".parse().unwrap(),
        key_ids,
        entitlement: EntitlementRef {
            issuer: "tests".to_owned(),
            subject: None,
            token_id: None,
            system: "clearkey".to_owned(),
        },
    }
}

#[tokio::test]
async fn audit_full_alarms_from_80_percent_on() {
    let values = values();
    let folder = tempfile::tempdir().unwrap();
    let mut settings = testing::settings(folder.path());
    let capacity = 256 << 10;
    settings.audit = AuditSettings {
        capacity,
        reserve: 16 << 10,
    };
    let clock = Arc::new(Hand(Mutex::new(SystemTime::now())));
    let local = Local::open(&settings, clock).await.unwrap();
    let operator = testing::operator(&local);
    operator.init("correct horse".into()).await.unwrap();
    let gauge =
        |name: &str| f64::from_bits(values.bits(&format!("castellum_keystore_audit_{name}{{}}")));
    let origin = testing::origin(&local);
    let mut alarmed_at = None;
    for _ in 0..2000 {
        if origin.lease(contexts(0..1)).await.is_err() {
            break;
        }
        let used = operator.status().await.unwrap().audit_bytes;
        // The gauges are set after the answer: a moment is theirs.
        if gauge("alarm") == 1.0 && alarmed_at.is_none() {
            alarmed_at = Some(used);
        }
    }
    let alarmed_at = alarmed_at.expect("there is an alarm before keys are refused");
    let (least, most) = (capacity / 100 * 80, capacity / 100 * 82);
    assert!((least..most).contains(&alarmed_at), "{alarmed_at}");
    assert_eq!(gauge("capacity_bytes"), 262_144.0);
}

#[tokio::test]
async fn budget_uses_and_distinct_keys_are_limited_and_alarm() {
    let values = values();
    let folder = tempfile::tempdir().unwrap();
    let mut settings = testing::settings(folder.path());
    settings.budget = BudgetSettings {
        uses: 100,
        keys: 30,
        denials: 3,
    };
    // Under names that no other test uses.
    for (name, of) in [("budget-origin", "origin"), ("budget-license", "license")] {
        let caller = settings.callers[of].clone();
        settings.callers.insert(name.to_owned(), caller);
    }
    let clock = Arc::new(Hand(Mutex::new(SystemTime::now())));
    let local = Local::open(&settings, clock.clone()).await.unwrap();
    let operator = testing::operator(&local);
    operator.init("correct horse".into()).await.unwrap();
    let handle = |name| local.handle(Caller::configured(&settings, name).unwrap());
    let origin: Arc<dyn Keystore> = handle("budget-origin");
    let license = handle("budget-license");
    let exceeded = |caller: &str, limit: &str| {
        values.bits(&format!(
            "castellum_keystore_budget_exceeded_total{{caller={caller},limit={limit}}}"
        ))
    };
    let is_over = |error: &Error, limit: &str| matches!(error, Error::Unavailable(why) if why.contains(limit));

    // Different keys: those that are made, and for licences those that are only guessed at.
    let keys = origin.lease(contexts(0..30)).await.unwrap().keys;
    let error = origin.lease(contexts(30..31)).await.unwrap_err();
    assert!(is_over(&error, "keys"), "{error}");
    assert_eq!(
        operator.status().await.unwrap().stored.unwrap().keys,
        30,
        "none is made"
    );
    let guesses = |from: u8| {
        (from..from + 15)
            .map(|byte| KeyId::new([byte; 16]))
            .collect()
    };
    assert!(license.export(export(guesses(0))).await.unwrap().is_empty());
    assert!(
        license
            .export(export(guesses(15)))
            .await
            .unwrap()
            .is_empty()
    );
    let error = license.export(export(guesses(30))).await.unwrap_err();
    assert!(is_over(&error, "keys"), "{error}");
    assert_eq!(exceeded("budget-origin", "keys"), 1);
    assert_eq!(exceeded("budget-license", "keys"), 1);

    // Uses, of whichever keys.
    for _ in 0..7 {
        origin.lease(contexts(0..10)).await.unwrap();
    }
    let error = origin.lease(contexts(0..1)).await.unwrap_err();
    assert!(is_over(&error, "uses"), "{error}");
    assert_eq!(exceeded("budget-origin", "uses"), 1);

    // Refusals: who goes on asking for what is not theirs gets nothing more.
    for _ in 0..3 {
        let error = license.lease(contexts(0..1)).await.unwrap_err();
        assert!(matches!(error, Error::Denied(_)), "{error}");
    }
    let error = license.lease(contexts(0..1)).await.unwrap_err();
    assert!(is_over(&error, "denials"), "{error}");
    assert_eq!(exceeded("budget-license", "denials"), 1);

    // The next minute.
    *clock.0.lock().unwrap() += Duration::from_secs(60);
    let key_ids = vec![keys[0].key_id];
    assert_eq!(license.export(export(key_ids)).await.unwrap().len(), 1);
    origin.lease(contexts(30..31)).await.unwrap();
    let log = std::fs::read_to_string(settings.state_dir.join("audit.log")).unwrap();
    // Once for each caller, limit and minute: keys and uses of the origin, keys and denials of the licence server.
    assert_eq!(log.matches("\"op\":\"budget\"").count(), 4);
}

/// A licence server asks for what viewers name: one who guesses, or asks for assets that the server was not granted, takes
/// nothing from the others.
#[tokio::test]
async fn budget_is_not_used_up_by_describing_what_is_not_there() {
    let values = values();
    let folder = tempfile::tempdir().unwrap();
    let mut settings = testing::settings(folder.path());
    settings.budget = BudgetSettings {
        uses: 100,
        keys: 30,
        denials: 3,
    };
    let mut caller = settings.callers["license"].clone();
    caller.assets = vec!["film".to_owned()];
    settings.callers.insert("asked".to_owned(), caller);
    let clock = Arc::new(Hand(Mutex::new(SystemTime::now())));
    let local = Local::open(&settings, clock).await.unwrap();
    let operator = testing::operator(&local);
    operator.init("correct horse".into()).await.unwrap();
    let made = testing::origin(&local).lease(contexts(0..2)).await.unwrap();
    let license = local.handle(Caller::configured(&settings, "asked").unwrap());
    let describe = |asset: &str, key_ids: Vec<KeyId>| {
        license.describe(DescribeRequest {
            asset: asset.parse().unwrap(),
            key_ids,
        })
    };
    for byte in 0..200 {
        let guesses = (0..64).map(|other| {
            let mut id = [byte; 16];
            id[15] = other;
            KeyId::new(id)
        });
        assert_eq!(describe("film", guesses.collect()).await.unwrap(), []);
        let error = describe("series", vec![KeyId::new([byte; 16])]).await;
        assert!(matches!(error, Err(Error::Denied(_))), "{error:?}");
    }
    let key_ids: Vec<_> = made.keys.iter().map(|key| key.key_id).collect();
    assert_eq!(describe("film", key_ids.clone()).await.unwrap().len(), 2);
    assert_eq!(license.export(export(key_ids)).await.unwrap().len(), 2);
    let log = std::fs::read_to_string(settings.state_dir.join("audit.log")).unwrap();
    assert_eq!(log.matches("\"op\":\"denied\"").count(), 3);
    assert_eq!(log.matches("\"limit\":\"descriptions\"").count(), 1);
    let name = "castellum_keystore_budget_exceeded_total{caller=asked,limit=descriptions}";
    assert_eq!(values.bits(name), 197);
}
