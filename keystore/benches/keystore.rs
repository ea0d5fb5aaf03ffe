//! What a key costs: `cargo bench -p keystore --bench keystore`, and `KEYS=1000000` for a store as large as that.
//!
//! With Debian's PostgreSQL there, the last row is leases over two keystores that share a database of it, which does not
//! sync.
//!
//! The rows "in memory" have store and log on a file system in memory, so they are the rules, the ciphers and the store's reads alone; "on
//! disk" adds the audit commit, which is one fsync for all that wait.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark's report"
)]

#[path = "../tests/postgres/mod.rs"]
mod postgres;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use conf::PostgresSettings;
use keystore::capability::Caller;
use keystore::{Local, SystemClock, testing};
use keystore_client::{EntitlementRef, ExportRequest, LeaseRequest, MAX_KEYS};
use keystore_types::{Generation, KeyContext, KeyId, Label, SUBSAMPLE_RULE, Scheme};

/// How long a row is measured.
const SPAN: Duration = Duration::from_secs(3);

/// As many for each title as are leased at once.
fn context(number: u32) -> KeyContext {
    KeyContext {
        tenant: "default".to_owned(),
        asset: format!("film-{}", number / 64).parse().unwrap(),
        label: Label::Hd,
        scheme: Scheme::Cbcs,
        subsample_rule: SUBSAMPLE_RULE,
        generation: Generation {
            sources: [7; 32],
            number,
        },
    }
}

fn lease_of(number: u32) -> LeaseRequest {
    LeaseRequest {
        contexts: vec![context(number)],
    }
}

fn export_of(id: KeyId) -> ExportRequest {
    ExportRequest {
        asset: "film-0".parse().unwrap(),
        key_ids: vec![id],
        entitlement: EntitlementRef {
            issuer: "bench".to_owned(),
            subject: Some("viewer".to_owned()),
            token_id: None,
            system: "clearkey".to_owned(),
        },
    }
}

/// Calls by `at_once` tasks for [`SPAN`]: how many a second, and how long the middle one took.
async fn row<F: Future<Output = ()> + Send + 'static>(
    name: &str,
    at_once: usize,
    call: impl Fn() -> F + Clone + Send + 'static,
) {
    let end = Instant::now() + SPAN;
    let tasks: Vec<_> = (0..at_once)
        .map(|_| {
            let call = call.clone();
            tokio::spawn(async move {
                let mut took = vec![];
                while Instant::now() < end {
                    let began = Instant::now();
                    call().await;
                    took.push(began.elapsed());
                }
                took
            })
        })
        .collect();
    let mut took = vec![];
    for task in tasks {
        took.extend(task.await.unwrap());
    }
    took.sort_unstable();
    let a_second = took.len() as f64 / SPAN.as_secs_f64();
    let (middle, slow) = (took[took.len() / 2], took[took.len() * 99 / 100]);
    println!("{name:<46} {a_second:>9.0}/s   p50 {middle:>10.1?}   p99 {slow:>10.1?}");
}

async fn rows(place: &str, local: &Local, at_once: &[usize]) {
    let (origin, license) = (testing::origin(local), testing::license(local));
    let id = origin.lease(lease_of(0)).await.unwrap().keys[0].key_id;
    for &at_once in at_once {
        let keystore = origin.clone();
        row(
            &format!("lease, warm, {place}, {at_once} at once"),
            at_once,
            move || {
                let keystore = keystore.clone();
                async move { drop(keystore.lease(lease_of(0)).await.unwrap()) }
            },
        )
        .await;
        let keystore = license.clone();
        row(
            &format!("export, {place}, {at_once} at once"),
            at_once,
            move || {
                let keystore = keystore.clone();
                async move { drop(keystore.export(export_of(id)).await.unwrap()) }
            },
        )
        .await;
    }
}

async fn open(folder: &Path) -> Local {
    open_over(folder, None).await
}

async fn open_over(folder: &Path, postgres: Option<PostgresSettings>) -> Local {
    let mut settings = testing::settings(folder);
    settings.audit.capacity = 8 << 30;
    settings.postgres = postgres;
    Local::open(&settings, Arc::new(SystemClock)).await.unwrap()
}

/// Two keystores, one database.
async fn shared(server: &postgres::Server) {
    let settings = server.settings(&server.database().await);
    let folders = [(); 2].map(|()| tempfile::tempdir_in(".").unwrap());
    let one = open_over(folders[0].path(), Some(settings.clone())).await;
    let other = open_over(folders[1].path(), Some(settings)).await;
    (testing::operator(&one)
        .init(testing::PASSPHRASE.into())
        .await)
        .unwrap();
    (testing::operator(&other)
        .unseal(testing::PASSPHRASE.into())
        .await)
        .unwrap();
    let origins = [testing::origin(&one), testing::origin(&other)];
    drop(origins[0].lease(lease_of(0)).await.unwrap());
    let turn = Arc::new(AtomicUsize::new(0));
    row(
        "lease, warm, two keystores over PostgreSQL, 32 at once",
        32,
        move || {
            let keystore = origins[turn.fetch_add(1, Ordering::Relaxed) % 2].clone();
            async move { drop(keystore.lease(lease_of(0)).await.unwrap()) }
        },
    )
    .await;
}

/// A store of many keys: how long from the passphrase to the first key.
async fn large(folder: &Path, keys: u32) {
    let local = open(folder).await;
    let operator = testing::operator(&local);
    operator.init(testing::PASSPHRASE.into()).await.unwrap();
    let origin = testing::origin(&local);
    let began = Instant::now();
    let batch = u32::try_from(MAX_KEYS).unwrap();
    for first in (0..keys).step_by(MAX_KEYS) {
        let contexts = (first..(first + batch).min(keys)).map(context).collect();
        origin.lease(LeaseRequest { contexts }).await.unwrap();
    }
    let a_second = f64::from(keys) / began.elapsed().as_secs_f64();
    println!(
        "{:<46} {a_second:>9.0}/s",
        format!("keys made, {keys} of them, by {batch}")
    );
    drop((origin, operator, local));

    let began = Instant::now();
    let local = open(folder).await;
    let opened = began.elapsed();
    let operator = local.admin(Caller::operator("operator"));
    let began = Instant::now();
    operator.unseal(testing::PASSPHRASE.into()).await.unwrap();
    let unsealed = began.elapsed();
    let began = Instant::now();
    drop(
        testing::origin(&local)
            .lease(lease_of(keys - 1))
            .await
            .unwrap(),
    );
    println!(
        "with {keys} keys: opened in {opened:.1?}, unsealed in {unsealed:.1?} (the cheapest Argon2id), first lease in {:.1?}",
        began.elapsed()
    );
    rows("large store", &local, &[64]).await;
}

fn main() {
    // `cargo test --benches` runs it with a name to filter by, and no rows.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        for (place, within) in [("in memory", "/dev/shm"), ("on disk", ".")] {
            let folder = tempfile::tempdir_in(within).unwrap();
            let local = open(folder.path()).await;
            let operator = testing::operator(&local);
            operator.init(testing::PASSPHRASE.into()).await.unwrap();
            rows(place, &local, &[1, 64, 512]).await;
        }
        let keys = std::env::var("KEYS")
            .ok()
            .and_then(|keys| keys.parse().ok());
        let folder = tempfile::tempdir_in(".").unwrap();
        large(folder.path(), keys.unwrap_or(100_000)).await;
        if let Some(server) = postgres::server() {
            shared(server).await;
        }
    });
}
