//! What is asked of either database, in the same words.
//!
//! Neither driver's types are spelt out: [`rows!`] makes the functions for a connection.

use keystore_types::KeyId;
use sqlx::{ColumnIndex, Decode, Row, Type};

use super::{Device, Event, RanOut, Revocation, Revoked, Stream};
use crate::UnixTime;

pub(super) const TOKEN: &str = "SELECT request, used FROM used_token WHERE token = $1";

/// Nothing is returned where another request has it.
pub(super) const USE_TOKEN: &str = "INSERT INTO used_token (token, request, used, until, claim, claims) \
    VALUES ($1, $2, $3, $4, $5, 1) ON CONFLICT (token) DO UPDATE SET claims = used_token.claims + 1 \
    WHERE used_token.request = excluded.request RETURNING claim";

/// Beside the device itself, and whether it is there.
pub(super) const OTHER_DEVICES: &str = "SELECT COUNT(CASE WHEN device <> $2 THEN 1 END) AS others, \
    COUNT(CASE WHEN device = $2 THEN 1 END) AS own FROM device WHERE viewer = $1 AND until > $3";

/// `untold` are events that wait for the claim with which the device is shared.
pub(super) const USE_DEVICE: &str = "INSERT INTO device (viewer, device, added, seen, until, claim, claims) VALUES ($1, $2, $3, $3, $4, $5, 1) \
    ON CONFLICT (viewer, device) DO UPDATE SET seen = excluded.seen, until = excluded.until, \
    added = CASE WHEN device.until > excluded.seen THEN device.added ELSE excluded.added END, \
    claim = CASE WHEN device.until > excluded.seen THEN device.claim ELSE excluded.claim END, \
    claims = CASE WHEN device.until > excluded.seen THEN device.claims + 1 ELSE 1 END \
    RETURNING claim, (SELECT COUNT(*) FROM event WHERE event.claim = device.claim) AS untold";

/// Beside the session itself, and whether it is there. A renewal is counted like a start: whatever was granted meanwhile
/// by another clock is seen, and then there is no place for it any more.
pub(super) const OTHER_STREAMS: &str = "SELECT COUNT(CASE WHEN session <> $2 THEN 1 END) AS others, \
    COUNT(CASE WHEN session = $2 THEN 1 END) AS own, \
    COALESCE(MIN(CASE WHEN session <> $2 THEN until END), 0) AS free FROM stream WHERE viewer = $1 AND until > $3";

/// A lease is never shortened by a clock that is behind. `untold` as for a device.
pub(super) const USE_STREAM: &str = "INSERT INTO stream (viewer, session, asset, began, leased, until, claim, claims, told) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, 1, $8) ON CONFLICT (viewer, session) DO UPDATE SET asset = excluded.asset, \
    told = excluded.told, \
    claim = CASE WHEN stream.until > excluded.began THEN stream.claim ELSE excluded.claim END, \
    claims = CASE WHEN stream.until > excluded.began THEN stream.claims + 1 ELSE 1 END, \
    began = CASE WHEN stream.until > excluded.began THEN stream.began ELSE excluded.began END, \
    leased = CASE WHEN stream.leased > excluded.leased THEN stream.leased ELSE excluded.leased END, \
    until = CASE WHEN stream.until > excluded.until THEN stream.until ELSE excluded.until END \
    RETURNING claim, (SELECT COUNT(*) FROM event WHERE event.claim = stream.claim) AS untold";

/// One that has run out and is not swept yet, where the session begins again.
pub(super) const END_STREAM: &str = "DELETE FROM stream WHERE viewer = $1 AND session = $2 AND until <= $3 \
    RETURNING viewer, session, claim, until, told";

/// Each leaves a row that other claims share in, and one that another claim has made since.
pub(super) const LEAVE_TOKEN: &str =
    "UPDATE used_token SET claims = claims - 1 WHERE token = $1 AND claim = $2";
pub(super) const LEAVE_DEVICE: &str =
    "UPDATE device SET claims = claims - 1 WHERE viewer = $1 AND device = $2 AND claim = $3";
pub(super) const LEAVE_STREAM: &str =
    "UPDATE stream SET claims = claims - 1 WHERE viewer = $1 AND session = $2 AND claim = $3";

