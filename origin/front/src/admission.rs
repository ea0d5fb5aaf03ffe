//! How much is taken on at once. Beyond it new work is refused at once, so that what was begun can end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use conf::RequestLimits;

/// Bounds on what clients may cost, with the counts that they bound; shared by all workers. One set may serve
/// several listeners; roles that must not starve each other have their own.
///
/// Above `connections` new ones are closed at once; above `in_flight` the answer is 503. A request is in flight
/// until its body has been handed over or dropped.
#[derive(Debug)]
pub struct Limits {
    settings: RequestLimits,
    stall_timeout: Duration,
    connections: AtomicUsize,
    requests: AtomicUsize,
}

/// How long a client may take no byte of what is sent to it. The kernel frees no room in a socket before a third
/// of its buffer has been read, so a client that reads a few bytes now and then does not get round this.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

impl Limits {
    /// Nothing open, nothing in flight.
    pub fn new(settings: RequestLimits) -> Arc<Self> {
        Self::with_stall_timeout(settings, STALL_TIMEOUT)
    }

    /// The same with another patience for clients that stop reading (30 s otherwise).
    pub fn with_stall_timeout(settings: RequestLimits, stall_timeout: Duration) -> Arc<Self> {
        Arc::new(Self {
            settings,
            stall_timeout,
            connections: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
        })
    }

    /// The bounds.
    pub fn settings(&self) -> &RequestLimits {
        &self.settings
    }

    pub(crate) fn stall_timeout(&self) -> Duration {
        self.stall_timeout
    }

    /// Requests in flight now.
    pub fn requests_in_flight(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// Connections open now.
    pub fn connections_open(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub(crate) fn admit_connection(self: &Arc<Self>) -> Option<Permit> {
        self.admit(
            "connections",
            |limits| &limits.connections,
            self.settings.connections,
        )
    }

    pub(crate) fn admit_request(self: &Arc<Self>) -> Option<Permit> {
        self.admit(
            "requests",
            |limits| &limits.requests,
            self.settings.in_flight,
        )
    }

    fn admit(
        self: &Arc<Self>,
        reason: &'static str,
        count: fn(&Self) -> &AtomicUsize,
        limit: usize,
    ) -> Option<Permit> {
        // Counting first and looking afterwards never lets one too many in, whoever races.
        let before = count(self).fetch_add(1, Ordering::Relaxed);
        let permit = Permit {
            limits: Arc::clone(self),
            count,
        };
        if before < limit {
            return Some(permit);
        }
        metrics::counter!("castellum_shed_total", "reason" => reason).increment(1);
        None
    }
}

/// A place among what is counted, given back when dropped.
pub(crate) struct Permit {
    limits: Arc<Limits>,
    count: fn(&Limits) -> &AtomicUsize,
}

impl Drop for Permit {
    fn drop(&mut self) {
        (self.count)(&self.limits).fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: RequestLimits = RequestLimits {
        header_bytes: 16 * 1024,
        header_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(75),
        connections: 10,
        in_flight: 10,
        streams: 128,
    };

    #[test]
    fn places_are_given_back() {
        let limits = Limits::new(RequestLimits {
            in_flight: 2,
            ..LIMITS
        });
        let first = limits.admit_request().unwrap();
        let _second = limits.admit_request().unwrap();
        assert!(limits.admit_request().is_none());
        assert_eq!(limits.requests_in_flight(), 2);
        drop(first);
        assert!(limits.admit_request().is_some());
        assert!(limits.admit_connection().is_some());
    }
}
