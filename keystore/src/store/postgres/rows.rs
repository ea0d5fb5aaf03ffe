//! What is asked of the database, and how records are put there.

use keystore_types::{KeyContext, KeyId};
use sqlx::Connection as _;
use sqlx::postgres::{PgArguments, PgConnection};
use tokio::time::timeout;

use super::super::record::{
    KEK, KEY_BY_ID, PUT_KEY, PUT_ROOT, ROOT, failed, kek_row, key_row, number, root_row, seconds,
    signing_key_row,
};
use super::super::{KekRow, KeyBody, KeyRow, Replaced, RootRotation, RootRow, SigningKeyRow};
use super::MIGRATIONS;
use super::link::{Lent, Link, check_version};
use crate::audit::Head;
use crate::error::{Error, ErrorKind};
use crate::unlock::scheme;

/// The lock that nodes take to change the tables: `castellu` in ASCII.
const MIGRATION_LOCK: i64 = 0x6361_7374_656c_6c75;

/// How long a change of the tables may take, or be waited for while another node makes it.
const MIGRATION_PATIENCE: std::time::Duration = std::time::Duration::from_secs(600);

/// Brings the tables up to date, one node at a time.
pub(super) async fn migrate(link: &Link) -> Result<(), Error> {
    let attempted = "bring the database up to date";
    let mut connection = link.connect().await?;
    let work = async {
        let mut transaction = (connection.begin().await).map_err(failed(attempted))?;
        // What changes whole tables takes as long as it takes.
        (sqlx::raw_sql("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0")
            .execute(&mut *transaction)
            .await)
            .map_err(failed(attempted))?;
        sqlx::query("SELECT pg_advisory_xact_lock($1)")
            .bind(MIGRATION_LOCK)
            .execute(&mut *transaction)
            .await
            .map_err(failed(attempted))?;
        let made: bool = sqlx::query_scalar("SELECT to_regclass('migration') IS NOT NULL")
            .fetch_one(&mut *transaction)
            .await
            .map_err(failed(attempted))?;
        if !made {
            (sqlx::raw_sql(
                "CREATE SCHEMA IF NOT EXISTS keystore; CREATE TABLE keystore.migration (version BIGINT PRIMARY KEY)",
            )
            .execute(&mut *transaction)
            .await)
                .map_err(failed(attempted))?;
        }
        let done: i64 = sqlx::query_scalar("SELECT COALESCE(MAX(version), 0) FROM migration")
            .fetch_one(&mut *transaction)
            .await
            .map_err(failed(attempted))?;
        let done = usize::try_from(done).unwrap_or(usize::MAX);
        let Some(pending) = MIGRATIONS.get(done..) else {
            return check_version(done);
        };
        for (version, migration) in (done + 1..).zip(pending) {
            (sqlx::raw_sql(*migration).execute(&mut *transaction).await)
                .map_err(failed(attempted))?;
            sqlx::query("INSERT INTO migration (version) VALUES ($1)")
                .bind(i64::try_from(version).unwrap_or(i64::MAX))
                .execute(&mut *transaction)
                .await
                .map_err(failed(attempted))?;
        }
        (transaction.commit().await).map_err(failed(attempted))
    };
    (timeout(MIGRATION_PATIENCE, work).await)
        .map_err(|error| Error::unavailable(format!("cannot {attempted}"), error))?
}

/// Says that this node is there, and which root it has in memory; removes roots that were handed over.
pub(super) async fn register(
    connection: &mut PgConnection,
    node: [u8; 16],
    root_version: Option<u32>,
) -> Result<(), Error> {
    let attempted = "say that this node is there";
    sqlx::query(
        "INSERT INTO node (id, root_version) VALUES ($1, $2) \
         ON CONFLICT (id) DO UPDATE SET root_version = excluded.root_version, seen = now()",
    )
    .bind(node.as_slice())
    .bind(root_version.map(i64::from))
    .execute(&mut *connection)
    .await
    .map_err(failed(attempted))?;
    // Kept while a node may want it that was there lately, but not for ever: who has the old root has the new one by it.
    sqlx::query(
        "DELETE FROM handover WHERE made < now() - interval '1 hour' OR made < now() - interval '30 seconds' \
         AND NOT EXISTS (SELECT FROM node WHERE root_version < handover.version AND seen > now() - interval '10 minutes')",
    )
    .execute(connection)
    .await
    .map_err(failed(attempted))?;
    Ok(())
}

