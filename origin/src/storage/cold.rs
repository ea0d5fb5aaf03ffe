//! Reads of ranges that are not in memory, off the worker threads.
//!
//! One thread runs a tokio-uring runtime; where the kernel refuses io_uring (a container's seccomp filter,
//! `io_uring_disabled`) a few threads read with `pread` instead. Measured side by side the two are equally
//! fast on one disk: the ring earns its place by one thread and a deep queue.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::sync::{Arc, Weak, mpsc as std_mpsc};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};

use super::source::Read;
use super::{ColdChoice, ColdPath, Fault};

/// Reads waiting at a time; one more is refused, so that a stalled disk sheds load instead of
/// gathering it.
const QUEUE: usize = 1024;

/// Reads of the ring under way at a time: as deep a queue as one disk makes use of. The others wait in the queue.
const DEPTH: usize = 64;

/// Threads of the fallback: enough to keep one disk busy.
const FALLBACK_THREADS: usize = 4;

/// The queue to the storage thread, whichever kind it is.
pub(super) struct ColdReader {
    path: ColdPath,
    queue: mpsc::Sender<Request>,
}

struct Request {
    file: Arc<File>,
    range: Range<u64>,
    buffer: Vec<u8>,
    reply: oneshot::Sender<Result<Vec<u8>, Fault>>,
}

impl ColdReader {
    /// Starts the storage thread, or its fallback.
    ///
    /// # Errors
    /// If no thread can be started, or io_uring is wanted and refused.
    pub(super) fn start(choice: ColdChoice) -> io::Result<Self> {
        match choice {
            ColdChoice::IoUring => Self::start_ring(),
            ColdChoice::Threads => Self::start_pool(),
            ColdChoice::Auto => Self::start_ring().or_else(|error| {
                tracing::warn!(%error, "io_uring is refused here; cold ranges are read by a few threads");
                Self::start_pool()
            }),
        }
    }

    /// Which of the two runs.
    pub(super) fn path(&self) -> ColdPath {
        self.path
    }

    fn start_ring() -> io::Result<Self> {
        let (queue, requests) = mpsc::channel(QUEUE);
        let (started, outcome) = std_mpsc::channel();
        super::spawn("storage", move || {
            // `tokio_uring::start` panics where io_uring is refused; this constructor says so.
            match tokio_uring::Runtime::new(&tokio_uring::builder()) {
                Ok(runtime) => {
                    let _ = started.send(Ok(()));
                    runtime.block_on(serve_ring(requests));
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                }
            }
        })?;
        outcome.recv().map_err(io::Error::other)??;
        Ok(Self {
            path: ColdPath::IoUring,
            queue,
        })
    }

    fn start_pool() -> io::Result<Self> {
        let (queue, mut requests) = mpsc::channel::<Request>(QUEUE);
        let (hand_out, work) = std_mpsc::sync_channel::<Request>(0);
        let work = Arc::new(std::sync::Mutex::new(work));
        for number in 0..FALLBACK_THREADS {
            let work = Arc::clone(&work);
            super::spawn(format!("storage-{number}"), move || {
                loop {
                    let next = work
                        .lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner)
                        .recv();
                    let Ok(Request {
                        file,
                        range,
                        buffer,
                        reply,
                    }) = next
                    else {
                        return;
                    };
                    let _ = reply.send(read_exactly(&file, &range, buffer));
                }
            })?;
        }
        super::spawn("storage", move || {
            while let Some(request) = requests.blocking_recv() {
                if request.reply.is_closed() {
                    continue;
                }
                if hand_out.send(request).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self {
            path: ColdPath::Threads,
            queue,
        })
    }

    /// Reads a range of `file` into `buffer`.
    pub(super) fn read(&self, file: Arc<File>, range: Range<u64>, buffer: Vec<u8>) -> Read {
        let (reply, answer) = oneshot::channel();
        let queued = self.queue.try_send(Request {
            file,
            range,
            buffer,
            reply,
        });
        Box::pin(async move {
            queued.map_err(|_| Fault::Overloaded)?;
            answer
                .await
                .unwrap_or_else(|_| Err(Fault::from(io::Error::other("the storage thread ended"))))
        })
    }
}

fn read_exactly(file: &File, range: &Range<u64>, mut buffer: Vec<u8>) -> Result<Vec<u8>, Fault> {
    use std::os::unix::fs::FileExt as _;
    buffer.clear();
    buffer.resize(length(range)?, 0);
    match file.read_exact_at(&mut buffer, range.start) {
        Ok(()) => Ok(buffer),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(Fault::Truncated),
        Err(error) => Err(Fault::from(error)),
    }
}

fn length(range: &Range<u64>) -> Result<usize, Fault> {
    usize::try_from(range.end - range.start).map_err(|_| Fault::Truncated)
}

/// The ring's own handles of the files that are being read. A handle is a duplicate of the source's descriptor
/// and goes when the source has gone.
#[derive(Default)]
struct Handles(HashMap<usize, (Weak<File>, Rc<tokio_uring::fs::File>)>);

impl Handles {
    fn of(&mut self, file: &Arc<File>) -> io::Result<Rc<tokio_uring::fs::File>> {
        let address = Arc::as_ptr(file) as usize;
        // While the weak reference lives, its allocation is not given to another file.
        if let Some((_, handle)) = self
            .0
            .get(&address)
            .filter(|(weak, _)| weak.strong_count() > 0)
        {
            return Ok(Rc::clone(handle));
        }
        self.sweep();
        let handle = Rc::new(tokio_uring::fs::File::from_std(file.try_clone()?));
        self.0
            .insert(address, (Arc::downgrade(file), Rc::clone(&handle)));
        Ok(handle)
    }

