//! Records as either database has them: what is asked for in the same words, and how a row is read.

use keystore_types::{ConstantIv, Generation, KeyContext, KeyId, Label, Scheme};
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{ColumnIndex, Decode, Row, Type};

use super::{KekRow, KeyBody, KeyRow, RootRow, Signed, SigningKeyRow};
use crate::audit::Head;
use crate::error::Error;
use crate::seal::Wrapped;
use crate::unlock::{SealedRoot, method_of};

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
    "WHERE tenant = $1 AND asset = $2 AND label = $3 AND scheme = $4 AND subsample_rule = $5 AND sources = $6 \
     AND number = $7 AND destroyed IS NULL"
);

pub(super) const KEY_BY_ID: &str = select_keys!("WHERE key_id = $1");

pub(super) const KEYS_OF_ASSET: &str = select_keys!(
    "WHERE tenant = $1 AND asset = $2 AND ($3 OR number < $4) AND destroyed IS NULL ORDER BY key_id LIMIT $5"
);

pub(super) const PAGE: &str = select_keys!(
    "WHERE key_id > $1 AND ($2 IS NULL OR asset = $2) AND (destroyed IS NULL OR NOT $3) \
     ORDER BY key_id LIMIT $4"
);

pub(super) const KEYS_BELOW: &str = select_keys!(
    "WHERE tenant = $1 AND kek_version < $2 AND (kek_version, key_id) > ($3, $4) AND destroyed IS NULL \
     ORDER BY kek_version, key_id LIMIT $5"
);

/// Under the tenant's newest KEK only: what is put under an older one would be missed by the rotation under way.
pub(super) const PUT_KEY: &str = "INSERT INTO content_key (key_id, tenant, asset, label, scheme, subsample_rule, sources, \
    number, iv, kek_version, wrapped, created) SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12 \
    WHERE $10 = (SELECT MAX(version) FROM kek WHERE tenant = $2 AND length(wrapped) > 0) ON CONFLICT DO NOTHING";

pub(super) const RESTORE_KEY: &str = "INSERT INTO content_key (key_id, tenant, asset, label, scheme, subsample_rule, sources, \
    number, iv, kek_version, wrapped, created, destroyed) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";

/// Erases a tenant's keys.
pub(super) const ERASE_KEYS: &str =
    "UPDATE content_key SET wrapped = NULL, destroyed = $2 WHERE tenant = $1 AND destroyed IS NULL";

/// A tenant that never had a KEK gets one without its body, so that it never will.
pub(super) const BAR_TENANT: &str = "INSERT INTO kek (tenant, version, root_version, wrapped, created) \
    VALUES ($1, 1, 1, $3, $2) ON CONFLICT DO NOTHING";

pub(super) const EMPTY_KEKS: &str = "UPDATE kek SET wrapped = $2 WHERE tenant = $1";

/// What is left of a KEK that was destroyed.
pub(super) const NO_BODY: &[u8] = &[];

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
    "WHERE tenant = $1 AND ($2 IS NULL OR version = $2) ORDER BY version DESC LIMIT 1"
);

pub(super) const KEKS: &str = select_keks!("WHERE length(wrapped) > 0 ORDER BY tenant, version");

pub(super) const ALL_KEKS: &str = select_keks!("ORDER BY tenant, version");

pub(super) const REPLACE_KEK: &str = "UPDATE kek SET floor = $1, root_version = $2, wrapped = $3 \
    WHERE tenant = $4 AND version = $5 AND wrapped = $6";

/// Unless the root that wraps it is no longer the newest.
pub(super) const PUT_KEK: &str = "INSERT INTO kek (tenant, version, floor, root_version, wrapped, created) \
    SELECT $1, $2, $3, $4, $5, $6 WHERE $4 = (SELECT MAX(version) FROM root_seal) ON CONFLICT DO NOTHING";

pub(super) const RESTORE_KEK: &str = "INSERT INTO kek (tenant, version, floor, root_version, wrapped, created) \
    VALUES ($1, $2, $3, $4, $5, $6)";

/// Whether a tenant's newest KEK is `$2`, and no usable key is under a version below `$3`.
pub(super) const FLOOR_IS_FREE: &str = "SELECT NOT EXISTS (SELECT 1 FROM kek WHERE tenant = $1 AND version > $2) \
    AND NOT EXISTS (SELECT 1 FROM content_key WHERE tenant = $1 AND kek_version < $3 AND destroyed IS NULL)";

pub(super) const STALE: &str = "SELECT COUNT(*) AS stale \
    FROM (SELECT tenant, MAX(version) AS newest FROM kek GROUP BY tenant) AS kek \
    JOIN content_key ON content_key.tenant = kek.tenant AND kek_version < newest WHERE destroyed IS NULL";

pub(super) const COUNTS: &str = "SELECT COUNT(*) FILTER (WHERE destroyed IS NULL) AS usable, \
    COUNT(destroyed) AS destroyed FROM content_key";

pub(super) const ROOT: &str = "SELECT version, method, parameters, wrapped, commitment, created FROM root_seal ORDER BY method";

pub(super) const PUT_ROOT: &str = "INSERT INTO root_seal (version, method, parameters, wrapped, commitment, created) \
    VALUES ($1, $2, $3, $4, $5, $6)";

