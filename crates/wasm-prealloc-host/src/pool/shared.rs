//! The part of a pool that its handles, its loans and its reservations share, and the way of a slot
//! from a loan through its reset back to the free slots.
//!
//! Which request gets a free slot is decided in `queue`. Events are emitted without the pool's
//! lock, because a subscriber may call the pool.

use std::mem;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crate::commit::report::Secured;
use crate::commit::residency::{self, Residency};
use crate::error::Error;
use crate::pool::engine_side::EngineSide;
use crate::pool::policy::{Policy, Reset, WhenExhausted};
use crate::pool::queue::State;
use crate::pool::reset::Work;
use crate::pool::slot::Slot;
use crate::pool::statistics::Statistics;
use crate::pool::tracking::TrackingInterface;
use crate::sys;

/// The options of a pool that loans depend on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    pub(crate) pages: u64,
    pub(crate) slots: usize,
    pub(crate) policy: Policy,
    pub(crate) when_exhausted: WhenExhausted,
    pub(crate) reset: Reset,
}

impl Options {
    /// Returns the number of pages that a memory with these limits can grow to.
    pub(crate) fn limit_pages(&self, minimum: u64, maximum: Option<u64>) -> Result<u64, Error> {
        self.policy.limit_pages(minimum, maximum, self.pages)
    }
}

/// The slots and the counters of a pool. The thread that resets slots holds them too, so it does
/// not keep the pool alive.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) options: Options,
    state: Mutex<State>,
    /// Notified when a slot is queued for its reset, and when the pool ends.
    queued: Condvar,
}

/// A pool. Its memory is unmapped when this value is dropped.
#[derive(Debug)]
pub(crate) struct Shared {
    core: Arc<Core>,
    /// The parts that an engine needs besides the slots.
    pub(crate) engine: EngineSide,
    resetter: OnceLock<JoinHandle<()>>,
    /// See [`is_here`](Shared::is_here).
    process_mark: u64,
}

impl Shared {
    pub(crate) fn new(options: Options, engine: EngineSide) -> Shared {
        Shared {
            core: Arc::new(Core {
                options,
                state: Mutex::default(),
                queued: Condvar::new(),
            }),
            engine,
            resetter: OnceLock::new(),
            process_mark: sys::process_mark(),
        }
    }

    pub(crate) fn options(&self) -> &Options {
        &self.core.options
    }

    /// Returns true in the process that made the pool. A child that fork(2) made of it does not
    /// have the memory, and other threads may have held the pool's lock during the fork.
    fn is_here(&self) -> bool {
        self.process_mark == sys::process_mark()
    }

    fn check_here(&self) -> Result<(), Error> {
        match self.is_here() {
            true => Ok(()),
            false => Err(Error::Forked),
        }
    }

    /// Gives the pool its slots, and starts the thread that resets them if the options say so.
    pub(crate) fn fill(
        &self,
        slots: Vec<Slot>,
        secured: Option<Secured>,
        tracking: Option<TrackingInterface>,
    ) {
        let background = self.core.options.reset == Reset::Background && !slots.is_empty();
        self.core.state().fill(slots, secured, tracking);
        if !background {
            return;
        }
        let core = Arc::clone(&self.core);
        let builder = thread::Builder::new().name("wasm-prealloc reset".to_owned());
        match builder.spawn(move || core.reset_queued()) {
            Ok(thread) => {
                self.resetter.get_or_init(|| thread);
                self.core.state().statistics.background = true;
            }
            Err(error) => tracing::warn!(
                %error,
                "no thread for resets: each slot is reset by the thread that returns it"
            ),
        }
    }

    pub(crate) fn secured(&self) -> Option<Secured> {
        self.core.state().secured
    }

    pub(crate) fn tracking(&self) -> Option<TrackingInterface> {
        self.core.state().tracking
    }

    pub(crate) fn statistics(&self) -> Statistics {
        self.core.state().statistics()
    }

    /// Counts a loan.
    pub(crate) fn count_loan(&self) {
        self.core.state().statistics.loans += 1;
    }

    /// Counts the residency of all slots that are not retired.
    pub(crate) fn check(&self) -> Result<Residency, Error> {
        self.check_here()?;
        loop {
            let (ranges, retired) = {
                let state = self.core.state();
                if state.free.is_none() {
                    return Err(Error::NotSecuredYet);
                }
                (state.ranges.clone(), state.statistics.retired)
            };
            let ranges = ranges.iter();
            let counted = residency::residency(
                ranges.map(|range: &Range<usize>| (range.start as *const u8, range.len())),
            );
            // A slot that is retired meanwhile is unmapped.
            if self.core.state().statistics.retired == retired {
                return counted;
            }
        }
    }

    /// Takes `count` slots out of the free ones at once, with `take`.
    pub(crate) fn take<T>(
        &self,
        count: usize,
        take: impl FnOnce(&mut Vec<Slot>) -> T,
    ) -> Result<T, Error> {
        self.check_here()?;
        self.core.take(count, take)
    }

    /// Takes slots back that were taken and not lent, so they are still zero.
    pub(crate) fn give_back(&self, mut slots: Vec<Slot>) {
        if !self.is_here() {
            return mem::forget(slots);
        }
        let mut state = self.core.state();
        state.statistics.lent -= slots.len();
        if let Some(free) = &mut state.free {
            free.append(&mut slots);
        }
        state.wake_first();
    }

    /// Takes a slot back from a loan.
    pub(crate) fn take_back(&self, slot: Slot) {
        if !self.is_here() {
            // The memory is not there, and something else may be at its address.
            return mem::forget(slot);
        }
        let mut state = self.core.state();
        state.statistics.lent -= 1;
        state.statistics.resetting += 1;
        if state.statistics.background {
            // The list has room for every slot.
            state.dirty.push_back(slot);
            drop(state);
            self.core.queued.notify_one();
        } else {
            drop(state);
            self.core.reset(slot);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let resetter = self.resetter.take();
        if !self.is_here() {
            // A child has neither the memory nor the thread.
            mem::forget(Arc::clone(&self.core));
            return mem::forget(resetter);
        }
        let Some(resetter) = resetter else { return };
        self.core.state().ended = true;
        self.core.queued.notify_one();
        // A subscriber of the thread's events may hold the last handle.
        if resetter.thread().id() != thread::current().id() {
            // A panic of the thread was reported when it happened.
            let _ = resetter.join();
        }
    }
}

impl Core {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // Every section under the lock leaves a valid state, even after a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resets queued slots until the pool ends. Slots that are queued then are unmapped with it.
    fn reset_queued(&self) {
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

    /// Resets a slot and makes it free. A slot whose reset panics is retired: what it contains is
    /// unknown.
    fn reset(&self, mut slot: Slot) {
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
                state.wake_first();
                drop(state);
                report(&work, elapsed);
            }
            Err(_) => {
                state.statistics.retired += 1;
                let retired = slot.committed();
                state.ranges.retain(|range| *range != retired);
                // A request may have become impossible.
                state.wake_all();
                drop(state);
                // Unmapping 4 GiB takes a while, so it is done without the lock.
                drop(slot);
                tracing::error!("the reset of a slot panicked; the slot is retired");
            }
        }
    }
}

/// Emits the events of a reset.
fn report(work: &Work, elapsed: std::time::Duration) {
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
