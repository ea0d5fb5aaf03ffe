//! What every store does, SQLite and PostgreSQL alike. The bodies here are no wraps: a store does not look into them.

use keystore_client::admin::{KeyFilter, UnlockMethod};
use keystore_types::{ConstantIv, Generation, KeyContext, KeyId, Label, SUBSAMPLE_RULE, Scheme};

use self::server::server;
use super::postgres::Postgres;
use super::sqlite::Sqlite;
use super::{
    Handover, KekRow, KeyBody, KeyRow, Replaced, Restored, RootRotation, RootRow, Signed,
    SigningKeyRow, Store,
};
use crate::audit::Head;
use crate::error::ErrorKind;
use crate::seal::Wrapped;
use crate::unlock::SealedRoot;

#[path = "../../tests/postgres/mod.rs"]
mod server;

const NODE: [u8; 16] = [1; 16];

macro_rules! stores {
    ($($test:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $test() {
                let store = super::Sqlite::in_memory().await.unwrap();
                super::$test(&store).await;
            })+
        }
        mod postgres {
            $(#[tokio::test]
            async fn $test() {
                let Some(server) = super::server() else { return };
                let settings = server.settings(&server.database().await);
                let store = super::Postgres::open(&settings, super::NODE).await.unwrap();
                super::$test(&store).await;
            })+
        }
    };
}

stores!(
    the_first_root_stands,
    a_root_goes_over_whole_or_not_at_all,
    keks_come_under_the_newest_root_and_keys_under_the_newest_kek,
    what_is_replaced_must_be_as_it_was_read,
    what_is_destroyed_stays_and_bars_its_tenant,
    a_key_is_read_as_it_was_written_last,
    keys_are_found_in_order,
    marks_go_forward,
    a_revoked_machine_stays_revoked,
    a_restore_is_whole_when_its_root_is_there,
);

fn wrapped(byte: u8) -> Wrapped {
    Wrapped::from_stored(vec![byte; 44])
}

fn root(version: u32) -> RootRow {
    RootRow {
        version,
        sealed: vec![SealedRoot {
            method: UnlockMethod::Key,
            parameters: vec![],
            wrapped: wrapped(9),
            commitment: Some([7; 32]),
        }],
        created: 100,
    }
}

fn kek(tenant: &str, version: u32, root_version: u32) -> KekRow {
    KekRow {
        tenant: tenant.to_owned(),
        version,
        floor: Some(1),
        root_version,
        wrapped: wrapped(version.to_le_bytes()[0]),
        created: 200,
    }
}

fn key(number: u8, kek_version: u32) -> KeyRow {
    KeyRow {
        key_id: KeyId::new([number; 16]),
        context: KeyContext {
            tenant: "t".to_owned(),
            asset: "film".parse().unwrap(),
            label: Label::Uhd1,
            scheme: Scheme::Cenc,
            subsample_rule: SUBSAMPLE_RULE,
            generation: Generation {
                sources: [3; 32],
                number: number.into(),
            },
        },
        iv: ConstantIv::new([number; 16]),
        kek_version,
        body: KeyBody::Wrapped(wrapped(number)),
        created: 300,
    }
}

fn signing_key(signs: Signed, root_version: u32) -> SigningKeyRow {
    SigningKeyRow {
        signs,
        public: [signs.as_str().len().to_le_bytes()[0]; 32],
        root_version,
        wrapped: wrapped(5),
        created: 400,
    }
}

fn head(seq: u64) -> Head {
    Head {
        seq,
        hash: [seq.to_le_bytes()[0]; 32],
        bytes: seq * 100,
    }
}

/// A root, a KEK and keys under it.
async fn filled(store: &dyn Store, keys: u8) {
    assert!(store.put_root(root(1)).await.unwrap());
    store.put_kek(kek("t", 1, 1)).await.unwrap().unwrap();
    let rows = (0..keys).map(|number| key(number, 1)).collect();
    let kept = store.put_keys(rows).await.unwrap();
    assert!(kept.iter().all(Option::is_some));
}

