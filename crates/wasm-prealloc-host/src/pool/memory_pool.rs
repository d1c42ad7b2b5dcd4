//! A pool of committed memories, lent to one instance at a time, and zeroed when they come back.
//!
//! How a pool is made is in `builder`, what a slot can do in `slot`; the engine's side is in
//! `wasmtime`.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::commit::requirements::{DEFAULT_PAGES, WASM_PAGE_BYTES};
use crate::commit::secure::Secured;
use crate::error::Error;
use crate::pool::builder::{MemoryPoolBuilder, Policy, WhenExhausted};
use crate::pool::reset::ResetMethod;
use crate::pool::slot::Slot;
use crate::sys::Tracker;

/// What a pool has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Statistics {
    /// Slots that the pool secured.
    pub slots: usize,
    /// Slots that are lent now.
    pub lent: usize,
    /// Slots whose reset failed. They are never lent again, and their memory was given back.
    pub retired: usize,
    /// How often a slot was lent.
    pub loans: u64,
    /// Resets up to the size that was enforced.
    pub high_water_resets: u64,
    /// Resets with a watermark, and write tracking above it.
    pub watermark_resets: u64,
    /// Resets of everything.
    pub full_resets: u64,
    /// Zeros written by all resets, in bytes.
    pub zeroed_bytes: u64,
    /// Time that all resets took.
    pub reset_time: Duration,
}

impl Statistics {
    fn record(&mut self, method: ResetMethod, zeroed_bytes: u64, elapsed: Duration) {
        *match method {
            ResetMethod::HighWater => &mut self.high_water_resets,
            ResetMethod::Watermark => &mut self.watermark_resets,
            ResetMethod::Everything => &mut self.full_resets,
        } += 1;
        self.zeroed_bytes += zeroed_bytes;
        self.reset_time += elapsed;
    }
}

/// Memories that are committed up front, lent to one instance at a time, and zeroed when they
/// come back. Clones are the same pool; its memory is given back with the last of them and the
/// last loan.
///
/// ```
/// use wasm_prealloc_host::MemoryPool;
///
/// let pool = MemoryPool::builder().slots(2).pages(16).secure()?;
/// let mut memory = pool.lend(16, Some(16))?;
/// memory.bytes_mut()[..5].copy_from_slice(b"dirty");
/// drop(memory);
/// assert!(pool.lend(16, Some(16))?.bytes().iter().all(|&byte| byte == 0));
/// assert_eq!(pool.statistics().loans, 2);
/// # Ok::<(), wasm_prealloc_host::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct MemoryPool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    pages: u64,
    slots: usize,
    policy: Policy,
    when_exhausted: WhenExhausted,
    state: Mutex<State>,
    returned: Condvar,
}

#[derive(Debug)]
struct State {
    /// The slots that are not lent, the next to be lent last: what was used last is warmest, and
    /// its watermark fits best. Nothing before they are secured.
    free: Option<Vec<Slot>>,
    secured: Option<Secured>,
    tracker: Option<Arc<Tracker>>,
    statistics: Statistics,
}

impl MemoryPool {
    /// A pool that has yet to be filled.
    pub(crate) fn without_memory(
        pages: u64,
        slots: usize,
        policy: Policy,
        when_exhausted: WhenExhausted,
    ) -> MemoryPool {
        MemoryPool {
            shared: Arc::new(Shared {
                pages,
                slots,
                policy,
                when_exhausted,
                state: Mutex::new(State {
                    free: None,
                    secured: None,
                    tracker: None,
                    statistics: Statistics::default(),
                }),
                returned: Condvar::new(),
            }),
        }
    }

    /// Gives the pool its slots, tracked by `tracker`.
    pub(crate) fn fill(
        &self,
        mut slots: Vec<Slot>,
        secured: Option<Secured>,
        tracker: Option<Arc<Tracker>>,
    ) {
        let mut state = self.shared.state();
        state.statistics.slots = slots.len();
        // The first to be lent is the last of the list.
        slots.reverse();
        state.free = Some(slots);
        state.secured = secured;
        state.tracker = tracker;
    }

    /// One slot of 65,536 pages, unless said otherwise.
    pub fn builder() -> MemoryPoolBuilder {
        MemoryPoolBuilder::default()
    }

    /// The size of each slot, in wasm pages of 64 KiB.
    pub fn pages(&self) -> u64 {
        self.shared.pages
    }

    /// Which modules are served, and what they see.
    pub fn policy(&self) -> Policy {
        self.shared.policy
    }

    /// What securing did: bytes and time of all slots together. Nothing for a pool of no slots.
    pub fn secured(&self) -> Option<Secured> {
        self.shared.state().secured
    }

    /// What the pool has done so far.
    pub fn statistics(&self) -> Statistics {
        self.shared.state().statistics
    }

