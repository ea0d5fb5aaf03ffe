//! The access log: one event for each request, when its body has been handed over or dropped.
//!
//! Events have the tracing target `access`, level INFO and these fields; the subscriber adds the time.
//!
//! | field | what |
//! | --- | --- |
//! | `peer` | the client's address, without its port; or the block that it is in: see [`Peers`] |
//! | `protocol` | `h1`, `h2` or `h3` |
//! | `tls` | whether it was encrypted |
//! | `listener` | the listener's name |
//! | `method` | as sent |
//! | `path` | as sent, without its query |
//! | `status` | as answered; 499 if the client left before there was an answer |
//! | `bytes` | of the body, handed to the connection |
//! | `duration_us` | from the head's arrival to the end of the body |
//! | `range` | the `Range` field as sent, at most 64 characters, or nothing |
//! | `route` | the kind of resource, or `none` |
//! | `cut` | whether the body ended before its promised end, by our fault or the client's leaving |
//!
//! Queries, `Authorization` and every other header are left out: tokens travel in them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use http::{Method, StatusCode, Uri, header};

use crate::service::{ConnectionInfo, Request, RouteName};

/// The tracing target of the access log.
pub const TARGET: &str = "access";

/// How much of a client's address a listener's logs have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Peers {
    /// All of it.
    #[default]
    Whole,
    /// The /24 of version 4 or /48 of version 6 that it is in, which is a network's and not a household's.
    Block,
}

impl Peers {
    /// The address as it is written.
    pub(crate) fn show(self, address: IpAddr) -> impl fmt::Display {
        fmt::from_fn(move |f| match (self, address.to_canonical()) {
            (Self::Whole, address) => write!(f, "{address}"),
            (Self::Block, IpAddr::V4(address)) => {
                let [a, b, c, _] = address.octets();
                write!(f, "{}/24", Ipv4Addr::new(a, b, c, 0))
            }
            (Self::Block, IpAddr::V6(address)) => {
                let [a, b, c, ..] = address.segments();
                write!(f, "{}/48", Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0))
            }
        })
    }
}

/// What is known of a request so far. Written when dropped, so that no request goes unseen.
pub(crate) struct Record {
    begun: Instant,
    connection: ConnectionInfo,
    peers: Peers,
    method: Method,
    uri: Uri,
    range: Option<String>,
    route: &'static str,
    status: StatusCode,
    /// Bytes of the body still owed, once there is an answer.
    owed: Option<u64>,
    sent: u64,
}

/// More of a `Range` is not worth its place.
const RANGE_CHARACTERS: usize = 64;

/// nginx's number for a client that closed first; never sent.
const CLIENT_LEFT: u16 = 499;

impl Record {
    pub(crate) fn begin(request: &Request, connection: ConnectionInfo, peers: Peers) -> Self {
        let range = request.headers().get(header::RANGE).map(|range| {
            let text = String::from_utf8_lossy(range.as_bytes());
            text.chars().take(RANGE_CHARACTERS).collect()
        });
        Self {
            begun: Instant::now(),
            connection,
            peers,
            method: request.method().clone(),
            uri: request.uri().clone(),
            range,
            route: "none",
            status: StatusCode::from_u16(CLIENT_LEFT).unwrap_or(StatusCode::BAD_REQUEST),
            owed: None,
            sent: 0,
        }
    }

    pub(crate) fn answered(&mut self, status: StatusCode, route: Option<RouteName>, len: u64) {
        self.status = status;
        self.owed = Some(len);
        if let Some(RouteName(route)) = route {
            self.route = route;
        }
    }

    pub(crate) fn sent(&mut self, bytes: u64) {
        self.sent += bytes;
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let elapsed = self.begun.elapsed();
        let protocol = self.connection.protocol.as_str();
        let cut = self.owed != Some(self.sent);
        tracing::info!(
            target: TARGET,
            peer = %self.peers.show(self.connection.peer.ip()),
            protocol,
            tls = self.connection.tls,
            listener = self.connection.listener,
            method = self.method.as_str(),
            path = self.uri.path(),
            status = self.status.as_u16(),
            bytes = self.sent,
            duration_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
            range = self.range.as_deref(),
            route = self.route,
            cut,
        );
        count(protocol, self.route, self.status, elapsed);
    }
}

/// Handles to the metrics of one kind of answer.
struct Counted {
    requests: metrics::Counter,
    duration: metrics::Histogram,
}

/// Counts an answer. Handles are looked up once for each worker: names and labels cost more than the counting.
fn count(protocol: &'static str, route: &'static str, status: StatusCode, took: Duration) {
    thread_local! {
        static COUNTED: RefCell<HashMap<(&'static str, &'static str, u16), Counted>> = RefCell::default();
    }
    let counted = || Counted {
        requests: metrics::counter!(
            "castellum_http_requests_total",
            "proto" => protocol, "route" => route, "code" => status.as_str().to_owned()
        ),
        duration: metrics::histogram!("castellum_http_request_duration_seconds", "route" => route),
    };
    COUNTED.with_borrow_mut(|known| {
        // As many as there are constants in the program.
        let counted = known
            .entry((protocol, route, status.as_u16()))
            .or_insert_with(counted);
        counted.requests.increment(1);
        counted.duration.record(took);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_a_networks_and_says_so() {
        for (address, whole, block) in [
            ("203.0.113.77", "203.0.113.77", "203.0.113.0/24"),
            ("::ffff:203.0.113.77", "203.0.113.77", "203.0.113.0/24"),
            ("2001:db8:1:2::7", "2001:db8:1:2::7", "2001:db8:1::/48"),
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(Peers::Whole.show(address).to_string(), whole);
            assert_eq!(Peers::Block.show(address).to_string(), block);
        }
    }
}
