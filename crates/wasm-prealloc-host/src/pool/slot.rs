//! One memory of a pool: how much of it is accessible, and how it becomes zero again.
//!
//! How much has to be zeroed is decided in `reset`; whose turn it is, in `pool`.

use std::io;
use std::ptr::NonNull;

use crate::commit::secure::{Method, SecuredRegion};
use crate::pool::builder::Policy;
use crate::pool::reset::{self, ResetMethod, Watermark};
use crate::sys::Tracker;

/// The address space that each slot has from its base on: with all that a 32-bit address can
/// reach, and a guard behind, engines leave bounds checks to the processor.
pub(crate) const RESERVATION_BYTES: usize = 4 << 30;
/// Inaccessible on both sides of each slot.
pub(crate) const GUARD_BYTES: usize = 32 << 20;

/// One committed memory of a pool.
#[derive(Debug)]
pub(crate) struct Slot {
    region: SecuredRegion,
    /// How many bytes from the base on are accessible now.
    accessible: usize,
    watermark: Option<Watermark>,
}

impl Slot {
    pub(crate) fn new(region: SecuredRegion, tracker: Option<&Tracker>) -> Slot {
        let (base, bytes) = (region.region().base(), region.len());
        let huge = region.secured().how == Method::Collapsed;
        let watermark = tracker.and_then(|tracker| {
            // SAFETY: the range is the region's own, which lives as long as the slot.
            unsafe { Watermark::new(tracker, base, bytes, huge) }
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
        // SAFETY: a slot that is lent is its borrower's, who asks for nothing to be taken away
        // that is in use.
        unsafe { region.protect(from..to, bytes > self.accessible) }?;
        self.accessible = bytes;
        Ok(())
    }

    /// Makes everything zero; how, and how many bytes were written for it.
    pub(crate) fn reset(
        &mut self,
        tracker: Option<&Tracker>,
        policy: Policy,
        dirty_bytes: usize,
    ) -> io::Result<(ResetMethod, u64)> {
        let base = self.base();
        if policy == Policy::CommitMaximum {
            // SAFETY: what was lent is accessible, and nobody's any more.
            unsafe { reset::zero(base, 0..dirty_bytes) };
            return Ok((ResetMethod::HighWater, dirty_bytes as u64));
        }
        let bytes = self.region.len();
        if let (Some(watermark), Some(tracker)) = (&mut self.watermark, tracker) {
            // SAFETY: all of the slot is accessible, and nobody's any more.
            let zeroed = unsafe { watermark.reset(tracker, base, bytes) }?;
            return Ok((ResetMethod::Watermark, zeroed));
        }
        // SAFETY: as above.
        unsafe { reset::zero(base, 0..bytes) };
        Ok((ResetMethod::Everything, bytes as u64))
    }
}
