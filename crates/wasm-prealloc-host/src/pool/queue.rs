//! The state of a pool under its lock: the free slots, and the requests that wait for them.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Condvar};
use std::time::Duration;

use crate::commit::report::Secured;
use crate::error::LendError;
use crate::pool::slot::Slot;
use crate::pool::statistics::Statistics;
use crate::sys::TrackingInterface;

#[derive(Debug, Default)]
pub(crate) struct State {
    /// The slots that can be lent, the next to be lent last: the slot used most recently is in the
    /// processor's caches, and its watermark fits best. `None` before they are secured.
    pub(crate) free: Option<Vec<Slot>>,
    /// The slots that wait for a reset on the pool's thread.
    pub(crate) dirty: VecDeque<Slot>,
    /// The committed addresses of all slots that are not retired.
    pub(crate) ranges: Vec<Range<usize>>,
    /// The requests that wait, in the order in which they came.
    waiting: VecDeque<Waiter>,
    pub(crate) secured: Option<Secured>,
    pub(crate) tracking: Option<TrackingInterface>,
    pub(crate) statistics: Statistics,
    /// True when the pool is dropped.
    pub(crate) ended: bool,
}

/// A request that waits for slots.
#[derive(Debug)]
struct Waiter {
    count: usize,
    changed: Arc<Condvar>,
    /// True for a request on the pool's own thread, which resets queued slots itself.
    resets: bool,
}

impl State {
    /// Takes the pool's slots.
    pub(crate) fn fill(
        &mut self,
        mut slots: Vec<Slot>,
        secured: Option<Secured>,
        tracking: Option<TrackingInterface>,
    ) {
        self.statistics.slots = slots.len();
        self.ranges = slots.iter().map(Slot::committed).collect();
        // A slot comes back without an allocation.
        self.dirty.reserve_exact(slots.len());
        // The last of the list is the first to be lent.
        slots.reverse();
        self.free = Some(slots);
        self.secured = secured;
        self.tracking = tracking;
    }

    pub(crate) fn statistics(&self) -> Statistics {
        Statistics {
            waiting: self.waiting.len(),
            ..self.statistics
        }
    }

    fn free_count(&self) -> usize {
        self.free.as_ref().map_or(0, Vec::len)
    }

    /// Checks that `count` slots can be free at the same time.
    pub(crate) fn check_possible(&self, count: usize) -> Result<(), LendError> {
        if self.free.is_none() {
            return Err(LendError::NotSecuredYet);
        }
        let slots = self.statistics.slots - self.statistics.retired;
        match count {
            0 => Ok(()),
            _ if count <= slots => Ok(()),
            1 => Err(self.no_slot(Duration::ZERO)),
            memories => Err(LendError::TooManyMemories { memories, slots }),
        }
    }

    /// Returns true if a new request need not wait: no other waits, and enough slots are free.
    pub(crate) fn can_serve_at_once(&self, count: usize) -> bool {
        self.waiting.is_empty() && self.free_count() >= count
    }

    /// Returns true if the request waits longest, and enough slots are free for it.
    pub(crate) fn can_serve_first(&self, changed: &Arc<Condvar>, count: usize) -> bool {
        let first = self.waiting.front();
        let is_first = first.is_some_and(|first| Arc::ptr_eq(&first.changed, changed));
        is_first && self.free_count() >= count
    }

    /// Returns true if the free slots and those that are being reset are enough for the request and
    /// for all before it.
    pub(crate) fn will_be_served(&self, changed: &Arc<Condvar>) -> bool {
        let mut needed = 0;
        for waiter in &self.waiting {
            needed += waiter.count;
            if Arc::ptr_eq(&waiter.changed, changed) {
                break;
            }
        }
        needed <= self.free_count() + self.statistics.resetting
    }

    /// Returns the error of a request that waited in vain.
    pub(crate) fn no_slot(&self, waited: Duration) -> LendError {
        let Statistics {
            slots,
            lent,
            retired,
            ..
        } = self.statistics;
        LendError::NoSlot {
            slots,
            lent,
            retired,
            waited,
        }
    }

    /// Takes slots out of the free ones with `take`, and counts them as lent.
    pub(crate) fn lend<T>(
        &mut self,
        count: usize,
        take: impl FnOnce(&mut Vec<Slot>) -> T,
    ) -> Result<T, LendError> {
        let taken = take(self.free.as_mut().ok_or(LendError::NotSecuredYet)?);
        self.statistics.lent += count;
        // More may be free, for the request that is first now.
        self.wake_first();
        Ok(taken)
    }

    /// Adds a request, which is notified when it can be served.
    pub(crate) fn enqueue(&mut self, count: usize, resets: bool) -> Arc<Condvar> {
        let changed = Arc::new(Condvar::new());
        self.waiting.push_back(Waiter {
            count,
            changed: Arc::clone(&changed),
            resets,
        });
        changed
    }

    /// Removes a request.
    pub(crate) fn leave(&mut self, changed: &Arc<Condvar>) {
        self.waiting
            .retain(|waiter| !Arc::ptr_eq(&waiter.changed, changed));
        self.wake_first();
    }

    /// Wakes the request that waits longest, if it can be served.
    pub(crate) fn wake_first(&self) {
        let first = self.waiting.front();
        if let Some(first) = first.filter(|first| first.count <= self.free_count()) {
            first.changed.notify_one();
        }
    }

    /// Wakes a request on the pool's own thread, which resets queued slots itself.
    pub(crate) fn wake_resetter(&self) {
        for waiter in self.waiting.iter().filter(|waiter| waiter.resets) {
            waiter.changed.notify_one();
        }
    }

    pub(crate) fn wake_all(&self) {
        for waiter in &self.waiting {
            waiter.changed.notify_one();
        }
    }
}