/// What nobody shares in any more.
pub(super) const END_LEFT_TOKEN: &str =
    "DELETE FROM used_token WHERE token = $1 AND claim = $2 AND claims <= 0";
pub(super) const END_LEFT_DEVICE: &str =
    "DELETE FROM device WHERE viewer = $1 AND device = $2 AND claim = $3 AND claims <= 0";
pub(super) const END_LEFT_STREAM: &str =
    "DELETE FROM stream WHERE viewer = $1 AND session = $2 AND claim = $3 AND claims <= 0";

/// Rows follow.
pub(super) const POST_EVENTS: &str =
    "INSERT INTO event (id, hook, body, made, due, attempts, claim) ";

/// The most events that one statement writes: neither database takes a row's six parameters more often than some 5000 times.
pub(super) const POSTED_AT_ONCE: usize = 500;

/// Up to so many events, a connection remembers the statement: what one licence brings.
pub(super) const REMEMBERED: usize = 8;

pub(super) const STREAMS: &str = "SELECT session, asset, began, leased, until FROM stream \
    WHERE viewer = $1 AND until > $2 ORDER BY session";

pub(super) const DEVICES: &str =
    "SELECT device, added, seen FROM device WHERE viewer = $1 AND until > $2 ORDER BY device";

pub(super) const REVOCATIONS: &str =
    "SELECT kind, issuer, name, made, until FROM revocation WHERE until > $1";

/// Due is asked twice: where two take at once, the second sees what the first has done only in the outer condition.
pub(super) const TAKE_EVENTS: &str = "UPDATE event SET due = $2, attempts = attempts + 1 WHERE due <= $1 AND id IN \
    (SELECT id FROM event WHERE hook = $4 AND due <= $1 ORDER BY due, id LIMIT $3) RETURNING id, hook, body, made, attempts";

pub(super) const COUNTS: &str = "SELECT (SELECT COUNT(*) FROM used_token) AS tokens, \
    (SELECT COUNT(*) FROM device) AS devices, (SELECT COUNT(*) FROM stream) AS streams, \
    (SELECT COUNT(*) FROM event) AS events";

pub(super) fn seconds(time: UnixTime) -> i64 {
    i64::try_from(time.as_seconds()).unwrap_or(i64::MAX)
}

