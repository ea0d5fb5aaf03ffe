//! What counting streams costs: `cargo bench --profile profiling -p license --bench sessions`.
//!
//! Each row renews the leases of many viewers from many tasks at once. With Debian's PostgreSQL there, the second row is
//! one database, which does not sync, and two licence servers on it.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark's report"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use license::store::postgres::Postgres;
use license::store::sqlite::{FILE_NAME, Sqlite};
use license::store::{Claim, Store, StreamUse, Verdict, Viewer, new_claim};
use license::{Clock as _, SystemClock};

#[path = "../../keystore/tests/postgres/mod.rs"]
mod postgres;

/// How long a row is measured.
const SPAN: Duration = Duration::from_secs(3);

const VIEWERS: u64 = 10_000;
const TASKS: u64 = 128;

fn claim(viewer: u64) -> Claim {
    Claim {
        now: SystemClock.now(),
        viewer: Viewer::new("bench", &viewer.to_string()),
        token: None,
        device: None,
        stream: Some(StreamUse {
            session: "tv".to_owned(),
            asset: "film".parse().unwrap(),
            limit: 2,
            term: Duration::from_secs(120),
            grace: Duration::from_secs(30),
            claim: new_claim().unwrap(),
            events: Vec::new(),
            expiry: None,
        }),
        events_wait: None,
    }
}

async fn row(name: &str, nodes: Vec<Arc<dyn Store>>) {
    let done = Arc::new(AtomicU64::new(0));
    let end = Instant::now() + SPAN;
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..TASKS {
        let node = Arc::clone(&nodes[usize::try_from(task).unwrap() % nodes.len()]);
        let done = Arc::clone(&done);
        tasks.spawn(async move {
            let mut longest = Duration::ZERO;
            for viewer in (task..VIEWERS)
                .step_by(usize::try_from(TASKS).unwrap())
                .cycle()
            {
                let began = Instant::now();
                if began >= end {
                    break;
                }
                let (verdict, _) = node.admit(claim(viewer)).await.unwrap();
                assert!(matches!(verdict, Verdict::Granted { .. }));
                longest = longest.max(began.elapsed());
                done.fetch_add(1, Ordering::Relaxed);
            }
            longest
        });
    }
    let longest = tasks.join_all().await.into_iter().max().unwrap_or_default();
    let rate = done.load(Ordering::Relaxed) / SPAN.as_secs();
    println!("{name:<44} {rate:>8} renewals/s, the slowest {longest:?}");
}

#[tokio::main]
async fn main() {
    let folder = tempfile::tempdir().unwrap();
    let sqlite = Sqlite::open(&folder.path().join(FILE_NAME), 1_000_000).unwrap();
    row("SQLite, synced", vec![Arc::new(sqlite)]).await;
    let Some(server) = postgres::server() else {
        return;
    };
    let settings = server.settings(&server.database().await);
    let open = || Arc::new(Postgres::open(&settings, 1_000_000).unwrap()) as Arc<dyn Store>;
    row("PostgreSQL, two licence servers", vec![open(), open()]).await;
}
