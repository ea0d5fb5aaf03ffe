//! What becomes of a claim whose licence fails, and of what is to be told of it.

use license::store::Expiry;

use super::*;

/// A token, a device and a stream.
fn everything(now: UnixTime, request: &str) -> Claim {
    Claim {
        token: token("t1", request),
        device: device("d1", 1),
        stream: stream("tv", 1),
        ..claim(now)
    }
}

const ALL_NEW: Verdict = Verdict::Granted {
    new_device: true,
    new_stream: true,
};

pub async fn a_claim_that_failed_is_given_back(nodes: Nodes) {
    let (verdict, taken) = nodes.take(everything(at(0), "challenge")).await;
    assert_eq!(verdict, ALL_NEW);
    assert_eq!(nodes.give_back(taken.clone()).await, 3);
    assert_eq!(nodes.give_back(taken).await, 0, "there is nothing more");
    // The viewer is as before: also another device and another session may be had, by another challenge.
    let other = || Claim {
        device: device("d2", 1),
        stream: stream("phone", 1),
        ..everything(at(1), "another challenge")
    };
    assert_eq!(nodes.admit(other()).await, ALL_NEW);

    // What was there before a claim is there after it.
    let (verdict, taken) = nodes.take(other()).await;
    assert_eq!(verdict, RENEWED);
    assert_eq!(nodes.give_back(taken).await, 0);
    let replayed = everything(at(2), "challenge");
    assert_eq!(nodes.admit(replayed).await, Verdict::Replayed);
    let (streams, devices) = (
        nodes.first().streams(ann(), at(2)).await.unwrap(),
        nodes.first().devices(ann(), at(2)).await.unwrap(),
    );
    assert_eq!((streams.len(), devices.len()), (1, 1));
}

pub async fn what_others_share_in_is_not_given_back(nodes: Nodes) {
    // A retry was granted while the first try still went on.
    let (_, first) = nodes.take(everything(at(0), "challenge")).await;
    let (verdict, retry) = nodes.take(everything(at(1), "challenge")).await;
    assert_eq!(verdict, RENEWED);
    assert_eq!(nodes.give_back(first).await, 0);
    let other = everything(at(2), "another");
    assert_eq!(nodes.admit(other).await, Verdict::Replayed);
    let phone = nodes.stream("phone", 1, at(2)).await;
    assert!(matches!(phone, Verdict::StreamLimit(_)));
    // It fails as well.
    assert_eq!(nodes.give_back(retry).await, 3);

    // The player renews while a licence of its stream is on its way.
    let (_, first) = nodes.take(everything(at(3), "challenge")).await;
    assert_eq!(nodes.stream("tv", 1, at(4)).await, RENEWED);
    assert_eq!(
        nodes.give_back(first).await,
        2,
        "the token's use and the device"
    );
    assert_eq!(nodes.first().streams(ann(), at(4)).await.unwrap().len(), 1);

    // What was released and begun anew is not what was given back, though it bears the same name.
    let (_, late) = nodes.take(everything(at(5), "challenge")).await;
    let release = Change::Release {
        viewer: ann(),
        session: "tv".to_owned(),
        events: Vec::new(),
    };
    nodes.first().change(release).await.unwrap();
    let forget = Change::Forget {
        viewer: ann(),
        device: None,
    };
    nodes.first().change(forget).await.unwrap();
    let again = Claim {
        token: None,
        ..everything(at(5), "")
    };
    assert_eq!(nodes.admit(again).await, ALL_NEW);
    assert_eq!(nodes.give_back(late).await, 1, "the token's use alone");
    let phone = nodes.stream("phone", 1, at(6)).await;
    assert!(matches!(phone, Verdict::StreamLimit(_)));
    // Nor is what ran out and began anew.
    let with = |now| Claim {
        stream: stream("tv", 1),
        ..claim(now)
    };
    let (_, late) = nodes.take(with(at(100))).await;
    assert_eq!(nodes.admit(with(at(180))).await, BEGUN);
    assert_eq!(nodes.give_back(late).await, 0);
}

fn event(id: &str, now: UnixTime) -> Vec<Event> {
    vec![Event {
        id: id.to_owned(),
        hook: "crm".to_owned(),
        body: "{}".to_owned(),
        made: now,
        attempts: 0,
    }]
}

