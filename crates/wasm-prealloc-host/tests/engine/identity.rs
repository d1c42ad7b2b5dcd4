//! Engines that take their memories from elsewhere than this pool are refused.

use std::time::Duration;

use wasm_prealloc_host::{
    Error, InstantiateError, LendError, MemoryPool, VerifyError, WasmtimePool, WhenExhausted,
    deterministic, resident_bytes,
};
use wasmtime::{Config, Engine, LinearMemory, Linker, MemoryCreator, MemoryType, Store};

use crate::module;
#[allow(unused_imports, reason = "unused where wasmtime has the setters")]
use crate::versions::HeapSettings as _;
use crate::versions::lacks;

const PAGES: u64 = 16;

/// A module as compilers make it: with a table, at which a probe can stop.
const USUAL: &str = r#"(module
    (table 1 1 funcref)
    (memory (export "memory") 16 16)
    (data (i32.const 0) "x"))"#;
const WITHOUT_TABLE: &str = r#"(module (memory (export "memory") 16 16))"#;
/// If a probe started this module, the test would not end.
const STARTS: &str = r#"(module
    (table 1 1 funcref)
    (memory (export "memory") 16 16)
    (func $forever (loop $again (br $again)))
    (start $forever))"#;

fn pool() -> MemoryPool {
    MemoryPool::builder().pages(PAGES).secure().unwrap()
}

/// Verifies, then instantiates. Both must give the same answer.
#[track_caller]
fn answer(pool: &MemoryPool, engine: &Engine, text: &str) -> Result<(), Error> {
    let module = module(engine, text);
    let verified = pool.verify(&module);
    let mut store = Store::new(engine, ());
    match pool.instantiate(&Linker::new(engine), &mut store, &module) {
        Ok(instance) => {
            let memory = instance.get_memory(&mut store, "memory").unwrap();
            let bytes = memory.data(&store);
            assert_eq!(resident_bytes(bytes).unwrap(), bytes.len() as u64);
            assert_eq!(pool.statistics().lent, 1);
            assert!(verified.is_ok());
            Ok(())
        }
        Err(InstantiateError::Memory(error)) => {
            assert_eq!(pool.statistics().lent, 0);
            assert_eq!(verified.unwrap_err().to_string(), error.to_string());
            Err(error)
        }
        Err(other) => panic!("{other}"),
    }
}

#[track_caller]
fn refused(pool: &MemoryPool, config: &Config, text: &str) -> Error {
    let loans = pool.statistics().loans;
    let error = answer(pool, &Engine::new(config).unwrap(), text).unwrap_err();
    assert_eq!(pool.statistics().loans, loans);
    assert!(error.to_string().contains("WasmtimePool::"), "{error}");
    error
}

/// The settings of `configure`, without the creator.
fn copied_settings() -> Config {
    let mut config = Config::new();
    config
        .memory_init_cow(false)
        .memory_may_move(false)
        .memory_reservation(4 << 30)
        .memory_guard_size(32 << 20)
        .gc_heap_may_move(false)
        .gc_heap_reservation(4 << 30)
        .gc_heap_guard_size(16 << 20);
    config
}

#[test]
fn an_engine_that_was_never_configured_is_refused() {
    if lacks(47) {
        return;
    }
    let pool = pool();
    let mut deterministic_only = Config::new();
    deterministic(&mut deterministic_only);
    for text in [USUAL, STARTS, WITHOUT_TABLE] {
        for config in [Config::new(), deterministic_only.clone()] {
            let error = refused(&pool, &config, text);
            assert!(
                matches!(error, Error::Verify(VerifyError::Engine { .. })),
                "{error}"
            );
        }
    }
    // Without a heap of the engine, the module itself is probed.
    let mut without_heap = copied_settings();
    without_heap.gc_support(false);
    for (config, texts) in [
        (copied_settings(), &[USUAL, STARTS, WITHOUT_TABLE][..]),
        (without_heap.clone(), &[USUAL, STARTS]),
    ] {
        for text in texts {
            let error = refused(&pool, &config, text).to_string();
            assert!(
                error.contains("not take its memories from this pool"),
                "{error}"
            );
        }
    }
    let error = refused(&pool, &without_heap, WITHOUT_TABLE);
    assert!(
        matches!(error, Error::Verify(VerifyError::EngineUnproven { .. })),
        "{error}"
    );
    // As the error advises.
    let engine = pool.engine(&mut without_heap).unwrap();
    answer(&pool, &engine, WITHOUT_TABLE).unwrap();
}

