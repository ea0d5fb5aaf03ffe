//! What clients may cost, and what becomes of those that want more, ask slowly or do not read.

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use conf::{RequestLimits, Transport};
use http::{Method, header};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use origin_front::Limits;
use support::{H3Client, LIMITS, PATIENCE, Server, TLS, WAYS, Way};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Short enough to wait for, and long enough for a slow machine to do what is in order.
const SOON: Duration = Duration::from_secs(3);

#[tokio::test]
async fn beyond_the_requests_in_flight_the_answer_is_503() {
    for way in WAYS {
        let limits = RequestLimits {
            in_flight: 1,
            ..LIMITS
        };
        let server = Server::start_with(way.transport(), Limits::new(limits));
        let (waited, ()) = tokio::join!(way.get(&server, "/wait"), async {
            server.trial.asked.notified().await;
            let refused = way.get(&server, "/hello").await;
            assert_eq!(refused.status, 503, "{way:?}");
            assert_eq!(refused.headers[header::RETRY_AFTER], "1");
            assert_eq!(refused.headers[header::CACHE_CONTROL], "no-store");
            assert_eq!(refused.headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
            server.trial.go.notify_one();
        });
        assert_eq!(waited.status, 200);
    }
}

#[tokio::test]
async fn a_request_is_in_flight_until_its_body_is_taken() {
    let limits = Limits::new(RequestLimits {
        in_flight: 1,
        ..LIMITS
    });
    let server = Server::start_with(Transport::Plain, Arc::clone(&limits));
    let mut reader = TcpStream::connect(server.address).await.unwrap();
    reader
        .write_all(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    reader.read_exact(&mut [0; 100]).await.unwrap();
    assert_eq!(limits.requests_in_flight(), 1);
    assert_eq!(Way::H1.get(&server, "/hello").await.status, 503);
    drop(reader);
    until(|| limits.requests_in_flight() == 0).await;
    assert_eq!(Way::H1.get(&server, "/hello").await.status, 200);
}

#[tokio::test]
async fn beyond_the_connections_new_ones_are_closed() {
    for way in [Way::H1, Way::H2Tls, Way::H3] {
        let limits = Limits::new(RequestLimits {
            connections: 1,
            ..LIMITS
        });
        let server = Server::start_with(way.transport(), Arc::clone(&limits));
        let first = TcpStream::connect(server.address).await.unwrap();
        until(|| limits.connections_open() == 1).await;
        way.ask(&server, Method::GET, "/hello", &[], Bytes::new())
            .await
            .expect_err("one too many");
        drop(first);
        until(|| limits.connections_open() == 0).await;
        assert_eq!(way.get(&server, "/hello").await.status, 200, "{way:?}");
    }
}

#[tokio::test]
async fn heads_that_do_not_end_are_given_up() {
    let limits = Limits::new(RequestLimits {
        header_timeout: SOON,
        ..LIMITS
    });
    let server = Server::start_with(Transport::Plain, limits);
    let begin = async |begin: &str, answers: usize| {
        let answer = server.raw(begin).await;
        assert_eq!(answer.matches("hello").count(), answers, "{begin:?}");
    };
    tokio::join!(
        begin("", 0),
        begin("G", 0),
        begin("PRI * HTTP/2.0\r\n", 0),
        begin("GET /hello HTTP/1.1\r\nHost: a\r\n", 0),
        // A second request on a connection that was in order.
        begin("GET /hello HTTP/1.1\r\nHost: a\r\n\r\nGET /hello", 1),
    );
    // One byte now and then does not help.
    let mut drip = TcpStream::connect(server.address).await.unwrap();
    let dripping = async {
        while drip.write_all(b"G").await.is_ok() {
            tokio::time::sleep(SOON / 4).await;
        }
    };
    tokio::time::timeout(PATIENCE, dripping)
        .await
        .expect("the connection is closed");
}

#[tokio::test]
async fn silent_tls_and_idle_connections_are_closed() {
    let limits = Limits::new(RequestLimits {
        header_timeout: SOON,
        idle_timeout: SOON,
        ..LIMITS
    });
    let server = Server::start_with(TLS, limits);
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    closed(&mut silent).await;

    for protocol in [&b"http/1.1"[..], b"h2"] {
        let mut idle = support::tls(&server, protocol).await.unwrap();
        if protocol == b"h2" {
            let (send, connection) = hyper::client::conn::http2::handshake::<_, _, Empty<Bytes>>(
                TokioExecutor::new(),
                TokioIo::new(idle),
            )
            .await
            .unwrap();
            let _ = tokio::time::timeout(PATIENCE, connection).await.unwrap();
            drop(send);
        } else {
            closed(&mut idle).await;
        }
    }
    let client = H3Client::connect(&server).await.unwrap();
    tokio::time::timeout(PATIENCE, client.quic.closed())
        .await
        .unwrap();
}

#[tokio::test]
async fn clients_that_do_not_read_are_cut_off() {
    let limits = || Limits::with_stall_timeout(LIMITS, SOON);

    // HTTP/1.1: the socket fills up.
    let limits_h1 = limits();
    let server = Server::start_with(Transport::Plain, Arc::clone(&limits_h1));
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream
        .write_all(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    until(|| limits_h1.requests_in_flight() == 1).await;
    until(|| limits_h1.connections_open() == 0).await;
    assert_eq!(limits_h1.requests_in_flight(), 0);

    // HTTP/2: the socket is idle, but the stream's window stays shut.
    let limits_h2 = limits();
    let server = Server::start_with(Transport::Plain, Arc::clone(&limits_h2));
    let io = TokioIo::new(TcpStream::connect(server.address).await.unwrap());
    let (mut send, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("http://localhost/endless");
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let mut response = send.send_request(request).await.unwrap();
    assert_eq!(limits_h2.requests_in_flight(), 1);
    until(|| limits_h2.connections_open() == 0).await;
    let end = async { while let Some(Ok(_)) = response.body_mut().frame().await {} };
    tokio::time::timeout(PATIENCE, end).await.unwrap();
    assert_eq!(limits_h2.requests_in_flight(), 0);

    // HTTP/3: so does the stream's window there.
    let limits_h3 = limits();
    let server = Server::start_with(TLS, Arc::clone(&limits_h3));
    let client = H3Client::connect(&server).await.unwrap();
    let request = http::Request::get("https://localhost/endless");
    let _stream = client.open(request.body(()).unwrap()).await;
    until(|| limits_h3.requests_in_flight() == 1).await;
    until(|| limits_h3.requests_in_flight() == 0).await;
}

#[tokio::test]
async fn streams_reset_in_numbers_end_the_connection() {
    let server = Server::start(Transport::Plain);
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    // Preface, SETTINGS, then HEADERS and RST_STREAM on one stream after another (CVE-2023-44487).
    let mut frames = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    frames.extend(frame(4, 0, 0, &[]));
    // :method GET, :scheme http, :path /, :authority a, from the static table of HPACK.
    let head = [0x82, 0x86, 0x84, 0x41, 0x01, b'a'];
    for id in (1..20_001).step_by(2) {
        frames.extend(frame(1, 0x5, id, &head));
        frames.extend(frame(3, 0, id, &8u32.to_be_bytes()));
    }
    let (mut read, mut write) = stream.split();
    let mut answer = Vec::new();
    let talk = async {
        tokio::join!(async { drop(write.write_all(&frames).await) }, async {
            drop(read.read_to_end(&mut answer).await)
        })
    };
    tokio::time::timeout(PATIENCE, talk)
        .await
        .expect("the connection is closed");
    // GOAWAY with ENHANCE_YOUR_CALM, unless our own unread bytes made the close a reset.
    let calm = [7u8, 0, 0, 0, 0, 0];
    assert!(answer.is_empty() || answer.windows(6).any(|window| window == calm));
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    let mut frame = vec![len[1], len[2], len[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Waits for the end of a connection, in order or by reset.
async fn closed(stream: &mut (impl AsyncRead + Unpin)) {
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest))
        .await
        .expect("the connection is closed");
}

async fn until(holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .expect("it comes to hold");
}
