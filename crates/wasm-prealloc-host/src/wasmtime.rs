//! The memory creator for wasmtime: every linear memory is verified, then committed anew, when
//! its module is instantiated, and given back with the instance.
//!
//! How memory is committed is in `secure`.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError};

use wasmtime::{
    AsContextMut, Config, ExternType, Instance, InstanceAllocationStrategy, LinearMemory, Linker,
    MemoryCreator, MemoryType, Module,
};

use crate::error::Error;
use crate::region::Extent;
use crate::secure::{Requirements, Secured, SecuredRegion, WASM_PAGE_BYTES};

/// With 4 GiB reserved and a guard of this size behind, no 32-bit access needs a bounds check.
const RESERVATION_BYTES: u64 = 4 << 30;
const GUARD_BYTES: u64 = 32 << 20;

thread_local! {
    /// Why the creator refused last on this thread. The engine's interface lets a creator return
    /// a text only; wasmtime calls it on the thread that instantiates, so here the error itself
    /// can wait for [`SecuredMemory::instantiate`], with its text to tell whose it is.
    static REFUSAL: RefCell<Option<(String, Error)>> = const { RefCell::new(None) };
}

/// Secures the memories of all modules that one engine instantiates.
#[derive(Debug, Clone)]
pub struct SecuredMemory {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    requirements: Requirements,
    last: Mutex<Option<Secured>>,
}

impl SecuredMemory {
    /// Memories of the size required. Nothing is committed yet.
    pub fn new(requirements: Requirements) -> Self {
        SecuredMemory {
            shared: Arc::new(Shared {
                requirements,
                last: Mutex::new(None),
            }),
        }
    }

    /// Makes an engine take its linear memories from here.
    ///
    /// This sets the memory creator, on-demand allocation, a reservation of 4 GiB that does not
    /// move, guards of 32 MiB on both sides, and turns copy-on-write images off: wasmtime maps
    /// those only into memory of its own, and over committed pages they would undo the commit.
    /// Call it after other settings that concern memory.
    ///
    /// The heap of the wasm GC proposal would be asked of the same creator, and refused: it
    /// grows.
    pub fn configure(&self, config: &mut Config) -> &Self {
        config
            .with_host_memory(Arc::new(Creator(Arc::clone(&self.shared))))
            .allocation_strategy(InstanceAllocationStrategy::OnDemand)
            .memory_reservation(RESERVATION_BYTES)
            .memory_may_move(false)
            .memory_guard_size(GUARD_BYTES)
            .guard_before_linear_memory(true)
            .memory_init_cow(false);
        self
    }

