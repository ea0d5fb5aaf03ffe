//! What the origin must remember: which content was seen under which identity, and which names it published.
//!
//! A source's identity leaves out most of its bytes, so two contents can share one. A key must not: the first
//! content of an identity has generation number 0, and every other gets a number of its own, for ever. Numbers
//! are given here, committed before the first byte that they decide is sent, and survive the cache and the
//! process.

use std::path::Path;
use std::time::Duration;

use keystore_types::AssetId;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Connection as _, Row as _};

use crate::storage::Stamp;

/// SHA-256 of a whole file.
pub type ContentDigest = [u8; 32];

/// The catalogue's database. Its methods run on the control runtime.
#[derive(Clone)]
pub struct Store {
    pool: SqlitePool,
}

/// What is known of a file that is about to be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is the content with this generation number, which is committed.
    Known(u32),
    /// Its identity or its place held something under another stat: it must be read in full first.
    Quarantined,
}

/// A sighting: a file of an asset, as it was when it was opened.
#[derive(Clone, Debug)]
pub struct Sighting<'a> {
    /// The asset.
    pub asset: &'a AssetId,
    /// The file's name in it.
    pub name: &'a str,
    /// The source identity.
    pub identity: [u8; 32],
    /// The stat under which it was read.
    pub stamp: Stamp,
}

impl Store {
    /// Opens the database in `state_dir`, making it if there is none.
    ///
    /// # Errors
    /// What SQLite says.
    pub async fn open(state_dir: &Path) -> Result<Self, sqlx::Error> {
        std::fs::create_dir_all(state_dir).map_err(sqlx::Error::Io)?;
        let options = SqliteConnectOptions::new()
            .filename(state_dir.join("catalogue.sqlite"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(10));
        // One connection: SQLite has one writer, and what is read here is read once per opened title.
        // A transaction that met a full disk may not have been rolled back: such a connection is not used again.
        let pool = SqlitePoolOptions::new()
            .before_acquire(|connection, _| {
                let clean = !connection.is_in_transaction();
                Box::pin(async move { Ok(clean) })
            })
            .max_connections(1)
            .connect_with(options)
            .await?;
        sqlx::migrate!("src/catalog/migrations").run(&pool).await?;
        Ok(Self { pool })
    }

    /// Where a file stands. A first sighting is recorded as content number 0 before this returns.
    ///
    /// # Errors
    /// What SQLite says.
    pub async fn sight(&self, sighting: &Sighting<'_>) -> Result<Standing, sqlx::Error> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let key = StampKey::of(&sighting.stamp);
        let seen = sqlx::query(
            "SELECT number FROM sighting WHERE asset = ? AND name = ? AND identity = ? AND inode = ? \
             AND length = ? AND modified = ? AND changed = ?",
        )
        .bind(sighting.asset.as_str())
        .bind(sighting.name)
        .bind(&sighting.identity[..])
        .bind(key.inode)
        .bind(key.length)
        .bind(&key.modified)
        .bind(&key.changed)
        .fetch_optional(&mut *transaction)
        .await?;
        if let Some(row) = seen {
            return Ok(Standing::Known(row.try_get("number")?));
        }
        let doubtful = sqlx::query(
            "SELECT 1 FROM content WHERE asset = ?1 AND identity = ?2 \
             UNION ALL SELECT 1 FROM sighting WHERE asset = ?1 AND name = ?3 AND inode = ?4 LIMIT 1",
        )
        .bind(sighting.asset.as_str())
        .bind(&sighting.identity[..])
        .bind(sighting.name)
        .bind(key.inode)
        .fetch_optional(&mut *transaction)
        .await?;
        if doubtful.is_some() {
            return Ok(Standing::Quarantined);
        }
        sqlx::query("INSERT INTO content (asset, identity, number) VALUES (?, ?, 0)")
            .bind(sighting.asset.as_str())
            .bind(&sighting.identity[..])
            .execute(&mut *transaction)
            .await?;
        record(&mut transaction, sighting, &key, 0).await?;
        transaction.commit().await?;
        Ok(Standing::Known(0))
    }

    /// Ends a quarantine: the file was read in full under its stat and has this digest. Content that was seen
    /// before keeps its number, any other gets the next.
    ///
    /// # Errors
    /// What SQLite says.
    pub async fn settle(
        &self,
        sighting: &Sighting<'_>,
        digest: ContentDigest,
    ) -> Result<u32, sqlx::Error> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let rows =
            sqlx::query("SELECT number, digest FROM content WHERE asset = ? AND identity = ?")
                .bind(sighting.asset.as_str())
                .bind(&sighting.identity[..])
                .fetch_all(&mut *transaction)
                .await?;
        let mut next = 0;
        let mut same = None;
        for row in rows {
            let number: u32 = row.try_get("number")?;
            if row.try_get::<Option<Vec<u8>>, _>("digest")?.as_deref() == Some(&digest[..]) {
                same = Some(number);
            }
            next = next.max(number.saturating_add(1));
        }
        let number = match same {
            Some(number) => number,
            None => {
                sqlx::query(
                    "INSERT INTO content (asset, identity, number, digest) VALUES (?, ?, ?, ?)",
                )
                .bind(sighting.asset.as_str())
                .bind(&sighting.identity[..])
                .bind(next)
                .bind(&digest[..])
                .execute(&mut *transaction)
                .await?;
                next
            }
        };
        record(
            &mut transaction,
            sighting,
            &StampKey::of(&sighting.stamp),
            number,
        )
        .await?;
        transaction.commit().await?;
        Ok(number)
    }