async fn the_first_root_stands(store: &dyn Store) {
    assert_eq!(store.root().await.unwrap(), None);
    assert!(store.put_root(root(1)).await.unwrap());
    assert!(!store.put_root(root(2)).await.unwrap());
    assert_eq!(store.root().await.unwrap(), Some(root(1)));
    assert!(!store.clear().await.unwrap());
}

async fn a_root_goes_over_whole_or_not_at_all(store: &dyn Store) {
    filled(store, 0).await;
    let signing = signing_key(Signed::Audit, 1);
    let kept = store.put_signing_key(signing.clone()).await.unwrap();
    assert_eq!(kept.as_ref(), Some(&signing));
    let new_kek = KekRow {
        root_version: 2,
        wrapped: wrapped(8),
        ..kek("t", 1, 1)
    };
    let new_signing = SigningKeyRow {
        root_version: 2,
        wrapped: wrapped(8),
        ..signing.clone()
    };
    let rotation = RootRotation {
        root: root(2),
        keks: vec![Replaced {
            old: kek("t", 1, 1),
            new: new_kek.clone(),
        }],
        signing_keys: vec![Replaced {
            old: signing,
            new: new_signing.clone(),
        }],
        handover: Handover {
            version: 2,
            wrapped: wrapped(6),
        },
    };
    // Not all there is, and not as it was.
    let mut less = rotation.clone();
    less.signing_keys.clear();
    assert!(!store.rotate_root(less).await.unwrap());
    let mut other = rotation.clone();
    other.keks[0].old.wrapped = wrapped(77);
    assert!(!store.rotate_root(other).await.unwrap());
    assert_eq!(store.root().await.unwrap(), Some(root(1)));
    assert_eq!(store.keks().await.unwrap(), [kek("t", 1, 1)]);

    assert!(store.rotate_root(rotation.clone()).await.unwrap());
    assert_eq!(store.root().await.unwrap(), Some(root(2)));
    assert_eq!(store.keks().await.unwrap(), [new_kek]);
    assert_eq!(store.every_signing_key().await.unwrap(), [new_signing]);
    assert!(!store.rotate_root(rotation).await.unwrap());
}

async fn keks_come_under_the_newest_root_and_keys_under_the_newest_kek(store: &dyn Store) {
    filled(store, 1).await;
    assert_eq!(store.put_kek(kek("t", 2, 7)).await.unwrap(), None);
    let key_of_old = signing_key(Signed::Tombstones, 7);
    assert_eq!(store.put_signing_key(key_of_old).await.unwrap(), None);
    let standing = store.put_kek(kek("t", 2, 1)).await.unwrap();
    assert_eq!(standing, Some(kek("t", 2, 1)));
    // The first to come stands.
    let late = KekRow {
        wrapped: wrapped(99),
        ..kek("t", 2, 1)
    };
    assert_eq!(store.put_kek(late).await.unwrap(), standing);
    assert_eq!(store.kek("t", None).await.unwrap(), standing);
    assert_eq!(store.kek("t", Some(1)).await.unwrap(), Some(kek("t", 1, 1)));
    assert_eq!(store.kek("nobody", None).await.unwrap(), None);

    let late = KeyRow {
        key_id: KeyId::new([200; 16]),
        kek_version: 2,
        ..key(0, 1)
    };
    let kept = store.put_keys(vec![late, key(1, 1), key(2, 2)]).await;
    assert_eq!(kept.unwrap(), [Some(key(0, 1)), None, Some(key(2, 2))]);
    let contexts = [key(2, 2).context, key(1, 1).context, key(0, 1).context];
    assert_eq!(
        store.keys_of(&contexts).await.unwrap(),
        [Some(key(2, 2)), None, Some(key(0, 1))]
    );
}

