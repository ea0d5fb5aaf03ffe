//! Versions of roots and KEKs: what changes when they are rotated, and what does not.
//!
//! Killed in the midst of a rotation: `crash.rs`.
#![expect(clippy::unwrap_used, reason = "a test's panic is its report")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use conf::KeystoreSettings;
use keystore::{Local, SystemClock, testing};
use keystore_client::admin::{Admin, AdminError, RotatedRoot};
use keystore_client::{EntitlementRef, Error, ExportRequest, Keystore, LeaseRequest, LeasedKey};
use keystore_types::{Generation, KeyContext, KeyId, Label, SUBSAMPLE_RULE, Scheme};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{Connection as _, Row as _};
use tempfile::TempDir;

const PASSPHRASE: &str = "correct horse";

struct Opened {
    local: Local,
    operator: Arc<dyn Admin>,
    origin: Arc<dyn Keystore>,
    settings: KeystoreSettings,
    _folder: TempDir,
}

async fn open() -> Opened {
    let folder = tempfile::tempdir().unwrap();
    let settings = testing::settings(folder.path());
    let local = Local::open(&settings, Arc::new(SystemClock)).await.unwrap();
    let operator = testing::operator(&local);
    operator.init(PASSPHRASE.into()).await.unwrap();
    Opened {
        origin: testing::origin(&local),
        local,
        operator,
        settings,
        _folder: folder,
    }
}

impl Opened {
    async fn database(&self) -> SqliteConnection {
        let path = self.settings.state_dir.join("keystore.sqlite");
        let options = SqliteConnectOptions::new().filename(path);
        SqliteConnection::connect_with(&options).await.unwrap()
    }

