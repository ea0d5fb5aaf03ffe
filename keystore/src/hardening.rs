//! What keeps key material in memory and out of files: the only unsafe code of this package.
//!
//! The root and the KEKs lie in pages of their own that are locked (never swapped), left out of core dumps and
//! wiped before they are given back. Content keys pass through ordinary memory that is wiped; they are short-lived
//! here, and the process as a whole dumps no core.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mlock, mmap_anonymous, munmap};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

use crate::error::Error;

/// Forbids core dumps of this process, and debuggers run by its own user.
///
/// Failures are logged and not fatal: an older kernel or a stricter sandbox takes nothing away that was there.
pub fn harden_process() {
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "cannot make the process undumpable");
    }
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::warn!(%error, "cannot forbid core dumps");
    }
}

/// The system's allocator, which wipes what is given back to it, once [`wipe_freed_memory`] was called: the buffers of
/// libraries too, which a key passes on its way into an answer and which nobody else wipes.
pub struct WipingAllocator;

/// Has the [`WipingAllocator`] wipe from now on, in this whole process. It costs a process that moves media some of its
/// throughput, and is meant for those that do not.
pub fn wipe_freed_memory() {
    WIPES.store(true, Ordering::Relaxed);
}

static WIPES: AtomicBool = AtomicBool::new(false);

#[expect(unsafe_code, reason = "an allocator hands out raw memory")]
mod allocator {
    use super::*;

    // SAFETY: every call is the system's allocator's with the same arguments, apart from `realloc`, which is made of the
    // others as the trait's own is. A block is written to only before it is given back, while it is still the caller's.
    unsafe impl GlobalAlloc for WipingAllocator {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            // SAFETY: the caller keeps the promises of this method, which are the same.
            unsafe { System.alloc(layout) }
        }

        unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
            // SAFETY: as for `alloc`.
            unsafe { System.alloc_zeroed(layout) }
        }

        unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
            // SAFETY: the block has the layout's size and is not used any more, says the caller.
            unsafe {
                if WIPES.load(Ordering::Relaxed) {
                    block.write_bytes(0, layout.size());
                    // Else the compiler may leave out writes that nobody reads before the block is freed.
                    std::hint::black_box(block);
                }
                System.dealloc(block, layout);
            }
        }

        unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
            // SAFETY: the caller promises that `size`, rounded up to the alignment, does not overflow; both blocks have at
            // least the smaller of the two sizes and do not overlap.
            unsafe {
                if !WIPES.load(Ordering::Relaxed) {
                    return System.realloc(block, layout, size);
                }
                let moved = System.alloc(Layout::from_size_align_unchecked(size, layout.align()));
                if !moved.is_null() {
                    moved.copy_from_nonoverlapping(block, layout.size().min(size));
                    self.dealloc(block, layout);
                }
                moved
            }
        }
    }
}

/// A value in pages of its own: locked where the limits allow it, left out of core dumps, and wiped when dropped.
pub(crate) struct Guarded<T> {
    value: NonNull<T>,
    /// The length of the mapping.
    len: usize,
    locked: bool,
}

#[expect(unsafe_code, reason = "pages are mapped, locked and wiped by hand")]
mod pages {
    use super::*;

    impl<T> Guarded<T> {
        /// Moves `value` into pages of its own. The bytes that the move leaves on the stack are the caller's to mind.
        ///
        /// # Errors
        /// When there is no memory.
        pub(crate) fn new(value: T) -> Result<Self, Error> {
            let page = rustix::param::page_size();
            let len = size_of::<T>().max(1).next_multiple_of(page);
            let attempted = || "cannot map memory for a key";
            // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches no memory of ours.
            let start = unsafe {
                mmap_anonymous(
                    std::ptr::null_mut(),
                    len,
                    ProtFlags::READ | ProtFlags::WRITE,
                    MapFlags::PRIVATE,
                )
            }
            .map_err(|error| Error::unavailable(attempted(), error))?;
            // SAFETY: the range is the mapping made above; neither call changes its contents.
            let locked = unsafe {
                if let Err(error) = madvise(start, len, Advice::LinuxDontDump) {
                    tracing::warn!(%error, "cannot leave key memory out of core dumps");
                }
                mlock(start, len).is_ok()
            };
            let place = NonNull::new(start.cast::<T>())
                .ok_or_else(|| Error::unavailable(attempted(), "mapped at zero"))?;
            // SAFETY: the mapping is `len >= size_of::<T>()` bytes, aligned to a page, and ours alone.
            unsafe { place.write(value) };
            Ok(Self {
                value: place,
                len,
                locked,
            })
        }
    }

    impl<T> Deref for Guarded<T> {
        type Target = T;

        fn deref(&self) -> &T {
            // SAFETY: `new` wrote a `T` there, which lives until `drop`, and `&self` allows shared use only.
            unsafe { self.value.as_ref() }
        }
    }

    impl<T> Drop for Guarded<T> {
        fn drop(&mut self) {
            // SAFETY: the value is dropped once, here. Then its bytes are plain memory of the mapping, written
            // volatile so that the wipe is not optimised away. `new` made the mapping with this length and
            // nothing refers to it afterwards.
            unsafe {
                self.value.drop_in_place();
                let bytes = self.value.cast::<u8>();
                for at in 0..size_of::<T>() {
                    bytes.add(at).write_volatile(0);
                }
                if let Err(error) = munmap(self.value.as_ptr().cast(), self.len) {
                    tracing::error!(%error, "cannot give back key memory");
                }
            }
        }
    }

    // SAFETY: `Guarded` owns its `T` as a box does: it may go where a `T` may.
    unsafe impl<T: Send> Send for Guarded<T> {}
    // SAFETY: a shared `Guarded` gives out `&T` and nothing else.
    unsafe impl<T: Sync> Sync for Guarded<T> {}
}

impl<T> Guarded<T> {
    /// Whether the pages are locked.
    pub(crate) fn locked(&self) -> bool {
        self.locked
    }
}

impl<T> fmt::Debug for Guarded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guarded(..)")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn holds_and_drops_its_value() {
        let value = Arc::new([7_u8; 5000]);
        let guarded = Guarded::new(value.clone()).unwrap();
        assert_eq!(guarded[4999], 7);
        assert_eq!(Arc::strong_count(&value), 2);
        drop(guarded);
        assert_eq!(Arc::strong_count(&value), 1);
    }

    #[test]
    fn its_pages_are_left_out_of_core_dumps() {
        let guarded = Guarded::new([1_u8; 32]).unwrap();
        let at = std::ptr::from_ref(&*guarded).addr();
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut mine = false;
        let flags = smaps.lines().find(|line| {
            if let Some((range, _)) = line.split_once(' ')
                && let Some((from, to)) = range.split_once('-')
                && let (Ok(from), Ok(to)) = (
                    usize::from_str_radix(from, 16),
                    usize::from_str_radix(to, 16),
                )
            {
                mine = (from..to).contains(&at);
            }
            mine && line.starts_with("VmFlags:")
        });
        let flags: Vec<_> = flags.unwrap().split_whitespace().collect();
        assert!(flags.contains(&"dd"), "{flags:?}");
        assert_eq!(flags.contains(&"lo"), guarded.locked(), "{flags:?}");
    }
}
