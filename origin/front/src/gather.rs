//! Gathers what an HTTP/2 connection writes frame by frame.
//!
//! Frames of `DATA` are 16 KiB long unless a client allows more, which browsers do not, and the h2 crate writes and
//! flushes each by itself. A call of the kernel for each, and over TLS a record of nine bytes beside each full one, cost
//! more than to encrypt them. Here they are copied, while they are still in the processor's cache, into one piece.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is written at once, in bytes, where it comes in smaller parts. Over TLS this many are encrypted before the first
/// of them leaves: at 64 KiB, which is what rustls takes if nothing is said, a core sends four fifths of it.
pub(crate) const PIECE: usize = 256 * 1024;

/// Fewer bytes are flushed when told: they are heads, settings and the like, for which someone waits.
const WORTH_WAITING: usize = 8 * 1024;

/// A stream that writes in large pieces.
///
/// A flush that follows a write is put off once much has come, since the h2 crate asks for one after each frame. The
/// task is woken then: whoever polls a connection asks for a flush at the end, and one that follows no write is done.
pub(crate) struct Gathered<S> {
    stream: S,
    piece: Vec<u8>,
    /// How much of the piece is written already.
    written: usize,
    /// Bytes that came since the last flush that was done.
    come: usize,
    /// Whether nothing has asked for a flush since the last write.
    is_fresh: bool,
}

impl<S> Gathered<S> {
    /// A stream that has nothing to write yet.
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            piece: Vec::new(),
            written: 0,
            come: 0,
            is_fresh: false,
        }
    }

    /// Takes what there is room for.
    fn take(&mut self, bytes: &[u8]) -> usize {
        if self.piece.capacity() == 0 {
            self.piece.reserve_exact(PIECE);
        }
        let taken = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        self.come = self.come.saturating_add(taken);
        self.is_fresh = true;
        taken
    }
}

impl<S: AsyncWrite + Unpin> Gathered<S> {
    /// Writes the piece to its end.
    fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.piece.len() {
            let rest = &self.piece[self.written..];
            match ready!(Pin::new(&mut self.stream).poll_write(context, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.written += count,
            }
        }
        self.piece.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.piece.len() < PIECE {
            return Poll::Ready(Ok(()));
        }
        self.poll_drain(context)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_room(context))?;
        Poll::Ready(Ok(this.take(bytes)))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_room(context))?;
        Poll::Ready(Ok(slices.iter().map(|slice| this.take(slice)).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if std::mem::take(&mut this.is_fresh) && this.come >= WORTH_WAITING {
            // That one more flush comes is not left to what frames h2 has still to write.
            context.waker().wake_by_ref();
            return Poll::Ready(Ok(()));
        }
        ready!(this.poll_drain(context))?;
        this.come = 0;
        // A connection that lies idle holds no memory for pieces.
        this.piece = Vec::new();
        Pin::new(&mut this.stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(context))?;
        Pin::new(&mut this.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Remembers what was written in one call each, of which it takes at most `most`; nothing while `most` is 0.
    struct Calls {
        sizes: Vec<usize>,
        bytes: Vec<u8>,
        most: usize,
    }

    impl AsyncWrite for Calls {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let taken = bytes.len().min(self.most);
            if taken == 0 {
                return Poll::Pending;
            }
            self.sizes.push(taken);
            self.bytes.extend_from_slice(&bytes[..taken]);
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn gathered(most: usize) -> Gathered<Calls> {
        Gathered::new(Calls {
            sizes: Vec::new(),
            bytes: Vec::new(),
            most,
        })
    }

    #[tokio::test]
    async fn frames_are_written_in_large_pieces() {
        let mut stream = gathered(usize::MAX);
        let frame: Vec<u8> = (0..16_393_u32).map(|at| (at % 251) as u8).collect();
        for _ in 0..33 {
            stream.write_all(&frame).await.unwrap();
            stream.flush().await.unwrap();
        }
        stream.flush().await.unwrap();
        let whole = 33 * frame.len();
        assert_eq!(
            stream.stream.sizes,
            [PIECE, PIECE, whole - 2 * PIECE],
            "pieces are full but for the last"
        );
        assert_eq!(stream.stream.bytes, frame.repeat(33));
        assert_eq!(stream.piece.capacity(), 0, "an idle stream holds nothing");
    }

    #[tokio::test]
    async fn what_is_put_off_is_written_though_nothing_more_comes() {
        let mut stream = gathered(usize::MAX);
        let mut has_written = false;
        // As a connection's task does: whenever it is woken it flushes.
        let task = std::future::poll_fn(|context| {
            if !std::mem::replace(&mut has_written, true) {
                let taken = Pin::new(&mut stream).poll_write(context, &[7; 16_393]);
                assert!(matches!(taken, Poll::Ready(Ok(16_393))));
            }
            assert!(Pin::new(&mut stream).poll_flush(context).is_ready());
            match stream.stream.bytes.len() {
                0 => Poll::Pending,
                len => Poll::Ready(len),
            }
        });
        let within = std::time::Duration::from_secs(5);
        let written = tokio::time::timeout(within, task).await;
        assert_eq!(
            written,
            Ok(16_393),
            "it is written without being asked again"
        );
    }

    #[tokio::test]
    async fn a_head_does_not_wait() {
        let mut stream = gathered(usize::MAX);
        stream.write_all(b"a head").await.unwrap();
        stream.flush().await.unwrap();
        assert_eq!(stream.stream.bytes, b"a head");
    }

    #[tokio::test]
    async fn nothing_is_lost_where_a_socket_takes_little() {
        for most in [1, 7, 4096, PIECE - 1] {
            let mut stream = gathered(most);
            let bytes: Vec<u8> = (0..600_000_u32).map(|at| (at % 253) as u8).collect();
            let (head, body) = bytes.split_at(9);
            let mut slices = [io::IoSlice::new(head), io::IoSlice::new(body)];
            let mut left = &mut slices[..];
            while !left.is_empty() {
                let count = stream.write_vectored(left).await.unwrap();
                io::IoSlice::advance_slices(&mut left, count);
            }
            stream.shutdown().await.unwrap();
            assert_eq!(stream.stream.bytes, bytes);
        }
    }

    #[tokio::test]
    async fn a_full_socket_holds_a_piece_at_most() {
        let mut stream = gathered(0);
        let mut taken = 0;
        let writing = async {
            loop {
                taken += stream.write(&[0; 1000]).await.unwrap();
            }
        };
        let waited = tokio::time::timeout(std::time::Duration::from_millis(20), writing).await;
        assert!(waited.is_err(), "it waits for the socket");
        assert_eq!(taken, PIECE);
    }

    #[tokio::test]
    async fn reading_is_left_alone() {
        let mut text = String::new();
        let mut stream = Gathered::new(tokio::io::join(&b"request"[..], tokio::io::sink()));
        stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "request");
    }
}
