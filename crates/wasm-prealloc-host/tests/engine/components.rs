//! Components: their memories are counted and taken at once, and the rest is checked as each core
//! module is instantiated.

use std::time::Duration;

use wasm_prealloc_host::{
    Error, InstantiateError, MemoryPool, MemoryPoolBuilder, Policy, PolicyError, StoreLimiter,
    VerifyError, WasmtimePool, WhenExhausted,
};
use wasmtime::component::{Component, Linker};
use wasmtime::{Config, Engine, Store};

use crate::versions::lacks;
use crate::{engine, module};

/// A component of the given core modules. It exports `run` of the last one, which takes and returns
/// a number.
fn component(engine: &Engine, modules: &[&str]) -> Component {
    let instances = modules.iter().enumerate().map(|(index, module)| {
        format!(
            "(core module $m{index} {module})
            (core instance $i{index} (instantiate $m{index} (with \"env\" (instance
                (export \"started\" (func $started))))))"
        )
    });
    let text = format!(
        r#"(component
            (import "started" (func $host))
            (core func $started (canon lower (func $host)))
            {}
            (func (export "run") (param "x" u32) (result u32)
                (canon lift (core func $i{} "run"))))"#,
        instances.collect::<String>(),
        modules.len() - 1
    );
    Component::new(engine, wat::parse_str(text).unwrap()).unwrap()
}

const STARTS: &str = r#"(import "env" "started" (func $started)) (start $started)"#;
const RUN: &str = r#"(func (export "run") (param i32) (result i32)
    (drop (memory.grow (local.get 0)))
    (i32.store (i32.const 16) (i32.const 1))
    memory.size)"#;

fn with_memory(limits: &str) -> String {
    format!("{STARTS} (memory {limits}) {RUN}")
}

fn slots(slots: usize) -> MemoryPoolBuilder {
    MemoryPool::builder().pages(16).slots(slots)
}

/// A store's data: the pool's limiter, and the number of start functions that ran.
struct State {
    limiter: StoreLimiter,
    started: u32,
}

fn store(pool: &MemoryPool, engine: &Engine) -> Store<State> {
    let limiter = pool.limiter();
    let mut store = Store::new(
        engine,
        State {
            limiter,
            started: 0,
        },
    );
    store.limiter(|state| &mut state.limiter);
    store
}

fn linker(engine: &Engine) -> Linker<State> {
    let mut linker = Linker::new(engine);
    let started = |mut context: wasmtime::StoreContextMut<'_, State>, ()| {
        context.data_mut().started += 1;
        Ok(())
    };
    linker.root().func_wrap("started", started).unwrap();
    linker
}

/// Instantiates a component in a new store, and calls its export.
fn run(pool: &MemoryPool, component: &Component, x: u32) -> Result<u32, InstantiateError> {
    let engine = component.engine();
    let mut store = store(pool, engine);
    let instance = pool.instantiate_component(&linker(engine), &mut store, component)?;
    let run = instance.get_typed_func::<(u32,), (u32,)>(&mut store, "run");
    Ok(run?.call(&mut store, (x,))?.0)
}

#[track_caller]
fn refusal<T>(outcome: Result<T, InstantiateError>) -> Error {
    match outcome {
        Err(InstantiateError::Memory(error)) => error,
        Err(other) => panic!("an error of the engine: {other}"),
        Ok(_) => panic!("instantiated"),
    }
}

#[test]
fn each_policy_serves_the_components_that_it_serves_as_modules() {
    let modules = [with_memory("16 16"), with_memory("2 8")];
    let [pinned, growing] = &modules;
    let declared = slots(2).secure().unwrap();
    let made = engine(&declared, |_| {});
    let both_pinned = component(&made, &[pinned, pinned]);
    declared.verify_component(&both_pinned).unwrap();
    assert_eq!(run(&declared, &both_pinned, 1).unwrap(), 16);
    let untouched = component(&made, &[growing]);
    let error = declared.verify_component(&untouched).unwrap_err();
    assert!(matches!(
        error,
        VerifyError::ComponentNotPinned {
            largest: 2,
            expected: 16
        }
    ));
    assert_eq!(
        refusal(run(&declared, &untouched, 1)).to_string(),
        error.to_string()
    );

    let commits = slots(2).policy(Policy::CommitMaximum).secure().unwrap();
    let made = engine(&commits, |_| {});
    let untouched = component(&made, &[pinned, growing]);
    commits.verify_component(&untouched).unwrap();
    // Growth to the maximum cannot fail, and beyond it fails.
    for (delta, pages) in [(0, 2), (6, 8), (7, 2)] {
        assert_eq!(run(&commits, &untouched, delta).unwrap(), pages);
    }
    let too_large = component(&made, &[&with_memory("17 20")]);
    assert!(matches!(
        commits.verify_component(&too_large),
        Err(VerifyError::Policy(PolicyError::SlotTooSmall {
            slot_pages: 16,
            ..
        }))
    ));
    assert_eq!(commits.statistics().lent, 0);

    let capped = MemoryPool::builder().cap(16).slots(2).secure().unwrap();
    let made = engine(&capped, |_| {});
    for limits in ["2", "2 100"] {
        let untouched = component(&made, &[pinned, &with_memory(limits)]);
        capped.verify_component(&untouched).unwrap();
        for (delta, pages) in [(14, 16), (15, 2)] {
            assert_eq!(run(&capped, &untouched, delta).unwrap(), pages, "{limits}");
        }
    }
    let too_large = component(&made, &[&with_memory("17 20")]);
    assert!(matches!(
        capped.verify_component(&too_large),
        Err(VerifyError::Policy(PolicyError::AboveCap { .. }))
    ));
}

#[test]
fn a_memory_that_cannot_be_seen_before_is_refused_before_any_export_is_called() {
    let pool = slots(3).secure().unwrap();
    let engine = engine(&pool, |config| {
        config.wasm_threads(true).shared_memory(true);
        config.wasm_custom_page_sizes(true);
    });
    let pinned = with_memory("16 16");
    for limits in ["16", "16 17", "1 16", "16 16 shared", "9 9 (pagesize 1)"] {
        let hidden = component(&engine, &[&pinned, &with_memory(limits)]);
        pool.verify_component(&hidden).unwrap();
        let mut store = store(&pool, &engine);
        let outcome = pool.instantiate_component(&linker(&engine), &mut store, &hidden);
        let error = refusal(outcome);
        match limits.len() {
            0..=5 => assert!(
                matches!(error.policy(), Some(PolicyError::NotPinned { .. })),
                "{error}"
            ),
            _ => assert!(
                matches!(error, Error::Verify(VerifyError::UnsupportedMemory { .. })),
                "{error}"
            ),
        }
        // The core module before it was started, and this one was not.
        assert_eq!((store.data().started, pool.statistics().lent), (1, 1));
    }
    assert_eq!(pool.statistics().lent, 0);
}

#[test]
fn the_memories_of_a_component_are_taken_at_once() {
    const LONG: WhenExhausted = WhenExhausted::Wait(Duration::from_secs(60));
    let pool = slots(3).when_exhausted(LONG).secure().unwrap();
    let engine = engine(&pool, |_| {});
    let pinned = with_memory("16 16");
    let two = component(&engine, &[&pinned, &pinned]);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..25 {
                    assert_eq!(run(&pool, &two, 0).unwrap(), 16);
                }
            });
        }
    });
    let statistics = pool.statistics();
    assert_eq!((statistics.loans, statistics.lent), (200, 0));

    let pre = linker(&engine).instantiate_pre(&two).unwrap();
    let mut store = store(&pool, &engine);
    pool.instantiate_component_pre(&pre, &mut store).unwrap();
    assert_eq!((store.data().started, pool.statistics().lent), (2, 2));
    let four = component(&engine, &[&pinned, &pinned, &pinned, &pinned]);
    let error = pool.verify_component(&four).unwrap_err();
    assert!(matches!(
        error,
        VerifyError::TooManyMemories {
            memories: 4,
            slots: 3
        }
    ));
}

