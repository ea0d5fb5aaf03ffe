//! Read-ahead: brings ranges into the page cache that a viewer will ask for soon.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rustix::fs::{Advice, fadvise};

use crate::telemetry;

/// Ranges waiting at a time. What does not fit is read when it is asked for: a busy disk is left to those who wait.
const QUEUE: usize = 64;

/// The queue to a thread of its own: the advice blocks while the disk's queue is full, which must keep nobody waiting.
pub(super) struct ReadAhead(SyncSender<(Arc<File>, Range<u64>)>);

impl ReadAhead {
    /// Starts the thread, which ends when this is dropped.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(super) fn start() -> io::Result<Self> {
        let (queue, wanted) = sync_channel(QUEUE);
        super::spawn("read-ahead", move || read(&wanted))?;
        Ok(Self(queue))
    }

    /// Has a range read some time soon, or not at all. Never waits.
    pub(super) fn ask(&self, file: &Arc<File>, range: Range<u64>) {
        let len = range.end.saturating_sub(range.start);
        match self.0.try_send((Arc::clone(file), range)) {
            Ok(()) => telemetry::read_ahead(len),
            Err(_) => telemetry::read_ahead_shed(),
        }
    }
}

fn read(wanted: &Receiver<(Arc<File>, Range<u64>)>) {
    while let Ok((file, range)) = wanted.recv() {
        if let Some(len) = NonZeroU64::new(range.end.saturating_sub(range.start)) {
            // A file system that takes no advice reads when it is asked to.
            let _ = fadvise(&*file, range.start, Some(len), Advice::WillNeed);
        }
    }
}
