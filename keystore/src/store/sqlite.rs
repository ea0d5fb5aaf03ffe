//! The embedded store: SQLite with a write-ahead log that is synced at every commit.
//!
//! One connection writes, another reads. Pages are zeroed when their contents go (`secure_delete`), and destroying
//! a key also empties the write-ahead log, so that the wrapped key is nowhere in the files afterwards.

use std::path::Path;

use conf::Argon2Settings;
use keystore_client::admin::KeyFilter;
use keystore_types::{ConstantIv, Generation, KeyContext, KeyId, Label, Scheme};
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions as _, Connection as _, Row as _};
use tokio::sync::{Mutex, MutexGuard};

use super::{
    KekRow, KeyBody, KeyRow, Replaced, Restored, RootRotation, RootRow, Signed, SigningKeyRow,
    Snapshot, Store, Stored,
};
use crate::audit::Head;
use crate::error::{Error, ErrorKind};
use crate::seal::Wrapped;
use crate::unlock::passphrase::SealedRoot;

/// Each brings the schema from one version to the next; `PRAGMA user_version` counts those done.
const MIGRATIONS: [&str; 3] = [
    include_str!("migrations/0001_initial.sql"),
    include_str!("migrations/0002_versions.sql"),
    include_str!("migrations/0003_audit.sql"),
];

/// The columns that [`key_row`] reads.
macro_rules! select_keys {
    ($rest:literal) => {
        concat!(
            "SELECT key_id, tenant, asset, label, scheme, subsample_rule, sources, number, iv, kek_version, \
             wrapped, created, destroyed FROM content_key ",
            $rest
        )
    };
}

const KEY_OF: &str = select_keys!(
    "WHERE tenant = ? AND asset = ? AND label = ? AND scheme = ? AND subsample_rule = ? AND sources = ? \
     AND number = ? AND destroyed IS NULL"
);

const KEY_BY_ID: &str = select_keys!("WHERE key_id = ?");

const PAGE: &str = select_keys!(
    "WHERE key_id > ?1 AND (?2 IS NULL OR asset = ?2) AND (destroyed IS NULL OR NOT ?3) \
     ORDER BY key_id LIMIT ?4"
);

const KEYS_BELOW: &str = select_keys!(
    "WHERE tenant = ? AND kek_version < ? AND (kek_version, key_id) > (?, ?) AND destroyed IS NULL \
     ORDER BY kek_version, key_id LIMIT ?"
);

/// Under the tenant's newest KEK only: what is put under an older one would be missed by the rotation under way.
const PUT_KEY: &str = "INSERT INTO content_key (key_id, tenant, asset, label, scheme, subsample_rule, sources, \
    number, iv, kek_version, wrapped, created) SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12 \
    WHERE ?10 = (SELECT MAX(version) FROM kek WHERE tenant = ?2 AND length(wrapped) > 0) ON CONFLICT DO NOTHING";

const RESTORE_KEY: &str = "INSERT INTO content_key (key_id, tenant, asset, label, scheme, subsample_rule, sources, \
    number, iv, kek_version, wrapped, created, destroyed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

/// The columns that [`kek_row`] reads.
macro_rules! select_keks {
    ($rest:literal) => {
        concat!(
            "SELECT tenant, version, floor, root_version, wrapped, created FROM kek ",
            $rest
        )
    };
}

const KEK: &str = select_keks!(
    "WHERE tenant = ?1 AND (?2 IS NULL OR version = ?2) ORDER BY version DESC LIMIT 1"
);

const KEKS: &str = select_keks!("WHERE length(wrapped) > 0 ORDER BY tenant, version");

const ALL_KEKS: &str = select_keks!("ORDER BY tenant, version");

const REPLACE_KEK: &str = "UPDATE kek SET floor = ?1, root_version = ?2, wrapped = ?3 \
    WHERE tenant = ?4 AND version = ?5 AND wrapped = ?6";

