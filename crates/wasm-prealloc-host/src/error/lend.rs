//! The errors of lending memory.

use std::io;
use std::time::Duration;

use crate::error::policy::PolicyError;
use crate::error::text::{
    FORKED, NOT_SECURED_YET, RELEASED, after, borrowers, retired_slots, too_many_memories,
    usual_cause,
};
use crate::limits::limit::Bytes;
use crate::pool::loans::Loan;

/// No memory was lent, or lent memory cannot grow.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LendError {
    /// The limits that the module declares for a memory do not suit the pool's policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),

    /// Too few slots of the pool are free, until the end of the wait if the pool waits.
    #[error(
        "no memory is free: of the pool's {slots} slots {lent} are lent{}{}{}; drop an instance \
         first{}, give the pool more slots (MemoryPoolBuilder::slots), or let it wait \
         (WhenExhausted::Wait); a module takes one slot for each memory that it defines",
         borrowers(.loans), retired_slots(.retired), after(.waited), usual_cause(.loans)
    )]
    NoSlot {
        /// The number of slots that the pool was made with.
        slots: usize,
        /// The number of them that are lent, or reserved.
        lent: usize,
        /// The number of them that cannot be lent again, because a reset failed.
        retired: usize,
        /// The time that it waited for one.
        waited: Duration,
        /// The borrowers, the oldest loan first. A slot that was taken at this moment is missing.
        loans: Vec<Loan>,
    },

    /// Memory is lent that was to be released.
    #[error(
        "the pool's memory cannot be released: {lent} slots or heaps are lent{}; drop the stores \
         and the memories first",
        borrowers(.loans)
    )]
    StillLent {
        /// The number of slots and heaps that are lent, reserved, or being reset.
        lent: usize,
        /// The borrowers, the oldest loan first.
        loans: Vec<Loan>,
    },

    /// The pool's memory was given back with
    /// [`MemoryPool::release`](crate::MemoryPool::release).
    #[error("{RELEASED}")]
    Released,

    /// More memories are needed at once than the pool can ever lend at once.
    #[error("{}", too_many_memories(*memories, *slots))]
    TooManyMemories {
        /// The number of memories.
        memories: usize,
        /// The number of slots, without those that cannot be lent again.
        slots: usize,
    },

    /// Every slot of a [`Reservation`](crate::Reservation) is lent.
    #[error(
        "all {reserved} reserved memories are lent; reserve one for each memory that is needed"
    )]
    NotReserved {
        /// The number of slots that were reserved.
        reserved: usize,
    },

    /// The pool was prepared, and its memory is not secured yet.
    #[error("{NOT_SECURED_YET}")]
    NotSecuredYet,

    /// The pool was dropped, and an engine that takes its memories from it was not.
    #[error(
        "the pool that the engine takes its memories from was dropped; keep a `MemoryPool` for as \
         long as modules are instantiated"
    )]
    PoolDropped,

    /// The module needs the engine's own heap, for exceptions, `externref` or GC types, and all of
    /// them are in use.
    #[error(
        "the module needs the engine's own heap, for exceptions, externref or GC types, and all \
         {heaps} heaps of the pool are in use; drop a store first, or give the pool more slots, \
         each with a heap (MemoryPoolBuilder::slots)"
    )]
    NoEngineHeap {
        /// The number of heaps of the pool.
        heaps: usize,
    },

    /// The pool was made by a parent of this process, and its memory is not in this process.
    #[error("{FORKED}")]
    Forked,

    /// The kernel refused to make committed memory accessible. A host has to stop then: on another
    /// machine the guest would continue.
    #[error("memory not secured: {call} of {} failed", Bytes(*.bytes))]
    System {
        /// The system call, and its advice if it has one.
        call: &'static str,
        /// The length that it was called with.
        bytes: u64,
        /// The kernel's error.
        source: io::Error,
    },
}

impl LendError {
    /// Returns the name of the variant, for programs: lower case, with hyphens.
    pub fn kind(&self) -> &'static str {
        match self {
            LendError::Policy(error) => error.kind(),
            LendError::NoSlot { .. } => "no-slot",
            LendError::TooManyMemories { .. } => "too-many-memories",
            LendError::NotReserved { .. } => "not-reserved",
            LendError::NotSecuredYet => "not-secured-yet",
            LendError::StillLent { .. } => "still-lent",
            LendError::Released => "released",
            LendError::PoolDropped => "pool-dropped",
            LendError::NoEngineHeap { .. } => "no-engine-heap",
            LendError::Forked => "forked",
            LendError::System { .. } => "system",
        }
    }
}
