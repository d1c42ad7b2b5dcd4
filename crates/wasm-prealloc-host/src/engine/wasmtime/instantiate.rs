//! Configures wasmtime to take its memories from a pool, and instantiates verified modules.

use std::sync::{Arc, Mutex, PoisonError};

use wasmtime::{
    AsContextMut, Config, Engine, EngineWeak, ExternType, Instance, InstanceAllocationStrategy,
    Linker, Module,
};

use crate::engine::wasmtime::creator::{Creator, take_refusal};
use crate::error::Error;
use crate::pool::builder::PreparedPool;
use crate::pool::memory_pool::MemoryPool;
use crate::pool::slot::{GUARD_BYTES, RESERVATION_BYTES};

/// A pool that wasmtime takes its linear memories from.
pub trait WasmtimePool {
    /// Returns the pool that the memories are taken from.
    fn memory_pool(&self) -> &MemoryPool;

    /// Makes an engine take its linear memories from this pool.
    ///
    /// This sets the memory creator, on-demand allocation, a reservation of 4 GiB that does not
    /// move, and guards of 32 MiB on both sides. It turns copy-on-write images off: wasmtime maps
    /// them only into memory that it mapped itself, and over committed pages they would undo the
    /// commit. Call it after other settings that concern memory; [`verify`](WasmtimePool::verify)
    /// refuses an engine on which one of them was changed back.
    ///
    /// The heap of the wasm GC proposal comes from the same creator. Under
    /// [`Policy::Declared`](crate::Policy::Declared) it is refused, because it grows; under
    /// [`Policy::CommitMaximum`](crate::Policy::CommitMaximum) it takes a slot of 65,536 pages.
    fn configure(&self, config: &mut Config) -> &Self {
        config
            .with_host_memory(Arc::new(Creator(self.memory_pool().clone())))
            .allocation_strategy(InstanceAllocationStrategy::OnDemand)
            .memory_reservation(RESERVATION_BYTES as u64)
            .memory_may_move(false)
            .memory_guard_size(GUARD_BYTES as u64)
            .guard_before_linear_memory(true)
            .memory_init_cow(false);
        self
    }

    /// Checks, without instantiating, that the engine is still configured as
    /// [`configure`](WasmtimePool::configure) left it, and that the module imports no memory. The
    /// limits that the module declares are verified when each memory is created, before any of it
    /// runs.
    ///
    /// # Errors
    /// [`Error::Engine`], [`Error::ImportedMemory`].
    fn verify(&self, module: &Module) -> Result<(), Error> {
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
    /// [`verify`](WasmtimePool::verify) once, instantiates with wasmtime's own functions, and
    /// converts the engine's error to an [`InstantiateError`]:
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
    /// [`InstantiateError::Memory`] if the module is not verified, no memory is free, or the pool
    /// is not secured yet; then nothing of the module has run. [`InstantiateError::Engine`] for
    /// everything else.
    fn instantiate<T: 'static>(
        &self,
        linker: &Linker<T>,
        store: impl AsContextMut<Data = T>,
        module: &Module,
    ) -> Result<Instance, InstantiateError> {
        self.verify(module)?;
        Ok(linker.instantiate(store, module)?)
    }
}

impl WasmtimePool for MemoryPool {
    fn memory_pool(&self) -> &MemoryPool {
        self
    }
}

impl WasmtimePool for PreparedPool {
    fn memory_pool(&self) -> &MemoryPool {
        &self.pool
    }
}

/// Checks that an engine instantiates only in memory that this crate lends.
fn verify_engine(engine: &Engine) -> Result<(), Error> {
    /// The engine verified most recently: a host has one, and verifies for each block.
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
    // wasmtime has no other way to read a setting back. A test checks that this works.
    let settings = format!("{:?}", engine.config());
    let refused = |setting, what| match settings.contains(setting) {
        true => Err(Error::Engine { what }),
        false => Ok(()),
    };
    let images = "maps copy-on-write images (memory_init_cow)";
    refused("memory_init_cow: true", images)?;
    refused(
        "memory_may_move: true",
        "may move memories (memory_may_move)",
    )?;
    *verified = Some(engine.weak());
    Ok(())
}

/// Sets everything under which the same module computes the same on every machine: one bit pattern
/// for NaN, and one result for relaxed SIMD.
pub fn deterministic(config: &mut Config) {
    config
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true);
}

/// The error of a module that was not instantiated.
#[derive(Debug, thiserror::Error)]
pub enum InstantiateError {
    /// The module was not verified, or no memory is free.
    #[error(transparent)]
    Memory(#[from] Error),
    /// The engine refused, or the module's start function trapped.
    #[error("{0:#}")]
    Engine(wasmtime::Error),
}

impl From<wasmtime::Error> for InstantiateError {
    /// Finds the pool's own error behind the engine's, on the thread that instantiated.
    fn from(error: wasmtime::Error) -> InstantiateError {
        match take_refusal(&error) {
            Some(refusal) => InstantiateError::Memory(refusal),
            None => InstantiateError::Engine(error),
        }
    }
}
