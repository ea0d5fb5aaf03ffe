//! What lies on disk: who may open it, what is refused, what is noticed, and what is gone.
#![expect(clippy::unwrap_used, reason = "a test's panic is its report")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use conf::{KeystoreSettings, SecretSource};
use keystore::capability::Caller;
use keystore::{ErrorKind, Local, SystemClock, testing};
use keystore_client::admin::Admin;
use keystore_client::{Error, Lease, LeaseRequest, SealState};
use keystore_types::{Generation, KeyContext, KeyId, Label, SUBSAMPLE_RULE, Scheme};
use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};

async fn open(settings: &KeystoreSettings) -> Result<Local, keystore::Error> {
    Local::open(settings, Arc::new(SystemClock)).await
}

fn operator(local: &Local) -> Arc<dyn Admin> {
    local.admin(Caller::operator("operator"))
}

fn state(local: &Local) -> SealState {
    *local.seal_state().borrow()
}

async fn lease(local: &Local) -> Result<Lease, Error> {
    let contexts = [Label::Audio, Label::Hd].map(|label| KeyContext {
        tenant: "default".to_owned(),
        asset: "film".parse().unwrap(),
        label,
        scheme: Scheme::Cbcs,
        subsample_rule: SUBSAMPLE_RULE,
        generation: Generation {
            sources: [7; 32],
            number: 0,
        },
    });
    let request = LeaseRequest {
        contexts: contexts.into(),
    };
    testing::origin(local).lease(request).await
}

/// The database as a tool outside the keystore sees it.
async fn database(settings: &KeystoreSettings) -> SqliteConnection {
    let path = settings.state_dir.join("keystore.sqlite");
    let options = SqliteConnectOptions::new().filename(path);
    SqliteConnection::connect_with(&options).await.unwrap()
}

async fn wrapped(database: &mut SqliteConnection, id: KeyId) -> Vec<u8> {
    sqlx::query_scalar("SELECT wrapped FROM content_key WHERE key_id = ?")
        .bind(id.as_bytes().as_slice())
        .fetch_one(database)
        .await
        .unwrap()
}

fn passphrase_file(folder: &Path, text: &str) -> SecretSource {
    let path = folder.join("passphrase");
    std::fs::write(&path, text).unwrap();
    SecretSource::file(path)
}

#[tokio::test]
async fn one_process_has_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let settings = testing::settings(folder.path());
    let first = open(&settings).await.unwrap();
    let error = open(&settings).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("another process"), "{error}");
    drop(first);
    open(&settings).await.unwrap();
}

#[tokio::test]
async fn only_the_owner_reads_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let settings = testing::settings(folder.path());
    let _local = open(&settings).await.unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&settings.state_dir), 0o700);
    for file in std::fs::read_dir(&settings.state_dir).unwrap() {
        assert_eq!(mode(&file.unwrap().path()), 0o600);
    }
}

#[tokio::test]
async fn a_newer_database_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let settings = testing::settings(folder.path());
    drop(open(&settings).await.unwrap());
    let mut database = database(&settings).await;
    sqlx::raw_sql("PRAGMA user_version = 99")
        .execute(&mut database)
        .await
        .unwrap();
    let error = open(&settings).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("version 99"), "{error}");
}

#[tokio::test]
async fn the_passphrase_of_the_settings_opens_it_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = testing::settings(folder.path());
    settings.passphrase = Some(passphrase_file(folder.path(), "correct horse\n"));
    // No root is made unless asked: an unmounted state folder must not give every title new keys.
    assert_eq!(
        state(&open(&settings).await.unwrap()),
        SealState::Uninitialised
    );
    settings.init_at_start = true;
    let local = open(&settings).await.unwrap();
    assert_eq!(state(&local), SealState::Unsealed);
    let key_id = lease(&local).await.unwrap().keys[0].key_id;
    drop(local);
    let local = open(&settings).await.unwrap();
    assert_eq!(state(&local), SealState::Unsealed);
    assert_eq!(lease(&local).await.unwrap().keys[0].key_id, key_id);
}

#[tokio::test]
async fn a_wrong_passphrase_leaves_it_sealed_and_in_reach() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = testing::settings(folder.path());
    let local = open(&settings).await.unwrap();
    operator(&local).init("correct horse".into()).await.unwrap();
    drop(local);
    for source in [
        passphrase_file(folder.path(), "wrong horse"),
        SecretSource::file(folder.path().join("missing")),
    ] {
        settings.passphrase = Some(source);
        let local = open(&settings).await.unwrap();
        assert_eq!(state(&local), SealState::Sealed);
        assert!(matches!(lease(&local).await, Err(Error::Sealed)));
        operator(&local)
            .unseal("correct horse".into())
            .await
            .unwrap();
        assert!(lease(&local).await.is_ok());
    }
}

#[tokio::test]
async fn a_key_moved_to_another_row_does_not_open() {
    let folder = tempfile::tempdir().unwrap();
    let settings = testing::settings(folder.path());
    let local = open(&settings).await.unwrap();
    operator(&local).init("correct horse".into()).await.unwrap();
    let keys = lease(&local).await.unwrap().keys;
    let mut database = database(&settings).await;
    let other = wrapped(&mut database, keys[1].key_id).await;
    sqlx::query("UPDATE content_key SET wrapped = ? WHERE key_id = ?")
        .bind(other)
        .bind(keys[0].key_id.as_bytes().as_slice())
        .execute(&mut database)
        .await
        .unwrap();
    assert!(matches!(lease(&local).await, Err(Error::Unavailable(_))));
    let report = operator(&local).verify(None).await.unwrap();
    assert_eq!(report.unwrapped, 1);
    assert_eq!(report.faults.len(), 1);
    assert_eq!(report.faults[0].place, keys[0].key_id.to_string());
}

#[tokio::test]
async fn a_destroyed_key_is_in_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let settings = testing::settings(folder.path());
    let local = open(&settings).await.unwrap();
    operator(&local).init("correct horse".into()).await.unwrap();
    let key_id = lease(&local).await.unwrap().keys[0].key_id;
    let wrapped = wrapped(&mut database(&settings).await, key_id).await;
    let holds = || {
        std::fs::read_dir(&settings.state_dir).unwrap().any(|file| {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            bytes.windows(wrapped.len()).any(|window| window == wrapped)
        })
    };
    assert!(holds());
    operator(&local).key_destroy(key_id).await.unwrap();
    assert!(!holds());
}

#[tokio::test]
async fn a_torn_record_is_cut_off_and_said() {
    let folder = tempfile::tempdir().unwrap();
    let settings = testing::settings(folder.path());
    drop(open(&settings).await.unwrap());
    let path = settings.state_dir.join("audit.log");
    let mut log = std::fs::read(&path).unwrap();
    log.extend_from_slice(b"{\"seq\":2,\"unix");
    std::fs::write(&path, &log).unwrap();
    let local = open(&settings).await.unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(last["op"], "start");
    assert_eq!(last["torn_bytes"], 14);
    assert_eq!(operator(&local).verify(None).await.unwrap().faults, vec![]);
}

#[tokio::test]
async fn a_log_that_was_cut_short_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let settings = testing::settings(folder.path());
    let local = open(&settings).await.unwrap();
    operator(&local).init("correct horse".into()).await.unwrap();
    drop(local);
    let path = settings.state_dir.join("audit.log");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.split_inclusive('\n').next().unwrap()).unwrap();
    let local = open(&settings).await.unwrap();
    let faults = operator(&local).verify(None).await.unwrap().faults;
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert_eq!(faults[0].sequence, Some(3));
}
