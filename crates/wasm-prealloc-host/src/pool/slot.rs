//! One memory of a pool: its accessible size, and its reset to zero.
//!
//! The watermark is in `reset`; slots are lent in the pool.

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::commit::report::Method;
use crate::commit::secure::SecuredRegion;
use crate::pool::policy::Policy;
use crate::pool::reset::{self, ResetMethod, Watermark};
use crate::sys::Tracker;

/// The address space that each slot has from its base on. It covers every 32-bit address, so with a
/// guard after it engines need no bounds checks.
pub(crate) const RESERVATION_BYTES: usize = 4 << 30;
/// The inaccessible range on each side of a slot.
pub(crate) const GUARD_BYTES: usize = 32 << 20;

/// One committed memory of a pool.
#[derive(Debug)]
pub(crate) struct Slot {
    region: SecuredRegion,
    /// The number of bytes from the base on that are accessible now.
    accessible: usize,
    watermark: Option<Watermark>,
}

impl Slot {
    pub(crate) fn new(region: SecuredRegion, tracker: Option<&Arc<Tracker>>) -> Slot {
        let (base, bytes) = (region.region().base(), region.len());
        let huge = region.secured().how == Method::Collapsed;
        let watermark = tracker.and_then(|tracker| {
            // SAFETY: the range is the region's own, which lives as long as the slot.
            unsafe { Watermark::new(Arc::clone(tracker), base, bytes, huge) }
                .inspect_err(|error| tracing::warn!(%error, "a slot cannot be tracked"))
                .ok()
        });
        Slot {
            accessible: bytes,
            watermark,
            region,
        }
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        self.region.region().base()
    }

    /// Makes exactly `bytes` from the base on accessible.
    pub(crate) fn make_accessible(&mut self, bytes: usize) -> io::Result<()> {
        let region = self.region.region();
        let (from, to) = (self.accessible.min(bytes), self.accessible.max(bytes));
        // SAFETY: a lent slot only becomes smaller at the start of a loan, when it is not in use.
        unsafe { region.protect(from..to, bytes > self.accessible) }?;
        self.accessible = bytes;
        Ok(())
    }

    /// Zeroes a slot of which the first `dirty_bytes` were accessible. Returns the method, and the
    /// number of bytes that were zeroed.
    pub(crate) fn reset(
        &mut self,
        policy: Policy,
        dirty_bytes: usize,
    ) -> io::Result<(ResetMethod, u64)> {
        let (base, bytes) = (self.base(), self.region.len());
        let (method, range) = match (policy, &mut self.watermark) {
            (Policy::CommitMaximum, _) => (ResetMethod::HighWater, 0..dirty_bytes),
            (Policy::Declared, Some(watermark)) => {
                // SAFETY: all of the slot is accessible and no longer in use.
                let zeroed = unsafe { watermark.reset(base, bytes) }?;
                return Ok((ResetMethod::Watermark, zeroed));
            }
            (Policy::Declared, None) => (ResetMethod::Everything, 0..bytes),
        };
        let zeroed = range.len() as u64;
        // SAFETY: the range was accessible during the loan, and is no longer in use.
        unsafe { reset::zero(base, range) };
        Ok((method, zeroed))
    }
}
