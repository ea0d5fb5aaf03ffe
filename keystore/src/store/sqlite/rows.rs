//! Rows: what is asked of the database, and how records are read from it and written to it.

use keystore_types::{KeyContext, KeyId};
use sqlx::Connection as _;
use sqlx::sqlite::{SqliteArguments, SqliteConnection};

use super::super::record::{
    KEK, KEY_BY_ID, KEY_OF, PUT_KEY, PUT_ROOT, REPLACE_KEK, ROOT, failed, kek_row, key_row, number,
    root_row, seconds, signing_key_row,
};
use super::super::{KekRow, KeyBody, KeyRow, Replaced, RootRow, SigningKeyRow};
use crate::audit::Head;
use crate::error::{Error, ErrorKind};
use crate::unlock::scheme;

pub(super) type Transaction<'c> = sqlx::Transaction<'c, sqlx::Sqlite>;

/// Begins by taking the one write lock, so that what is read is still so when it is written.
pub(super) async fn begin<'c>(
    writer: &'c mut SqliteConnection,
    attempted: &'static str,
) -> Result<Transaction<'c>, Error> {
    (writer.begin_with("BEGIN IMMEDIATE").await).map_err(failed(attempted))
}

/// Commits. A transaction that has changed key records counts as a write.
pub(super) async fn finish(
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

pub(super) async fn signing_keys(
    connection: &mut SqliteConnection,
) -> Result<Vec<SigningKeyRow>, Error> {
    sqlx::query("SELECT purpose, public, root_version, wrapped, created FROM signing_key")
        .fetch_all(connection)
        .await
        .map_err(failed("read the signing keys"))?
        .iter()
        .map(signing_key_row)
        .collect()
}

pub(super) async fn root(connection: &mut SqliteConnection) -> Result<Option<RootRow>, Error> {
    let rows = (sqlx::query(ROOT).fetch_all(connection).await).map_err(failed("read the root"))?;
    root_row(&rows)
}

/// A root that was made meanwhile has keys of its own.
pub(super) async fn rootless(connection: &mut SqliteConnection) -> Result<(), Error> {
    match root(connection).await? {
        None => Ok(()),
        Some(_) => Err(Error::new(
            ErrorKind::Unavailable,
            "the restore is void: a root was made meanwhile",
        )),
    }
}

pub(super) async fn writes(connection: &mut SqliteConnection) -> Result<u64, Error> {
    let row = (sqlx::query("SELECT writes FROM marks")
        .fetch_one(connection)
        .await)
        .map_err(failed("count writes"))?;
    number(&row, "writes")
}

pub(super) async fn resume(
    connection: &mut SqliteConnection,
    writes: u64,
    anchor: Head,
) -> Result<(), Error> {
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

pub(super) async fn put_root(
    connection: &mut SqliteConnection,
    root: &RootRow,
) -> Result<bool, Error> {
    let attempted = "keep the root";
    let kept: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM root_seal")
        .fetch_one(&mut *connection)
        .await
        .map_err(failed(attempted))?;
    if kept > 0 {
        return Ok(false);
    }
    for sealed in &root.sealed {
        sqlx::query(PUT_ROOT)
            .bind(root.version)
            .bind(scheme(sealed.method))
            .bind(sealed.parameters.as_slice())
            .bind(sealed.wrapped.as_bytes())
            .bind(sealed.commitment.as_ref().map(<[u8; 32]>::as_slice))
            .bind(seconds(root.created))
            .execute(&mut *connection)
            .await
            .map_err(failed(attempted))?;
    }
    Ok(true)
}

pub(super) async fn kek(
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
pub(super) async fn replace_kek(
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

pub(super) async fn key_of(
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

pub(super) async fn key_by_id(
    connection: &mut SqliteConnection,
    id: KeyId,
) -> Result<Option<KeyRow>, Error> {
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
pub(super) async fn put_key(
    connection: &mut SqliteConnection,
    key: &KeyRow,
) -> Result<bool, Error> {
    let KeyBody::Wrapped(wrapped) = &key.body else {
        return Err(Error::damaged("a new key without its body"));
    };
    let done = bind_key(sqlx::query(PUT_KEY), key, Some(wrapped.as_bytes()))
        .execute(connection)
        .await
        .map_err(failed("keep a new key"))?;
    Ok(done.rows_affected() > 0)
}

pub(super) type Query<'q> = sqlx::query::Query<'q, sqlx::Sqlite, SqliteArguments>;

/// Binds a key's columns up to `created`.
pub(super) fn bind_key<'q>(
    query: Query<'q>,
    key: &'q KeyRow,
    wrapped: Option<&'q [u8]>,
) -> Query<'q> {
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
