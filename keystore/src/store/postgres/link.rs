//! The way to the database: a few connections, how long they are waited for, and what is known of the other side.
//!
//! While the database does not answer, calls are refused at once instead of each waiting for its own timeout; whoever
//! calls [`Link::look`] every second finds out when it is back. A connection over which a call failed, or was given up,
//! is closed: nothing is left in it that a later call could read as its own answer.

use std::ops::{Deref, DerefMut};
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use conf::{PostgresHost, PostgresSettings};
use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::super::record::{failed, number};
use super::MIGRATIONS;
use crate::error::{Error, ErrorKind};

/// Where the tables are.
const SCHEMA: &str = "keystore";

/// What of a whole store is read or written at once may take this many times as long as anything else.
const BULK: u32 = 30;

/// What is known of the database.
struct Known {
    /// Why it is not used; `None` while it is.
    down: Option<String>,
    /// When it last answered.
    reached: Instant,
    /// The most writes that were ever seen.
    writes: u64,
    /// It was put back: it once had been written to more often than it says now.
    put_back: bool,
}

pub(super) struct Link {
    settings: PostgresSettings,
    idle: Mutex<Vec<PgConnection>>,
    places: Semaphore,
    known: Mutex<Known>,
}

impl Link {
    pub(super) fn new(settings: &PostgresSettings) -> Self {
        Self {
            settings: settings.clone(),
            idle: Mutex::default(),
            places: Semaphore::new(settings.connections),
            known: Mutex::new(Known {
                down: Some("it was not reached yet".to_owned()),
                reached: Instant::now(),
                writes: 0,
                put_back: false,
            }),
        }
    }

    /// Reads, once more over a new connection where one was lost.
    pub(super) async fn read<T, F>(
        &self,
        attempted: &'static str,
        read: impl Fn() -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let again = async {
            match read().await {
                Err(error) if lost(&error) => {
                    self.idle().clear();
                    read().await
                }
                result => result,
            }
        };
        self.bounded(attempted, self.patience(), again).await
    }

    /// Does what must not be done twice.
    pub(super) async fn once<T>(
        &self,
        attempted: &'static str,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        self.bounded(attempted, self.patience(), work).await
    }

    /// As [`Link::once`], with time for a whole store.
    pub(super) async fn bulk<T>(
        &self,
        attempted: &'static str,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        self.bounded(attempted, self.patience() * BULK, work).await
    }

    async fn bounded<T>(
        &self,
        attempted: &'static str,
        patience: Duration,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        if let Some(why) = &self.known().down {
            return Err(unreached(attempted, why));
        }
        self.timed(attempted, patience, work).await
    }

    async fn timed<T>(
        &self,
        attempted: &'static str,
        patience: Duration,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let result = match timeout(patience, pin!(work)).await {
            Ok(result) => result,
            Err(_) => {
                let why = format!("it did not answer within {patience:?}");
                self.note_down(why.clone());
                return Err(unreached(attempted, &why));
            }
        };
        if let Err(error) = &result
            && lost(error)
        {
            self.note_down(error.to_string());
        }
        result
    }

    /// The server gives up a statement first, and says why.
    fn patience(&self) -> Duration {
        self.settings.timeout + self.settings.timeout / 4
    }

    /// Reaches for the database, whether or not it is known to be there.
    pub(super) async fn look<T>(
        &self,
        attempted: &'static str,
        look: impl Future<Output = Result<(u64, T), Error>>,
    ) -> Result<T, Error> {
        let least = self.least();
        let result = self.timed(attempted, self.patience(), look).await;
        match result {
            Ok((writes, seen)) => {
                self.saw(writes, least);
                self.note_up();
                Ok(seen)
            }
            Err(error) => {
                self.note_down(error.to_string());
                Err(error)
            }
        }
    }

    /// How often the database was written to, at least. To be taken before it is asked.
    fn least(&self) -> u64 {
        self.known().writes
    }

    /// Takes note of how often the database says that it was written to.
    fn saw(&self, writes: u64, least: u64) {
        let mut known = self.known();
        if writes < least {
            known.put_back = true;
        } else if writes >= known.writes {
            // Another node's operators have accepted what is there, and it counts on from what this one knows.
            known.put_back = false;
            known.writes = writes;
        }
    }

    /// Goes on from here, whatever was before.
    pub(super) fn accept(&self, writes: u64) {
        let mut known = self.known();
        known.put_back = false;
        known.writes = writes;
    }

    /// How long the database was not reached.
    pub(super) fn unreached_for(&self) -> Duration {
        let known = self.known();
        match known.down {
            Some(_) => known.reached.elapsed(),
            None => Duration::ZERO,
        }
    }

    pub(super) fn note_down(&self, why: String) {
        // Whatever else is open leads to the same place.
        self.idle().clear();
        let mut known = self.known();
        if known.down.is_none() {
            tracing::error!(why, "the keystore's database is not used any more");
        }
        known.down = Some(why);
        drop(known);
        metrics::gauge!("castellum_keystore_store_up").set(0.0);
    }

    fn note_up(&self) {
        let mut known = self.known();
        if known.down.take().is_some() {
            tracing::info!("the keystore's database is in use");
        }
        known.reached = Instant::now();
        drop(known);
        metrics::gauge!("castellum_keystore_store_up").set(1.0);
    }

