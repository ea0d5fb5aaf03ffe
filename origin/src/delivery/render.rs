//! From a planned range to bytes on the wire.
//!
//! Each chunk is copied or encrypted straight from the mapping into a pooled buffer. Ranges that are not in
//! memory are read by the storage thread first. Before a chunk leaves, the source is looked at again: if it is
//! not what it was when the response was planned, the stream is cut and the chunk never sent.
//!
//! Where the kernel itself takes the bytes (clear film over plain HTTP/1.1) they are lent from the mapping
//! and not looked at again. Such a response keeps back its last few bytes until the transport has let go of all that
//! was lent, and then looks at the source: so what was changed under way is cut there, and never looks whole.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use origin_front::{Chunks, Cut};
use origin_media::layout::{Render, Step, Window};

use super::buffer::{Buffer, BufferPool};
use crate::package::Package;
use crate::storage::{Fault, Glance, Read, Source as _};

/// Bytes made in a row before other connections of the worker get their turn.
const BURST: usize = 512 * 1024;

/// A buffer with less room than this is sent as it is.
const LEAST_WINDOW: usize = 4096;

/// Fewer bytes in one piece are copied instead: to lend them costs more than that, here and in the kernel.
const WORTH_LENDING: u64 = 8 * 1024;

/// What a response that is lent keeps back to the end, in bytes: little enough that copying it costs nothing.
const KEPT_BACK: u64 = 16 * 1024;

/// How the bytes of a response get to its transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handing {
    /// Copied, and looked at before they leave.
    Copied,
    /// Lent from the mapping where they are clear: the transport writes them in order, and once.
    Lent,
}

/// The body of a media response.
pub struct MediaBody {
    render: Render,
    package: Arc<Package>,
    source: usize,
    pool: Arc<BufferPool>,
    filling: Option<Buffer>,
    /// Planned to be lent, and to be had only by a copy.
    unlent: Option<Window>,
    waiting: Option<(Window, Read)>,
    /// What is left of the response is being read ahead.
    is_ahead: bool,
    spare: Vec<u8>,
    in_a_row: usize,
    /// Bytes that were lent since the source was looked at.
    unlooked: usize,
    lending: Option<Lending>,
    glance: Glance,
}

impl MediaBody {
    /// The body of what `render` yields, from source `source` of the package's title.
    pub fn new(
        render: Render,
        package: Arc<Package>,
        source: usize,
        pool: Arc<BufferPool>,
        handing: Handing,
    ) -> Self {
        let lends = handing == Handing::Lent && !render.is_protected();
        Self {
            lending: lends.then(Lending::default),
            glance: Glance::default(),
            render,
            package,
            source,
            pool,
            filling: None,
            unlent: None,
            waiting: None,
            is_ahead: false,
            spare: Vec::new(),
            in_a_row: 0,
            unlooked: usize::MAX,
        }
    }

    /// The next bytes from where they lie, at most `left`; nothing if they have to be copied.
    fn lend(&mut self, left: u64) -> Result<Option<Bytes>, Fault> {
        let Some(lending) = &self.lending else {
            return Ok(None);
        };
        if self.render.contiguous() < WORTH_LENDING.min(left) {
            return Ok(None);
        }
        // What cannot be lent goes into a buffer, which has to hold it.
        let most =
            usize::try_from(left).map_or(self.pool.size(), |left| left.min(self.pool.size()));
        match self.render.next_in_one_piece(most) {
            None => Ok(None),
            Some(Step::Generated(bytes)) => Ok(Some(bytes)),
            Some(Step::Media(window)) => {
                let source = &self.package.title.sources[self.source].file;
                let Some(bytes) = source.lend(window.read.clone(), &mut self.glance)? else {
                    self.unlent = Some(window);
                    return Ok(None);
                };
                if self.unlooked > self.pool.size() {
                    source.unchanged()?;
                    self.unlooked = 0;
                }
                self.unlooked += bytes.len();
                Ok(Some(lending.lend(bytes)))
            }
        }
    }

    /// Adds to the buffer until it is full or nothing is left.
    fn fill(&mut self, context: &mut Context<'_>, buffer: &mut Buffer) -> Poll<Result<(), Fault>> {
        let source = &self.package.title.sources[self.source].file;
        let render = &mut self.render;
        loop {
            if let Some((window, read)) = &mut self.waiting {
                let bytes = std::task::ready!(read.as_mut().poll(context))?;
                render.produce(window, &bytes, buffer.extend(window.out_len));
                self.spare = bytes;
                self.waiting = None;
            }
            if buffer.room() < LEAST_WINDOW && !buffer.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let step = match self.unlent.take() {
                Some(window) => Some(Step::Media(window)),
                None => render.next(buffer.room()),
            };
            match step {
                None => return Poll::Ready(Ok(())),
                Some(Step::Generated(bytes)) => buffer.extend(bytes.len()).copy_from_slice(&bytes),
                Some(Step::Media(window)) => {
                    let range = window.read.clone();
                    let ready = source.if_ready(range.clone(), &mut self.glance, &mut |bytes| {
                        render.produce(&window, bytes, buffer.extend(window.out_len));
                    })?;
                    if !ready {
                        // Nothing of it is read by itself from here on: the disk gets one long range instead of
                        // many short ones that wait for each other.
                        if !std::mem::replace(&mut self.is_ahead, true)
                            && let Some(rest) = render.ahead()
                        {
                            source.expect(rest);
                        }
                        let read = source.read(range, std::mem::take(&mut self.spare));
                        self.waiting = Some((window, read));
                    }
                }
            }
        }
    }

