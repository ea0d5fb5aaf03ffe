//! What every store does, whichever database it is; and that no viewer ever has more streams than allowed, however many
//! clients and nodes ask at once.
//!
//! It cannot show what a crash of the machine loses: PostgreSQL runs without `fsync` here, and nobody pulls a plug.

#![expect(clippy::unwrap_used, reason = "a test's panic is its report")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use keystore_types::KeyId;
use license::store::postgres::Postgres;
use license::store::sqlite::{FILE_NAME, Sqlite};
use license::store::{
    Change, Claim, DeviceUse, Event, Revocation, Revoked, Store, StreamUse, Taken, TokenUse,
    Verdict, Viewer, digest, new_claim, sweep,
};
use license::{ErrorKind, UnixTime};

#[path = "store/claims.rs"]
mod claims;
#[path = "store/history.rs"]
mod history;
#[path = "../../keystore/tests/postgres/mod.rs"]
mod postgres;
#[path = "store/sweeps.rs"]
mod sweeps;
#[path = "store/wiped.rs"]
mod wiped;

use self::claims::{
    a_claim_that_failed_is_given_back, events_wait_for_their_licence,
    of_a_stream_that_ran_out_one_node_tells_once, what_others_share_in_is_not_given_back,
};
use self::history::{Held, History};

/// A store, as each of the nodes that share it has it.
struct Nodes {
    nodes: Vec<Arc<dyn Store>>,
    _folder: tempfile::TempDir,
}

const ROOM: u64 = 1000;

async fn sqlite(capacity: u64) -> Option<Nodes> {
    let folder = tempfile::tempdir().unwrap();
    let store = Sqlite::open(&folder.path().join(FILE_NAME), capacity).unwrap();
    Some(Nodes {
        nodes: vec![Arc::new(store)],
        _folder: folder,
    })
}

/// Two nodes on one database; none where there is no server.
async fn postgresql(capacity: u64) -> Option<Nodes> {
    let server = postgres::server()?;
    let settings = server.settings(&server.database().await);
    let open = || Arc::new(Postgres::open(&settings, capacity).unwrap()) as Arc<dyn Store>;
    Some(Nodes {
        nodes: vec![open(), open()],
        _folder: tempfile::tempdir().unwrap(),
    })
}

/// Every test runs over each.
macro_rules! contract {
    ($($test:ident),+ $(,)?) => {
        contract!(over sqlite, $($test),+);
        contract!(over postgresql, $($test),+);
    };
    (over $database:ident, $($test:ident),+) => {
        mod $database {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                if let Some(nodes) = super::$database(super::ROOM).await {
                    super::$test(nodes).await;
                }
            })+
        }
    };
}

contract!(
    places_are_taken_renewed_released_and_run_out,
    a_refused_claim_takes_nothing,
    a_token_is_used_once_and_its_request_may_come_again,
    one_of_many_uses_a_token,
    devices_are_counted_listed_and_forgotten,
    what_is_revoked_is_seen_by_every_node_until_it_ends,
    what_has_expired_is_removed,
    nothing_is_let_through_that_cannot_be_remembered,
    an_event_is_there_until_it_was_told,
    a_claim_that_failed_is_given_back,
    what_others_share_in_is_not_given_back,
    events_wait_for_their_licence,
    of_a_stream_that_ran_out_one_node_tells_once,
    no_viewer_has_more_streams_than_allowed,
);

const TERM: Duration = Duration::from_secs(60);
const GRACE: Duration = Duration::from_secs(15);
const NEVER: UnixTime = UnixTime::MAX;

fn at(seconds: u64) -> UnixTime {
    UnixTime::from_seconds(1_700_000_000 + seconds)
}

fn ann() -> Viewer {
    Viewer::new("shop", "ann")
}

fn claim(now: UnixTime) -> Claim {
    Claim {
        now,
        viewer: ann(),
        token: None,
        device: None,
        stream: None,
        events_wait: None,
    }
}

fn stream(session: &str, limit: u32) -> Option<StreamUse> {
    Some(StreamUse {
        session: session.to_owned(),
        asset: "film".parse().unwrap(),
        limit,
        term: TERM,
        grace: GRACE,
        claim: new_claim().unwrap(),
        events: Vec::new(),
        expiry: None,
    })
}

