use std::fmt;
use std::fs::File;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::io::{Errno, ReadWriteFlags, preadv2};

use super::ahead::ReadAhead;
use super::cold::ColdReader;
use super::map::Mapping;
use super::{Fault, Stamp, Storage};
use crate::telemetry::{self, ReadFrom};

/// The bytes of one mezzanine file, wherever they lie.
///
/// What packages and sends film knows this interface and nothing below it: a mapped local file is its first
/// kind, and another may fetch ranges from an object store.
pub trait Source: Send + Sync {
    /// The length in bytes.
    fn len(&self) -> u64;

    /// Whether there are no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Hands the bytes of a range to `use_bytes` if they can be had without waiting; otherwise answers `false`
    /// and calls nothing.
    ///
    /// # Errors
    /// A [`Fault`]; what `use_bytes` made is then worthless and must not be used.
    fn if_ready(
        &self,
        range: Range<u64>,
        glance: &mut Glance,
        use_bytes: &mut dyn FnMut(&[u8]),
    ) -> Result<bool, Fault>;

    /// Shares the bytes of a range for the kernel to send from where they lie, if they can be had without waiting.
    ///
    /// Nobody has looked at these bytes: they may change until they are sent, and those of a file that was cut
    /// short cannot be sent at all (EFAULT) or read as zeros. Whoever sends them withholds the end of the response
    /// until [`Source::unchanged`] has been asked after the last of them has gone.
    ///
    /// # Errors
    /// A [`Fault`].
    fn lend(&self, range: Range<u64>, glance: &mut Glance) -> Result<Option<Bytes>, Fault>;

    /// Reads a range, however long it takes, into `buffer`, whose earlier content is dropped.
    fn read(&self, range: Range<u64>, buffer: Vec<u8>) -> Read;

    /// Says that a range will be asked for soon, so that it is read ahead where it is not in memory. Never waits.
    fn expect(&self, range: Range<u64>);

    /// Looks whether the content can still be what it was when the source was opened.
    ///
    /// # Errors
    /// [`Fault::Changed`] or [`Fault::Truncated`].
    fn unchanged(&self) -> Result<(), Fault>;
}

/// What of a file was in memory a moment ago: one look at a stretch of it serves for the ranges within.
#[derive(Debug, Default)]
pub struct Glance {
    resident: Range<u64>,
    until: Option<Instant>,
}

/// How far one look reaches, in bytes.
const REACH: u64 = 1024 * 1024;

/// How long a look is believed. Pages go again, and a slow client may come back for the next bytes much later.
const BELIEVED: Duration = Duration::from_millis(10);

/// The most that is read ahead at once, in bytes: a segment of ten seconds at 25 Mb/s.
const EXPECTED: u64 = 32 << 20;

/// A read that is under way.
pub type Read = Pin<Box<dyn Future<Output = Result<Vec<u8>, Fault>> + Send>>;

/// A local file; cold ranges are read by the storage thread and never faulted in.
pub struct LocalFile {
    file: Arc<File>,
    /// Where `mincore` tells which pages of it are in memory. Without one, `preadv2` with `RWF_NOWAIT` reads what is
    /// there, a copy dearer.
    mapping: Option<Arc<Mapping>>,
    stamp: Stamp,
    cold: Arc<ColdReader>,
    ahead: Arc<ReadAhead>,
}

impl LocalFile {
    /// Opens and maps the file at `path`. Blocks: meant for the blocking pool.
    ///
    /// # Errors
    /// [`Fault::Io`].
    pub(super) fn open(path: &Path, storage: &Storage) -> Result<Self, Fault> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(Fault::from(io::Error::other("not a regular file")));
        }
        let stamp = Stamp::of(&metadata);
        let maps = storage.maps && stamp.len > 0 && mincore_tells_the_truth(&metadata, path);
        let mapping = maps
            .then(|| Mapping::new(&file, stamp.len).map(Arc::new))
            .transpose()?;
        Ok(Self {
            file: Arc::new(file),
            mapping,
            stamp,
            cold: Arc::clone(&storage.cold),
            ahead: Arc::clone(&storage.ahead),
        })
    }

    /// The stamp the file had when it was opened.
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Reads a range on this thread. Blocks: meant for the blocking pool.
    ///
    /// # Errors
    /// [`Fault::Truncated`] or [`Fault::Io`].
    pub fn read_now(&self, range: Range<u64>, buffer: &mut [u8]) -> Result<(), Fault> {
        use std::os::unix::fs::FileExt as _;
        self.file
            .read_exact_at(buffer, range.start)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => Fault::Truncated,
                _ => Fault::from(error),
            })
    }

    fn checked(&self, range: &Range<u64>) -> Result<Range<usize>, Fault> {
        let beyond = || Fault::Truncated;
        if range.start > range.end || range.end > self.stamp.len {
            return Err(beyond());
        }
        Ok(usize::try_from(range.start).map_err(|_| beyond())?
            ..usize::try_from(range.end).map_err(|_| beyond())?)
    }

    /// Whether the page cache holds the byte at `offset`. A mapping is asked where there is one, since a read that may
    /// not wait begins to read from the disk all the same.
    fn is_cached(&self, offset: u64) -> bool {
        if let Some(mapping) = &self.mapping {
            return mapping.resident_until(offset, offset + 1) > offset;
        }
        let mut byte = [0];
        let slice = &mut [IoSliceMut::new(&mut byte)];
        matches!(
            preadv2(&*self.file, slice, offset, ReadWriteFlags::NOWAIT),
            Ok(1)
        )
    }

    /// Reads what the page cache holds; `false` unless it holds all of it.
    fn read_cached(
        &self,
        range: &Range<usize>,
        use_bytes: &mut dyn FnMut(&[u8]),
    ) -> Result<bool, Fault> {
        thread_local! {
            static SCRATCH: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
        }
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.resize(range.len(), 0);
            let mut filled = 0;
            while filled < range.len() {
                let slice = &mut [IoSliceMut::new(&mut scratch[filled..])];
                let offset = (range.start + filled) as u64;
                match preadv2(&*self.file, slice, offset, ReadWriteFlags::NOWAIT) {
                    Ok(0) => return Err(Fault::Truncated),
                    Ok(count) => filled += count,
                    Err(Errno::INTR) => {}
                    // A file system without RWF_NOWAIT answers OPNOTSUPP: everything is cold there.
                    Err(Errno::AGAIN | Errno::OPNOTSUPP) => return Ok(false),
                    Err(error) => return Err(Fault::from(io::Error::from(error))),
                }
            }
            use_bytes(scratch);
            telemetry::mezzanine_read(ReadFrom::PageCache, filled as u64);
            Ok(true)
        })
    }
}