    fn sweep(&mut self) {
        self.0.retain(|_, (weak, _)| weak.strong_count() > 0);
    }
}

/// How often handles of sources that have gone are closed: until then the space of a deleted file is not free.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

async fn serve_ring(mut requests: mpsc::Receiver<Request>) {
    let mut handles = Handles::default();
    let under_way = Arc::new(Semaphore::new(DEPTH));
    let mut sweeps = tokio::time::interval(SWEEP_EVERY);
    loop {
        let Ok(place) = Arc::clone(&under_way).acquire_owned().await else {
            return;
        };
        let request = tokio::select! {
            request = requests.recv() => request,
            _ = sweeps.tick() => {
                handles.sweep();
                continue;
            }
        };
        let Some(Request {
            file,
            range,
            buffer,
            reply,
        }) = request
        else {
            return;
        };
        if reply.is_closed() {
            continue;
        }
        let handle = match handles.of(&file) {
            Ok(handle) => handle,
            Err(error) => {
                let _ = reply.send(Err(Fault::from(error)));
                continue;
            }
        };
        tokio_uring::spawn(async move {
            let _ = reply.send(read_by_ring(&handle, &range, buffer).await);
            drop((file, place));
        });
    }
}

async fn read_by_ring(
    file: &tokio_uring::fs::File,
    range: &Range<u64>,
    mut buffer: Vec<u8>,
) -> Result<Vec<u8>, Fault> {
    use tokio_uring::buf::BoundedBuf as _;
    let len = length(range)?;
    buffer.clear();
    buffer.reserve_exact(len);
    let mut offset = range.start;
    while buffer.len() < len {
        let filled = buffer.len();
        let (result, slice) = file.read_at(buffer.slice(filled..len), offset).await;
        buffer = slice.into_inner();
        match result {
            Ok(0) => return Err(Fault::Truncated),
            Ok(count) => offset += count as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Fault::from(error)),
        }
    }
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// Both ways of reading keep the same promises.
    fn contract(reader: &ColdReader) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let content: Vec<u8> = (0..200_000_u32)
            .map(|n| u8::try_from(n % 251).unwrap())
            .collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content).unwrap();
        let file = Arc::new(file);
        for range in [
            0..1,
            0..200_000,
            4095..4097,
            199_999..200_000,
            70_000..70_000,
        ] {
            let place = |at: u64| usize::try_from(at).unwrap();
            let expected = &content[place(range.start)..place(range.end)];
            let read = runtime
                .block_on(reader.read(Arc::clone(&file), range, vec![9; 10]))
                .unwrap();
            assert_eq!(read, expected);
        }
        let beyond = runtime.block_on(reader.read(Arc::clone(&file), 199_990..200_001, Vec::new()));
        assert!(matches!(beyond, Err(Fault::Truncated)), "{beyond:?}");
        file.set_len(100).unwrap();
        let cut = runtime.block_on(reader.read(file, 50..150, Vec::new()));
        assert!(matches!(cut, Err(Fault::Truncated)), "{cut:?}");
    }

    #[test]
    fn threads_keep_the_contract() {
        let reader = ColdReader::start(ColdChoice::Threads).unwrap();
        assert_eq!(reader.path(), ColdPath::Threads);
        contract(&reader);
    }

    #[test]
    fn the_ring_keeps_the_contract() {
        match ColdReader::start_ring() {
            Ok(reader) => contract(&reader),
            Err(error) => eprintln!("skipped: io_uring is refused here: {error}"),
        }
    }
}
