//! How a keystore comes to its root without anybody at the keyboard, and what it does where it does not come to it.
#![expect(clippy::unwrap_used, reason = "a test's panic is its report")]

mod service;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use conf::{KeystoreSettings, SecretSource};
use keystore::capability::Caller;
use keystore::{Local, SystemClock, testing};
use keystore_client::SealState;
use keystore_client::admin::{
    Act, Admin, AdminError, Keeping, RotatedRoot, SharePlan, UnlockMethod,
};
use secrecy::SecretString;
use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};

use self::service::{Mood, Service};

/// How long anything may take to come about on the slowest machine before a test says that it did not.
const PATIENCE: Duration = Duration::from_secs(60);

async fn open(settings: &KeystoreSettings) -> Local {
    Local::open(settings, Arc::new(SystemClock)).await.unwrap()
}

fn operator(local: &Local) -> Arc<dyn Admin> {
    local.admin(Caller::operator("operator"))
}

fn state(local: &Local) -> SealState {
    *local.seal_state().borrow()
}

async fn becomes(local: &Local, wanted: SealState) {
    let mut state = local.seal_state();
    let wait = state.wait_for(|state| *state == wanted);
    (tokio::time::timeout(PATIENCE, wait).await)
        .expect("it ends in time")
        .unwrap();
}

fn secret(folder: &Path, name: &str, bytes: &[u8]) -> SecretSource {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    SecretSource::file(path)
}

#[tokio::test]
async fn a_systemd_credential_unseals_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    // As systemd gives it: `CREDENTIALS_DIRECTORY` and the name that `LoadCredential=` gave.
    let credential: Vec<u8> = (0..64).map(|byte| byte ^ 0xa5).collect();
    let mut settings = testing::settings(folder.path());
    settings.key = Some(secret(folder.path(), "keystore-key", &credential));
    settings.init_at_start = true;
    let local = open(&settings).await;
    assert_eq!(state(&local), SealState::Unsealed);
    let status = operator(&local).status().await.unwrap();
    assert_eq!(status.stored.unwrap().kept_by, [UnlockMethod::Key]);
    drop(local);
    let local = open(&settings).await;
    assert_eq!(state(&local), SealState::Unsealed);
    operator(&local).seal().await.unwrap();
    operator(&local).unseal_by(UnlockMethod::Key).await.unwrap();
    drop(local);

    // Another key, and a short one: sealed, in reach, and opened once the right one is there.
    for wrong in [&credential[1..], b"short"] {
        secret(folder.path(), "keystore-key", wrong);
        let local = open(&settings).await;
        assert_eq!(state(&local), SealState::Sealed);
        let error = operator(&local).unseal_by(UnlockMethod::Key).await;
        assert!(matches!(error, Err(AdminError::Refused(_))), "{error:?}");
        secret(folder.path(), "keystore-key", &credential);
        operator(&local).unseal_by(UnlockMethod::Key).await.unwrap();
    }
}

#[tokio::test]
async fn what_comes_late_unseals_it_late() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = testing::settings(folder.path());
    settings.key = Some(secret(folder.path(), "key", &[7; 32]));
    settings.init_at_start = true;
    drop(open(&settings).await);
    std::fs::remove_file(folder.path().join("key")).unwrap();
    let local = open(&settings).await;
    assert_eq!(state(&local), SealState::Sealed);
    secret(folder.path(), "key", &[7; 32]);
    becomes(&local, SealState::Unsealed).await;
}

/// Otherwise a keystore that an operator sealed in an emergency would open itself once more.
#[tokio::test]
async fn an_operators_seal_lasts() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = testing::settings(folder.path());
    settings.key = Some(secret(folder.path(), "key", &[7; 32]));
    settings.init_at_start = true;
    drop(open(&settings).await);
    std::fs::remove_file(folder.path().join("key")).unwrap();
    let local = open(&settings).await;
    operator(&local).seal().await.unwrap();
    secret(folder.path(), "key", &[7; 32]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(state(&local), SealState::Sealed);
}

