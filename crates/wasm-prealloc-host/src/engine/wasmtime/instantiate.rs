//! Configures wasmtime to take its memories from a pool, and instantiates verified modules.

use std::sync::Arc;

use wasmtime::{
    AsContextMut, Config, Engine, Instance, InstanceAllocationStrategy, Linker, Module,
};

use crate::engine::wasmtime::creator::{Creator, ENGINE_HEAP_GUARD_BYTES};
use crate::engine::wasmtime::known::Findings;
use crate::engine::wasmtime::limiter::{self, StoreLimiter};
use crate::engine::wasmtime::refusals;
use crate::engine::wasmtime::scope::InstanceMemories;
use crate::engine::wasmtime::verify::verify;
use crate::error::{Error, LendError, VerifyError};
use crate::pool::builder::PreparedPool;
use crate::pool::memory_pool::MemoryPool;
use crate::pool::slot::{GUARD_BYTES, RESERVATION_BYTES};

/// A pool that wasmtime takes its linear memories from.
pub trait WasmtimePool {
    /// Returns the pool that the memories are taken from.
    fn memory_pool(&self) -> &MemoryPool;

    /// Configures an engine to take its memories from this pool, makes it, and records it, so that
    /// [`verify`](WasmtimePool::verify) knows it for certain.
    ///
    /// The engine does not keep the pool's memory. Without a pool it instantiates no module that
    /// has a memory.
    ///
    /// # Errors
    /// Those of [`Engine::new`].
    fn engine(&self, config: &mut Config) -> wasmtime::Result<Engine> {
        self.configure(config);
        let engine = Engine::new(config)?;
        self.memory_pool().engine_side().known.add_engine(&engine);
        Ok(engine)
    }

    /// Makes an engine take its memories from this pool. [`engine`](WasmtimePool::engine) does this
    /// too; it is for an engine that is made elsewhere.
    ///
    /// This sets the memory creator, on-demand allocation, a reservation of 4 GiB that does not
    /// move, and guards of 32 MiB on both sides. It turns copy-on-write images off: wasmtime maps
    /// them only into memory that it mapped itself, and over committed pages they would undo the
    /// commit. Call it after other settings that concern memory; [`verify`](WasmtimePool::verify)
    /// refuses an engine on which one of them was changed back.
    ///
    /// The engine's own heap, for exceptions, `externref` and GC types, comes from the same
    /// creator, with guards of 16 MiB. The pool has memory for it if
    /// [`MemoryPoolBuilder::engine_heap_bytes`](crate::MemoryPoolBuilder::engine_heap_bytes) says
    /// so. wasmtime doubles the heap each time that it grows. Growth beyond the pool's bound fails
    /// the same way on every host: the module traps.
    fn configure(&self, config: &mut Config) -> &Self {
        let reservation_bytes = RESERVATION_BYTES as u64;
        config
            .with_host_memory(Arc::new(Creator::new(self.memory_pool())))
            .allocation_strategy(InstanceAllocationStrategy::OnDemand)
            .memory_reservation(reservation_bytes)
            .memory_may_move(false)
            .memory_guard_size(GUARD_BYTES as u64)
            .guard_before_linear_memory(true)
            .memory_init_cow(false)
            .gc_heap_reservation(reservation_bytes)
            .gc_heap_may_move(false)
            .gc_heap_guard_size(ENGINE_HEAP_GUARD_BYTES as u64)
            .gc_heap_initial_size(0);
        self
    }

    /// Checks, without running any of it, that the module can be instantiated in memory of this
    /// pool alone, in any store of its engine:
    ///
    /// - The engine takes its memories from this pool. An engine that
    ///   [`engine`](WasmtimePool::engine) made is known. Any other is probed once: a host object is
    ///   made in the engine's own heap, which has to be requested from this pool. An engine without
    ///   that heap is probed with the module.
    /// - No setting of the engine undoes the commit.
    /// - The module imports no memory, and the limits of each memory suit the pool's policy.
    /// - The pool has a slot for each memory, and a heap if the module needs the engine's own heap.
    /// - The tables cannot grow beyond the memory that is counted for them, in elements of all
    ///   tables of the module together
    ///   ([`MemoryPoolBuilder::table_elements`](crate::MemoryPoolBuilder::table_elements)).
    ///
    /// A module is probed only once. The pool keeps the 32 modules that it verified most recently.
    /// Verifying one of them again takes less than 100 ns.
    ///
    /// # Errors
    /// [`VerifyError::Engine`] and [`VerifyError::EngineUnproven`] for the engine,
    /// [`VerifyError::ImportedMemory`], [`VerifyError::Policy`], [`VerifyError::UnsupportedMemory`]
    /// and [`VerifyError::TooManyMemories`] for the memories, [`VerifyError::NoEngineHeap`],
    /// [`VerifyError::TablesTooLarge`] and [`VerifyError::UnboundedTables`] for the rest.
    fn verify(&self, module: &Module) -> Result<(), VerifyError> {
        let pool = self.memory_pool();
        let findings = verify(pool, module)?;
        match unbounded(pool, &findings) {
            Some(refusal) => Err(refusal),
            None => Ok(()),
        }
    }