impl Source for LocalFile {
    fn len(&self) -> u64 {
        self.stamp.len
    }

    fn if_ready(
        &self,
        range: Range<u64>,
        glance: &mut Glance,
        use_bytes: &mut dyn FnMut(&[u8]),
    ) -> Result<bool, Fault> {
        let within = self.checked(&range)?;
        if within.is_empty() {
            use_bytes(&[]);
            return Ok(true);
        }
        match &self.mapping {
            Some(mapping) if glance.holds(mapping, &range) => {
                let len = within.len() as u64;
                mapping
                    .with(within, use_bytes)
                    .map_err(|_| Fault::Truncated)?;
                telemetry::mezzanine_read(ReadFrom::Mapping, len);
                Ok(true)
            }
            Some(_) => Ok(false),
            None => self.read_cached(&within, use_bytes),
        }
    }

    fn lend(&self, range: Range<u64>, glance: &mut Glance) -> Result<Option<Bytes>, Fault> {
        let within = self.checked(&range)?;
        Ok(match &self.mapping {
            Some(mapping) if glance.holds(mapping, &range) => {
                telemetry::mezzanine_read(ReadFrom::Mapping, within.len() as u64);
                Some(Mapping::share(mapping, within))
            }
            Some(_) | None => None,
        })
    }

    fn read(&self, range: Range<u64>, buffer: Vec<u8>) -> Read {
        match self.checked(&range) {
            Ok(_) => {
                telemetry::mezzanine_read(ReadFrom::Disk, range.end - range.start);
                self.cold.read(Arc::clone(&self.file), range, buffer)
            }
            Err(fault) => Box::pin(std::future::ready(Err(fault))),
        }
    }

    fn expect(&self, range: Range<u64>) {
        let end = range
            .end
            .min(range.start.saturating_add(EXPECTED))
            .min(self.len());
        // Files are read forwards: where the last byte is in memory, so are most likely those before it.
        if range.start < end && !self.is_cached(end - 1) {
            self.ahead.ask(&self.file, range.start..end);
        }
    }

    fn unchanged(&self) -> Result<(), Fault> {
        if let Some(mapping) = &self.mapping {
            mapping.intact().map_err(|_| Fault::Truncated)?;
        }
        let now = Stamp::of(&self.file.metadata()?);
        if self.stamp.same_content(&now) {
            Ok(())
        } else {
            Err(Fault::Changed)
        }
    }
}

impl Glance {
    /// Whether all of `range`, which lies within the mapping, is or was just now in memory.
    fn holds(&mut self, mapping: &Mapping, range: &Range<u64>) -> bool {
        let covers = |known: &Range<u64>| known.start <= range.start && range.end <= known.end;
        let now = Instant::now();
        if !covers(&self.resident) || self.until.is_none_or(|until| until < now) {
            let len = mapping.len() as u64;
            let end = (range.start + REACH).max(range.end).min(len);
            self.resident = range.start..mapping.resident_until(range.start, end);
            self.until = Some(now + BELIEVED);
        }
        covers(&self.resident)
    }
}

impl fmt::Debug for LocalFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalFile")
            .field("stamp", &self.stamp)
            .field("mapped", &self.mapping.is_some())
            .finish()
    }
}

/// Since Linux 5.2 `mincore` calls every page of a file resident that the caller neither owns nor may write.
fn mincore_tells_the_truth(metadata: &std::fs::Metadata, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    metadata.uid() == rustix::process::geteuid().as_raw()
        || rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use rustix::fs::{Advice, fadvise};

    use super::*;
    use crate::storage::ColdChoice;

    #[test]
    fn what_is_expected_comes_into_memory_unasked() {
        const LEN: u64 = 4 << 20;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("film.mp4");
        let mut film = File::create(&path).unwrap();
        film.write_all(&vec![7; usize::try_from(LEN).unwrap()])
            .unwrap();
        film.sync_all().unwrap();
        for maps in [true, false] {
            let storage = Storage::start(maps, ColdChoice::Threads).unwrap();
            let source = storage.open(&path).unwrap();
            fadvise(&film, 0, None, Advice::DontNeed).unwrap();
            if source.is_cached(LEN - 1) {
                eprintln!("skipped: this file system keeps what it is told to forget");
                return;
            }
            source.expect(0..LEN + 1000);
            let is_ready = || {
                let mut glance = Glance::default();
                source
                    .if_ready(0..LEN, &mut glance, &mut |bytes| assert_eq!(bytes[9], 7))
                    .unwrap()
            };
            let given_up = Instant::now() + Duration::from_secs(30);
            while !is_ready() {
                assert!(Instant::now() < given_up, "nothing was read ahead");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}
