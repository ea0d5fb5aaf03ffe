//! Bodies: what a response sends, and what a request brings.
//!
//! A response body knows its length before its first byte. If it cannot keep its word it ends in [`Cut`], which
//! HTTP/1 shows as a connection closed early and HTTP/2 and HTTP/3 as a stream reset.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http_body::{Body as _, Frame, SizeHint};

/// What a response sends.
pub struct Body {
    content: Content,
    remaining: u64,
}

enum Content {
    Full(Bytes),
    Chunks(Pin<Box<dyn Chunks>>),
    Done,
}

/// A body that is made while it is sent.
pub trait Chunks: Send + 'static {
    /// The next piece (64 to 256 KiB suits every protocol), nothing at the end, or [`Cut`] if the rest cannot be
    /// had. Not called again after nothing or `Cut`.
    fn poll_chunk(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Cut>>>;
}

/// The body cannot be completed: the client must see a broken response, never a short one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut(&'static str);

impl Cut {
    /// A cut with its reason, for the log; the client only sees the break.
    pub fn because(reason: &'static str) -> Self {
        Self(reason)
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the body was cut: {}", self.0)
    }
}

impl std::error::Error for Cut {}

impl Body {
    /// No bytes.
    pub fn empty() -> Self {
        Self {
            content: Content::Done,
            remaining: 0,
        }
    }

    /// These bytes.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        if bytes.is_empty() {
            return Self::empty();
        }
        Self {
            remaining: bytes.len() as u64,
            content: Content::Full(bytes),
        }
    }

    /// Exactly `len` bytes, piece by piece. Pieces that add up to anything else cut the body.
    pub fn chunks(len: u64, chunks: impl Chunks) -> Self {
        if len == 0 {
            return Self::empty();
        }
        Self {
            content: Content::Chunks(Box::pin(chunks)),
            remaining: len,
        }
    }

    /// How many bytes are still to come.
    pub fn len(&self) -> u64 {
        self.remaining
    }

    /// Whether no byte is to come.
    pub fn is_empty(&self) -> bool {
        self.remaining == 0
    }

    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        loop {
            let piece = match &mut self.content {
                Content::Done => return Poll::Ready(None),
                Content::Full(bytes) => Some(Ok(std::mem::take(bytes))),
                Content::Chunks(chunks) => {
                    std::task::ready!(chunks.as_mut().poll_chunk(context))
                }
            };
            let outcome = match piece {
                // An empty piece would be an empty DATA frame, which peers count as an attack.
                Some(Ok(piece)) if piece.is_empty() => continue,
                Some(Ok(piece)) => match self.remaining.checked_sub(piece.len() as u64) {
                    Some(rest) => {
                        self.remaining = rest;
                        if rest == 0 {
                            self.content = Content::Done;
                        }
                        Ok(piece)
                    }
                    None => Err(Cut::because("more bytes than promised")),
                },
                Some(Err(cut)) => Err(cut),
                None => Err(Cut::because("fewer bytes than promised")),
            };
            if outcome.is_err() {
                self.content = Content::Done;
            }
            return Poll::Ready(Some(outcome));
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        self.get_mut()
            .poll_piece(context)
            .map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.content, Content::Done) && self.remaining == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining)
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body")
            .field("remaining", &self.remaining)
            .finish_non_exhaustive()
    }
}

/// What a request brings. Nothing of it is read until [`RequestBody::read`].
///
/// The mutex is never locked: it only makes the body `Sync`, so that a service may hold `&Request` while it waits.
pub struct RequestBody(Option<Mutex<Pin<Box<Incoming>>>>);

type Incoming =
    dyn http_body::Body<Data = Bytes, Error = Box<dyn std::error::Error + Send + Sync>> + Send;

/// How long a client may take to send a request body.
const READ_TIMEOUT: Duration = Duration::from_secs(15);

impl RequestBody {
    /// No bytes.
    pub fn empty() -> Self {
        Self(None)
    }

