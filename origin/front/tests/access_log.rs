//! What the access log says of a request, and what it never says.
//!
//! One test only: it installs the process's subscriber.
#![expect(clippy::unwrap_used, reason = "in what the tests share, too")]

mod support;

use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::Method;
use serde_json::Value;
use support::{BIG, Server, WAYS, Way};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// The access events so far, which are then forgotten.
    fn take(&self) -> Vec<Value> {
        let text = std::mem::take(&mut *self.0.lock().unwrap());
        let text = String::from_utf8(text).unwrap();
        assert!(!text.contains("secret"), "{text}");
        text.lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .filter(|event| event["target"] == origin_front::access_log::TARGET)
            .map(|event| event["fields"].clone())
            .collect()
    }
}

#[tokio::test]
async fn one_event_for_each_request_and_no_secret() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .json()
        .with_max_level(tracing::Level::DEBUG)
        .with_writer(move || writer.clone())
        .init();

    for way in WAYS {
        let mut server = Server::start(way.transport());
        let ask = |path: &'static str, fields: &'static [(&'static str, &'static str)]| {
            way.ask(&server, Method::GET, path, fields, Bytes::new())
        };
        let hello = ask(
            "/hello?token=secret",
            &[("authorization", "Bearer secret"), ("cookie", "secret")],
        );
        hello.await.unwrap();
        ask("/big", &[("range", "bytes=0-99")]).await.unwrap();
        let _ = ask("/cut", &[]).await;
        server.drain.advance(origin_front::Phase::Closing);
        server.ended().await;

        let events = log.take();
        let [hello, part, cut] = events.as_slice() else {
            panic!("{way:?}: three requests, but {events:?}");
        };
        let protocol = match way {
            Way::H1 | Way::H1Tls => "h1",
            Way::H2c | Way::H2Tls => "h2",
            Way::H3 => "h3",
        };
        assert_eq!(hello["protocol"], protocol);
        assert_eq!(hello["peer"], "127.0.0.1");
        assert_eq!(hello["tls"], !matches!(way, Way::H1 | Way::H2c));
        assert_eq!(hello["listener"], "trial");
        assert_eq!(hello["method"], "GET");
        assert_eq!(hello["path"], "/hello");
        assert_eq!(hello["status"], 200);
        assert_eq!(hello["bytes"], 5);
        assert_eq!(hello["route"], "trial");
        assert_eq!(hello["cut"], false);
        assert!(hello["duration_us"].is_u64());
        assert_eq!(part["range"], "bytes=0-99");
        assert_eq!(part["status"], 206);
        assert_eq!(part["bytes"], 100);
        assert_eq!(cut["path"], "/cut");
        assert_eq!(cut["cut"], true);
        assert!(cut["bytes"].as_u64().unwrap() < BIG);
    }
}
