//! One licence server's own store: SQLite with a write-ahead log.
//!
//! One task writes. Whatever waits for it is done in one transaction with one sync, so that the disk's pace bounds how
//! long a licence waits and not how many there are. Another connection reads. What was answered is on disk.
//!
//! Only their owner reads the files. Pages are zeroed as their contents go (`secure_delete`), and each sweep empties the
//! write-ahead log, which holds pages as they were: events name their viewer, and are gone from the disk with the sweep
//! after they were heard.

use std::ffi::OsString;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, ErrorKind as Io};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, QueryBuilder, Row as _};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::timeout;

use super::rows::{self, Record as _, rows, seconds};
use super::thread::Thread;
use super::{
    Change, Claim, Device, Event, Revocation, Room, STREAMS_SWEPT_AT_ONCE, SWEPT_AT_ONCE, Store,
    Stored, Stream, Taken, Verdict, Viewer, failed, lost, too_new,
};
use crate::{Error, UnixTime};

/// Its name in the role's state folder.
pub const FILE_NAME: &str = "sessions.db";

/// Each brings the schema from one version to the next; `PRAGMA user_version` counts those done.
const MIGRATIONS: [&str; 2] = [
    include_str!("migrations/sqlite_0001_initial.sql"),
    include_str!("migrations/sqlite_0002_claims.sql"),
];

/// The most that may wait to be written. Beyond it licences are refused rather than kept waiting.
const MAX_WAITING: usize = 4096;

/// The most that one transaction takes.
const MAX_BATCH: usize = 512;

const SWEEPS: [&str; 3] = [
    "DELETE FROM used_token WHERE token IN (SELECT token FROM used_token WHERE until <= $1 LIMIT $2)",
    "DELETE FROM device WHERE (viewer, device) IN (SELECT viewer, device FROM device WHERE until <= $1 LIMIT $2)",
    "DELETE FROM revocation WHERE (kind, issuer, name) IN \
     (SELECT kind, issuer, name FROM revocation WHERE until <= $1 LIMIT $2)",
];

const SWEEP_STREAMS: &str = "DELETE FROM stream WHERE (viewer, session) IN (SELECT viewer, session FROM stream WHERE until <= $1 LIMIT $2) RETURNING viewer, session, claim, until, told";

/// So old an event is one that nobody will take.
const SWEEP_EVENTS: &str =
    "DELETE FROM event WHERE id IN (SELECT id FROM event WHERE made <= $1 - 604800 LIMIT $2)";

/// A SQLite database.
#[derive(Debug)]
pub struct Sqlite {
    writer: mpsc::Sender<Write>,
    reader: Arc<Mutex<SqliteConnection>>,
    _thread: Thread,
}

/// Something to be written, and who waits for it.
enum Write {
    Admit(Box<Claim>, Reply<(Verdict, Taken)>),
    Change(Change, Reply<u64>),
    Take(String, [UnixTime; 2], u32, Reply<Vec<Event>>),
}

type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// A reply that waits for the commit.
type Pending = Box<dyn FnOnce(Result<(), String>) + Send>;

impl Sqlite {
    /// Opens the database, makes it where there is none, and brings its schema up to date. `capacity` is the most rows
    /// of each kind.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unsupported`] when a newer version has written it; a file that cannot be kept from others; those
    /// of the database.
    pub fn open(path: &Path, capacity: u64) -> Result<Self, Error> {
        keep_private(path).map_err(|error| {
            let attempted = format!("let only its owner read {}", path.display());
            Error::unavailable(attempted, error)
        })?;
        let thread = Thread::start("license-store")?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .pragma("secure_delete", "ON")
            .disable_statement_logging();
        let room = Room::new(capacity);
        let opened = thread.wait_for(async move {
            let mut writer = connect(&options).await?;
            migrate(&mut writer).await?;
            room.counted(count(&mut writer).await.map_err(failed("count the rows"))?);
            let reader = connect(&options.clone().read_only(true)).await?;
            let reader = Arc::new(Mutex::new(reader));
            let writer = Writer {
                options,
                connection: writer,
                reader: Arc::clone(&reader),
                room,
            };
            Ok((writer, reader))
        });
        let (mut writer, reader) = opened?;
        let (sender, mut queue) = mpsc::channel(MAX_WAITING);
        thread.start_task(async move {
            let mut batch = Vec::with_capacity(MAX_BATCH);
            while queue.recv_many(&mut batch, MAX_BATCH).await > 0 {
                writer.write(&mut batch).await;
            }
        });
        Ok(Self {
            writer: sender,
            reader,
            _thread: thread,
        })
    }

