//! Several keystores over one PostgreSQL database: what one does while another serves, and what becomes of them when
//! the database is slow, gone, another one or put back.
//!
//! Here a database that is not reached is one that was stopped, and a slow one waits for a lock; what a network does is in
//! `fail_over.rs`.

#![expect(clippy::unwrap_used, reason = "a test's panic is its report")]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use conf::SecretSource;
use keystore::capability::{Assets, Caller, Capability, Grant};
use keystore::{ErrorKind, Local, SystemClock, testing};
use keystore_client::admin::{Act, Acted, AdminError};
use keystore_client::exchange::{AskedKey, ExchangeRequest, KeyUsage, Partner};
use keystore_client::{Error, LeaseRequest, SealState};
use keystore_types::{KeyId, Label, Scheme};
use sqlx::Connection as _;

use self::node::{Node, PASSPHRASE, context, in_time, looked, nodes, same, soon, unavailable};
use self::postgres::Server;

#[path = "postgres/node.rs"]
mod node;
mod postgres;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_ask_for_a_key_at_once_make_it_once() {
    let Some(server) = postgres::server() else {
        return;
    };
    let settings = server.settings(&server.database().await);
    let [one, other] = nodes(&settings).await;
    for number in 0..50 {
        let (left, right) = tokio::join!(
            one.lease(number..number + 2),
            other.lease(number..number + 2)
        );
        assert!(same(&left.unwrap(), &right.unwrap()), "{number}");
    }
    assert_eq!(one.made() + other.made(), 51);
    let status = one.operator.status().await.unwrap();
    let stored = status.stored.as_ref().unwrap();
    assert_eq!((stored.keys, stored.destroyed), (51, 0));
    // Each has a log, and a key that signs it, of its own.
    one.in_order().await;
    other.in_order().await;
    let key = |status: keystore_client::admin::Status| status.audit_key.unwrap();
    assert_ne!(key(status), key(other.operator.status().await.unwrap()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_rotates_while_the_other_serves() {
    let Some(server) = postgres::server() else {
        return;
    };
    let database = server.database().await;
    let settings = server.settings(&database);
    let [one, other] = nodes(&settings).await.map(Arc::new);
    let before = one.lease(0..64).await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicU64::new(0));
    let load = (0..3_u32).map(|worker| {
        let (other, done, served) = (other.clone(), done.clone(), served.clone());
        let expected: Vec<_> = (before.iter())
            .map(|key| (key.key_id, *key.key.expose()))
            .collect();
        tokio::spawn(async move {
            let mut number = worker * 7;
            while !done.load(Ordering::Relaxed) {
                number += 1;
                let old = number % 64;
                let leased = other.lease(old..old + 1).await.unwrap().remove(0);
                let known = (leased.key_id, *leased.key.expose());
                assert_eq!(known, expected[usize::try_from(old).unwrap()]);
                let made = (worker + 1) * 1_000_000 + number / 8;
                let made = other.lease(made..made + 1).await.unwrap().remove(0);
                let exported = other.export(vec![known.0, made.key_id]).await;
                assert_eq!(exported.unwrap(), 2);
                served.fetch_add(3, Ordering::Relaxed);
            }
        })
    });
    let load: Vec<_> = load.collect();
    for version in 2..5 {
        assert_eq!(one.rotate_root().await.unwrap(), version);
        let keks = one.operator.rotate_keks(None).await.unwrap();
        assert_eq!(keks[0].version, version);
        let rewrapped = async || {
            let status = one.operator.status().await.unwrap();
            (!status.stored.unwrap().rotating).then_some(())
        };
        soon(rewrapped).await;
    }
    done.store(true, Ordering::Relaxed);
    for worker in load {
        worker.await.unwrap();
    }
    let served = served.load(Ordering::Relaxed);
    eprintln!("{served} requests served");
    assert!(served > 0);
    assert!(same(&other.lease(0..64).await.unwrap(), &before));
    one.in_order().await;
    other.in_order().await;

    // The other has the new root in memory, and rotates it in turn.
    assert_eq!(other.rotate_root().await.unwrap(), 5);
    assert!(same(&one.lease(0..64).await.unwrap(), &before));
    // What was handed over is gone when every node has it.
    let mut connection = server.connect(&database).await;
    sqlx::query("UPDATE handover SET made = now() - interval '1 minute'")
        .execute(&mut connection)
        .await
        .unwrap();
    soon(async || {
        let left: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM handover")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        (left == 0).then_some(())
    })
    .await;
    for node in [&one, &other] {
        node.operator.seal().await.unwrap();
        node.unseal().await;
        assert!(same(&node.lease(0..64).await.unwrap(), &before));
    }
    let key = before[0].key.expose();
    assert!(!holds(server.folder(), key));
    // Its id is there, so that is the right place to look.
    assert!(holds(server.folder(), before[0].key_id.as_bytes()));
}

/// Whether a file under the folder holds the bytes.
fn holds(folder: &Path, bytes: &[u8]) -> bool {
    std::fs::read_dir(folder).unwrap().any(|entry| {
        let entry = entry.unwrap();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => holds(&entry.path(), bytes),
            Ok(kind) if kind.is_file() => std::fs::read(entry.path())
                .is_ok_and(|file| file.windows(bytes.len()).any(|window| window == bytes)),
            // Temporary files come and go.
            Ok(_) | Err(_) => false,
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_new_roots_at_once_one_stands() {
    let Some(server) = postgres::server() else {
        return;
    };
    let settings = server.settings(&server.database().await);
    let [one, other] = nodes(&settings).await;
    let before = one.lease(0..8).await.unwrap();
    let (left, right) = tokio::join!(one.rotate_root(), other.rotate_root());
    let newest = left.into_iter().chain(right).max().expect("one stands");
    for node in [&one, &other] {
        assert!(same(&node.lease(0..8).await.unwrap(), &before));
        node.in_order().await;
    }
    soon(async || {
        one.rotate_root()
            .await
            .ok()
            .filter(|version| *version > newest)
    })
    .await;
    soon(async || other.rotate_root().await.ok()).await;
    assert!(same(&one.lease(0..8).await.unwrap(), &before));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_node_destroys_is_gone_for_the_others() {
    let Some(server) = Server::start() else {
        return;
    };
    let settings = server.settings(&server.database().await);
    let [one, other] = nodes(&settings).await;
    let keys = one.lease(0..2).await.unwrap();
    assert!(same(&other.lease(0..2).await.unwrap(), &keys));
    one.operator.key_destroy(keys[0].key_id).await.unwrap();
    let ids = vec![keys[0].key_id, keys[1].key_id];
    assert_eq!(other.export(ids.clone()).await.unwrap(), 1);
    // And for good: another key is made, by whoever is asked first.
    let new = other.lease(0..1).await.unwrap();
    assert_ne!(new[0].key_id, keys[0].key_id);
    assert!(same(&one.lease(0..1).await.unwrap(), &new));

    // The one that was remembered is forgotten before the database goes.
    looked(&settings, 2).await;
    server.stop();
    unavailable(other.export(ids).await);
    unavailable(other.export(vec![keys[0].key_id]).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_down_is_survived_for_a_while() {
    let Some(server) = Server::start() else {
        return;
    };
    let mut settings = server.settings(&server.database().await);
    settings.survival = Duration::from_secs(12);
    let [one, other] = nodes(&settings).await;
    let known = one.lease(0..4).await.unwrap();
    // A restart between two requests is not noticed.
    server.stop();
    server.start_again();
    assert!(same(&one.lease(0..4).await.unwrap(), &known));

    server.stop();
    let records = one.records();
    assert!(same(&one.lease(0..4).await.unwrap(), &known));
    assert_eq!(one.export(vec![known[0].key_id]).await.unwrap(), 1);
    // Each still has its record.
    assert_eq!(one.records(), records + 2);
    // Nothing is made, and nothing that was never read is there.
    let why = unavailable(one.lease(100..101).await);
    assert!(why.contains("database"), "{why}");
    unavailable(other.lease(0..1).await);
    // An operator is told what is known without it, and why that is not all.
    let status = one.operator.status().await.unwrap();
    assert_eq!((status.state, status.stored), (SealState::Unsealed, None));
    assert!(status.store_fault.unwrap().contains("database"));
    assert!(status.audit_records > 0 && status.memory_locked.is_some());
    assert!(one.rotate_root().await.is_err());
    assert!(one.operator.key_destroy(known[0].key_id).await.is_err());
    // The emergency brake needs no database.
    other.operator.seal().await.unwrap();
    assert_eq!(*other.local.seal_state().borrow(), SealState::Sealed);
    let status = other.operator.status().await.unwrap();
    assert_eq!((status.state, status.stored), (SealState::Sealed, None));
    // And all that lasts for a while only.
    let why = soon(async || one.lease(0..4).await.err()).await;
    unavailable::<()>(Err(why));

    server.start_again();
    soon(async || other.operator.unseal(PASSPHRASE.into()).await.ok()).await;
    for node in [&one, &other] {
        let keys = soon(async || node.lease(0..4).await.ok()).await;
        assert!(same(&keys, &known));
        node.lease(100..101).await.unwrap();
        node.in_order().await;
    }
    assert_eq!(one.made() + other.made(), 5);
    let status = one.operator.status().await.unwrap();
    assert_eq!((status.stored.unwrap().keys, status.store_fault), (5, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_from_outside_survives_a_database_that_is_down() {
    let Some(server) = Server::start() else {
        return;
    };
    let [one] = nodes(&server.settings(&server.database().await)).await;
    let grant = Grant {
        capability: Capability::Exchange,
        tenant: "default".to_owned(),
        assets: Assets::All,
    };
    let partner = one.local.handle(Caller::new("partner", vec![grant]));
    let asked = ExchangeRequest {
        tenant: "default".to_owned(),
        asset: "film".parse().unwrap(),
        keys: vec![AskedKey {
            key_id: KeyId::new([5; 16]),
            usage: KeyUsage {
                label: Label::Hd,
                scheme: Scheme::Cbcs,
                elsewhere: None,
            },
            iv: None,
        }],
        partner: Partner {
            name: "encryptor".to_owned(),
            protocol: "speke-2.0".to_owned(),
            recipients: vec![],
        },
    };
    partner.exchange(asked).await.unwrap();
    let claimed = one.lease(0..1).await.unwrap();
    assert_eq!(claimed[0].key_id, KeyId::new([5; 16]));
    // Asked for once more, so that it was read as it is now.
    one.lease(0..1).await.unwrap();
    server.stop();
    assert!(same(&one.lease(0..1).await.unwrap(), &claimed));
    unavailable(one.lease(1..2).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_restarts_under_load_fails_no_known_key() {
    let Some(server) = Server::start() else {
        return;
    };
    let settings = server.settings(&server.database().await);
    let [one] = nodes(&settings).await.map(Arc::new);
    let known = one.lease(0..8).await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let load = (0..3_u32).map(|worker| {
        let (one, done) = (one.clone(), done.clone());
        tokio::spawn(async move {
            let mut served = 0;
            while !done.load(Ordering::Relaxed) {
                let number = (worker + served) % 8;
                one.lease(number..number + 1).await.unwrap();
                served += 1;
            }
            served
        })
    });
    let load: Vec<_> = load.collect();
    for new in 200..202 {
        server.stop();
        tokio::time::sleep(Duration::from_millis(200)).await;
        server.start_again();
        // Back before the next restart: a new key is made.
        soon(async || one.lease(new..new + 1).await.ok()).await;
    }
    done.store(true, Ordering::Relaxed);
    for worker in load {
        assert!(worker.await.unwrap() > 0, "it served nothing");
    }
    assert!(same(&one.lease(0..8).await.unwrap(), &known));
    one.in_order().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_database_is_waited_for_no_longer_than_settings_say() {
    let Some(server) = postgres::server() else {
        return;
    };
    let database = server.database().await;
    let mut settings = server.settings(&database);
    settings.timeout = Duration::from_secs(4);
    let [one] = nodes(&settings).await;
    let known = one.lease(0..2).await.unwrap();
    let mut connection = server.connect(&database).await;
    let mut slow = connection.begin().await.unwrap();
    sqlx::raw_sql("LOCK TABLE content_key IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *slow)
        .await
        .unwrap();
    // The lock is held until both are answered.
    let (old, new) = in_time(async { (one.lease(0..2).await, one.lease(100..101).await) }).await;
    assert!(same(&old.unwrap(), &known));
    unavailable(new);
    slow.rollback().await.unwrap();
    soon(async || one.lease(100..101).await.ok()).await;
    one.in_order().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_schema_is_refused() {
    let Some(server) = postgres::server() else {
        return;
    };
    let database = server.database().await;
    let settings = server.settings(&database);
    let [one] = nodes(&settings).await;
    let known = one.lease(0..2).await.unwrap();
    let mut connection = server.connect(&database).await;
    sqlx::query("INSERT INTO migration (version) VALUES (1000)")
        .execute(&mut connection)
        .await
        .unwrap();
    // An older program does not start.
    let folder = tempfile::tempdir().unwrap();
    let mut older = testing::settings(folder.path());
    older.postgres = Some(settings);
    let Err(error) = Local::open(&older, Arc::new(SystemClock)).await else {
        panic!("it started")
    };
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("a newer castellum"), "{error}");
    // One that runs hands out what it knows, and writes nothing.
    let mut number = 100;
    let why = soon(async || {
        number += 1;
        match one.lease(number..number + 1).await {
            Err(Error::Unavailable(why)) => Some(why),
            _ => None,
        }
    })
    .await;
    assert!(why.contains("a newer castellum"), "{why}");
    assert!(same(&one.lease(0..2).await.unwrap(), &known));

    sqlx::query("DELETE FROM migration WHERE version = 1000")
        .execute(&mut connection)
        .await
        .unwrap();
    soon(async || one.lease(2000..2001).await.ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_start_at_once_make_the_tables_once() {
    let Some(server) = postgres::server() else {
        return;
    };
    let settings = server.settings(&server.database().await);
    let started = (0..6).map(|_| tokio::spawn(Node::open(settings.clone())));
    let mut nodes = Vec::new();
    for node in futures_util::future::join_all(started).await {
        nodes.push(node.unwrap());
    }
    (nodes[0].operator.init(PASSPHRASE.into()).await).unwrap();
    // The others notice that there is a root now.
    for node in &nodes[1..] {
        node.wait_for(SealState::Sealed).await;
        let error = node.operator.init(PASSPHRASE.into()).await.unwrap_err();
        assert!(matches!(error, AdminError::Refused(_)), "{error}");
        node.unseal().await;
    }
    let mut ids = BTreeSet::new();
    for node in &nodes {
        ids.insert(node.lease(0..1).await.unwrap()[0].key_id);
    }
    assert_eq!(ids.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_begin_with_the_root_that_one_of_them_makes() {
    let Some(server) = Server::start() else {
        return;
    };
    let postgres = server.settings(&server.database().await);
    // Nobody answers at the start, either.
    server.stop();
    let secret = tempfile::tempdir().unwrap();
    let path = secret.path().join("passphrase");
    std::fs::write(&path, PASSPHRASE).unwrap();
    let mut nodes = Vec::new();
    for _ in 0..2 {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = testing::settings(folder.path());
        settings.postgres = Some(postgres.clone());
        settings.passphrase = Some(SecretSource::file(&path));
        settings.init_at_start = true;
        let local = Local::open(&settings, Arc::new(SystemClock)).await.unwrap();
        assert_eq!(*local.seal_state().borrow(), SealState::Sealed);
        nodes.push((local, folder));
    }
    server.start_again();
    let mut keys = Vec::new();
    for (local, _folder) in &nodes {
        let mut state = local.seal_state();
        let unsealed = state.wait_for(|state| *state == SealState::Unsealed);
        in_time(unsealed).await.unwrap();
        let contexts = vec![context(0)];
        let lease = testing::origin(local)
            .lease(LeaseRequest { contexts })
            .await;
        keys.push(lease.unwrap().keys[0].key_id);
    }
    assert_eq!(keys[0], keys[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rollback_of_the_database_seals_every_node_that_knows_better() {
    let Some(server) = postgres::server() else {
        return;
    };
    let database = server.database().await;
    let settings = server.settings(&database);
    let [one, other] = nodes(&settings).await;
    let keys = one.lease(0..3).await.unwrap();
    one.lease(3..4).await.unwrap();
    // Both have seen how often it was written to.
    looked(&settings, 2).await;
    let mut connection = server.connect(&database).await;
    sqlx::query("UPDATE marks SET writes = writes - 1")
        .execute(&mut connection)
        .await
        .unwrap();
    for node in [&one, &other] {
        node.wait_for(SealState::Sealed).await;
        let error = node.operator.unseal(PASSPHRASE.into()).await.unwrap_err();
        assert!(error.to_string().contains("was put back"), "{error}");
    }
    // Two operators go on with what is there; for the other node it is then no older than what it knows.
    let berta = one.local.admin(Caller::operator("berta"));
    let accept = || Act::AcceptRollback {};
    let Acted::Waits(approval) = one.operator.act(accept()).await.unwrap() else {
        panic!("it needs two")
    };
    berta.approve(approval.id).await.unwrap();
    assert!(matches!(
        one.operator.act(accept()).await.unwrap(),
        Acted::Done(_)
    ));
    for node in [&one, &other] {
        soon(async || node.operator.unseal(PASSPHRASE.into()).await.ok()).await;
        assert!(same(&node.lease(0..3).await.unwrap(), &keys));
        node.in_order().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_was_cut_short_is_found_out_by_its_own_node() {
    let Some(server) = postgres::server() else {
        return;
    };
    let settings = server.settings(&server.database().await);
    let [one, other] = nodes(&settings).await;
    one.lease(0..1).await.unwrap();
    one.operator.checkpoint().await.unwrap();
    let path = one.folder.path().join("state/audit.log");
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<_> = text.lines().collect();
    std::fs::write(&path, lines[..lines.len() - 2].join("\n") + "\n").unwrap();
    let report = one.operator.verify(None).await.unwrap();
    assert_eq!(report.faults[0].place, "audit", "{:?}", report.faults);
    other.in_order().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_password_is_read_at_each_connection_and_never_told() {
    let Some(server) = Server::start() else {
        return;
    };
    let database = server.database().await;
    let mut connection = server.connect("postgres").await;
    let make = "CREATE ROLE guarded LOGIN SUPERUSER PASSWORD 'open sesame'";
    sqlx::raw_sql(make).execute(&mut connection).await.unwrap();
    let rules = "local all guarded scram-sha-256\nlocal all all trust\n";
    std::fs::write(server.folder().join("data/pg_hba.conf"), rules).unwrap();
    server.stop();
    server.start_again();
    let secret = tempfile::tempdir().unwrap();
    let path = secret.path().join("password");
    std::fs::write(&path, "wrong sesame\n").unwrap();
    let mut settings = server.settings(&database);
    settings.user = "guarded".to_owned();
    settings.password = Some(SecretSource::file(&path));
    let told = format!("{settings:?}");
    let node = Node::open(settings).await;
    let error = node.operator.init(PASSPHRASE.into()).await.unwrap_err();
    let why = error.to_string();
    assert!(why.contains("password authentication failed"), "{why}");
    assert!(!why.contains("sesame") && !told.contains("sesame"), "{why}");
    std::fs::write(&path, "open sesame\n").unwrap();
    soon(async || node.operator.init(PASSPHRASE.into()).await.ok()).await;
    node.lease(0..1).await.unwrap();
}
