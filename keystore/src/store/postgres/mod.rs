//! The shared store: PostgreSQL, which several nodes write to.
//!
//! What concerns all nodes is there once: the root as it is kept, KEKs, content keys, the count of writes. What is a
//! node's own is there under its id: the place in its audit log, what it signs with, how many of its tombstones were
//! carried out. Logs and tombstones themselves stay on the node's disk, and so does the root, in memory.
//!
//! Whoever writes key records locks the one row of `marks` first. So a write sees all that was written before it, as
//! it does in SQLite, and the count of writes is one count: a database that was put back is older than what a node's
//! log has seen, whichever node wrote last.
//!
//! | file | what |
//! |---|---|
//! | `link.rs` | connections, timeouts, and whether the database is there |
//! | `remembered.rs` | wrapped keys for when it is not |
//! | `rows.rs` | what is asked of it |

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use conf::PostgresSettings;
use keystore_client::admin::KeyFilter;
use keystore_types::{AssetId, Generation, KeyContext, KeyId};
use sqlx::Connection as _;

use self::link::{Lent, Link, check_version, lost};
use self::remembered::Remembered;
use self::rows::{
    begin, bind_key, finish, kek, key_by_id, keys_by_context, migrate, put_key, put_root,
    put_signing_key, register, resume, root, rootless, signing_keys, writes,
};
use super::record::{
    ALL_KEKS, BAR_TENANT, COUNTS, EMPTY_KEKS, ERASE_KEYS, FLOOR_IS_FREE, KEKS, KEYS_BELOW,
    KEYS_OF_ASSET, NO_BODY, PAGE, PUT_KEK, REPLACE_KEK, RESTORE_KEK, RESTORE_KEY, Record as _,
    STALE, failed, head_row, kek_row, key_row, number, seconds, wrapped,
};
use super::{
    Handover, KekRow, KeyBody, KeyRow, Replaced, Restored, RootRotation, RootRow, Seen,
    SigningKeyRow, Snapshot, Store, Stored,
};
use crate::audit::Head;
use crate::error::{Error, ErrorKind};

mod link;
mod remembered;
mod rows;

/// Each brings the tables from one version to the next; `migration` lists those done.
const MIGRATIONS: [&str; 1] = [include_str!("migrations/0001_initial.sql")];

/// A PostgreSQL database, as one node uses it.
pub struct Postgres {
    link: Link,
    remembered: Remembered,
    /// How long the database may be away before what is remembered is no longer used.
    survival: Duration,
    /// What counts as this node's.
    node: [u8; 16],
    /// Whether the tables were found to be in order.
    prepared: AtomicBool,
    /// As of the last look, see [`Seen::changes`].
    changes: AtomicU64,
}

impl Postgres {
    /// Reaches for the database and brings its tables up to date. Where it does not answer, it is reached for again by
    /// [`Store::look`].
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when a newer version has written it.
    pub async fn open(settings: &PostgresSettings, node: [u8; 16]) -> Result<Self, Error> {
        let postgres = Self {
            link: Link::new(settings),
            remembered: Remembered::default(),
            survival: settings.survival,
            node,
            prepared: AtomicBool::new(false),
            changes: AtomicU64::new(0),
        };
        match postgres.look_now(None).await {
            Err(error) if error.kind() == ErrorKind::Unsupported => Err(error),
            // Said already, and tried again.
            Ok(_) | Err(_) => Ok(postgres),
        }
    }

    async fn look_now(&self, root_version: Option<u32>) -> Result<Seen, Error> {
        if !self.prepared.load(Ordering::Acquire) {
            if let Err(error) = migrate(&self.link).await {
                self.link.note_down(error.to_string());
                return Err(error);
            }
            self.prepared.store(true, Ordering::Release);
        }
        let attempted = "look at the database";
        let look = async {
            let mut connection = self.link.any_connection().await?;
            let row = sqlx::query(
                "SELECT (SELECT MAX(version) FROM migration) AS version, writes, changes, \
                 (SELECT MAX(version) FROM root_seal) AS root_version FROM marks",
            )
            .fetch_one(&mut *connection)
            .await
            .map_err(failed(attempted))?;
            check_version(number(&row, "version")?)?;
            register(&mut connection, self.node, root_version).await?;
            connection.done();
            let writes = number(&row, "writes")?;
            let seen = Seen {
                writes,
                changes: number(&row, "changes")?,
                root_version: (row.integer("root_version")?)
                    .map(|_| number(&row, "root_version"))
                    .transpose()?,
            };
            Ok((writes, seen))
        };
        let seen = self.link.look(attempted, look).await?;
        if self.changes.swap(seen.changes, Ordering::AcqRel) != seen.changes {
            self.remembered.forget();
        }
        Ok(seen)
    }

