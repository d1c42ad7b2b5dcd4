//! Pools that are not secured yet, and engines whose configuration would undo the commit.

use std::panic::{AssertUnwindSafe, catch_unwind};

use wasm_prealloc_host::{
    Error, InstantiateError, LendError, MemoryPool, VerifyError, WasmtimePool,
};
use wasmtime::{
    Config, Engine, Instance, InstanceAllocationStrategy, Linker, PoolingAllocationConfig, Store,
    WasmFeatures,
};

use crate::versions::lacks;
use crate::{engine, module};

#[test]
fn nothing_is_instantiated_before_the_pool_is_secured() {
    let prepared = MemoryPool::builder().pages(16).prepare();
    let engine = engine(&prepared, |_| {});
    let module = module(&engine, "(module (memory 16 16))");
    prepared.verify(&module).unwrap();
    let mut store = Store::new(&engine, ());
    let error = Instance::new(&mut store, &module, &[]).unwrap_err();
    match InstantiateError::from(error) {
        InstantiateError::Memory(Error::Lend(LendError::NotSecuredYet)) => {}
        other => panic!("{other}"),
    }
    let pool = prepared.secure().unwrap();
    let linker = Linker::new(&engine);
    pool.instantiate(&linker, &mut store, &module).unwrap();
}

const WITH_DATA: &str = r#"(module (table 1 1 funcref) (memory 16 16) (data (i32.const 0) "x"))"#;

type Change = fn(&mut Config) -> &mut Config;

/// Changes an engine's configuration after [`WasmtimePool::configure`], and returns the refusal.
#[track_caller]
fn refused_engine(change: Change) -> Error {
    let pool = MemoryPool::builder().pages(16).secure().unwrap();
    let mut config = Config::new();
    pool.configure(&mut config);
    // wasmtime's pool has one kind of memory, so it refuses other settings for its own heap.
    config.wasm_features(WasmFeatures::GC_TYPES, false);
    change(&mut config);
    let engine = Engine::new(&config).unwrap();
    let module = module(&engine, WITH_DATA);
    let mut store = Store::new(&engine, ());
    match pool.instantiate(&Linker::new(&engine), &mut store, &module) {
        Err(InstantiateError::Memory(error @ Error::Verify(VerifyError::Engine { .. }))) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn engines_that_would_undo_the_commit_are_refused() {
    if lacks(47) {
        return;
    }
    let changes: [(Change, &str); 5] = [
        (|config| config.memory_init_cow(true), "memory_init_cow"),
        (|config| config.memory_may_move(true), "memory_may_move"),
        (
            |config| {
                let own = PoolingAllocationConfig::default();
                config.allocation_strategy(InstanceAllocationStrategy::Pooling(own))
            },
            "InstanceAllocationStrategy::Pooling",
        ),
        (
            |config| config.memory_reservation(64 << 10),
            "memory_reservation",
        ),
        (
            |config| config.memory_guard_size(1 << 30),
            "memory_guard_size",
        ),
    ];
    for (change, named) in changes {
        let text = refused_engine(change).to_string();
        assert!(text.contains(named), "{named}: {text}");
        assert!(text.contains("WasmtimePool::configure"), "{text}");
    }
}

/// [`WasmtimePool::configure`] turns copy-on-write images off because wasmtime makes an image of
/// the data segments, and panics if it cannot map it into memory that is not its own.
#[test]
fn copy_on_write_images_make_the_engine_panic() {
    let pool = MemoryPool::builder().pages(16).secure().unwrap();
    let mut config = Config::new();
    pool.configure(&mut config);
    config.memory_init_cow(true);
    let engine = Engine::new(&config).unwrap();
    let instantiate = |text: &str| {
        let module = module(&engine, text);
        let mut store = Store::new(&engine, ());
        // wasmtime's own function does not verify the engine.
        catch_unwind(AssertUnwindSafe(|| {
            Instance::new(&mut store, &module, &[]).is_ok()
        }))
    };
    let without_data = instantiate("(module (memory 16 16))");
    assert!(without_data.unwrap());
    let panic = instantiate(WITH_DATA).unwrap_err();
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref().copied()).unwrap();
    assert!(text.contains("only for mmap-based memories"), "{text}");
}
