//! A compiled guest, whose instances take their memory from a pool: one for blocks, one for views.
//!
//! An engine takes all of its memories from one pool, so each pool has an engine, and the module is
//! compiled for each.

use std::fmt;
use std::path::Path;

use anyhow::{Context, anyhow, ensure};
use wasm_prealloc_host::{InstantiateError, MemoryPool, PreparedPool, WasmtimePool};
use wasmtime::{Config, Engine, ExternType, Instance, Linker, Module, Store, Trap};

use crate::abi::{self, Guest};
use crate::buffers::buffer;
use crate::failure::Failure;
use crate::store::Flushed;

/// A guest that was compiled, and verified if its memory is to be secured.
pub(crate) struct Host {
    engine: Engine,
    linker: Linker<Guest>,
    module: Module,
    /// The pool of the engine's memories. `None` if the host is unsecured.
    pool: Option<MemoryPool>,
    /// The number of the engine's epochs after which an instance traps.
    deadline: Option<u64>,
}

impl Host {
    /// Compiles a guest and verifies it, before memory is committed for it. `None` for a pool makes
    /// a host without this crate. An instance traps after a number of epochs, if there is a deadline:
    /// views are read-only, so the time that they take can decide; blocks must not depend on it.
    pub(crate) fn prepare(
        path: &Path,
        pool: Option<&PreparedPool>,
        deadline: Option<u64>,
    ) -> Result<Host, Failure> {
        let mut config = Config::new();
        config.epoch_interruption(deadline.is_some());
        let engine = match pool {
            Some(pool) => {
                wasm_prealloc_host::deterministic(&mut config);
                pool.engine(&mut config)
            }
            None => Engine::new(&config),
        }
        .map_err(from_engine)?;
        let bytes =
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let module = Module::new(&engine, bytes)
            .map_err(from_engine)
            .with_context(|| format!("{} is not a valid module", path.display()))?;
        if let Some(pool) = pool {
            // The stores below have the pool's limiter.
            pool.verify_limited(&module)
                .with_context(|| format!("{} is not verified", path.display()))
                .map_err(Failure::Refused)?;
        }
        let linker = abi::linker(&engine, &module)
            .and_then(|linker| {
                // Reports imports that do not fit before memory is committed.
                linker.instantiate_pre(&module)?;
                Ok(linker)
            })
            .map_err(from_engine)
            .with_context(|| format!("{} does not fit this host", path.display()))?;
        Ok(Host {
            engine,
            linker,
            module,
            pool: None,
            deadline,
        })
    }

    /// Adds the pool after it was secured.
    pub(crate) fn in_pool(mut self, pool: Option<MemoryPool>) -> Host {
        self.pool = pool;
        self
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Checks that the guest exports `_start`.
    pub(crate) fn check_start(&self, path: &Path) -> anyhow::Result<()> {
        let fits = match self.module.get_export("_start") {
            Some(ExternType::Func(ty)) => ty.params().len() == 0 && ty.results().len() == 0,
            _ => false,
        };
        ensure!(
            fits,
            "{} does not export a function `_start` without parameters and results",
            path.display()
        );
        if !abi::can_flush(&self.module) {
            let path = path.display();
            eprintln!("warning: {path} does not import `__flush`: its blocks store nothing");
        }
        Ok(())
    }

    /// Returns true if the guest has a view of this name: a function without parameters that returns
    /// a pointer.
    pub(crate) fn has_view(&self, name: &str) -> bool {
        let Some(ExternType::Func(ty)) = self.module.get_export(name) else {
            return false;
        };
        ty.params().len() == 0 && ty.results().len() == 1 && ty.results().all(|ty| ty.is_i32())
    }

    /// Makes the store of an instance. The instance's memory goes back to the pool with it.
    fn store(&self, mut guest: Guest) -> Store<Guest> {
        if let Some(pool) = &self.pool {
            guest.limiter = Box::new(pool.limiter());
        }
        let mut store = Store::new(&self.engine, guest);
        store.limiter(|guest| &mut *guest.limiter);
        if let Some(deadline) = self.deadline {
            store.set_epoch_deadline(deadline);
        }
        store
    }

    /// Makes an instance for a view. Waiting for a memory suspends the task.
    pub(crate) async fn instantiate(&self, guest: Guest) -> anyhow::Result<Running> {
        let mut store = self.store(guest);
        let (linker, module) = (&self.linker, &self.module);
        let instance = match &self.pool {
            Some(pool) => pool
                .instantiate_async(linker, &mut store, module)
                .await
                .map_err(from_pool)?,
            None => linker
                .instantiate_async(&mut store, module)
                .await
                .map_err(from_engine)?,
        };
        Ok(Running { store, instance })
    }

    /// Runs a block in a new instance, and returns the values that it flushed. A guest that can flush
    /// has to: if it does not, it failed in a way that it did not report.
    pub(crate) fn run_block(&self, guest: Guest) -> anyhow::Result<Flushed> {
        let mut store = self.store(guest);
        let (linker, module) = (&self.linker, &self.module);
        let instance = match &self.pool {
            Some(pool) => pool
                .instantiate(linker, &mut store, module)
                .map_err(from_pool)?,
            None => linker
                .instantiate(&mut store, module)
                .map_err(from_engine)?,
        };
        instance
            .get_typed_func::<(), ()>(&mut store, "_start")
            .and_then(|start| start.call(&mut store, ()))
            .map_err(from_engine)?;
        match store.into_data().into_flushed() {
            Some(flushed) => Ok(flushed),
            None if !abi::can_flush(&self.module) => Ok(Flushed::new()),
            None => Err(anyhow!("`_start` returned without a call of `__flush`")),
        }
    }
}

/// An instance that answers a view.
pub(crate) struct Running {
    store: Store<Guest>,
    instance: Instance,
}

impl Running {
    /// Calls a view, and returns the buffer that it returned.
    pub(crate) fn view(&mut self, name: &str) -> anyhow::Result<Vec<u8>> {
        let (store, instance) = (&mut self.store, &self.instance);
        let pointer = instance
            .get_typed_func::<(), i32>(&mut *store, name)
            .and_then(|view| view.call(&mut *store, ()))
            .map_err(from_engine)?;
        let memory = instance.get_memory(&mut *store, "memory");
        let memory = memory.context("the guest does not export its memory as `memory`")?;
        let answer = buffer("the view's answer", memory.data(&*store), pointer);
        Ok(answer.map_err(from_engine)?.to_vec())
    }
}

/// The error of an instance that reached its deadline.
#[derive(Debug)]
pub(crate) struct TimedOut;

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it ran longer than --view-timeout allows")
    }
}

impl std::error::Error for TimedOut {}

fn from_pool(error: InstantiateError) -> anyhow::Error {
    match error {
        InstantiateError::Engine(error) => from_engine(error),
        refusal => refusal.into(),
    }
}

fn from_engine(error: wasmtime::Error) -> anyhow::Error {
    match error.downcast_ref() {
        Some(Trap::Interrupt) => TimedOut.into(),
        _ => anyhow::Error::from_boxed(error.into_boxed_dyn_error()),
    }
}