fn device(device: &str, limit: u32) -> Option<DeviceUse> {
    Some(DeviceUse {
        device: device.to_owned(),
        limit,
        term: Duration::from_secs(3600),
        claim: new_claim().unwrap(),
        events: Vec::new(),
    })
}

fn token(jti: &str, request: &str) -> Option<TokenUse> {
    Some(TokenUse {
        token: digest(&[b"shop", jti.as_bytes()]),
        request: digest(&[request.as_bytes()]),
        retry: Duration::from_secs(10),
        until: at(300),
        claim: new_claim().unwrap(),
    })
}

const RENEWED: Verdict = Verdict::Granted {
    new_device: false,
    new_stream: false,
};
const BEGUN: Verdict = Verdict::Granted {
    new_device: false,
    new_stream: true,
};

impl Nodes {
    /// Asks the nodes in turn: what one has granted the next one knows.
    async fn admit(&self, claim: Claim) -> Verdict {
        self.take(claim).await.0
    }

    /// The same, and what was taken.
    async fn take(&self, claim: Claim) -> (Verdict, Taken) {
        static TURN: AtomicU32 = AtomicU32::new(0);
        let turn = TURN.fetch_add(1, Ordering::Relaxed) as usize;
        let node = &self.nodes[turn % self.nodes.len()];
        node.admit(claim).await.unwrap()
    }

    async fn stream(&self, session: &str, limit: u32, now: UnixTime) -> Verdict {
        self.admit(Claim {
            stream: stream(session, limit),
            ..claim(now)
        })
        .await
    }

    async fn give_back(&self, taken: Taken) -> u64 {
        let given_back = self.last().change(Change::GiveBack(taken)).await;
        given_back.unwrap()
    }

    fn first(&self) -> &dyn Store {
        &*self.nodes[0]
    }

    fn last(&self) -> &dyn Store {
        &**self.nodes.last().unwrap()
    }
}

async fn swept(node: &dyn Store, now: UnixTime) -> u64 {
    sweep(node, now, &["crm".to_owned()]).await.unwrap()
}

async fn places_are_taken_renewed_released_and_run_out(nodes: Nodes) {
    assert_eq!(nodes.stream("tv", 2, at(0)).await, BEGUN);
    assert_eq!(nodes.stream("phone", 2, at(10)).await, BEGUN);
    let full = Verdict::StreamLimit(at(75));
    assert_eq!(nodes.stream("tablet", 2, at(20)).await, full);
    assert_eq!(nodes.stream("tv", 2, at(30)).await, RENEWED);
    // The phone's place is now the first to be free; its lease is over, its grace is not.
    let full = Verdict::StreamLimit(at(85));
    assert_eq!(nodes.stream("tablet", 2, at(84)).await, full);
    let found = nodes.first().streams(ann(), at(84)).await.unwrap();
    let found: Vec<_> = found
        .iter()
        .map(|stream| (stream.session.as_str(), stream.began, stream.leased))
        .collect();
    assert_eq!(
        found,
        [("phone", at(10), at(70)), ("tv", at(0), at(90))],
        "by session"
    );
    assert_eq!(nodes.stream("tablet", 2, at(85)).await, BEGUN);
    // Too late: another has its place.
    assert!(matches!(
        nodes.stream("phone", 2, at(86)).await,
        Verdict::StreamLimit(_)
    ));
    let release = || Change::Release {
        viewer: ann(),
        session: "tv".to_owned(),
        events: Vec::new(),
    };
    assert_eq!(nodes.last().change(release()).await.unwrap(), 1);
    assert_eq!(nodes.first().change(release()).await.unwrap(), 0);
    assert_eq!(nodes.stream("phone", 2, at(87)).await, BEGUN);
    // Other viewers have places of their own, also those that another issuer calls the same.
    for viewer in [Viewer::new("shop", "bob"), Viewer::new("other", "ann")] {
        let other = Claim {
            viewer,
            stream: stream("tv", 1),
            ..claim(at(87))
        };
        assert_eq!(nodes.admit(other).await, BEGUN);
    }
}

