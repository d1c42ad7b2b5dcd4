//! Several slots of a pool that are taken at once, for a module with several memories.

use std::sync::Arc;

use crate::error::LendError;
use crate::pool::lent::LentMemory;
use crate::pool::loans::LentTo;
use crate::pool::memory_pool::MemoryPool;
use crate::pool::shared::Shared;
use crate::pool::slot::Slot;

impl MemoryPool {
    /// Takes `count` slots at once, to be lent one by one.
    ///
    /// A thread that needs several memories and lends them one after the other can wait for a
    /// thread that does the same, and that one for it. A reservation holds no slot while it waits
    /// for all of them. Requests are served in the order in which they came: later ones for fewer
    /// slots do not pass a reservation, so it is served as soon as enough slots came back.
    ///
    /// A thread that already holds memories and reserves more can still wait for a thread that
    /// waits for it. It has to reserve everything that it needs at first.
    ///
    /// ```
    /// use wasm_prealloc_host::{LendError, MemoryPool};
    ///
    /// let pool = MemoryPool::builder().slots(3).pages(16).secure()?;
    /// let mut both = pool.reserve(2)?;
    /// let first = both.lend(16, Some(16))?;
    /// let second = both.lend(16, Some(16))?;
    /// assert!(matches!(pool.reserve(2), Err(LendError::NoSlot { lent: 2, .. })));
    /// assert!(matches!(pool.reserve(4), Err(LendError::TooManyMemories { .. })));
    /// # Ok::<(), wasm_prealloc_host::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`LendError::TooManyMemories`] at once if the pool can never have so many free slots,
    /// [`LendError::NoSlot`] if too few are free, until the end of the wait if the pool waits.
    pub fn reserve(&self, count: usize) -> Result<Reservation, LendError> {
        self.reserve_to(count, &LentTo::Reservation)
    }

    pub(crate) fn reserve_to(&self, count: usize, to: &LentTo) -> Result<Reservation, LendError> {
        let shared = self.shared();
        let slots = shared.take(count, |free| free.split_off(free.len() - count))?;
        Ok(Reservation::new(slots, shared, to))
    }
}

/// Slots of a pool that are taken and not lent yet; see [`MemoryPool::reserve`]. Those that were
/// not lent go back to the pool when this value is dropped.
#[derive(Debug)]
pub struct Reservation {
    slots: Vec<Slot>,
    reserved: usize,
    shared: Arc<Shared>,
}

impl Reservation {
    /// Makes a reservation of slots that were taken, and records the borrower.
    pub(crate) fn new(slots: Vec<Slot>, shared: &Arc<Shared>, to: &LentTo) -> Reservation {
        shared.record_loans(&slots, to);
        Reservation {
            reserved: slots.len(),
            slots,
            shared: Arc::clone(shared),
        }
    }

    /// Returns the number of slots that are not lent yet.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Returns true if every slot is lent.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Lends one of the slots, as [`MemoryPool::lend`] does, and never waits. If the limits are
    /// refused the slot stays in the reservation.
    ///
    /// # Errors
    /// [`LendError::NotReserved`] if every slot is lent; else as for [`MemoryPool::lend`].
    pub fn lend(&mut self, minimum: u64, maximum: Option<u64>) -> Result<LentMemory, LendError> {
        let shared = &self.shared;
        let limit = shared.options().limit_pages(minimum, maximum)?;
        let reserved = self.reserved;
        let slot = self
            .slots
            .pop()
            .ok_or(LendError::NotReserved { reserved })?;
        LentMemory::new(slot, shared, minimum, limit, None)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.slots.is_empty() {
            self.shared.give_back(std::mem::take(&mut self.slots));
        }
    }
}