    /// A connection, for key records as they are now.
    pub(super) async fn connection(&self) -> Result<Lent<'_>, Error> {
        let lent = self.any_connection().await?;
        match self.known().put_back {
            false => Ok(lent),
            true => Err(Error::damaged(
                "the database was put back: it holds less than it once did, and no key of it is used",
            )),
        }
    }

    /// A connection to a database that may have been put back.
    pub(super) async fn any_connection(&self) -> Result<Lent<'_>, Error> {
        let place = (self.places.acquire().await)
            .map_err(|error| Error::unavailable("no connection is left", error))?;
        let idle = self.idle().pop();
        let connection = match idle {
            Some(connection) => connection,
            None => {
                let mut connection = self.connect().await?;
                self.greet(&mut connection).await?;
                connection
            }
        };
        Ok(Lent {
            link: self,
            connection,
            _place: place,
        })
    }

    /// Connects as settings say; the password is read anew, so that it can be changed.
    pub(super) async fn connect(&self) -> Result<PgConnection, Error> {
        let PostgresSettings {
            host,
            user,
            database,
            password,
            ca_file,
            timeout: statement,
            ..
        } = &self.settings;
        let patience = statement.as_millis().to_string();
        let mut options = PgConnectOptions::new_without_pgpass()
            .username(user)
            .database(database)
            .application_name("castellum")
            .options([
                ("search_path", SCHEMA),
                ("statement_timeout", &patience),
                ("lock_timeout", &patience),
                // A node that is cut off keeps the others from writing no longer than this.
                ("idle_in_transaction_session_timeout", &patience),
            ])
            .disable_statement_logging();
        options = match host {
            PostgresHost::Socket(folder) => options.socket(folder).ssl_mode(PgSslMode::Disable),
            PostgresHost::Tcp { host, port } => {
                let options = options.host(host).port(*port);
                let options = options.ssl_mode(PgSslMode::VerifyFull);
                match ca_file {
                    Some(ca_file) => options.ssl_root_cert(ca_file),
                    None => options,
                }
            }
        };
        if let Some(source) = password {
            let line = (source.read_line())
                .map_err(|error| Error::unavailable(format!("cannot read {source}"), error))?;
            let text = str::from_utf8(&line).map_err(|error| {
                Error::unavailable("the database's password is no text in UTF-8", error)
            })?;
            options = options.password(text);
        }
        (timeout(self.patience(), options.connect()).await)
            .map_err(|error| Error::unavailable("cannot connect to the database", error))?
            .map_err(failed("connect to the database"))
    }

    /// Whether what answers is the keystore's database, in a form that this program knows.
    async fn greet(&self, connection: &mut PgConnection) -> Result<(), Error> {
        let attempted = "use the database";
        let least = self.least();
        let standby: bool = sqlx::query_scalar("SELECT pg_is_in_recovery()")
            .fetch_one(&mut *connection)
            .await
            .map_err(failed(attempted))?;
        if standby {
            return Err(Error::new(
                ErrorKind::Unavailable,
                "cannot use the database: it is a standby, which cannot be written to",
            ));
        }
        // What is answered is on disk, whatever the server's own default; a stricter one stays.
        sqlx::query(
            "SELECT set_config('synchronous_commit', 'on', false) \
             WHERE current_setting('synchronous_commit') IN ('off', 'local')",
        )
        .execute(&mut *connection)
        .await
        .map_err(failed(attempted))?;
        let row = sqlx::query(
            "SELECT (SELECT MAX(version) FROM migration) AS version, writes FROM marks",
        )
        .fetch_one(connection)
        .await
        .map_err(failed(attempted))?;
        check_version(number(&row, "version")?)?;
        self.saw(number(&row, "writes")?, least);
        Ok(())
    }

    fn idle(&self) -> MutexGuard<'_, Vec<PgConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a database of this version is the one that this program knows.
pub(super) fn check_version(version: usize) -> Result<(), Error> {
    if version == MIGRATIONS.len() {
        return Ok(());
    }
    let known = MIGRATIONS.len();
    Err(Error::new(
        ErrorKind::Unsupported,
        match version > known {
            true => format!(
                "the keystore's database has version {version}, and this program knows {known} at most: \
                 a newer castellum has written it"
            ),
            false => format!(
                "the keystore's database has version {version} where {known} was: it was put back; restart this node"
            ),
        },
    ))
}

/// A connection that nobody else uses meanwhile. Dropped, it is closed.
pub(super) struct Lent<'l> {
    link: &'l Link,
    connection: PgConnection,
    _place: SemaphorePermit<'l>,
}

impl Lent<'_> {
    /// Gives it back, for the next call.
    pub(super) fn done(self) {
        self.link.idle().push(self.connection);
    }

    /// As [`Lent::done`], after a write; the database was written to so often by now.
    pub(super) fn written(self, writes: u64) {
        // Of writers that end at once, the later may come here first.
        self.link.saw(writes, 0);
        self.done();
    }
}

impl Deref for Lent<'_> {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Lent<'_> {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

/// Whether the database was not reached, as against one that answered with a refusal.
pub(super) fn lost(error: &Error) -> bool {
    let source = std::error::Error::source(error);
    match source.and_then(|source| source.downcast_ref::<sqlx::Error>()) {
        Some(sqlx::Error::Database(error)) => error.code().is_some_and(|code| {
            // Connection exceptions, and a server that is going down, is gone or is starting (PostgreSQL, appendix A).
            code.starts_with("08") || ["57P01", "57P02", "57P03", "25P03"].contains(&&*code)
        }),
        Some(sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_)) => true,
        Some(_) | None => false,
    }
}

fn unreached(attempted: &str, why: &str) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        format!("cannot {attempted}: the database does not serve: {why}"),
    )
}
