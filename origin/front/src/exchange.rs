//! One request and its answer, alike on every protocol: admission, what HTTP asks of every response, access log and
//! metrics.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, Version, header};
use http_body::{Frame, SizeHint};
use tokio::time::Instant;

use crate::access_log::{Peers, Record};
use crate::admission::{Limits, Permit};
use crate::body::{Body, Cut};
use crate::drain::Drain;
use crate::handshakes::Handshakes;
use crate::problem::Problem;
use crate::service::{ConnectionInfo, Protocol, Queued, Request, Response, RouteName, Service};

/// A service with all that stands in front of it.
#[derive(Clone)]
pub(crate) struct Front<S> {
    pub(crate) service: S,
    pub(crate) limits: Arc<Limits>,
    pub(crate) drain: Drain,
    pub(crate) listener: &'static str,
    pub(crate) peers: Peers,
    pub(crate) alt_svc: Option<HeaderValue>,
    pub(crate) handshakes: Handshakes,
}

/// Seconds after which a client turned away may come again.
const RETRY_AFTER: u32 = 1;

impl<S> Front<S> {
    /// A connection of this listener.
    pub(crate) fn connection(
        &self,
        peer: SocketAddr,
        protocol: Protocol,
        tls: bool,
    ) -> ConnectionInfo {
        ConnectionInfo {
            peer: SocketAddr::new(peer.ip().to_canonical(), peer.port()),
            protocol,
            tls,
            listener: self.listener,
        }
    }

    /// Counts a connection as open until the value is dropped.
    pub(crate) fn open(&self, protocol: Protocol) -> Open {
        let gauge = metrics::gauge!("castellum_http_connections", "proto" => protocol.as_str());
        gauge.increment(1);
        Open(gauge)
    }
}

/// An open connection, among the metrics.
pub(crate) struct Open(metrics::Gauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

impl<S: Service> Front<S> {
    /// Answers a request of this connection.
    pub(crate) async fn answer(
        &self,
        mut request: Request,
        connection: ConnectionInfo,
        activity: &Activity,
    ) -> http::Response<Tracked> {
        let ongoing = activity.begin();
        let mut record = Record::begin(&request, connection, self.peers);
        let version = request.version();
        let is_head = request.method() == Method::HEAD;
        // HTTP/1 framing that a proxy before us may have read otherwise: nothing may follow on this connection.
        let is_last = version <= Version::HTTP_11
            && request.headers().contains_key(header::TRANSFER_ENCODING);
        request.extensions_mut().insert(connection);
        if let Some(waited) = activity.first_waited() {
            request.extensions_mut().insert(Queued(waited));
        }

        let permit = self.limits.admit_request();
        let mut response = match &permit {
            Some(_) => self.service.call(request).await,
            None => overloaded(),
        };
        complete(&mut response, is_head);
        let headers = response.headers_mut();
        if is_last {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if connection.protocol != Protocol::H3
            && let Some(alt_svc) = &self.alt_svc
        {
            headers.insert(header::ALT_SVC, alt_svc.clone());
        }

        let route = response.extensions_mut().remove::<RouteName>();
        record.answered(response.status(), route, response.body().len());
        response.map(|body| Tracked {
            body,
            record,
            ongoing: ongoing.sending(),
            _permit: permit,
        })
    }
}

fn overloaded() -> Response {
    let mut response = Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "overloaded",
        "More requests are in flight than this server takes on",
    )
    .retry_after(RETRY_AFTER)
    .into_response();
    crate::cors::allow(response.headers_mut());
    response
}

/// Gives every response its exact length, and none to those that have no body.
fn complete(response: &mut Response, is_head: bool) {
    let status = response.status();
    if status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
    {
        *response.body_mut() = Body::empty();
        return;
    }
    let len = response.body().len();
    let declared = response.headers().get(header::CONTENT_LENGTH);
    // The answer to a HEAD may declare what it does not bring.
    let stands = declared.is_some_and(|declared| is_head || is_number(declared, len));
    if !stands {
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, len.into());
    }
    if is_head {
        *response.body_mut() = Body::empty();
    }
}