#[test]
fn a_component_that_imports_core_modules_is_refused_and_can_define_them() {
    let pool = slots(2).secure().unwrap();
    let engine = engine(&pool, |_| {});
    let text = r#"(component
        (import "m" (core module $m (export "run" (func (param i32) (result i32)))))
        (core instance $i (instantiate $m))
        (func (export "run") (param "x" u32) (result u32) (canon lift (core func $i "run"))))"#;
    let imports = Component::new(&engine, wat::parse_str(text).unwrap()).unwrap();
    let text = with_memory("16 16").replace(STARTS, "");
    let mut linker = Linker::new(&engine);
    let imported = module(&engine, &format!("(module {text})"));
    linker.root().module("m", &imported).unwrap();
    let mut store = store(&pool, &engine);
    let error = refusal(pool.instantiate_component(&linker, &mut store, &imports));
    assert!(
        matches!(error, Error::Verify(VerifyError::ImportedModules)),
        "{error}"
    );
    let defines = component(&engine, &[&with_memory("16 16")]);
    assert_eq!(run(&pool, &defines, 0).unwrap(), 16);
}

#[test]
fn the_tables_of_a_component_are_bounded_or_refused() {
    let pool = slots(1).table_elements(100).secure().unwrap();
    let engine = engine(&pool, |_| {});
    let tables = |elements: &str| {
        let grows = r#"(func (export "run") (param i32) (result i32)
            (table.grow $t (ref.null func) (local.get 0)))"#;
        component(
            &engine,
            &[&format!("(table $t {elements} funcref) {grows}")],
        )
    };
    let (linker, growing) = (linker(&engine), tables("10"));
    pool.verify_component(&growing).unwrap();
    let state = State {
        limiter: pool.limiter(),
        started: 0,
    };
    let mut unlimited = Store::new(&engine, state);
    let error = refusal(pool.instantiate_component(&linker, &mut unlimited, &growing));
    assert!(
        matches!(
            error,
            Error::Verify(VerifyError::ComponentTables { bound: 100 })
        ),
        "{error}"
    );
    assert!(
        error.to_string().contains("WasmtimePool::limiter"),
        "{error}"
    );
    // A store as the message says.
    assert_eq!(run(&pool, &growing, 90).unwrap(), 10);
    assert_eq!(run(&pool, &growing, 91).unwrap(), u32::MAX);
    let error = pool.verify_component(&tables("101")).unwrap_err();
    assert!(matches!(
        error,
        VerifyError::TablesTooLarge {
            elements: 101,
            bound: 100
        }
    ));
    // Without tables no limiter is needed.
    let none = component(&engine, &[&with_memory("16 16")]);
    pool.instantiate_component(&linker, &mut unlimited, &none)
        .unwrap();
}

