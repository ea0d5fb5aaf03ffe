//! A body that cannot be completed never looks whole, whatever the protocol.

mod support;

use bytes::Bytes;
use http::Method;
use support::{Answer, BIG, Fault, H3Client, Server, WAYS};

/// What broke. A QUIC reset may overtake the head, so the whole answer may be missing.
fn fault(answer: Result<Answer, Fault>) -> Fault {
    match answer {
        Ok(answer) => answer.body.expect_err("a cut body must not look whole"),
        Err(fault) => fault,
    }
}

#[tokio::test]
async fn a_cut_body_is_an_error_to_every_client() {
    for way in WAYS {
        let server = Server::start(way.transport());
        for path in ["/cut", "/cut-at-once", "/short", "/long"] {
            fault(way.ask(&server, Method::GET, path, &[], Bytes::new()).await);
        }
        // The server is none the worse for it.
        assert_eq!(way.get(&server, "/hello").await.body.unwrap(), "hello");
    }
}

#[tokio::test]
async fn other_streams_of_the_connection_go_on() {
    let server = Server::start(support::TLS);
    let client = H3Client::connect(&server).await.unwrap();
    let ask = |path: &str| {
        let request = http::Request::get(format!("https://localhost{path}"));
        client.ask(request.body(()).unwrap(), Bytes::new())
    };
    let (cut, big) = tokio::join!(ask("/cut"), ask("/big"));
    let fault = fault(cut).to_string();
    assert!(fault.contains("H3_INTERNAL_ERROR"), "{fault}");
    assert_eq!(big.unwrap().body.unwrap().len() as u64, BIG);
}