async fn what_is_replaced_must_be_as_it_was_read(store: &dyn Store) {
    filled(store, 2).await;
    store.put_kek(kek("t", 2, 1)).await.unwrap().unwrap();
    assert_eq!(store.stale().await.unwrap(), 2);
    let newest = kek("t", 2, 1);
    let raised = Replaced {
        old: newest.clone(),
        new: KekRow {
            floor: Some(2),
            ..newest
        },
    };
    // A key is left below.
    assert!(!store.move_floor(raised.clone()).await.unwrap());
    let rewrapped = |number| {
        let new = KeyRow {
            body: KeyBody::Wrapped(wrapped(50)),
            ..key(number, 2)
        };
        Replaced {
            old: key(number, 1),
            new,
        }
    };
    let mut changed = rewrapped(1);
    changed.old.body = KeyBody::Wrapped(wrapped(77));
    let done = store.rewrap(vec![rewrapped(0), changed]).await;
    assert_eq!(done.unwrap(), 1);
    assert_eq!(store.stale().await.unwrap(), 1);
    assert_eq!(store.rewrap(vec![rewrapped(1)]).await.unwrap(), 1);
    assert!(store.move_floor(raised.clone()).await.unwrap());
    let found = store.kek("t", None).await.unwrap();
    assert_eq!(found, Some(raised.new));
}

async fn what_is_destroyed_stays_and_bars_its_tenant(store: &dyn Store) {
    filled(store, 3).await;
    let gone = KeyRow {
        body: KeyBody::Destroyed(500),
        ..key(0, 1)
    };
    let id = gone.key_id;
    assert_eq!(store.destroy(id, 500).await.unwrap(), Some(gone.clone()));
    assert_eq!(store.destroy(id, 600).await.unwrap(), Some(gone.clone()));
    let unknown = KeyId::new([99; 16]);
    assert_eq!(store.destroy(unknown, 500).await.unwrap(), None);
    assert_eq!(
        store
            .keys_of(std::slice::from_ref(&gone.context))
            .await
            .unwrap(),
        [None]
    );
    assert_eq!(store.keys_by_id(&[id, unknown]).await.unwrap(), [gone]);
    assert_eq!(store.counts().await.unwrap(), (2, 1));
    for tenant in ["t", "nobody"] {
        store.destroy_tenant(tenant, 700).await.unwrap();
        let barred = store.kek(tenant, None).await.unwrap().unwrap();
        assert!(barred.wrapped.as_bytes().is_empty());
    }
    assert_eq!(store.counts().await.unwrap(), (0, 3));
    assert_eq!(store.keks().await.unwrap(), []);
    assert_eq!(store.snapshot().await.unwrap().keks.len(), 2);
    assert_eq!(store.put_keys(vec![key(9, 1)]).await.unwrap(), [None]);
}

/// What was read before a write must not be read after it.
async fn a_key_is_read_as_it_was_written_last(store: &dyn Store) {
    filled(store, 3).await;
    let [first, second] = [0, 1].map(|number| key(number, 1).key_id);
    let read = async |ids: &[KeyId]| store.keys_by_id(ids).await.unwrap();
    for _ in 0..2 {
        assert_eq!(read(&[first, second]).await, [key(0, 1), key(1, 1)]);
    }
    let destroyed = |number| KeyRow {
        body: KeyBody::Destroyed(500),
        ..key(number, 1)
    };
    store.destroy(first, 500).await.unwrap();
    for _ in 0..2 {
        assert_eq!(read(&[first, second]).await, [destroyed(0), key(1, 1)]);
    }
    store.destroy_tenant("t", 500).await.unwrap();
    for _ in 0..2 {
        assert_eq!(read(&[second]).await, [destroyed(1)]);
    }
}

async fn keys_are_found_in_order(store: &dyn Store) {
    filled(store, 5).await;
    store.destroy(KeyId::new([1; 16]), 500).await.unwrap();
    let ids = |rows: Vec<KeyRow>| {
        let ids = rows.into_iter().map(|row| row.key_id.as_bytes()[0]);
        ids.collect::<Vec<_>>()
    };
    let mut filter = KeyFilter::default();
    assert_eq!(ids(store.page(&filter, 3).await.unwrap()), [0, 1, 2]);
    filter.after = Some(KeyId::new([0; 16]));
    filter.active_only = true;
    assert_eq!(ids(store.page(&filter, 9).await.unwrap()), [2, 3, 4]);
    filter.asset = Some("other".parse().unwrap());
    assert!(store.page(&filter, 9).await.unwrap().is_empty());
    let below = store.keys_below("t", 2, None, 2).await.unwrap();
    assert_eq!(ids(below), [0, 2]);
    let after = Some((1, KeyId::new([2; 16])));
    let below = store.keys_below("t", 2, after, 9).await.unwrap();
    assert_eq!(ids(below), [3, 4]);
}

