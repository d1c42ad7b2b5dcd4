//! One memory of a pool: its accessible size, and its reset to zero.
//!
//! The watermark is in `watermark`; slots are lent in `shared`.

use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::commit::report::Method;
use crate::commit::requirements::WASM_PAGE_BYTES;
use crate::commit::secure::SecuredRegion;
use crate::pool::policy::Policy;
use crate::pool::reset::{ResetMethod, Work};
use crate::pool::watermark::Watermark;
use crate::sys::HUGE_PAGE_BYTES;
use crate::sys::{self, Advice, Tracker};

/// The address space that each slot has from its base on. It covers every 32-bit address, so with a
/// guard after it engines need no bounds checks.
pub(crate) const RESERVATION_BYTES: usize = 4 << 30;
/// The inaccessible range on each side of a slot.
pub(crate) const GUARD_BYTES: usize = 32 << 20;

/// One committed memory of a pool.
#[derive(Debug)]
pub(crate) struct Slot {
    region: SecuredRegion,
    /// The number of bytes from the base on that are accessible now: whole wasm pages.
    accessible: usize,
    /// True if the first wasm page is a mapping of its own; see
    /// [`make_accessible`](Slot::make_accessible).
    first_apart: bool,
    watermark: Option<Watermark>,
}

impl Slot {
    /// Returns the slot, and the failure of tracking it if there was one. Such a slot is zeroed as
    /// a whole until it can be tracked.
    pub(crate) fn new(
        region: SecuredRegion,
        tracker: Option<&Arc<Tracker>>,
    ) -> (Slot, io::Result<()>) {
        let (base, bytes) = (region.region().base(), region.len());
        let how = region.secured().how;
        let unit = match how {
            // Tracking fails for pages of 1 GiB.
            Method::HugePool => HUGE_PAGE_BYTES,
            _ => WASM_PAGE_BYTES as usize,
        };
        let (watermark, started) = match tracker {
            Some(tracker) => {
                let tracker = Arc::clone(tracker);
                // SAFETY: the range is the region's own, which lives as long as the slot.
                let (watermark, started) =
                    unsafe { Watermark::new(tracker, base, bytes, how == Method::Collapsed, unit) };
                (Some(watermark), started)
            }
            None => (None, Ok(())),
        };
        let slot = Slot {
            accessible: bytes,
            first_apart: false,
            watermark,
            region,
        };
        (slot, started)
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        self.region.region().base()
    }

    /// Returns the committed range, as addresses.
    pub(crate) fn committed(&self) -> Range<usize> {
        let start = self.base().addr().get();
        start..start + self.region.len()
    }

    /// Makes the first `bytes` accessible, rounded up to a wasm page.
    ///
    /// The kernel limits the number of mappings (`vm.max_map_count`), and growth must not fail. So
    /// all that growth needs is mapped when the memory is lent. A memory that has accessible pages
    /// grows by moving the boundary between its two mappings. A memory of 0 bytes has no boundary:
    /// its first wasm page is made a mapping of its own by advice that has no effect on private
    /// memory and that keeps the kernel from merging the two. Protecting a whole mapping needs no
    /// further one, and afterwards there is a boundary to move.
    pub(crate) fn make_accessible(&mut self, bytes: usize) -> io::Result<()> {
        let page = sys::page_bytes().max(WASM_PAGE_BYTES as usize);
        let target = bytes.next_multiple_of(page).min(self.region.len());
        if target > self.accessible {
            return self.grow(target);
        }
        if target < self.accessible {
            // SAFETY: a slot only becomes smaller at the start of a loan, when it is not in use.
            unsafe { self.region.region().protect(target..self.accessible, false) }?;
            self.accessible = target;
        }
        // A slot of one page has no second mapping.
        if target == 0 && !self.first_apart && self.first_page() < self.region.len() {
            self.advise_first(Advice::Apart)?;
            self.first_apart = true;
        }
        Ok(())
    }

    fn grow(&mut self, target: usize) -> io::Result<()> {
        let region = self.region.region();
        if self.first_apart {
            let first = self.first_page();
            // SAFETY: nothing becomes inaccessible.
            unsafe { region.protect(0..first, true) }?;
            self.accessible = first;
            self.advise_first(Advice::Normal)?;
            self.first_apart = false;
        }
        if target > self.accessible {
            // SAFETY: as above.
            unsafe { self.region.region().protect(self.accessible..target, true) }?;
            self.accessible = target;
        }
        Ok(())
    }

    fn first_page(&self) -> usize {
        self.region.len().min(WASM_PAGE_BYTES as usize)
    }

    fn advise_first(&self, advice: Advice) -> io::Result<()> {
        // SAFETY: the range is the region's own.
        match unsafe { sys::advise(self.base(), self.first_page(), advice) } {
            // Other systems do not limit the number of mappings.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            outcome => outcome,
        }
    }

    /// Zeroes a slot that is no longer in use.
    pub(crate) fn reset(&mut self, policy: Policy) -> Work {
        let (base, bytes) = (self.base(), self.region.len());
        let (method, range) = match (policy, &mut self.watermark) {
            (Policy::CommitMaximum | Policy::Cap { .. }, _) => {
                (ResetMethod::HighWater, 0..self.accessible)
            }
            (Policy::Declared, Some(watermark)) => {
                // SAFETY: all of the slot is accessible and no longer in use.
                return unsafe { watermark.reset(base, bytes) };
            }
            (Policy::Declared, None) => (ResetMethod::Everything, 0..bytes),
        };
        let mut work = Work::new(method);
        if !self.region.is_committed() {
            // SAFETY: the range is the region's own, and is no longer in use.
            if unsafe { sys::discard(base, range.len()) }.is_ok() {
                return work;
            }
        }
        // SAFETY: the range was accessible during the loan, and is no longer in use.
        unsafe { work.zero(base, range) };
        work
    }
}