    fn chunk(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        let left = self.render.remaining().saturating_sub(KEPT_BACK);
        if self.filling.is_none() && left > 0 {
            match self.lend(left) {
                Ok(Some(bytes)) => return Poll::Ready(Some(Ok(bytes))),
                Ok(None) => {}
                Err(fault) => return Poll::Ready(Some(Err(cut(&fault)))),
            }
        }
        let mut buffer = self.filling.take().unwrap_or_else(|| self.pool.take());
        match self.fill(context, &mut buffer) {
            Poll::Pending => {
                self.filling = Some(buffer);
                return Poll::Pending;
            }
            Poll::Ready(Err(fault)) => return Poll::Ready(Some(Err(cut(&fault)))),
            Poll::Ready(Ok(())) => {}
        }
        if buffer.is_empty() {
            return Poll::Ready(None);
        }
        if let Some(lending) = &self.lending
            && self.render.remaining() == 0
            && lending.poll_returned(context).is_pending()
        {
            self.filling = Some(buffer);
            return Poll::Pending;
        }
        if let Err(fault) = self.package.title.sources[self.source].unchanged() {
            return Poll::Ready(Some(Err(cut(&fault))));
        }
        if self.package.keys_ended() {
            return Poll::Ready(Some(Err(Cut::because("the lease of its keys ended"))));
        }
        Poll::Ready(Some(Ok(buffer.freeze())))
    }
}

impl Chunks for MediaBody {
    fn poll_chunk(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Cut>>> {
        let body = self.get_mut();
        if body.in_a_row >= BURST {
            body.in_a_row = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let chunk = body.chunk(context);
        match &chunk {
            Poll::Ready(Some(Ok(bytes))) => body.in_a_row += bytes.len(),
            Poll::Ready(Some(Err(_)) | None) | Poll::Pending => body.in_a_row = 0,
        }
        chunk
    }
}

/// How much of a response the transport has borrowed and not yet let go of.
#[derive(Default)]
struct Lending(Arc<Lent>);

#[derive(Default)]
struct Lent {
    pieces: AtomicUsize,
    returned: AtomicWaker,
}

impl Lending {
    fn lend(&self, bytes: Bytes) -> Bytes {
        self.0.pieces.fetch_add(1, Ordering::Relaxed);
        Bytes::from_owner(Piece {
            bytes,
            lent: Arc::clone(&self.0),
        })
    }

    fn poll_returned(&self, context: &mut Context<'_>) -> Poll<()> {
        self.0.returned.register(context.waker());
        if self.0.pieces.load(Ordering::Acquire) == 0 {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

/// Lent bytes; dropped by the transport once they are written.
struct Piece {
    bytes: Bytes,
    lent: Arc<Lent>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if self.lent.pieces.fetch_sub(1, Ordering::Release) == 1 {
            self.lent.returned.wake();
        }
    }
}

fn cut(fault: &Fault) -> Cut {
    match fault {
        Fault::Changed => Cut::because("the source was changed"),
        Fault::Truncated => Cut::because("the source was truncated"),
        Fault::Io(_) => Cut::because("the source cannot be read"),
        Fault::Overloaded => Cut::because("the storage is overloaded"),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn what_is_kept_back_waits_for_all_that_was_lent() {
        let lending = Lending::default();
        let returned = || std::future::poll_fn(|context| lending.poll_returned(context));
        assert_eq!(returned().now_or_never(), Some(()), "nothing is out");
        let first = lending.lend(Bytes::from_static(b"fi"));
        let second = lending.lend(Bytes::from_static(b"lm"));
        let part = first.slice(1..);
        assert_eq!((&first[..], &second[..]), (&b"fi"[..], &b"lm"[..]));
        drop((first, second));
        assert_eq!(
            returned().now_or_never(),
            None,
            "a part of the first is held"
        );
        drop(part);
        assert_eq!(returned().now_or_never(), Some(()));
    }

    #[tokio::test]
    async fn the_last_piece_wakes_who_waits() {
        let lending = Lending::default();
        let piece = lending.lend(Bytes::from_static(b"film"));
        let waiting = std::future::poll_fn(|context| lending.poll_returned(context));
        let ((), ()) = tokio::join!(waiting, async { drop(piece) });
    }
}