/// A SQLite database.
pub struct Sqlite {
    writer: Mutex<SqliteConnection>,
    /// None in memory, where the writer is all there is.
    reader: Option<Mutex<SqliteConnection>>,
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
        let reader = connect(&options.read_only(true)).await?;
        Ok(Self {
            writer: Mutex::new(writer),
            reader: Some(Mutex::new(reader)),
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
            reader: None,
        })
    }

    async fn reader(&self) -> MutexGuard<'_, SqliteConnection> {
        self.reader.as_ref().unwrap_or(&self.writer).lock().await
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
            let mut writer = self.writer.lock().await;
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
            } = rotation;
            let mut writer = self.writer.lock().await;
            let mut transaction = begin(&mut writer, attempted).await?;
            let removed = sqlx::query("DELETE FROM root WHERE version = ?")
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
            let mut as_read = removed.rows_affected() == 1
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
            let mut writer = self.writer.lock().await;
            let mut transaction = begin(&mut writer, attempted).await?;
            let done = sqlx::query(
                "INSERT INTO signing_key (purpose, public, root_version, wrapped, created) \
                 SELECT ?1, ?2, ?3, ?4, ?5 WHERE ?3 = (SELECT version FROM root) ON CONFLICT DO NOTHING",
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
            let mut writer = self.writer.lock().await;
            let mut transaction = begin(&mut writer, attempted).await?;
            let done = sqlx::query(
                "INSERT INTO kek (tenant, version, floor, root_version, wrapped, created) \
                 SELECT ?1, ?2, ?3, ?4, ?5, ?6 WHERE ?4 = (SELECT version FROM root) \
                 ON CONFLICT DO NOTHING",
            )
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
            let mut writer = self.writer.lock().await;
            let mut transaction = begin(&mut writer, attempted).await?;
            let free: bool = sqlx::query_scalar(
                "SELECT NOT EXISTS (SELECT 1 FROM kek WHERE tenant = ?1 AND version > ?2) \
                 AND NOT EXISTS (SELECT 1 FROM content_key \
                     WHERE tenant = ?1 AND kek_version < ?3 AND destroyed IS NULL)",
            )
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
            let mut writer = self.writer.lock().await;
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
            let row = sqlx::query(
                "SELECT COUNT(*) AS stale FROM (SELECT tenant, MAX(version) AS newest FROM kek GROUP BY tenant) AS kek \
                 JOIN content_key ON content_key.tenant = kek.tenant AND kek_version < newest \
                 WHERE destroyed IS NULL",
            )
            .fetch_one(&mut *self.reader().await)
            .await
            .map_err(failed("count keys to wrap anew"))?;
            number(&row, "stale")
        })
    }

    fn rewrap(&self, keys: Vec<Replaced<KeyRow>>) -> Stored<'_, u64> {
        Box::pin(async move {
            let attempted = "keep what was wrapped anew";
            let mut writer = self.writer.lock().await;
            let mut transaction = begin(&mut writer, attempted).await?;
            let mut done = 0;
            for Replaced { old, new } in &keys {
                let (KeyBody::Wrapped(was), KeyBody::Wrapped(wrapped)) = (&old.body, &new.body)
                else {
                    return Err(Error::damaged("a key to wrap anew without its body"));
                };
                let changed = sqlx::query(
                    "UPDATE content_key SET wrapped = ?, kek_version = ? \
                     WHERE key_id = ? AND wrapped = ? AND destroyed IS NULL",
                )
                .bind(wrapped.as_bytes())
                .bind(new.kek_version)
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
            let mut reader = self.reader().await;
            let mut rows = Vec::with_capacity(ids.len());
            for id in ids {
                rows.extend(key_by_id(&mut reader, *id).await?);
            }
            Ok(rows)
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
            let mut writer = self.writer.lock().await;
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
            let mut writer = self.writer.lock().await;
            let mut transaction = begin(&mut writer, attempted).await?;
            for statement in [
                "UPDATE content_key SET wrapped = NULL, destroyed = ?2 WHERE tenant = ?1 AND destroyed IS NULL",
                // A tenant that never had a KEK gets one without its body, so that it never will.
                "INSERT INTO kek (tenant, version, wrapped, created) VALUES (?1, 1, x'', ?2) ON CONFLICT DO NOTHING",
            ] {
                sqlx::query(statement)
                    .bind(tenant)
                    .bind(seconds(at))
                    .execute(&mut *transaction)
                    .await
                    .map_err(failed(attempted))?;
            }
            sqlx::query("UPDATE kek SET wrapped = x'' WHERE tenant = ?")
                .bind(tenant)
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
            let mut writer = self.writer.lock().await;
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
            let mut writer = self.writer.lock().await;
            let mut transaction = begin(&mut writer, attempted).await?;
            for kek in &keks {
                sqlx::query(
                    "INSERT INTO kek (tenant, version, floor, root_version, wrapped, created) \
                     VALUES (?, ?, ?, ?, ?, ?)",
                )
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
            let mut writer = self.writer.lock().await;
            let mut transaction = begin(&mut writer, attempted).await?;
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
            let mut writer = self.writer.lock().await;
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
                .execute(&mut *self.writer.lock().await)
                .await
                .map_err(failed("count tombstones"))?;
            Ok(())
        })
    }

    fn wipe(&self) -> Stored<'_, ()> {
        Box::pin(async {
            let mut writer = self.writer.lock().await;
            self.empty_log(&mut writer).await
        })
    }

    fn counts(&self) -> Stored<'_, (u64, u64)> {
        Box::pin(async {
            let row = sqlx::query(
                "SELECT COUNT(*) FILTER (WHERE destroyed IS NULL) AS usable, \
                 COUNT(destroyed) AS destroyed FROM content_key",
            )
            .fetch_one(&mut *self.reader().await)
            .await
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
            row.map(|row| {
                Ok(Head {
                    seq: number(&row, "seq")?,
                    hash: bytes(&row, "hash")?,
                    bytes: number(&row, "bytes")?,
                })
            })
            .transpose()
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
            .execute(&mut *self.writer.lock().await)
            .await
            .map_err(failed("move the audit anchor"))?;
            Ok(())
        })
    }

    fn resume(&self, writes: u64, anchor: Head) -> Stored<'_, ()> {
        Box::pin(async move {
            let attempted = "go on from here";
            let mut writer = self.writer.lock().await;
            let mut transaction = begin(&mut writer, attempted).await?;
            resume(&mut transaction, writes, anchor).await?;
            finish(transaction, true, attempted).await
        })
    }
}