/// Begins a write: what is read from here on stays so until [`finish`]. A connection that is dropped before has changed
/// nothing.
pub(super) async fn begin(connection: &mut PgConnection) -> Result<(), Error> {
    let begin =
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SELECT writes FROM marks FOR UPDATE";
    (sqlx::raw_sql(begin).execute(connection).await).map_err(failed("write to the database"))?;
    Ok(())
}

/// Commits. A transaction that has changed key records counts as a write.
pub(super) async fn finish(
    mut writer: Lent<'_>,
    writes: u64,
    changes: u64,
    attempted: &'static str,
) -> Result<(), Error> {
    let row = sqlx::query(
        "UPDATE marks SET writes = writes + $1, changes = changes + $2 RETURNING writes",
    )
    .bind(seconds(writes))
    .bind(seconds(changes))
    .fetch_one(&mut *writer)
    .await
    .map_err(failed(attempted))?;
    (sqlx::raw_sql("COMMIT").execute(&mut *writer).await).map_err(failed(attempted))?;
    writer.written(number(&row, "writes")?);
    Ok(())
}

pub(super) async fn root(connection: &mut PgConnection) -> Result<Option<RootRow>, Error> {
    let rows = (sqlx::query(ROOT).fetch_all(connection).await).map_err(failed("read the root"))?;
    root_row(&rows)
}

/// A root that was made meanwhile has keys of its own.
pub(super) async fn rootless(connection: &mut PgConnection) -> Result<(), Error> {
    match root(connection).await? {
        None => Ok(()),
        Some(_) => Err(Error::new(
            ErrorKind::Unavailable,
            "the restore is void: a root was made meanwhile",
        )),
    }
}

/// Whether there was none.
pub(super) async fn put_root(connection: &mut PgConnection, row: &RootRow) -> Result<bool, Error> {
    if root(connection).await?.is_some() {
        return Ok(false);
    }
    for sealed in &row.sealed {
        sqlx::query(PUT_ROOT)
            .bind(i64::from(row.version))
            .bind(scheme(sealed.method))
            .bind(sealed.parameters.as_slice())
            .bind(sealed.wrapped.as_bytes())
            .bind(sealed.commitment.as_ref().map(<[u8; 32]>::as_slice))
            .bind(seconds(row.created))
            .execute(&mut *connection)
            .await
            .map_err(failed("keep the root"))?;
    }
    Ok(true)
}

/// A node's, or every node's.
pub(super) async fn signing_keys(
    connection: &mut PgConnection,
    node: Option<[u8; 16]>,
) -> Result<Vec<SigningKeyRow>, Error> {
    sqlx::query(
        "SELECT purpose, public, root_version, wrapped, created FROM signing_key WHERE $1 IS NULL OR node = $1",
    )
    .bind(node.as_ref().map(<[u8; 16]>::as_slice))
    .fetch_all(connection)
    .await
    .map_err(failed("read the signing keys"))?
    .iter()
    .map(signing_key_row)
    .collect()
}

/// How many were kept: none where the node has one for its purpose, or the root that wraps it is not the newest.
pub(super) async fn put_signing_key(
    connection: &mut PgConnection,
    node: [u8; 16],
    key: &SigningKeyRow,
) -> Result<u64, Error> {
    let done = sqlx::query(
        "INSERT INTO signing_key (node, purpose, public, root_version, wrapped, created) \
         SELECT $1, $2, $3, $4, $5, $6 WHERE $4 = (SELECT MAX(version) FROM root_seal) ON CONFLICT DO NOTHING",
    )
    .bind(node.as_slice())
    .bind(key.signs.as_str())
    .bind(key.public.as_slice())
    .bind(i64::from(key.root_version))
    .bind(key.wrapped.as_bytes())
    .bind(seconds(key.created))
    .execute(connection)
    .await
    .map_err(failed("keep a signing key"))?;
    Ok(done.rows_affected())
}

pub(super) async fn kek(
    connection: &mut PgConnection,
    tenant: &str,
    version: Option<u32>,
) -> Result<Option<KekRow>, Error> {
    sqlx::query(KEK)
        .bind(tenant)
        .bind(version.map(i64::from))
        .fetch_optional(connection)
        .await
        .map_err(failed("read a KEK"))?
        .as_ref()
        .map(kek_row)
        .transpose()
}

