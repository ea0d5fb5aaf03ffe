//! quinn's streams as the `h3` crate wants them. Heads are framed by `h3`; bodies go past it, uncopied.

use std::future::Future as _;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures_util::FutureExt as _;
use h3::error::Code;
use h3::quic::{
    self, ConnectionErrorIncoming, StreamErrorIncoming as StreamError, StreamId, WriteBuf,
};
use quinn::{ConnectionError, ReadError, VarInt, WriteError};

use super::endpoint::STREAM_RECEIVE_WINDOW;
use super::turns::{Outlet, Turn, Turns};
use crate::priority::Precedence;

/// The line in which the streams of a connection stand.
pub(super) type Line = Turns<quinn::SendStream>;

impl Outlet for quinn::SendStream {
    type Fault = WriteError;

    fn poll_take(
        &mut self,
        context: &mut Context<'_>,
        pieces: &mut Vec<Bytes>,
    ) -> Poll<Result<(), WriteError>> {
        while !pieces.is_empty() {
            // The future keeps nothing from one poll to the next.
            let written = ready!(pin!(self.write_chunks(pieces)).poll(context))?;
            pieces.drain(..written.chunks);
        }
        Poll::Ready(Ok(()))
    }

    fn rank(&mut self, rank: u8) {
        // An error means that the stream is over.
        let _ = self.set_priority(-i32::from(rank) - 1);
    }
}

/// The sending half of a stream. Clones are the same half; it ends with the last of them, as whole unless it was
/// reset.
#[derive(Clone)]
pub(super) struct SendStream {
    turn: Arc<Turn<quinn::SendStream>>,
    id: StreamId,
}

impl SendStream {
    pub(super) fn new(quic: quinn::SendStream, line: &Line) -> Self {
        Self {
            id: stream_id(quic.id()),
            turn: Arc::new(line.enter(quic)),
        }
    }

    /// Puts it where its response belongs.
    pub(super) fn rank(&self, precedence: Precedence) {
        self.turn.rank(precedence);
    }

    /// Adds bytes, which go out when they are [flushed](Self::poll_flushed).
    pub(super) fn push(&self, bytes: Bytes) {
        self.turn.push(bytes);
    }

    /// Waits until QUIC has taken all.
    pub(super) fn poll_flushed(&self, context: &mut Context<'_>) -> Poll<Result<(), WriteError>> {
        self.turn.poll_flushed(context)
    }

    /// Ends it as whole.
    pub(super) fn finish(&self) -> Result<(), quinn::ClosedStream> {
        self.turn.with(|quic| quic.finish()).unwrap_or(Ok(()))
    }

    /// Breaks it off.
    pub(super) fn reset(&self, code: u64) {
        let code = VarInt::from_u64(code).unwrap_or(VarInt::MAX);
        // An error means that it is over already.
        let _ = self.turn.with(|quic| quic.reset(code));
    }
}

impl quic::SendStream<Bytes> for SendStream {
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        self.poll_flushed(context).map_err(not_sent)
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamError> {
        // A head, or something of the protocol: what is large does not come by here.
        let mut data = data.into();
        self.push(data.copy_to_bytes(data.remaining()));
        Ok(())
    }

    fn poll_finish(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        ready!(quic::SendStream::poll_ready(self, context))?;
        Poll::Ready(
            self.finish()
                .map_err(|fault| StreamError::Unknown(fault.into())),
        )
    }

    fn reset(&mut self, code: u64) {
        SendStream::reset(self, code);
    }

    fn send_id(&self) -> StreamId {
        self.id
    }
}

fn stream_id(id: quinn::StreamId) -> StreamId {
    StreamId::try_from(u64::from(id)).expect("both are below 2^62 (RFC 9000 2.1)")
}

/// The receiving half of a stream.
pub(super) struct RecvStream {
    /// None once it is over.
    quic: Option<quinn::RecvStream>,
    id: StreamId,
    /// Whether it brings a request.
    is_request: bool,
}

impl RecvStream {
    /// One that brings a request.
    pub(super) fn of_request(quic: quinn::RecvStream) -> Self {
        Self::new(quic, true)
    }

    /// One that HTTP/3 keeps for itself.
    pub(super) fn of_protocol(quic: quinn::RecvStream) -> Self {
        Self::new(quic, false)
    }

    fn new(quic: quinn::RecvStream, is_request: bool) -> Self {
        Self {
            id: stream_id(quic.id()),
            quic: Some(quic),
            is_request,
        }
    }
}

impl quic::RecvStream for RecvStream {
    type Buf = Bytes;

    fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamError>> {
        let Some(quic) = &mut self.quic else {
            return Poll::Ready(Ok(None));
        };
        // The future keeps nothing from one poll to the next.
        let read = ready!(pin!(quic.read_chunk(usize::MAX, true)).poll(context));
        if !matches!(read, Ok(Some(_))) {
            self.quic = None;
        }
        Poll::Ready(match read {
            Ok(chunk) => Ok(chunk.map(|chunk| chunk.bytes)),
            Err(fault) => Err(not_received(fault)),
        })
    }

    fn stop_sending(&mut self, code: u64) {
        if let Some(mut quic) = self.quic.take() {
            // An error means that it is over already.
            let _ = quic.stop(VarInt::from_u64(code).unwrap_or(VarInt::MAX));
        }
    }

    fn recv_id(&self) -> StreamId {
        self.id
    }
}

impl Drop for RecvStream {
    /// Reads what is left of a request that nobody reads, since a client may take a stream that is stopped for a
    /// request that has failed. What has come already is read at once, the rest on a task that ends with the
    /// connection.
    fn drop(&mut self) {
        let Some(quic) = self.quic.take().filter(|_| self.is_request) else {
            return;
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let mut rest = Box::pin(discard(quic));
            if rest.as_mut().now_or_never().is_none() {
                runtime.spawn(rest);
            }
        }
    }
}

/// How long the end of a request is waited for that nobody reads. Beyond this it is not late but missing.
const REST_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads to the end of the stream, or as much as a client may send before it knows that nobody reads.
async fn discard(mut quic: quinn::RecvStream) {
    let reading = async {
        let mut left = STREAM_RECEIVE_WINDOW as usize;
        while let Ok(Some(chunk)) = quic.read_chunk(usize::MAX, true).await {
            match left.checked_sub(chunk.bytes.len()) {
                Some(less) => left = less,
                None => return,
            }
        }
    };
    let _ = tokio::time::timeout(REST_TIMEOUT, reading).await;
    // RFC 9114 4.1: the request was not needed in full, its answer stands. Where it has ended nothing is sent.
    let code = VarInt::from_u64(Code::H3_NO_ERROR.value()).unwrap_or(VarInt::MAX);
    let _ = quic.stop(code);
}

/// Both halves of a stream that a client has opened.
pub(super) struct BidiStream {
    pub(super) send: SendStream,
    pub(super) receive: RecvStream,
}

impl quic::SendStream<Bytes> for BidiStream {
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        quic::SendStream::poll_ready(&mut self.send, context)
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamError> {
        self.send.send_data(data)
    }

    fn poll_finish(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        self.send.poll_finish(context)
    }

    fn reset(&mut self, code: u64) {
        SendStream::reset(&self.send, code);
    }

    fn send_id(&self) -> StreamId {
        self.send.id
    }
}

impl quic::RecvStream for BidiStream {
    type Buf = Bytes;

    fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamError>> {
        self.receive.poll_data(context)
    }

    fn stop_sending(&mut self, code: u64) {
        self.receive.stop_sending(code);
    }

    fn recv_id(&self) -> StreamId {
        self.receive.id
    }
}

impl quic::BidiStream<Bytes> for BidiStream {
    type SendStream = SendStream;
    type RecvStream = RecvStream;

    fn split(self) -> (SendStream, RecvStream) {
        (self.send, self.receive)
    }
}

pub(super) fn lost(fault: ConnectionError) -> ConnectionErrorIncoming {
    match fault {
        ConnectionError::ApplicationClosed(close) => ConnectionErrorIncoming::ApplicationClose {
            error_code: close.error_code.into_inner(),
        },
        ConnectionError::TimedOut => ConnectionErrorIncoming::Timeout,
        ConnectionError::VersionMismatch
        | ConnectionError::TransportError(_)
        | ConnectionError::ConnectionClosed(_)
        | ConnectionError::Reset
        | ConnectionError::LocallyClosed
        | ConnectionError::CidsExhausted => ConnectionErrorIncoming::Undefined(Arc::new(fault)),
    }
}

fn not_sent(fault: WriteError) -> StreamError {
    match fault {
        WriteError::Stopped(code) => StreamError::StreamTerminated {
            error_code: code.into_inner(),
        },
        WriteError::ConnectionLost(fault) => StreamError::ConnectionErrorIncoming {
            connection_error: lost(fault),
        },
        WriteError::ClosedStream | WriteError::ZeroRttRejected => {
            StreamError::Unknown(Box::new(fault))
        }
    }
}

fn not_received(fault: ReadError) -> StreamError {
    match fault {
        ReadError::Reset(code) => StreamError::StreamTerminated {
            error_code: code.into_inner(),
        },
        ReadError::ConnectionLost(fault) => StreamError::ConnectionErrorIncoming {
            connection_error: lost(fault),
        },
        ReadError::ClosedStream | ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected => {
            StreamError::Unknown(Box::new(fault))
        }
    }
}
