//! The handles of a pool. Pools are made in `builder`; an engine's side is in `engine`.

use std::sync::{Arc, Weak};

use crate::commit::report::Secured;
use crate::error::Error;
use crate::pool::lent::LentMemory;
use crate::pool::policy::{Policy, WhenExhausted};
use crate::pool::shared::Shared;
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

impl MemoryPool {
    /// Makes a pool without memory; see [`fill`](MemoryPool::fill).
    pub(crate) fn without_memory(
        pages: u64,
        slots: usize,
        policy: Policy,
        when_exhausted: WhenExhausted,
    ) -> MemoryPool {
        MemoryPool {
            shared: Arc::new(Shared::new(pages, slots, policy, when_exhausted)),
        }
    }

    /// Gives the pool its slots.
    pub(crate) fn fill(&self, slots: Vec<Slot>, secured: Option<Secured>) {
        self.shared.fill(slots, secured);
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Returns a handle that does not keep the pool's memory.
    pub fn downgrade(&self) -> WeakPool {
        WeakPool(Arc::downgrade(&self.shared))
    }

    /// Returns true if both are handles of the same pool.
    pub fn is_same(&self, other: &MemoryPool) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Returns the size of each slot, in wasm pages of 64 KiB.
    pub fn pages(&self) -> u64 {
        self.shared.pages
    }

    /// Returns the number of slots that the pool was made with.
    pub fn slots(&self) -> usize {
        self.shared.slots
    }

    /// Returns the policy: the modules that are served, and the memory that they see.
    pub fn policy(&self) -> Policy {
        self.shared.policy
    }

    /// Returns the outcome of the commit: bytes and time of all slots together. `None` for a pool
    /// of no slots.
    pub fn secured(&self) -> Option<Secured> {
        self.shared.secured()
    }

    /// Returns the counters of the pool.
    pub fn statistics(&self) -> Statistics {
        self.shared.statistics()
    }

    /// Lends a memory to a module that declares these limits, in wasm pages of 64 KiB. A memory
    /// without a maximum counts as having one of 65,536.
    ///
    /// The memory is zero and resident. It comes back when it is dropped. A module that defines
    /// several memories needs [`reserve`](MemoryPool::reserve).
    ///
    /// # Errors
    /// [`Error::NotPinned`] or [`Error::SlotTooSmall`] if the limits do not suit the pool's
    /// policy, [`Error::NoSlot`] if every slot is lent.
    pub fn lend(&self, minimum: u64, maximum: Option<u64>) -> Result<LentMemory, Error> {
        let shared = &self.shared;
        let limit = shared.policy.limit_pages(minimum, maximum, shared.pages)?;
        let slot = shared.take(1, Vec::pop)?.ok_or(Error::NotSecuredYet)?;
        LentMemory::new(slot, shared, minimum, limit)
    }
}

/// A handle of a pool that does not keep its memory; see [`MemoryPool::downgrade`].
#[derive(Debug, Clone)]
pub struct WeakPool(Weak<Shared>);

impl WeakPool {
    /// Returns the pool, unless its last handle and its last loan are gone.
    pub fn upgrade(&self) -> Option<MemoryPool> {
        let shared = self.0.upgrade()?;
        Some(MemoryPool { shared })
    }
}
