//! The memory creator for wasmtime: every linear memory is verified and lent from a pool when its
//! module is instantiated, and comes back with the instance.
//!
//! What a pool is, is in `pool`.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError};

use wasmtime::{
    AsContextMut, Config, Engine, EngineWeak, ExternType, Instance, InstanceAllocationStrategy,
    LinearMemory, Linker, MemoryCreator, MemoryType, Module,
};

use crate::commit::requirements::WASM_PAGE_BYTES;
use crate::error::Error;
use crate::pool::builder::PreparedPool;
use crate::pool::memory_pool::{LentMemory, MemoryPool};
use crate::pool::slot::{GUARD_BYTES, RESERVATION_BYTES};

thread_local! {
    /// Why the creator refused last on this thread. The engine's interface lets a creator return
    /// a text only; wasmtime calls it on the thread that instantiates, also when it does so
    /// asynchronously, so here the error itself can wait for [`InstantiateError::from`], with its
    /// text to tell whose it is.
    static REFUSAL: RefCell<Option<(String, Error)>> = const { RefCell::new(None) };
}

impl PreparedPool {
    /// As [`MemoryPool::configure`]. Nothing can be instantiated before
    /// [`PreparedPool::secure`].
    pub fn configure(&self, config: &mut Config) -> &Self {
        self.pool.configure(config);
        self
    }

    /// As [`MemoryPool::verify`].
    ///
    /// # Errors
    ///
    /// As for [`MemoryPool::verify`].
    pub fn verify(&self, module: &Module) -> Result<(), Error> {
        self.pool.verify(module)
    }
}

impl MemoryPool {
    /// Makes an engine take its linear memories from here.
    ///
    /// This sets the memory creator, on-demand allocation, a reservation of 4 GiB that does not
    /// move, guards of 32 MiB on both sides, and turns copy-on-write images off: wasmtime maps
    /// those only into memory of its own, and over committed pages they would undo the commit.
    /// Call it after other settings that concern memory; [`MemoryPool::verify`] refuses an engine
    /// where one of them was changed back.
    ///
    /// The heap of the wasm GC proposal is asked of the same creator. Under
    /// [`Policy::Declared`](crate::Policy::Declared) it is refused, because it grows; under
    /// [`Policy::CommitMaximum`](crate::Policy::CommitMaximum) it takes a slot of 65,536 pages.
    pub fn configure(&self, config: &mut Config) -> &Self {
        config
            .with_host_memory(Arc::new(Creator(self.clone())))
            .allocation_strategy(InstanceAllocationStrategy::OnDemand)
            .memory_reservation(RESERVATION_BYTES as u64)
            .memory_may_move(false)
            .memory_guard_size(GUARD_BYTES as u64)
            .guard_before_linear_memory(true)
            .memory_init_cow(false);
        self
    }

    /// Checks what can be checked without instantiating: that the engine is still configured as
    /// [`MemoryPool::configure`] left it, and that the module imports no memory. What the module
    /// declares is verified as each memory is created, before any of it runs.
    ///
    /// # Errors
    ///
    /// [`Error::Engine`], [`Error::ImportedMemory`].
    pub fn verify(&self, module: &Module) -> Result<(), Error> {
        verify_engine(module.engine())?;
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

    /// Verifies the module and instantiates it in memories of this pool. A module without a
    /// memory is instantiated as usual.
    ///
    /// An embedder with an [`InstancePre`](wasmtime::InstancePre) or an asynchronous store calls
    /// [`MemoryPool::verify`] once, instantiates as ever, and turns the engine's error into an
    /// [`InstantiateError`] to tell this crate's from others:
    ///
    /// ```no_run
    /// # use wasmtime::{InstancePre, Store};
    /// # use wasm_prealloc_host::InstantiateError;
    /// # fn example(pre: InstancePre<()>, mut store: Store<()>) -> Result<(), InstantiateError> {
    /// let instance = pre.instantiate(&mut store)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`InstantiateError::Memory`] if the module is not verified or no memory is free; then
    /// nothing of the module has run. [`InstantiateError::Engine`] for everything else.
    pub fn instantiate<T: 'static>(
        &self,
        linker: &Linker<T>,
        store: impl AsContextMut<Data = T>,
        module: &Module,
    ) -> Result<Instance, InstantiateError> {
        self.verify(module)?;
        Ok(linker.instantiate(store, module)?)
    }
}

