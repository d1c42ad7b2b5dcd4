//! The part of a pool that its handles, its loans and its reservations share: its slots, the thread
//! that resets them, and the parts that an engine needs besides them.

use std::mem;
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::task::{Poll, Waker};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::commit::report::Secured;
use crate::commit::residency::{self, Residency};
#[cfg(feature = "wasmtime-runtime")]
use crate::engine::wasmtime::{known::Known, refusals::Refusals};
use crate::error::{LendError, SecureError};
use crate::pool::assurance::Assurance;
use crate::pool::loans::{LentTo, Loan};
use crate::pool::policy::{Options, Reset};
use crate::pool::queue::{State, Ticket};
use crate::pool::slot::Slot;
use crate::pool::slots::Slots;
use crate::pool::statistics::Statistics;
use crate::sys;
use crate::sys::TrackingInterface;

/// A pool. Its memory is unmapped when this value is dropped.
#[derive(Debug)]
pub(crate) struct Shared {
    slots: Arc<Slots>,
    /// The parts that an engine needs besides the slots.
    pub(crate) engine: EngineSide,
    resetter: OnceLock<JoinHandle<()>>,
    /// See [`is_here`](Shared::is_here).
    process_mark: u64,
}

impl Shared {
    pub(crate) fn new(options: Options, engine: EngineSide) -> Shared {
        Shared {
            slots: Arc::new(Slots::new(options)),
            engine,
            resetter: OnceLock::new(),
            process_mark: sys::process_mark(),
        }
    }

    pub(crate) fn options(&self) -> &Options {
        &self.slots.options
    }

    /// Returns true in the process that made the pool. A child that fork(2) made of it does not
    /// have the memory, and other threads may have held the pool's lock during the fork.
    pub(crate) fn is_here(&self) -> bool {
        self.process_mark == sys::process_mark()
    }

    pub(crate) fn check_here(&self) -> Result<(), LendError> {
        match self.is_here() {
            true => Ok(()),
            false => Err(LendError::Forked),
        }
    }

    /// Gives the pool its slots, and starts the thread that resets them if the options say so.
    pub(crate) fn fill(
        &self,
        slots: Vec<Slot>,
        secured: Option<Secured>,
        tracking: Option<TrackingInterface>,
    ) {
        let background = self.slots.options.reset == Reset::Background && !slots.is_empty();
        self.slots.state().fill(slots, secured, tracking);
        // After a release the thread still runs.
        if !background || self.resetter.get().is_some() {
            return;
        }
        let slots = Arc::clone(&self.slots);
        let builder = thread::Builder::new().name("wasm-prealloc reset".to_owned());
        match builder.spawn(move || slots.reset_queued()) {
            Ok(thread) => {
                self.resetter.get_or_init(|| thread);
                self.slots.state().statistics.background = true;
            }
            Err(error) => tracing::warn!(
                %error,
                "no thread for resets: each slot is reset by the thread that returns it"
            ),
        }
    }

    /// Returns true if the pool has its slots.
    pub(crate) fn is_filled(&self) -> bool {
        self.slots.state().free.is_some()
    }

    pub(crate) fn secured(&self) -> Option<Secured> {
        self.slots.state().secured
    }

    pub(crate) fn tracking(&self) -> Option<TrackingInterface> {
        self.slots.state().tracking
    }

    pub(crate) fn statistics(&self) -> Statistics {
        self.slots.state().statistics()
    }

    /// Counts a loan. `to` is the borrower, unless it was recorded when the slot was reserved.
    pub(crate) fn count_loan(&self, slot: &Slot, to: Option<LentTo>) {
        let mut state = self.slots.state();
        state.statistics.loans += 1;
        if let Some(to) = to {
            state.loans.add(slot, to);
        }
    }

    /// Records the borrower of slots that are reserved.
    pub(crate) fn record_loans(&self, slots: &[Slot], to: &LentTo) {
        let mut state = self.slots.state();
        for slot in slots {
            state.loans.add(slot, to.clone());
        }
    }

    pub(crate) fn loans(&self) -> Vec<Loan> {
        self.slots.state().loans.list()
    }

    pub(crate) fn assurance(&self) -> Assurance {
        self.slots.state().assurance
    }

    pub(crate) fn unsecured(&self) -> Option<String> {
        self.slots.state().unsecured.clone()
    }

    /// Records whether the memory is secured that the pool receives next.
    pub(crate) fn set_assurance(&self, assurance: Assurance, unsecured: Option<String>) {
        let mut state = self.slots.state();
        state.assurance = assurance;
        state.unsecured = unsecured;
    }

