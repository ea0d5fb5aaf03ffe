//! What is remembered of viewers: streams, devices, tokens used, what was revoked, events not yet told.
//!
//! A store decides by numbers that it is given and knows no configuration; the time is an argument. Everything that one
//! licence needs is asked for at once ([`Store::admit`]) and had wholly or not at all. [`sqlite`] serves one licence
//! server, [`postgres`] several; `license/design/sessions.md` says what each promises.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use keystore_types::{AssetId, KeyId};
use ring::digest::{Context, SHA256};
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::{Error, UnixTime};

pub mod postgres;
mod rows;
pub mod sqlite;
pub(crate) mod thread;

/// What every method of a store returns.
pub type Stored<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// Where it is remembered. Callable from any runtime: a store works on a thread of its own.
pub trait Store: fmt::Debug + Send + Sync {
    /// Takes what a licence needs, all of it or, as the verdict says, nothing. Where the licence then fails, what was taken
    /// is given back ([`Change::GiveBack`]).
    fn admit(&self, claim: Claim) -> Stored<'_, (Verdict, Taken)>;

    /// Makes a change; returns how many rows it concerned.
    fn change(&self, change: Change) -> Stored<'_, u64>;

    /// The viewer's streams whose places are taken at this moment, by session.
    fn streams(&self, viewer: Viewer, now: UnixTime) -> Stored<'_, Vec<Stream>>;

    /// The viewer's devices at this moment, by name.
    fn devices(&self, viewer: Viewer, now: UnixTime) -> Stored<'_, Vec<Device>>;

    /// Everything that is revoked at this moment.
    fn revocations(&self, now: UnixTime) -> Stored<'_, Vec<Revocation>>;

    /// At most `limit` events that are due to be told to this hook. Each is due again at `again`, unless [`Change::Told`] comes before: so no two
    /// nodes tell the same one at once.
    fn take_events(
        &self,
        hook: &str,
        now: UnixTime,
        again: UnixTime,
        limit: u32,
    ) -> Stored<'_, Vec<Event>>;
}

/// A subject of an issuer, as a digest: a store need not know who watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Viewer([u8; 32]);

impl Viewer {
    /// The one that this issuer calls so.
    pub fn new(issuer: &str, subject: &str) -> Self {
        Self(digest(&[b"viewer", issuer.as_bytes(), subject.as_bytes()]))
    }

    /// Whoever has this token, where it names nobody.
    pub fn of_token(issuer: &str, token_id: &str) -> Self {
        Self(digest(&[b"bearer", issuer.as_bytes(), token_id.as_bytes()]))
    }

    /// The digest.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// SHA-256 over parts, each with its length before it: no two lists have the same.
pub fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    bytes
}

/// What a licence needs of a store. Each part that is there must be had.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The present moment.
    pub now: UnixTime,
    /// Whose devices and streams.
    pub viewer: Viewer,
    /// A token that is good for one licence.
    pub token: Option<TokenUse>,
    /// A device among at most so many.
    pub device: Option<DeviceUse>,
    /// A stream among at most so many.
    pub stream: Option<StreamUse>,
    /// Until when its events wait for [`Change::Settle`]; none: they are due at once.
    pub events_wait: Option<UnixTime>,
}

/// The use of a token.
#[derive(Clone, Debug)]
pub struct TokenUse {
    /// Stands for the token: a digest of its issuer and `jti`.
    pub token: [u8; 32],
    /// Stands for the request: the same one again is a retry.
    pub request: [u8; 32],
    /// For how long after the first use a retry is answered.
    pub retry: Duration,
    /// When the token is worth nothing any more, leeway included.
    pub until: UnixTime,
    /// Which use it is, where it is the first: [`new_claim`].
    pub claim: i64,
}

/// The use of a device.
#[derive(Clone, Debug)]
pub struct DeviceUse {
    /// The device.
    pub device: String,
    /// The most that the viewer may have.
    pub limit: u32,
    /// How long a device counts after its last use.
    pub term: Duration,
    /// Which use it is, where the device is new: [`new_claim`].
    pub claim: i64,
    /// What is told then.
    pub events: Vec<Event>,
}

/// The use of a stream. A session that is there is renewed.
#[derive(Clone, Debug)]
pub struct StreamUse {
    /// The session.
    pub session: String,
    /// What is played.
    pub asset: AssetId,
    /// The most that the viewer may have at once.
    pub limit: u32,
    /// How long the lease lasts.
    pub term: Duration,
    /// How much longer its place stays taken: for renewals that are late, and clocks that stand apart.
    pub grace: Duration,
    /// Which use it is, where the stream begins: [`new_claim`].
    pub claim: i64,
    /// What is told then.
    pub events: Vec<Event>,
    /// What is told when it runs out.
    pub expiry: Option<Expiry>,
}