/// Whether an engine would instantiate in memory that is not what this crate has lent.
fn verify_engine(engine: &Engine) -> Result<(), Error> {
    /// The engine found in order last: a host has one, and asks for each block.
    static VERIFIED: Mutex<Option<EngineWeak>> = Mutex::new(None);
    let mut verified = VERIFIED.lock().unwrap_or_else(PoisonError::into_inner);
    let known = verified.as_ref().and_then(EngineWeak::upgrade);
    if known.is_some_and(|known| Engine::same(&known, engine)) {
        return Ok(());
    }
    if engine.pooling_allocator_metrics().is_some() {
        return Err(Error::Engine {
            what: "allocates from wasmtime's own pool (InstanceAllocationStrategy::Pooling)",
        });
    }
    // A configuration tells its settings in no other way; a test holds this to be so.
    let settings = format!("{:?}", engine.config());
    for (setting, what) in [
        (
            "memory_init_cow: true",
            "maps copy-on-write images (memory_init_cow)",
        ),
        (
            "memory_may_move: true",
            "may move memories (memory_may_move)",
        ),
    ] {
        if settings.contains(setting) {
            return Err(Error::Engine { what });
        }
    }
    *verified = Some(engine.weak());
    Ok(())
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
    /// The module was not verified, or no memory is free.
    #[error(transparent)]
    Memory(#[from] Error),
    /// The engine refused or the module's start function trapped.
    #[error("{0:#}")]
    Engine(wasmtime::Error),
}

impl From<wasmtime::Error> for InstantiateError {
    /// Finds the pool's own error behind the engine's, on the thread that instantiated.
    fn from(error: wasmtime::Error) -> InstantiateError {
        match REFUSAL.take() {
            // A start function can instantiate other modules and swallow their errors, so a
            // refusal on record need not be the cause.
            Some((text, refusal)) if error.root_cause().to_string() == text => {
                InstantiateError::Memory(refusal)
            }
            _ => InstantiateError::Engine(error),
        }
    }
}

struct Creator(MemoryPool);

// SAFETY: each memory is a slot of its own, zeroed, as large as the type says, with the
// reservation and the guard that were asked for left inaccessible around it. It does not move,
// and nothing outside of the engine writes to it while it is lent.
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
    // With less reserved than the memory's own size an engine expects it to move.
    let needed_bytes = pool.pages().saturating_mul(WASM_PAGE_BYTES);
    if (reservation_bytes as u64) < needed_bytes {
        return Err(Error::Engine {
            what: "reserves less address space than the memory has (memory_reservation)",
        });
    }
    if reservation_bytes > RESERVATION_BYTES || guard_bytes > GUARD_BYTES {
        return Err(Error::Engine {
            what: "wants more address space or larger guards than a slot has \
                   (memory_reservation, memory_guard_size)",
        });
    }
    let kind = if ty.is_shared() {
        Some("shared")
    } else if ty.page_size() != WASM_PAGE_BYTES {
        Some("custom-page-size")
    } else {
        None
    };
    if let Some(kind) = kind {
        return Err(Error::UnsupportedMemory { kind });
    }
    let maximum = match ty.maximum() {
        // The largest that there can be.
        None if ty.is_64() => Some(u64::MAX / WASM_PAGE_BYTES),
        maximum => maximum,
    };
    pool.lend(ty.minimum(), maximum)
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

/// A memory of a pool in the engine's hands.
struct Memory(LentMemory);

// SAFETY: the address never changes while this value lives, and as much as `byte_size` says is
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
            // The engine asks for nothing above the maximum, so that a refusal is not the
            // module's own doing. If it came back as -1 the guest would go on, otherwise than on
            // another machine.
            Err(error @ Error::System { .. }) => {
                panic!(
                    "committed memory cannot be made accessible: {}",
                    with_causes(&error)
                )
            }
            outcome => Ok(outcome?),
        }
    }

    fn as_ptr(&self) -> *mut u8 {
        self.0.as_ptr()
    }
}