async fn a_refused_claim_takes_nothing(nodes: Nodes) {
    assert_eq!(nodes.stream("tv", 1, at(0)).await, BEGUN);
    let all = |session, now| Claim {
        token: token("t1", "challenge"),
        device: device("d1", 1),
        stream: stream(session, 1),
        ..claim(now)
    };
    let full = Verdict::StreamLimit(at(75));
    assert_eq!(nodes.admit(all("phone", at(1))).await, full);
    assert!(
        nodes
            .first()
            .devices(ann(), at(1))
            .await
            .unwrap()
            .is_empty()
    );
    // The token is as good as new.
    let other = Claim {
        token: token("t1", "another challenge"),
        ..all("tv", at(2))
    };
    let granted = Verdict::Granted {
        new_device: true,
        new_stream: false,
    };
    assert_eq!(nodes.admit(other).await, granted);
    let second = Claim {
        token: token("t2", "challenge"),
        device: device("d2", 1),
        ..all("tv", at(3))
    };
    assert_eq!(nodes.admit(second).await, Verdict::DeviceLimit);
}

/// The attack row "replay".
async fn a_token_is_used_once_and_its_request_may_come_again(nodes: Nodes) {
    let with = |jti, request, now| Claim {
        token: token(jti, request),
        ..claim(now)
    };
    assert_eq!(nodes.admit(with("t1", "a", at(0))).await, RENEWED);
    for now in [at(0), at(5), at(10)] {
        assert_eq!(nodes.admit(with("t1", "a", now)).await, RENEWED, "a retry");
        assert_eq!(nodes.admit(with("t1", "b", now)).await, Verdict::Replayed);
    }
    // The window begins with the first use: retries do not move it.
    assert_eq!(
        nodes.admit(with("t1", "a", at(11))).await,
        Verdict::Replayed
    );
    assert_eq!(nodes.admit(with("t2", "a", at(11))).await, RENEWED);
}

/// The attack row "replay".
async fn one_of_many_uses_a_token(nodes: Nodes) {
    let mut asking = tokio::task::JoinSet::new();
    for number in 0..40_usize {
        let node = Arc::clone(&nodes.nodes[number % nodes.nodes.len()]);
        // A token belongs to one viewer; who copied it says that it is another's, and gains nothing.
        let viewer = Viewer::new("shop", ["ann", "bob"][number % 2]);
        let claim = Claim {
            viewer,
            token: token("t1", &number.to_string()),
            ..claim(at(0))
        };
        asking.spawn(async move { node.admit(claim).await.unwrap().0 });
    }
    let verdicts = asking.join_all().await;
    let granted = verdicts.iter().filter(|verdict| **verdict == RENEWED);
    assert_eq!(granted.count(), 1);
    let refused = verdicts
        .iter()
        .filter(|verdict| **verdict == Verdict::Replayed);
    assert_eq!(refused.count(), 39);
}

async fn devices_are_counted_listed_and_forgotten(nodes: Nodes) {
    let with = |name, now| Claim {
        device: device(name, 2),
        ..claim(now)
    };
    let added = Verdict::Granted {
        new_device: true,
        new_stream: false,
    };
    assert_eq!(nodes.admit(with("tv", at(0))).await, added);
    assert_eq!(nodes.admit(with("phone", at(10))).await, added);
    assert_eq!(nodes.admit(with("tv", at(20))).await, RENEWED);
    assert_eq!(nodes.admit(with("car", at(30))).await, Verdict::DeviceLimit);
    let found = nodes.last().devices(ann(), at(30)).await.unwrap();
    let found: Vec<_> = found
        .iter()
        .map(|device| (device.device.as_str(), device.added, device.seen))
        .collect();
    assert_eq!(found, [("phone", at(10), at(10)), ("tv", at(0), at(20))]);
    let forget = |device: Option<&str>| Change::Forget {
        viewer: ann(),
        device: device.map(str::to_owned),
    };
    let first = nodes.first();
    assert_eq!(first.change(forget(Some("phone"))).await.unwrap(), 1);
    assert_eq!(nodes.admit(with("car", at(40))).await, added);
    assert_eq!(first.change(forget(None)).await.unwrap(), 2);
    assert_eq!(nodes.admit(with("phone", at(50))).await, added);
    // Not used for an hour, a device counts no longer.
    assert_eq!(nodes.admit(with("boat", at(60))).await, added);
    assert_eq!(
        nodes.admit(with("car", at(3649))).await,
        Verdict::DeviceLimit
    );
    assert_eq!(nodes.admit(with("car", at(3650))).await, added);
}