    /// Checks as [`verify`](WasmtimePool::verify) does, for a module that is instantiated only in
    /// stores that have the [`limiter`](WasmtimePool::limiter) of this pool. Its tables can then
    /// have any maximum.
    ///
    /// # Errors
    /// As for [`verify`](WasmtimePool::verify), without [`VerifyError::UnboundedTables`].
    fn verify_limited(&self, module: &Module) -> Result<(), VerifyError> {
        verify(self.memory_pool(), module).map(drop)
    }

    /// Returns true if the module needs the engine's own heap, for exceptions, `externref` or GC
    /// types. Also returns true if that cannot be found out: for a module without tables of its own
    /// and without memories.
    ///
    /// # Errors
    /// As for [`verify_limited`](WasmtimePool::verify_limited).
    fn needs_engine_heap(&self, module: &Module) -> Result<bool, VerifyError> {
        let findings = verify(self.memory_pool(), module)?;
        Ok(findings.engine_heap != Some(false))
    }

    /// Returns a limiter for one store, which bounds its tables to the memory that is counted for
    /// them. Without it a module can be instantiated only if its tables declare small maximums.
    ///
    /// ```
    /// use wasm_prealloc_host::{MemoryPool, StoreLimiter, WasmtimePool};
    /// use wasmtime::{Config, Store};
    ///
    /// struct State {
    ///     limiter: StoreLimiter,
    /// }
    ///
    /// let pool = MemoryPool::builder().pages(16).secure()?;
    /// let engine = pool.engine(&mut Config::new())?;
    /// let limiter = pool.limiter();
    /// let mut store = Store::new(&engine, State { limiter });
    /// store.limiter(|state| &mut state.limiter);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn limiter(&self) -> StoreLimiter {
        StoreLimiter::new(self.memory_pool())
    }

    /// Verifies the module, and takes a slot for each of its memories at once.
    ///
    /// For an embedder with an [`InstancePre`](wasmtime::InstancePre) or an asynchronous store,
    /// which instantiates with wasmtime's own functions. Without a reservation, wasmtime takes the
    /// slots one after the other, and two instances of a module with several memories can wait for
    /// each other. The engine's error is converted to an [`InstantiateError`], on any thread:
    ///
    /// ```no_run
    /// # use wasmtime::{InstancePre, Store};
    /// # use wasm_prealloc_host::{InstantiateError, MemoryPool, WasmtimePool};
    /// # fn example(pool: MemoryPool, pre: InstancePre<()>, mut store: Store<()>)
    /// # -> Result<(), InstantiateError> {
    /// let memories = pool.reserve_for(pre.module())?;
    /// let instance = memories.with(|| pre.instantiate(&mut store))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// For an asynchronous store, see [`InstanceMemories::during`].
    ///
    /// # Errors
    /// As for [`verify`](WasmtimePool::verify) and [`MemoryPool::reserve`].
    fn reserve_for(&self, module: &Module) -> Result<InstanceMemories, Error> {
        self.verify(module)?;
        let memories = module.resources_required().num_memories as usize;
        Ok(InstanceMemories::reserve(self.memory_pool(), memories)?)
    }

    /// Verifies the module, takes all of its memories at once, and instantiates it in them. A
    /// module without a memory is instantiated as usual.
    ///
    /// If the tables of the module can grow beyond the memory that is counted for them, the store
    /// must have the [`limiter`](WasmtimePool::limiter) of this pool, which is checked first.
    ///
    /// # Errors
    /// [`InstantiateError::Memory`] if the module is not verified, no memory is free, or the pool
    /// is not secured yet; then nothing of the module has run. [`InstantiateError::Engine`] for
    /// everything else.
    fn instantiate<T: 'static>(
        &self,
        linker: &Linker<T>,
        mut store: impl AsContextMut<Data = T>,
        module: &Module,
    ) -> Result<Instance, InstantiateError> {
        let pool = self.memory_pool();
        let findings = verify(pool, module)?;
        if let Some(refusal) = unbounded(pool, &findings)
            && !limiter::bounds(&mut store, pool)
        {
            return Err(refusal.into());
        }
        let memories = InstanceMemories::reserve(pool, findings.memories)?;
        Ok(memories.with(|| linker.instantiate(store, module))?)
    }
}

/// Returns the refusal of tables that need a limiter.
fn unbounded(pool: &MemoryPool, findings: &Findings) -> Option<VerifyError> {
    let (maximum, bound) = (findings.table_maximum, pool.engine_side().table_elements);
    (maximum > bound).then(|| VerifyError::UnboundedTables {
        maximum: (maximum < u64::from(u32::MAX)).then_some(maximum),
        bound,
    })
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

/// Sets everything under which the same module computes the same on every machine: one bit pattern
/// for NaN, and one result for relaxed SIMD.
#[cfg(feature = "wasmtime")]
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

impl From<VerifyError> for InstantiateError {
    fn from(error: VerifyError) -> InstantiateError {
        InstantiateError::Memory(error.into())
    }
}

impl From<LendError> for InstantiateError {
    fn from(error: LendError) -> InstantiateError {
        InstantiateError::Memory(error.into())
    }
}

impl From<wasmtime::Error> for InstantiateError {
    /// Finds the pool's own error behind the engine's, on any thread. A pool keeps its last 64
    /// refusals for that.
    fn from(error: wasmtime::Error) -> InstantiateError {
        match refusals::take(&error) {
            Some(refusal) => InstantiateError::Memory(refusal),
            None => InstantiateError::Engine(error),
        }
    }
}
