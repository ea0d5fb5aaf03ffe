//! The way to the database: who answers at its end, what becomes of keys when another server takes over, and a network
//! that moves no bytes.
//!
//! A standby is a second server on the same host, and the network is a forwarder of the test's: what a real network
//! does to packets, such as losing some, is TCP's part.

#![expect(clippy::unwrap_used, reason = "a test's panic is its report")]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use conf::{PostgresHost, PostgresSettings};
use keystore::capability::Caller;
use keystore_client::SealState;
use keystore_client::admin::{Act, Acted};
use tempfile::TempDir;

use self::authority::Authority;
use self::forwarder::Forwarder;
use self::node::{Node, PASSPHRASE, in_time, looked, nodes, same, soon, unavailable};
use self::postgres::Server;

#[path = "postgres/authority.rs"]
mod authority;
#[path = "postgres/forwarder.rs"]
mod forwarder;
#[path = "postgres/node.rs"]
mod node;
mod postgres;

/// A server behind TLS, the way to it, and the file of the authority that vouches for it.
struct Site {
    server: Server,
    way: Forwarder,
    database: String,
    ca_file: PathBuf,
    _files: TempDir,
}

impl Site {
    async fn new() -> Option<Self> {
        let authority = Authority::new();
        let (certificate, key) = authority.vouch_for("localhost");
        let server = Server::start_with_tls(&certificate, &key)?;
        let files = tempfile::tempdir().unwrap();
        let ca_file = files.path().join("ca.pem");
        std::fs::write(&ca_file, authority.pem()).unwrap();
        Some(Self {
            way: Forwarder::to(server.port()).await,
            database: server.database().await,
            server,
            ca_file,
            _files: files,
        })
    }

    fn settings(&self) -> PostgresSettings {
        let port = self.way.port();
        (self.server).settings_over(port, &self.database, &self.ca_file)
    }

    /// How often a server says that the database was written to.
    async fn writes(&self, server: &Server) -> i64 {
        let mut connection = server.connect(&self.database).await;
        let writes = sqlx::query_scalar("SELECT writes FROM marks");
        writes.fetch_one(&mut connection).await.unwrap()
    }

    /// Waits until a standby has all that was written.
    async fn caught_up(&self, standby: &Server) {
        let writes = self.writes(&self.server).await;
        soon(async || (self.writes(standby).await == writes).then_some(())).await;
    }

