//! Where mezzanine bytes come from: sources, what is in memory now, and reads that must be waited for.

mod ahead;
mod cold;
mod fault;
#[expect(
    unsafe_code,
    reason = "mapping files, asking for their residency and meeting SIGBUS are system calls"
)]
mod map;
mod source;
mod stamp;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use bytes::Bytes;

use ahead::ReadAhead;
use cold::ColdReader;
pub use fault::Fault;
pub use source::{Glance, LocalFile, Read, Source};
pub use stamp::Stamp;

/// How cold ranges should be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColdChoice {
    /// By io_uring where the kernel lets us, else by threads.
    Auto,
    /// By io_uring, or not at all.
    IoUring,
    /// By threads.
    Threads,
}

/// How cold ranges are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColdPath {
    /// By the storage thread's ring.
    IoUring,
    /// By a few threads, where the kernel refuses io_uring.
    Threads,
}

impl ColdPath {
    /// The name in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::IoUring => "io_uring",
            Self::Threads => "threads",
        }
    }
}

/// How much nicer the threads of storage are than the workers: they still get a tenth of a core that workers fill.
const GIVES_WAY: i32 = 10;

/// Starts a thread that gives way to the workers, since what is in memory must not wait for what is on the disk.
fn spawn(name: impl Into<String>, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.into()).spawn(move || {
        // Linux gives each thread a priority of its own. Without a lower one all works as well, only less evenly.
        let _ = rustix::process::nice(GIVES_WAY);
        run();
    })?;
    Ok(())
}

/// Opens sources; owns the storage threads.
pub struct Storage {
    maps: bool,
    cold: Arc<ColdReader>,
    ahead: Arc<ReadAhead>,
}

impl Storage {
    /// Starts the storage threads. Files are mapped if `maps`, else only ever read.
    ///
    /// # Errors
    /// If no thread can be started, or io_uring is wanted and refused.
    pub fn start(maps: bool, choice: ColdChoice) -> io::Result<Self> {
        let cold = ColdReader::start(choice)?;
        tracing::info!(cold_path = cold.path().as_str(), "storage thread started");
        Ok(Self {
            maps,
            cold: Arc::new(cold),
            ahead: Arc::new(ReadAhead::start()?),
        })
    }

    /// How cold ranges are read here.
    pub fn cold_path(&self) -> ColdPath {
        self.cold.path()
    }

    /// Opens a local file. Blocks: meant for the blocking pool.
    ///
    /// # Errors
    /// [`Fault::Io`].
    pub fn open(&self, path: &Path) -> Result<LocalFile, Fault> {
        LocalFile::open(path, self)
    }
}

/// A file of ours, such as an index, mapped as it is. Blocks: meant for the blocking pool.
///
/// Such files are replaced by rename and never written in place. One that is cut short all the same reads as
/// zeros from there on, which the checks of [`MappedFile::intact`] tell.
pub struct MappedFile {
    mapping: Arc<map::Mapping>,
}

impl MappedFile {
    /// Maps the file at `path`.
    ///
    /// # Errors
    /// The operating system's refusal; an empty file cannot be mapped.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = std::fs::File::open(path)?;
        let len = file.metadata()?.len();
        Ok(Self {
            mapping: Arc::new(map::Mapping::new(&file, len)?),
        })
    }

    /// The whole content, which keeps the mapping alive.
    pub fn bytes(&self) -> Bytes {
        map::Mapping::share(&self.mapping, 0..self.mapping.len())
    }

    /// Whether every page that was ever read was there.
    pub fn intact(&self) -> bool {
        self.mapping.intact().is_ok()
    }
}
