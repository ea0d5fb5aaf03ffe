//! Mapped files, and what happens when one of them is cut short under us.
//!
//! The one module of this package that uses `unsafe`. A page of a mapping that lies behind the end of the
//! file raises SIGBUS when it is touched. The handler here looks the address up among the registered
//! mappings: where it belongs to one, it marks that mapping as poisoned, puts a page of zeros in the way and
//! returns; every other address is handed on to the handler that stood before. [`Mapping::with`] looks at the
//! mark after its closure has run and before anyone may use what the closure made, so zeros never leave. Who is given
//! a [share](Mapping::share) instead looks at the mark by [`Mapping::intact`] before the last of its bytes leaves.
//!
//! The residency check stands here too, because `mincore` takes the mapping's address.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};

use bytes::Bytes;
use memmap2::{Mmap, MmapOptions};

/// A read-only mapping of a whole file, registered with the SIGBUS handler.
pub(super) struct Mapping {
    map: Mmap,
    slot: usize,
}

/// The file became shorter than the mapping while a page of it was touched.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Poisoned;

impl Mapping {
    /// Maps the first `len` bytes of `file`.
    ///
    /// # Errors
    /// The kernel's refusal, or [`MAPPINGS`] mappings being in use. An empty file cannot be mapped.
    pub(super) fn new(file: &File, len: u64) -> io::Result<Self> {
        install_handler();
        let len = usize::try_from(len).map_err(io::Error::other)?;
        // SAFETY: the bytes behind the mapping may change if someone writes to the file. They are only ever
        // read as plain bytes, whose every value is valid: by `with`, whose callers copy or encrypt them and
        // then ask `Source::unchanged` before the result leaves, or by the kernel and readers of a `share`, who
        // make no decision on them. Truncation is met by the handler below.
        let map = unsafe { MmapOptions::new().len(len).map(file)? };
        let slot = SLOTS.claim(map.as_ptr() as usize, map.len())?;
        Ok(Self { map, slot })
    }

    /// Runs `use_bytes` over a range of the file, then checks that every byte it saw was the file's.
    ///
    /// # Errors
    /// [`Poisoned`] if a page could not be had, now or at any earlier time: what the closure made is worthless.
    ///
    /// # Panics
    /// If the range lies outside the mapping.
    pub(super) fn with(
        &self,
        range: Range<usize>,
        use_bytes: &mut dyn FnMut(&[u8]),
    ) -> Result<(), Poisoned> {
        use_bytes(&self.map[range]);
        self.intact()
    }

    /// The length in bytes.
    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    /// A range of the file as shared bytes, which keep the mapping alive.
    ///
    /// # Panics
    /// If the range lies outside the mapping.
    pub(super) fn share(this: &Arc<Self>, range: Range<usize>) -> Bytes {
        assert!(range.end <= this.map.len(), "a range of the mapping");
        Bytes::from_owner(Shared {
            mapping: Arc::clone(this),
            range,
        })
    }

    /// Whether no page of the mapping was ever missing.
    pub(super) fn intact(&self) -> Result<(), Poisoned> {
        if SLOTS.slots[self.slot].poisoned.load(Ordering::Acquire) {
            Err(Poisoned)
        } else {
            Ok(())
        }
    }

    /// Up to where the kernel says that every page from `start` on is in memory; `start` if its page is not, and at
    /// most `end`. A hint: pages may go again.
    pub(super) fn resident_until(&self, start: u64, end: u64) -> u64 {
        const PAGES: usize = 512;
        let page = page_size();
        let place = |at: u64| {
            usize::try_from(at)
                .unwrap_or(usize::MAX)
                .min(self.map.len())
        };
        let (from, end) = (place(start), place(end));
        let mut at = from / page * page;
        let mut states = [0_u8; PAGES];
        while at < end {
            let len = (end - at).min(PAGES * page);
            let pages = len.div_ceil(page);
            // SAFETY: the range lies within a live mapping and starts on a page of it; `states` has room for
            // one byte per page, which is all that mincore writes.
            let result = unsafe {
                libc::mincore(
                    self.map.as_ptr().add(at).cast_mut().cast(),
                    len,
                    states.as_mut_ptr(),
                )
            };
            if result != 0 {
                break;
            }
            match states[..pages].iter().position(|state| state & 1 == 0) {
                Some(missing) => {
                    at += missing * page;
                    break;
                }
                None => at += len,
            }
        }
        at.clamp(from, end.max(from)) as u64
    }
}

/// Part of a mapping, for readers that check [`Mapping::intact`] themselves.
struct Shared {
    mapping: Arc<Mapping>,
    range: Range<usize>,
}

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.mapping.map[self.range.clone()]
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        SLOTS.release(self.slot);
    }
}

/// The most mappings at a time: two for each open source, and more than any process may open files.
const MAPPINGS: usize = 1 << 17;

struct Slot {
    start: AtomicUsize,
    len: AtomicUsize,
    poisoned: AtomicBool,
}

/// The registered mappings. A signal handler may take no lock and call no allocator, so it walks a fixed table.
struct Slots {
    slots: [Slot; MAPPINGS],
    /// Slots below this index were claimed at some time.
    used: AtomicUsize,
    free: Mutex<Vec<usize>>,
}

static SLOTS: Slots = Slots {
    slots: [const {
        Slot {
            start: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
            poisoned: AtomicBool::new(false),
        }
    }; MAPPINGS],
    used: AtomicUsize::new(0),
    free: Mutex::new(Vec::new()),
};