/// The ids of the events that are due. They are due no more.
async fn due(nodes: &Nodes, now: UnixTime) -> Vec<String> {
    let due = nodes.last().take_events("crm", now, NEVER, 100).await;
    let mut due: Vec<_> = due.unwrap().into_iter().map(|event| event.id).collect();
    due.sort();
    due
}

pub async fn events_wait_for_their_licence(nodes: Nodes) {
    let with = |id: &str, now| {
        let mut claim = Claim {
            events_wait: Some(at(600)),
            ..everything(now, "challenge")
        };
        let device = claim.device.as_mut().unwrap();
        device.events = event(&format!("{id} device"), now);
        let stream = claim.stream.as_mut().unwrap();
        stream.events = event(&format!("{id} stream"), now);
        claim
    };
    let none: [&str; 0] = [];
    let (_, failed) = nodes.take(with("failed", at(0))).await;
    assert_eq!(due(&nodes, at(1)).await, none, "it is not known yet");
    nodes.give_back(failed).await;
    assert_eq!(due(&nodes, at(9999)).await, none, "nothing happened");

    let (_, first) = nodes.take(with("first", at(2))).await;
    // Who shares in it begins nothing, and has nothing to tell.
    let (_, retry) = nodes.take(with("retry", at(3))).await;
    assert!(retry.untold, "but what the first has");
    nodes.give_back(first).await;
    assert_eq!(due(&nodes, at(4)).await, none);
    let settle = Change::Settle(retry);
    assert_eq!(nodes.first().change(settle).await.unwrap(), 2);
    let told = ["first device", "first stream"];
    assert_eq!(due(&nodes, at(4)).await, told);
    let (_, settled) = nodes.take(with("settled", at(4))).await;
    assert!(!settled.untold);

    // The server ended before it could say: what was taken is taken, and told.
    let other = Claim {
        token: token("t2", "challenge"),
        device: device("d2", 2),
        ..with("killed", at(5))
    };
    let mut other = other;
    other.device.as_mut().unwrap().events = event("killed device", at(5));
    let (_, _killed) = nodes.take(other).await;
    assert_eq!(due(&nodes, at(599)).await, none);
    assert_eq!(due(&nodes, at(600)).await, ["killed device"]);

    // What waits for no licence is due at once, and the end of a stream is told if there was one.
    let renewed = Claim {
        stream: stream("phone", 9).map(|stream| StreamUse {
            events: event("phone", at(6)),
            ..stream
        }),
        ..claim(at(6))
    };
    nodes.take(renewed).await;
    assert_eq!(due(&nodes, at(6)).await, ["phone"]);
    let release = |id| Change::Release {
        viewer: ann(),
        session: "phone".to_owned(),
        events: event(id, at(7)),
    };
    for id in ["ended", "ended again"] {
        nodes.first().change(release(id)).await.unwrap();
    }
    assert_eq!(due(&nodes, at(7)).await, ["ended"]);
}

