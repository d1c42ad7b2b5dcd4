//! The state of a pool under its lock: the free slots, and the requests that wait for them.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Condvar, PoisonError};
use std::time::{Duration, Instant};

use crate::commit::report::Secured;
use crate::error::Error;
use crate::pool::policy::WhenExhausted;
use crate::pool::shared::Core;
use crate::pool::slot::Slot;
use crate::pool::statistics::Statistics;
use crate::pool::tracking::TrackingInterface;

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
}

impl Core {
    /// Takes `count` slots out of the free ones at once, with `take`. If too few are free it waits
    /// as the pool's options say, and holds none meanwhile. It always waits for slots that are
    /// being reset.
    ///
    /// Requests are served in the order in which they came, so one for many slots is not passed by
    /// later ones for few.
    pub(crate) fn take<T>(
        &self,
        count: usize,
        take: impl FnOnce(&mut Vec<Slot>) -> T,
    ) -> Result<T, Error> {
        let mut state = self.state();
        state.check_possible(count)?;
        if state.waiting.is_empty() && state.free_count() >= count {
            return state.lend(count, take);
        }
        let since = Instant::now();
        let timeout = match self.options.when_exhausted {
            WhenExhausted::Fail => Duration::ZERO,
            WhenExhausted::Wait(timeout) => timeout,
        };
        let changed = state.enqueue(count);
        loop {
            let possible = state.check_possible(count);
            if possible.is_ok() && state.is_first(&changed) && state.free_count() >= count {
                state.leave(&changed);
                return state.lend(count, take);
            }
            let waited = match timeout {
                Duration::ZERO => Duration::ZERO,
                _ => since.elapsed(),
            };
            let expired = waited >= timeout;
            if possible.is_err() || expired && !state.will_be_served(&changed) {
                state.leave(&changed);
                possible?;
                return Err(state.no_slot(waited));
            }
            state = match expired {
                true => changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                false => {
                    let woken = changed.wait_timeout(state, timeout - waited);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
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
    fn check_possible(&self, count: usize) -> Result<(), Error> {
        if self.free.is_none() {
            return Err(Error::NotSecuredYet);
        }
        let slots = self.statistics.slots - self.statistics.retired;
        match count {
            0 => Ok(()),
            _ if count <= slots => Ok(()),
            1 => Err(self.no_slot(Duration::ZERO)),
            memories => Err(Error::TooManyMemories { memories, slots }),
        }
    }

    /// Returns true if the free slots and those that are being reset are enough for the request and
    /// for all before it.
    fn will_be_served(&self, changed: &Arc<Condvar>) -> bool {
        let mut needed = 0;
        for waiter in &self.waiting {
            needed += waiter.count;
            if Arc::ptr_eq(&waiter.changed, changed) {
                break;
            }
        }
        needed <= self.free_count() + self.statistics.resetting
    }

    fn no_slot(&self, waited: Duration) -> Error {
        let Statistics {
            slots,
            lent,
            retired,
            ..
        } = self.statistics;
        Error::NoSlot {
            slots,
            lent,
            retired,
            waited,
        }
    }

    fn lend<T>(
        &mut self,
        count: usize,
        take: impl FnOnce(&mut Vec<Slot>) -> T,
    ) -> Result<T, Error> {
        let taken = take(self.free.as_mut().ok_or(Error::NotSecuredYet)?);
        self.statistics.lent += count;
        // More may be free, for the request that is first now.
        self.wake_first();
        Ok(taken)
    }

    fn enqueue(&mut self, count: usize) -> Arc<Condvar> {
        let changed = Arc::new(Condvar::new());
        self.waiting.push_back(Waiter {
            count,
            changed: Arc::clone(&changed),
        });
        changed
    }

    fn leave(&mut self, changed: &Arc<Condvar>) {
        self.waiting
            .retain(|waiter| !Arc::ptr_eq(&waiter.changed, changed));
        self.wake_first();
    }

    fn is_first(&self, changed: &Arc<Condvar>) -> bool {
        let first = self.waiting.front();
        first.is_some_and(|first| Arc::ptr_eq(&first.changed, changed))
    }

    /// Wakes the request that waits longest, if it can be served.
    pub(crate) fn wake_first(&self) {
        let first = self.waiting.front();
        if let Some(first) = first.filter(|first| first.count <= self.free_count()) {
            first.changed.notify_one();
        }
    }

    pub(crate) fn wake_all(&self) {
        for waiter in &self.waiting {
            waiter.changed.notify_one();
        }
    }
}