#[tokio::test]
async fn each_way_opens_the_same_root_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = testing::settings(folder.path());
    settings.key = Some(secret(folder.path(), "key", &[7; 32]));
    let local = open(&settings).await;
    let admin = operator(&local);
    let keeping = Keeping {
        methods: vec![UnlockMethod::Key],
        shares: Some(SharePlan {
            shares: 3,
            threshold: 2,
        }),
    };
    let passphrase = || Some("correct horse".into());
    assert!(
        admin
            .init_with(keeping, passphrase())
            .await
            .unwrap()
            .is_some()
    );
    let mut shares = vec![];
    for _ in 0..3 {
        let share = admin.deal_share().await.unwrap().text;
        admin.confirm_share(share.clone()).await.unwrap();
        shares.push(share);
    }
    let keys = testing::license(&local);
    assert_eq!(*keys.seal_state().borrow(), SealState::Unsealed);
    let status = admin.status().await.unwrap();
    let all = [
        UnlockMethod::Passphrase,
        UnlockMethod::Key,
        UnlockMethod::Shares,
    ];
    let kept_by = status.stored.unwrap().kept_by;
    assert!(all.iter().all(|method| kept_by.contains(method)));
    for way in 0..3 {
        admin.seal().await.unwrap();
        match way {
            0 => admin.unseal("correct horse".into()).await.unwrap(),
            1 => admin.unseal_by(UnlockMethod::Key).await.unwrap(),
            _ => {
                admin.unseal_share(shares[0].clone()).await.unwrap();
                assert!(admin.unseal_share(shares[2].clone()).await.unwrap().done);
            }
        }
        assert_eq!(state(&local), SealState::Unsealed);
        assert_eq!(admin.verify(None).await.unwrap().faults, vec![]);
    }
}

async fn deal_all(admin: &Arc<dyn Admin>, shares: u8) -> Vec<SecretString> {
    let mut dealt = vec![];
    for _ in 0..shares {
        let share = admin.deal_share().await.unwrap().text;
        admin.confirm_share(share.clone()).await.unwrap();
        dealt.push(share);
    }
    dealt
}

#[tokio::test]
async fn shares_are_dealt_anew_by_two_operators_and_the_old_ones_open_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = testing::settings(folder.path());
    settings.key = Some(secret(folder.path(), "key", &[7; 32]));
    let local = open(&settings).await;
    let anna = local.admin(Caller::operator("anna"));
    let berta = local.admin(Caller::operator("berta"));
    let plan = |shares, threshold| SharePlan { shares, threshold };
    let keeping = Keeping {
        methods: vec![UnlockMethod::Key],
        shares: Some(plan(3, 2)),
    };
    let passphrase = || Some(SecretString::from("correct horse"));
    anna.init_with(keeping, passphrase()).await.unwrap();
    let lost = deal_all(&anna, 3).await;

    let without = anna.rotate_root(None, passphrase(), None).await;
    assert!(
        matches!(without, Err(AdminError::Refused(_))),
        "{without:?}"
    );
    let mistyped = anna.rotate_root(Some(plan(5, 3)), Some("correct horsf".into()), None);
    assert!(matches!(mistyped.await, Err(AdminError::WrongPassphrase)));
    let directly = anna.act(Act::DealShares(plan(5, 3))).await;
    assert!(
        matches!(directly, Err(AdminError::Refused(_))),
        "{directly:?}"
    );

    let RotatedRoot::Waits(approval) =
        (anna.rotate_root(Some(plan(5, 3)), passphrase(), None).await).unwrap()
    else {
        panic!("one operator is not enough");
    };
    assert!(anna.approve(approval.id.clone()).await.is_err());
    berta.approve(approval.id).await.unwrap();
    let RotatedRoot::Dealing(dealing) =
        (anna.rotate_root(Some(plan(5, 3)), passphrase(), None).await).unwrap()
    else {
        panic!("two operators are enough");
    };
    assert_eq!(dealing.plan, plan(5, 3));
    // Until the last is read back, the old root stands.
    let first = anna.deal_share().await.unwrap().text;
    anna.seal().await.unwrap();
    anna.unseal_share(lost[0].clone()).await.unwrap();
    assert!(anna.unseal_share(lost[1].clone()).await.unwrap().done);
    assert!(anna.confirm_share(first).await.is_err());

    let waits = anna.rotate_root(Some(plan(5, 3)), passphrase(), None).await;
    let RotatedRoot::Waits(approval) = waits.unwrap() else {
        panic!("an approval is used once");
    };
    berta.approve(approval.id).await.unwrap();
    // With the shares the passphrase can be changed, too.
    let new = Some("battery staple".into());
    (anna.rotate_root(Some(plan(5, 3)), passphrase(), new).await).unwrap();
    let dealt = deal_all(&anna, 5).await;
    assert_eq!(anna.verify(None).await.unwrap().faults, vec![]);
    anna.seal().await.unwrap();
    let old = anna.unseal_share(lost[0].clone()).await;
    assert!(matches!(old, Err(AdminError::WrongShare(_))), "{old:?}");
    for share in &dealt[2..] {
        anna.unseal_share(share.clone()).await.unwrap();
    }
    assert_eq!(state(&local), SealState::Unsealed);
    // The other ways open the new root, too.
    anna.seal().await.unwrap();
    let old = anna.unseal("correct horse".into()).await;
    assert!(matches!(old, Err(AdminError::WrongPassphrase)), "{old:?}");
    anna.unseal("battery staple".into()).await.unwrap();
    anna.seal().await.unwrap();
    anna.unseal_by(UnlockMethod::Key).await.unwrap();
    assert_eq!(anna.verify(None).await.unwrap().faults, vec![]);
}