type Transaction<'c> = sqlx::Transaction<'c, sqlx::Sqlite>;

/// Begins by taking the one write lock, so that what is read is still so when it is written.
async fn begin<'c>(
    writer: &'c mut SqliteConnection,
    attempted: &'static str,
) -> Result<Transaction<'c>, Error> {
    (writer.begin_with("BEGIN IMMEDIATE").await).map_err(failed(attempted))
}

/// Commits. A transaction that has changed key records counts as a write.
async fn finish(
    mut transaction: Transaction<'_>,
    changed: bool,
    attempted: &'static str,
) -> Result<(), Error> {
    if changed {
        sqlx::query("UPDATE marks SET writes = writes + 1")
            .execute(&mut *transaction)
            .await
            .map_err(failed(attempted))?;
    }
    (transaction.commit().await).map_err(failed(attempted))
}

async fn signing_keys(connection: &mut SqliteConnection) -> Result<Vec<SigningKeyRow>, Error> {
    sqlx::query("SELECT purpose, public, root_version, wrapped, created FROM signing_key")
        .fetch_all(connection)
        .await
        .map_err(failed("read the signing keys"))?
        .iter()
        .map(|row| {
            let purpose: String = column(row, "purpose")?;
            Ok(SigningKeyRow {
                signs: (Signed::ALL.into_iter())
                    .find(|signed| signed.as_str() == purpose)
                    .ok_or_else(|| unreadable("purpose"))?,
                public: bytes(row, "public")?,
                root_version: number(row, "root_version")?,
                wrapped: Wrapped::from_stored(column(row, "wrapped")?),
                created: number(row, "created")?,
            })
        })
        .collect()
}