/// Whether all were as they were read.
pub(super) async fn replace_keks(
    connection: &mut PgConnection,
    keks: &[Replaced<KekRow>],
) -> Result<bool, Error> {
    let done = sqlx::query(
        "UPDATE kek SET floor = new.floor, root_version = new.root_version, wrapped = new.wrapped \
         FROM unnest($1, $2, $3, $4, $5, $6) AS new (tenant, version, old, floor, root_version, wrapped) \
         WHERE kek.tenant = new.tenant AND kek.version = new.version AND kek.wrapped = new.old",
    )
    .bind(column(keks, |row| row.old.tenant.as_str()))
    .bind(column(keks, |row| i64::from(row.old.version)))
    .bind(column(keks, |row| row.old.wrapped.as_bytes()))
    .bind(column(keks, |row| row.new.floor.map(i64::from)))
    .bind(column(keks, |row| i64::from(row.new.root_version)))
    .bind(column(keks, |row| row.new.wrapped.as_bytes()))
    .execute(connection)
    .await
    .map_err(failed("replace KEKs"))?;
    Ok(usize::try_from(done.rows_affected()).is_ok_and(|done| done == keks.len()))
}

/// The usable key of each context.
pub(super) async fn keys_by_context(
    connection: &mut PgConnection,
    contexts: &[KeyContext],
) -> Result<Vec<Option<KeyRow>>, Error> {
    let attempted = "look for keys";
    let found = sqlx::query(
        "SELECT place, key_id, key.tenant, key.asset, key.label, key.scheme, key.subsample_rule, key.sources, \
         key.number, iv, kek_version, wrapped, created, destroyed \
         FROM unnest($1, $2, $3, $4, $5, $6, $7) WITH ORDINALITY \
             AS asked (tenant, asset, label, scheme, subsample_rule, sources, number, place) \
         JOIN content_key AS key ON key.tenant = asked.tenant AND key.asset = asked.asset \
             AND key.label = asked.label AND key.scheme = asked.scheme \
             AND key.subsample_rule = asked.subsample_rule AND key.sources = asked.sources \
             AND key.number = asked.number AND key.destroyed IS NULL",
    )
    .bind(column(contexts, |context| context.tenant.as_str()))
    .bind(column(contexts, |context| context.asset.as_str()))
    .bind(column(contexts, |context| context.label.as_str()))
    .bind(column(contexts, |context| context.scheme.as_str()))
    .bind(column(contexts, |context| i64::from(context.subsample_rule)))
    .bind(column(contexts, |context| {
        context.generation.sources.as_slice()
    }))
    .bind(column(contexts, |context| {
        i64::from(context.generation.number)
    }))
    .fetch_all(connection)
    .await
    .map_err(failed(attempted))?;
    let mut rows = vec![None; contexts.len()];
    for row in &found {
        let place: usize = number(row, "place")?;
        if let Some(slot) = rows.get_mut(place.wrapping_sub(1)) {
            *slot = Some(key_row(row)?);
        }
    }
    Ok(rows)
}

pub(super) async fn keys_by_id(
    connection: &mut PgConnection,
    ids: &[KeyId],
) -> Result<Vec<KeyRow>, Error> {
    let mut rows = Vec::with_capacity(ids.len());
    for id in ids {
        rows.extend(key_by_id(connection, *id).await?);
    }
    Ok(rows)
}

