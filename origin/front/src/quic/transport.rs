//! quinn's connections as the `h3` crate wants them.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h3::error::Code;
use h3::quic::{self, ConnectionErrorIncoming, StreamErrorIncoming};
use quinn::{ConnectionError, VarInt};

use super::streams::{BidiStream, Line, RecvStream, SendStream, lost};

/// A QUIC connection whose streams stand in one line.
pub(super) struct Transport {
    quic: quinn::Connection,
    line: Line,
    requests: Option<Coming<(quinn::SendStream, quinn::RecvStream)>>,
    protocol: Option<Coming<quinn::RecvStream>>,
    opening: Option<Coming<quinn::SendStream>>,
}

/// A stream that will be there. quinn's own futures borrow the connection.
type Coming<T> = Pin<Box<dyn Future<Output = Result<T, ConnectionError>> + Send + Sync>>;

impl Transport {
    /// Takes over a connection. Whoever has the line serves it.
    pub(super) fn new(quic: quinn::Connection, line: Line) -> Self {
        Self {
            quic,
            line,
            requests: None,
            protocol: None,
            opening: None,
        }
    }
}

/// Waits for the next of some streams.
fn poll_next<T, F>(
    slot: &mut Option<Coming<T>>,
    quic: &quinn::Connection,
    next: impl FnOnce(quinn::Connection) -> F,
    context: &mut Context<'_>,
) -> Poll<Result<T, ConnectionErrorIncoming>>
where
    F: Future<Output = Result<T, ConnectionError>> + Send + Sync + 'static,
{
    let coming = slot.get_or_insert_with(|| Box::pin(next(quic.clone())));
    let stream = ready!(coming.as_mut().poll(context));
    *slot = None;
    Poll::Ready(stream.map_err(lost))
}

impl quic::Connection<Bytes> for Transport {
    type RecvStream = RecvStream;
    type OpenStreams = Self;

    fn poll_accept_recv(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<RecvStream, ConnectionErrorIncoming>> {
        let accept = |quic: quinn::Connection| async move { quic.accept_uni().await };
        poll_next(&mut self.protocol, &self.quic, accept, context).map_ok(RecvStream::of_protocol)
    }

    fn poll_accept_bidi(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<BidiStream, ConnectionErrorIncoming>> {
        let accept = |quic: quinn::Connection| async move { quic.accept_bi().await };
        let (send, receive) = ready!(poll_next(&mut self.requests, &self.quic, accept, context))?;
        Poll::Ready(Ok(BidiStream {
            send: SendStream::new(send, &self.line),
            receive: RecvStream::of_request(receive),
        }))
    }

    fn opener(&self) -> Self {
        Self::new(self.quic.clone(), self.line.clone())
    }
}

impl quic::OpenStreams<Bytes> for Transport {
    type BidiStream = BidiStream;
    type SendStream = SendStream;

    fn poll_open_bidi(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<Result<BidiStream, StreamErrorIncoming>> {
        // RFC 9114 6.1: a server opens none.
        Poll::Ready(Err(StreamErrorIncoming::Unknown(
            "servers open no bidirectional streams".into(),
        )))
    }

    fn poll_open_send(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<SendStream, StreamErrorIncoming>> {
        let open = |quic: quinn::Connection| async move { quic.open_uni().await };
        let opened = ready!(poll_next(&mut self.opening, &self.quic, open, context));
        Poll::Ready(match opened {
            Ok(stream) => Ok(SendStream::new(stream, &self.line)),
            Err(connection_error) => {
                Err(StreamErrorIncoming::ConnectionErrorIncoming { connection_error })
            }
        })
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        let code = VarInt::from_u64(code.value()).unwrap_or(VarInt::MAX);
        self.quic.close(code, reason);
    }
}