/// The columns of a row that either driver reads.
pub(super) trait Record {
    fn number(&self, column: &'static str) -> Result<u64, sqlx::Error>;
    fn text(&self, column: &'static str) -> Result<String, sqlx::Error>;
    fn bytes(&self, column: &'static str) -> Result<Vec<u8>, sqlx::Error>;

    /// The number of the claim that made the row.
    fn claim(&self) -> Result<i64, sqlx::Error>;

    /// What is told of a stream that runs out.
    fn told(&self) -> Result<Option<String>, sqlx::Error>;

    fn time(&self, column: &'static str) -> Result<UnixTime, sqlx::Error> {
        self.number(column).map(UnixTime::from_seconds)
    }
}

impl<R> Record for R
where
    R: Row,
    &'static str: ColumnIndex<R>,
    i64: for<'r> Decode<'r, R::Database> + Type<R::Database>,
    String: for<'r> Decode<'r, R::Database> + Type<R::Database>,
    Option<String>: for<'r> Decode<'r, R::Database> + Type<R::Database>,
    Vec<u8>: for<'r> Decode<'r, R::Database> + Type<R::Database>,
{
    fn number(&self, column: &'static str) -> Result<u64, sqlx::Error> {
        let number: i64 = self.try_get(column)?;
        u64::try_from(number).map_err(|error| wrong(column, error))
    }

    fn text(&self, column: &'static str) -> Result<String, sqlx::Error> {
        self.try_get(column)
    }

    fn bytes(&self, column: &'static str) -> Result<Vec<u8>, sqlx::Error> {
        self.try_get(column)
    }

    fn claim(&self) -> Result<i64, sqlx::Error> {
        self.try_get("claim")
    }

    fn told(&self) -> Result<Option<String>, sqlx::Error> {
        self.try_get("told")
    }
}

fn wrong(
    column: &'static str,
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> sqlx::Error {
    sqlx::Error::ColumnDecode {
        index: column.to_owned(),
        source: error.into(),
    }
}

pub(super) fn stream(row: &impl Record) -> Result<Stream, sqlx::Error> {
    Ok(Stream {
        session: row.text("session")?,
        asset: row.text("asset")?,
        began: row.time("began")?,
        leased: row.time("leased")?,
        until: row.time("until")?,
    })
}

pub(super) fn ran_out(row: &impl Record) -> Result<RanOut, sqlx::Error> {
    Ok(RanOut {
        viewer: row.bytes("viewer")?,
        session: row.text("session")?,
        claim: row.claim()?,
        until: row.time("until")?,
        data: row.told()?,
    })
}

pub(super) fn device(row: &impl Record) -> Result<Device, sqlx::Error> {
    Ok(Device {
        device: row.text("device")?,
        added: row.time("added")?,
        seen: row.time("seen")?,
    })
}

pub(super) fn event(row: &impl Record) -> Result<Event, sqlx::Error> {
    Ok(Event {
        id: row.text("id")?,
        hook: row.text("hook")?,
        body: row.text("body")?,
        made: row.time("made")?,
        attempts: u32::try_from(row.number("attempts")?).unwrap_or(u32::MAX),
    })
}

pub(super) fn revocation(row: &impl Record) -> Result<Revocation, sqlx::Error> {
    let issuer = Some(row.text("issuer")?).filter(|issuer| !issuer.is_empty());
    let name = row.text("name")?;
    let what = match row.text("kind")?.as_str() {
        "subject" => Revoked::Subject(issuer, name),
        "token" => Revoked::Token(issuer, name),
        _ => Revoked::Key((name.parse::<KeyId>()).map_err(|_| wrong("name", "it is no key id"))?),
    };
    Ok(Revocation {
        what,
        made: row.time("made")?,
        until: row.time("until")?,
    })
}

/// Kind, issuer and name as they are written.
pub(super) fn written(what: &Revoked) -> (&'static str, String, String) {
    match what {
        Revoked::Subject(issuer, name) => {
            ("subject", issuer.clone().unwrap_or_default(), name.clone())
        }
        Revoked::Token(issuer, name) => ("token", issuer.clone().unwrap_or_default(), name.clone()),
        Revoked::Key(key_id) => ("key", String::new(), key_id.to_string()),
    }
}

/// Makes `admit`, `change`, `count` and the reads for a connection. They run within the caller's transaction.
macro_rules! rows {
    ($connection:ty) => {
        /// Looks at everything first, so that a refusal has written nothing; except that a token may be used by another meanwhile.
        async fn admit(
            connection: &mut $connection,
            claim: &Claim,
            room: &Room,
        ) -> Result<(Verdict, Taken), sqlx::Error> {
            let Claim {
                now,
                viewer: whose,
                token,
                device,
                stream,
                events_wait,
            } = claim;
            let viewer = whose.as_bytes().as_slice();
            let refused = |verdict| Ok((verdict, Taken::default()));
            let mut taken = Taken::default();
            if let Some(token) = token {
                let used = sqlx::query(rows::TOKEN)
                    .bind(token.token.as_slice())
                    .fetch_optional(&mut *connection)
                    .await?;
                match used {
                    Some(used) => {
                        let same = used.bytes("request")? == token.request;
                        if !same || used.time("used")?.plus(token.retry) < *now {
                            return refused(Verdict::Replayed);
                        }
                    }
                    None if room.has(&room.tokens) => {}
                    None => return refused(Verdict::Full),
                }
            }
            let mut new_device = false;
            if let Some(device) = device {
                let there = sqlx::query(rows::OTHER_DEVICES)
                    .bind(viewer)
                    .bind(&device.device)
                    .bind(seconds(*now))
                    .fetch_one(&mut *connection)
                    .await?;
                new_device = there.number("own")? == 0;
                if new_device && there.number("others")? >= u64::from(device.limit) {
                    return refused(Verdict::DeviceLimit);
                }
                if new_device && !room.has(&room.devices) {
                    return refused(Verdict::Full);
                }
            }
            let mut new_stream = false;
            if let Some(stream) = stream {
                let there = sqlx::query(rows::OTHER_STREAMS)
                    .bind(viewer)
                    .bind(&stream.session)
                    .bind(seconds(*now))
                    .fetch_one(&mut *connection)
                    .await?;
                if there.number("others")? >= u64::from(stream.limit) {
                    return refused(Verdict::StreamLimit(there.time("free")?));
                }
                new_stream = there.number("own")? == 0;
                if new_stream && !room.has(&room.streams) {
                    return refused(Verdict::Full);
                }
            }
            if let Some(token) = token {
                let done = sqlx::query(rows::USE_TOKEN)
                    .bind(token.token.as_slice())
                    .bind(token.request.as_slice())
                    .bind(seconds(*now))
                    .bind(seconds(token.until))
                    .bind(token.claim)
                    .fetch_optional(&mut *connection)
                    .await?;
                // Two viewers with one token, at once: nothing else was written yet.
                let Some(done) = done else {
                    return refused(Verdict::Replayed);
                };
                let made_by = done.claim()?;
                room.tokens
                    .fetch_add(u64::from(made_by == token.claim), Ordering::Relaxed);
                taken.token = Some((token.token, made_by));
            }
            if let Some(device) = device {
                let done = sqlx::query(rows::USE_DEVICE)
                    .bind(viewer)
                    .bind(&device.device)
                    .bind(seconds(*now))
                    .bind(seconds(now.plus(device.term)))
                    .bind(device.claim)
                    .fetch_one(&mut *connection)
                    .await?;
                let made_by = done.claim()?;
                new_device = made_by == device.claim;
                if new_device {
                    room.devices.fetch_add(1, Ordering::Relaxed);
                    let posted =
                        post(connection, &device.events, *events_wait, made_by, room).await?;
                    taken.untold |= posted > 0 && events_wait.is_some();
                }
                taken.untold |= done.number("untold")? > 0;
                taken.device = Some((*whose, device.device.clone(), made_by));
            }
            if let Some(stream) = stream {
                if new_stream {
                    let ended = sqlx::query(rows::END_STREAM)
                        .bind(viewer)
                        .bind(&stream.session)
                        .bind(seconds(*now))
                        .fetch_optional(&mut *connection)
                        .await?;
                    room.removed(&room.streams, u64::from(ended.is_some()));
                    if let (Some(ended), Some(expiry)) = (ended, &stream.expiry) {
                        let events = rows::ran_out(&ended)?.events(&expiry.hooks);
                        post(connection, &events, None, 0, room).await?;
                    }
                }
                let leased = now.plus(stream.term);
                let done = sqlx::query(rows::USE_STREAM)
                    .bind(viewer)
                    .bind(&stream.session)
                    .bind(stream.asset.as_str())
                    .bind(seconds(*now))
                    .bind(seconds(leased))
                    .bind(seconds(leased.plus(stream.grace)))
                    .bind(stream.claim)
                    .bind(stream.expiry.as_ref().map(|expiry| &expiry.data))
                    .fetch_one(&mut *connection)
                    .await?;
                let made_by = done.claim()?;
                new_stream = made_by == stream.claim;
                if new_stream {
                    room.streams.fetch_add(1, Ordering::Relaxed);
                    let posted =
                        post(connection, &stream.events, *events_wait, made_by, room).await?;
                    taken.untold |= posted > 0 && events_wait.is_some();
                }
                taken.untold |= done.number("untold")? > 0;
                taken.stream = Some((*whose, stream.session.clone(), made_by));
            }
            let verdict = Verdict::Granted {
                new_device,
                new_stream,
            };
            Ok((verdict, taken))
        }

        /// Puts events there to be told: when they are settled, or at the latest at that moment; without one, at once. Those
        /// for which there is no room are lost, and counted.
        async fn post(
            connection: &mut $connection,
            events: &[Event],
            wait: Option<UnixTime>,
            claim: i64,
            room: &Room,
        ) -> Result<u64, sqlx::Error> {
            let (posted, without_room) = events.split_at(room.left(&room.events, events.len()));
            if !without_room.is_empty() {
                lost(without_room.len() as u64);
            }
            for some in posted.chunks(rows::POSTED_AT_ONCE) {
                let mut statement = QueryBuilder::new(rows::POST_EVENTS);
                statement.push_values(some, |mut row, event| {
                    row.push_bind(&event.id)
                        .push_bind(&event.hook)
                        .push_bind(&event.body)
                        .push_bind(seconds(event.made))
                        .push_bind(seconds(wait.unwrap_or(event.made)))
                        .push("0")
                        .push_bind(wait.map(|_| claim));
                });
                let again = some.len() <= rows::REMEMBERED;
                (statement.build().persistent(again))
                    .execute(&mut *connection)
                    .await?;
            }
            let posted = posted.len() as u64;
            room.events.fetch_add(posted, Ordering::Relaxed);
            Ok(posted)
        }

        async fn give_back(
            connection: &mut $connection,
            taken: &Taken,
            room: &Room,
        ) -> Result<u64, sqlx::Error> {
            let mut ended = 0;
            if let Some((token, claim)) = &taken.token {
                for statement in [rows::LEAVE_TOKEN, rows::END_LEFT_TOKEN] {
                    ended = sqlx::query(statement)
                        .bind(token.as_slice())
                        .bind(claim)
                        .execute(&mut *connection)
                        .await?
                        .rows_affected();
                }
                room.removed(&room.tokens, ended);
            }
            let device = [rows::LEAVE_DEVICE, rows::END_LEFT_DEVICE];
            let stream = [rows::LEAVE_STREAM, rows::END_LEFT_STREAM];
            for (of, statements, count) in [
                (&taken.device, device, &room.devices),
                (&taken.stream, stream, &room.streams),
            ] {
                let Some((viewer, name, claim)) = of else {
                    continue;
                };
                let mut gone = 0;
                for statement in statements {
                    gone = sqlx::query(statement)
                        .bind(viewer.as_bytes().as_slice())
                        .bind(name)
                        .bind(claim)
                        .execute(&mut *connection)
                        .await?
                        .rows_affected();
                }
                if gone > 0 {
                    let untold = sqlx::query("DELETE FROM event WHERE claim = $1")
                        .bind(claim)
                        .execute(&mut *connection)
                        .await?;
                    room.removed(&room.events, untold.rows_affected());
                }
                room.removed(count, gone);
                ended += gone;
            }
            Ok(ended)
        }

        async fn settle(connection: &mut $connection, taken: &Taken) -> Result<u64, sqlx::Error> {
            let mut due = 0;
            for (_, _, claim) in [&taken.device, &taken.stream].into_iter().flatten() {
                let done = sqlx::query("UPDATE event SET due = made, claim = NULL WHERE claim = $1")
                    .bind(claim)
                    .execute(&mut *connection)
                    .await?;
                due += done.rows_affected();
            }
            Ok(due)
        }

        async fn change(
            connection: &mut $connection,
            change: &Change,
            room: &Room,
        ) -> Result<u64, sqlx::Error> {
            let done = match change {
                Change::GiveBack(taken) => return give_back(connection, taken, room).await,
                Change::Settle(taken) => return settle(connection, taken).await,
                Change::Release {
                    viewer,
                    session,
                    events,
                } => {
                    let done =
                        sqlx::query("DELETE FROM stream WHERE viewer = $1 AND session = $2")
                            .bind(viewer.as_bytes().as_slice())
                            .bind(session)
                            .execute(&mut *connection)
                            .await?;
                    room.removed(&room.streams, done.rows_affected());
                    if done.rows_affected() > 0 {
                        post(connection, events, None, 0, room).await?;
                    }
                    done
                }
                Change::Forget {
                    viewer,
                    device: Some(device),
                } => {
                    let done =
                        sqlx::query("DELETE FROM device WHERE viewer = $1 AND device = $2")
                            .bind(viewer.as_bytes().as_slice())
                            .bind(device)
                            .execute(connection)
                            .await?;
                    room.removed(&room.devices, done.rows_affected());
                    done
                }
                Change::Forget {
                    viewer,
                    device: None,
                } => {
                    let done = sqlx::query("DELETE FROM device WHERE viewer = $1")
                        .bind(viewer.as_bytes().as_slice())
                        .execute(connection)
                        .await?;
                    room.removed(&room.devices, done.rows_affected());
                    done
                }
                Change::Revoke(revocation) => {
                    let (kind, issuer, name) = rows::written(&revocation.what);
                    sqlx::query(
                        "INSERT INTO revocation (kind, issuer, name, made, until) VALUES ($1, $2, $3, $4, $5) \
                         ON CONFLICT (kind, issuer, name) DO UPDATE SET made = excluded.made, until = excluded.until",
                    )
                    .bind(kind)
                    .bind(issuer)
                    .bind(name)
                    .bind(seconds(revocation.made))
                    .bind(seconds(revocation.until))
                    .execute(connection)
                    .await?
                }
                Change::Reinstate(what) => {
                    let (kind, issuer, name) = rows::written(what);
                    sqlx::query("DELETE FROM revocation WHERE kind = $1 AND issuer = $2 AND name = $3")
                        .bind(kind)
                        .bind(issuer)
                        .bind(name)
                        .execute(connection)
                        .await?
                }
                Change::Post(events) => return post(connection, events, None, 0, room).await,
                Change::Told(id) => {
                    let done = sqlx::query("DELETE FROM event WHERE id = $1")
                        .bind(id)
                        .execute(connection)
                        .await?;
                    room.removed(&room.events, done.rows_affected());
                    done
                }
                Change::Delay { id, due } => {
                    sqlx::query("UPDATE event SET due = $2 WHERE id = $1")
                        .bind(id)
                        .bind(seconds(*due))
                        .execute(connection)
                        .await?
                }
                Change::Sweep { now } => {
                    let mut removed = 0;
                    for sweep in SWEEPS {
                        removed += sqlx::query(sweep)
                            .bind(seconds(*now))
                            .bind(SWEPT_AT_ONCE)
                            .execute(&mut *connection)
                            .await?
                            .rows_affected();
                    }
                    let unheard = sqlx::query(SWEEP_EVENTS)
                        .bind(seconds(*now))
                        .bind(SWEPT_AT_ONCE)
                        .execute(&mut *connection)
                        .await?
                        .rows_affected();
                    lost(unheard);
                    room.counted(count(connection).await?);
                    return Ok(removed + unheard);
                }
                Change::SweepStreams { now, hooks } => {
                    let ended = sqlx::query(SWEEP_STREAMS)
                        .bind(seconds(*now))
                        .bind(STREAMS_SWEPT_AT_ONCE)
                        .fetch_all(&mut *connection)
                        .await?;
                    let mut events = Vec::new();
                    for stream in &ended {
                        events.extend(rows::ran_out(stream)?.events(hooks));
                    }
                    let ended = ended.len() as u64;
                    room.removed(&room.streams, ended);
                    post(connection, &events, None, 0, room).await?;
                    return Ok(ended);
                }
            };
            Ok(done.rows_affected())
        }

        async fn count(connection: &mut $connection) -> Result<[u64; 4], sqlx::Error> {
            let counts = sqlx::query(rows::COUNTS).fetch_one(connection).await?;
            Ok([
                counts.number("tokens")?,
                counts.number("devices")?,
                counts.number("streams")?,
                counts.number("events")?,
            ])
        }

        async fn streams(
            connection: &mut $connection,
            viewer: Viewer,
            now: UnixTime,
        ) -> Result<Vec<Stream>, sqlx::Error> {
            let rows = sqlx::query(rows::STREAMS)
                .bind(viewer.as_bytes().as_slice())
                .bind(seconds(now))
                .fetch_all(connection)
                .await?;
            rows.iter().map(rows::stream).collect()
        }

        async fn devices(
            connection: &mut $connection,
            viewer: Viewer,
            now: UnixTime,
        ) -> Result<Vec<Device>, sqlx::Error> {
            let rows = sqlx::query(rows::DEVICES)
                .bind(viewer.as_bytes().as_slice())
                .bind(seconds(now))
                .fetch_all(connection)
                .await?;
            rows.iter().map(rows::device).collect()
        }

        async fn revocations(
            connection: &mut $connection,
            now: UnixTime,
        ) -> Result<Vec<Revocation>, sqlx::Error> {
            let rows = sqlx::query(rows::REVOCATIONS)
                .bind(seconds(now))
                .fetch_all(connection)
                .await?;
            rows.iter().map(rows::revocation).collect()
        }

        async fn take_events(
            connection: &mut $connection,
            hook: &str,
            [now, again]: [UnixTime; 2],
            limit: u32,
        ) -> Result<Vec<Event>, sqlx::Error> {
            let rows = sqlx::query(rows::TAKE_EVENTS)
                .bind(seconds(now))
                .bind(seconds(again))
                .bind(i64::from(limit))
                .bind(hook)
                .fetch_all(connection)
                .await?;
            rows.iter().map(rows::event).collect()
        }
    };
}
pub(super) use rows;