    /// What was read before, in place of an answer that did not come.
    fn survive<T>(&self, error: Error, remembered: impl FnOnce() -> Option<T>) -> Result<T, Error> {
        let away = matches!(
            error.kind(),
            ErrorKind::Unavailable | ErrorKind::Unsupported
        );
        if away && self.link.unreached_for() <= self.survival {
            remembered().ok_or(error)
        } else {
            Err(error)
        }
    }

    /// Begins a write. Where the connection was lost meanwhile nothing was done yet, and another is tried.
    async fn writer(&self) -> Result<Lent<'_>, Error> {
        match self.lock().await {
            Err(error) if lost(&error) => self.lock().await,
            result => result,
        }
    }

    async fn lock(&self) -> Result<Lent<'_>, Error> {
        let mut connection = self.link.connection().await?;
        begin(&mut connection).await?;
        Ok(connection)
    }
}

impl Store for Postgres {
    fn look(&self, root_version: Option<u32>) -> Stored<'_, Option<Seen>> {
        Box::pin(async move { self.look_now(root_version).await.map(Some) })
    }

    fn root(&self) -> Stored<'_, Option<RootRow>> {
        let read = || async {
            let mut connection = self.link.any_connection().await?;
            let root = root(&mut connection).await?;
            connection.done();
            Ok(root)
        };
        Box::pin(self.link.read("read the root", read))
    }

    fn put_root(&self, root: RootRow) -> Stored<'_, bool> {
        let attempted = "keep the root";
        Box::pin(self.link.once(attempted, async move {
            let mut writer = self.writer().await?;
            let done = put_root(&mut writer, &root).await?;
            if done {
                finish(writer, 1, 1, attempted).await?;
            }
            Ok(done)
        }))
    }

    fn rotate_root(&self, rotation: RootRotation) -> Stored<'_, bool> {
        let attempted = "keep a new root";
        Box::pin(self.link.bulk(attempted, async move {
            let mut writer = self.writer().await?;
            // Dropped, a transaction changes nothing.
            if !rows::rotate_root(&mut writer, rotation, attempted).await? {
                return Ok(false);
            }
            finish(writer, 1, 1, attempted).await?;
            Ok(true)
        }))
    }

    fn handovers(&self, after: u32) -> Stored<'_, Vec<Handover>> {
        let attempted = "look for the root's successor";
        let read = move || async move {
            let mut connection = self.link.connection().await?;
            let rows = sqlx::query(
                "SELECT version, wrapped FROM handover WHERE version > $1 ORDER BY version",
            )
            .bind(i64::from(after))
            .fetch_all(&mut *connection)
            .await
            .map_err(failed(attempted))?;
            connection.done();
            (rows.iter())
                .map(|row| {
                    Ok(Handover {
                        version: number(row, "version")?,
                        wrapped: wrapped(row)?,
                    })
                })
                .collect()
        };
        Box::pin(self.link.read(attempted, read))
    }

    fn signing_keys(&self) -> Stored<'_, Vec<SigningKeyRow>> {
        let read = || async {
            let mut connection = self.link.any_connection().await?;
            let keys = signing_keys(&mut connection, Some(self.node)).await?;
            connection.done();
            Ok(keys)
        };
        Box::pin(self.link.read("read the signing keys", read))
    }

    fn every_signing_key(&self) -> Stored<'_, Vec<SigningKeyRow>> {
        let read = || async {
            let mut connection = self.link.connection().await?;
            let keys = signing_keys(&mut connection, None).await?;
            connection.done();
            Ok(keys)
        };
        Box::pin(self.link.read("read the signing keys", read))
    }

    fn put_signing_key(&self, key: SigningKeyRow) -> Stored<'_, Option<SigningKeyRow>> {
        let attempted = "keep a signing key";
        Box::pin(self.link.once(attempted, async move {
            let mut writer = self.writer().await?;
            let changed = put_signing_key(&mut writer, self.node, &key).await?;
            let standing = signing_keys(&mut writer, Some(self.node)).await?;
            finish(writer, changed, 0, attempted).await?;
            Ok(standing.into_iter().find(|row| row.signs == key.signs))
        }))
    }

    fn keks(&self) -> Stored<'_, Vec<KekRow>> {
        let attempted = "read the KEKs";
        let read = move || async move {
            let mut connection = self.link.connection().await?;
            let rows =
                (sqlx::query(KEKS).fetch_all(&mut *connection).await).map_err(failed(attempted))?;
            connection.done();
            rows.iter().map(kek_row).collect()
        };
        Box::pin(self.link.read(attempted, read))
    }

    fn kek<'a>(&'a self, tenant: &'a str, version: Option<u32>) -> Stored<'a, Option<KekRow>> {
        let read = move || async move {
            let mut connection = self.link.connection().await?;
            let kek = kek(&mut connection, tenant, version).await?;
            connection.done();
            Ok(kek)
        };
        Box::pin(self.link.read("read a KEK", read))
    }

    fn put_kek(&self, row: KekRow) -> Stored<'_, Option<KekRow>> {
        let attempted = "keep a KEK";
        Box::pin(self.link.once(attempted, async move {
            let mut writer = self.writer().await?;
            let done = sqlx::query(PUT_KEK)
                .bind(&row.tenant)
                .bind(i64::from(row.version))
                .bind(row.floor.map(i64::from))
                .bind(i64::from(row.root_version))
                .bind(row.wrapped.as_bytes())
                .bind(seconds(row.created))
                .execute(&mut *writer)
                .await
                .map_err(failed(attempted))?;
            let standing = kek(&mut writer, &row.tenant, Some(row.version)).await?;
            finish(writer, done.rows_affected(), 0, attempted).await?;
            Ok(standing)
        }))
    }

    fn move_floor(&self, kek: Replaced<KekRow>) -> Stored<'_, bool> {
        let attempted = "move a floor";
        Box::pin(self.link.once(attempted, async move {
            let Replaced { old, new } = kek;
            let mut writer = self.writer().await?;
            let free: bool = sqlx::query_scalar(FLOOR_IS_FREE)
                .bind(&new.tenant)
                .bind(i64::from(new.version))
                .bind(i64::from(new.floor.unwrap_or(1)))
                .fetch_one(&mut *writer)
                .await
                .map_err(failed(attempted))?;
            if !free {
                return Ok(false);
            }
            let done = sqlx::query(REPLACE_KEK)
                .bind(new.floor.map(i64::from))
                .bind(i64::from(new.root_version))
                .bind(new.wrapped.as_bytes())
                .bind(&old.tenant)
                .bind(i64::from(old.version))
                .bind(old.wrapped.as_bytes())
                .execute(&mut *writer)
                .await
                .map_err(failed(attempted))?;
            let moved = done.rows_affected();
            finish(writer, moved, moved, attempted).await?;
            Ok(moved == 1)
        }))
    }

    fn keys_of<'a>(&'a self, contexts: &'a [KeyContext]) -> Stored<'a, Vec<Option<KeyRow>>> {
        Box::pin(async move {
            let read = || async {
                let mut connection = self.link.connection().await?;
                let rows = keys_by_context(&mut connection, contexts).await?;
                connection.done();
                Ok(rows)
            };
            match self.link.read("look for keys", read).await {
                Ok(rows) => {
                    self.remembered.take_in_answer(contexts, &rows);
                    Ok(rows)
                }
                Err(error) => self.survive(error, || self.remembered.of_contexts(contexts)),
            }
        })
    }

    fn put_keys(&self, keys: Vec<KeyRow>) -> Stored<'_, Vec<Option<KeyRow>>> {
        let attempted = "keep new keys";
        Box::pin(async move {
            let contexts: Vec<_> = keys.iter().map(|key| key.context.clone()).collect();
            let put = self.link.once(attempted, async {
                let mut writer = self.writer().await?;
                let mut kept = 0;
                for key in &keys {
                    kept += put_key(&mut writer, key).await?;
                }
                let standing = keys_by_context(&mut writer, &contexts).await?;
                finish(writer, kept.min(1), 0, attempted).await?;
                Ok(standing)
            });
            let standing = put.await?;
            self.remembered.take_in(standing.iter().flatten());
            Ok(standing)
        })
    }

    fn keys_below<'a>(
        &'a self,
        tenant: &'a str,
        version: u32,
        after: Option<(u32, KeyId)>,
        limit: usize,
    ) -> Stored<'a, Vec<KeyRow>> {
        let attempted = "look for keys to wrap anew";
        let read = move || async move {
            let (after_version, after_id) = after.map_or((0, vec![]), |(version, id)| {
                (version, id.as_bytes().to_vec())
            });
            let mut connection = self.link.connection().await?;
            let rows = sqlx::query(KEYS_BELOW)
                .bind(tenant)
                .bind(i64::from(version))
                .bind(i64::from(after_version))
                .bind(after_id)
                .bind(i64::try_from(limit).unwrap_or(i64::MAX))
                .fetch_all(&mut *connection)
                .await
                .map_err(failed(attempted))?;
            connection.done();
            rows.iter().map(key_row).collect()
        };
        Box::pin(self.link.read(attempted, read))
    }

    fn stale(&self) -> Stored<'_, u64> {
        let attempted = "count keys to wrap anew";
        let read = move || async move {
            let mut connection = self.link.any_connection().await?;
            let row = (sqlx::query(STALE).fetch_one(&mut *connection).await)
                .map_err(failed(attempted))?;
            connection.done();
            number(&row, "stale")
        };
        Box::pin(self.link.read(attempted, read))
    }

    fn rewrap(&self, keys: Vec<Replaced<KeyRow>>) -> Stored<'_, u64> {
        let attempted = "keep what was wrapped anew";
        Box::pin(self.link.once(attempted, async move {
            let mut writer = self.writer().await?;
            let done = rows::rewrap(&mut writer, &keys).await?;
            finish(writer, done.min(1), 0, attempted).await?;
            Ok(done)
        }))
    }

    fn keys_by_id<'a>(&'a self, ids: &'a [KeyId]) -> Stored<'a, Vec<KeyRow>> {
        Box::pin(async move {
            let read = || async {
                let mut connection = self.link.connection().await?;
                let rows = rows::keys_by_id(&mut connection, ids).await?;
                connection.done();
                Ok(rows)
            };
            match self.link.read("look for keys", read).await {
                Ok(rows) => {
                    self.remembered.take_in(&rows);
                    Ok(rows)
                }
                Err(error) => self.survive(error, || self.remembered.of_ids(ids)),
            }
        })
    }

    fn keys_of_asset<'a>(
        &'a self,
        tenant: &'a str,
        asset: &'a AssetId,
        with_elsewhere: bool,
        limit: usize,
    ) -> Stored<'a, Vec<KeyRow>> {
        let attempted = "look for the keys of an asset";
        let read = move || async move {
            let mut connection = self.link.connection().await?;
            let rows = sqlx::query(KEYS_OF_ASSET)
                .bind(tenant)
                .bind(asset.as_str())
                .bind(with_elsewhere)
                .bind(i64::from(Generation::ELSEWHERE))
                .bind(i64::try_from(limit).unwrap_or(i64::MAX))
                .fetch_all(&mut *connection)
                .await
                .map_err(failed(attempted))?;
            connection.done();
            rows.iter().map(key_row).collect()
        };
        Box::pin(self.link.read(attempted, read))
    }

    fn page<'a>(&'a self, filter: &'a KeyFilter, limit: usize) -> Stored<'a, Vec<KeyRow>> {
        let attempted = "list keys";
        let read = move || async move {
            let after = filter.after.map_or(vec![], |id| id.as_bytes().to_vec());
            let mut connection = self.link.any_connection().await?;
            let rows = sqlx::query(PAGE)
                .bind(after)
                .bind(filter.asset.as_ref().map(|asset| asset.as_str()))
                .bind(filter.active_only)
                .bind(i64::try_from(limit).unwrap_or(i64::MAX))
                .fetch_all(&mut *connection)
                .await
                .map_err(failed(attempted))?;
            connection.done();
            rows.iter().map(key_row).collect()
        };
        Box::pin(self.link.read(attempted, read))
    }

    fn destroy(&self, id: KeyId, at: u64) -> Stored<'_, Option<KeyRow>> {
        let attempted = "destroy a key";
        Box::pin(self.link.once(attempted, async move {
            let mut writer = self.writer().await?;
            let done = sqlx::query(
                "UPDATE content_key SET wrapped = NULL, destroyed = $1 WHERE key_id = $2 AND destroyed IS NULL",
            )
            .bind(seconds(at))
            .bind(id.as_bytes().as_slice())
            .execute(&mut *writer)
            .await
            .map_err(failed(attempted))?;
            let row = key_by_id(&mut writer, id).await?;
            let changed = done.rows_affected();
            finish(writer, changed, changed, attempted).await?;
            self.remembered.forget();
            Ok(row)
        }))
    }

    /// What the server has not yet cleaned up is left to its vacuum, and its log of writes to its archive: neither
    /// can be wiped from here.
    fn wipe(&self) -> Stored<'_, ()> {
        let attempted = "clean up what was replaced";
        Box::pin(self.link.bulk(attempted, async move {
            let mut connection = self.link.connection().await?;
            for statement in ["VACUUM kek", "VACUUM root_seal", "VACUUM signing_key"] {
                (sqlx::query(statement).execute(&mut *connection).await)
                    .map_err(failed(attempted))?;
            }
            connection.done();
            Ok(())
        }))
    }

    fn destroy_tenant<'a>(&'a self, tenant: &'a str, at: u64) -> Stored<'a, ()> {
        let attempted = "destroy a tenant";
        Box::pin(self.link.bulk(attempted, async move {
            let mut writer = self.writer().await?;
            sqlx::query(ERASE_KEYS)
                .bind(tenant)
                .bind(seconds(at))
                .execute(&mut *writer)
                .await
                .map_err(failed(attempted))?;
            sqlx::query(BAR_TENANT)
                .bind(tenant)
                .bind(seconds(at))
                .bind(NO_BODY)
                .execute(&mut *writer)
                .await
                .map_err(failed(attempted))?;
            sqlx::query(EMPTY_KEKS)
                .bind(tenant)
                .bind(NO_BODY)
                .execute(&mut *writer)
                .await
                .map_err(failed(attempted))?;
            finish(writer, 1, 1, attempted).await?;
            self.remembered.forget();
            Ok(())
        }))
    }

    fn snapshot(&self) -> Stored<'_, Snapshot> {
        let attempted = "read all but the keys";
        Box::pin(self.link.bulk(attempted, async move {
            let mut connection = self.link.connection().await?;
            let mut transaction = (connection
                .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                .await)
                .map_err(failed(attempted))?;
            let root = root(&mut transaction).await?;
            let keks = (sqlx::query(ALL_KEKS).fetch_all(&mut *transaction).await)
                .map_err(failed(attempted))?
                .iter()
                .map(kek_row)
                .collect::<Result<_, _>>()?;
            let signing_keys = signing_keys(&mut transaction, Some(self.node)).await?;
            let writes = writes(&mut transaction).await?;
            (transaction.commit().await).map_err(failed(attempted))?;
            connection.done();
            Ok(Snapshot {
                root,
                keks,
                signing_keys,
                writes,
            })
        }))
    }

    fn clear(&self) -> Stored<'_, bool> {
        let attempted = "clear the store";
        Box::pin(self.link.bulk(attempted, async move {
            let mut writer = self.writer().await?;
            if root(&mut writer).await?.is_some() {
                return Ok(false);
            }
            (sqlx::raw_sql("DELETE FROM content_key; DELETE FROM kek; DELETE FROM signing_key")
                .execute(&mut *writer)
                .await)
                .map_err(failed(attempted))?;
            finish(writer, 0, 1, attempted).await?;
            Ok(true)
        }))
    }

    fn restore_keks(&self, keks: Vec<KekRow>) -> Stored<'_, ()> {
        let attempted = "restore KEKs";
        Box::pin(self.link.bulk(attempted, async move {
            let mut writer = self.writer().await?;
            rootless(&mut writer).await?;
            for kek in &keks {
                sqlx::query(RESTORE_KEK)
                    .bind(&kek.tenant)
                    .bind(i64::from(kek.version))
                    .bind(kek.floor.map(i64::from))
                    .bind(i64::from(kek.root_version))
                    .bind(kek.wrapped.as_bytes())
                    .bind(seconds(kek.created))
                    .execute(&mut *writer)
                    .await
                    .map_err(failed(attempted))?;
            }
            finish(writer, 0, 0, attempted).await
        }))
    }

    fn restore_keys(&self, keys: Vec<KeyRow>) -> Stored<'_, ()> {
        let attempted = "restore keys";
        Box::pin(self.link.bulk(attempted, async move {
            let mut writer = self.writer().await?;
            rootless(&mut writer).await?;
            for key in &keys {
                let (wrapped, destroyed) = match &key.body {
                    KeyBody::Wrapped(wrapped) => (Some(wrapped.as_bytes()), None),
                    KeyBody::Destroyed(at) => (None, Some(seconds(*at))),
                };
                bind_key(sqlx::query(RESTORE_KEY), key, wrapped)
                    .bind(destroyed)
                    .execute(&mut *writer)
                    .await
                    .map_err(failed(attempted))?;
            }
            finish(writer, 0, 0, attempted).await
        }))
    }

    fn finish_restore(&self, rest: Restored) -> Stored<'_, bool> {
        let attempted = "finish the restore";
        Box::pin(self.link.once(attempted, async move {
            let mut writer = self.writer().await?;
            if !put_root(&mut writer, &rest.root).await? {
                return Ok(false);
            }
            for key in &rest.signing_keys {
                put_signing_key(&mut writer, self.node, key).await?;
            }
            resume(&mut writer, self.node, rest.writes, rest.anchor).await?;
            finish(writer, 0, 1, attempted).await?;
            self.link.accept(rest.writes);
            Ok(true)
        }))
    }

    fn tombstones(&self) -> Stored<'_, u64> {
        let attempted = "count tombstones";
        let read = move || async move {
            let mut connection = self.link.any_connection().await?;
            let row = sqlx::query("SELECT tombstones FROM node WHERE id = $1")
                .bind(self.node.as_slice())
                .fetch_one(&mut *connection)
                .await
                .map_err(failed(attempted))?;
            connection.done();
            number(&row, "tombstones")
        };
        Box::pin(self.link.read(attempted, read))
    }

    fn put_tombstones(&self, count: u64) -> Stored<'_, ()> {
        let attempted = "count tombstones";
        Box::pin(self.link.once(attempted, async move {
            let mut connection = self.link.connection().await?;
            sqlx::query("UPDATE node SET tombstones = $1 WHERE id = $2")
                .bind(seconds(count))
                .bind(self.node.as_slice())
                .execute(&mut *connection)
                .await
                .map_err(failed(attempted))?;
            connection.done();
            Ok(())
        }))
    }

    fn revoke_node<'a>(&'a self, certificate: [u8; 32], node: &'a str, at: u64) -> Stored<'a, ()> {
        let attempted = "revoke a machine";
        Box::pin(self.link.once(attempted, async move {
            let mut writer = self.writer().await?;
            sqlx::query("INSERT INTO revoked_node VALUES ($1, $2, $3) ON CONFLICT DO NOTHING")
                .bind(certificate.as_slice())
                .bind(node)
                .bind(seconds(at))
                .execute(&mut *writer)
                .await
                .map_err(failed(attempted))?;
            finish(writer, 0, 1, attempted).await?;
            self.remembered.forget();
            Ok(())
        }))
    }

    fn is_node_revoked(&self, certificate: [u8; 32]) -> Stored<'_, bool> {
        let attempted = "look for a revocation";
        Box::pin(async move {
            let read = || async {
                let mut connection = self.link.connection().await?;
                let revoked: bool = sqlx::query_scalar(
                    "SELECT EXISTS (SELECT 1 FROM revoked_node WHERE certificate = $1)",
                )
                .bind(certificate.as_slice())
                .fetch_one(&mut *connection)
                .await
                .map_err(failed(attempted))?;
                connection.done();
                Ok(revoked)
            };
            match self.link.read(attempted, read).await {
                Ok(revoked) => {
                    if !revoked {
                        self.remembered.take_in_node(certificate);
                    }
                    Ok(revoked)
                }
                Err(error) => {
                    let known = || self.remembered.knows_node(certificate).then_some(false);
                    self.survive(error, known)
                }
            }
        })
    }

    fn counts(&self) -> Stored<'_, (u64, u64)> {
        let attempted = "count keys";
        let read = move || async move {
            let mut connection = self.link.any_connection().await?;
            let row = (sqlx::query(COUNTS).fetch_one(&mut *connection).await)
                .map_err(failed(attempted))?;
            connection.done();
            Ok((number(&row, "usable")?, number(&row, "destroyed")?))
        };
        Box::pin(self.link.read(attempted, read))
    }

    fn writes(&self) -> Stored<'_, u64> {
        let read = || async {
            let mut connection = self.link.any_connection().await?;
            let writes = writes(&mut connection).await?;
            connection.done();
            Ok(writes)
        };
        Box::pin(self.link.read("count writes", read))
    }

    fn integrity(&self) -> Stored<'_, Vec<String>> {
        let attempted = "check the database";
        Box::pin(self.link.bulk(attempted, async move {
            let mut connection = self.link.any_connection().await?;
            // Foreign keys are not checked where somebody has switched triggers off.
            let orphans: i64 = sqlx::query_scalar(
                "SELECT COUNT(*) FROM content_key LEFT JOIN kek \
                 ON kek.tenant = content_key.tenant AND kek.version = kek_version WHERE kek.version IS NULL",
            )
            .fetch_one(&mut *connection)
            .await
            .map_err(failed(attempted))?;
            connection.done();
            Ok(match orphans {
                0 => vec![],
                orphans => vec![format!("{orphans} keys name a KEK that is not there")],
            })
        }))
    }

    fn anchor(&self) -> Stored<'_, Option<Head>> {
        let attempted = "read the audit anchor";
        let read = move || async move {
            let mut connection = self.link.any_connection().await?;
            let row =
                sqlx::query("SELECT seq, hash, bytes FROM node WHERE id = $1 AND seq IS NOT NULL")
                    .bind(self.node.as_slice())
                    .fetch_optional(&mut *connection)
                    .await
                    .map_err(failed(attempted))?;
            connection.done();
            row.as_ref().map(head_row).transpose()
        };
        Box::pin(self.link.read(attempted, read))
    }

    fn put_anchor(&self, head: Head) -> Stored<'_, ()> {
        let attempted = "move the audit anchor";
        Box::pin(self.link.once(attempted, async move {
            let mut connection = self.link.connection().await?;
            sqlx::query(
                "UPDATE node SET seq = $1, hash = $2, bytes = $3 WHERE id = $4 AND (seq IS NULL OR seq < $1)",
            )
            .bind(seconds(head.seq))
            .bind(head.hash.as_slice())
            .bind(seconds(head.bytes))
            .bind(self.node.as_slice())
            .execute(&mut *connection)
            .await
            .map_err(failed(attempted))?;
            connection.done();
            Ok(())
        }))
    }

    fn resume(&self, writes: u64, anchor: Head) -> Stored<'_, ()> {
        let attempted = "go on from here";
        Box::pin(self.link.once(attempted, async move {
            let mut writer = self.link.any_connection().await?;
            begin(&mut writer).await?;
            resume(&mut writer, self.node, writes, anchor).await?;
            finish(writer, 1, 1, attempted).await?;
            self.link.accept(writes);
            Ok(())
        }))
    }
}
