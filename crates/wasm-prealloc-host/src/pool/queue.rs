//! The state of a pool under its lock: the free slots, and the requests that wait for them.

use std::collections::VecDeque;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar};
use std::task::Waker;
use std::time::Duration;

use crate::commit::report::Secured;
use crate::error::LendError;
use crate::pool::assurance::Assurance;
use crate::pool::loans::Loans;
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
    /// The requests that wait, in the order in which they came. The free slots are never enough for
    /// the first.
    waiting: VecDeque<Waiter>,
    /// The requests that have their slots, which their callers have not collected yet.
    served: Vec<Waiter>,
    /// The number of requests that have waited.
    tickets: u64,
    pub(crate) secured: Option<Secured>,
    pub(crate) tracking: Option<TrackingInterface>,
    pub(crate) statistics: Statistics,
    pub(crate) loans: Loans,
    /// The choice that was reached: `Off` if nothing is secured.
    pub(crate) assurance: Assurance,
    /// The report that nothing is secured.
    pub(crate) unsecured: Option<String>,
    /// True after the memory was released.
    pub(crate) released: bool,
    /// True when the pool is dropped.
    pub(crate) ended: bool,
}

/// The number of a request that waits or was served. Later requests have higher numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

/// The caller of a request, which is told when its slots are there.
#[derive(Debug)]
pub(crate) enum Caller {
    /// A thread that blocks.
    Thread(Arc<Condvar>),
    /// A task that is suspended. `None` after it was woken.
    Task(Option<Waker>),
}

/// A request that waits for slots.
#[derive(Debug)]
struct Waiter {
    ticket: Ticket,
    count: usize,
    caller: Caller,
    /// True for a request on the pool's own thread, which resets queued slots itself.
    resets: bool,
    /// The slots of a request that was served, and until then room for them.
    slots: Vec<Slot>,
}

impl Waiter {
    /// Wakes the caller: a thread at once, and a task with the wakers that are added.
    fn wake(&mut self, wakers: &mut Wakers) {
        match &mut self.caller {
            Caller::Thread(changed) => changed.notify_one(),
            Caller::Task(waker) => wakers.0.extend(waker.take()),
        }
    }
}

/// The tasks to wake once the lock is released: an executor may run or drop a task at once, and the
/// task may use the pool.
#[derive(Debug, Default)]
#[must_use]
pub(crate) struct Wakers(Vec<Waker>);

impl Wakers {
    /// Wakes the tasks. The caller must not hold the pool's lock.
    pub(crate) fn wake(self) {
        for waker in self.0 {
            // A panic of one executor would leave the tasks of others asleep.
            let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
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
        self.statistics.retired = 0;
        self.released = false;
        self.loans.reserve(slots.len());
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
            return Err(self.not_secured());
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
        count == 0 || self.waiting.is_empty() && self.free_count() >= count
    }

    /// Returns true if the free slots and those that are being reset are enough for the request and
    /// for all before it.
    pub(crate) fn will_be_served(&self, ticket: Ticket) -> bool {
        let waiting = self.waiting.iter();
        let until = waiting.take_while(|waiter| waiter.ticket <= ticket);
        let needed: usize = until.map(|waiter| waiter.count).sum();
        needed <= self.free_count() + self.statistics.resetting
    }

    fn not_secured(&self) -> LendError {
        match self.released {
            true => LendError::Released,
            false => LendError::NotSecuredYet,
        }
    }

    /// Returns true if every slot is free, or waits for its reset.
    pub(crate) fn is_idle(&self) -> bool {
        self.statistics.lent == 0 && self.statistics.resetting == self.dirty.len()
    }

    /// Takes all slots of an idle pool out, to be unmapped.
    pub(crate) fn release(&mut self) -> Vec<Slot> {
        let Some(mut slots) = self.free.take() else {
            return Vec::new();
        };
        slots.extend(self.dirty.drain(..));
        self.ranges.clear();
        self.secured = None;
        self.tracking = None;
        self.unsecured = None;
        self.statistics.slots = 0;
        self.statistics.resetting = 0;
        self.statistics.retired = 0;
        self.released = true;
        slots
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
            loans: self.loans.list(),
        }
    }

