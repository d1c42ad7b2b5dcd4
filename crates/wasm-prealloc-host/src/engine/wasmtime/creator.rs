//! The memory creator for wasmtime: each linear memory is verified and lent from a pool when its
//! module is instantiated, and comes back with the instance. The engine's own heap is lent from a
//! pool of its own.

use std::error::Error as StdError;
use std::iter::successors;
use std::ptr::NonNull;
use std::sync::Arc;

use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

use crate::commit::requirements::WASM_PAGE_BYTES;
use crate::engine::wasmtime::probe::{self, Kind};
use crate::engine::wasmtime::refusals::Refusals;
use crate::engine::wasmtime::scope;
use crate::error::{Error, LendError, VerifyError};
use crate::pool::lent::LentMemory;
use crate::pool::memory_pool::{MemoryPool, WeakPool};
use crate::pool::slot::{GUARD_BYTES, RESERVATION_BYTES};

/// The guards that an engine requests for its own heap. Linear memories have larger ones, so a
/// creator can tell the two apart: wasmtime passes no other argument that distinguishes them.
pub(crate) const ENGINE_HEAP_GUARD_BYTES: usize = GUARD_BYTES / 2;

/// A pool as the creator of an engine's memories. It does not keep the pool's memory: an engine and
/// its modules often live as long as the process.
pub(crate) struct Creator {
    pool: WeakPool,
    /// True if the engine's own heap is requested with other guards than memories.
    heap_is_distinct: bool,
    refusals: Arc<Refusals>,
}

impl Creator {
    pub(crate) fn new(pool: &MemoryPool, heap_is_distinct: bool) -> Creator {
        Creator {
            pool: pool.downgrade(),
            heap_is_distinct,
            refusals: Arc::clone(&pool.engine_side().refusals),
        }
    }
}

// SAFETY: each memory has its own slot, zeroed, as large as the type says, with the requested
// reservation and guard left inaccessible around it. It does not move, and only the engine writes
// to it while it is lent. The memory of a probe has no bytes, and its instance is never made.
unsafe impl MemoryCreator for Creator {
    fn new_memory(
        &self,
        ty: MemoryType,
        _minimum: usize,
        _maximum: Option<usize>,
        reserved_size_in_bytes: Option<usize>,
        guard_size_in_bytes: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        let pool = self.pool.upgrade();
        let reservation_bytes = reserved_size_in_bytes.unwrap_or(0);
        let request = Request {
            kind: match guard_size_in_bytes {
                ENGINE_HEAP_GUARD_BYTES if self.heap_is_distinct => Kind::EngineHeap,
                _ => Kind::Linear,
            },
            heap_is_distinct: self.heap_is_distinct,
            ty: &ty,
            reservation_bytes,
            guard_bytes: guard_size_in_bytes,
        };
        let limits = |pool: &MemoryPool| request.check(pool);
        if let Some(answer) = probe::answer(pool.as_ref(), request.kind, limits) {
            return answer.map(|()| Box::new(Unused) as Box<dyn LinearMemory>);
        }
        let lent = pool
            .ok_or(LendError::PoolDropped.into())
            .and_then(|pool| request.lend(&pool));
        match lent {
            Ok(memory) => Ok(Box::new(Memory(memory))),
            Err(error) => {
                let text = with_causes(&error);
                self.refusals.keep(text.clone(), error);
                Err(text)
            }
        }
    }
}

/// A memory that the engine requests.
struct Request<'a> {
    kind: Kind,
    heap_is_distinct: bool,
    ty: &'a MemoryType,
    reservation_bytes: usize,
    guard_bytes: usize,
}

