//! The handles of a pool. Pools are made in `builder`; engines use them in `engine`.

use std::sync::{Arc, Weak};

use crate::commit::report::Secured;
use crate::commit::residency::Residency;
use crate::error::{LendError, SecureError};
use crate::pool::assurance::Assurance;
use crate::pool::lent::LentMemory;
use crate::pool::loans::{LentTo, Loan};
use crate::pool::policy::{Options, Policy};
use crate::pool::shared::{EngineSide, Shared};
use crate::pool::statistics::Statistics;
use crate::sys::TrackingInterface;

/// Memories that are committed in advance, lent to one instance at a time, and zeroed when they
/// come back. Clones share the pool.
///
/// # Lifetime of the memory
///
/// The memory is unmapped when the last of these is dropped, or by [`release`](Self::release):
///
/// - handles: each `MemoryPool`, and the [`PreparedPool`](crate::PreparedPool) that it was made of;
/// - loans: each [`LentMemory`], each [`Reservation`](crate::Reservation), and each memory of an
///   instance, which an engine keeps until its *store* is dropped.
///
/// These do not keep it: a [`WeakPool`], an engine, a configuration of an engine and its clones, a
/// compiled module, and a limiter. An engine without its pool refuses to make memories
/// ([`LendError::PoolDropped`]).
///
/// A host that makes the next instance before it drops the last store needs a slot more, or gets
/// [`LendError::NoSlot`], which names the borrowers. [`loans`](Self::loans) lists them.
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
    /// Makes a pool without memory; see [`Shared::fill`].
    pub(crate) fn without_memory(options: Options, engine: EngineSide) -> MemoryPool {
        MemoryPool::of(Arc::new(Shared::new(options, engine)))
    }

    /// Returns a handle of a pool.
    pub(crate) fn of(shared: Arc<Shared>) -> MemoryPool {
        MemoryPool { shared }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Returns the parts that an engine needs besides the slots.
    pub(crate) fn engine_side(&self) -> &EngineSide {
        &self.shared.engine
    }

    /// Returns a number that no other pool has as long as a handle of this one exists.
    pub(crate) fn id(&self) -> usize {
        Arc::as_ptr(&self.shared).addr()
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
        self.shared.options().pages
    }

    /// Returns the number of slots that the pool was made with.
    pub fn slots(&self) -> usize {
        self.shared.options().slots
    }

    /// Returns the policy: the modules that are served, and the memory that they see.
    pub fn policy(&self) -> Policy {
        self.shared.options().policy
    }

    /// Returns the outcome of the commit: bytes and time of all slots together. `None` for a pool
    /// of no slots, or if nothing is secured; see [`assurance`](Self::assurance).
    pub fn secured(&self) -> Option<Secured> {
        self.shared.secured()
    }

    /// Returns the counters of the pool.
    pub fn statistics(&self) -> Statistics {
        self.shared.statistics()
    }

    /// Returns the kernel interface that tracks the writes of instances. `None` if the policy needs
    /// no tracking, it was turned off, or it cannot be had here: then
    /// [`write_tracking`](crate::write_tracking) returns the reason.
    pub fn tracking(&self) -> Option<TrackingInterface> {
        self.shared.tracking()
    }

    /// Counts the resident memory of all slots again, lent or not, and of the engine's heaps.
    /// Instances keep running. A host can call this at intervals: swap, or a limit that was
    /// lowered, can take memory away after it was secured. If nothing is secured
    /// ([`Assurance::Off`]), nothing is expected either.
    ///
    /// # Errors
    /// [`SecureError::NotResident`] if a part is not resident any more,
    /// [`SecureError::NotSecuredYet`], and [`SecureError::Unreadable`] if the page tables cannot be
    /// read.
    ///
    /// ```
    /// use wasm_prealloc_host::MemoryPool;
    ///
    /// let pool = MemoryPool::builder().slots(2).pages(16).secure()?;
    /// let memory = pool.lend(16, Some(16))?;
    /// assert_eq!(pool.check()?.resident_bytes, 2 << 20);
    /// # Ok::<(), wasm_prealloc_host::Error>(())
    /// ```
    pub fn check(&self) -> Result<Residency, SecureError> {
        let slots = self.shared.check()?;
        let Some(heap) = &self.shared.engine.heap else {
            return Ok(slots);
        };
        let heaps = heap.check()?;
        Ok(Residency {
            expected_bytes: slots.expected_bytes + heaps.expected_bytes,
            resident_bytes: slots.resident_bytes + heaps.resident_bytes,
            elapsed: slots.elapsed + heaps.elapsed,
        })
    }

    /// Lends a memory to a module that declares these limits, in wasm pages of 64 KiB. A memory
    /// without a maximum counts as having one of 65,536.
    ///
    /// The memory is zero and resident. It comes back when it is dropped. A module that defines
    /// several memories needs [`reserve`](MemoryPool::reserve).
    ///
    /// # Errors
    /// [`LendError::Policy`] if the limits do not suit the pool's policy, [`LendError::NoSlot`] if
    /// every slot is lent.
    pub fn lend(&self, minimum: u64, maximum: Option<u64>) -> Result<LentMemory, LendError> {
        self.lend_to(minimum, maximum, LentTo::Host)
    }

    pub(crate) fn lend_to(
        &self,
        minimum: u64,
        maximum: Option<u64>,
        to: LentTo,
    ) -> Result<LentMemory, LendError> {
        let shared = &self.shared;
        let limit = shared.options().limit_pages(minimum, maximum)?;
        let slot = shared.take(1, Vec::pop)?.ok_or(LendError::NotSecuredYet)?;
        LentMemory::new(slot, shared, minimum, limit, Some(to))
    }

    /// Returns the slots that are lent or reserved now, the oldest loan first.
    pub fn loans(&self) -> Vec<Loan> {
        self.shared.loans()
    }

    /// Returns [`Assurance::Off`] if nothing is secured: the memory comes on first touch, because
    /// that was chosen or because securing failed. Else returns the choice, under which all of it
    /// is secured.
    pub fn assurance(&self) -> Assurance {
        self.shared.assurance()
    }

    /// Returns a report for people if nothing is secured, with the reason.
    pub fn unsecured(&self) -> Option<String> {
        self.shared.unsecured()
    }

    /// Gives the memory back now, although handles of the pool exist. They return
    /// [`LendError::Released`] then. A [`PreparedPool`](crate::PreparedPool) can be secured again:
    /// its engines and modules keep their pool.
    ///
    /// ```
    /// use wasm_prealloc_host::{LendError, MemoryPool};
    ///
    /// let prepared = MemoryPool::builder().pages(16).prepare();
    /// let pool = prepared.secure()?;
    /// let memory = pool.lend(16, Some(16))?;
    /// assert!(matches!(pool.release(), Err(LendError::StillLent { lent: 1, .. })));
    /// drop(memory);
    /// pool.release()?;
    /// assert!(matches!(pool.lend(16, Some(16)), Err(LendError::Released)));
    /// prepared.secure()?.lend(16, Some(16))?;
    /// # Ok::<(), wasm_prealloc_host::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`LendError::StillLent`] if a memory is lent or reserved, or an engine's heap is in use.
    pub fn release(&self) -> Result<(), LendError> {
        self.shared.release()
    }
}

/// A handle of a pool that does not keep its memory; see [`MemoryPool::downgrade`].
#[derive(Debug, Clone)]
pub struct WeakPool(Weak<Shared>);

impl WeakPool {
    /// Returns the number of the pool, see [`MemoryPool::id`].
    #[cfg(feature = "wasmtime-runtime")]
    pub(crate) fn id(&self) -> usize {
        self.0.as_ptr().addr()
    }

    /// Returns the pool, unless its last handle and its last loan are gone.
    pub fn upgrade(&self) -> Option<MemoryPool> {
        self.0.upgrade().map(MemoryPool::of)
    }
}