    /// Lends a memory to a module that declares these limits, in wasm pages of 64 KiB. A 32-bit
    /// memory without a maximum can have 65,536.
    ///
    /// The memory is zero and resident. It comes back when it is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::NotPinned`] or [`Error::SlotTooSmall`] if the limits do not suit the pool's
    /// policy, [`Error::NoSlot`] if every slot is lent.
    pub fn lend(&self, minimum: u64, maximum: Option<u64>) -> Result<LentMemory, Error> {
        Shared::lend(&self.shared, minimum, maximum)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // What is done under the lock leaves a state that holds, whoever panicked meanwhile.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lend(shared: &Arc<Shared>, minimum: u64, maximum: Option<u64>) -> Result<LentMemory, Error> {
        let slot_pages = shared.pages;
        let limit = match shared.policy {
            Policy::Declared if minimum == slot_pages && maximum == Some(slot_pages) => slot_pages,
            Policy::Declared => {
                return Err(Error::NotPinned {
                    minimum,
                    maximum,
                    expected: slot_pages,
                });
            }
            Policy::CommitMaximum => {
                let limit = maximum.unwrap_or(DEFAULT_PAGES);
                if limit > slot_pages || minimum > limit {
                    return Err(Error::SlotTooSmall {
                        maximum: Some(limit.max(minimum)),
                        slot_pages,
                    });
                }
                limit
            }
        };
        let mut lent = LentMemory {
            slot: Some(shared.take()?),
            shared: Arc::clone(shared),
            // No more than a slot has, which is an address space's worth.
            bytes: 0,
            maximum_bytes: (limit * WASM_PAGE_BYTES) as usize,
        };
        lent.begin((minimum * WASM_PAGE_BYTES) as usize)?;
        Ok(lent)
    }

    fn take(&self) -> Result<Slot, Error> {
        let since = Instant::now();
        let mut state = self.state();
        loop {
            let free = state.free.as_mut().ok_or(Error::NotSecuredYet)?;
            if let Some(slot) = free.pop() {
                state.statistics.lent += 1;
                state.statistics.loans += 1;
                return Ok(slot);
            }
            let waited = match self.when_exhausted {
                WhenExhausted::Fail => Duration::ZERO,
                WhenExhausted::Wait(_) => since.elapsed(),
            };
            let left = match self.when_exhausted {
                WhenExhausted::Wait(timeout) if waited < timeout => timeout - waited,
                _ => {
                    return Err(Error::NoSlot {
                        slots: self.slots,
                        waited,
                    });
                }
            };
            let woken = self.returned.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Takes a slot back, of which `dirty_bytes` can have been written.
    fn take_back(&self, mut slot: Slot, dirty_bytes: usize) {
        let start = Instant::now();
        let tracker = self.state().tracker.clone();
        let outcome = slot.reset(tracker.as_deref(), self.policy, dirty_bytes);
        let elapsed = start.elapsed();
        let mut state = self.state();
        state.statistics.lent -= 1;
        let retired = match outcome {
            Ok((method, zeroed_bytes)) => {
                state.statistics.record(method, zeroed_bytes, elapsed);
                tracing::trace!(?method, zeroed_bytes, ?elapsed, "a slot was reset");
                match &mut state.free {
                    Some(free) => free.push(slot),
                    None => debug_assert!(false, "a pool that lends is secured"),
                }
                None
            }
            Err(error) => {
                tracing::error!(%error, "a slot could not be reset and is retired");
                state.statistics.retired += 1;
                Some(slot)
            }
        };
        drop(state);
        self.returned.notify_one();
        // Giving 4 GiB back takes a while, for which nobody needs to wait.
        drop(retired);
    }
}

/// A memory of a pool, lent until it is dropped. Then it is zeroed, in the thread that drops it.
#[derive(Debug)]
pub struct LentMemory {
    /// There until it is given back.
    slot: Option<Slot>,
    shared: Arc<Shared>,
    bytes: usize,
    maximum_bytes: usize,
}

impl LentMemory {
    /// Makes the first `bytes` accessible, and nothing else.
    fn begin(&mut self, bytes: usize) -> Result<(), Error> {
        let slot = self.slot_mut();
        slot.make_accessible(bytes)
            .map_err(|source| Error::System {
                call: "mprotect",
                bytes: bytes as u64,
                source,
            })?;
        self.bytes = bytes;
        Ok(())
    }

    /// The first byte. It does not move while the memory is lent.
    pub fn as_ptr(&self) -> *mut u8 {
        self.slot().base().as_ptr()
    }

    /// The current size in bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether the current size is 0.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// What it can grow to, in bytes: committed, and not accessible yet.
    pub fn maximum_bytes(&self) -> usize {
        self.maximum_bytes
    }

    /// Makes more of the memory accessible, which is zero. Nothing happens where `bytes` is not
    /// more than the current size.
    ///
    /// # Errors
    ///
    /// [`Error::SlotTooSmall`] above the maximum. [`Error::System`] should the operating system
    /// refuse to make committed memory accessible; a host has to stop then, because on another
    /// machine the guest would go on.
    pub fn grow_to(&mut self, bytes: usize) -> Result<(), Error> {
        if bytes <= self.bytes {
            return Ok(());
        }
        if bytes > self.maximum_bytes {
            return Err(Error::SlotTooSmall {
                maximum: Some((bytes as u64).div_ceil(WASM_PAGE_BYTES)),
                slot_pages: self.maximum_bytes as u64 / WASM_PAGE_BYTES,
            });
        }
        self.begin(bytes)
    }

    /// The memory up to its current size.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the range is mapped and accessible for as long as this value lives, and writing
        // to it takes a mutable borrow of this value, or an engine that owns it.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.bytes) }
    }

    /// The memory up to its current size, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and this value is mutably borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.as_ptr(), self.bytes) }
    }

    fn slot(&self) -> &Slot {
        // It is taken out in `drop` alone.
        self.slot.as_ref().expect("the slot is there until dropped")
    }

    fn slot_mut(&mut self) -> &mut Slot {
        // As above.
        self.slot.as_mut().expect("the slot is there until dropped")
    }
}

impl Drop for LentMemory {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.shared.take_back(slot, self.bytes);
        }
    }
}
