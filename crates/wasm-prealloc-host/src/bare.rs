//! The system calls of this crate without the checks around them, for this repository's benchmarks.
//! Not part of the API: the feature `bare` exists only for them.

use std::io;
use std::ops::Range;
use std::ptr::NonNull;

use crate::sys::HUGE_PAGE_BYTES;
use crate::sys::{self, Advice, Tracker};

/// Commits memory with the system calls of [`secure`](crate::SecuredRegion::secure), in the same
/// order. `memory` starts and ends at a multiple of 2 MiB.
///
/// # Errors
/// The error of the first call that fails.
pub fn collapse(memory: &mut [u8]) -> io::Result<()> {
    advise(memory, Advice::BasePages)?;
    for chunk in memory.chunks_mut(HUGE_PAGE_BYTES) {
        chunk[0] = 0;
        std::hint::black_box(chunk);
    }
    advise(memory, Advice::HugePages)?;
    let mut chunks = memory.chunks_mut(HUGE_PAGE_BYTES);
    chunks.try_for_each(|chunk| advise(chunk, Advice::Collapse))
}

fn advise(memory: &mut [u8], advice: Advice) -> io::Result<()> {
    // SAFETY: the range is the caller's.
    unsafe { sys::advise(NonNull::from(&mut *memory).cast(), memory.len(), advice) }
}

/// Memory with write tracking.
#[derive(Debug)]
pub struct Tracked<'a> {
    memory: &'a mut [u8],
    tracker: Tracker,
}

impl<'a> Tracked<'a> {
    /// Starts to track writes. `memory` starts and ends at a multiple of 2 MiB.
    ///
    /// # Errors
    /// The kernel does not support write tracking.
    pub fn new(memory: &'a mut [u8]) -> io::Result<Self> {
        let tracker = Tracker::open().map_err(io::Error::other)?;
        let tracked = Self { memory, tracker };
        // SAFETY: the range is whole pages of memory that is mutably borrowed, and `drop` ends the
        // tracking before the borrow ends.
        unsafe { tracked.tracker.watch(tracked.range()) }?;
        Ok(tracked)
    }

    /// Scans for written pages. Returns the number of bytes that were written since tracking began.
    ///
    /// # Errors
    /// The scan failed.
    pub fn written_bytes(&self) -> io::Result<usize> {
        let mut written = Vec::new();
        self.tracker.written(self.range(), &mut written)?;
        Ok(written.iter().map(Range::len).sum())
    }

    fn range(&self) -> Range<usize> {
        let range = self.memory.as_ptr_range();
        range.start.addr()..range.end.addr()
    }
}

impl Drop for Tracked<'_> {
    fn drop(&mut self) {
        // SAFETY: as in `new`. If this fails, tracking ends with the tracker's descriptor.
        let _ = unsafe { self.tracker.unwatch(self.range()) };
    }
}
