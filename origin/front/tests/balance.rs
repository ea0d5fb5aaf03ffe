//! Few connections, as a CDN keeps them, are shared out evenly among the workers.
#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod support;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use conf::{ListenerSettings, Transport};
use origin_front::{Body, Bound, Drain, Limits, Phase, Request, Response, Service, Workers};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Answers with the name of the worker's thread.
#[derive(Clone)]
struct Where;

impl Service for Where {
    async fn call(&self, _: Request) -> Response {
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        Response::new(Body::full(name))
    }
}

async fn ask(connection: &mut TcpStream) -> String {
    let request = b"GET / HTTP/1.1\r\nHost: balance\r\n\r\n";
    connection.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"trial-0") && !answer.ends_with(b"trial-1") {
        assert_ne!(connection.read_buf(&mut answer).await.unwrap(), 0);
    }
    String::from_utf8(answer.split_off(answer.len() - 7)).unwrap()
}

#[tokio::test]
async fn four_connections_are_two_for_each_of_two_workers() {
    let settings = ListenerSettings {
        address: "127.0.0.1:0".parse().unwrap(),
        transport: Transport::Plain,
    };
    let bound = Bound::open("trial", &settings, None, 2).unwrap();
    let address = bound.address();
    let (limits, drain) = (Limits::new(support::LIMITS), Drain::new());
    let two = NonZeroUsize::new(2).unwrap();
    let workers = Workers::start("trial", two, vec![bound], || Where, &limits, &drain).unwrap();
    for _ in 0..20 {
        let mut connections = Vec::new();
        let mut served = BTreeMap::<String, usize>::new();
        for _ in 0..4 {
            let mut connection = TcpStream::connect(address).await.unwrap();
            *served.entry(ask(&mut connection).await).or_default() += 1;
            connections.push(connection);
        }
        assert_eq!(served.into_values().collect::<Vec<_>>(), [2, 2]);
        drop(connections);
        // The server has seen the last of them close when it counts none.
        while limits.connections_open() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    drain.advance(Phase::Closing);
    workers.ended().await;
}
