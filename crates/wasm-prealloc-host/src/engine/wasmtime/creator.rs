//! The memory creator for wasmtime: each linear memory is verified and lent from a pool when its
//! module is instantiated, and comes back with the instance.

use std::cell::RefCell;
use std::error::Error as StdError;
use std::iter::successors;

use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

use crate::commit::requirements::WASM_PAGE_BYTES;
use crate::error::Error;
use crate::pool::lent::LentMemory;
use crate::pool::memory_pool::MemoryPool;
use crate::pool::slot::{GUARD_BYTES, RESERVATION_BYTES};

thread_local! {
    /// The last refusal of a creator on this thread, with its text. The engine's interface lets a
    /// creator return a text only. wasmtime calls it on the thread that instantiates, also for an
    /// asynchronous store, so `InstantiateError::from` can find the error itself here.
    static REFUSAL: RefCell<Option<(String, Error)>> = const { RefCell::new(None) };
}

/// Takes the last refusal on this thread, if `error` is caused by it.
pub(crate) fn take_refusal(error: &wasmtime::Error) -> Option<Error> {
    // A start function can instantiate other modules and ignore their errors, so the last refusal
    // is not always the cause.
    let (text, refusal) = REFUSAL.take()?;
    (error.root_cause().to_string() == text).then_some(refusal)
}

/// A pool as the creator of an engine's memories.
pub(crate) struct Creator(pub(crate) MemoryPool);

// SAFETY: each memory has its own slot, zeroed, as large as the type says, with the requested
// reservation and guard left inaccessible around it. It does not move, and only the engine writes
// to it while it is lent.
unsafe impl MemoryCreator for Creator {
    fn new_memory(
        &self,
        ty: MemoryType,
        _minimum: usize,
        _maximum: Option<usize>,
        reserved_size_in_bytes: Option<usize>,
        guard_size_in_bytes: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        let reservation_bytes = reserved_size_in_bytes.unwrap_or(0);
        match lend(&self.0, &ty, reservation_bytes, guard_size_in_bytes) {
            Ok(memory) => Ok(Box::new(Memory(memory))),
            Err(error) => {
                let text = with_causes(&error);
                REFUSAL.set(Some((text.clone(), error)));
                Err(text)
            }
        }
    }
}

fn lend(
    pool: &MemoryPool,
    ty: &MemoryType,
    reservation_bytes: usize,
    guard_bytes: usize,
) -> Result<LentMemory, Error> {
    // With a reservation smaller than the memory an engine expects the memory to move.
    let needed_bytes = pool.pages().saturating_mul(WASM_PAGE_BYTES);
    if (reservation_bytes as u64) < needed_bytes {
        return Err(Error::Engine {
            what: "reserves less address space than the memory has (memory_reservation)",
        });
    }
    if reservation_bytes > RESERVATION_BYTES || guard_bytes > GUARD_BYTES {
        return Err(Error::Engine {
            what: "requests more address space or larger guards than a slot has \
                   (memory_reservation, memory_guard_size)",
        });
    }
    if ty.is_shared() {
        return Err(Error::UnsupportedMemory { kind: "shared" });
    }
    if ty.page_size() != WASM_PAGE_BYTES {
        let kind = "custom-page-size";
        return Err(Error::UnsupportedMemory { kind });
    }
    let maximum = match ty.maximum() {
        // The largest possible 64-bit memory.
        None if ty.is_64() => Some(u64::MAX / WASM_PAGE_BYTES),
        maximum => maximum,
    };
    pool.lend(ty.minimum(), maximum)
}

/// Formats the whole cause chain on one line.
fn with_causes(error: &Error) -> String {
    let chain = successors(Some(error as &dyn StdError), |&error| error.source());
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
            // If the guest saw -1 it would continue, other than on another machine.
            Err(error @ Error::System { .. }) => {
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
