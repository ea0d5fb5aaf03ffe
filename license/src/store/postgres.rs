//! The shared store: PostgreSQL, which several licence servers use.
//!
//! Whoever takes something for a viewer first takes that viewer's advisory lock, which the end of the transaction gives
//! back: what is counted stays so until it is written. Leases are in an unlogged table and their commits wait for no
//! disk; a commit that uses a token up or adds a device does.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use conf::{PostgresHost, PostgresSettings};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, QueryBuilder};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::rows::{self, Record as _, rows, seconds};
use super::thread::Thread;
use super::{
    Change, Claim, Device, Event, Revocation, Room, STREAMS_SWEPT_AT_ONCE, SWEPT_AT_ONCE, Store,
    Stored, Stream, Taken, Verdict, Viewer, failed, lost, too_new,
};
use crate::{Error, ErrorKind, UnixTime};

/// Each brings the tables from one version to the next; `migration` lists those done.
const MIGRATIONS: [&str; 2] = [
    include_str!("migrations/postgres_0001_initial.sql"),
    include_str!("migrations/postgres_0002_claims.sql"),
];

/// Where the tables are.
const SCHEMA: &str = "license";

/// The lock that nodes take to change the tables: `castlice` in ASCII. A viewer's lock could be the same number, which
/// would make somebody wait and no more.
const MIGRATION_LOCK: i64 = 0x6361_7374_6c69_6365;

/// How long nobody asks a database that did not answer: calls fail at once instead of each waiting for it.
const REST: Duration = Duration::from_secs(1);

/// `ctid` keeps a row that somebody renews meanwhile: the condition is asked again of the row as it is then.
const SWEEPS: [&str; 3] = [
    "DELETE FROM used_token WHERE until <= $1 AND ctid = ANY (ARRAY(SELECT ctid FROM used_token WHERE until <= $1 LIMIT $2))",
    "DELETE FROM device WHERE until <= $1 AND ctid = ANY (ARRAY(SELECT ctid FROM device WHERE until <= $1 LIMIT $2))",
    "DELETE FROM revocation WHERE until <= $1 AND ctid = ANY (ARRAY(SELECT ctid FROM revocation WHERE until <= $1 LIMIT $2))",
];

const SWEEP_STREAMS: &str = "DELETE FROM stream WHERE until <= $1 AND ctid = ANY (ARRAY(SELECT ctid FROM stream WHERE until <= $1 LIMIT $2)) RETURNING viewer, session, claim, until, told";

/// So old an event is one that nobody will take.
const SWEEP_EVENTS: &str = "DELETE FROM event WHERE ctid = ANY (ARRAY(SELECT ctid FROM event WHERE made <= $1 - 604800 LIMIT $2))";

/// A PostgreSQL database, as one node uses it.
#[derive(Debug)]
pub struct Postgres {
    link: Arc<Link>,
    thread: Thread,
}

#[derive(Debug)]
struct Link {
    settings: PostgresSettings,
    idle: Mutex<Vec<PgConnection>>,
    places: Arc<Semaphore>,
    /// When it last did not answer.
    down: Mutex<Option<Instant>>,
    /// Whether the tables were found to be in order.
    prepared: AtomicBool,
    room: Room,
}

impl Postgres {
    /// Reaches for the database and brings its tables up to date. Where it does not answer, it is reached for again when
    /// something is asked of it. `capacity` is the most rows of each kind.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when a newer version has written it.
    pub fn open(settings: &PostgresSettings, capacity: u64) -> Result<Self, Error> {
        let thread = Thread::start("license-store")?;
        let link = Arc::new(Link {
            settings: settings.clone(),
            idle: Mutex::default(),
            places: Arc::new(Semaphore::new(settings.connections)),
            down: Mutex::default(),
            prepared: AtomicBool::new(false),
            room: Room::new(capacity),
        });
        let reached = {
            let link = Arc::clone(&link);
            thread.wait_for(async move {
                link.timed("open the database", async {
                    let lent = link.lent().await?;
                    link.done(lent);
                    Ok(())
                })
                .await
            })
        };
        match reached {
            Err(error) if error.kind() == ErrorKind::Unsupported => return Err(error),
            Err(error) => tracing::error!(%error, "the licence server's database is not there yet"),
            Ok(()) => {}
        }
        Ok(Self { link, thread })
    }