    async fn send<T>(
        &self,
        write: impl FnOnce(Reply<T>) -> Write,
        attempted: &'static str,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        (self.writer.try_send(write(reply))).map_err(|_| {
            Error::unavailable(format!("cannot {attempted}"), "too many wait for the store")
        })?;
        answer.await.unwrap_or_else(|_| {
            Err(Error::unavailable(
                format!("cannot {attempted}"),
                "the store has ended",
            ))
        })
    }
}

impl Store for Sqlite {
    fn admit(&self, claim: Claim) -> Stored<'_, (Verdict, Taken)> {
        Box::pin(self.send(move |reply| Write::Admit(Box::new(claim), reply), ADMIT))
    }

    fn change(&self, change: Change) -> Stored<'_, u64> {
        Box::pin(self.send(move |reply| Write::Change(change, reply), CHANGE))
    }

    fn streams(&self, viewer: Viewer, now: UnixTime) -> Stored<'_, Vec<Stream>> {
        Box::pin(async move {
            let mut reader = self.reader.lock().await;
            (streams(&mut reader, viewer, now).await).map_err(failed("list streams"))
        })
    }

    fn devices(&self, viewer: Viewer, now: UnixTime) -> Stored<'_, Vec<Device>> {
        Box::pin(async move {
            let mut reader = self.reader.lock().await;
            (devices(&mut reader, viewer, now).await).map_err(failed("list devices"))
        })
    }

    fn revocations(&self, now: UnixTime) -> Stored<'_, Vec<Revocation>> {
        Box::pin(async move {
            let mut reader = self.reader.lock().await;
            (revocations(&mut reader, now).await).map_err(failed("list revocations"))
        })
    }

    fn take_events(
        &self,
        hook: &str,
        now: UnixTime,
        again: UnixTime,
        limit: u32,
    ) -> Stored<'_, Vec<Event>> {
        let hook = hook.to_owned();
        let take = move |reply| Write::Take(hook, [now, again], limit, reply);
        Box::pin(self.send(take, TAKE))
    }
}

const ADMIT: &str = "take what the licence needs";
const CHANGE: &str = "change what is remembered of viewers";
const TAKE: &str = "take events";

/// How long the emptying of the log waits for a read of this process.
const READ: Duration = Duration::from_secs(1);

struct Writer {
    options: SqliteConnectOptions,
    connection: SqliteConnection,
    /// Held while the log is emptied, which a read under way would prevent.
    reader: Arc<Mutex<SqliteConnection>>,
    room: Room,
}

impl Writer {
    /// Does all of it in one transaction, or none of it.
    async fn write(&mut self, batch: &mut Vec<Write>) {
        let mut pending: Vec<Pending> = Vec::with_capacity(batch.len());
        let swept =
            (batch.iter()).any(|write| matches!(write, Write::Change(Change::Sweep { .. }, _)));
        let mut writes = batch.drain(..);
        let done = async {
            let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await?;
            for write in writes.by_ref() {
                pending.push(match write {
                    Write::Admit(claim, reply) => {
                        // Whoever does not wait any more takes nothing.
                        if reply.is_closed() {
                            continue;
                        }
                        answer(admit(&mut transaction, &claim, &self.room).await, reply)?
                    }
                    Write::Change(change_, reply) => {
                        answer(change(&mut transaction, &change_, &self.room).await, reply)?
                    }
                    Write::Take(hook, times, limit, reply) => answer(
                        take_events(&mut transaction, &hook, times, limit).await,
                        reply,
                    )?,
                });
            }
            transaction.commit().await
        };
        let done = done.await;
        if done.is_err() {
            // A full disk makes SQLite roll back unseen by the driver, which would take the transaction for open.
            match connect(&self.options).await {
                Ok(connection) => self.connection = connection,
                Err(error) => tracing::error!(%error, "the store's connection cannot be replaced"),
            }
        }
        let done = done.map_err(|error| error.to_string());
        if swept && done.is_ok() {
            // Who asked for the sweep may rely on it.
            if let Err(error) = self.empty_log().await {
                tracing::warn!(%error, "what is gone from the store stays in its write-ahead log until the next sweep");
            }
        }
        for pending in pending {
            pending(done.clone());
        }
        // Those that were not reached hear that the store failed them.
        drop(writes);
    }