#[tokio::test]
async fn a_rotated_root_is_kept_in_every_way_that_the_old_one_was() {
    let folder = tempfile::tempdir().unwrap();
    let (_service, mut settings) = by_transit(folder.path()).await;
    settings.key = Some(secret(folder.path(), "key", &[7; 32]));
    settings.passphrase = Some(secret(folder.path(), "passphrase", b"correct horse"));
    settings.init_at_start = true;
    let local = open(&settings).await;
    let admin = operator(&local);
    let ways = [
        UnlockMethod::Passphrase,
        UnlockMethod::Key,
        UnlockMethod::Transit,
    ];
    assert_eq!(
        admin.status().await.unwrap().stored.unwrap().kept_by.len(),
        ways.len()
    );
    let rotated = admin.rotate_root(None, None, None).await.unwrap();
    assert_eq!(rotated, RotatedRoot::Version(2));
    for way in ways {
        admin.seal().await.unwrap();
        admin.unseal_by(way).await.unwrap();
        assert_eq!(admin.verify(None).await.unwrap().faults, vec![]);
    }
    drop(admin);
    drop(local);

    // A new passphrase takes the place of the configured one, and the other ways stay.
    let local = open(&settings).await;
    let admin = operator(&local);
    let changed = admin.rotate_root(None, None, Some("battery staple".into()));
    assert_eq!(changed.await.unwrap(), RotatedRoot::Version(3));
    admin.seal().await.unwrap();
    let stale = admin.unseal_by(UnlockMethod::Passphrase).await;
    assert!(stale.is_err(), "the file still has the old one");
    for way in [UnlockMethod::Key, UnlockMethod::Transit] {
        admin.seal().await.unwrap();
        admin.unseal_by(way).await.unwrap();
    }
    settings.passphrase = Some(secret(folder.path(), "passphrase", b"battery staple"));
    drop(admin);
    drop(local);

    // What is not configured any more cannot be sealed anew: the old root stays.
    settings.transit = None;
    let local = open(&settings).await;
    let admin = operator(&local);
    let refused = admin.rotate_root(None, None, None).await;
    assert!(
        matches!(refused, Err(AdminError::Refused(_))),
        "{refused:?}"
    );
    admin.seal().await.unwrap();
    admin.unseal_by(UnlockMethod::Key).await.unwrap();
    drop(admin);
    drop(local);

    // Nor is there a passphrase to change where none keeps the root.
    let folder = tempfile::tempdir().unwrap();
    let mut settings = testing::settings(folder.path());
    settings.key = Some(secret(folder.path(), "key", &[7; 32]));
    settings.init_at_start = true;
    let admin = operator(&open(&settings).await);
    let refused = admin.rotate_root(None, None, Some("battery staple".into()));
    let error = refused.await.unwrap_err();
    assert!(
        error.to_string().contains("not kept under a passphrase"),
        "{error}"
    );
}

