//! Rows: what is asked of the database, and how records are read from it and written to it.

use keystore_types::{ConstantIv, Generation, KeyContext, KeyId, Label, Scheme};
use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqliteRow};
use sqlx::{Connection as _, Row as _};

use super::super::{KekRow, KeyBody, KeyRow, Replaced, RootRow, Signed, SigningKeyRow};
use crate::audit::Head;
use crate::error::{Error, ErrorKind};
use crate::seal::Wrapped;
use crate::unlock::{SealedRoot, method_of, scheme};

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

pub(super) const KEY_OF: &str = select_keys!(
    "WHERE tenant = ? AND asset = ? AND label = ? AND scheme = ? AND subsample_rule = ? AND sources = ? \
     AND number = ? AND destroyed IS NULL"
);

pub(super) const KEY_BY_ID: &str = select_keys!("WHERE key_id = ?");

pub(super) const PAGE: &str = select_keys!(
    "WHERE key_id > ?1 AND (?2 IS NULL OR asset = ?2) AND (destroyed IS NULL OR NOT ?3) \
     ORDER BY key_id LIMIT ?4"
);

pub(super) const KEYS_BELOW: &str = select_keys!(
    "WHERE tenant = ? AND kek_version < ? AND (kek_version, key_id) > (?, ?) AND destroyed IS NULL \
     ORDER BY kek_version, key_id LIMIT ?"
);

/// Under the tenant's newest KEK only: what is put under an older one would be missed by the rotation under way.
pub(super) const PUT_KEY: &str = "INSERT INTO content_key (key_id, tenant, asset, label, scheme, subsample_rule, sources, \
    number, iv, kek_version, wrapped, created) SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12 \
    WHERE ?10 = (SELECT MAX(version) FROM kek WHERE tenant = ?2 AND length(wrapped) > 0) ON CONFLICT DO NOTHING";

pub(super) const RESTORE_KEY: &str = "INSERT INTO content_key (key_id, tenant, asset, label, scheme, subsample_rule, sources, \
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

pub(super) const KEK: &str = select_keks!(
    "WHERE tenant = ?1 AND (?2 IS NULL OR version = ?2) ORDER BY version DESC LIMIT 1"
);

pub(super) const KEKS: &str = select_keks!("WHERE length(wrapped) > 0 ORDER BY tenant, version");

pub(super) const ALL_KEKS: &str = select_keks!("ORDER BY tenant, version");

pub(super) const REPLACE_KEK: &str = "UPDATE kek SET floor = ?1, root_version = ?2, wrapped = ?3 \
    WHERE tenant = ?4 AND version = ?5 AND wrapped = ?6";

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

pub(super) async fn root(connection: &mut SqliteConnection) -> Result<Option<RootRow>, Error> {
    let rows = sqlx::query(
        "SELECT version, method, parameters, wrapped, commitment, created FROM root_seal \
         ORDER BY method",
    )
    .fetch_all(connection)
    .await
    .map_err(failed("read the root"))?;
    let Some(first) = rows.first() else {
        return Ok(None);
    };
    let version = number(first, "version")?;
    let mut sealed = Vec::with_capacity(rows.len());
    for row in &rows {
        if number::<u32>(row, "version")? != version {
            return Err(unreadable("version"));
        }
        sealed.push(sealed_root(row)?);
    }
    Ok(Some(RootRow {
        version,
        sealed,
        created: number(first, "created")?,
    }))
}

fn sealed_root(row: &SqliteRow) -> Result<SealedRoot, Error> {
    let method: String = column(row, "method")?;
    let commitment: Option<Vec<u8>> = column(row, "commitment")?;
    Ok(SealedRoot {
        method: method_of(&method).ok_or_else(|| unreadable("method"))?,
        parameters: column(row, "parameters")?,
        wrapped: Wrapped::from_stored(column(row, "wrapped")?),
        commitment: (commitment.map(TryInto::try_into).transpose())
            .map_err(|_| unreadable("commitment"))?,
    })
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
        sqlx::query(
            "INSERT INTO root_seal (version, method, parameters, wrapped, commitment, created) \
             VALUES (?, ?, ?, ?, ?, ?)",
        )
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

pub(super) fn kek_row(row: &SqliteRow) -> Result<KekRow, Error> {
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

pub(super) fn key_row(row: &SqliteRow) -> Result<KeyRow, Error> {
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

pub(super) fn column<'r, T>(row: &'r SqliteRow, name: &'static str) -> Result<T, Error>
where
    T: sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
{
    row.try_get(name).map_err(|_| unreadable(name))
}

pub(super) fn number<T: TryFrom<i64>>(row: &SqliteRow, name: &'static str) -> Result<T, Error> {
    column::<i64>(row, name)?
        .try_into()
        .map_err(|_| unreadable(name))
}

pub(super) fn bytes<const N: usize>(row: &SqliteRow, name: &'static str) -> Result<[u8; N], Error> {
    column::<Vec<u8>>(row, name)?
        .try_into()
        .map_err(|_| unreadable(name))
}

pub(super) fn unreadable(name: &'static str) -> Error {
    Error::damaged(format!("a stored record's {name} is not one"))
}

/// SQLite's integers are signed; no clock of ours reaches their end.
pub(super) fn seconds(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn failed(attempted: &'static str) -> impl Fn(sqlx::Error) -> Error {
    move |error| Error::unavailable(format!("cannot {attempted}"), error)
}