/// What is told of a stream that runs out.
#[derive(Clone, Debug)]
pub struct Expiry {
    /// To whom: the names of hooks.
    pub hooks: Vec<String>,
    /// The event's `data`, in JSON.
    pub data: String,
}

/// A number that no other claim has, for all that is likely.
///
/// # Errors
/// Internal: the system gives no random numbers.
pub fn new_claim() -> Result<i64, Error> {
    let mut bytes = [0; 8];
    (SystemRandom::new().fill(&mut bytes))
        .map_err(|_| Error::internal("make a number", "the system gives no random numbers"))?;
    Ok(i64::from_be_bytes(bytes))
}

/// What a claim took or shares in: each with the number of the claim that made it, so that what was taken anew since by
/// others is not given back for them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// A token.
    pub token: Option<([u8; 32], i64)>,
    /// A device.
    pub device: Option<(Viewer, String, i64)>,
    /// A stream.
    pub stream: Option<(Viewer, String, i64)>,
    /// Whether events of these wait for [`Change::Settle`], be they of this claim or of one that it shares with.
    pub untold: bool,
}

/// What became of a [`Claim`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All of it was had.
    Granted {
        /// The device is the viewer's since now.
        new_device: bool,
        /// The stream began now.
        new_stream: bool,
    },
    /// The token was used before, for another request or too long ago.
    Replayed,
    /// The viewer has that many devices.
    DeviceLimit,
    /// The viewer has that many streams; the first place is free at this moment, if none is renewed.
    StreamLimit(UnixTime),
    /// There is no room for one more row. Nothing is let through that cannot be remembered.
    Full,
}

/// A change that nobody is refused.
#[derive(Clone, Debug)]
pub enum Change {
    /// Takes a claim back whose licence failed. What other claims share in stays: a retry that was granted meanwhile
    /// keeps its place.
    GiveBack(Taken),
    /// The licence of a claim was given: what is to be told of it is due.
    Settle(Taken),
    /// Ends a stream.
    Release {
        /// Whose.
        viewer: Viewer,
        /// The session.
        session: String,
        /// What is told if there was one.
        events: Vec<Event>,
    },
    /// Forgets a device, or with `None` all of a viewer's.
    Forget {
        /// Whose.
        viewer: Viewer,
        /// The device.
        device: Option<String>,
    },
    /// Revokes, in place of an earlier revocation of the same.
    Revoke(Revocation),
    /// Takes a revocation back.
    Reinstate(Revoked),
    /// Puts events there to be told.
    Post(Vec<Event>),
    /// An event was told, or is given up.
    Told(String),
    /// An event was not told: tries again then.
    Delay {
        /// Its id.
        id: String,
        /// When it is due.
        due: UnixTime,
    },
    /// Removes what has expired but for streams, at most [`SWEPT_AT_ONCE`] rows of each kind, and counts anew what is there.
    Sweep {
        /// The present moment.
        now: UnixTime,
    },
    /// Removes at most [`STREAMS_SWEPT_AT_ONCE`] streams that ran out. What is to be told of them is there as they are gone,
    /// so it is told of each by one node.
    SweepStreams {
        /// The present moment.
        now: UnixTime,
        /// Who is told: the names of hooks.
        hooks: Vec<String>,
    },
}

/// The most rows of a kind that one [`Change::Sweep`] removes: others wait meanwhile.
pub const SWEPT_AT_ONCE: i64 = 5000;

/// The most streams that one [`Change::SweepStreams`] removes. Their events are written in the same transaction, one for
/// each hook: few enough that it ends well within the time that a database has to answer.
pub const STREAMS_SWEPT_AT_ONCE: i64 = 500;

/// Removes all that has expired, in as many transactions as that takes, between which others have their turn; returns how
/// many rows it were. `hooks` are told of streams that ran out.
///
/// # Errors
/// The store fails. What was removed before is, and what was to be told of it will be told.
pub async fn sweep(store: &dyn Store, now: UnixTime, hooks: &[String]) -> Result<u64, Error> {
    let streams = Change::SweepStreams {
        now,
        hooks: hooks.to_vec(),
    };
    let mut removed = 0;
    // Streams first, as the other change counts what is left.
    for (change, at_once) in [
        (streams, STREAMS_SWEPT_AT_ONCE),
        (Change::Sweep { now }, SWEPT_AT_ONCE),
    ] {
        loop {
            let some = store.change(change.clone()).await?;
            removed += some;
            if some < at_once.unsigned_abs() {
                break;
            }
        }
    }
    Ok(removed)
}

/// A stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// The session.
    pub session: String,
    /// What is played.
    pub asset: String,
    /// When it began.
    pub began: UnixTime,
    /// When its lease ends.
    pub leased: UnixTime,
    /// When its place is free.
    pub until: UnixTime,
}