async fn root(connection: &mut SqliteConnection) -> Result<Option<RootRow>, Error> {
    let row =
        sqlx::query("SELECT version, salt, memory_kib, passes, lanes, wrapped, created FROM root")
            .fetch_optional(connection)
            .await
            .map_err(failed("read the root"))?;
    row.map(|row| {
        Ok(RootRow {
            version: number(&row, "version")?,
            sealed: SealedRoot {
                salt: bytes(&row, "salt")?,
                cost: Argon2Settings {
                    memory_kib: number(&row, "memory_kib")?,
                    passes: number(&row, "passes")?,
                    lanes: number(&row, "lanes")?,
                },
                wrapped: Wrapped::from_stored(column(&row, "wrapped")?),
            },
            created: number(&row, "created")?,
        })
    })
    .transpose()
}

async fn writes(connection: &mut SqliteConnection) -> Result<u64, Error> {
    let row = (sqlx::query("SELECT writes FROM marks")
        .fetch_one(connection)
        .await)
        .map_err(failed("count writes"))?;
    number(&row, "writes")
}

async fn resume(connection: &mut SqliteConnection, writes: u64, anchor: Head) -> Result<(), Error> {
    let attempted = "go on from here";
    sqlx::query("UPDATE marks SET writes = ?, tombstones = 0")
        .bind(seconds(writes))
        .execute(&mut *connection)
        .await
        .map_err(failed(attempted))?;
    sqlx::query(
        "INSERT INTO audit_anchor (one, seq, hash, bytes) VALUES (1, ?, ?, ?) \
         ON CONFLICT DO UPDATE SET seq = excluded.seq, hash = excluded.hash, bytes = excluded.bytes",
    )
    .bind(seconds(anchor.seq))
    .bind(anchor.hash.as_slice())
    .bind(seconds(anchor.bytes))
    .execute(connection)
    .await
    .map_err(failed(attempted))?;
    Ok(())
}

async fn put_root(connection: &mut SqliteConnection, root: &RootRow) -> Result<bool, Error> {
    let SealedRoot {
        salt,
        cost,
        wrapped,
    } = &root.sealed;
    let done = sqlx::query(
        "INSERT INTO root (one, method, version, salt, memory_kib, passes, lanes, wrapped, created) \
         VALUES (1, 'argon2id', ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
    )
    .bind(root.version)
    .bind(salt.as_slice())
    .bind(cost.memory_kib)
    .bind(cost.passes)
    .bind(cost.lanes)
    .bind(wrapped.as_bytes())
    .bind(seconds(root.created))
    .execute(connection)
    .await
    .map_err(failed("keep the root"))?;
    Ok(done.rows_affected() == 1)
}

async fn kek(
    connection: &mut SqliteConnection,
    tenant: &str,
    version: Option<u32>,
) -> Result<Option<KekRow>, Error> {
    sqlx::query(KEK)
        .bind(tenant)
        .bind(version)
        .fetch_optional(connection)
        .await
        .map_err(failed("read a KEK"))?
        .as_ref()
        .map(kek_row)
        .transpose()
}

/// Whether the row was as it was read.
async fn replace_kek(
    connection: &mut SqliteConnection,
    Replaced { old, new }: &Replaced<KekRow>,
) -> Result<bool, Error> {
    let done = sqlx::query(REPLACE_KEK)
        .bind(new.floor)
        .bind(new.root_version)
        .bind(new.wrapped.as_bytes())
        .bind(&old.tenant)
        .bind(old.version)
        .bind(old.wrapped.as_bytes())
        .execute(connection)
        .await
        .map_err(failed("replace a KEK"))?;
    Ok(done.rows_affected() == 1)
}

fn kek_row(row: &SqliteRow) -> Result<KekRow, Error> {
    Ok(KekRow {
        tenant: column(row, "tenant")?,
        version: number(row, "version")?,
        floor: (column::<Option<i64>>(row, "floor")?)
            .map(|floor| u32::try_from(floor).map_err(|_| unreadable("floor")))
            .transpose()?,
        root_version: number(row, "root_version")?,
        wrapped: Wrapped::from_stored(column(row, "wrapped")?),
        created: number(row, "created")?,
    })
}

async fn key_of(
    connection: &mut SqliteConnection,
    context: &KeyContext,
) -> Result<Option<KeyRow>, Error> {
    sqlx::query(KEY_OF)
        .bind(&context.tenant)
        .bind(context.asset.as_str())
        .bind(context.label.as_str())
        .bind(context.scheme.as_str())
        .bind(context.subsample_rule)
        .bind(context.generation.sources.as_slice())
        .bind(context.generation.number)
        .fetch_optional(connection)
        .await
        .map_err(failed("look for a key"))?
        .as_ref()
        .map(key_row)
        .transpose()
}