#[test]
fn an_engine_of_another_pool_is_refused() {
    if lacks(47) {
        return;
    }
    let (a, b) = (pool(), pool());
    let mut config = Config::new();
    a.configure(&mut config);
    b.configure(&mut config);
    for text in [USUAL, STARTS, WITHOUT_TABLE] {
        let error = refused(&a, &config, text).to_string();
        assert!(error.contains("from another pool"), "{error}");
    }
    assert_eq!(b.statistics().loans, 0);
    answer(&b, &Engine::new(&config).unwrap(), USUAL).unwrap();
    // The pool that made the engine last is the one that it takes its memories from.
    let engine = a.engine(&mut config).unwrap();
    answer(&a, &engine, WITHOUT_TABLE).unwrap();
    assert!(answer(&b, &engine, USUAL).is_err());
}

/// Gives an engine no memory.
struct Other;

// SAFETY: no memory is made.
#[allow(unsafe_code, reason = "the trait is unsafe")]
unsafe impl MemoryCreator for Other {
    fn new_memory(
        &self,
        _: MemoryType,
        _: usize,
        _: Option<usize>,
        _: Option<usize>,
        _: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        Err("another creator".to_owned())
    }
}

#[test]
fn an_engine_whose_creator_was_replaced_is_refused() {
    let pool = pool();
    let mut config = Config::new();
    pool.configure(&mut config);
    config.with_host_memory(std::sync::Arc::new(Other));
    for text in [USUAL, STARTS, WITHOUT_TABLE] {
        refused(&pool, &config, text);
    }
}

#[test]
fn each_engine_made_from_a_configuration_is_recognized() {
    if lacks(47) {
        return;
    }
    let pool = pool();
    let mut config = Config::new();
    pool.configure(&mut config);
    let (first, second) = (
        Engine::new(&config).unwrap(),
        Engine::new(&config.clone()).unwrap(),
    );
    for engine in [&first, &second, &first] {
        answer(&pool, engine, WITHOUT_TABLE).unwrap();
        answer(&pool, engine, USUAL).unwrap();
    }
}

#[test]
fn an_engine_of_a_prepared_pool_is_recognized_when_it_is_secured() {
    if lacks(47) {
        return;
    }
    for made_by_the_pool in [false, true] {
        let prepared = MemoryPool::builder().pages(PAGES).prepare();
        let mut config = Config::new();
        let engine = if made_by_the_pool {
            prepared.engine(&mut config).unwrap()
        } else {
            prepared.configure(&mut config);
            Engine::new(&config).unwrap()
        };
        prepared.verify(&module(&engine, USUAL)).unwrap();
        let pool = prepared.secure().unwrap();
        answer(&pool, &engine, USUAL).unwrap();
    }
}

#[test]
fn a_dropped_engine_is_not_taken_for_one_at_the_same_address() {
    let pool = pool();
    for _ in 0..20 {
        let engine = pool.engine(&mut Config::new()).unwrap();
        answer(&pool, &engine, WITHOUT_TABLE).unwrap();
        drop(engine);
        refused(&pool, &copied_settings(), WITHOUT_TABLE);
    }
}