    /// Takes slots out of the free ones with `take`, and counts them as lent.
    pub(crate) fn lend<T>(
        &mut self,
        count: usize,
        take: impl FnOnce(&mut Vec<Slot>) -> T,
    ) -> Result<T, LendError> {
        let Some(free) = &mut self.free else {
            return Err(self.not_secured());
        };
        let taken = take(free);
        self.statistics.lent += count;
        Ok(taken)
    }

    /// Adds a request, whose caller is woken when it is served. The caller must not drop the ticket
    /// without [`collect`](State::collect) or [`leave`](State::leave).
    pub(crate) fn enqueue(&mut self, count: usize, caller: Caller, resets: bool) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.waiting.push_back(Waiter {
            ticket,
            count,
            caller,
            resets,
            slots: Vec::with_capacity(count),
        });
        // A slot comes back without an allocation here.
        self.served.reserve(self.waiting.len());
        ticket
    }

    /// Makes another task the caller of a request that waits, and returns the former one's waker,
    /// to be dropped without the lock.
    pub(crate) fn replace_task(
        &mut self,
        ticket: Ticket,
        waker: Waker,
        resets: bool,
    ) -> Option<Caller> {
        let waiter = self.waiting.iter_mut().find(|it| it.ticket == ticket)?;
        waiter.resets = resets;
        let caller = Caller::Task(Some(waker));
        Some(std::mem::replace(&mut waiter.caller, caller))
    }

    /// Returns the slots of a request, once it is served.
    pub(crate) fn collect(&mut self, ticket: Ticket) -> Option<Vec<Slot>> {
        let index = self.served.iter().position(|it| it.ticket == ticket)?;
        Some(self.served.swap_remove(index).slots)
    }

    /// Removes a request. If it was served its slots are free again.
    pub(crate) fn leave(&mut self, ticket: Ticket) -> Wakers {
        match self.collect(ticket) {
            Some(slots) => self.give_back(slots),
            None => {
                self.waiting.retain(|waiter| waiter.ticket != ticket);
                self.serve()
            }
        }
    }

    /// Takes slots back that were taken and not lent.
    pub(crate) fn give_back(&mut self, mut slots: Vec<Slot>) -> Wakers {
        self.statistics.lent -= slots.len();
        for slot in &slots {
            self.loans.remove(slot);
        }
        if let Some(free) = &mut self.free {
            free.append(&mut slots);
        }
        self.serve()
    }

    /// Gives free slots to the requests that wait longest. A task has its slots before it runs
    /// again: one that is not polled holds up none behind it, and a thread that blocks on an
    /// executor does not wait for a task of the same executor.
    pub(crate) fn serve(&mut self) -> Wakers {
        let mut wakers = Wakers::default();
        while let (Some(free), Some(first)) = (&mut self.free, self.waiting.front())
            && first.count <= free.len()
            && let Some(mut waiter) = self.waiting.pop_front()
        {
            let kept = free.len() - waiter.count;
            waiter.slots.extend(free.drain(kept..));
            self.statistics.lent += waiter.count;
            waiter.wake(&mut wakers);
            self.served.push(waiter);
        }
        wakers
    }

    /// Wakes a request on the pool's own thread, which resets queued slots itself.
    pub(crate) fn wake_resetter(&mut self) -> Wakers {
        self.wake_where(|waiter| waiter.resets)
    }

    pub(crate) fn wake_all(&mut self) -> Wakers {
        self.wake_where(|_| true)
    }

    fn wake_where(&mut self, woken: impl Fn(&Waiter) -> bool) -> Wakers {
        let mut wakers = Wakers::default();
        for waiter in self.waiting.iter_mut().filter(|waiter| woken(waiter)) {
            waiter.wake(&mut wakers);
        }
        wakers
    }
}