/// A device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub device: String,
    /// When it was first used.
    pub added: UnixTime,
    /// When it was last used.
    pub seen: UnixTime,
}

/// Something that gets no licence any more.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Revoked {
    /// All tokens of a subject, of one issuer or, with `None`, of any.
    Subject(Option<String>, String),
    /// A token, by its `jti`, likewise.
    Token(Option<String>, String),
    /// A content key.
    Key(KeyId),
}

/// A revocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// What is revoked.
    pub what: Revoked,
    /// Since when.
    pub made: UnixTime,
    /// Until when; [`UnixTime::MAX`] is for good.
    pub until: UnixTime,
}

/// Something to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its id, by which whoever hears it twice knows.
    pub id: String,
    /// To whom it is told: the name of a hook.
    pub hook: String,
    /// What is told.
    pub body: String,
    /// When it happened.
    pub made: UnixTime,
    /// How often it was taken to be told.
    pub attempts: u32,
}

/// A stream that ran out, as a sweep finds it.
struct RanOut {
    viewer: Vec<u8>,
    session: String,
    claim: i64,
    until: UnixTime,
    /// The event's `data`, where anybody wanted to hear of it.
    data: Option<String>,
}

impl RanOut {
    /// What these hooks are told. The id stands for the stream and the hook: nobody is told of it under two.
    fn events(self, hooks: &[String]) -> Vec<Event> {
        let Some(data) = self.data else {
            return Vec::new();
        };
        let events = hooks.iter().map(|hook| {
            let digest = digest(&[
                b"ran out",
                &self.viewer,
                self.session.as_bytes(),
                &self.claim.to_be_bytes(),
                hook.as_bytes(),
            ]);
            let mut id = [0; 16];
            id.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
            Event {
                id: event_id(id),
                hook: hook.clone(),
                body: format!(
                    r#"{{"type":"session_expired","timestamp":{},"data":{data}}}"#,
                    self.until.as_seconds()
                ),
                made: self.until,
                attempts: 0,
            }
        });
        events.collect()
    }
}

/// An event's id, as Standard Webhooks writes them.
pub(crate) fn event_id(bytes: [u8; 16]) -> String {
    let hex = bytes.iter().map(|byte| format!("{byte:02x}"));
    format!("msg_{}", hex.collect::<String>())
}

/// Events that nobody will hear.
pub(crate) fn lost(count: u64) {
    metrics::counter!("castellum_license_webhook_events_lost_total").increment(count);
}

/// How many rows there are of what viewers make grow. A node counts what it does itself between two sweeps, so that nodes which
/// share a store may go beyond `capacity` by what they add in that time.
#[derive(Debug)]
struct Room {
    capacity: u64,
    tokens: AtomicU64,
    devices: AtomicU64,
    streams: AtomicU64,
    events: AtomicU64,
}

impl Room {
    fn new(capacity: u64) -> Self {
        Self {
            capacity,
            tokens: AtomicU64::new(0),
            devices: AtomicU64::new(0),
            streams: AtomicU64::new(0),
            events: AtomicU64::new(0),
        }
    }

    fn counted(&self, [tokens, devices, streams, events]: [u64; 4]) {
        self.tokens.store(tokens, Ordering::Relaxed);
        self.devices.store(devices, Ordering::Relaxed);
        self.streams.store(streams, Ordering::Relaxed);
        self.events.store(events, Ordering::Relaxed);
        for (table, count) in [
            ("used_token", tokens),
            ("device", devices),
            ("stream", streams),
            ("event", events),
        ] {
            #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
            metrics::gauge!("castellum_license_store_rows", "table" => table).set(count as f64);
        }
    }

    /// Whether there is room for one more row where there are so many.
    fn has(&self, count: &AtomicU64) -> bool {
        self.left(count, 1) == 1
    }

    /// For how many of so many rows more there is room.
    fn left(&self, count: &AtomicU64, more: usize) -> usize {
        let left = (self.capacity).saturating_sub(count.load(Ordering::Relaxed));
        usize::try_from(left).map_or(more, |left| left.min(more))
    }

    /// So many rows are there no more.
    fn removed(&self, count: &AtomicU64, rows: u64) {
        let less = |count: u64| Some(count.saturating_sub(rows));
        let _ = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

/// Why a store that a newer program has written is left alone.
fn too_new(version: usize, known: usize) -> Error {
    Error::unsupported(format!(
        "the licence server's database has version {version}, and this program knows {known} at most: \
         a newer castellum has written it"
    ))
}

fn failed(attempted: &'static str) -> impl Fn(sqlx::Error) -> Error {
    move |error| Error::unavailable(format!("cannot {attempted}"), error)
}
