//! Zeroes a slot that comes back, and counts the work. The time depends on what was written, not on
//! the size of the slot: up to the enforced size, up to an adaptive watermark with write tracking
//! above it, or everything. Memory stays resident throughout.
//!
//! Without enforced sizes and without tracking, everything is zeroed: no cheaper way is sound.
//! Measured on 2026-11-30 (Linux 6.18, one virtual processor, ms of CPU time for 4 GiB):
//!
//! | | base pages | huge pages |
//! |---|---|---|
//! | zero everything | 113 | 90 |
//! | the same with non-temporal stores | 143 | 103 |
//! | the same on two threads | 114 | 90 |
//! | read everything, zero what is not zero | 274 | 251 |
//! | read `/proc/self/pagemap`, which soft-dirty bits need at least | 65 | 4 |
//! | protect everything and unprotect it (a handler of faults as the tracker) | 275 | 1 |
//! | `MADV_DONTNEED` and populate, 2 MiB at a time (not resident in between) | 2099 | 456 |
//!
//! Soft-dirty bits (`/proc/self/clear_refs`) are cleared for the whole process, so a write of
//! another instance between reading and clearing them would be lost, and many kernels are built
//! without them. With base pages they would take more than half of the time of zeroing. The size
//! that a guest counts itself is no bound: it may write above it. A pool without tracking has two
//! ways out: `Policy::CommitMaximum`, and `Reset::Background` with a slot more.

use std::io;
use std::ops::Range;
use std::ptr::NonNull;

/// The part of a slot that a reset zeroes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ResetMethod {
    /// Everything up to the memory's last size, which protection enforces.
    HighWater,
    /// Everything below a watermark, and the written pages above it.
    Watermark,
    /// The whole slot.
    Everything,
}

/// The work of one reset.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) method: ResetMethod,
    /// The zeros that were written, in bytes.
    pub(crate) zeroed_bytes: u64,
    /// The memory that was protected again, so that its next writes are found, in bytes.
    pub(crate) protected_bytes: u64,
    /// The memory that was collapsed into huge pages again, in bytes.
    pub(crate) collapsed_bytes: u64,
    /// The change of the watermark: from and to.
    pub(crate) moved: Option<(usize, usize)>,
    /// The first failure of write tracking. The slot is zero all the same.
    pub(crate) failure: Option<io::Error>,
}

impl Work {
    pub(crate) fn new(method: ResetMethod) -> Work {
        Work {
            method,
            zeroed_bytes: 0,
            protected_bytes: 0,
            collapsed_bytes: 0,
            moved: None,
            failure: None,
        }
    }

    /// Writes zeros.
    ///
    /// # Safety
    /// The range from `base` on is mapped and writable, and not in use.
    pub(crate) unsafe fn zero(&mut self, base: NonNull<u8>, range: Range<usize>) {
        self.zeroed_bytes += range.len() as u64;
        // SAFETY: the caller's promise.
        unsafe { base.add(range.start).write_bytes(0, range.len()) };
    }
}