pub(super) async fn key_by_id(
    connection: &mut PgConnection,
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

/// How many were kept.
pub(super) async fn put_key(connection: &mut PgConnection, key: &KeyRow) -> Result<u64, Error> {
    let KeyBody::Wrapped(wrapped) = &key.body else {
        return Err(Error::damaged("a new key without its body"));
    };
    let done = bind_key(sqlx::query(PUT_KEY), key, Some(wrapped.as_bytes()))
        .execute(connection)
        .await
        .map_err(failed("keep a new key"))?;
    Ok(done.rows_affected())
}

/// Whether the old root and all that it wraps were as they were read, and are replaced.
pub(super) async fn rotate_root(
    connection: &mut PgConnection,
    rotation: RootRotation,
    attempted: &'static str,
) -> Result<bool, Error> {
    let RootRotation {
        root,
        keks,
        signing_keys,
        handover,
    } = rotation;
    let removed = sqlx::query("DELETE FROM root_seal WHERE version = $1")
        .bind(i64::from(root.version.saturating_sub(1)))
        .execute(&mut *connection)
        .await
        .map_err(failed(attempted))?;
    let all: i64 = sqlx::query_scalar(
        "SELECT (SELECT COUNT(*) FROM kek WHERE length(wrapped) > 0) + (SELECT COUNT(*) FROM signing_key)",
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(failed(attempted))?;
    let as_read = removed.rows_affected() > 0
        && usize::try_from(all).is_ok_and(|all| all == keks.len() + signing_keys.len())
        && put_root(&mut *connection, &root).await?
        && replace_keks(&mut *connection, &keks).await?;
    if !as_read {
        return Ok(false);
    }
    for Replaced { old, new } in &signing_keys {
        let done = sqlx::query(
            "UPDATE signing_key SET root_version = $1, wrapped = $2 WHERE public = $3 AND wrapped = $4",
        )
        .bind(i64::from(new.root_version))
        .bind(new.wrapped.as_bytes())
        .bind(old.public.as_slice())
        .bind(old.wrapped.as_bytes())
        .execute(&mut *connection)
        .await
        .map_err(failed(attempted))?;
        if done.rows_affected() != 1 {
            return Ok(false);
        }
    }
    sqlx::query("INSERT INTO handover (version, wrapped) VALUES ($1, $2)")
        .bind(i64::from(handover.version))
        .bind(handover.wrapped.as_bytes())
        .execute(connection)
        .await
        .map_err(failed(attempted))?;
    Ok(true)
}

/// How many were as they were read.
pub(super) async fn rewrap(
    connection: &mut PgConnection,
    keys: &[Replaced<KeyRow>],
) -> Result<u64, Error> {
    let (mut ids, mut old, mut new, mut versions) = (vec![], vec![], vec![], vec![]);
    let (mut sources, mut numbers) = (vec![], vec![]);
    for key in keys {
        let (KeyBody::Wrapped(was), KeyBody::Wrapped(wrapped)) = (&key.old.body, &key.new.body)
        else {
            return Err(Error::damaged("a key to wrap anew without its body"));
        };
        ids.push(key.old.key_id.as_bytes().as_slice());
        old.push(was.as_bytes());
        new.push(wrapped.as_bytes());
        versions.push(i64::from(key.new.kek_version));
        sources.push(key.new.context.generation.sources.as_slice());
        numbers.push(i64::from(key.new.context.generation.number));
    }
    let done = sqlx::query(
        "UPDATE content_key SET wrapped = new.wrapped, kek_version = new.kek_version, \
         sources = new.sources, number = new.number \
         FROM unnest($1, $2, $3, $4, $5, $6) AS new (key_id, old, wrapped, kek_version, sources, number) \
         WHERE content_key.key_id = new.key_id AND content_key.wrapped = new.old",
    )
    .bind(ids)
    .bind(old)
    .bind(new)
    .bind(versions)
    .bind(sources)
    .bind(numbers)
    .execute(connection)
    .await
    .map_err(failed("keep what was wrapped anew"))?;
    Ok(done.rows_affected())
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Postgres, PgArguments>;

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
        .bind(i64::from(context.subsample_rule))
        .bind(context.generation.sources.as_slice())
        .bind(i64::from(context.generation.number))
        .bind(key.iv.as_bytes().as_slice())
        .bind(i64::from(key.kek_version))
        .bind(wrapped)
        .bind(seconds(key.created))
}

pub(super) async fn writes(connection: &mut PgConnection) -> Result<u64, Error> {
    let row = (sqlx::query("SELECT writes FROM marks")
        .fetch_one(connection)
        .await)
        .map_err(failed("count writes"))?;
    number(&row, "writes")
}

pub(super) async fn resume(
    connection: &mut PgConnection,
    node: [u8; 16],
    writes: u64,
    anchor: Head,
) -> Result<(), Error> {
    let attempted = "go on from here";
    sqlx::query("UPDATE marks SET writes = $1")
        .bind(seconds(writes))
        .execute(&mut *connection)
        .await
        .map_err(failed(attempted))?;
    sqlx::query(
        "INSERT INTO node (id, tombstones, seq, hash, bytes) VALUES ($1, 0, $2, $3, $4) \
         ON CONFLICT (id) DO UPDATE SET tombstones = 0, seq = excluded.seq, hash = excluded.hash, bytes = excluded.bytes",
    )
    .bind(node.as_slice())
    .bind(seconds(anchor.seq))
    .bind(anchor.hash.as_slice())
    .bind(seconds(anchor.bytes))
    .execute(connection)
    .await
    .map_err(failed(attempted))?;
    Ok(())
}

/// One column of rows, as an array.
fn column<'r, R, T>(rows: &'r [R], of: impl Fn(&'r R) -> T) -> Vec<T> {
    rows.iter().map(of).collect()
}
