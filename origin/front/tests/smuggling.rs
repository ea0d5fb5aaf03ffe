//! Requests whose framing parsers may disagree on are refused with 400, and nothing after them on the connection is
//! answered. Written to a raw socket. What it cannot catch: a parser before us that errs in a way not listed here.

mod support;

use conf::Transport;
use support::Server;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A request that would be answered with 200 `hello` if it were seen as one.
const NEXT: &str = "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn ambiguous_requests_are_refused_and_the_connection_closed() {
    let server = Server::start(Transport::Plain);
    for request in [
        // Two lengths.
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: a\r\ncontent-length: 0\r\nCONTENT-LENGTH: 0\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 0, 0\r\n\r\n",
        // Lengths that are no numbers.
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: +0\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 0x0\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1 0\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
        // Codings.
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /echo HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        // Lines.
        "GET /hello HTTP/1.1\nHost: a\n\n",
        "GET /hello HTTP/1.1\r\nHost: a\n\r\n",
        "GET /hello HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
        "GET /hello HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n",
        "GET /hello HTTP/1.1\r\nHost: a\r\n X: b\r\n\r\n",
        "GET /hello HTTP/1.1\r\n Host: a\r\n\r\n",
        // Names.
        "GET /hello HTTP/1.1\r\nHost: a\r\nContent-Length : 0\r\n\r\n",
        "GET /hello HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\t: chunked\r\n\r\n",
        "GET /hello HTTP/1.1\r\nHost: a\r\nX\0: b\r\n\r\n",
        "GET /hello HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
        "GET /hello HTTP/1.1\r\nHost: a\r\nX b\r\n\r\n",
        "GET /hello HTTP/1.1\r\nHost: a\r\nX: b\0c\r\n\r\n",
        // Hosts.
        "GET /hello HTTP/1.1\r\n\r\n",
        "GET /hello HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        // Request lines.
        "GET /hello\r\n\r\n",
        "GET  /hello HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /hello HTTP/1.1 \r\nHost: a\r\n\r\n",
        "GET /hello HTTP/2.0\r\nHost: a\r\n\r\n",
        "GET /hello HTTP/1.2\r\nHost: a\r\n\r\n",
        "GET /hel lo HTTP/1.1\r\nHost: a\r\n\r\n",
        "G\0T /hello HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let answer = server.raw(&format!("{request}{NEXT}")).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 400 "),
            "{request:?}: {answer}"
        );
        assert!(!answer.contains("hello"), "{request:?}: {answer}");
    }
}

#[tokio::test]
async fn broken_chunks_close_the_connection() {
    let server = Server::start(Transport::Plain);
    for chunks in [
        "5\r\nhello",
        "5\r\nhelloX0\r\n\r\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    ] {
        let head = "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream
            .write_all(format!("{head}{chunks}").as_bytes())
            .await
            .unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(!answer.starts_with("HTTP/1.1 200"), "{chunks:?}: {answer}");
    }
}

#[tokio::test]
async fn clear_requests_follow_each_other() {
    let server = Server::start(Transport::Plain);
    let post = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nworld";
    let last = "GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let answer = server.raw(&format!("{NEXT}{post}\r\n{NEXT}{last}")).await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 4, "{answer}");
    assert_eq!(answer.matches("hello").count(), 3, "{answer}");
    assert!(answer.contains("world"), "{answer}");
}

#[tokio::test]
async fn a_chunked_request_is_the_last_of_its_connection() {
    let server = Server::start(Transport::Plain);
    let post = "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nworld\r\n0\r\n\r\n";
    let answer = server.raw(&format!("{post}{NEXT}")).await;
    assert!(answer.contains("world"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    assert!(!answer.contains("hello"), "{answer}");
}

#[tokio::test]
async fn a_refused_request_does_not_hide_the_answer_before_it() {
    let server = Server::start(Transport::Plain);
    let answer = server
        .raw(&format!("{NEXT}GET /hello HTTP/1.1\r\n\r\n"))
        .await;
    assert_eq!(answer.matches("hello").count(), 1, "{answer}");
    assert!(answer.contains("HTTP/1.1 400 "), "{answer}");
}

#[tokio::test]
async fn heads_have_a_limit() {
    let server = Server::start(Transport::Plain);
    for filler in [20_000, 500_000] {
        let long = "y".repeat(filler);
        let request = format!("GET /hello HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n");
        let answer = server.raw(&request).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 431 "),
            "{answer}"
        );
    }
}