async fn what_is_revoked_is_seen_by_every_node_until_it_ends(nodes: Nodes) {
    let revoked = [
        Revoked::Subject(None, "ann".to_owned()),
        Revoked::Subject(Some("shop".to_owned()), "ann".to_owned()),
        Revoked::Token(Some("shop".to_owned()), "t1".to_owned()),
        Revoked::Key(KeyId::new([7; 16])),
    ];
    for what in &revoked {
        let revocation = Revocation {
            what: what.clone(),
            made: at(0),
            until: if matches!(what, Revoked::Token(..)) {
                at(100)
            } else {
                NEVER
            },
        };
        let change = Change::Revoke(revocation);
        assert_eq!(nodes.first().change(change.clone()).await.unwrap(), 1);
        nodes.first().change(change).await.unwrap();
    }
    let seen = async |now| {
        let mut seen = Vec::new();
        for revocation in nodes.last().revocations(now).await.unwrap() {
            assert_eq!(revocation.made, at(0));
            seen.push(revocation.what);
        }
        seen
    };
    let found = seen(at(99)).await;
    assert_eq!(found.len(), 4);
    assert!(revoked.iter().all(|what| found.contains(what)), "{found:?}");
    let found = seen(at(100)).await;
    assert_eq!(found.len(), 3, "the token's is over");
    let back = Change::Reinstate(revoked[0].clone());
    assert_eq!(nodes.last().change(back.clone()).await.unwrap(), 1);
    assert_eq!(nodes.last().change(back).await.unwrap(), 0);
    let found = seen(at(100)).await;
    assert_eq!(found.len(), 2);
    assert!(found.contains(&revoked[1]), "that of one issuer stays");
}

async fn what_has_expired_is_removed(nodes: Nodes) {
    let all = Claim {
        token: token("t1", "challenge"),
        device: device("d1", 1),
        stream: stream("tv", 1),
        ..claim(at(0))
    };
    nodes.admit(all).await;
    let revocation = Revocation {
        what: Revoked::Token(None, "t1".to_owned()),
        made: at(0),
        until: at(100),
    };
    nodes
        .first()
        .change(Change::Revoke(revocation))
        .await
        .unwrap();
    for (now, removed) in [
        (at(74), 0),
        (at(75), 1),  // the stream
        (at(100), 1), // the revocation
        (at(299), 0),
        (at(300), 1),  // the token
        (at(3600), 1), // the device
        (at(9999), 0),
    ] {
        assert_eq!(swept(nodes.last(), now).await, removed, "{now:?}");
    }
}

/// PostgreSQL has no text with a NUL in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_the_database_refuses_stops_nobody() {
    let Some(nodes) = postgresql(ROOM).await else {
        return;
    };
    let node = nodes.first();
    for expected in [BEGUN, RENEWED, RENEWED] {
        let refused = Claim {
            viewer: Viewer::new("shop", "eve"),
            stream: stream("a\0b", 2),
            ..claim(at(0))
        };
        node.admit(refused).await.unwrap_err();
        let good = Claim {
            stream: stream("tv", 2),
            ..claim(at(0))
        };
        assert_eq!(node.admit(good).await.unwrap().0, expected);
    }
}

/// The attack row "replay".
async fn nothing_is_let_through_that_cannot_be_remembered(nodes: Nodes) {
    let node = nodes.first();
    for number in 0..ROOM {
        let claim = Claim {
            viewer: Viewer::new("shop", &number.to_string()),
            token: token(&number.to_string(), "challenge"),
            ..claim(at(0))
        };
        assert_eq!(node.admit(claim).await.unwrap().0, RENEWED);
    }
    let one_more = || Claim {
        token: token("one more", "challenge"),
        ..claim(at(0))
    };
    assert_eq!(node.admit(one_more()).await.unwrap().0, Verdict::Full);
    // Retries need no room, nor do other tables.
    let again = Claim {
        token: token("7", "challenge"),
        stream: stream("tv", 1),
        ..claim(at(1))
    };
    assert_eq!(node.admit(again).await.unwrap().0, BEGUN);
    // Another node knows when it has counted.
    assert_eq!(swept(nodes.last(), at(2)).await, 0);
    let refused = nodes.last().admit(one_more()).await.unwrap();
    assert_eq!(refused.0, Verdict::Full);
    assert_eq!(swept(node, at(300)).await, ROOM + 1);
    assert_eq!(node.admit(one_more()).await.unwrap().0, RENEWED);
}

