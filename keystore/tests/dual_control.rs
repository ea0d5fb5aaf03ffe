//! What needs two operators, and what stays destroyed.
//!
//! All operators here are this process; that peers are told apart by what the kernel says of them is tested elsewhere.
#![expect(clippy::unwrap_used, reason = "a test's panic is its report")]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use conf::KeystoreSettings;
use keystore::audit::{Checkpoint, Expected, PublicKey, walk};
use keystore::capability::Caller;
use keystore::{Clock, Local, testing};
use keystore_client::admin::{Act, Acted, Admin, AdminError, Approval};
use keystore_client::{Error, Lease, LeaseRequest, SealState};
use keystore_types::{Generation, KeyContext, Label, SUBSAMPLE_RULE, Scheme};
use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use tempfile::TempDir;

const PASSPHRASE: &str = "correct horse";

/// A clock that is put forward by hand.
struct Hand(Mutex<SystemTime>);

impl Clock for Hand {
    fn now(&self) -> SystemTime {
        *self.0.lock().unwrap()
    }
}

struct Opened {
    local: Local,
    clock: Arc<Hand>,
    anna: Arc<dyn Admin>,
    berta: Arc<dyn Admin>,
    settings: KeystoreSettings,
}

async fn open(settings: KeystoreSettings) -> Opened {
    let clock = Arc::new(Hand(Mutex::new(SystemTime::now())));
    let local = Local::open(&settings, clock.clone()).await.unwrap();
    Opened {
        anna: local.admin(Caller::operator("anna")),
        berta: local.admin(Caller::operator("berta")),
        local,
        clock,
        settings,
    }
}

async fn fresh(folder: &TempDir) -> Opened {
    let keystore = open(testing::settings(folder.path())).await;
    keystore.anna.init(PASSPHRASE.into()).await.unwrap();
    keystore
}

impl Opened {
    async fn lease_of(&self, tenant: &str, number: u32) -> Result<Lease, Error> {
        let contexts = vec![KeyContext {
            tenant: tenant.to_owned(),
            asset: "film".parse().unwrap(),
            label: Label::Hd,
            scheme: Scheme::Cbcs,
            subsample_rule: SUBSAMPLE_RULE,
            generation: Generation {
                sources: [7; 32],
                number,
            },
        }];
        let mut settings = self.settings.clone();
        settings.tenant = tenant.to_owned();
        let origin = Caller::configured(&settings, "origin").unwrap();
        self.local
            .handle(origin)
            .lease(LeaseRequest { contexts })
            .await
    }

    async fn lease(&self, number: u32) -> Result<Lease, Error> {
        self.lease_of("default", number).await
    }

    /// What `op` and `step` say in the log, of approvals.
    fn steps(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.settings.state_dir.join("audit.log")).unwrap();
        let records = log
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        records
            .filter(|record| record["op"] == "approval")
            .map(|record| {
                let text = |name: &str| record[name].as_str().unwrap().to_owned();
                format!("{} {}", text("caller"), text("step"))
            })
            .collect()
    }

    async fn in_order(&self) {
        let report = self.anna.verify(None).await.unwrap();
        assert_eq!(report.faults, vec![]);
    }

    /// Asks by the one, agrees by the other, and does it.
    async fn agreed(&self, act: Act) -> String {
        let waits = waits(self.anna.act(act.clone()).await.unwrap());
        self.berta.approve(waits.id).await.unwrap();
        match self.anna.act(act).await.unwrap() {
            Acted::Done(what) => what,
            other @ (Acted::Waits(_) | Acted::File(_)) => panic!("{other:?}"),
        }
    }
}

fn waits(acted: Acted) -> Approval {
    match acted {
        Acted::Waits(approval) => approval,
        other @ (Acted::Done(_) | Acted::File(_)) => {
            panic!("done by one operator alone: {other:?}")
        }
    }
}

