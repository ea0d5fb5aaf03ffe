//! From a planned range to bytes on the wire.
//!
//! Each chunk is copied or encrypted straight from the mapping into a pooled buffer. Ranges that are not in
//! memory are read by the storage thread first. Before a chunk leaves, the source is looked at again: if it is
//! not what it was when the response was planned, the stream is cut and the chunk never sent.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use origin_front::{Chunks, Cut};
use origin_media::layout::{Render, Step, Window};

use super::buffer::{Buffer, BufferPool};
use crate::package::Package;
use crate::storage::{Fault, Read, Source as _};

/// Chunks made in a row before other connections of the worker get their turn.
const BURST: u32 = 4;

/// A buffer with less room than this is sent as it is.
const LEAST_WINDOW: usize = 4096;

/// The body of a media response.
pub struct MediaBody {
    render: Render,
    package: Arc<Package>,
    source: usize,
    pool: Arc<BufferPool>,
    filling: Option<Buffer>,
    waiting: Option<(Window, Read)>,
    spare: Vec<u8>,
    in_a_row: u32,
}

impl MediaBody {
    /// The body of what `render` yields, from source `source` of the package's title.
    pub fn new(
        render: Render,
        package: Arc<Package>,
        source: usize,
        pool: Arc<BufferPool>,
    ) -> Self {
        Self {
            render,
            package,
            source,
            pool,
            filling: None,
            waiting: None,
            spare: Vec::new(),
            in_a_row: 0,
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
            match render.next(buffer.room()) {
                None => return Poll::Ready(Ok(())),
                Some(Step::Generated(bytes)) => buffer.extend(bytes.len()).copy_from_slice(&bytes),
                Some(Step::Media(window)) => {
                    let range = window.read.clone();
                    let ready = source.if_ready(range.clone(), &mut |bytes| {
                        render.produce(&window, bytes, buffer.extend(window.out_len));
                    })?;
                    if !ready {
                        let read = source.read(range, std::mem::take(&mut self.spare));
                        self.waiting = Some((window, read));
                    }
                }
            }
        }
    }

    fn chunk(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
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
        if body.in_a_row == BURST {
            body.in_a_row = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let chunk = body.chunk(context);
        body.in_a_row = if chunk.is_pending() {
            0
        } else {
            body.in_a_row + 1
        };
        chunk
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