    /// These bytes: for services that are tried without a socket.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        use http_body_util::BodyExt as _;
        Self::incoming(http_body_util::Full::new(bytes.into()).map_err(|never| match never {}))
    }

    pub(crate) fn incoming<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes, Error = Box<dyn std::error::Error + Send + Sync>>
            + Send
            + 'static,
    {
        if body.is_end_stream() {
            return Self::empty();
        }
        Self(Some(Mutex::new(Box::pin(body))))
    }

    /// The whole body, which must be at most `limit` bytes.
    ///
    /// # Errors
    /// [`BodyError::TooLarge`] as soon as the limit is passed, by the declared length or by what came;
    /// [`BodyError::Broken`] if the client stopped before its end; [`BodyError::Slow`] if it took over 15 s.
    pub async fn read(self, limit: usize) -> Result<Bytes, BodyError> {
        let Some(incoming) = self.0 else {
            return Ok(Bytes::new());
        };
        let mut incoming = incoming
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        if incoming.size_hint().lower() > limit as u64 {
            return Err(BodyError::TooLarge { limit });
        }
        let gather = async {
            let mut first = Bytes::new();
            let mut rest = BytesMut::new();
            while let Some(frame) = poll_fn(|context| incoming.as_mut().poll_frame(context)).await {
                let Ok(piece) = frame.map_err(|_| BodyError::Broken)?.into_data() else {
                    continue;
                };
                if first.len() + rest.len() + piece.remaining() > limit {
                    return Err(BodyError::TooLarge { limit });
                }
                // Almost every body comes in one piece, which then is not copied.
                if first.is_empty() {
                    first = piece;
                } else {
                    rest.extend_from_slice(&piece);
                }
            }
            if rest.is_empty() {
                return Ok(first);
            }
            let mut whole = BytesMut::with_capacity(first.len() + rest.len());
            whole.extend_from_slice(&first);
            whole.extend_from_slice(&rest);
            Ok(whole.freeze())
        };
        tokio::time::timeout(READ_TIMEOUT, gather)
            .await
            .unwrap_or(Err(BodyError::Slow))
    }
}

impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RequestBody")
    }
}

/// Why a request body could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// More bytes than the caller allows: 413.
    #[error("the request body is larger than {limit} bytes")]
    TooLarge {
        /// The caller's limit, in bytes.
        limit: usize,
    },
    /// The client stopped before the end: 400, if it still listens.
    #[error("the request body ended early")]
    Broken,
    /// The client took too long: 408.
    #[error("the request body came too slowly")]
    Slow,
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    struct Pieces(Vec<Result<&'static [u8], Cut>>);

    impl Chunks for Pieces {
        fn poll_chunk(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Bytes, Cut>>> {
            let next = (!self.0.is_empty()).then(|| self.0.remove(0));
            Poll::Ready(next.map(|piece| piece.map(Bytes::from_static)))
        }
    }

    async fn collect(body: Body) -> Result<Bytes, Cut> {
        body.collect()
            .await
            .map(http_body_util::Collected::to_bytes)
    }

    #[tokio::test]
    async fn pieces_that_add_up_are_the_body() {
        let body = Body::chunks(5, Pieces(vec![Ok(b"he"), Ok(b""), Ok(b"llo")]));
        assert_eq!(body.len(), 5);
        assert_eq!(collect(body).await.unwrap(), "hello");
    }

    #[tokio::test]
    async fn a_body_that_breaks_its_word_is_cut() {
        let stolen = Cut::because("source truncated");
        for pieces in [
            vec![Ok(&b"hell"[..])],
            vec![Ok(&b"hello!"[..])],
            vec![Ok(&b"he"[..]), Err(stolen), Ok(&b"llo"[..])],
        ] {
            let body = Body::chunks(5, Pieces(pieces));
            collect(body).await.unwrap_err();
        }
    }

    #[tokio::test]
    async fn no_bytes_end_at_once() {
        for body in [
            Body::empty(),
            Body::full(""),
            Body::chunks(0, Pieces(vec![])),
        ] {
            assert!(http_body::Body::is_end_stream(&body));
            assert!(collect(body).await.unwrap().is_empty());
        }
    }

    #[tokio::test]
    async fn request_bodies_stop_at_the_limit() {
        assert_eq!(RequestBody::full("12345").read(5).await.unwrap(), "12345");
        assert_eq!(
            RequestBody::full("123456").read(5).await,
            Err(BodyError::TooLarge { limit: 5 })
        );
        assert!(RequestBody::empty().read(0).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn request_bodies_of_undeclared_length_stop_at_the_limit() {
        let body = || {
            let pieces = ["ab", "cd", "ef"].map(|piece| Ok(Frame::data(Bytes::from(piece))));
            RequestBody::incoming(http_body_util::StreamBody::new(futures_util::stream::iter(
                pieces,
            )))
        };
        assert_eq!(body().read(6).await.unwrap(), "abcdef");
        assert_eq!(body().read(5).await, Err(BodyError::TooLarge { limit: 5 }));
    }
}
