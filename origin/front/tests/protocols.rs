//! The same answers by every protocol, over real sockets. What it cannot catch: faults that our clients' libraries
//! share with the server's (hyper, quinn and h3 stand on both sides); `curl.rs` has other clients.

mod support;

use bytes::{Buf as _, Bytes};
use http::{Method, header};
use support::{BIG, Server, WAYS, Way, pattern};

#[tokio::test]
async fn small_and_large_bodies_arrive_whole() {
    for way in WAYS {
        let server = Server::start(way.transport());
        let hello = way.get(&server, "/hello").await;
        assert_eq!(hello.status, 200);
        assert_eq!(hello.headers[header::CONTENT_LENGTH], "5");
        assert!(hello.headers.contains_key(header::DATE), "{way:?}");
        assert_eq!(hello.body.unwrap(), "hello");

        let big = way.get(&server, "/big").await;
        assert_eq!(big.headers[header::CONTENT_LENGTH], BIG.to_string());
        assert!(big.body.unwrap() == pattern(0..BIG), "{way:?}");

        let empty = way.get(&server, "/empty").await;
        assert_eq!(empty.headers[header::CONTENT_LENGTH], "0");
        assert!(empty.body.unwrap().is_empty());
    }
}

#[tokio::test]
async fn ranges_conditions_and_heads() {
    for way in WAYS {
        let server = Server::start(way.transport());
        let ask = |method, field: (&'static str, &'static str)| {
            let server = &server;
            async move {
                way.ask(server, method, "/big", &[field], Bytes::new())
                    .await
                    .unwrap()
            }
        };
        let part = ask(Method::GET, ("range", "bytes=100000-2000000")).await;
        assert_eq!(part.status, 206);
        assert_eq!(
            part.headers[header::CONTENT_RANGE],
            format!("bytes 100000-2000000/{BIG}")
        );
        assert!(part.body.unwrap() == pattern(100_000..2_000_001), "{way:?}");

        let current = ask(Method::GET, ("if-none-match", "\"big\"")).await;
        assert_eq!(current.status, 304);
        assert_eq!(current.headers[header::ETAG], "\"big\"");
        assert!(current.body.unwrap().is_empty());

        let head = ask(Method::HEAD, ("range", "bytes=0-1")).await;
        assert_eq!(head.status, 200);
        assert_eq!(head.headers[header::CONTENT_LENGTH], BIG.to_string());
        assert!(head.body.unwrap().is_empty());

        let beyond = ask(Method::GET, ("range", "bytes=3000001-")).await;
        assert_eq!(beyond.status, 416);
    }
}

#[tokio::test]
async fn request_bodies_are_read_up_to_their_limit() {
    for way in WAYS {
        let server = Server::start(way.transport());
        let echo = |len: u64| {
            let server = &server;
            async move {
                way.ask(server, Method::POST, "/echo", &[], pattern(0..len))
                    .await
                    .unwrap()
            }
        };
        let whole = echo(1024).await;
        assert_eq!(whole.status, 200);
        assert_eq!(whole.body.unwrap(), pattern(0..1024));
        assert_eq!(echo(1025).await.status, 413, "{way:?}");
    }
}

#[tokio::test]
async fn services_are_told_the_connection() {
    for (way, expected) in [
        (Way::H1, "h1 false 127.0.0.1"),
        (Way::H1Tls, "h1 true 127.0.0.1"),
        (Way::H2c, "h2 false 127.0.0.1"),
        (Way::H2Tls, "h2 true 127.0.0.1"),
        (Way::H3, "h3 true 127.0.0.1"),
    ] {
        let server = Server::start(way.transport());
        let info = way.get(&server, "/info").await;
        assert_eq!(info.body.unwrap(), expected);
    }
}