    /// Checks what can be checked without instantiating: that the module imports no memory.
    /// What it declares is verified as each memory is created, before any of the module runs.
    ///
    /// # Errors
    ///
    /// [`Error::ImportedMemory`].
    pub fn verify(&self, module: &Module) -> Result<(), Error> {
        for import in module.imports() {
            if let ExternType::Memory(_) = import.ty() {
                return Err(Error::ImportedMemory {
                    module: import.module().to_owned(),
                    name: import.name().to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Verifies the module, commits its memories and instantiates it. A module without a memory
    /// is instantiated as usual.
    ///
    /// # Errors
    ///
    /// [`InstantiateError::Memory`] if a memory was not secured; then nothing of the module has
    /// run. [`InstantiateError::Engine`] for everything else.
    pub fn instantiate<T: 'static>(
        &self,
        linker: &Linker<T>,
        store: impl AsContextMut<Data = T>,
        module: &Module,
    ) -> Result<Instance, InstantiateError> {
        self.verify(module).map_err(InstantiateError::Memory)?;
        REFUSAL.take();
        linker.instantiate(store, module).map_err(|error| {
            match REFUSAL.take() {
                // A start function can instantiate other modules and swallow their errors, so a
                // refusal on record need not be the cause.
                Some((text, refusal)) if error.root_cause().to_string() == text => {
                    InstantiateError::Memory(refusal)
                }
                _ => InstantiateError::Engine(error),
            }
        })
    }

    /// What the last commit did, on whichever thread and for whichever instance.
    pub fn last(&self) -> Option<Secured> {
        *self
            .shared
            .last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Settings under which the same module computes the same on every machine: one bit pattern for
/// NaN, and one result for relaxed SIMD.
pub fn deterministic(config: &mut Config) {
    config
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true);
}

/// A module was not instantiated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstantiateError {
    /// A memory was not secured, or does not declare what is required.
    #[error(transparent)]
    Memory(#[from] Error),
    /// The engine refused or the module's start function trapped.
    #[error("{0:#}")]
    Engine(wasmtime::Error),
}

struct Creator(Arc<Shared>);

// SAFETY: each memory is a new, zeroed mapping of its own, as large as the type says, with the
// reservation and the guard that were asked for left inaccessible around it. It does not move,
// and nothing outside of the engine writes to it.
unsafe impl MemoryCreator for Creator {
    fn new_memory(
        &self,
        ty: MemoryType,
        _minimum: usize,
        _maximum: Option<usize>,
        reserved_size_in_bytes: Option<usize>,
        guard_size_in_bytes: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        match self
            .0
            .create(&ty, reserved_size_in_bytes, guard_size_in_bytes)
        {
            Ok(memory) => Ok(Box::new(memory)),
            Err(error) => {
                let text = with_causes(&error);
                REFUSAL.set(Some((text.clone(), error)));
                Err(text)
            }
        }
    }
}

impl Shared {
    fn create(
        &self,
        ty: &MemoryType,
        reserved_bytes: Option<usize>,
        guard_bytes: usize,
    ) -> Result<Memory, Error> {
        verify_declaration(ty, self.requirements.pages)?;
        let bytes = self.requirements.bytes()?;
        let reservation_bytes = reserved_bytes.unwrap_or(bytes);
        if reservation_bytes < bytes {
            return Err(Error::Reservation {
                reserved_bytes: reservation_bytes as u64,
                needed_bytes: bytes as u64,
            });
        }
        let extent = Extent {
            reservation_bytes,
            guard_bytes,
        };
        let region = SecuredRegion::secure_within(&self.requirements, extent)?;
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(*region.secured());
        Ok(Memory(region))
    }
}

fn verify_declaration(ty: &MemoryType, expected: u64) -> Result<(), Error> {
    let kind = if ty.is_shared() {
        Some("shared")
    } else if ty.is_64() {
        Some("64-bit")
    } else if ty.page_size() != WASM_PAGE_BYTES {
        Some("custom-page-size")
    } else {
        None
    };
    if let Some(kind) = kind {
        return Err(Error::UnsupportedMemory { kind });
    }
    let (minimum, maximum) = (ty.minimum(), ty.maximum());
    if minimum != expected || maximum != Some(expected) {
        return Err(Error::NotPinned {
            minimum,
            maximum,
            expected,
        });
    }
    Ok(())
}

/// The whole cause chain on one line, for where only a text can go.
fn with_causes(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// A committed memory of fixed size.
struct Memory(SecuredRegion);

// SAFETY: the address and the size never change while this value lives, and the whole size is
// mapped and writable.
unsafe impl LinearMemory for Memory {
    fn byte_size(&self) -> usize {
        self.0.len()
    }

    fn byte_capacity(&self) -> usize {
        self.0.len()
    }

    fn grow_to(&mut self, new_size: usize) -> wasmtime::Result<()> {
        // Minimum and maximum are equal, so there is nothing that the engine could ask for.
        wasmtime::ensure!(
            new_size <= self.0.len(),
            "a secured memory cannot grow to {new_size} bytes"
        );
        Ok(())
    }

    fn as_ptr(&self) -> *mut u8 {
        self.0.as_ptr()
    }
}