/// Lets more than that go by, for whatever waits by now.
async fn time_passes(time: Duration) {
    tokio::task::yield_now().await;
    tokio::time::pause();
    tokio::time::advance(time + Duration::from_secs(1)).await;
    tokio::task::yield_now().await;
    tokio::time::resume();
}

#[tokio::test]
async fn shares_that_are_not_enough_are_given_up_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let settings = testing::settings(folder.path());
    let local = open(&settings).await;
    let admin = operator(&local);
    let keeping = || Keeping {
        methods: vec![],
        shares: Some(SharePlan {
            shares: 2,
            threshold: 2,
        }),
    };
    // A ceremony, too.
    admin.init_with(keeping(), None).await.unwrap();
    let late = admin.deal_share().await.unwrap().text;
    time_passes(settings.share_patience).await;
    assert!(admin.confirm_share(late).await.is_err());

    admin.init_with(keeping(), None).await.unwrap();
    let mut shares = vec![];
    for _ in 0..2 {
        let share = admin.deal_share().await.unwrap().text;
        admin.confirm_share(share.clone()).await.unwrap();
        shares.push(share);
    }
    admin.seal().await.unwrap();
    admin.unseal_share(shares[0].clone()).await.unwrap();
    time_passes(settings.share_patience).await;
    assert_eq!(admin.status().await.unwrap().shares, None);
    let progress = admin.unseal_share(shares[1].clone()).await.unwrap();
    assert_eq!((progress.given, progress.done), (vec![2], false));
    assert!(admin.unseal_share(shares[0].clone()).await.unwrap().done);
}

/// The record of `unlock/passphrase.rs`, made by another implementation, in a database of the first version.
#[tokio::test]
async fn a_root_of_before_there_were_several_ways_opens() {
    let folder = tempfile::tempdir().unwrap();
    let settings = testing::settings(folder.path());
    std::fs::create_dir(&settings.state_dir).unwrap();
    let options = SqliteConnectOptions::new()
        .filename(settings.state_dir.join("keystore.sqlite"))
        .create_if_missing(true);
    let mut database = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql(include_str!("../src/store/migrations/0001_initial.sql"))
        .execute(&mut database)
        .await
        .unwrap();
    sqlx::raw_sql(
        "INSERT INTO root VALUES (1, 'argon2id', x'736f6d6573616c74736f6d6573616c74', 64, 2, 1, \
         x'000102030405060708090a0bbfc46c43afe9b15005c0743090795dce2b6872fed38ac9f5518eb51a7a43aadb8c8059034b2a30b4b091f255c4c93d0c', 1)",
    )
    .execute(&mut database)
    .await
    .unwrap();
    database.close().await.unwrap();
    let local = open(&settings).await;
    assert_eq!(state(&local), SealState::Sealed);
    let error = operator(&local).unseal("wrong horse".into()).await;
    assert!(
        matches!(error, Err(AdminError::WrongPassphrase)),
        "{error:?}"
    );
    operator(&local)
        .unseal("correct horse".into())
        .await
        .unwrap();
    let status = operator(&local).status().await.unwrap();
    assert_eq!(status.stored.unwrap().kept_by, [UnlockMethod::Passphrase]);
}

async fn by_transit(folder: &Path) -> (Service, KeystoreSettings) {
    let service = Service::start(folder).await;
    let mut settings = testing::settings(folder);
    settings.transit = Some(service.settings());
    settings.init_at_start = true;
    (service, settings)
}