    /// Notes the digest of content that was taken up before it was read in full.
    ///
    /// # Errors
    /// What SQLite says.
    pub async fn learn(
        &self,
        sighting: &Sighting<'_>,
        number: u32,
        digest: ContentDigest,
    ) -> Result<(), sqlx::Error> {
        sqlx::query(
            "UPDATE content SET digest = ? WHERE asset = ? AND identity = ? AND number = ? AND digest IS NULL",
        )
        .bind(&digest[..])
        .bind(sighting.asset.as_str())
        .bind(&sighting.identity[..])
        .bind(number)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// The digest of a content, once it has been read in full.
    ///
    /// # Errors
    /// What SQLite says.
    pub async fn digest(
        &self,
        sighting: &Sighting<'_>,
        number: u32,
    ) -> Result<Option<Vec<u8>>, sqlx::Error> {
        let row = sqlx::query(
            "SELECT digest FROM content WHERE asset = ? AND identity = ? AND number = ?",
        )
        .bind(sighting.asset.as_str())
        .bind(&sighting.identity[..])
        .bind(number)
        .fetch_optional(&self.pool)
        .await?;
        row.map_or(Ok(None), |row| row.try_get("digest"))
    }

    /// Records revisions and media ids that manifests name from now on.
    ///
    /// # Errors
    /// What SQLite says.
    pub async fn publish(&self, asset: &AssetId, ids: &[String]) -> Result<(), sqlx::Error> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        for id in ids {
            sqlx::query("INSERT OR IGNORE INTO published (asset, id) VALUES (?, ?)")
                .bind(asset.as_str())
                .bind(id)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await
    }

    /// Whether this revision or media id was ever published: the difference between gone and never there.
    ///
    /// # Errors
    /// What SQLite says.
    pub async fn was_published(&self, asset: &AssetId, id: &str) -> Result<bool, sqlx::Error> {
        let row = sqlx::query("SELECT 1 FROM published WHERE asset = ? AND id = ?")
            .bind(asset.as_str())
            .bind(id)
            .fetch_optional(&self.pool)
            .await?;
        Ok(row.is_some())
    }
}

/// A stamp as it is kept. The device number is left out, since it may differ after each boot.
struct StampKey {
    inode: i64,
    length: i64,
    modified: String,
    changed: String,
}

impl StampKey {
    fn of(stamp: &Stamp) -> Self {
        Self {
            inode: stamp.inode.cast_signed(),
            length: stamp.len.cast_signed(),
            modified: stamp.modified_ns.to_string(),
            changed: stamp.changed_ns.to_string(),
        }
    }
}

async fn record(
    transaction: &mut sqlx::Transaction<'_, sqlx::Sqlite>,
    sighting: &Sighting<'_>,
    key: &StampKey,
    number: u32,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT OR REPLACE INTO sighting (asset, name, identity, inode, length, modified, changed, number) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(sighting.asset.as_str())
    .bind(sighting.name)
    .bind(&sighting.identity[..])
    .bind(key.inode)
    .bind(key.length)
    .bind(&key.modified)
    .bind(&key.changed)
    .bind(number)
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(inode: u64, modified_ns: i128) -> Stamp {
        Stamp {
            device: 1,
            inode,
            len: 100,
            modified_ns,
            changed_ns: modified_ns,
            links: 1,
        }
    }

    fn sighting(asset: &AssetId, identity: u8, stamp: Stamp) -> Sighting<'_> {
        Sighting {
            asset,
            name: "film",
            identity: [identity; 32],
            stamp,
        }
    }

