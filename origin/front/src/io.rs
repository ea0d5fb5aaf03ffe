//! A byte stream as the HTTP/1 and HTTP/2 machines get it: guarded against ambiguous heads, heads that never end and
//! clients that never read.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::head_guard::HeadGuard;

/// What every HTTP/2 connection begins with (RFC 9113 3.4).
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Reads just enough of a new connection to tell HTTP/2 from HTTP/1. Nothing if it ends first.
pub(crate) async fn begins_as_h2(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<(bool, Bytes)>> {
    let mut begin = Vec::with_capacity(H2_PREFACE.len());
    while begin.len() < H2_PREFACE.len() && H2_PREFACE.starts_with(&begin) {
        let wanted = (H2_PREFACE.len() - begin.len()) as u64;
        if stream.take(wanted).read_buf(&mut begin).await? == 0 {
            return Ok(None);
        }
    }
    Ok(Some((begin == H2_PREFACE, begin.into())))
}

/// A stream with its guards.
pub(crate) struct Guarded<S> {
    stream: S,
    /// What was read before the guards stood.
    replay: Bytes,
    head: Option<HeadGuard>,
    head_deadline: Deadline,
    write_deadline: Deadline,
}

impl<S> Guarded<S> {
    /// A stream whose client may leave `stall` between two writes; `replay` is read first.
    pub(crate) fn new(stream: S, replay: Bytes, stall: Duration) -> Self {
        Self {
            stream,
            replay,
            head: None,
            head_deadline: Deadline::new(Duration::ZERO),
            write_deadline: Deadline::new(stall),
        }
    }

    /// Guards the heads of HTTP/1 requests too, each of which must end within `timeout`.
    pub(crate) fn with_head_guard(mut self, largest: usize, timeout: Duration) -> Self {
        self.head = Some(HeadGuard::new(largest));
        self.head_deadline = Deadline::new(timeout);
        self
    }

    /// Lets the guard see what was read since `before`. In place of a refused head the parser gets one that it
    /// answers with 400 and a close.
    fn judge(&mut self, buffer: &mut ReadBuf<'_>, before: usize) {
        let Some(guard) = &mut self.head else { return };
        if let Err((clear, ambiguity)) = guard.look(&buffer.filled()[before..]) {
            tracing::debug!(%ambiguity, "refusing a request");
            buffer.set_filled(before + clear);
            self.replay = Bytes::from_static(REFUSED_HEAD);
            replay(&mut self.replay, buffer);
        }
        if guard.is_within_head() {
            self.head_deadline.begin();
        } else {
            self.head_deadline.end();
        }
    }
}

/// NUL may stand nowhere in a head; the empty line makes the parser judge it at once.
const REFUSED_HEAD: &[u8] = b"\0\r\n\r\n";

fn replay(bytes: &mut Bytes, buffer: &mut ReadBuf<'_>) {
    let taken = bytes.len().min(buffer.remaining());
    buffer.put_slice(&bytes[..taken]);
    bytes.advance(taken);
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        if this.replay.is_empty() {
            match Pin::new(&mut this.stream).poll_read(context, buffer) {
                Poll::Ready(outcome) => outcome?,
                Poll::Pending => return this.head_deadline.poll(context),
            }
        } else {
            replay(&mut this.replay, buffer);
        }
        this.judge(buffer, before);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> Guarded<S> {
    fn write<T>(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match write(Pin::new(&mut self.stream), context) {
            Poll::Ready(outcome) => {
                self.write_deadline.end();
                Poll::Ready(outcome)
            }
            Poll::Pending => {
                self.write_deadline.begin();
                ready!(self.write_deadline.poll(context))?;
                Poll::Pending
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut()
            .write(context, |stream, context| stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().write(context, |stream, context| {
            stream.poll_write_vectored(context, slices)
        })
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut()
            .write(context, |stream, context| stream.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut()
            .write(context, |stream, context| stream.poll_shutdown(context))
    }
}

/// Runs from `begin` to `end`. The timer is made once and only moved afterwards, since it starts with almost every
/// write that fills a socket.
struct Deadline {
    after: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    is_running: bool,
}

impl Deadline {
    fn new(after: Duration) -> Self {
        Self {
            after,
            timer: None,
            is_running: false,
        }
    }

    fn begin(&mut self) {
        if self.is_running {
            return;
        }
        self.is_running = true;
        let at = Instant::now() + self.after;
        match &mut self.timer {
            Some(timer) => timer.as_mut().reset(at),
            None => self.timer = Some(Box::pin(tokio::time::sleep_until(at))),
        }
    }

    fn end(&mut self) {
        self.is_running = false;
    }

    /// An error once the time is up, else pending.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.timer {
            Some(timer) if self.is_running => {
                ready!(timer.as_mut().poll(context));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            Some(_) | None => Poll::Pending,
        }
    }
}
