//! Counters of a pool.

use std::time::Duration;

use crate::pool::reset::ResetMethod;

/// The counters of a pool since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Statistics {
    /// The number of slots that the pool secured.
    pub slots: usize,
    /// The number of slots that are lent or reserved now.
    pub lent: usize,
    /// The number of requests that wait for slots now.
    pub waiting: usize,
    /// The number of slots whose reset failed. They are never lent again, and were unmapped.
    pub retired: usize,
    /// The number of times that a slot was lent.
    pub loans: u64,
    /// The number of resets up to the enforced size.
    pub high_water_resets: u64,
    /// The number of resets with a watermark and write tracking above it.
    pub watermark_resets: u64,
    /// The number of resets of the whole slot.
    pub full_resets: u64,
    /// The zeros that all resets wrote, in bytes.
    pub zeroed_bytes: u64,
    /// The time that all resets took.
    pub reset_time: Duration,
}

impl Statistics {
    pub(crate) fn record(&mut self, method: ResetMethod, zeroed_bytes: u64, elapsed: Duration) {
        *match method {
            ResetMethod::HighWater => &mut self.high_water_resets,
            ResetMethod::Watermark => &mut self.watermark_resets,
            ResetMethod::Everything => &mut self.full_resets,
        } += 1;
        self.zeroed_bytes += zeroed_bytes;
        self.reset_time += elapsed;
    }
}