    /// Unmaps the slots and the heaps, unless one of them is in use.
    pub(crate) fn release(&self) -> Result<(), LendError> {
        self.check_here()?;
        let (slots, heaps, wakers) = loop {
            let mut state = self.slots.state();
            let mut heap = self.engine.heap.as_ref().map(|heap| heap.slots.state());
            let heap_idle = heap.as_ref().is_none_or(|heap| heap.is_idle());
            if state.is_idle() && heap_idle {
                let heaps = heap.as_mut().map(|heap| heap.release());
                let slots = state.release();
                // A request may have become impossible.
                let wakers = state.wake_all();
                break (slots, heaps, wakers);
            }
            let in_use = |state: &State| state.statistics.lent + state.statistics.resetting;
            let lent = state.statistics.lent + heap.as_ref().map_or(0, |heap| heap.statistics.lent);
            if lent > 0 || self.slots.is_resetter() {
                let mut loans = state.loans.list();
                loans.extend(heap.iter().flat_map(|heap| heap.loans.list()));
                return Err(LendError::StillLent {
                    lent: in_use(&state) + heap.as_ref().map_or(0, |heap| in_use(heap)),
                    loans,
                });
            }
            // Resets end.
            drop((state, heap));
            thread::sleep(Duration::from_millis(1));
        };
        wakers.wake();
        // Unmapping 4 GiB takes a while, so it is done without the lock.
        drop((slots, heaps));
        Ok(())
    }

    /// Counts the residency of all slots that are not retired.
    pub(crate) fn check(&self) -> Result<Residency, SecureError> {
        if !self.is_here() {
            return Err(SecureError::Forked);
        }
        loop {
            let (ranges, is_secured) = {
                let state = self.slots.state();
                match (&state.free, state.released) {
                    (Some(_), _) => {}
                    (None, false) => return Err(SecureError::NotSecuredYet),
                    (None, true) => return Err(SecureError::Released),
                }
                let is_secured = state.unsecured.is_none();
                (state.ranges.clone(), is_secured)
            };
            let parts = ranges.iter();
            let parts = parts.map(|range: &Range<usize>| (range.start as *const u8, range.len()));
            let counted = match is_secured {
                true => residency::residency(parts),
                false => residency::resident(parts),
            };
            // A slot that is retired meanwhile is unmapped, and so are all that are released.
            if self.slots.state().ranges == ranges {
                return counted;
            }
        }
    }

    /// Takes `count` slots out of the free ones at once, with `take`.
    pub(crate) fn take<T>(
        &self,
        count: usize,
        take: impl FnOnce(&mut Vec<Slot>) -> T,
    ) -> Result<T, LendError> {
        self.check_here()?;
        self.slots.take(count, take)
    }

    /// Takes `count` slots as [`take`](Shared::take) does, for a task that is woken with `waker`.
    pub(crate) fn poll_take(
        &self,
        count: usize,
        ticket: &mut Option<Ticket>,
        waker: &Waker,
    ) -> Poll<Result<Vec<Slot>, LendError>> {
        self.check_here()?;
        self.slots.poll_take(count, ticket, waker)
    }

    /// Removes the request of a task that does not wait any more.
    pub(crate) fn leave(&self, ticket: Ticket) {
        // In a child, another thread may have held the lock during the fork.
        if self.is_here() {
            self.slots.leave(ticket);
        }
    }

    /// Takes slots back that were taken and not lent, so they are still zero.
    pub(crate) fn give_back(&self, slots: Vec<Slot>) {
        if !self.is_here() {
            return mem::forget(slots);
        }
        let wakers = self.slots.state().give_back(slots);
        wakers.wake();
    }

    /// Takes a slot back from a loan.
    pub(crate) fn take_back(&self, slot: Slot) {
        if !self.is_here() {
            // The memory is not there, and something else may be at its address.
            return mem::forget(slot);
        }
        let mut state = self.slots.state();
        state.statistics.lent -= 1;
        state.statistics.resetting += 1;
        state.loans.remove(&slot);
        if state.statistics.background {
            // The list has room for every slot.
            state.dirty.push_back(slot);
            let wakers = state.wake_resetter();
            drop(state);
            self.slots.queued.notify_one();
            wakers.wake();
        } else {
            drop(state);
            self.slots.reset(slot);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let resetter = self.resetter.take();
        if !self.is_here() {
            // A child has neither the memory nor the thread.
            mem::forget(Arc::clone(&self.slots));
            return mem::forget(resetter);
        }
        let Some(resetter) = resetter else { return };
        self.slots.state().ended = true;
        self.slots.queued.notify_one();
        // A subscriber of the thread's events may hold the last handle.
        if resetter.thread().id() != thread::current().id() {
            // A panic of the thread was reported when it happened.
            let _ = resetter.join();
        }
    }
}

/// The parts of a pool that an engine needs besides the slots.
#[derive(Debug)]
pub(crate) struct EngineSide {
    /// The number of table elements that are counted for each slot.
    #[cfg_attr(
        not(feature = "wasmtime-runtime"),
        expect(dead_code, reason = "wasmtime alone")
    )]
    pub(crate) table_elements: u64,
    /// The heaps for exceptions, `externref` and GC types: a pool of its own, with a heap for each
    /// slot.
    pub(crate) heap: Option<Arc<Shared>>,
    #[cfg(feature = "wasmtime-runtime")]
    pub(crate) known: Known,
    #[cfg(feature = "wasmtime-runtime")]
    pub(crate) refusals: Arc<Refusals>,
}

impl EngineSide {
    pub(crate) fn new(table_elements: u64, heap: Option<Arc<Shared>>) -> EngineSide {
        EngineSide {
            table_elements,
            heap,
            #[cfg(feature = "wasmtime-runtime")]
            known: Known::default(),
            #[cfg(feature = "wasmtime-runtime")]
            refusals: Arc::default(),
        }
    }
}