impl Request<'_> {
    /// Checks, without lending, that the pool serves such a memory.
    fn check(&self, pool: &MemoryPool) -> Result<(), VerifyError> {
        if self.kind == Kind::EngineHeap {
            return Ok(());
        }
        let slot_bytes = pool.pages().saturating_mul(WASM_PAGE_BYTES);
        check_sizes(
            slot_bytes,
            self.reservation_bytes as u64,
            self.guard_bytes as u64,
        )?;
        if !self.heap_is_distinct && self.is_like_a_heap() {
            return Err(VerifyError::AmbiguousMemory);
        }
        check_type(pool, self.ty)
    }

    /// Returns true for the limits with which wasmtime requests its own heap.
    fn is_like_a_heap(&self) -> bool {
        !self.ty.is_64() && self.ty.minimum() == 0 && self.ty.maximum().is_none()
    }

    fn lend(&self, pool: &MemoryPool) -> Result<LentMemory, Error> {
        self.check(pool)?;
        match self.kind {
            Kind::Linear => Ok(scope::lend(pool, self.ty.minimum(), maximum(self.ty))?),
            Kind::EngineHeap => pool.engine_side().lend_heap(self.ty.minimum()),
        }
    }
}

/// Checks that the pool serves a memory of this type.
pub(crate) fn check_type(pool: &MemoryPool, ty: &MemoryType) -> Result<(), VerifyError> {
    if ty.is_shared() {
        return Err(VerifyError::UnsupportedMemory { kind: "shared" });
    }
    if ty.page_size() != WASM_PAGE_BYTES {
        let kind = "custom-page-size";
        return Err(VerifyError::UnsupportedMemory { kind });
    }
    let policy = pool.policy();
    policy.limit_pages(ty.minimum(), maximum(ty), pool.pages())?;
    Ok(())
}

fn maximum(ty: &MemoryType) -> Option<u64> {
    match ty.maximum() {
        // The largest possible 64-bit memory.
        None if ty.is_64() => Some(u64::MAX / WASM_PAGE_BYTES),
        maximum => maximum,
    }
}

/// Checks the address space that an engine requests for a memory.
pub(crate) fn check_sizes(
    slot_bytes: u64,
    reservation_bytes: u64,
    guard_bytes: u64,
) -> Result<(), VerifyError> {
    // An engine moves a memory that is larger than its reservation.
    if reservation_bytes < slot_bytes {
        return Err(VerifyError::Engine {
            what: "reserves less address space than the memory has (memory_reservation)",
        });
    }
    if reservation_bytes > RESERVATION_BYTES as u64 || guard_bytes > GUARD_BYTES as u64 {
        return Err(VerifyError::Engine {
            what: "requests more address space or larger guards than a slot has \
                   (memory_reservation, memory_guard_size)",
        });
    }
    Ok(())
}

/// Formats the whole cause chain on one line.
fn with_causes(error: &(dyn StdError + 'static)) -> String {
    let chain = successors(Some(error), |&error| error.source());
    chain
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

/// A memory of a pool as wasmtime uses it.
struct Memory(LentMemory);

// SAFETY: the address does not change while this value lives, and the first `byte_size` bytes are
// mapped and writable.
unsafe impl LinearMemory for Memory {
    fn byte_size(&self) -> usize {
        self.0.len()
    }

    fn byte_capacity(&self) -> usize {
        self.0.maximum_bytes()
    }

    fn grow_to(&mut self, new_size: usize) -> wasmtime::Result<()> {
        match self.0.grow_to(new_size) {
            // wasmtime requests nothing above the maximum, so the guest did not cause the refusal.
            // A guest that saw -1 would continue, with another result than on other machines.
            Err(error @ LendError::System { .. }) => {
                let causes = with_causes(&error);
                panic!("committed memory cannot be made accessible: {causes}")
            }
            outcome => Ok(outcome?),
        }
    }

    fn as_ptr(&self) -> *mut u8 {
        self.0.as_ptr()
    }
}

/// The memory of a probe, which ends before the engine uses it.
struct Unused;

// SAFETY: no byte is accessible, so none is accessed.
unsafe impl LinearMemory for Unused {
    fn byte_size(&self) -> usize {
        0
    }

    fn byte_capacity(&self) -> usize {
        0
    }

    fn grow_to(&mut self, _new_size: usize) -> wasmtime::Result<()> {
        Err(wasmtime::Error::msg("the memory of a probe does not grow"))
    }

    fn as_ptr(&self) -> *mut u8 {
        NonNull::dangling().as_ptr()
    }
}