    /// Does it on the store's thread, within the time that the settings give.
    async fn call<T, F>(
        &self,
        attempted: &'static str,
        work: impl FnOnce(Arc<Link>) -> F + Send,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let link = Arc::clone(&self.link);
        let work = work(Arc::clone(&link));
        (self.thread)
            .run(async move { link.timed(attempted, work).await })
            .await
    }
}

impl Store for Postgres {
    fn admit(&self, claim: Claim) -> Stored<'_, (Verdict, Taken)> {
        let attempted = "take what the licence needs";
        Box::pin(self.call(attempted, async move |link: Arc<Link>| {
            let mut lent = link.lent().await?;
            // What may be lost in a crash is a lease; a token that was used and a new device are not.
            let durable = claim.token.is_some() || claim.device.is_some();
            let commit = if durable { "on" } else { "off" };
            let [a, b, c, d, e, f, g, h, ..] = *claim.viewer.as_bytes();
            let lock = i64::from_be_bytes([a, b, c, d, e, f, g, h]);
            let begin = AssertSqlSafe(format!(
                "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL synchronous_commit TO {commit}; \
                 SELECT pg_advisory_xact_lock({lock})"
            ));
            (sqlx::raw_sql(begin).execute(&mut *lent).await).map_err(failed(attempted))?;
            let admitted = admit(&mut lent, &claim, &link.room).await;
            let (verdict, taken) = admitted.map_err(failed(attempted))?;
            let begins = (claim.stream.as_ref()).is_some_and(|stream| !stream.events.is_empty());
            let end = match verdict {
                // What is told is not lost either.
                Verdict::Granted {
                    new_stream: true, ..
                } if begins => "SET LOCAL synchronous_commit TO on; COMMIT",
                Verdict::Granted { .. } => "COMMIT",
                Verdict::Replayed
                | Verdict::DeviceLimit
                | Verdict::StreamLimit(_)
                | Verdict::Full => "ROLLBACK",
            };
            (sqlx::raw_sql(end).execute(&mut *lent).await).map_err(failed(attempted))?;
            link.done(lent);
            Ok((verdict, taken))
        }))
    }

    fn change(&self, wanted: Change) -> Stored<'_, u64> {
        let attempted = "change what is remembered of viewers";
        Box::pin(self.call(attempted, async move |link: Arc<Link>| {
            let mut lent = link.lent().await?;
            let mut transaction = lent.begin().await.map_err(failed(attempted))?;
            let count = change(&mut transaction, &wanted, &link.room).await;
            let count = count.map_err(failed(attempted))?;
            transaction.commit().await.map_err(failed(attempted))?;
            link.done(lent);
            Ok(count)
        }))
    }

    fn streams(&self, viewer: Viewer, now: UnixTime) -> Stored<'_, Vec<Stream>> {
        let attempted = "list streams";
        Box::pin(self.call(attempted, async move |link: Arc<Link>| {
            let mut lent = link.lent().await?;
            let found = streams(&mut lent, viewer, now).await;
            let found = found.map_err(failed(attempted))?;
            link.done(lent);
            Ok(found)
        }))
    }

    fn devices(&self, viewer: Viewer, now: UnixTime) -> Stored<'_, Vec<Device>> {
        let attempted = "list devices";
        Box::pin(self.call(attempted, async move |link: Arc<Link>| {
            let mut lent = link.lent().await?;
            let found = devices(&mut lent, viewer, now).await;
            let found = found.map_err(failed(attempted))?;
            link.done(lent);
            Ok(found)
        }))
    }

    fn revocations(&self, now: UnixTime) -> Stored<'_, Vec<Revocation>> {
        let attempted = "list revocations";
        Box::pin(self.call(attempted, async move |link: Arc<Link>| {
            let mut lent = link.lent().await?;
            let found = revocations(&mut lent, now).await;
            let found = found.map_err(failed(attempted))?;
            link.done(lent);
            Ok(found)
        }))
    }

    fn take_events(
        &self,
        hook: &str,
        now: UnixTime,
        again: UnixTime,
        limit: u32,
    ) -> Stored<'_, Vec<Event>> {
        let attempted = "take events";
        let hook = hook.to_owned();
        Box::pin(self.call(attempted, async move |link: Arc<Link>| {
            let mut lent = link.lent().await?;
            let taken = take_events(&mut lent, &hook, [now, again], limit).await;
            let taken = taken.map_err(failed(attempted))?;
            link.done(lent);
            Ok(taken)
        }))
    }
}