async fn key_by_id(connection: &mut SqliteConnection, id: KeyId) -> Result<Option<KeyRow>, Error> {
    sqlx::query(KEY_BY_ID)
        .bind(id.as_bytes().as_slice())
        .fetch_optional(connection)
        .await
        .map_err(failed("look for a key"))?
        .as_ref()
        .map(key_row)
        .transpose()
}

/// Whether it was kept.
async fn put_key(connection: &mut SqliteConnection, key: &KeyRow) -> Result<bool, Error> {
    let KeyBody::Wrapped(wrapped) = &key.body else {
        return Err(Error::damaged("a new key without its body"));
    };
    let done = bind_key(sqlx::query(PUT_KEY), key, Some(wrapped.as_bytes()))
        .execute(connection)
        .await
        .map_err(failed("keep a new key"))?;
    Ok(done.rows_affected() > 0)
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Sqlite, SqliteArguments>;

/// Binds a key's columns up to `created`.
fn bind_key<'q>(query: Query<'q>, key: &'q KeyRow, wrapped: Option<&'q [u8]>) -> Query<'q> {
    let context = &key.context;
    query
        .bind(key.key_id.as_bytes().as_slice())
        .bind(&context.tenant)
        .bind(context.asset.as_str())
        .bind(context.label.as_str())
        .bind(context.scheme.as_str())
        .bind(context.subsample_rule)
        .bind(context.generation.sources.as_slice())
        .bind(context.generation.number)
        .bind(key.iv.as_bytes().as_slice())
        .bind(key.kek_version)
        .bind(wrapped)
        .bind(seconds(key.created))
}

fn key_row(row: &SqliteRow) -> Result<KeyRow, Error> {
    let text = |name| column::<String>(row, name);
    let label = text("label")?;
    let scheme = text("scheme")?;
    let wrapped: Option<Vec<u8>> = column(row, "wrapped")?;
    Ok(KeyRow {
        key_id: KeyId::new(bytes(row, "key_id")?),
        context: KeyContext {
            tenant: text("tenant")?,
            asset: (text("asset")?.try_into()).map_err(|_| unreadable("asset"))?,
            label: (Label::ALL.into_iter())
                .find(|known| known.as_str() == label)
                .ok_or_else(|| unreadable("label"))?,
            scheme: (Scheme::ALL.into_iter())
                .find(|known| known.as_str() == scheme)
                .ok_or_else(|| unreadable("scheme"))?,
            subsample_rule: number(row, "subsample_rule")?,
            generation: Generation {
                sources: bytes(row, "sources")?,
                number: number(row, "number")?,
            },
        },
        iv: ConstantIv::new(bytes(row, "iv")?),
        kek_version: number(row, "kek_version")?,
        body: match wrapped {
            Some(wrapped) => KeyBody::Wrapped(Wrapped::from_stored(wrapped)),
            None => KeyBody::Destroyed(number(row, "destroyed")?),
        },
        created: number(row, "created")?,
    })
}

fn column<'r, T>(row: &'r SqliteRow, name: &'static str) -> Result<T, Error>
where
    T: sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
{
    row.try_get(name).map_err(|_| unreadable(name))
}

fn number<T: TryFrom<i64>>(row: &SqliteRow, name: &'static str) -> Result<T, Error> {
    column::<i64>(row, name)?
        .try_into()
        .map_err(|_| unreadable(name))
}

fn bytes<const N: usize>(row: &SqliteRow, name: &'static str) -> Result<[u8; N], Error> {
    column::<Vec<u8>>(row, name)?
        .try_into()
        .map_err(|_| unreadable(name))
}

fn unreadable(name: &'static str) -> Error {
    Error::damaged(format!("a stored record's {name} is not one"))
}

/// SQLite's integers are signed; no clock of ours reaches their end.
fn seconds(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn failed(attempted: &'static str) -> impl Fn(sqlx::Error) -> Error {
    move |error| Error::unavailable(format!("cannot {attempted}"), error)
}