/// A row of either database. Columns hold integers, texts or bytes.
pub(super) trait Record {
    fn integer(&self, name: &'static str) -> Result<Option<i64>, Error>;
    fn text(&self, name: &'static str) -> Result<String, Error>;
    fn blob(&self, name: &'static str) -> Result<Option<Vec<u8>>, Error>;
}

impl Record for SqliteRow {
    fn integer(&self, name: &'static str) -> Result<Option<i64>, Error> {
        column(self, name)
    }

    fn text(&self, name: &'static str) -> Result<String, Error> {
        column(self, name)
    }

    fn blob(&self, name: &'static str) -> Result<Option<Vec<u8>>, Error> {
        column(self, name)
    }
}

impl Record for PgRow {
    fn integer(&self, name: &'static str) -> Result<Option<i64>, Error> {
        column(self, name)
    }

    fn text(&self, name: &'static str) -> Result<String, Error> {
        column(self, name)
    }

    fn blob(&self, name: &'static str) -> Result<Option<Vec<u8>>, Error> {
        column(self, name)
    }
}

fn column<'r, R, T>(row: &'r R, name: &'static str) -> Result<T, Error>
where
    R: Row,
    &'static str: ColumnIndex<R>,
    T: Decode<'r, R::Database> + Type<R::Database>,
{
    row.try_get(name).map_err(|_| unreadable(name))
}

/// The rows that [`ROOT`] finds.
pub(super) fn root_row(rows: &[impl Record]) -> Result<Option<RootRow>, Error> {
    let Some(first) = rows.first() else {
        return Ok(None);
    };
    let version = number(first, "version")?;
    let mut sealed = Vec::with_capacity(rows.len());
    for row in rows {
        if number::<u32>(row, "version")? != version {
            return Err(unreadable("version"));
        }
        let method = row.text("method")?;
        sealed.push(SealedRoot {
            method: method_of(&method).ok_or_else(|| unreadable("method"))?,
            parameters: all_bytes(row, "parameters")?,
            wrapped: wrapped(row)?,
            commitment: (row.blob("commitment")?.map(TryInto::try_into).transpose())
                .map_err(|_| unreadable("commitment"))?,
        });
    }
    Ok(Some(RootRow {
        version,
        sealed,
        created: number(first, "created")?,
    }))
}

pub(super) fn signing_key_row(row: &impl Record) -> Result<SigningKeyRow, Error> {
    let purpose = row.text("purpose")?;
    Ok(SigningKeyRow {
        signs: (Signed::ALL.into_iter())
            .find(|signed| signed.as_str() == purpose)
            .ok_or_else(|| unreadable("purpose"))?,
        public: bytes(row, "public")?,
        root_version: number(row, "root_version")?,
        wrapped: wrapped(row)?,
        created: number(row, "created")?,
    })
}

pub(super) fn kek_row(row: &impl Record) -> Result<KekRow, Error> {
    Ok(KekRow {
        tenant: row.text("tenant")?,
        version: number(row, "version")?,
        floor: (row.integer("floor")?)
            .map(|floor| u32::try_from(floor).map_err(|_| unreadable("floor")))
            .transpose()?,
        root_version: number(row, "root_version")?,
        wrapped: wrapped(row)?,
        created: number(row, "created")?,
    })
}

pub(super) fn key_row(row: &impl Record) -> Result<KeyRow, Error> {
    let label = row.text("label")?;
    let scheme = row.text("scheme")?;
    Ok(KeyRow {
        key_id: KeyId::new(bytes(row, "key_id")?),
        context: KeyContext {
            tenant: row.text("tenant")?,
            asset: (row.text("asset")?.try_into()).map_err(|_| unreadable("asset"))?,
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
        body: match row.blob("wrapped")? {
            Some(wrapped) => KeyBody::Wrapped(Wrapped::from_stored(wrapped)),
            None => KeyBody::Destroyed(number(row, "destroyed")?),
        },
        created: number(row, "created")?,
    })
}

pub(super) fn head_row(row: &impl Record) -> Result<Head, Error> {
    Ok(Head {
        seq: number(row, "seq")?,
        hash: bytes(row, "hash")?,
        bytes: number(row, "bytes")?,
    })
}

pub(super) fn wrapped(row: &impl Record) -> Result<Wrapped, Error> {
    all_bytes(row, "wrapped").map(Wrapped::from_stored)
}

pub(super) fn number<T: TryFrom<i64>>(row: &impl Record, name: &'static str) -> Result<T, Error> {
    let number = row.integer(name)?.ok_or_else(|| unreadable(name))?;
    number.try_into().map_err(|_| unreadable(name))
}

fn bytes<const N: usize>(row: &impl Record, name: &'static str) -> Result<[u8; N], Error> {
    all_bytes(row, name)?
        .try_into()
        .map_err(|_| unreadable(name))
}

fn all_bytes(row: &impl Record, name: &'static str) -> Result<Vec<u8>, Error> {
    row.blob(name)?.ok_or_else(|| unreadable(name))
}

fn unreadable(name: &'static str) -> Error {
    Error::damaged(format!("a stored record's {name} is not one"))
}

/// The databases' integers are signed; no clock and no count of ours reaches their end.
pub(super) fn seconds(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn failed(attempted: &'static str) -> impl Fn(sqlx::Error) -> Error {
    move |error| Error::unavailable(format!("cannot {attempted}"), error)
}