fn is_number(field: &HeaderValue, number: u64) -> bool {
    field
        .to_str()
        .is_ok_and(|digits| digits.parse() == Ok(number))
}

/// A response body on its way out. While it lives the request is in flight.
pub(crate) struct Tracked {
    body: Body,
    record: Record,
    ongoing: Ongoing,
    _permit: Option<Permit>,
}

impl http_body::Body for Tracked {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        self.ongoing.activity.note();
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                self.record.sent(bytes);
            }
            Some(Err(cut)) => tracing::warn!(%cut, "a response was cut"),
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What the requests of one connection are doing, as its watchdog sees it. Clones share it.
#[derive(Clone)]
pub(crate) struct Activity(Arc<Shared>);

struct Shared {
    opened: Instant,
    /// When something moved last, in milliseconds after `opened`.
    moved: AtomicU64,
    requests: AtomicUsize,
    bodies: AtomicUsize,
    /// How long it waited to be taken up, in milliseconds, until its first request is told.
    waited: AtomicU64,
}

impl Activity {
    /// Of a connection that has just been opened, and waited for that.
    pub(crate) fn new(waited: Duration) -> Self {
        Self(Arc::new(Shared {
            opened: Instant::now(),
            moved: AtomicU64::new(0),
            requests: AtomicUsize::new(0),
            bodies: AtomicUsize::new(0),
            waited: AtomicU64::new(u64::try_from(waited.as_millis()).unwrap_or(u64::MAX)),
        }))
    }

    /// A request has come; it lasts as long as the value.
    fn begin(&self) -> Ongoing {
        self.0.requests.fetch_add(1, Ordering::Relaxed);
        self.note();
        Ongoing {
            activity: self.clone(),
            is_sending: false,
        }
    }

    /// How long the connection waited, once: later requests did not.
    fn first_waited(&self) -> Option<Duration> {
        match self.0.waited.swap(0, Ordering::Relaxed) {
            0 => None,
            waited => Some(Duration::from_millis(waited)),
        }
    }

    fn note(&self) {
        let now = self.0.opened.elapsed().as_millis();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        self.0.moved.store(now, Ordering::Relaxed);
    }

    fn quiet_for(&self) -> Duration {
        let moved = Duration::from_millis(self.0.moved.load(Ordering::Relaxed));
        self.0.opened.elapsed().saturating_sub(moved)
    }

    /// How much longer the connection may go on as it is.
    pub(crate) fn patience(&self, limits: &Limits) -> Patience {
        let requests = self.0.requests.load(Ordering::Relaxed);
        let bodies = self.0.bodies.load(Ordering::Relaxed);
        let (bound, exhausted) = if bodies > 0 {
            (limits.stall_timeout(), Patience::Stalled)
        } else if requests == 0 {
            (limits.settings().idle_timeout, Patience::Idle)
        } else {
            // The service is at work; that is not the client's fault.
            return Patience::Left(limits.stall_timeout());
        };
        match bound.checked_sub(self.quiet_for()) {
            // A body that begins meanwhile must be looked after in its own time.
            Some(left) if !left.is_zero() => Patience::Left(left.min(limits.stall_timeout())),
            Some(_) | None => exhausted,
        }
    }
}

/// What a watchdog makes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Look again after this.
    Left(Duration),
    /// Nothing is in flight, and has not been for long.
    Idle,
    /// No client on it takes anything any more.
    Stalled,
}

/// A request in flight.
struct Ongoing {
    activity: Activity,
    is_sending: bool,
}

impl Ongoing {
    /// From now on it is the client whom this request waits for.
    fn sending(mut self) -> Self {
        self.is_sending = true;
        self.activity.0.bodies.fetch_add(1, Ordering::Relaxed);
        self
    }
}

impl Drop for Ongoing {
    fn drop(&mut self) {
        let shared = &self.activity.0;
        shared.requests.fetch_sub(1, Ordering::Relaxed);
        if self.is_sending {
            shared.bodies.fetch_sub(1, Ordering::Relaxed);
        }
        self.activity.note();
    }
}