#[tokio::test]
async fn http3_is_advertised_over_tls_only() {
    for (way, expected) in [
        (Way::H1, false),
        (Way::H1Tls, true),
        (Way::H2c, false),
        (Way::H2Tls, true),
        (Way::H3, false),
    ] {
        let server = Server::start(way.transport());
        let answer = way.get(&server, "/hello").await;
        let advertised = answer.headers.get(header::ALT_SVC);
        let port = format!("h3=\":{}\"; ma=86400", server.address.port());
        assert_eq!(
            advertised.is_some_and(|value| *value == *port),
            expected,
            "{way:?}"
        );
        assert_eq!(advertised.is_some(), expected);
    }
}

#[tokio::test]
async fn an_http3_request_is_answered_before_it_ends() {
    let server = Server::start(support::TLS);
    let client = support::H3Client::connect(&server).await.unwrap();
    // Twice, since a fault in letting go of the first would end the connection.
    for _ in 0..2 {
        let request = http::Request::get("https://localhost/hello");
        let mut stream = client.open(request.body(()).unwrap()).await;
        assert_eq!(stream.recv_response().await.unwrap().status(), 200);
        let mut body = stream.recv_data().await.unwrap().unwrap();
        assert_eq!(body.copy_to_bytes(5), "hello");
        assert!(stream.recv_data().await.unwrap().is_none());
    }
}

/// A GET of `/hello`, which reads no body, in octets: a HEADERS frame of static and literal fields (RFC 9204 B).
const HEAD: &[u8] = b"\x01\x17\x00\x00\xd1\xd7\x50\x09localhost\x51\x06/hello";

/// The beginning of a DATA frame of a mebibyte.
const DATA: &[u8] = b"\x00\x80\x10\x00\x00beginning";

/// Whether a response holds a DATA frame of `hello`; frames that only grease may follow.
fn answers_hello(answer: &[u8]) -> bool {
    answer.windows(7).any(|frame| frame == b"\0\x05hello")
}

#[tokio::test]
async fn an_http3_request_that_ends_late_is_not_stopped() {
    let server = Server::start(support::TLS);
    let client = support::H3Client::connect(&server).await.unwrap();
    // The end comes after the head, after DATA that came with it, and after trailers: `te: trailers` as literals.
    for rest in ["", "\0\x03abc", "\0\x03abc\x01\x0e\0\0\x22te\x08trailers"] {
        let begun = [HEAD, rest.as_bytes()].concat();
        let (mut send, mut receive) = client.quic.open_bi().await.unwrap();
        send.write_all(&begun).await.unwrap();
        let answer = receive.read_to_end(4096).await.unwrap();
        assert!(answers_hello(&answer), "{answer:?}");
        send.finish().unwrap();
        assert_eq!(send.stopped().await, Ok(None));
    }
}

#[tokio::test]
async fn an_http3_body_that_nobody_reads_is_not_read_for_ever() {
    let server = Server::start(support::TLS);
    let client = support::H3Client::connect(&server).await.unwrap();
    let (mut send, mut receive) = client.quic.open_bi().await.unwrap();
    send.write_all(&[HEAD, DATA].concat()).await.unwrap();
    let answer = receive.read_to_end(4096).await.unwrap();
    assert!(answers_hello(&answer), "{answer:?}");
    let sent = send.write_all(&[0; 1 << 20]).await;
    // RFC 9114 4.1: not needed, and not for a fault.
    let no_error = h3::error::Code::H3_NO_ERROR.value();
    assert!(
        matches!(sent, Err(quinn::WriteError::Stopped(code)) if code.into_inner() == no_error),
        "{sent:?}"
    );
}

#[tokio::test]
async fn a_head_of_anything_has_the_length_and_no_body() {
    for way in WAYS {
        let server = Server::start(way.transport());
        let head = way
            .ask(&server, Method::HEAD, "/hello", &[], Bytes::new())
            .await
            .unwrap();
        assert_eq!(head.headers[header::CONTENT_LENGTH], "5", "{way:?}");
        assert!(head.body.unwrap().is_empty());
    }
}
