//! Configures wasmtime to take its memories from a pool, and instantiates verified modules.

use std::sync::Arc;

#[cfg(feature = "component-model")]
use wasmtime::component::{self, Component};
use wasmtime::{
    AsContextMut, Config, Engine, Instance, InstanceAllocationStrategy, InstancePre, Linker, Module,
};

#[cfg(feature = "async")]
use crate::engine::wasmtime::asynchronous;
use crate::engine::wasmtime::creator::Creator;
use crate::engine::wasmtime::error::InstantiateError;
use crate::engine::wasmtime::limiter::StoreLimiter;
use crate::engine::wasmtime::needs::Needs;
use crate::engine::wasmtime::scope::InstanceMemories;
use crate::engine::wasmtime::verify::verify;
use crate::engine::wasmtime::versions;
use crate::error::{Error, VerifyError};
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
    /// commit. It turns stack switching off, whose stacks nothing bounds. Call it after other settings
    /// that concern memory; [`verify`](WasmtimePool::verify) refuses an engine on which one of them was
    /// changed back. Before wasmtime 47 an engine does not report its settings, so `verify` refuses
    /// every engine that [`engine`](WasmtimePool::engine) did not make.
    ///
    /// The engine's own heap, for exceptions, `externref` and GC types, comes from the same
    /// creator, with guards of 16 MiB. The pool has memory for it if
    /// [`MemoryPoolBuilder::engine_heap_bytes`](crate::MemoryPoolBuilder::engine_heap_bytes) says
    /// so. wasmtime doubles the heap each time that it grows. Growth beyond the pool's bound fails
    /// the same way on every host: the module traps. Before wasmtime 45 that heap cannot be told from
    /// a memory without a minimum and a maximum, and both are refused.
    fn configure(&self, config: &mut Config) -> &Self {
        let reservation_bytes = RESERVATION_BYTES as u64;
        let heap_is_distinct = versions::set_heap(config).is_some();
        let creator = Creator::new(self.memory_pool(), heap_is_distinct);
        config
            .with_host_memory(Arc::new(creator))
            .allocation_strategy(InstanceAllocationStrategy::OnDemand)
            .memory_reservation(reservation_bytes)
            .memory_may_move(false)
            .memory_guard_size(GUARD_BYTES as u64)
            .guard_before_linear_memory(true)
            .memory_init_cow(false)
            .wasm_stack_switching(false);
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
    /// A module that wasmtime could not instantiate in a store of its own, because it imports a
    /// reference that cannot be null, is not probed. What it does not export is then checked when
    /// it is instantiated: the maximum and the kind of its memories, and its need of the engine's
    /// own heap. The largest minimum is checked here in any case.
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
        match Needs::of_module(self.memory_pool(), module)?.unlimited {
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
    /// For an asynchronous store, see [`InstanceMemories::during`]. An embedder that needs nothing
    /// else in between calls [`instantiate_pre`](WasmtimePool::instantiate_pre) or
    /// `instantiate_async`.
    ///
    /// # Errors
    /// As for [`verify`](WasmtimePool::verify) and [`MemoryPool::reserve`].
    fn reserve_for(&self, module: &Module) -> Result<InstanceMemories, Error> {
        let pool = self.memory_pool();
        Needs::of_module(pool, module)?.reserve(pool)
    }

    /// Takes the slots as [`reserve_for`](WasmtimePool::reserve_for) does. Waiting for them suspends
    /// the task; see [`MemoryPool::lend_async`].
    ///
    /// # Errors
    /// As for [`verify`](WasmtimePool::verify) and [`MemoryPool::reserve_async`].
    #[cfg(feature = "async")]
    fn reserve_for_async(
        &self,
        module: &Module,
    ) -> impl Future<Output = Result<InstanceMemories, Error>> + Send {
        asynchronous::reserve_for(self.memory_pool(), module)
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
        let memories = Needs::of_module(pool, module)?.reserve_in(pool, &mut store)?;
        Ok(memories.with(|| linker.instantiate(store, module))?)
    }

    /// Instantiates a module whose imports are resolved already, as
    /// [`instantiate`](WasmtimePool::instantiate) does.
    ///
    /// # Errors
    /// As for [`instantiate`](WasmtimePool::instantiate).
    fn instantiate_pre<T: 'static>(
        &self,
        pre: &InstancePre<T>,
        mut store: impl AsContextMut<Data = T>,
    ) -> Result<Instance, InstantiateError> {
        let pool = self.memory_pool();
        let memories = Needs::of_module(pool, pre.module())?.reserve_in(pool, &mut store)?;
        Ok(memories.with(|| pre.instantiate(store))?)
    }

    /// Instantiates a module as [`instantiate`](WasmtimePool::instantiate) does, in an asynchronous
    /// store. Waiting for slots suspends the task; see [`MemoryPool::lend_async`]. The future can
    /// move between threads.
    ///
    /// An asynchronous host takes a pool with [`Reset::Background`](crate::Reset::Background) and
    /// one slot more than tasks that run at the same time: dropping a store then zeroes nothing on
    /// the executor's thread, and the next task does not wait for it. With
    /// [`Reset::Inline`](crate::Reset::Inline) the executor's thread zeroes what the instance wrote,
    /// which takes about 25 ms for each GiB.
    ///
    /// The first verification of a module runs in a poll. A module that needs the engine's own heap
    /// takes one without suspending. There is one for each slot, so it is free unless stores without
    /// memories have them all; then the pool blocks or refuses, as
    /// [`WhenExhausted`](crate::WhenExhausted) says.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use wasm_prealloc_host::{MemoryPool, Reset, WasmtimePool};
    /// use wasmtime::{Config, Linker, Module, Store};
    ///
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// let pool = MemoryPool::builder().slots(2).pages(16).reset(Reset::Background).secure()?;
    /// let engine = pool.engine(&mut Config::new())?;
    /// # let file = wat::parse_str(r#"(module (memory (export "memory") 16 16))"#)?;
    /// let module = Module::new(&engine, file)?;
    /// let mut linker = Linker::new(&engine);
    /// linker.func_wrap_async("env", "pause", |_, (): ()| Box::new(async {}))?;
    /// let mut store = Store::new(&engine, ());
    /// let instance = pool.instantiate_async(&linker, &mut store, &module).await?;
    /// # assert!(instance.get_memory(&mut store, "memory").is_some());
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`instantiate`](WasmtimePool::instantiate).
    #[cfg(feature = "async")]
    fn instantiate_async<T: Send + 'static>(
        &self,
        linker: &Linker<T>,
        store: impl AsContextMut<Data = T> + Send,
        module: &Module,
    ) -> impl Future<Output = Result<Instance, InstantiateError>> + Send {
        asynchronous::instantiate(self.memory_pool(), linker, store, module)
    }

    /// Instantiates a module whose imports are resolved already, as
    /// [`instantiate_async`](WasmtimePool::instantiate_async) does.
    ///
    /// # Errors
    /// As for [`instantiate`](WasmtimePool::instantiate).
    #[cfg(feature = "async")]
    fn instantiate_pre_async<T: Send + 'static>(
        &self,
        pre: &InstancePre<T>,
        store: impl AsContextMut<Data = T> + Send,
    ) -> impl Future<Output = Result<Instance, InstantiateError>> + Send {
        asynchronous::instantiate_pre(self.memory_pool(), pre, store)
    }

    /// Checks, without running any of it, as much of a component as wasmtime shows:
    ///
    /// - The engine takes its memories from this pool, and no setting of it undoes the commit, as
    ///   for [`verify`](WasmtimePool::verify).
    /// - The pool has a slot for each memory of the component's core modules.
    /// - The memory that starts with the most pages suits the pool's policy, as far as its minimum
    ///   says, and the table that starts with the most elements fits the memory that is counted for
    ///   tables.
    ///
    /// wasmtime does not show the other limits. Each memory is checked again when its core module
    /// is instantiated, and refused with the same errors as a module's memory:
    /// [`instantiate_component`](WasmtimePool::instantiate_component) then returns
    /// [`InstantiateError::Memory`]. No export was called then, but start functions of core modules
    /// before that one have run. To know before, run `wasm-prealloc verify` on the component's file.
    ///
    /// A component that has tables needs the pool's [`limiter`](WasmtimePool::limiter) in its store,
    /// and one that needs the engine's own heap needs
    /// [`MemoryPoolBuilder::engine_heap_bytes`](crate::MemoryPoolBuilder::engine_heap_bytes); the
    /// instantiation checks both.
    ///
    /// The handles of resources, and the strings and lists that are passed to host functions, are in
    /// memory of wasmtime's own, which is not secured. By default wasmtime bounds it to 128 MiB for
    /// each call of the host (`Store::set_hostcall_fuel`) and, from wasmtime 48 on, 100,000 handles
    /// (`Store::set_max_component_handles`). A host adds this to
    /// [`MemoryPoolBuilder::margin_bytes`](crate::MemoryPoolBuilder::margin_bytes).
    ///
    /// # Errors
    /// [`VerifyError::Engine`] and [`VerifyError::EngineUnproven`] for the engine,
    /// [`VerifyError::ImportedModules`], [`VerifyError::TooManyMemories`],
    /// [`VerifyError::ComponentNotPinned`] and [`VerifyError::Policy`] for the memories,
    /// [`VerifyError::TablesTooLarge`] for the tables.
    #[cfg(feature = "component-model")]
    fn verify_component(&self, component: &Component) -> Result<(), VerifyError> {
        Needs::of_component(self.memory_pool(), component).map(drop)
    }

    /// Verifies the component, takes all of its memories at once, and instantiates it in them.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use wasm_prealloc_host::{MemoryPool, WasmtimePool};
    /// use wasmtime::component::{Component, Linker};
    /// use wasmtime::{Config, Store};
    ///
    /// let pool = MemoryPool::builder().pages(16).secure()?;
    /// let engine = pool.engine(&mut Config::new())?;
    /// # let file = wat::parse_str(r#"(component
    /// #     (core module $module
    /// #         (memory 16 16)
    /// #         (func (export "pages") (result i32) memory.size))
    /// #     (core instance $instance (instantiate $module))
    /// #     (func (export "pages") (result u32)
    /// #         (canon lift (core func $instance "pages"))))"#)?;
    /// let component = Component::new(&engine, file)?;
    /// pool.verify_component(&component)?;
    /// let mut store = Store::new(&engine, pool.limiter());
    /// store.limiter(|limiter| limiter);
    /// let linker = Linker::new(&engine);
    /// let instance = pool.instantiate_component(&linker, &mut store, &component)?;
    /// let pages = instance.get_typed_func::<(), (u32,)>(&mut store, "pages")?;
    /// assert_eq!(pages.call(&mut store, ())?, (16,));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`InstantiateError::Memory`] if the component is not verified
    /// ([`verify_component`](WasmtimePool::verify_component)), the store does not bound its tables
    /// ([`VerifyError::ComponentTables`]) or no memory is free; then nothing of the component has run.
    /// Also, after the start functions of some core modules, if a further memory or the engine's
    /// heap is refused. [`InstantiateError::Engine`] for everything else.
    #[cfg(feature = "component-model")]
    fn instantiate_component<T: 'static>(
        &self,
        linker: &component::Linker<T>,
        mut store: impl AsContextMut<Data = T>,
        component: &Component,
    ) -> Result<component::Instance, InstantiateError> {
        let pool = self.memory_pool();
        let memories = Needs::of_component(pool, component)?.reserve_in(pool, &mut store)?;
        Ok(memories.with(|| linker.instantiate(store, component))?)
    }

    /// Instantiates a component whose imports are resolved already, as
    /// [`instantiate_component`](WasmtimePool::instantiate_component) does.
    ///
    /// # Errors
    /// As for [`instantiate_component`](WasmtimePool::instantiate_component).
    #[cfg(feature = "component-model")]
    fn instantiate_component_pre<T: 'static>(
        &self,
        pre: &component::InstancePre<T>,
        mut store: impl AsContextMut<Data = T>,
    ) -> Result<component::Instance, InstantiateError> {
        let pool = self.memory_pool();
        let needs = Needs::of_component(pool, pre.component())?;
        let memories = needs.reserve_in(pool, &mut store)?;
        Ok(memories.with(|| pre.instantiate(store))?)
    }

    /// Instantiates a component as
    /// [`instantiate_component`](WasmtimePool::instantiate_component) does, in an asynchronous
    /// store; see [`instantiate_async`](WasmtimePool::instantiate_async).
    ///
    /// # Errors
    /// As for [`instantiate_component`](WasmtimePool::instantiate_component).
    #[cfg(all(feature = "async", feature = "component-model"))]
    fn instantiate_component_async<T: Send + 'static>(
        &self,
        linker: &component::Linker<T>,
        store: impl AsContextMut<Data = T> + Send,
        component: &Component,
    ) -> impl Future<Output = Result<component::Instance, InstantiateError>> + Send {
        asynchronous::component::instantiate(self.memory_pool(), linker, store, component)
    }

    /// Instantiates a component whose imports are resolved already, as
    /// [`instantiate_component_async`](WasmtimePool::instantiate_component_async) does.
    ///
    /// # Errors
    /// As for [`instantiate_component`](WasmtimePool::instantiate_component).
    #[cfg(all(feature = "async", feature = "component-model"))]
    fn instantiate_component_pre_async<T: Send + 'static>(
        &self,
        pre: &component::InstancePre<T>,
        store: impl AsContextMut<Data = T> + Send,
    ) -> impl Future<Output = Result<component::Instance, InstantiateError>> + Send {
        asynchronous::component::instantiate_pre(self.memory_pool(), pre, store)
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

/// Sets everything under which the same module computes the same on every machine: one bit pattern
/// for NaN, and one result for relaxed SIMD.
#[cfg(feature = "wasmtime")]
pub fn deterministic(config: &mut Config) {
    config
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true);
}