async fn an_event_is_there_until_it_was_told(nodes: Nodes) {
    let event = |id: &str| Event {
        id: id.to_owned(),
        hook: "crm".to_owned(),
        body: format!("{{\"id\":\"{id}\"}}"),
        made: at(0),
        attempts: 0,
    };
    let post = Change::Post(vec![event("a"), event("b")]);
    assert_eq!(nodes.first().change(post).await.unwrap(), 2);
    let take = async |node: &dyn Store, now, again| {
        let taken = node.take_events("crm", now, again, 10).await.unwrap();
        let mut ids: Vec<_> = taken
            .into_iter()
            .map(|event| (event.id, event.attempts))
            .collect();
        ids.sort();
        ids
    };
    let a = |attempts| ("a".to_owned(), attempts);
    let b = |attempts| ("b".to_owned(), attempts);
    let (first, last) = (nodes.first(), nodes.last());
    let others = last.take_events("other", at(1), at(30), 10);
    assert_eq!(others.await.unwrap(), [], "another hook has none");
    assert_eq!(take(last, at(1), at(30)).await, [a(1), b(1)]);
    assert_eq!(take(first, at(29), at(60)).await, [], "another has them");
    let told = Change::Told("a".to_owned());
    assert_eq!(last.change(told).await.unwrap(), 1);
    let delay = Change::Delay {
        id: "b".to_owned(),
        due: at(90),
    };
    assert_eq!(last.change(delay).await.unwrap(), 1);
    assert_eq!(take(first, at(89), at(99)).await, []);
    assert_eq!(take(first, at(90), at(120)).await, [b(2)]);
    // There is an end to it, a week after.
    assert_eq!(swept(first, at(604_800)).await, 1);
    let many = (0..=ROOM).map(|number| event(&number.to_string()));
    let too_many = Change::Post(many.collect());
    assert_eq!(first.change(too_many).await.unwrap(), ROOM);
}

const LIMIT: u32 = 2;
const VIEWERS: usize = 3;
const CLIENTS: usize = 7;