    /// The server is gone, and the standby takes its place.
    fn fail_over(&self, standby: &Server) {
        self.server.stop();
        standby.promote();
        self.way.turn_to(standby.port());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_server_for_whose_name_the_authority_vouches_is_used() {
    let Some(site) = Site::new().await else {
        return;
    };
    let [one] = nodes(&site.settings()).await;
    one.lease(0..2).await.unwrap();
    let mut connection = site.server.connect("postgres").await;
    let encrypted: Vec<bool> = sqlx::query_scalar(
        "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'castellum'",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    assert!(!encrypted.is_empty() && encrypted.iter().all(|ssl| *ssl));

    let stranger = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(stranger.path(), Authority::new().pem()).unwrap();
    let by_another_authority = PostgresSettings {
        ca_file: Some(stranger.path().to_owned()),
        ..site.settings()
    };
    let by_the_systems_authorities = PostgresSettings {
        ca_file: None,
        ..site.settings()
    };
    let under_another_name = PostgresSettings {
        host: PostgresHost::Tcp {
            host: "127.0.0.1".to_owned(),
            port: site.way.port(),
        },
        ..site.settings()
    };
    for (settings, why) in [
        (by_another_authority, "invalid peer certificate"),
        (by_the_systems_authorities, "invalid peer certificate"),
        (under_another_name, "not valid for name"),
    ] {
        let node = Node::open(settings).await;
        assert_eq!(*node.local.seal_state().borrow(), SealState::Sealed);
        let error = node.operator.unseal(PASSPHRASE.into()).await.unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
    // Nor one that does without.
    site.server.without_tls();
    one.operator.seal().await.unwrap();
    let refused = soon(async || one.operator.unseal(PASSPHRASE.into()).await.err()).await;
    assert!(refused.to_string().contains("TLS"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_takes_over_has_every_key_that_was_given() {
    let Some(site) = Site::new().await else {
        return;
    };
    let [one, other] = nodes(&site.settings()).await.map(Arc::new);
    let standby = site.server.standby();
    // What is answered is on both from here on.
    let mut connection = site.server.connect("postgres").await;
    sqlx::raw_sql("ALTER SYSTEM SET synchronous_standby_names = '*'")
        .execute(&mut connection)
        .await
        .unwrap();
    sqlx::raw_sql("SELECT pg_reload_conf()")
        .execute(&mut connection)
        .await
        .unwrap();
    soon(async || {
        let synchronous: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM pg_stat_replication WHERE sync_state = 'sync'",
        )
        .fetch_one(&mut connection)
        .await
        .unwrap();
        (synchronous == 1).then_some(())
    })
    .await;
    let known = one.lease(0..8).await.unwrap();

    // Keys are made until the server is gone, and after that; each that was given is the key of its content for ever.
    let done = Arc::new(AtomicBool::new(false));
    let makers: Vec<_> = (1..3_u32)
        .map(|maker| {
            let (node, done) = (one.clone(), done.clone());
            tokio::spawn(async move {
                let mut given = Vec::new();
                let mut number = maker * 1_000_000;
                while !done.load(Ordering::Relaxed) {
                    match node.lease(number..number + 1).await {
                        Ok(mut keys) => {
                            given.push((number, keys.remove(0)));
                            number += 1;
                        }
                        Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                    }
                }
                given
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    site.fail_over(&standby);
    assert!(same(&one.lease(0..8).await.unwrap(), &known));
    soon(async || one.lease(100..101).await.ok()).await;
    soon(async || other.lease(101..102).await.ok()).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    done.store(true, Ordering::Relaxed);
    let mut given = 0;
    for maker in makers {
        for (number, key) in maker.await.unwrap() {
            let again = other.lease(number..number + 1).await.unwrap();
            assert!(same(&again, &[key]), "{number}");
            given += 1;
        }
    }
    assert!(given > 0, "none was made");
    eprintln!("{given} keys given around the fail-over");
    for node in [&one, &other] {
        assert_eq!(*node.local.seal_state().borrow(), SealState::Unsealed);
        assert!(same(&node.lease(0..8).await.unwrap(), &known));
        node.in_order().await;
    }
    // Whatever needs the root goes on too.
    let version = other.rotate_root().await.unwrap();
    soon(async || {
        one.rotate_root()
            .await
            .ok()
            .filter(|newer| *newer > version)
    })
    .await;
    assert!(same(&other.lease(0..8).await.unwrap(), &known));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rollback_by_a_standby_that_lacks_the_last_commits_is_found_out() {
    let Some(site) = Site::new().await else {
        return;
    };
    let [one, other] = nodes(&site.settings()).await;
    let kept = one.lease(0..3).await.unwrap();
    let standby = site.server.standby();
    site.caught_up(&standby).await;
    standby.stop();
    let mut lost = other.lease(3..4).await.unwrap();
    lost.extend(other.lease(4..5).await.unwrap());
    // Both have seen how often it was written to.
    looked(&site.settings(), 2).await;
    site.server.stop();
    standby.start_again();
    standby.promote();
    site.way.turn_to(standby.port());
    for node in [&one, &other] {
        node.wait_for(SealState::Sealed).await;
        let error = node.operator.unseal(PASSPHRASE.into()).await.unwrap_err();
        assert!(error.to_string().contains("was put back"), "{error}");
        assert!(node.lease(0..1).await.is_err());
    }
    // Two operators go on with what is there; what is lost is not there, and is made anew once.
    let berta = one.local.admin(Caller::operator("berta"));
    let accept = || Act::AcceptRollback {};
    let Acted::Waits(approval) = one.operator.act(accept()).await.unwrap() else {
        panic!("it needs two")
    };
    berta.approve(approval.id).await.unwrap();
    let done = one.operator.act(accept()).await.unwrap();
    assert!(matches!(done, Acted::Done(_)), "{done:?}");
    for node in [&one, &other] {
        soon(async || node.operator.unseal(PASSPHRASE.into()).await.ok()).await;
    }
    let anew = one.lease(3..5).await.unwrap();
    for (anew, lost) in anew.iter().zip(&lost) {
        assert_ne!(anew.key_id, lost.key_id);
    }
    for node in [&one, &other] {
        assert!(same(&node.lease(0..3).await.unwrap(), &kept));
        assert!(same(&node.lease(3..5).await.unwrap(), &anew));
        node.in_order().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_hangs_is_waited_for_once() {
    let Some(site) = Site::new().await else {
        return;
    };
    let settings = PostgresSettings {
        timeout: Duration::from_secs(4),
        ..site.settings()
    };
    let [one] = nodes(&settings).await;
    let known = one.lease(0..4).await.unwrap();
    site.way.hang();
    in_time(async {
        assert!(same(&one.lease(0..4).await.unwrap(), &known));
        assert_eq!(one.export(vec![known[0].key_id]).await.unwrap(), 1);
        let why = unavailable(one.lease(100..101).await);
        assert!(why.contains("did not answer"), "{why}");
        assert!(one.rotate_root().await.is_err());
        assert!(one.operator.key_destroy(known[0].key_id).await.is_err());
        // Each call is refused or served at once now: these would take ten times as long, each after a timeout of its own.
        for _ in 0..75 {
            assert!(same(&one.lease(0..4).await.unwrap(), &known));
            unavailable(one.lease(100..101).await);
        }
        // The emergency brake, too.
        one.operator.seal().await.unwrap();
    })
    .await;
    assert!(one.lease(0..4).await.is_err());

    site.way.go_on();
    soon(async || one.operator.unseal(PASSPHRASE.into()).await.ok()).await;
    soon(async || one.lease(100..101).await.ok()).await;
    assert!(same(&one.lease(0..4).await.unwrap(), &known));
    one.in_order().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_whose_making_was_not_answered_is_found_and_not_made_again() {
    let Some(site) = Site::new().await else {
        return;
    };
    let settings = PostgresSettings {
        timeout: Duration::from_secs(4),
        ..site.settings()
    };
    let [one, other] = nodes(&settings).await;
    for number in 0..3 {
        // Sooner or later within the call, so that some are lost before and some after the commit.
        let asking = one.lease(number..number + 1);
        let hold = async {
            tokio::time::sleep(Duration::from_millis(u64::from(number) * 3)).await;
            site.way.hold_answers();
        };
        let (asked, ()) = tokio::join!(asking, hold);
        site.way.go_on();
        let found = soon(async || other.lease(number..number + 1).await.ok()).await;
        if let Ok(given) = asked {
            assert!(same(&given, &found), "{number}");
        }
        let again = soon(async || one.lease(number..number + 1).await.ok()).await;
        assert!(same(&again, &found), "{number}");
    }
    // What it remembers it serves while it takes the database for lost.
    let stored = soon(async || one.operator.status().await.unwrap().stored).await;
    assert_eq!((stored.keys, stored.destroyed), (3, 0));
    one.in_order().await;
    other.in_order().await;
}