#[tokio::test]
async fn a_transit_service_unseals_over_https() {
    let folder = tempfile::tempdir().unwrap();
    let (service, settings) = by_transit(folder.path()).await;
    drop(open(&settings).await);
    let local = open(&settings).await;
    assert_eq!(state(&local), SealState::Unsealed);
    let admin = operator(&local);
    assert_eq!(
        admin.status().await.unwrap().stored.unwrap().kept_by,
        [UnlockMethod::Transit]
    );
    // Encrypted once and read back, then decrypted once more; a licence asks nothing.
    assert_eq!(service.asked(), ["encrypt", "decrypt", "decrypt"]);
    service.becomes(Mood::Silent);
    assert_eq!(admin.verify(None).await.unwrap().faults, vec![]);
    assert_eq!(state(&local), SealState::Unsealed);
}

#[tokio::test]
async fn a_transit_service_that_fails_is_bounded_and_yields_no_root() {
    let folder = tempfile::tempdir().unwrap();
    let (service, settings) = by_transit(folder.path()).await;
    let local = open(&settings).await;
    let admin = operator(&local);
    admin.seal().await.unwrap();
    for (mood, refused, said) in [
        (Mood::Silent, false, "no answer within"),
        (Mood::Status(403), false, "403"),
        (Mood::Status(503), false, "503"),
        (Mood::Status(400), true, "400"),
        (Mood::Status(404), true, "404"),
        (Mood::Status(307), true, "redirect"),
        (Mood::Garbage, false, "no answer"),
        (Mood::AnotherKey, true, "does not open the root"),
        (Mood::ShortKey, true, "something else than a key"),
        (Mood::Endless, false, "cannot be asked"),
        (Mood::HangsUp, false, "cannot be asked"),
    ] {
        service.becomes(mood);
        let asked = tokio::time::timeout(PATIENCE, admin.unseal_by(UnlockMethod::Transit));
        let error = asked.await.expect("it ends in time").unwrap_err();
        assert_eq!(
            matches!(error, AdminError::Refused(_)),
            refused,
            "{mood:?}: {error}"
        );
        assert!(error.to_string().contains(said), "{mood:?}: {error}");
        assert!(
            !error.to_string().contains(service::TOKEN),
            "{mood:?}: {error}"
        );
        assert_eq!(state(&local), SealState::Sealed, "{mood:?}");
    }
    service.becomes(Mood::Well);
    admin.unseal_by(UnlockMethod::Transit).await.unwrap();
    assert_eq!(state(&local), SealState::Unsealed);
}

#[tokio::test]
async fn a_transit_service_is_known_by_its_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let (service, mut settings) = by_transit(folder.path()).await;
    let other = tempfile::tempdir().unwrap();
    let stranger = Service::start(other.path()).await;
    settings.transit.as_mut().unwrap().ca_file = stranger.settings().ca_file;
    let local = open(&settings).await;
    assert_eq!(state(&local), SealState::Uninitialised);
    assert_eq!(service.asked(), [""; 0]);
}

#[tokio::test]
async fn a_root_that_a_transit_service_would_not_give_back_is_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (service, settings) = by_transit(folder.path()).await;
    service.becomes(Mood::AnotherKey);
    let local = open(&settings).await;
    assert_eq!(state(&local), SealState::Uninitialised);
    assert_eq!(
        operator(&local)
            .status()
            .await
            .unwrap()
            .stored
            .unwrap()
            .kept_by,
        []
    );
}

#[tokio::test]
async fn a_transit_service_that_comes_back_unseals_it() {
    let folder = tempfile::tempdir().unwrap();
    let (service, settings) = by_transit(folder.path()).await;
    drop(open(&settings).await);
    service.becomes(Mood::Status(503));
    let local = open(&settings).await;
    assert_eq!(state(&local), SealState::Sealed);
    service.becomes(Mood::Well);
    becomes(&local, SealState::Unsealed).await;
}
