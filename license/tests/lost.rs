//! That no event is lost uncounted in a store. A program of its own: it counts all that happens in it.

#![expect(clippy::unwrap_used, reason = "a test's panic is its report")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use license::UnixTime;
use license::store::postgres::Postgres;
use license::store::sqlite::{FILE_NAME, Sqlite};
use license::store::{Change, Event, Store};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

#[path = "../../keystore/tests/postgres/mod.rs"]
mod postgres;

/// Counts events that were lost, and nothing else.
struct Lost(Arc<AtomicU64>);

impl Recorder for Lost {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        match key.name() {
            "castellum_license_webhook_events_lost_total" => Counter::from_arc(Arc::clone(&self.0)),
            _ => Counter::noop(),
        }
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[tokio::test]
async fn an_event_that_nobody_will_hear_is_counted() {
    let count = Arc::new(AtomicU64::new(0));
    metrics::set_global_recorder(Lost(Arc::clone(&count))).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let sqlite = Sqlite::open(&folder.path().join(FILE_NAME), 5).unwrap();
    let mut stores: Vec<Box<dyn Store>> = vec![Box::new(sqlite)];
    if let Some(server) = postgres::server() {
        let settings = server.settings(&server.database().await);
        stores.push(Box::new(Postgres::open(&settings, 5).unwrap()));
    }
    for store in stores {
        let post = async |ids: std::ops::Range<u8>| {
            let events = ids.map(|id| Event {
                id: id.to_string(),
                hook: "crm".to_owned(),
                body: "{}".to_owned(),
                made: UnixTime::from_seconds(1_700_000_000),
                attempts: 0,
            });
            let posted = store.change(Change::Post(events.collect())).await.unwrap();
            (posted, count.swap(0, Ordering::SeqCst))
        };
        assert_eq!(post(0..3).await, (3, 0));
        assert_eq!(post(3..6).await, (2, 1), "there is room for five");
        let sweep = async |after: u64| {
            let now = UnixTime::from_seconds(1_700_000_000 + after);
            let swept = store.change(Change::Sweep { now }).await.unwrap();
            (swept, count.swap(0, Ordering::SeqCst))
        };
        assert_eq!(sweep(604_799).await, (0, 0));
        assert_eq!(sweep(604_800).await, (5, 5), "a week is over");
    }
}
