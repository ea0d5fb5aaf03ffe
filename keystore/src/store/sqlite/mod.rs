//! The embedded store: SQLite with a write-ahead log that is synced at every commit.
//!
//! One connection writes, another reads. Pages are zeroed when their contents go (`secure_delete`), and destroying
//! a key also empties the write-ahead log, so that the wrapped key is nowhere in the files afterwards.

use std::path::Path;

use keystore_client::admin::KeyFilter;
use keystore_types::{AssetId, Generation, KeyContext, KeyId};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, Row as _};
use tokio::sync::{Mutex, MutexGuard};

use self::recent::{Recent, Writing};
use self::rows::{
    begin, bind_key, finish, kek, key_by_id, key_of, put_key, put_root, replace_kek, resume, root,
    rootless, signing_keys, writes,
};
use super::record::{
    ALL_KEKS, BAR_TENANT, COUNTS, EMPTY_KEKS, ERASE_KEYS, FLOOR_IS_FREE, KEKS, KEYS_BELOW,
    KEYS_OF_ASSET, NO_BODY, PAGE, PUT_KEK, RESTORE_KEK, RESTORE_KEY, STALE, failed, head_row,
    kek_row, key_row, number, seconds,
};
use super::{
    KekRow, KeyBody, KeyRow, Replaced, Restored, RootRotation, RootRow, SigningKeyRow, Snapshot,
    Store, Stored,
};
use crate::audit::Head;
use crate::error::{Error, ErrorKind};

mod recent;
mod rows;

/// Each brings the schema from one version to the next; `PRAGMA user_version` counts those done.
const MIGRATIONS: [&str; 5] = [
    include_str!("../migrations/0001_initial.sql"),
    include_str!("../migrations/0002_root_seal.sql"),
    include_str!("../migrations/0003_versions.sql"),
    include_str!("../migrations/0004_audit.sql"),
    include_str!("../migrations/0005_nodes.sql"),
];

/// A SQLite database.
pub struct Sqlite {
    writer: Mutex<SqliteConnection>,
    /// How to connect again; none in memory, which would be another database.
    options: Option<SqliteConnectOptions>,
    /// None in memory, where the writer is all there is.
    reader: Option<Mutex<SqliteConnection>>,
    recent: Recent,
}

impl Sqlite {
    /// Opens the database, makes it where there is none, and brings its schema up to date.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when a newer version has written it; those of the database.
    pub async fn open(path: &Path) -> Result<Self, Error> {
        let options = options().filename(path).create_if_missing(true);
        let mut writer = connect(&options).await?;
        migrate(&mut writer).await?;
        let reader = connect(&options.clone().read_only(true)).await?;
        Ok(Self {
            writer: Mutex::new(writer),
            options: Some(options),
            reader: Some(Mutex::new(reader)),
            recent: Recent::default(),
        })
    }

    /// A database that lives as long as this value.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn in_memory() -> Result<Self, Error> {
        let mut writer = connect(&options().in_memory(true)).await?;
        migrate(&mut writer).await?;
        Ok(Self {
            writer: Mutex::new(writer),
            options: None,
            reader: None,
            recent: Recent::default(),
        })
    }

    async fn reader(&self) -> MutexGuard<'_, SqliteConnection> {
        self.reader.as_ref().unwrap_or(&self.writer).lock().await
    }

    /// The connection that writes, outside of any transaction.
    ///
    /// A full disk makes SQLite roll back by itself, unseen by the driver, which then takes the transaction for open for
    /// ever: such a connection is replaced.
    async fn writer(&self) -> Result<Writing<'_>, Error> {
        let mut writer = Writing::begin(self.writer.lock().await, &self.recent);
        let attempted = "reach the database";
        if writer.is_in_transaction() {
            // One that was dropped is rolled back now.
            writer.ping().await.map_err(failed(attempted))?;
        }
        if writer.is_in_transaction()
            && let Some(options) = &self.options
        {
            tracing::warn!("the database's connection is replaced: a write had failed");
            *writer = connect(options).await?;
        }
        Ok(writer)
    }

    /// Empties the write-ahead log, which holds pages as they were.
    async fn empty_log(&self, writer: &mut SqliteConnection) -> Result<(), Error> {
        // A read that is under way would keep it from being emptied.
        let _no_reads = match &self.reader {
            Some(reader) => Some(reader.lock().await),
            None => None,
        };
        let attempted = "empty the write-ahead log";
        let row = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
            .fetch_one(writer)
            .await
            .map_err(failed(attempted))?;
        let busy: i64 = row.try_get(0).map_err(failed(attempted))?;
        if busy != 0 {
            return Err(Error::new(
                ErrorKind::Unavailable,
                "it is done, and what was there before cannot yet be wiped from the write-ahead log",
            ));
        }
        Ok(())
    }
}

