//! What a role implements to be served.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use crate::body::{Body, RequestBody};

/// A request as a service sees it, whatever protocol it came by. Its extensions hold a [`ConnectionInfo`], and where
/// the client sent one that was asked for, its [`ClientCertificate`].
///
/// [`ClientCertificate`]: crate::ClientCertificate
pub type Request = http::Request<RequestBody>;

/// A response. A [`RouteName`] among its extensions labels metrics and access log, an [`Urgency`] says how soon it is
/// wanted.
///
/// [`Urgency`]: crate::Urgency
pub type Response = http::Response<Body>;

/// Answers requests. Cloned once for each connection, so clones are cheap.
pub trait Service: Clone + Send + Sync + 'static {
    /// Answers one request. The future is dropped when the client goes away.
    ///
    /// The front sets `Content-Length` and strips the body of an answer to HEAD; the service need not.
    fn call(&self, request: Request) -> impl Future<Output = Response> + Send;
}

/// By which way a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// The client's address; IPv4 addresses are never in their IPv6-mapped form.
    pub peer: SocketAddr,
    /// The HTTP version of the connection.
    pub protocol: Protocol,
    /// Whether the connection is encrypted (always so for HTTP/3).
    pub tls: bool,
    /// The name that the listener was opened with: see [`crate::Bound::open`].
    pub listener: &'static str,
}

/// How long a connection waited until it was taken up, because others were before it: an extension of its first request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queued(pub Duration);

/// An HTTP version, as labels and logs spell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.0 and HTTP/1.1 (RFC 9112).
    H1,
    /// HTTP/2 (RFC 9113).
    H2,
    /// HTTP/3 (RFC 9114).
    H3,
}

impl Protocol {
    /// `h1`, `h2` or `h3`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::H1 => "h1",
            Self::H2 => "h2",
            Self::H3 => "h3",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The kind of resource that answered, such as `segment`: a response extension that the front turns into the
/// `route` label. A constant, so that clients cannot make labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteName(pub &'static str);