#[test]
fn engines_with_any_other_settings_are_recognized() {
    if lacks(47) {
        return;
    }
    type Change = fn(&mut Config) -> &mut Config;
    let changes: [(&str, Change); 12] = [
        ("fuel", |config| config.consume_fuel(true)),
        ("epochs", |config| config.epoch_interruption(true)),
        ("a small stack", |config| config.max_wasm_stack(16 << 10)),
        ("an asynchronous stack", |config| {
            config.async_stack_size(8 << 20)
        }),
        ("no bulk memory", |config| {
            let config = config.wasm_reference_types(false).wasm_gc(false);
            let config = config
                .wasm_function_references(false)
                .wasm_exceptions(false);
            config.wasm_bulk_memory(false)
        }),
        ("no SIMD", |config| {
            config.wasm_relaxed_simd(false).wasm_simd(false)
        }),
        ("64-bit memories", |config| config.wasm_memory64(true)),
        ("shared memories", |config| {
            config.wasm_threads(true).shared_memory(true)
        }),
        ("several memories", |config| config.wasm_multi_memory(true)),
        ("no signals", |config| config.signals_based_traps(false)),
        ("eager tables", |config| config.table_lazy_init(false)),
        ("no guard before", |config| {
            config.guard_before_linear_memory(false)
        }),
    ];
    for (what, change) in changes {
        let pool = pool();
        let mut config = Config::new();
        pool.configure(&mut config);
        change(&mut config);
        let engine = Engine::new(&config).unwrap();
        for text in [WITHOUT_TABLE, USUAL] {
            let verified = pool.verify(&module(&engine, text));
            assert!(verified.is_ok(), "{what}: {}", verified.unwrap_err());
        }
    }
}

#[test]
fn an_engine_keeps_no_memory_of_a_dropped_pool() {
    let pool = MemoryPool::builder()
        .pages(PAGES)
        .when_exhausted(WhenExhausted::Wait(Duration::from_secs(60)))
        .secure()
        .unwrap();
    let mut config = Config::new();
    let engine = pool.engine(&mut config).unwrap();
    let module = module(&engine, USUAL);
    let mut live = Store::new(&engine, ());
    let instance = pool
        .instantiate(&Linker::new(&engine), &mut live, &module)
        .unwrap();
    let weak = pool.downgrade();
    drop(pool);
    // The instance is alive, and so is its memory.
    let memory = instance.get_memory(&mut live, "memory").unwrap();
    assert_eq!(memory.data(&live)[0], b'x');
    assert!(weak.upgrade().is_some());
    drop(live);
    assert!(weak.upgrade().is_none());
    // The engine and its configuration are alive.
    let error = wasmtime::Instance::new(&mut Store::new(&engine, ()), &module, &[]).unwrap_err();
    match InstantiateError::from(error) {
        InstantiateError::Memory(Error::Lend(LendError::PoolDropped)) => {}
        other => panic!("{other}"),
    }
    drop(config);
}

/// Prints the time of a verification. Nothing is asserted about it, because other tests run at the
/// same time.
#[test]
fn verification_is_cheap_for_known_modules_of_several_engines() {
    let pool = pool();
    let engines: Vec<Engine> = (0..2)
        .map(|_| pool.engine(&mut Config::new()).unwrap())
        .collect();
    let modules: Vec<_> = engines.iter().map(|engine| module(engine, USUAL)).collect();
    for count in [1, 2] {
        let used = &modules[..count];
        for module in used {
            pool.verify(module).unwrap();
        }
        let rounds = 1_000_000;
        let start = std::time::Instant::now();
        for round in 0..rounds {
            pool.verify(&used[round % count]).unwrap();
        }
        let each = start.elapsed().as_nanos() as f64 / rounds as f64;
        println!("{count} engines in turn: {each:.0} ns for each verification");
    }
    let start = std::time::Instant::now();
    let tried: Vec<_> = (0..100).map(|_| module(&engines[0], USUAL)).collect();
    let compiled = start.elapsed();
    let start = std::time::Instant::now();
    for module in &tried {
        pool.verify(module).unwrap();
    }
    println!(
        "{:.1} us for the probe of a module ({:.1} us to compile it)",
        start.elapsed().as_micros() as f64 / 100.0,
        compiled.as_micros() as f64 / 100.0
    );
}