/// Time runs at some 300 seconds a second; nodes' clocks stand apart by up to the grace.
async fn no_viewer_has_more_streams_than_allowed(nodes: Nodes) {
    let clock = Arc::new(AtomicU64::new(0));
    let history = Arc::new(History::default());
    let end = 1500;
    let ticking = {
        let clock = Arc::clone(&clock);
        tokio::spawn(async move {
            while clock.fetch_add(1, Ordering::SeqCst) < end {
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
        })
    };
    let mut clients = tokio::task::JoinSet::new();
    for viewer in 0..VIEWERS {
        for client in 0..CLIENTS {
            let clock = Arc::clone(&clock);
            let history = Arc::clone(&history);
            let all: Vec<_> = nodes.nodes.clone();
            clients.spawn(async move {
                let mut random = Random(1 + (viewer * CLIENTS + client) as u64);
                let mut session = 0;
                let mut holding = false;
                while clock.load(Ordering::SeqCst) < end {
                    let index = usize::try_from(random.below(all.len() as u64)).unwrap();
                    // The last node's clock is ahead, by less than the grace.
                    let ahead = if index > 0 { GRACE.as_secs() - 1 } else { 0 };
                    let asked = clock.load(Ordering::SeqCst);
                    let name = format!("{client}-{session}");
                    let held = Held {
                        viewer,
                        session: name.clone(),
                        from: asked,
                        to: asked + TERM.as_secs(),
                    };
                    if holding && random.below(4) == 0 {
                        // A viewer stops first, and says so afterwards.
                        history.end(&held, asked);
                        let release = Change::Release {
                            viewer: Viewer::new("shop", &viewer.to_string()),
                            session: name,
                            events: Vec::new(),
                        };
                        all[index].change(release).await.unwrap();
                        (holding, session) = (false, session + 1);
                    } else {
                        let asking = || Claim {
                            viewer: Viewer::new("shop", &viewer.to_string()),
                            stream: stream(&name, LIMIT),
                            ..claim(at(asked + ahead))
                        };
                        let (verdict, mut taken) = all[index].admit(asking()).await.unwrap();
                        let mut granted = matches!(verdict, Verdict::Granted { .. });
                        // Often the licence fails, and at times a retry was granted before that.
                        if granted && random.below(3) == 0 {
                            let mut failed = taken;
                            if random.below(2) == 0 {
                                (granted, taken) = (false, Taken::default());
                            } else {
                                let retried = all[index].admit(asking()).await.unwrap();
                                granted = matches!(retried.0, Verdict::Granted { .. });
                                taken = retried.1;
                                // Either may be the one that fails.
                                if random.below(2) == 0 {
                                    std::mem::swap(&mut failed, &mut taken);
                                }
                            }
                            let given_back = Change::GiveBack(failed);
                            all[index].change(given_back).await.unwrap();
                        }
                        drop(taken);
                        // It plays from the answer on, for as long as the lease that it asked for lasts. A renewal that
                        // fails leaves it the lease that it has.
                        let from = clock.load(Ordering::SeqCst);
                        holding |= granted;
                        if granted {
                            history.hold(Held { from, ..held });
                        }
                    }
                    // Mostly in time for a renewal, sometimes too late for it.
                    let pause = random.below(TERM.as_secs() + GRACE.as_secs() + 5);
                    let until = clock.load(Ordering::SeqCst) + if holding { pause } else { 2 };
                    while clock.load(Ordering::SeqCst) < until.min(end) {
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                }
            });
        }
    }
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    ticking.await.unwrap();
    let most = history.most_at_once();
    assert!(
        most <= LIMIT as usize,
        "{most} streams of one viewer at once"
    );
    // Otherwise nothing was tried.
    assert_eq!(most, LIMIT as usize);
    assert!(history.len() > 100, "only {} leases", history.len());
}

/// Splitmix64: as random as it need be, and the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

#[tokio::test]
async fn what_a_newer_program_has_written_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE_NAME);
    drop(Sqlite::open(&path, ROOM).unwrap());
    let written = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
    let mut connection = sqlx::ConnectOptions::connect(&written).await.unwrap();
    let version = sqlx::raw_sql("PRAGMA user_version = 9");
    version.execute(&mut connection).await.unwrap();
    sqlx::Connection::close(connection).await.unwrap();
    let error = Sqlite::open(&path, ROOM).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("version 9"), "{error}");

    let Some(server) = postgres::server() else {
        return;
    };
    let database = server.database().await;
    let settings = server.settings(&database);
    drop(Postgres::open(&settings, ROOM).unwrap());
    let mut connection = server.connect(&database).await;
    let version = sqlx::raw_sql("INSERT INTO license.migration (version) VALUES (9)");
    version.execute(&mut connection).await.unwrap();
    let error = Postgres::open(&settings, ROOM).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_comes_back_is_used_again() {
    let Some(server) = postgres::Server::start() else {
        return;
    };
    let settings = server.settings(&server.database().await);
    let store = Postgres::open(&settings, ROOM).unwrap();
    let with = |session, now| Claim {
        token: token(session, "challenge"),
        stream: stream(session, 1),
        ..claim(now)
    };
    assert_eq!(store.admit(with("tv", at(0))).await.unwrap().0, BEGUN);
    server.stop();
    let error = store.admit(with("tv", at(1))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    server.start_again();
    // The server was killed: leases are gone, and said to be so; tokens that were used are not.
    let seen_again = async {
        loop {
            match store.admit(with("phone", at(2))).await {
                Ok((verdict, _)) => return verdict,
                Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let verdict = tokio::time::timeout(Duration::from_secs(60), seen_again).await;
    assert_eq!(verdict.expect("it is not seen"), BEGUN);
    let replay = Claim {
        token: token("tv", "another"),
        ..claim(at(2))
    };
    assert_eq!(store.admit(replay).await.unwrap().0, Verdict::Replayed);
}

#[test]
fn sqlite_keeps_everything_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE_NAME);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for verdict in [BEGUN, RENEWED] {
        let store = Sqlite::open(&path, ROOM).unwrap();
        let claim = Claim {
            token: token("t1", "challenge"),
            stream: stream("tv", 1),
            ..claim(at(0))
        };
        assert_eq!(runtime.block_on(store.admit(claim)).unwrap().0, verdict);
    }
}
