//! Counters of a pool.

use std::time::Duration;

use crate::pool::reset::{ResetMethod, Work};

/// The counters of a pool since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Statistics {
    /// The number of slots that the pool secured.
    pub slots: usize,
    /// The number of slots that are lent or reserved now.
    pub lent: usize,
    /// The number of slots that are being reset now, or wait for it.
    pub resetting: usize,
    /// The number of slots whose reset panicked. They are never lent again, and were unmapped.
    pub retired: usize,
    /// The number of requests that wait for slots now.
    pub waiting: usize,
    /// True if resets run on a thread of the pool.
    pub background: bool,
    /// The number of times that a slot was lent.
    pub loans: u64,
    /// The number of resets up to the enforced size.
    pub high_water_resets: u64,
    /// The number of resets with a watermark and write tracking above it.
    pub watermark_resets: u64,
    /// The number of resets of the whole slot.
    pub full_resets: u64,
    /// The number of resets in which write tracking failed, so that more than was written had to be
    /// zeroed, then or in the next reset.
    pub tracking_failures: u64,
    /// The zeros that all resets wrote, in bytes.
    pub zeroed_bytes: u64,
    /// The memory that all resets protected, so that its next writes are found, in bytes.
    pub protected_bytes: u64,
    /// The memory that all resets collapsed into huge pages again, in bytes.
    pub collapsed_bytes: u64,
    /// The time that all resets took.
    pub reset_time: Duration,
}

impl Statistics {
    pub(crate) fn record(&mut self, work: &Work, elapsed: Duration) {
        *match work.method {
            ResetMethod::HighWater => &mut self.high_water_resets,
            ResetMethod::Watermark => &mut self.watermark_resets,
            ResetMethod::Everything => &mut self.full_resets,
        } += 1;
        self.tracking_failures += u64::from(work.failure.is_some());
        self.zeroed_bytes += work.zeroed_bytes;
        self.protected_bytes += work.protected_bytes;
        self.collapsed_bytes += work.collapsed_bytes;
        self.reset_time += elapsed;
    }
}