    /// Until all keys are wrapped anew and older KEKs are refused.
    async fn rewrapped(&self, version: u32) {
        let done = async {
            while self
                .operator
                .status()
                .await
                .unwrap()
                .stored
                .unwrap()
                .rotating
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        (tokio::time::timeout(Duration::from_secs(60), done).await).expect("it ends in time");
        assert_eq!(
            self.operator.status().await.unwrap().stored.unwrap().stale,
            0
        );
        let log = std::fs::read_to_string(self.settings.state_dir.join("audit.log")).unwrap();
        let floor = format!("\"op\":\"floor\",\"tenant\":\"default\",\"version\":{version}");
        assert!(log.contains(&floor));
    }

    async fn rotate_keks(&self) -> u32 {
        let versions = self.operator.rotate_keks(None).await.unwrap();
        assert_eq!(versions.len(), 1);
        assert_eq!(versions[0].tenant, "default");
        versions[0].version
    }

    async fn in_order(&self) {
        let report = self.operator.verify(None).await.unwrap();
        assert_eq!(report.faults, vec![]);
        assert_eq!(report.unwrapped, report.keys);
    }
}

fn context(number: u32) -> KeyContext {
    KeyContext {
        tenant: "default".to_owned(),
        asset: "film".parse().unwrap(),
        label: Label::Hd,
        scheme: Scheme::Cbcs,
        subsample_rule: SUBSAMPLE_RULE,
        generation: Generation {
            sources: [7; 32],
            number,
        },
    }
}

async fn lease(origin: &Arc<dyn Keystore>, numbers: std::ops::Range<u32>) -> Vec<LeasedKey> {
    let contexts = numbers.map(context).collect();
    origin.lease(LeaseRequest { contexts }).await.unwrap().keys
}

fn same(one: &[LeasedKey], other: &[LeasedKey]) -> bool {
    one.len() == other.len()
        && (one.iter().zip(other)).all(|(one, other)| {
            one.key_id == other.key_id
                && one.iv == other.iv
                && one.key.expose() == other.key.expose()
        })
}

fn holds(folder: &Path, bytes: &[u8]) -> bool {
    std::fs::read_dir(folder).unwrap().any(|file| {
        let file = std::fs::read(file.unwrap().path()).unwrap();
        file.windows(bytes.len()).any(|window| window == bytes)
    })
}

async fn body(database: &mut SqliteConnection, id: KeyId) -> (Vec<u8>, i64) {
    let row = sqlx::query("SELECT wrapped, kek_version FROM content_key WHERE key_id = ?")
        .bind(id.as_bytes().as_slice())
        .fetch_one(database)
        .await
        .unwrap();
    (row.get(0), row.get(1))
}

async fn put_body(database: &mut SqliteConnection, id: KeyId, wrapped: &[u8], kek_version: i64) {
    sqlx::query("UPDATE content_key SET wrapped = ?, kek_version = ? WHERE key_id = ?")
        .bind(wrapped)
        .bind(kek_version)
        .bind(id.as_bytes().as_slice())
        .execute(database)
        .await
        .unwrap();
}

#[tokio::test]
async fn context_binding_two_records_ciphertexts_swapped_are_detected() {
    let keystore = open().await;
    let keys = lease(&keystore.origin, 0..3).await;
    let mut database = keystore.database().await;
    let (one, version) = body(&mut database, keys[0].key_id).await;
    let (other, _) = body(&mut database, keys[1].key_id).await;
    put_body(&mut database, keys[0].key_id, &other, version).await;
    put_body(&mut database, keys[1].key_id, &one, version).await;

    for number in 0..2 {
        let contexts = vec![context(number)];
        let refused = keystore.origin.lease(LeaseRequest { contexts }).await;
        assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
    }
    assert!(same(&lease(&keystore.origin, 2..3).await, &keys[2..]));
    let report = keystore.operator.verify(None).await.unwrap();
    let mut named: Vec<_> = report.faults.iter().map(|fault| &fault.place).collect();
    named.sort();
    let mut swapped: Vec<_> = keys[..2].iter().map(|key| key.key_id.to_string()).collect();
    swapped.sort();
    assert!(named.into_iter().eq(&swapped), "{:?}", report.faults);

    // KEKs are bound alike: to their tenant, version and floor.
    put_body(&mut database, keys[0].key_id, &one, version).await;
    put_body(&mut database, keys[1].key_id, &other, version).await;
    keystore.in_order().await;
    sqlx::query("UPDATE kek SET floor = NULL")
        .execute(&mut database)
        .await
        .unwrap();
    keystore.operator.seal().await.unwrap();
    (keystore.operator.unseal(PASSPHRASE.into()).await).unwrap();
    let contexts = vec![context(0)];
    let refused = keystore.origin.lease(LeaseRequest { contexts }).await;
    assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versioning_rotations_under_load_fail_no_request() {
    let keystore = Arc::new(open().await);
    let before = lease(&keystore.origin, 0..64).await;
    // More than one batch.
    for number in 1..6 {
        lease(&keystore.origin, 64 * number..64 * (number + 1)).await;
    }
    let done = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicU64::new(0));
    let load = (0..4_u32).map(|worker| {
        let (keystore, done, served) = (keystore.clone(), done.clone(), served.clone());
        let expected: Vec<_> = (before.iter())
            .map(|key| (key.key_id, *key.key.expose()))
            .collect();
        let license = testing::license(&keystore.local);
        tokio::spawn(async move {
            let mut number = worker * 7;
            while !done.load(Ordering::Relaxed) {
                number += 1;
                // A key that is there, one that is made, and an export.
                let old = number % 64;
                let leased = lease(&keystore.origin, old..old + 1).await.remove(0);
                let (key_id, key) = expected[usize::try_from(old).unwrap()];
                assert_eq!((leased.key_id, *leased.key.expose()), (key_id, key));
                let made = (worker + 1) * 1_000_000 + number / 8;
                let made = lease(&keystore.origin, made..made + 1).await.remove(0);
                let request = ExportRequest {
                    asset: "film".parse().unwrap(),
                    key_ids: vec![key_id, made.key_id],
                    entitlement: EntitlementRef {
                        issuer: "tests".to_owned(),
                        subject: None,
                        token_id: None,
                        system: "clearkey".to_owned(),
                    },
                };
                assert_eq!(license.export(request).await.unwrap().len(), 2);
                served.fetch_add(3, Ordering::Relaxed);
            }
        })
    });
    let load: Vec<_> = load.collect();
    for rotation in 2..5 {
        let root = keystore
            .operator
            .rotate_root(None, Some(PASSPHRASE.into()), None)
            .await;
        assert_eq!(root.unwrap(), RotatedRoot::Version(rotation));
        assert_eq!(keystore.rotate_keks().await, rotation);
        // Another root while keys are wrapped anew.
        if rotation == 3 {
            continue;
        }
        keystore.rewrapped(rotation).await;
    }
    done.store(true, Ordering::Relaxed);
    for worker in load {
        worker.await.unwrap();
    }
    eprintln!("{} requests served", served.load(Ordering::Relaxed));
    keystore.rewrapped(4).await;
    assert!(same(&lease(&keystore.origin, 0..64).await, &before));
    keystore.in_order().await;
}

#[tokio::test]
async fn versioning_a_key_under_a_version_below_the_floor_is_refused() {
    let keystore = open().await;
    let keys = lease(&keystore.origin, 0..2).await;
    let mut database = keystore.database().await;
    let old = body(&mut database, keys[0].key_id).await;
    assert_eq!(old.1, 1);
    let version = keystore.rotate_keks().await;
    keystore.rewrapped(version).await;
    let new = body(&mut database, keys[0].key_id).await;
    assert_eq!(new.1, 2);

    // Put back as it was: it would open, and is refused; after a restart too.
    put_body(&mut database, keys[0].key_id, &old.0, old.1).await;
    for _ in 0..2 {
        let contexts = vec![context(0)];
        let refused = keystore.origin.lease(LeaseRequest { contexts }).await;
        let why = format!("{refused:?}");
        assert!(why.contains("its floor is 2"), "{why}");
        let faults = keystore.operator.verify(None).await.unwrap().faults;
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert_eq!(faults[0].place, keys[0].key_id.to_string());
        assert!(same(&lease(&keystore.origin, 1..2).await, &keys[1..]));
        keystore.operator.seal().await.unwrap();
        (keystore.operator.unseal(PASSPHRASE.into()).await).unwrap();
    }
    put_body(&mut database, keys[0].key_id, &new.0, new.1).await;
    assert!(same(&lease(&keystore.origin, 0..2).await, &keys));
}

#[tokio::test]
async fn versioning_of_the_root_keeps_the_passphrase_and_nothing_of_the_old_root() {
    let keystore = open().await;
    let keys = lease(&keystore.origin, 0..2).await;
    let mut database = keystore.database().await;
    let old: Vec<u8> = sqlx::query_scalar("SELECT wrapped FROM root_seal")
        .fetch_one(&mut database)
        .await
        .unwrap();
    let old_kek: Vec<u8> = sqlx::query_scalar("SELECT wrapped FROM kek")
        .fetch_one(&mut database)
        .await
        .unwrap();
    database.close().await.unwrap();
    let state = &keystore.settings.state_dir;
    assert!(holds(state, &old) && holds(state, &old_kek));

    let error = (keystore
        .operator
        .rotate_root(None, Some("correct horsf".into()), None)
        .await)
        .unwrap_err();
    assert!(matches!(error, AdminError::WrongPassphrase), "{error}");
    let version = (keystore
        .operator
        .rotate_root(None, Some(PASSPHRASE.into()), None)
        .await)
        .unwrap();
    assert_eq!(version, RotatedRoot::Version(2));
    assert!(!holds(state, &old) && !holds(state, &old_kek));
    keystore.operator.seal().await.unwrap();
    let error = (keystore
        .operator
        .rotate_root(None, Some(PASSPHRASE.into()), None)
        .await)
        .unwrap_err();
    assert!(
        matches!(error, AdminError::Keystore(Error::Sealed)),
        "{error}"
    );
    (keystore.operator.unseal(PASSPHRASE.into()).await).unwrap();
    assert!(same(&lease(&keystore.origin, 0..2).await, &keys));
    keystore.in_order().await;
}

#[tokio::test]
async fn a_new_passphrase_opens_a_new_root_and_the_old_one_nothing() {
    const NEW: &str = "battery staple";
    let keystore = open().await;
    let operator = &keystore.operator;
    let keys = lease(&keystore.origin, 0..2).await;
    let change =
        |old: &str, new: &str| operator.rotate_root(None, Some(old.into()), Some(new.into()));
    // Neither by somebody who does not know the old one, nor to one that can be tried out.
    let error = change("correct horsf", NEW).await.unwrap_err();
    assert!(matches!(error, AdminError::WrongPassphrase), "{error}");
    let error = change(PASSPHRASE, "short").await.unwrap_err();
    assert!(matches!(error, AdminError::Refused(_)), "{error}");
    operator.seal().await.unwrap();
    operator.unseal(PASSPHRASE.into()).await.unwrap();

    let version = change(PASSPHRASE, NEW).await.unwrap();
    assert_eq!(version, RotatedRoot::Version(2));
    assert!(same(&lease(&keystore.origin, 0..2).await, &keys));
    operator.seal().await.unwrap();
    let error = operator.unseal(PASSPHRASE.into()).await.unwrap_err();
    assert!(matches!(error, AdminError::WrongPassphrase), "{error}");
    operator.unseal(NEW.into()).await.unwrap();
    assert!(same(&lease(&keystore.origin, 0..2).await, &keys));
    // A rotation that changes nothing else asks for the one that there is now.
    let kept = operator.rotate_root(None, Some(NEW.into()), None);
    assert_eq!(kept.await.unwrap(), RotatedRoot::Version(3));
    keystore.in_order().await;

    let log = std::fs::read_to_string(keystore.settings.state_dir.join("audit.log")).unwrap();
    assert!(log.contains("\"op\":\"rotate_root\",\"version\":2,\"new_passphrase\":true"));
    assert!(log.contains("\"op\":\"rotate_root\",\"version\":3,\"prev\""));
    assert!(!log.contains(NEW));
}

#[tokio::test]
async fn a_tenant_without_keys_has_nothing_to_rotate() {
    let keystore = open().await;
    let nobody = keystore.operator.rotate_keks(Some("nobody".to_owned()));
    let error = nobody.await.unwrap_err();
    assert!(matches!(error, AdminError::Refused(_)), "{error}");
    assert_eq!(keystore.operator.rotate_keks(None).await.unwrap(), vec![]);
}
