//! The slots of a pool behind its lock: which are free, which requests wait for them, and the
//! return of each slot.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::commit::report::Secured;
use crate::error::Error;
use crate::pool::policy::{Policy, WhenExhausted};
use crate::pool::slot::Slot;
use crate::pool::statistics::Statistics;

/// The part of a pool that its handles, its loans and its reservations share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) pages: u64,
    pub(crate) slots: usize,
    pub(crate) policy: Policy,
    pub(crate) when_exhausted: WhenExhausted,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The slots that are not lent, the next to be lent last: the slot used most recently is in the
    /// processor's caches, and its watermark fits best. `None` before they are secured.
    free: Option<Vec<Slot>>,
    /// The requests that wait, in the order in which they came.
    waiting: VecDeque<Waiter>,
    secured: Option<Secured>,
    statistics: Statistics,
}

/// A request that waits for slots.
#[derive(Debug)]
struct Waiter {
    count: usize,
    changed: Arc<Condvar>,
}

impl Shared {
    pub(crate) fn new(
        pages: u64,
        slots: usize,
        policy: Policy,
        when_exhausted: WhenExhausted,
    ) -> Shared {
        Shared {
            pages,
            slots,
            policy,
            when_exhausted,
            state: Mutex::default(),
        }
    }

    /// Gives the pool its slots.
    pub(crate) fn fill(&self, mut slots: Vec<Slot>, secured: Option<Secured>) {
        let mut state = self.state();
        state.statistics.slots = slots.len();
        // The last of the list is the first to be lent.
        slots.reverse();
        state.free = Some(slots);
        state.secured = secured;
    }

    pub(crate) fn secured(&self) -> Option<Secured> {
        self.state().secured
    }

    pub(crate) fn statistics(&self) -> Statistics {
        let state = self.state();
        Statistics {
            waiting: state.waiting.len(),
            ..state.statistics
        }
    }

    /// Counts a loan.
    pub(crate) fn count_loan(&self) {
        self.state().statistics.loans += 1;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every section under the lock leaves a valid state, even after a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes `count` slots out of the free ones at once, with `take`. If too few are free it waits
    /// as the pool's options say, and holds none meanwhile.
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
        let timeout = match self.when_exhausted {
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
            if possible.is_err() || waited >= timeout {
                state.leave(&changed);
                possible?;
                return Err(state.no_slot(waited));
            }
            let woken = changed.wait_timeout(state, timeout - waited);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Takes slots back that were taken and not lent, so they are still zero.
    pub(crate) fn give_back(&self, slots: &mut Vec<Slot>) {
        let mut state = self.state();
        state.statistics.lent -= slots.len();
        if let Some(free) = &mut state.free {
            free.append(slots);
        }
        state.wake_first();
    }

    /// Takes a slot back of which the first `dirty_bytes` were accessible.
    pub(crate) fn take_back(&self, mut slot: Slot, dirty_bytes: usize) {
        let start = Instant::now();
        let outcome = slot.reset(self.policy, dirty_bytes);
        let elapsed = start.elapsed();
        // A subscriber may call the pool, so events are emitted without the lock.
        match &outcome {
            Ok((method, zeroed_bytes)) => {
                tracing::trace!(?method, zeroed_bytes, ?elapsed, "a slot was reset");
            }
            Err(error) => tracing::error!(%error, "a slot could not be reset and is retired"),
        }
        let mut state = self.state();
        state.statistics.lent -= 1;
        let retired = match (outcome, &mut state.free) {
            (Ok((method, zeroed_bytes)), Some(free)) => {
                free.push(slot);
                state.statistics.record(method, zeroed_bytes, elapsed);
                state.wake_first();
                None
            }
            _ => {
                state.statistics.retired += 1;
                // A request may have become impossible.
                state.wake_all();
                Some(slot)
            }
        };
        drop(state);
        // Unmapping 4 GiB takes a while, so it is done without the lock.
        drop(retired);
    }
}

impl State {
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
    fn wake_first(&self) {
        let first = self.waiting.front();
        if let Some(first) = first.filter(|first| first.count <= self.free_count()) {
            first.changed.notify_one();
        }
    }

    fn wake_all(&self) {
        for waiter in &self.waiting {
            waiter.changed.notify_one();
        }
    }
}
