//! A pool of committed memories, lent to one instance at a time, and zeroed when they come back.
//!
//! Pools are made in `builder`; an engine's side is in `engine`.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::commit::report::Secured;
use crate::commit::requirements::WASM_PAGE_BYTES;
use crate::error::Error;
use crate::pool::policy::{Policy, WhenExhausted};
use crate::pool::slot::Slot;
use crate::pool::statistics::Statistics;

/// Memories that are committed in advance, lent to one instance at a time, and zeroed when they
/// come back. Clones share the pool; its memory is unmapped with the last clone and the last loan.
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

#[derive(Debug, Default)]
struct State {
    /// The slots that are not lent, the next to be lent last: the slot used most recently is in the
    /// processor's caches, and its watermark fits best. `None` before they are secured.
    free: Option<Vec<Slot>>,
    secured: Option<Secured>,
    statistics: Statistics,
}

impl MemoryPool {
    /// Makes a pool without memory; see [`fill`](MemoryPool::fill).
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
                state: Mutex::default(),
                returned: Condvar::new(),
            }),
        }
    }

    /// Gives the pool its slots.
    pub(crate) fn fill(&self, mut slots: Vec<Slot>, secured: Option<Secured>) {
        let mut state = self.shared.state();
        state.statistics.slots = slots.len();
        // The last of the list is the first to be lent.
        slots.reverse();
        state.free = Some(slots);
        state.secured = secured;
    }

    /// Returns the size of each slot, in wasm pages of 64 KiB.
    pub fn pages(&self) -> u64 {
        self.shared.pages
    }

    /// Returns the policy: the modules that are served, and the memory that they see.
    pub fn policy(&self) -> Policy {
        self.shared.policy
    }

    /// Returns the outcome of the commit: bytes and time of all slots together. `None` for a pool
    /// of no slots.
    pub fn secured(&self) -> Option<Secured> {
        self.shared.state().secured
    }

    /// Returns the counters of the pool.
    pub fn statistics(&self) -> Statistics {
        self.shared.state().statistics
    }

    /// Lends a memory to a module that declares these limits, in wasm pages of 64 KiB. A memory
    /// without a maximum counts as having one of 65,536.
    ///
    /// The memory is zero and resident. It comes back when it is dropped.
    ///
    /// # Errors
    /// [`Error::NotPinned`] or [`Error::SlotTooSmall`] if the limits do not suit the pool's
    /// policy, [`Error::NoSlot`] if every slot is lent.
    pub fn lend(&self, minimum: u64, maximum: Option<u64>) -> Result<LentMemory, Error> {
        let shared = &self.shared;
        let limit = shared.policy.limit_pages(minimum, maximum, shared.pages)?;
        let mut lent = LentMemory {
            slot: Some(shared.take()?),
            shared: Arc::clone(shared),
            // No more than a slot has, which is at most 4 GiB.
            bytes: 0,
            maximum_bytes: (limit * WASM_PAGE_BYTES) as usize,
        };
        lent.resize((minimum * WASM_PAGE_BYTES) as usize)?;
        Ok(lent)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every section under the lock leaves a valid state, even after a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Result<Slot, Error> {
        let since = Instant::now();
        let timeout = match self.when_exhausted {
            WhenExhausted::Fail => Duration::ZERO,
            WhenExhausted::Wait(timeout) => timeout,
        };
        let mut state = self.state();
        loop {
            let free = state.free.as_mut().ok_or(Error::NotSecuredYet)?;
            if let Some(slot) = free.pop() {
                state.statistics.lent += 1;
                state.statistics.loans += 1;
                return Ok(slot);
            }
            let waited = match timeout {
                Duration::ZERO => Duration::ZERO,
                _ => since.elapsed(),
            };
            if waited >= timeout {
                let slots = self.slots;
                return Err(Error::NoSlot { slots, waited });
            }
            let woken = self.returned.wait_timeout(state, timeout - waited);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Takes a slot back of which the first `dirty_bytes` were accessible.
    fn take_back(&self, mut slot: Slot, dirty_bytes: usize) {
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
                None
            }
            _ => {
                state.statistics.retired += 1;
                Some(slot)
            }
        };
        drop(state);
        self.returned.notify_one();
        // Unmapping 4 GiB takes a while, so it is done without the lock.
        drop(retired);
    }
}

/// A memory of a pool, lent until it is dropped. It is zeroed in the thread that drops it.
#[derive(Debug)]
pub struct LentMemory {
    /// `None` only in `drop`.
    slot: Option<Slot>,
    shared: Arc<Shared>,
    bytes: usize,
    maximum_bytes: usize,
}

impl LentMemory {
    /// Makes exactly the first `bytes` accessible.
    fn resize(&mut self, bytes: usize) -> Result<(), Error> {
        let slot = self.slot.as_mut().expect("there until dropped");
        slot.make_accessible(bytes)
            .map_err(Error::system("mprotect", bytes))?;
        self.bytes = bytes;
        Ok(())
    }

    /// Returns the address of the first byte. It does not move while the memory is lent.
    pub fn as_ptr(&self) -> *mut u8 {
        let slot = self.slot.as_ref().expect("there until dropped");
        slot.base().as_ptr()
    }

    /// Returns the current size in bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Returns true if the current size is 0.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Returns the size that it can grow to, in bytes. All of it is committed.
    pub fn maximum_bytes(&self) -> usize {
        self.maximum_bytes
    }

    /// Makes more of the memory accessible, which is zero. If `bytes` is not more than the current
    /// size, nothing changes.
    ///
    /// # Errors
    /// [`Error::SlotTooSmall`] above the maximum. [`Error::System`] if the operating system refuses
    /// to make committed memory accessible. A host has to stop then: on another machine the guest
    /// would continue.
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
        self.resize(bytes)
    }

    /// Returns the memory up to its current size.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the range is mapped and accessible for as long as this value lives, and writing
        // to it takes a mutable borrow of this value, or an engine that owns it.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.bytes) }
    }

    /// Returns the memory up to its current size, writable.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and this value is mutably borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.as_ptr(), self.bytes) }
    }
}

impl Drop for LentMemory {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.shared.take_back(slot, self.bytes);
        }
    }
}
