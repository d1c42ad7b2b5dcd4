//! The slots of a pool: requests take them, and resets make them free again.
//!
//! The state under the lock is in `queue`. Events are emitted without the lock, because a
//! subscriber may call the pool.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Poll, Waker};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use crate::error::LendError;
use crate::pool::policy::{Options, WhenExhausted};
use crate::pool::queue::{Caller, State, Ticket};
use crate::pool::reset::Work;
use crate::pool::slot::Slot;

/// The slots and the counters of a pool. The thread that resets slots holds them too, so it does
/// not keep the pool alive.
#[derive(Debug)]
pub(crate) struct Slots {
    pub(crate) options: Options,
    state: Mutex<State>,
    /// Notified when a slot is queued for its reset, and when the pool ends.
    pub(crate) queued: Condvar,
    /// The thread that resets queued slots, once it runs.
    resetter: OnceLock<ThreadId>,
}

impl Slots {
    /// Makes a pool's slots, none of which exist until it is secured.
    pub(crate) fn new(options: Options) -> Slots {
        Slots {
            options,
            state: Mutex::default(),
            queued: Condvar::new(),
            resetter: OnceLock::new(),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // Every section under the lock leaves a valid state, even after a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

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
    ) -> Result<T, LendError> {
        let mut events = Vec::new();
        let taken = self.take_or_wait(count, take, &mut events);
        emit_all(events);
        taken
    }

    /// As [`take`](Slots::take). The events of resets are emitted afterwards: a subscriber that
    /// requests a slot would wait behind this request.
    fn take_or_wait<T>(
        &self,
        count: usize,
        take: impl FnOnce(&mut Vec<Slot>) -> T,
        events: &mut Vec<Event>,
    ) -> Result<T, LendError> {
        let mut state = self.state();
        state.check_possible(count)?;
        if state.can_serve_at_once(count) {
            return state.lend(count, take);
        }
        let since = Instant::now();
        let timeout = match self.options.when_exhausted {
            WhenExhausted::Fail => Duration::ZERO,
            WhenExhausted::Wait(timeout) => timeout,
        };
        let resets = self.is_resetter();
        let changed = Arc::new(Condvar::new());
        let ticket = state.enqueue(count, Caller::Thread(Arc::clone(&changed)), resets);
        loop {
            if let Some(mut slots) = state.collect(ticket) {
                return Ok(take(&mut slots));
            }
            if resets && let Some(slot) = state.dirty.pop_front() {
                drop(state);
                events.push(self.reset_only(slot));
                state = self.state();
                continue;
            }
            let waited = match timeout {
                Duration::ZERO => Duration::ZERO,
                _ => since.elapsed(),
            };
            let expired = waited >= timeout;
            let possible = state.check_possible(count);
            if possible.is_err() || expired && !state.will_be_served(ticket) {
                let error = possible.err().unwrap_or_else(|| state.no_slot(waited));
                let wakers = state.leave(ticket);
                drop(state);
                wakers.wake();
                return Err(error);
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

    /// Returns true on the pool's own thread, where a subscriber requests a slot. No other thread
    /// resets any.
    pub(crate) fn is_resetter(&self) -> bool {
        self.resetter.get() == Some(&thread::current().id())
    }

    /// Takes `count` slots as [`take`](Slots::take) does, for a task: it waits for as long as it
    /// takes, with a ticket in the same queue as threads.
    pub(crate) fn poll_take(
        &self,
        count: usize,
        ticket: &mut Option<Ticket>,
        waker: &Waker,
    ) -> Poll<Result<Vec<Slot>, LendError>> {
        let mut events = Vec::new();
        let polled = self.poll_queue(count, ticket, waker, &mut events);
        emit_all(events);
        polled
    }

    fn poll_queue(
        &self,
        count: usize,
        ticket: &mut Option<Ticket>,
        waker: &Waker,
        events: &mut Vec<Event>,
    ) -> Poll<Result<Vec<Slot>, LendError>> {
        let resets = self.is_resetter();
        loop {
            // Wakers are code of the executor, which may use the pool.
            let (waker, mut replaced) = (waker.clone(), None);
            let mut state = self.state();
            let possible = state.check_possible(count);
            if let Some(slots) = ticket.and_then(|ticket| state.collect(ticket)) {
                *ticket = None;
                return Poll::Ready(Ok(slots));
            }
            if let Err(error) = possible {
                let wakers = ticket.take().map(|ticket| state.leave(ticket));
                drop(state);
                wakers.unwrap_or_default().wake();
                return Poll::Ready(Err(error));
            }
            match *ticket {
                None if state.can_serve_at_once(count) => {
                    let kept = |free: &Vec<Slot>| free.len() - count;
                    let taken = state.lend(count, |free| free.split_off(kept(free)));
                    return Poll::Ready(taken);
                }
                None => *ticket = Some(state.enqueue(count, Caller::Task(Some(waker)), resets)),
                Some(ticket) => replaced = state.replace_task(ticket, waker, resets),
            }
            let dirty = resets.then(|| state.dirty.pop_front()).flatten();
            drop(state);
            drop(replaced);
            match dirty {
                Some(slot) => events.push(self.reset_only(slot)),
                None => return Poll::Pending,
            }
        }
    }

    /// Removes the request of a task that does not wait any more.
    pub(crate) fn leave(&self, ticket: Ticket) {
        let wakers = self.state().leave(ticket);
        wakers.wake();
    }

    /// Resets queued slots until the pool ends. Slots that are queued then are unmapped with it.
    pub(crate) fn reset_queued(&self) {
        self.resetter.get_or_init(|| thread::current().id());
        let mut state = self.state();
        while !state.ended {
            match state.dirty.pop_front() {
                Some(slot) => {
                    drop(state);
                    // Only a subscriber can panic here: later slots are reset all the same.
                    let _ = catch_unwind(AssertUnwindSafe(|| self.reset(slot)));
                    state = self.state();
                }
                None => {
                    let woken = self.queued.wait(state);
                    state = woken.unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// Resets a slot, makes it free, and emits the events of the reset.
    pub(crate) fn reset(&self, slot: Slot) {
        self.reset_only(slot).emit();
    }

    /// Resets a slot and makes it free. A slot whose reset panics is retired: what it contains is
    /// unknown.
    fn reset_only(&self, mut slot: Slot) -> Event {
        let start = Instant::now();
        let policy = self.options.policy;
        let outcome = catch_unwind(AssertUnwindSafe(|| slot.reset(policy)));
        let elapsed = start.elapsed();
        let mut state = self.state();
        state.statistics.resetting -= 1;
        match outcome {
            Ok(work) => {
                state.statistics.record(&work, elapsed);
                if let Some(free) = &mut state.free {
                    free.push(slot);
                }
                let wakers = state.serve();
                drop(state);
                wakers.wake();
                Event::Reset(work, elapsed)
            }
            Err(_) => {
                state.statistics.retired += 1;
                let retired = slot.committed();
                state.ranges.retain(|range| *range != retired);
                // A request may have become impossible.
                let wakers = state.wake_all();
                drop(state);
                wakers.wake();
                // Unmapping 4 GiB takes a while, so it is done without the lock.
                drop(slot);
                Event::Retired
            }
        }
    }
}

/// The outcome of a reset, of which subscribers are told.
enum Event {
    Reset(Work, Duration),
    Retired,
}

impl Event {
    fn emit(&self) {
        match self {
            Event::Reset(work, elapsed) => report(work, *elapsed),
            Event::Retired => {
                tracing::error!("the reset of a slot panicked; the slot is retired");
            }
        }
    }
}

/// Emits events. A panic of a subscriber would lose the slots that the caller has taken.
fn emit_all(events: Vec<Event>) {
    for event in events {
        let _ = catch_unwind(AssertUnwindSafe(|| event.emit()));
    }
}

/// Emits the events of a reset.
fn report(work: &Work, elapsed: Duration) {
    let Work {
        method,
        zeroed_bytes,
        protected_bytes,
        collapsed_bytes,
        ..
    } = work;
    tracing::trace!(
        ?method,
        zeroed_bytes,
        protected_bytes,
        collapsed_bytes,
        ?elapsed,
        "a slot was reset"
    );
    if let Some((from, to)) = work.moved {
        tracing::debug!(from, to, "the watermark moves");
    }
    if let Some(error) = &work.failure {
        tracing::warn!(%error, "write tracking failed; more than was written is zeroed");
    }
}
