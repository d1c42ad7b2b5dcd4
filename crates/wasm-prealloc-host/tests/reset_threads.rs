//! With resets in the background, nothing of a reset runs on the threads of an executor.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![cfg(feature = "async")]

use std::collections::HashSet;
use std::sync::Mutex;
use std::thread::{self, ThreadId};

use tracing::span;
use wasm_prealloc_host::{LockOptions, MemoryPool, Reset, WasmtimePool};
use wasmtime::{Config, Linker, Module, Store};

/// The threads of the events that the pool emitted.
static RESETTERS: Mutex<Vec<ThreadId>> = Mutex::new(Vec::new());

struct Threads;

impl tracing::Subscriber for Threads {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata
            .target()
            .starts_with("wasm_prealloc_host::pool::slots")
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        RESETTERS.lock().unwrap().push(thread::current().id());
    }
}

#[test]
fn stores_that_tasks_drop_are_reset_on_the_threads_that_the_pool_names() {
    const TASKS: usize = 32;
    tracing::subscriber::set_global_default(Threads).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = { runtime }.worker_threads(3).build().unwrap();
    for reset in [Reset::Background, Reset::Inline] {
        let mut lock = LockOptions::default();
        lock.path = std::env::temp_dir();
        let builder = MemoryPool::builder().slots(3).pages(16).lock(lock);
        let builder = builder.engine_heap_bytes(1 << 16);
        let pool = builder.reset(reset).secure().unwrap();
        let engine = pool.engine(&mut Config::new()).unwrap();
        let text = r#"(module
            (memory 16 16)
            (table 1 1 externref)
            (data (i32.const 9) "written"))"#;
        let module = Module::new(&engine, wat::parse_str(text).unwrap()).unwrap();
        let tasks: Vec<_> = (0..TASKS)
            .map(|_| {
                let (pool, module) = (pool.clone(), module.clone());
                runtime.spawn(async move {
                    let mut store = Store::new(module.engine(), ());
                    let linker = Linker::new(module.engine());
                    let instance = pool.instantiate_async(&linker, &mut store, &module);
                    instance.await.unwrap();
                    drop(store);
                    thread::current().id()
                })
            })
            .collect();
        let executors: HashSet<_> = tasks
            .into_iter()
            .map(|task| runtime.block_on(task).unwrap())
            .collect();
        assert_eq!(pool.statistics().background, reset == Reset::Background);
        // Every slot is reset, and the pool waits for its threads.
        drop(pool.reserve(3).unwrap());
        drop((pool, engine));
        let resetters = std::mem::take(&mut *RESETTERS.lock().unwrap());
        // An instance has a memory, and its store has a heap of the engine.
        assert!(resetters.len() > TASKS, "{}", resetters.len());
        let resetters: HashSet<_> = resetters.into_iter().collect();
        match reset {
            Reset::Background => {
                assert_eq!(resetters.len(), 2);
                assert!(resetters.is_disjoint(&executors));
            }
            _ => assert_eq!(resetters, executors),
        }
    }
}