#[test]
fn a_component_that_needs_the_engines_heap_has_it_or_is_refused() {
    if lacks(45) {
        return;
    }
    let throws = r#"(tag $tag (param i32))
        (func (export "run") (param i32) (result i32)
            (block $handler (result i32)
                (try_table (result i32) (catch $tag $handler) (throw $tag (local.get 0)))))"#;
    let settings = |config: &mut Config| {
        config.wasm_exceptions(true);
    };
    for heap_bytes in [0, 1 << 20] {
        let pool = slots(1).engine_heap_bytes(heap_bytes).secure().unwrap();
        let engine = engine(&pool, settings);
        let component = component(&engine, &[throws]);
        pool.verify_component(&component).unwrap();
        match heap_bytes {
            0 => {
                let error = refusal(run(&pool, &component, 5));
                assert!(
                    matches!(error, Error::Verify(VerifyError::NoEngineHeap)),
                    "{error}"
                );
            }
            _ => assert_eq!(run(&pool, &component, 5).unwrap(), 5),
        }
    }
}

#[test]
fn the_engine_of_a_component_must_take_its_memories_from_the_pool() {
    if lacks(47) {
        return;
    }
    let pool = slots(1).engine_heap_bytes(1 << 20).secure().unwrap();
    let verify = |config: &Config| {
        let engine = Engine::new(config).unwrap();
        pool.verify_component(&component(&engine, &[&with_memory("16 16")]))
    };
    let mut config = Config::new();
    assert!(matches!(verify(&config), Err(VerifyError::Engine { .. })));
    // An engine that was configured and made elsewhere is probed through its own heap.
    pool.configure(&mut config);
    verify(&config).unwrap();
    config.wasm_reference_types(false).gc_support(false);
    let error = verify(&config).unwrap_err();
    assert!(
        matches!(error, VerifyError::EngineUnproven { .. }),
        "{error}"
    );
    let engine = pool.engine(&mut config).unwrap();
    let pinned = component(&engine, &[&with_memory("16 16")]);
    assert_eq!(run(&pool, &pinned, 0).unwrap(), 16);
    let other = slots(1).secure().unwrap();
    assert!(matches!(
        other.verify_component(&pinned),
        Err(VerifyError::Engine { .. } | VerifyError::EngineUnproven { .. })
    ));
}