/// Whether the database is at fault, or the way to it, and not what was asked of it. One that answers is there, unless it
/// says that it takes no connection, has no resources, or gave up a statement (classes 08, 28, 3D, 53 and 57 of the
/// SQLSTATEs, PostgreSQL appendix A): a value of one viewer that it refuses is not to stop the others.
fn is_down(error: &Error) -> bool {
    match error.cause() {
        Some(sqlx::Error::Database(fault)) => fault.code().is_none_or(|code| {
            let classes = ["08", "28", "3D", "53", "57"];
            classes.iter().any(|class| code.starts_with(class))
        }),
        Some(sqlx::Error::Encode(_)) => false,
        Some(_) | None => true,
    }
}

/// A connection that nobody else uses meanwhile. Dropped, it is closed: nothing of a call that failed or was given up is
/// left in it.
struct Lent {
    connection: PgConnection,
    _place: OwnedSemaphorePermit,
}

impl Link {
    async fn timed<T>(
        &self,
        attempted: &'static str,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        if (self.down().as_ref()).is_some_and(|since| since.elapsed() < REST) {
            let why = "the database did not answer a moment ago";
            return Err(Error::unavailable(format!("cannot {attempted}"), why));
        }
        // The server gives up a statement first, and says why.
        let patience = self.settings.timeout + self.settings.timeout / 4;
        let result = (timeout(patience, work).await).unwrap_or_else(|_| {
            let why = format!("the database did not answer within {patience:?}");
            Err(Error::unavailable(format!("cannot {attempted}"), why))
        });
        let fault = result.as_ref().err().filter(|error| is_down(error));
        let was_down = match fault {
            None => self.down().take().is_some(),
            Some(_) => self.down().replace(Instant::now()).is_some(),
        };
        match fault {
            None if was_down => tracing::info!("the licence server's database is in use again"),
            None => {}
            Some(error) => {
                // Whatever else is open leads to the same place.
                self.idle().clear();
                if !was_down {
                    tracing::error!(%error, "the licence server's database fails");
                }
            }
        }
        metrics::gauge!("castellum_license_store_up").set(f64::from(u8::from(fault.is_none())));
        result
    }

    async fn lent(&self) -> Result<Lent, Error> {
        let place = Arc::clone(&self.places).acquire_owned().await;
        let place = place.map_err(|error| Error::internal("wait for a connection", error))?;
        let idle = self.idle().pop();
        let connection = match idle {
            Some(connection) => connection,
            None => {
                let mut connection = self.connect().await?;
                if !self.prepared.load(Ordering::Acquire) {
                    migrate(&mut connection).await?;
                    let counts = count(&mut connection).await;
                    self.room.counted(counts.map_err(failed("count the rows"))?);
                    self.prepared.store(true, Ordering::Release);
                }
                check_version(&mut connection).await?;
                connection
            }
        };
        Ok(Lent {
            connection,
            _place: place,
        })
    }

    /// Gives it back, for the next call.
    fn done(&self, lent: Lent) {
        self.idle().push(lent.connection);
    }

    /// Connects as the settings say; the password is read anew, so that it can be changed.
    async fn connect(&self) -> Result<PgConnection, Error> {
        let settings = &self.settings;
        let patience = settings.timeout.as_millis().to_string();
        let options = PgConnectOptions::new_without_pgpass()
            .application_name("castellum-license")
            .username(&settings.user)
            .database(&settings.database)
            .disable_statement_logging()
            .options([
                ("search_path", SCHEMA),
                ("statement_timeout", patience.as_str()),
                ("idle_in_transaction_session_timeout", patience.as_str()),
            ]);
        let mut options = match &settings.host {
            PostgresHost::Socket(folder) => options.socket(folder).ssl_mode(PgSslMode::Disable),
            PostgresHost::Tcp { host, port } => {
                let options = options.host(host).port(*port);
                options.ssl_mode(PgSslMode::VerifyFull)
            }
        };
        if let (PostgresHost::Tcp { .. }, Some(ca_file)) = (&settings.host, &settings.ca_file) {
            options = options.ssl_root_cert(ca_file);
        }
        if let Some(source) = &settings.password {
            let cannot = || format!("use the database's password, {source}");
            let line = (source.read_line()).map_err(|error| Error::unavailable(cannot(), error))?;
            let text =
                str::from_utf8(&line).map_err(|error| Error::unavailable(cannot(), error))?;
            options = options.password(text);
        }
        (options.connect().await).map_err(failed("connect to the database"))
    }

    fn idle(&self) -> MutexGuard<'_, Vec<PgConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn down(&self) -> MutexGuard<'_, Option<Instant>> {
        self.down.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deref for Lent {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

/// Brings the tables up to date, one node at a time.
async fn migrate(connection: &mut PgConnection) -> Result<(), Error> {
    let attempted = failed("bring the licence server's database up to date");
    let mut transaction = connection.begin().await.map_err(&attempted)?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(MIGRATION_LOCK)
        .execute(&mut *transaction)
        .await
        .map_err(&attempted)?;
    let made: bool = sqlx::query_scalar("SELECT to_regclass('migration') IS NOT NULL")
        .fetch_one(&mut *transaction)
        .await
        .map_err(&attempted)?;
    if !made {
        let make = "CREATE SCHEMA IF NOT EXISTS license; CREATE TABLE license.migration (version BIGINT PRIMARY KEY)";
        (sqlx::raw_sql(make).execute(&mut *transaction).await).map_err(&attempted)?;
    }
    let done = version(&mut transaction).await?;
    let pending = (MIGRATIONS.get(done..)).ok_or_else(|| too_new(done, MIGRATIONS.len()))?;
    for (version, migration) in (done + 1..).zip(pending) {
        (sqlx::raw_sql(*migration).execute(&mut *transaction).await).map_err(&attempted)?;
        sqlx::query("INSERT INTO migration (version) VALUES ($1)")
            .bind(i64::try_from(version).unwrap_or(i64::MAX))
            .execute(&mut *transaction)
            .await
            .map_err(&attempted)?;
    }
    transaction.commit().await.map_err(&attempted)
}

/// Another node may have brought them further since.
async fn check_version(connection: &mut PgConnection) -> Result<(), Error> {
    match version(connection).await? {
        version if version > MIGRATIONS.len() => Err(too_new(version, MIGRATIONS.len())),
        _ => Ok(()),
    }
}

async fn version(connection: &mut PgConnection) -> Result<usize, Error> {
    let version: i64 = sqlx::query_scalar("SELECT COALESCE(MAX(version), 0) FROM migration")
        .fetch_one(connection)
        .await
        .map_err(failed("read the database's version"))?;
    Ok(usize::try_from(version).unwrap_or(usize::MAX))
}

rows!(PgConnection);
