//! Zeroes a slot that comes back, and counts the work. The time depends on what was written, not on
//! the size of the slot: up to the enforced size, up to an adaptive watermark with write tracking
//! above it, or everything. Memory stays resident throughout.

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