fn options() -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .pragma("secure_delete", "ON")
        .disable_statement_logging()
}

async fn connect(options: &SqliteConnectOptions) -> Result<SqliteConnection, Error> {
    (options.connect().await).map_err(failed("open the database"))
}

async fn migrate(connection: &mut SqliteConnection) -> Result<(), Error> {
    let mut transaction = (connection.begin_with("BEGIN IMMEDIATE").await)
        .map_err(failed("bring the database up to date"))?;
    let version: i64 = sqlx::query_scalar("PRAGMA user_version")
        .fetch_one(&mut *transaction)
        .await
        .map_err(failed("read the database's version"))?;
    let done = usize::try_from(version).unwrap_or(usize::MAX);
    let pending = MIGRATIONS.get(done..).ok_or_else(|| {
        Error::new(
            ErrorKind::Unsupported,
            format!(
                "the keystore's database has version {version}, and this program knows {} at most: \
                 a newer castellum has written it",
                MIGRATIONS.len()
            ),
        )
    })?;
    for migration in pending {
        (sqlx::raw_sql(*migration).execute(&mut *transaction).await)
            .map_err(failed("bring the database up to date"))?;
    }
    (transaction.commit().await).map_err(failed("bring the database up to date"))
}

impl Store for Sqlite {
    fn root(&self) -> Stored<'_, Option<RootRow>> {
        Box::pin(async { root(&mut *self.reader().await).await })
    }

    fn put_root(&self, root: RootRow) -> Stored<'_, bool> {
        Box::pin(async move {
            let mut writer = self.writer().await?;
            let mut transaction = begin(&mut writer, "keep the root").await?;
            let done = put_root(&mut transaction, &root).await?;
            finish(transaction, done, "keep the root").await?;
            Ok(done)
        })
    }

    fn rotate_root(&self, rotation: RootRotation) -> Stored<'_, bool> {
        Box::pin(async move {
            let attempted = "keep a new root";
            let RootRotation {
                root,
                keks,
                signing_keys,
                // There is nobody to hand it to.
                handover: _,
            } = rotation;
            let mut writer = self.writer().await?;
            let mut transaction = begin(&mut writer, attempted).await?;
            let removed = sqlx::query("DELETE FROM root_seal WHERE version = ?")
                .bind(root.version.saturating_sub(1))
                .execute(&mut *transaction)
                .await
                .map_err(failed(attempted))?;
            let all: i64 = sqlx::query_scalar(
                "SELECT (SELECT COUNT(*) FROM kek WHERE length(wrapped) > 0) + (SELECT COUNT(*) FROM signing_key)",
            )
            .fetch_one(&mut *transaction)
            .await
            .map_err(failed(attempted))?;
            let mut as_read = removed.rows_affected() > 0
                && usize::try_from(all).is_ok_and(|all| all == keks.len() + signing_keys.len())
                && put_root(&mut transaction, &root).await?;
            for kek in &keks {
                as_read = as_read && replace_kek(&mut transaction, kek).await?;
            }
            for Replaced { old, new } in &signing_keys {
                let done = sqlx::query(
                    "UPDATE signing_key SET root_version = ?, wrapped = ? WHERE public = ? AND wrapped = ?",
                )
                .bind(new.root_version)
                .bind(new.wrapped.as_bytes())
                .bind(old.public.as_slice())
                .bind(old.wrapped.as_bytes())
                .execute(&mut *transaction)
                .await
                .map_err(failed(attempted))?;
                as_read = as_read && done.rows_affected() == 1;
            }
            // Dropped, a transaction changes nothing.
            if as_read {
                finish(transaction, true, attempted).await?;
            }
            Ok(as_read)
        })
    }

    fn signing_keys(&self) -> Stored<'_, Vec<SigningKeyRow>> {
        Box::pin(async { signing_keys(&mut *self.reader().await).await })
    }

    fn put_signing_key(&self, key: SigningKeyRow) -> Stored<'_, Option<SigningKeyRow>> {
        Box::pin(async move {
            let attempted = "keep a signing key";
            let mut writer = self.writer().await?;
            let mut transaction = begin(&mut writer, attempted).await?;
            let done = sqlx::query(
                "INSERT INTO signing_key (purpose, public, root_version, wrapped, created) \
                 SELECT ?1, ?2, ?3, ?4, ?5 WHERE ?3 = (SELECT MAX(version) FROM root_seal) ON CONFLICT DO NOTHING",
            )
            .bind(key.signs.as_str())
            .bind(key.public.as_slice())
            .bind(key.root_version)
            .bind(key.wrapped.as_bytes())
            .bind(seconds(key.created))
            .execute(&mut *transaction)
            .await
            .map_err(failed(attempted))?;
            let standing = signing_keys(&mut transaction).await?;
            finish(transaction, done.rows_affected() > 0, attempted).await?;
            Ok(standing.into_iter().find(|row| row.signs == key.signs))
        })
    }

    fn keks(&self) -> Stored<'_, Vec<KekRow>> {
        Box::pin(async {
            (sqlx::query(KEKS).fetch_all(&mut *self.reader().await).await)
                .map_err(failed("read the KEKs"))?
                .iter()
                .map(kek_row)
                .collect()
        })
    }

    fn kek<'a>(&'a self, tenant: &'a str, version: Option<u32>) -> Stored<'a, Option<KekRow>> {
        Box::pin(async move { kek(&mut *self.reader().await, tenant, version).await })
    }

    fn put_kek(&self, row: KekRow) -> Stored<'_, Option<KekRow>> {
        Box::pin(async move {
            let attempted = "keep a KEK";
            let mut writer = self.writer().await?;
            let mut transaction = begin(&mut writer, attempted).await?;
            let done = sqlx::query(PUT_KEK)
                .bind(&row.tenant)
                .bind(row.version)
                .bind(row.floor)
                .bind(row.root_version)
                .bind(row.wrapped.as_bytes())
                .bind(seconds(row.created))
                .execute(&mut *transaction)
                .await
                .map_err(failed(attempted))?;
            let standing = kek(&mut transaction, &row.tenant, Some(row.version)).await?;
            finish(transaction, done.rows_affected() > 0, attempted).await?;
            Ok(standing)
        })
    }

    fn move_floor(&self, kek: Replaced<KekRow>) -> Stored<'_, bool> {
        Box::pin(async move {
            let attempted = "move a floor";
            let mut writer = self.writer().await?;
            let mut transaction = begin(&mut writer, attempted).await?;
            let free: bool = sqlx::query_scalar(FLOOR_IS_FREE)
                .bind(&kek.new.tenant)
                .bind(kek.new.version)
                .bind(kek.new.floor.unwrap_or(1))
                .fetch_one(&mut *transaction)
                .await
                .map_err(failed(attempted))?;
            let moved = free && replace_kek(&mut transaction, &kek).await?;
            finish(transaction, moved, attempted).await?;
            Ok(moved)
        })
    }

    fn keys_of<'a>(&'a self, contexts: &'a [KeyContext]) -> Stored<'a, Vec<Option<KeyRow>>> {
        Box::pin(async move {
            let mut reader = self.reader().await;
            let mut rows = Vec::with_capacity(contexts.len());
            for context in contexts {
                rows.push(key_of(&mut reader, context).await?);
            }
            Ok(rows)
        })
    }

    fn put_keys(&self, keys: Vec<KeyRow>) -> Stored<'_, Vec<Option<KeyRow>>> {
        Box::pin(async move {
            let attempted = "keep new keys";
            let mut writer = self.writer().await?;
            let mut transaction = begin(&mut writer, attempted).await?;
            let mut standing = Vec::with_capacity(keys.len());
            let mut changed = false;
            for key in &keys {
                changed |= put_key(&mut transaction, key).await?;
                standing.push(key_of(&mut transaction, &key.context).await?);
            }
            finish(transaction, changed, attempted).await?;
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
        Box::pin(async move {
            let (after_version, after_id) = after.map_or((0, vec![]), |(version, id)| {
                (version, id.as_bytes().to_vec())
            });
            sqlx::query(KEYS_BELOW)
                .bind(tenant)
                .bind(version)
                .bind(after_version)
                .bind(after_id)
                .bind(i64::try_from(limit).unwrap_or(i64::MAX))
                .fetch_all(&mut *self.reader().await)
                .await
                .map_err(failed("look for keys to wrap anew"))?
                .iter()
                .map(key_row)
                .collect()
        })
    }

    fn stale(&self) -> Stored<'_, u64> {
        Box::pin(async {
            let row = (sqlx::query(STALE)
                .fetch_one(&mut *self.reader().await)
                .await)
                .map_err(failed("count keys to wrap anew"))?;
            number(&row, "stale")
        })
    }

    fn rewrap(&self, keys: Vec<Replaced<KeyRow>>) -> Stored<'_, u64> {
        Box::pin(async move {
            let attempted = "keep what was wrapped anew";
            let mut writer = self.writer().await?;
            let mut transaction = begin(&mut writer, attempted).await?;
            let mut done = 0;
            for Replaced { old, new } in &keys {
                let (KeyBody::Wrapped(was), KeyBody::Wrapped(wrapped)) = (&old.body, &new.body)
                else {
                    return Err(Error::damaged("a key to wrap anew without its body"));
                };
                let changed = sqlx::query(
                    "UPDATE content_key SET wrapped = ?, kek_version = ?, sources = ?, number = ? \
                     WHERE key_id = ? AND wrapped = ? AND destroyed IS NULL",
                )
                .bind(wrapped.as_bytes())
                .bind(new.kek_version)
                .bind(new.context.generation.sources.as_slice())
                .bind(new.context.generation.number)
                .bind(old.key_id.as_bytes().as_slice())
                .bind(was.as_bytes())
                .execute(&mut *transaction)
                .await
                .map_err(failed(attempted))?;
                done += changed.rows_affected();
            }
            finish(transaction, done > 0, attempted).await?;
            Ok(done)
        })
    }

    fn keys_by_id<'a>(&'a self, ids: &'a [KeyId]) -> Stored<'a, Vec<KeyRow>> {
        Box::pin(async move {
            if let Some(rows) = self.recent.find(ids) {
                return Ok(rows);
            }
            let mut reader = self.reader().await;
            let since = self.recent.writes();
            let mut rows = Vec::with_capacity(ids.len());
            for id in ids {
                rows.extend(key_by_id(&mut reader, *id).await?);
            }
            self.recent.keep(since, &rows);
            Ok(rows)
        })
    }

    fn keys_of_asset<'a>(
        &'a self,
        tenant: &'a str,
        asset: &'a AssetId,
        with_elsewhere: bool,
        limit: usize,
    ) -> Stored<'a, Vec<KeyRow>> {
        Box::pin(async move {
            sqlx::query(KEYS_OF_ASSET)
                .bind(tenant)
                .bind(asset.as_str())
                .bind(with_elsewhere)
                .bind(Generation::ELSEWHERE)
                .bind(i64::try_from(limit).unwrap_or(i64::MAX))
                .fetch_all(&mut *self.reader().await)
                .await
                .map_err(failed("look for the keys of an asset"))?
                .iter()
                .map(key_row)
                .collect()
        })
    }

    fn page<'a>(&'a self, filter: &'a KeyFilter, limit: usize) -> Stored<'a, Vec<KeyRow>> {
        Box::pin(async move {
            let after = filter.after.map_or(vec![], |id| id.as_bytes().to_vec());
            sqlx::query(PAGE)
                .bind(after)
                .bind(filter.asset.as_ref().map(|asset| asset.as_str()))
                .bind(filter.active_only)
                .bind(i64::try_from(limit).unwrap_or(i64::MAX))
                .fetch_all(&mut *self.reader().await)
                .await
                .map_err(failed("list keys"))?
                .iter()
                .map(key_row)
                .collect()
        })
    }

    fn destroy(&self, id: KeyId, at: u64) -> Stored<'_, Option<KeyRow>> {
        Box::pin(async move {
            let attempted = "destroy a key";
            let mut writer = self.writer().await?;
            let mut transaction = begin(&mut writer, attempted).await?;
            let done = sqlx::query(
                "UPDATE content_key SET wrapped = NULL, destroyed = ? \
                 WHERE key_id = ? AND destroyed IS NULL",
            )
            .bind(seconds(at))
            .bind(id.as_bytes().as_slice())
            .execute(&mut *transaction)
            .await
            .map_err(failed(attempted))?;
            let changed = done.rows_affected() > 0;
            let row = key_by_id(&mut transaction, id).await?;
            finish(transaction, changed, attempted).await?;
            if changed {
                self.empty_log(&mut writer).await?;
            }
            Ok(row)
        })
    }

    fn destroy_tenant<'a>(&'a self, tenant: &'a str, at: u64) -> Stored<'a, ()> {
        Box::pin(async move {
            let attempted = "destroy a tenant";
            let mut writer = self.writer().await?;
            let mut transaction = begin(&mut writer, attempted).await?;
            sqlx::query(ERASE_KEYS)
                .bind(tenant)
                .bind(seconds(at))
                .execute(&mut *transaction)
                .await
                .map_err(failed(attempted))?;
            sqlx::query(BAR_TENANT)
                .bind(tenant)
                .bind(seconds(at))
                .bind(NO_BODY)
                .execute(&mut *transaction)
                .await
                .map_err(failed(attempted))?;
            sqlx::query(EMPTY_KEKS)
                .bind(tenant)
                .bind(NO_BODY)
                .execute(&mut *transaction)
                .await
                .map_err(failed(attempted))?;
            finish(transaction, true, attempted).await?;
            self.empty_log(&mut writer).await
        })
    }

    fn snapshot(&self) -> Stored<'_, Snapshot> {
        Box::pin(async {
            let attempted = "read all but the keys";
            let mut reader = self.reader().await;
            let mut transaction = (reader.begin().await).map_err(failed(attempted))?;
            let root = root(&mut transaction).await?;
            let keks = (sqlx::query(ALL_KEKS).fetch_all(&mut *transaction).await)
                .map_err(failed(attempted))?
                .iter()
                .map(kek_row)
                .collect::<Result<_, _>>()?;
            let signing_keys = signing_keys(&mut transaction).await?;
            let writes = writes(&mut transaction).await?;
            Ok(Snapshot {
                root,
                keks,
                signing_keys,
                writes,
            })
        })
    }

    fn clear(&self) -> Stored<'_, bool> {
        Box::pin(async {
            let attempted = "clear the store";
            let mut writer = self.writer().await?;
            let mut transaction = begin(&mut writer, attempted).await?;
            if root(&mut transaction).await?.is_some() {
                return Ok(false);
            }
            (sqlx::raw_sql("DELETE FROM content_key; DELETE FROM kek; DELETE FROM signing_key")
                .execute(&mut *transaction)
                .await)
                .map_err(failed(attempted))?;
            finish(transaction, false, attempted).await?;
            Ok(true)
        })
    }

    fn restore_keks(&self, keks: Vec<KekRow>) -> Stored<'_, ()> {
        Box::pin(async move {
            let attempted = "restore KEKs";
            let mut writer = self.writer().await?;
            let mut transaction = begin(&mut writer, attempted).await?;
            rootless(&mut transaction).await?;
            for kek in &keks {
                sqlx::query(RESTORE_KEK)
                    .bind(&kek.tenant)
                    .bind(kek.version)
                    .bind(kek.floor)
                    .bind(kek.root_version)
                    .bind(kek.wrapped.as_bytes())
                    .bind(seconds(kek.created))
                    .execute(&mut *transaction)
                    .await
                    .map_err(failed(attempted))?;
            }
            finish(transaction, false, attempted).await
        })
    }

    fn restore_keys(&self, keys: Vec<KeyRow>) -> Stored<'_, ()> {
        Box::pin(async move {
            let attempted = "restore keys";
            let mut writer = self.writer().await?;
            let mut transaction = begin(&mut writer, attempted).await?;
            rootless(&mut transaction).await?;
            for key in &keys {
                let (wrapped, destroyed) = match &key.body {
                    KeyBody::Wrapped(wrapped) => (Some(wrapped.as_bytes()), None),
                    KeyBody::Destroyed(at) => (None, Some(seconds(*at))),
                };
                bind_key(sqlx::query(RESTORE_KEY), key, wrapped)
                    .bind(destroyed)
                    .execute(&mut *transaction)
                    .await
                    .map_err(failed(attempted))?;
            }
            finish(transaction, false, attempted).await
        })
    }

    fn finish_restore(&self, rest: Restored) -> Stored<'_, bool> {
        Box::pin(async move {
            let attempted = "finish the restore";
            let mut writer = self.writer().await?;
            let mut transaction = begin(&mut writer, attempted).await?;
            if !put_root(&mut transaction, &rest.root).await? {
                return Ok(false);
            }
            for key in &rest.signing_keys {
                sqlx::query(
                    "INSERT INTO signing_key (purpose, public, root_version, wrapped, created) \
                     VALUES (?, ?, ?, ?, ?)",
                )
                .bind(key.signs.as_str())
                .bind(key.public.as_slice())
                .bind(key.root_version)
                .bind(key.wrapped.as_bytes())
                .bind(seconds(key.created))
                .execute(&mut *transaction)
                .await
                .map_err(failed(attempted))?;
            }
            resume(&mut transaction, rest.writes, rest.anchor).await?;
            finish(transaction, false, attempted).await?;
            Ok(true)
        })
    }

    fn revoke_node<'a>(&'a self, certificate: [u8; 32], node: &'a str, at: u64) -> Stored<'a, ()> {
        Box::pin(async move {
            sqlx::query("INSERT INTO revoked_node VALUES (?, ?, ?) ON CONFLICT DO NOTHING")
                .bind(certificate.as_slice())
                .bind(node)
                .bind(seconds(at))
                .execute(&mut *self.writer().await?)
                .await
                .map_err(failed("revoke a machine"))?;
            Ok(())
        })
    }

    fn is_node_revoked(&self, certificate: [u8; 32]) -> Stored<'_, bool> {
        Box::pin(async move {
            sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM revoked_node WHERE certificate = ?)")
                .bind(certificate.as_slice())
                .fetch_one(&mut *self.reader().await)
                .await
                .map_err(failed("look for a revocation"))
        })
    }

    fn tombstones(&self) -> Stored<'_, u64> {
        Box::pin(async {
            let row = sqlx::query("SELECT tombstones FROM marks")
                .fetch_one(&mut *self.reader().await)
                .await
                .map_err(failed("count tombstones"))?;
            number(&row, "tombstones")
        })
    }

    fn put_tombstones(&self, count: u64) -> Stored<'_, ()> {
        Box::pin(async move {
            sqlx::query("UPDATE marks SET tombstones = ?")
                .bind(seconds(count))
                .execute(&mut *self.writer().await?)
                .await
                .map_err(failed("count tombstones"))?;
            Ok(())
        })
    }

    fn wipe(&self) -> Stored<'_, ()> {
        Box::pin(async {
            let mut writer = self.writer().await?;
            self.empty_log(&mut writer).await
        })
    }

    fn counts(&self) -> Stored<'_, (u64, u64)> {
        Box::pin(async {
            let row = (sqlx::query(COUNTS)
                .fetch_one(&mut *self.reader().await)
                .await)
                .map_err(failed("count keys"))?;
            Ok((number(&row, "usable")?, number(&row, "destroyed")?))
        })
    }

    fn writes(&self) -> Stored<'_, u64> {
        Box::pin(async { writes(&mut *self.reader().await).await })
    }

    fn integrity(&self) -> Stored<'_, Vec<String>> {
        Box::pin(async {
            let mut reader = self.reader().await;
            let mut found: Vec<String> = sqlx::query_scalar("PRAGMA integrity_check")
                .fetch_all(&mut *reader)
                .await
                .map_err(failed("check the database"))?;
            found.retain(|line| line != "ok");
            let orphans = sqlx::query("PRAGMA foreign_key_check")
                .fetch_all(&mut *reader)
                .await
                .map_err(failed("check the database"))?;
            if !orphans.is_empty() {
                found.push(format!(
                    "{} keys name a KEK that is not there",
                    orphans.len()
                ));
            }
            Ok(found)
        })
    }

    fn anchor(&self) -> Stored<'_, Option<Head>> {
        Box::pin(async {
            let row = sqlx::query("SELECT seq, hash, bytes FROM audit_anchor")
                .fetch_optional(&mut *self.reader().await)
                .await
                .map_err(failed("read the audit anchor"))?;
            row.as_ref().map(head_row).transpose()
        })
    }

    fn put_anchor(&self, head: Head) -> Stored<'_, ()> {
        Box::pin(async move {
            sqlx::query(
                "INSERT INTO audit_anchor (one, seq, hash, bytes) VALUES (1, ?, ?, ?) \
                 ON CONFLICT DO UPDATE SET seq = excluded.seq, hash = excluded.hash, bytes = excluded.bytes \
                 WHERE excluded.seq > seq",
            )
            .bind(seconds(head.seq))
            .bind(head.hash.as_slice())
            .bind(seconds(head.bytes))
            .execute(&mut *self.writer().await?)
            .await
            .map_err(failed("move the audit anchor"))?;
            Ok(())
        })
    }

    fn resume(&self, writes: u64, anchor: Head) -> Stored<'_, ()> {
        Box::pin(async move {
            let attempted = "go on from here";
            let mut writer = self.writer().await?;
            let mut transaction = begin(&mut writer, attempted).await?;
            resume(&mut transaction, writes, anchor).await?;
            finish(transaction, true, attempted).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A full disk in small: a bound on the database's pages, which fails as that does.
    #[tokio::test]
    async fn a_database_that_was_full_takes_writes_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = Sqlite::open(&folder.path().join("db")).await.unwrap();
        let bound = sqlx::raw_sql("PRAGMA max_page_count = 1");
        (bound.execute(&mut *store.writer().await.unwrap()).await).unwrap();
        let mut last = Ok(());
        for tenant in 0..10_000 {
            last = store.destroy_tenant(&format!("{tenant:0>100}"), 1).await;
            if last.is_err() {
                break;
            }
        }
        let error = last.unwrap_err();
        assert!(error.to_string().contains("full"), "{error}");
        // There is room again: a new connection has no bound.
        store.destroy_tenant("another", 1).await.unwrap();
        store.destroy_tenant("and another", 1).await.unwrap();
    }
}