async fn marks_go_forward(store: &dyn Store) {
    let before = store.writes().await.unwrap();
    filled(store, 1).await;
    let after = store.writes().await.unwrap();
    assert!(after >= before + 3, "{before} {after}");
    // What changes nothing is no write.
    store.put_keys(vec![key(0, 1)]).await.unwrap();
    assert_eq!(store.writes().await.unwrap(), after);

    assert_eq!(store.anchor().await.unwrap(), None);
    store.put_anchor(head(5)).await.unwrap();
    store.put_anchor(head(4)).await.unwrap();
    assert_eq!(store.anchor().await.unwrap(), Some(head(5)));
    store.put_tombstones(3).await.unwrap();
    assert_eq!(store.tombstones().await.unwrap(), 3);
    store.resume(1000, head(2)).await.unwrap();
    assert_eq!(store.anchor().await.unwrap(), Some(head(2)));
    assert_eq!(store.tombstones().await.unwrap(), 0);
    assert!(store.writes().await.unwrap() >= 1000);
    assert_eq!(store.integrity().await.unwrap(), Vec::<String>::new());
}

async fn a_revoked_machine_stays_revoked(store: &dyn Store) {
    assert!(!store.is_node_revoked([1; 32]).await.unwrap());
    for _ in 0..2 {
        store.revoke_node([1; 32], "edge", 100).await.unwrap();
        assert!(store.is_node_revoked([1; 32]).await.unwrap());
    }
    assert!(!store.is_node_revoked([2; 32]).await.unwrap());
}

async fn a_restore_is_whole_when_its_root_is_there(store: &dyn Store) {
    store.restore_keks(vec![kek("t", 1, 1)]).await.unwrap();
    // One that did not finish.
    assert!(store.clear().await.unwrap());
    assert_eq!(store.keks().await.unwrap(), []);
    store.restore_keks(vec![kek("t", 1, 1)]).await.unwrap();
    let gone = KeyRow {
        body: KeyBody::Destroyed(500),
        ..key(1, 1)
    };
    let keys = vec![key(0, 1), gone.clone()];
    store.restore_keys(keys.clone()).await.unwrap();
    let rest = || Restored {
        root: root(1),
        signing_keys: vec![signing_key(Signed::Tombstones, 1)],
        writes: 50,
        anchor: head(3),
    };
    assert!(store.finish_restore(rest()).await.unwrap());
    assert!(!store.finish_restore(rest()).await.unwrap());
    let error = store.restore_keys(vec![key(2, 1)]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let found = store.page(&KeyFilter::default(), 9).await.unwrap();
    assert_eq!(found, keys);
    let snapshot = store.snapshot().await.unwrap();
    assert_eq!(snapshot.root, Some(root(1)));
    assert_eq!(snapshot.signing_keys, rest().signing_keys);
    assert!(snapshot.writes >= 50);
    assert_eq!(store.anchor().await.unwrap(), Some(head(3)));
}

/// For PostgreSQL `tests/shared_store.rs` shows it, under a node that runs.
#[tokio::test]
async fn a_newer_schema_of_sqlite_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keystore.sqlite");
    drop(Sqlite::open(&path).await.unwrap());
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
    let mut connection = sqlx::ConnectOptions::connect(&options).await.unwrap();
    sqlx::raw_sql("PRAGMA user_version = 1000")
        .execute(&mut connection)
        .await
        .unwrap();
    let Err(error) = Sqlite::open(&path).await else {
        panic!("it was opened")
    };
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("a newer castellum"), "{error}");
}