    /// Writes the log's pages to the database and cuts the log to nothing. Where somebody reads for long, here or in another
    /// process, this does not wait for it, as licences would.
    async fn empty_log(&self) -> Result<(), Error> {
        let attempted = "empty the write-ahead log";
        let busy =
            || Error::unavailable(format!("cannot {attempted}"), "somebody reads the database");
        let Ok(_no_reads) = timeout(READ, self.reader.lock()).await else {
            return Err(busy());
        };
        let mut connection = connect(&self.options.clone().busy_timeout(Duration::ZERO)).await?;
        let row = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&mut connection);
        let kept: i64 = (row.await.and_then(|row| row.try_get(0))).map_err(failed(attempted))?;
        connection.close().await.map_err(failed(attempted))?;
        match kept {
            0 => Ok(()),
            _ => Err(busy()),
        }
    }
}

/// What to answer once it is known whether the transaction was kept. A fault ends the transaction, and is told to this
/// one at once.
fn answer<T: Send + 'static>(
    result: Result<T, sqlx::Error>,
    reply: Reply<T>,
) -> Result<Pending, sqlx::Error> {
    match result {
        Ok(value) => Ok(Box::new(move |kept| {
            let unkept = |error: String| Error::unavailable("cannot write to the store", error);
            let _ = reply.send(kept.map(|()| value).map_err(unkept));
        })),
        Err(error) => {
            let told = Error::unavailable("cannot write to the store", error.to_string());
            let _ = reply.send(Err(told));
            Err(error)
        }
    }
}

/// Makes the database where there is none, and has only its owner read it and what SQLite keeps beside it, to which SQLite
/// gives the database's mode when it makes them.
///
/// # Errors
/// Those of the file system.
fn keep_private(path: &Path) -> io::Result<()> {
    // Never opened where it is there: closing it would let go of the locks that this process has on it.
    let made = (OpenOptions::new().write(true).create_new(true).mode(0o600)).open(path);
    match made {
        Ok(_) => {}
        Err(error) if error.kind() == Io::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    for suffix in ["", "-wal", "-shm"] {
        let mut name = OsString::from(path);
        name.push(suffix);
        let name = Path::new(&name);
        match fs::metadata(name) {
            Ok(found) if found.permissions().mode() & 0o077 == 0 => {}
            Ok(_) => fs::set_permissions(name, Permissions::from_mode(0o600))?,
            Err(error) if error.kind() == Io::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn connect(options: &SqliteConnectOptions) -> Result<SqliteConnection, Error> {
    (options.connect().await).map_err(failed("open the licence server's database"))
}

async fn migrate(connection: &mut SqliteConnection) -> Result<(), Error> {
    let attempted = failed("bring the licence server's database up to date");
    let mut transaction = (connection.begin_with("BEGIN IMMEDIATE").await).map_err(&attempted)?;
    let version: i64 = sqlx::query_scalar("PRAGMA user_version")
        .fetch_one(&mut *transaction)
        .await
        .map_err(&attempted)?;
    let done = usize::try_from(version).unwrap_or(usize::MAX);
    let pending = (MIGRATIONS.get(done..)).ok_or_else(|| too_new(done, MIGRATIONS.len()))?;
    for migration in pending {
        (sqlx::raw_sql(*migration).execute(&mut *transaction).await).map_err(&attempted)?;
    }
    transaction.commit().await.map_err(&attempted)
}

rows!(SqliteConnection);