pub async fn of_a_stream_that_ran_out_one_node_tells_once(nodes: Nodes) {
    let with = |session: &str, now| {
        let expiry = Expiry {
            hooks: vec!["crm".to_owned()],
            data: format!(r#"{{"asset":"{session}"}}"#),
        };
        Claim {
            stream: stream(session, 9).map(|stream| StreamUse {
                expiry: Some(expiry),
                ..stream
            }),
            ..claim(now)
        }
    };
    let heard = async || {
        let taken = nodes.last().take_events("crm", at(9999), NEVER, 100).await;
        let mut heard: Vec<_> = taken.unwrap().into_iter().map(|it| it.body).collect();
        heard.sort();
        heard
    };
    let expired = |session: &str, until: UnixTime| {
        let until = until.as_seconds();
        format!(
            r#"{{"type":"session_expired","timestamp":{until},"data":{{"asset":"{session}"}}}}"#
        )
    };
    for session in ["ended", "failed", "gone", "renewed", "untold"] {
        let mut claim = with(session, at(0));
        if session == "untold" {
            claim.stream.as_mut().unwrap().expiry = None;
        }
        let (_, taken) = nodes.take(claim).await;
        if session == "failed" {
            assert_eq!(nodes.give_back(taken).await, 1);
        }
    }
    let release = Change::Release {
        viewer: ann(),
        session: "ended".to_owned(),
        events: Vec::new(),
    };
    nodes.first().change(release).await.unwrap();
    nodes.admit(with("renewed", at(50))).await;
    assert_eq!(swept(nodes.first(), at(74)).await, 0);
    assert_eq!(heard().await, [""; 0]);
    // All nodes sweep at once, again and again.
    let mut sweeping = tokio::task::JoinSet::new();
    for number in 0..20 {
        let node = Arc::clone(&nodes.nodes[number % nodes.nodes.len()]);
        sweeping.spawn(async move { swept(&*node, at(75)).await });
    }
    let removed: u64 = sweeping.join_all().await.into_iter().sum();
    assert_eq!(
        removed, 2,
        "the one that is gone, and the one that is untold"
    );
    assert_eq!(heard().await, [expired("gone", at(75))]);
    // One that begins again before it is swept ran out all the same.
    assert_eq!(nodes.admit(with("renewed", at(130))).await, BEGUN);
    assert_eq!(heard().await, [expired("renewed", at(125))]);
    assert_eq!(swept(nodes.first(), at(205)).await, 1);
    assert_eq!(heard().await, [expired("renewed", at(205))]);
}

/// The capacity bounds what is there, not what was asked for: no sweep comes in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_there_no_more_takes_no_room() {
    for nodes in [sqlite(1).await, postgresql(1).await].into_iter().flatten() {
        let node = nodes.first();
        let full = Claim {
            viewer: Viewer::new("shop", "bob"),
            ..everything(at(0), "challenge")
        };
        for round in 0..3 {
            let mut claim = Claim {
                events_wait: Some(at(600)),
                ..everything(at(round), "challenge")
            };
            let id = format!("failed {round}");
            claim.stream.as_mut().unwrap().events = event(&id, at(round));
            let (verdict, failed) = node.admit(claim).await.unwrap();
            assert_eq!(verdict, ALL_NEW);
            assert!(failed.untold, "there was room for the event");
            let other = Claim {
                token: token("t2", "challenge"),
                ..full.clone()
            };
            assert_eq!(node.admit(other).await.unwrap().0, Verdict::Full);
            let given_back = node.change(Change::GiveBack(failed)).await;
            assert_eq!(given_back.unwrap(), 3);
        }
        for round in 3..6 {
            let claim = Claim {
                token: None,
                ..everything(at(round), "")
            };
            assert_eq!(node.admit(claim).await.unwrap().0, ALL_NEW);
            let id = format!("ended {round}");
            let ended = [
                Change::Release {
                    viewer: ann(),
                    session: "tv".to_owned(),
                    events: event(&id, at(round)),
                },
                Change::Forget {
                    viewer: ann(),
                    device: None,
                },
                Change::Told(id),
            ];
            for change in ended {
                assert_eq!(node.change(change).await.unwrap(), 1);
            }
        }
    }
}

/// What a version before claims could fail has written is read on.
#[tokio::test]
async fn an_older_database_is_brought_up_to_date() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE_NAME);
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(&path)
        .create_if_missing(true);
    let mut connection = sqlx::ConnectOptions::connect(&options).await.unwrap();
    let first = include_str!("../../src/store/migrations/sqlite_0001_initial.sql");
    let insert = sqlx::AssertSqlSafe(format!(
        "{first} INSERT INTO stream VALUES (x'{}', 'tv', 'film', {now}, {now} + 60, {now} + 75)",
        ann()
            .as_bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>(),
        now = at(0).as_seconds(),
    ));
    let done = sqlx::raw_sql(insert).execute(&mut connection).await;
    done.unwrap();
    sqlx::Connection::close(connection).await.unwrap();
    let store = Sqlite::open(&path, ROOM).unwrap();
    let with = Claim {
        stream: stream("tv", 1),
        ..claim(at(1))
    };
    let (verdict, taken) = store.admit(with).await.unwrap();
    assert_eq!(verdict, RENEWED);
    let given_back = store.change(Change::GiveBack(taken)).await.unwrap();
    assert_eq!(given_back, 0, "it was there before");
}
