//! Which response of an HTTP/3 connection comes first (RFC 9218). Told by the order of their ends, never by time.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod support;

use std::sync::{Arc, Mutex};

use bytes::Buf as _;
use support::{BIG, H3Client, Server};

/// Fetches all of these on one connection, each asked for after the one before, and read only when all have been: so
/// narrow a connection cannot have brought much by then. Says in which order they ended.
async fn order(requests: &[(&'static str, Option<&str>)]) -> Vec<usize> {
    const WINDOW: u32 = 64 << 10;
    let server = Server::start(support::TLS);
    let client = H3Client::with_windows(&server, WINDOW, WINDOW)
        .await
        .unwrap();
    let mut streams = Vec::new();
    for (path, priority) in requests {
        let mut request = http::Request::get(format!("https://localhost{path}"));
        if let Some(priority) = priority {
            request = request.header("priority", *priority);
        }
        let mut stream = client.open(request.body(()).unwrap()).await;
        stream.finish().await.unwrap();
        streams.push(stream);
    }
    let ended = Arc::new(Mutex::new(Vec::new()));
    let mut reading = tokio::task::JoinSet::new();
    for (number, mut stream) in streams.into_iter().enumerate() {
        let ended = Arc::clone(&ended);
        reading.spawn(async move {
            assert_eq!(stream.recv_response().await.unwrap().status(), 200);
            let mut len = 0;
            while let Some(piece) = stream.recv_data().await.unwrap() {
                len += piece.remaining() as u64;
            }
            assert_eq!(len, BIG);
            ended.lock().unwrap().push(number);
        });
    }
    let all = reading.join_all();
    tokio::time::timeout(support::PATIENCE, all).await.unwrap();
    std::mem::take(&mut *ended.lock().unwrap())
}

#[tokio::test]
async fn equals_come_in_the_order_in_which_they_were_asked_for() {
    assert_eq!(order(&[("/big", None); 4]).await, [0, 1, 2, 3]);
}

#[tokio::test]
async fn what_the_client_wants_most_comes_first() {
    let requests = [
        ("/big", Some("u=5")),
        ("/big", None),
        ("/big", Some("malformed=")),
        ("/big", Some("u=1")),
    ];
    assert_eq!(order(&requests).await, [3, 1, 2, 0]);
}

#[tokio::test]
async fn the_service_decides_where_the_client_does_not() {
    let requests = [("/big", None), ("/big", None), ("/soon", None)];
    assert_eq!(order(&requests).await, [2, 0, 1]);
    // As browsers ask for whatever a script fetches.
    let alike = Some("u=1, i");
    let requests = [("/big", alike), ("/big", alike), ("/soon", alike)];
    assert_eq!(order(&requests).await[0], 2);
    let requests = [("/soon", Some("u=4")), ("/big", None), ("/big", None)];
    assert_eq!(order(&requests).await, [1, 2, 0]);
}
