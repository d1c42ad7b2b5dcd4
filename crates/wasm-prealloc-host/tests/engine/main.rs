//! The memory creator in wasmtime, one file for each subject.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![cfg(feature = "wasmtime")]

mod agreement;
#[cfg(feature = "async")]
mod asynchronous;
mod capped;
#[cfg(feature = "component-model")]
mod components;
mod configured;
mod engine_heap;
mod identity;
mod lent;
mod reserved;
mod sized;
#[path = "../support/mod.rs"]
mod support;
mod tables;
mod verified;
mod versions;

use std::sync::MutexGuard;

use support::one_at_a_time;
use wasm_prealloc_host::{
    Error, InstantiateError, MemoryPool, Policy, WasmtimePool, deterministic,
};
use wasmtime::{Config, Engine, Instance, Linker, Module, Store, Trap};

/// Makes an engine that takes its memories from a pool, with some settings before the pool's.
fn engine(pool: &impl WasmtimePool, settings: impl FnOnce(&mut Config)) -> Engine {
    let mut config = Config::new();
    settings(&mut config);
    pool.engine(&mut config).unwrap()
}

fn module(engine: &Engine, text: &str) -> Module {
    Module::new(engine, wat::parse_str(text).unwrap()).unwrap()
}

struct Host {
    pool: MemoryPool,
    engine: Engine,
    store: Store<()>,
    _turn: MutexGuard<'static, ()>,
}

impl Host {
    fn new(pages: u64, policy: Policy) -> Host {
        let turn = one_at_a_time();
        let slots = if pages == 65_536 { 1 } else { 2 };
        let builder = MemoryPool::builder().slots(slots).pages(pages);
        let pool = builder.policy(policy).secure().unwrap();
        let engine = engine(&pool, |config| {
            config.wasm_multi_memory(true).wasm_memory64(true);
            config.wasm_custom_page_sizes(true);
            deterministic(config);
        });
        Host {
            pool,
            store: Store::new(&engine, ()),
            engine,
            _turn: turn,
        }
    }

    fn of_pages(pages: u64) -> Host {
        Host::new(pages, Policy::Declared)
    }

    fn module(&self, text: &str) -> Module {
        module(&self.engine, text)
    }

    fn instantiate(&mut self, text: &str) -> Result<Instance, InstantiateError> {
        let module = self.module(text);
        let linker = Linker::new(&self.engine);
        self.pool.instantiate(&linker, &mut self.store, &module)
    }

    fn call<R: wasmtime::WasmResults>(
        &mut self,
        instance: Instance,
        name: &str,
        argument: i32,
    ) -> R {
        let function = instance.get_typed_func::<i32, R>(&mut self.store, name);
        function.unwrap().call(&mut self.store, argument).unwrap()
    }

    /// Calls a function that must trap.
    #[track_caller]
    fn trap(&mut self, instance: Instance, name: &str, argument: i32) -> Option<Trap> {
        let function = instance.get_typed_func::<i32, i32>(&mut self.store, name);
        let error = function.unwrap().call(&mut self.store, argument);
        error.unwrap_err().downcast_ref::<Trap>().copied()
    }

    /// Drops every instance.
    fn end_block(&mut self) {
        self.store = Store::new(&self.engine, ());
    }

    #[track_caller]
    fn refusal(&mut self, text: &str) -> Error {
        match self.instantiate(text) {
            Err(InstantiateError::Memory(error)) => error,
            Err(other) => panic!("an error of the engine: {other}"),
            Ok(_) => panic!("instantiated"),
        }
    }
}
