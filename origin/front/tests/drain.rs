//! The end of a process: readiness goes first, then no connection is taken, and what is in flight is finished.

mod support;

use std::time::Duration;

use bytes::Bytes;
use origin_front::Phase;
use support::{H3Client, Server, WAYS, Way};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

#[tokio::test]
async fn what_is_in_flight_is_finished() {
    for way in WAYS {
        let mut server = Server::start(way.transport());
        let (answer, ()) = tokio::join!(way.get(&server, "/wait"), async {
            server.trial.asked.notified().await;
            server.drain.advance(Phase::Closing);
            // The closing must reach the connection before the answer does.
            tokio::time::sleep(Duration::from_millis(50)).await;
            server.trial.go.notify_one();
        });
        assert_eq!(answer.body.unwrap(), "waited", "{way:?}");
        server.ended().await;
        assert!(TcpStream::connect(server.address).await.is_err());
        assert_eq!(server.limits.requests_in_flight(), 0);
        assert_eq!(server.limits.connections_open(), 0);
    }
}

#[tokio::test]
async fn a_leaving_server_still_answers() {
    let server = Server::start(support::TLS);
    server.drain.advance(Phase::Leaving);
    assert!(!server.drain.is_ready());
    for way in [Way::H1Tls, Way::H2Tls, Way::H3] {
        assert_eq!(way.get(&server, "/hello").await.status, 200);
    }
}

#[tokio::test]
async fn idle_connections_do_not_hold_up_the_end() {
    let mut server = Server::start(support::TLS);
    let client = H3Client::connect(&server).await.unwrap();
    let request = || {
        http::Request::get("https://localhost/hello")
            .body(())
            .unwrap()
    };
    client.ask(request(), Bytes::new()).await.unwrap();
    server.drain.advance(Phase::Closing);
    let reason = client.quic.closed().await.to_string();
    assert!(reason.contains("256"), "not H3_NO_ERROR: {reason}");
    server.ended().await;
}

#[tokio::test]
async fn what_is_not_finished_in_time_is_cut() {
    let mut server = Server::start(conf::Transport::Plain);
    let (answer, ()) = tokio::join!(
        Way::H1.ask(&server, http::Method::GET, "/wait", &[], Bytes::new()),
        async {
            server.trial.asked.notified().await;
            server.drain.advance(Phase::Ended);
        }
    );
    answer.unwrap_err();
    server.ended().await;
}

#[tokio::test]
async fn a_connection_that_asks_nothing_is_closed() {
    let mut server = Server::start(conf::Transport::Plain);
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    idle.write_all(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let mut first = [0; 15];
    idle.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    server.drain.advance(Phase::Closing);
    idle.read_to_end(&mut Vec::new()).await.unwrap();
    server.ended().await;
}
