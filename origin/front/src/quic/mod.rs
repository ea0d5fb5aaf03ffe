//! QUIC and HTTP/3's framing, behind three small traits.
//!
//! ```text
//! socket (gathers) -> endpoint -> quinn -> transport, streams (QUIC for `h3`) -> framing -> Connection, Stream, Reply
//!                                              turns (which stream goes first) ──┘
//! ```
//!
//! The `h3` crate is young; what [`crate::h3`] needs of it is little, and written down here, so that it can be
//! replaced without touching anything else. Why it is done so, and what it costs: `design/http3.md`.

mod endpoint;
mod framing;
mod socket;
mod streams;
mod transport;
mod turns;

use std::fmt;
use std::future::Future;

use bytes::Bytes;
use http::Response;

use crate::priority::Precedence;
use crate::service::Request;

pub(crate) use endpoint::endpoint;
pub(crate) use framing::Http3;

/// An HTTP/3 connection as the server sees it.
pub(crate) trait Connection: Send {
    /// What it brings.
    type Stream: Stream;

    /// The next request stream; nothing once the connection is over. Must be polled for the connection's control
    /// streams to be read and for replies to get on. Loses nothing if dropped.
    fn next(&mut self) -> impl Future<Output = Option<Self::Stream>> + Send;

    /// Says that streams after those seen so far will not be served (GOAWAY, RFC 9114 5.2).
    fn go_away(&mut self) -> impl Future<Output = ()> + Send;
}

/// A request stream whose head has not been read.
pub(crate) trait Stream: Send + 'static {
    /// What is answered on.
    type Reply: Reply;

    /// Reads the head. A malformed one is refused here.
    fn head(self) -> impl Future<Output = Result<(Request, Self::Reply), Broken>> + Send;
}

/// The sending half of a request stream. Dropped before `finish`, it resets the stream with H3_INTERNAL_ERROR:
/// what was sent must not look whole.
pub(crate) trait Reply: Send {
    /// Puts it where it belongs among the replies of its connection, before anything of it is sent.
    fn rank(&mut self, precedence: Precedence);

    /// Sends the head of a response with a body of `len` bytes.
    fn head(
        &mut self,
        response: Response<()>,
        len: u64,
    ) -> impl Future<Output = Result<(), Broken>> + Send;

    /// Sends a piece of the body, which waits for its turn and until the connection takes it.
    fn data(&mut self, piece: Bytes) -> impl Future<Output = Result<(), Broken>> + Send;

    /// Ends the response as whole.
    fn finish(self) -> impl Future<Output = Result<(), Broken>> + Send;
}

/// The stream or its connection is over.
#[derive(Debug)]
pub(crate) struct Broken(pub(crate) Box<dyn std::error::Error + Send + Sync>);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