fn refused<T: std::fmt::Debug>(result: Result<T, AdminError>) -> String {
    match result.unwrap_err() {
        AdminError::Refused(why) => why,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn dual_control_every_act_needs_two_different_operators() {
    let folder = tempfile::tempdir().unwrap();
    let keystore = fresh(&folder).await;
    keystore.lease(0).await.unwrap();
    keystore.anna.rotate_keks(None).await.unwrap();
    while keystore
        .anna
        .status()
        .await
        .unwrap()
        .stored
        .unwrap()
        .rotating
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let acts = [
        Act::SetAsideLog {},
        Act::LowerFloor {
            tenant: "default".to_owned(),
            version: 1,
        },
        Act::DestroyTenant {
            tenant: "nobody".to_owned(),
        },
    ];
    for act in acts {
        let asked = waits(keystore.anna.act(act.clone()).await.unwrap());
        assert_eq!(asked.requested_by, "anna");
        // Asking again, by whomever, agrees to nothing.
        for operator in [&keystore.anna, &keystore.berta] {
            assert_eq!(waits(operator.act(act.clone()).await.unwrap()), asked);
        }
        let why = refused(keystore.anna.approve(asked.id.clone()).await);
        assert!(why.contains("another operator"), "{why}");
        // The same person by another of their names.
        let also_anna = keystore.local.admin(Caller::operator("operator+anna"));
        refused(also_anna.approve(asked.id.clone()).await);
        assert_eq!(
            keystore.anna.approvals().await.unwrap(),
            std::slice::from_ref(&asked)
        );
        let agreed = keystore.berta.approve(asked.id.clone()).await.unwrap();
        assert_eq!(agreed.approved_by.as_deref(), Some("berta"));
        let done = keystore.anna.act(act.clone()).await.unwrap();
        assert!(matches!(done, Acted::Done(_)), "{done:?}");
        // Once.
        assert_eq!(keystore.anna.approvals().await.unwrap(), []);
        if !matches!(act, Act::LowerFloor { .. }) {
            let again = waits(keystore.anna.act(act).await.unwrap());
            assert_ne!(again.id, asked.id);
            keystore.anna.cancel(again.id).await.unwrap();
        }
    }
    keystore.in_order().await;
}

#[tokio::test]
async fn dual_control_requests_expire_are_cancelled_and_all_of_it_is_in_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let keystore = fresh(&folder).await;
    let act = Act::DestroyTenant {
        tenant: "nobody".to_owned(),
    };
    // Too late to agree.
    let asked = waits(keystore.anna.act(act.clone()).await.unwrap());
    *keystore.clock.0.lock().unwrap() += Duration::from_secs(3600);
    refused(keystore.berta.approve(asked.id).await);
    // Too late to do it.
    let asked = waits(keystore.anna.act(act.clone()).await.unwrap());
    keystore.berta.approve(asked.id).await.unwrap();
    *keystore.clock.0.lock().unwrap() += Duration::from_secs(3601);
    let asked = waits(keystore.anna.act(act.clone()).await.unwrap());
    // Withdrawn, by the other.
    keystore.berta.cancel(asked.id.clone()).await.unwrap();
    refused(keystore.berta.approve(asked.id).await);
    // One act's approval is not another's.
    let asked = waits(keystore.anna.act(act).await.unwrap());
    keystore.berta.approve(asked.id).await.unwrap();
    let other = Act::DestroyTenant {
        tenant: "default".to_owned(),
    };
    let other = waits(keystore.anna.act(other).await.unwrap());
    assert_eq!(other.approved_by, None);
    assert_eq!(
        keystore.steps(),
        [
            "anna requested",
            "keystore expired",
            "anna requested",
            "berta approved",
            "keystore expired",
            "anna requested",
            "berta cancelled",
            "anna requested",
            "berta approved",
            "anna requested",
        ]
    );
    // Not for those who may not operate.
    let origin = Caller::configured(&keystore.settings, "origin").unwrap();
    let origin = keystore.local.admin(origin);
    for error in [
        origin.act(Act::SetAsideLog {}).await.unwrap_err(),
        origin.approve(other.id).await.unwrap_err(),
        origin.approvals().await.unwrap_err(),
    ] {
        assert!(matches!(error, AdminError::Keystore(Error::Denied(_))));
    }
    // A restart forgets what waits.
    drop(origin);
    let settings = keystore.settings.clone();
    drop(keystore);
    let keystore = open(settings).await;
    assert_eq!(keystore.anna.approvals().await.unwrap(), []);
}

#[tokio::test]
async fn nobody_is_asked_to_agree_to_what_cannot_be_done() {
    let folder = tempfile::tempdir().unwrap();
    let keystore = fresh(&folder).await;
    let floor = |tenant: &str, version| Act::LowerFloor {
        tenant: tenant.to_owned(),
        version,
    };
    refused(keystore.anna.act(floor("nobody", 1)).await);
    keystore.lease(0).await.unwrap();
    refused(keystore.anna.act(floor("default", 1)).await);
    refused(keystore.anna.act(floor("default", 0)).await);
    refused(keystore.anna.act(Act::AcceptRollback {}).await);
    keystore.anna.seal().await.unwrap();
    refused(keystore.anna.act(Act::AcceptRollback {}).await);
    let error = keystore.anna.act(Act::SetAsideLog {}).await.unwrap_err();
    assert!(matches!(error, AdminError::Keystore(Error::Sealed)));
    assert_eq!(keystore.steps(), [""; 0]);
}

#[tokio::test]
async fn versioning_a_lowered_floor_takes_old_keys_in_again() {
    let folder = tempfile::tempdir().unwrap();
    let keystore = fresh(&folder).await;
    let key = keystore.lease(0).await.unwrap().keys.remove(0);
    let path = keystore.settings.state_dir.join("keystore.sqlite");
    let options = SqliteConnectOptions::new().filename(path);
    let mut database = SqliteConnection::connect_with(&options).await.unwrap();
    let old: Vec<u8> = sqlx::query_scalar("SELECT wrapped FROM content_key")
        .fetch_one(&mut database)
        .await
        .unwrap();
    keystore.anna.rotate_keks(None).await.unwrap();
    let settled = async || {
        while keystore
            .anna
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
    settled().await;
    // A record of before the rotation, as out of an old copy of the store.
    sqlx::query("UPDATE content_key SET wrapped = ?, kek_version = 1")
        .bind(old)
        .execute(&mut database)
        .await
        .unwrap();
    assert!(keystore.lease(0).await.is_err());
    let floor = Act::LowerFloor {
        tenant: "default".to_owned(),
        version: 1,
    };
    keystore.agreed(floor).await;
    settled().await;
    let again = keystore.lease(0).await.unwrap().keys.remove(0);
    assert_eq!(again.key.expose(), key.key.expose());
    let version: i64 = sqlx::query_scalar("SELECT kek_version FROM content_key")
        .fetch_one(&mut database)
        .await
        .unwrap();
    assert_eq!(version, 2);
    keystore.in_order().await;
}

#[tokio::test]
async fn a_log_that_was_set_aside_goes_on_in_a_new_file_and_both_are_verified() {
    let folder = tempfile::tempdir().unwrap();
    let keystore = fresh(&folder).await;
    for number in 0..5 {
        keystore.lease(number).await.unwrap();
    }
    let early = keystore.anna.checkpoint().await.unwrap();
    let records = keystore.anna.status().await.unwrap().audit_records;
    keystore.agreed(Act::SetAsideLog {}).await;
    keystore.lease(6).await.unwrap();
    let state = keystore.settings.state_dir.clone();
    let old: Vec<PathBuf> = (std::fs::read_dir(&state).unwrap())
        .map(|file| file.unwrap().path())
        .filter(|path| path.to_string_lossy().contains("audit-"))
        .collect();
    assert_eq!(old.len(), 1);
    let status = keystore.anna.status().await.unwrap();
    assert!(status.audit_records > records);
    assert!(status.audit_bytes < 4096, "{status:?}");
    keystore.in_order().await;

    // Each by itself, with the public key, and where the one ends the other begins.
    let early = Checkpoint::try_from(&early).unwrap();
    let look = |path: &Path, key: PublicKey, checkpoints: &[Checkpoint]| {
        let file = File::open(path).unwrap();
        let len = file.metadata().unwrap().len();
        let expected = Expected {
            key: Some(key),
            anchor: None,
            checkpoints,
        };
        walk(&file, len, &expected)
    };
    let first = look(&old[0], early.key, &[early]);
    let second = look(&state.join("audit.log"), early.key, &[]);
    assert_eq!(first.fault, None);
    assert_eq!(second.fault, None);
    assert_eq!(second.first, first.head.seq + 1);
    // A checkpoint of the old file says so in the new one.
    let fault = look(&state.join("audit.log"), early.key, &[early])
        .fault
        .unwrap();
    assert!(fault.what.contains("set aside"), "{fault:?}");

    // The old file may go; and the chain goes on after a restart.
    std::fs::remove_file(&old[0]).unwrap();
    let settings = keystore.settings.clone();
    drop(keystore);
    let keystore = open(settings).await;
    keystore.anna.unseal(PASSPHRASE.into()).await.unwrap();
    keystore.lease(7).await.unwrap();
    keystore.in_order().await;
    let head = keystore.anna.status().await.unwrap();
    assert!(head.audit_records > second.head.seq);
    // What a crash leaves of a file that was begun is swept up, and a new name that came too early.
    std::fs::write(state.join("audit.log.new"), "half").unwrap();
    std::fs::hard_link(
        state.join("audit.log"),
        state.join("audit-000000000099.log"),
    )
    .unwrap();
    let settings = keystore.settings.clone();
    drop(keystore);
    open(settings).await.in_order().await;
    assert!(!state.join("audit.log.new").exists());
    assert!(!state.join("audit-000000000099.log").exists());
}

#[tokio::test]
async fn rollback_is_gone_on_with_by_two_operators_and_destroyed_keys_stay_destroyed() {
    let folder = tempfile::tempdir().unwrap();
    let keystore = fresh(&folder).await;
    let settings = keystore.settings.clone();
    let kept = keystore.lease(0).await.unwrap().keys.remove(0);
    let destroyed = keystore.lease(1).await.unwrap().keys.remove(0);
    keystore.lease_of("other", 0).await.unwrap();
    drop(keystore);
    let yesterday = folder.path().join("yesterday");
    testing::copy_store(&settings.state_dir, &yesterday)
        .await
        .unwrap();

    let keystore = open(settings.clone()).await;
    keystore.anna.unseal(PASSPHRASE.into()).await.unwrap();
    keystore.anna.key_destroy(destroyed.key_id).await.unwrap();
    let other = Act::DestroyTenant {
        tenant: "other".to_owned(),
    };
    keystore.agreed(other).await;
    keystore.in_order().await;
    drop(keystore);

    testing::copy_store(&yesterday, &settings.state_dir)
        .await
        .unwrap();
    let keystore = open(settings.clone()).await;
    let why = refused(keystore.anna.unseal(PASSPHRASE.into()).await);
    assert!(why.contains("was put back"), "{why}");
    let said = keystore.agreed(Act::AcceptRollback {}).await;
    assert!(said.contains("was put back"), "{said}");
    // Also when a restart comes in between.
    drop(keystore);
    let keystore = open(settings.clone()).await;
    keystore.anna.unseal(PASSPHRASE.into()).await.unwrap();
    keystore.in_order().await;
    let again = keystore.lease(0).await.unwrap().keys.remove(0);
    assert_eq!(again.key.expose(), kept.key.expose());
    let record = keystore.anna.key_show(destroyed.key_id).await.unwrap();
    assert!(record.destroyed.is_some());
    let new = keystore.lease(1).await.unwrap().keys.remove(0);
    assert_ne!(new.key_id, destroyed.key_id);
    let refused = keystore.lease_of("other", 0).await;
    assert!(matches!(refused, Err(Error::Denied(_))), "{refused:?}");
    let log = std::fs::read_to_string(settings.state_dir.join("audit.log")).unwrap();
    assert!(log.contains("\"caller\":\"keystore\",\"op\":\"destroy\""));
    assert!(log.contains("\"op\":\"rollback_accepted\""));
}

#[tokio::test]
async fn destroy_of_a_tenant_leaves_no_key_and_lets_none_be_made() {
    let folder = tempfile::tempdir().unwrap();
    let keystore = fresh(&folder).await;
    let lost = keystore.lease_of("other", 0).await.unwrap().keys.remove(0);
    let kept = keystore.lease(0).await.unwrap().keys.remove(0);
    for tenant in ["other", "never"] {
        let act = Act::DestroyTenant {
            tenant: tenant.to_owned(),
        };
        keystore.agreed(act).await;
        for _ in 0..2 {
            for number in 0..2 {
                let refused = keystore.lease_of(tenant, number).await;
                assert!(
                    matches!(&refused, Err(Error::Denied(why)) if why.contains("destroyed")),
                    "{refused:?}"
                );
            }
            keystore.anna.seal().await.unwrap();
            keystore.anna.unseal(PASSPHRASE.into()).await.unwrap();
        }
    }
    let record = keystore.anna.key_show(lost.key_id).await.unwrap();
    assert!(record.destroyed.is_some());
    assert_eq!(
        keystore.lease(0).await.unwrap().keys[0].key.expose(),
        kept.key.expose()
    );
    // What is left goes its way.
    keystore.anna.rotate_keks(None).await.unwrap();
    keystore
        .anna
        .rotate_root(None, Some(PASSPHRASE.into()), None)
        .await
        .unwrap();
    keystore.in_order().await;
    let path = keystore.settings.state_dir.join("keystore.sqlite");
    let options = SqliteConnectOptions::new().filename(path);
    let mut database = SqliteConnection::connect_with(&options).await.unwrap();
    let bodies: i64 = sqlx::query_scalar(
        "SELECT (SELECT COUNT(*) FROM kek WHERE tenant != 'default' AND length(wrapped) > 0) \
         + (SELECT COUNT(*) FROM content_key WHERE tenant != 'default' AND wrapped IS NOT NULL)",
    )
    .fetch_one(&mut database)
    .await
    .unwrap();
    assert_eq!(bodies, 0);
}

#[tokio::test]
async fn destroy_needs_its_tombstones() {
    let folder = tempfile::tempdir().unwrap();
    let keystore = fresh(&folder).await;
    let settings = keystore.settings.clone();
    let tombstones = settings.state_dir.join("tombstones.log");
    let key = keystore.lease(0).await.unwrap().keys.remove(0);
    let before = std::fs::read(&tombstones).unwrap();
    keystore.anna.key_destroy(key.key_id).await.unwrap();
    let after = std::fs::read(&tombstones).unwrap();
    assert!(after.len() > before.len());
    keystore.anna.seal().await.unwrap();
    let error = keystore.anna.key_destroy(key.key_id).await.unwrap_err();
    assert!(matches!(error, AdminError::Keystore(Error::Sealed)));
    drop(keystore);

    // Gone, put back, of another keystore, or changed.
    let other = tempfile::tempdir().unwrap();
    let foreign = fresh(&other).await;
    let foreign = std::fs::read(foreign.settings.state_dir.join("tombstones.log")).unwrap();
    let text = String::from_utf8(after.clone()).unwrap();
    let changed = text.replace("\"seq\":2", "\"seq\":3").into_bytes();
    for (what, bytes) in [
        ("gone", &vec![]),
        ("put back", &before),
        ("foreign", &foreign),
        ("changed", &changed),
    ] {
        std::fs::write(&tombstones, bytes).unwrap();
        let keystore = open(settings.clone()).await;
        let why = refused(keystore.anna.unseal(PASSPHRASE.into()).await);
        assert!(why.contains("tombstones"), "{what}: {why}");
        assert_eq!(*keystore.local.seal_state().borrow(), SealState::Sealed);
    }
    // Gone for good: two operators go on without, and begin anew.
    std::fs::remove_file(&tombstones).unwrap();
    let keystore = open(settings.clone()).await;
    keystore.agreed(Act::AcceptRollback {}).await;
    keystore.anna.unseal(PASSPHRASE.into()).await.unwrap();
    keystore.in_order().await;
    let record = keystore.anna.key_show(key.key_id).await.unwrap();
    assert!(record.destroyed.is_some());
}