    async fn store() -> (tempfile::TempDir, Store, AssetId) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        (folder, store, "film".parse().unwrap())
    }

    #[tokio::test]
    async fn the_first_content_of_an_identity_is_number_0_and_stays_it() {
        let (folder, store, asset) = store().await;
        let first = sighting(&asset, 1, stamp(5, 1));
        assert_eq!(store.sight(&first).await.unwrap(), Standing::Known(0));
        assert_eq!(store.sight(&first).await.unwrap(), Standing::Known(0));
        drop(store);
        let store = Store::open(folder.path()).await.unwrap();
        assert_eq!(store.sight(&first).await.unwrap(), Standing::Known(0));
    }

    #[tokio::test]
    async fn an_overwrite_in_place_is_quarantined_and_renumbered() {
        let (_folder, store, asset) = store().await;
        store
            .sight(&sighting(&asset, 1, stamp(5, 1)))
            .await
            .unwrap();
        store
            .learn(&sighting(&asset, 1, stamp(5, 1)), 0, [1; 32])
            .await
            .unwrap();
        let written = sighting(&asset, 1, stamp(5, 2));
        assert_eq!(store.sight(&written).await.unwrap(), Standing::Quarantined);
        assert_eq!(store.settle(&written, [2; 32]).await.unwrap(), 1);
        assert_eq!(store.sight(&written).await.unwrap(), Standing::Known(1));
        let restored = sighting(&asset, 1, stamp(6, 3));
        assert_eq!(store.sight(&restored).await.unwrap(), Standing::Quarantined);
        assert_eq!(
            store.settle(&restored, [1; 32]).await.unwrap(),
            0,
            "the first content is back"
        );
    }

    #[tokio::test]
    async fn an_overwrite_before_the_digest_was_known_counts_as_other_content() {
        let (_folder, store, asset) = store().await;
        store
            .sight(&sighting(&asset, 1, stamp(5, 1)))
            .await
            .unwrap();
        let touched = sighting(&asset, 1, stamp(5, 2));
        assert_eq!(store.sight(&touched).await.unwrap(), Standing::Quarantined);
        assert_eq!(store.settle(&touched, [1; 32]).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn an_overwrite_in_place_with_another_identity_is_quarantined_too() {
        let (_folder, store, asset) = store().await;
        store
            .sight(&sighting(&asset, 1, stamp(5, 1)))
            .await
            .unwrap();
        let other = sighting(&asset, 2, stamp(5, 2));
        assert_eq!(store.sight(&other).await.unwrap(), Standing::Quarantined);
        assert_eq!(
            store.settle(&other, [7; 32]).await.unwrap(),
            0,
            "its identity had no content yet"
        );
    }

    #[tokio::test]
    async fn published_names_are_remembered() {
        let (_folder, store, asset) = store().await;
        store.publish(&asset, &["abc".to_owned()]).await.unwrap();
        assert!(store.was_published(&asset, "abc").await.unwrap());
        assert!(!store.was_published(&asset, "abd").await.unwrap());
    }
}