impl Slots {
    fn claim(&self, start: usize, len: usize) -> io::Result<usize> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let index = match free.pop() {
            Some(index) => index,
            None => {
                let index = self.used.load(Ordering::Relaxed);
                if index == MAPPINGS {
                    return Err(io::Error::other("too many mapped files"));
                }
                self.used.store(index + 1, Ordering::Release);
                index
            }
        };
        let slot = &self.slots[index];
        slot.poisoned.store(false, Ordering::Relaxed);
        slot.start.store(start, Ordering::Relaxed);
        slot.len.store(len, Ordering::Release);
        Ok(index)
    }

    fn release(&self, index: usize) {
        self.slots[index].len.store(0, Ordering::Release);
        self.free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(index);
    }

    /// Async-signal-safe: atomics only.
    fn find(&self, address: usize) -> Option<&Slot> {
        self.slots[..self.used.load(Ordering::Acquire)]
            .iter()
            .find(|slot| {
                let len = slot.len.load(Ordering::Acquire);
                let start = slot.start.load(Ordering::Relaxed);
                address.wrapping_sub(start)
                    < len.next_multiple_of(PAGE.load(Ordering::Relaxed).max(1))
            })
    }
}

static PAGE: AtomicUsize = AtomicUsize::new(0);
static PREVIOUS: AtomicPtr<libc::sigaction> = AtomicPtr::new(std::ptr::null_mut());

fn page_size() -> usize {
    PAGE.load(Ordering::Relaxed)
}

fn install_handler() {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        PAGE.store(rustix::param::page_size(), Ordering::Relaxed);
        // SAFETY: `sigaction` is plain data for which all zeros is a value; the handler has the signature that
        // SA_SIGINFO asks for and calls only async-signal-safe functions. `previous` is leaked, so that the
        // handler may read it for as long as the process lives.
        unsafe {
            let previous: &mut libc::sigaction = Box::leak(Box::new(std::mem::zeroed()));
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_sigbus as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&raw mut action.sa_mask);
            libc::sigaction(libc::SIGBUS, &raw const action, &raw mut *previous);
            PREVIOUS.store(previous, Ordering::Release);
        }
    });
}

extern "C" fn on_sigbus(
    _signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler, and SIGBUS fills in the address.
    let address = unsafe { (*info).si_addr() } as usize;
    if let Some(slot) = SLOTS.find(address) {
        slot.poisoned.store(true, Ordering::Release);
        let page = page_size();
        // SAFETY: the page lies in a mapping that its toucher holds alive; replacing it by zeros changes no
        // memory that anyone writes. mmap is a bare system call.
        let replaced = unsafe {
            libc::mmap(
                (address / page * page) as *mut libc::c_void,
                page,
                libc::PROT_READ,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                -1,
                0,
            )
        };
        if replaced != libc::MAP_FAILED {
            return;
        }
    }
    let previous = PREVIOUS.load(Ordering::Acquire);
    // SAFETY: sigaction is async-signal-safe. With the earlier action in place the instruction faults again
    // upon return, and what would have happened without us happens. Before `PREVIOUS` is stored nothing is
    // registered and null asks sigaction to change nothing; the default action is then named explicitly.
    unsafe {
        if previous.is_null() {
            libc::signal(libc::SIGBUS, libc::SIG_DFL);
        } else {
            libc::sigaction(libc::SIGBUS, previous, std::ptr::null_mut());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn mapped(len: usize) -> (File, Mapping) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; len]).unwrap();
        let mapping = Mapping::new(&file, len as u64).unwrap();
        (file, mapping)
    }

    #[test]
    fn a_truncated_mapping_poisons_and_does_not_kill() {
        let (file, mapping) = mapped(64 * 1024);
        let mut sum = 0_u64;
        let mut add = |bytes: &[u8]| sum = bytes.iter().map(|&byte| u64::from(byte)).sum();
        assert_eq!(mapping.with(0..64 * 1024, &mut add), Ok(()));
        file.set_len(4096).unwrap();
        assert_eq!(mapping.with(0..64 * 1024, &mut add), Err(Poisoned));
        assert_eq!(
            mapping.with(0..10, &mut add),
            Err(Poisoned),
            "once poisoned, always poisoned"
        );
    }

    #[test]
    fn other_mappings_are_not_poisoned_and_slots_are_reused_clean() {
        let (short, first) = mapped(8192);
        let (_long, second) = mapped(8192);
        short.set_len(0).unwrap();
        let mut touch = |bytes: &[u8]| assert!(!bytes.is_empty());
        let mut read = |bytes: &[u8]| drop(bytes.to_vec());
        assert_eq!(first.with(0..8192, &mut read), Err(Poisoned));
        assert_eq!(second.with(0..8192, &mut touch), Ok(()));
        drop(first);
        let (_again, third) = mapped(8192);
        assert_eq!(third.with(0..8192, &mut read), Ok(()));
    }

    #[test]
    fn fresh_pages_are_resident_in_our_own_file() {
        let (_file, mapping) = mapped(3 * 1024 * 1024);
        let len = 3 * 1024 * 1024;
        assert_eq!(mapping.resident_until(0, len), len);
        assert_eq!(mapping.resident_until(5000, 5001), 5001);
        assert_eq!(mapping.resident_until(len, len), len);
    }
}
