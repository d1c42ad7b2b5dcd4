//! The tables of a module: counted in the need, and bounded.

use wasm_prealloc_host::{
    Error, InstantiateError, MemoryPool, StoreLimiter, VerifyError, WasmtimePool,
};
use wasmtime::{
    Config, Engine, Linker, Module, Ref, RefType, ResourceLimiter, Store, Table, TableType,
};

use crate::module;
use crate::support::status_kib;
use crate::versions::lacks;

struct Host {
    pool: MemoryPool,
    engine: Engine,
}

impl Host {
    fn of_elements(elements: u64) -> Host {
        let builder = MemoryPool::builder().pages(16).slots(2);
        let builder = builder.table_elements(elements);
        // Tables of external references need the engine's heap.
        let pool = builder.engine_heap_bytes(1 << 16).secure().unwrap();
        let mut config = Config::new();
        config.wasm_memory64(true).wasm_gc(true);
        config.wasm_function_references(true);
        let engine = pool.engine(&mut config).unwrap();
        Host { pool, engine }
    }

    fn module(&self, text: &str) -> Module {
        module(&self.engine, text)
    }

    /// A store with the pool's limiter.
    fn limited(&self) -> Store<StoreLimiter> {
        let mut store = Store::new(&self.engine, self.pool.limiter());
        store.limiter(|limiter| limiter);
        store
    }

    #[track_caller]
    fn refusal(&self, text: &str) -> Error {
        let module = self.module(text);
        let linker = Linker::new(&self.engine);
        let mut store = Store::new(&self.engine, ());
        match self.pool.instantiate(&linker, &mut store, &module) {
            Err(InstantiateError::Memory(error)) => error,
            other => panic!("{text}: {other:?}"),
        }
    }
}

/// A table that can grow up to the given limits, in a pinned module.
fn growing(limits: &str, ty: &str, null: &str) -> String {
    let index = if limits.contains("i64") { "i64" } else { "i32" };
    let extended = match index {
        "i64" => "(i64.extend_i32_s (local.get 0))",
        _ => "(local.get 0)",
    };
    let narrow = match index {
        "i64" => "i32.wrap_i64",
        _ => "nop",
    };
    format!(
        r#"(module
            (memory 16 16)
            (table $t {limits} {ty})
            (func (export "grow") (param i32) (result i32)
                (table.grow $t (ref.null {null}) {extended}) {narrow}))"#
    )
}

#[test]
fn growth_beyond_the_bound_returns_minus_one_and_takes_no_memory() {
    let host = Host::of_elements(1 << 16);
    let module = host.module(&growing("0", "funcref", "func"));
    // In a store without the limiter nothing of the module runs.
    let linker = Linker::new(&host.engine);
    let mut store = Store::new(&host.engine, ());
    let error = match host.pool.instantiate(&linker, &mut store, &module) {
        Err(InstantiateError::Memory(
            error @ Error::Verify(VerifyError::UnboundedTables { .. }),
        )) => error.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(error.contains("WasmtimePool::limiter"), "{error}");
    assert!(error.contains("declare smaller maximums"), "{error}");
    assert!(matches!(
        host.pool.verify(&module),
        Err(VerifyError::UnboundedTables {
            maximum: None,
            bound: 65_536
        })
    ));
    host.pool.verify_limited(&module).unwrap();

    let mut store = host.limited();
    let linker = Linker::new(&host.engine);
    let instance = host.pool.instantiate(&linker, &mut store, &module).unwrap();
    let grow = instance
        .get_typed_func::<i32, i32>(&mut store, "grow")
        .unwrap();
    let before = status_kib("VmRSS");
    assert_eq!(grow.call(&mut store, 100_000_000).unwrap(), -1);
    assert_eq!(grow.call(&mut store, 65_537).unwrap(), -1);
    assert_eq!(grow.call(&mut store, -1).unwrap(), -1);
    assert_eq!(grow.call(&mut store, 65_535).unwrap(), 0);
    assert_eq!(grow.call(&mut store, 2).unwrap(), -1);
    assert_eq!(grow.call(&mut store, 1).unwrap(), 65_535);
    assert_eq!(grow.call(&mut store, 0).unwrap(), 65_536);
    assert_eq!(grow.call(&mut store, 1).unwrap(), -1);
    let grown = status_kib("VmRSS").saturating_sub(before);
    assert!(grown < 16 << 10, "{grown} KiB");
}

#[test]
fn growth_is_the_same_for_every_kind_of_table() {
    if lacks(45) {
        return;
    }
    for (limits, ty, null) in [
        ("0", "funcref", "func"),
        ("0 100000", "funcref", "func"),
        ("i64 0", "funcref", "func"),
        ("0", "externref", "extern"),
        ("0", "anyref", "any"),
        ("10", "i31ref", "i31"),
        ("0", "exnref", "exn"),
    ] {
        let builder = MemoryPool::builder().pages(16).engine_heap_bytes(1 << 16);
        let pool = builder.table_elements(1000).secure().unwrap();
        let mut config = Config::new();
        config
            .wasm_memory64(true)
            .wasm_gc(true)
            .wasm_exceptions(true);
        let engine = pool.engine(&mut config).unwrap();
        let module = module(&engine, &growing(limits, ty, null));
        assert!(
            matches!(
                pool.verify(&module),
                Err(VerifyError::UnboundedTables { .. })
            ),
            "{ty}"
        );
        let mut store = Store::new(&engine, pool.limiter());
        store.limiter(|limiter| limiter);
        let instance = pool
            .instantiate(&Linker::new(&engine), &mut store, &module)
            .unwrap();
        let grow = instance
            .get_typed_func::<i32, i32>(&mut store, "grow")
            .unwrap();
        let first = if limits == "10" { 10 } else { 0 };
        assert_eq!(
            grow.call(&mut store, 1001 - first).unwrap(),
            -1,
            "{limits} {ty}"
        );
        assert_eq!(
            grow.call(&mut store, 1000 - first).unwrap(),
            first,
            "{limits} {ty}"
        );
        assert_eq!(grow.call(&mut store, 1).unwrap(), -1, "{limits} {ty}");
    }
}

#[test]
fn declared_maximums_within_the_bound_need_no_limiter() {
    let host = Host::of_elements(100);
    for tables in [
        "",
        "(table 100 100 funcref)",
        "(table 10 100 externref)",
        "(table 50 50 funcref) (table 0 50 funcref)",
        r#"(import "env" "t" (table 10 60 funcref)) (table 40 40 funcref)"#,
        "(table i64 100 100 funcref)",
    ] {
        // The engine's heap is refused there.
        if tables.contains("externref") && lacks(45) {
            continue;
        }
        let text = format!("(module {tables} (memory 16 16))");
        host.pool.verify(&host.module(&text)).unwrap();
    }
}

#[test]
fn tables_that_can_exceed_the_bound_together_need_the_limiter() {
    let host = Host::of_elements(100);
    for (tables, maximum) in [
        ("(table 100 101 funcref)", Some(101)),
        ("(table 10 60 funcref) (table 0 50 externref)", Some(110)),
        (
            r#"(import "env" "t" (table 10 60 funcref)) (table 41 41 funcref)"#,
            Some(101),
        ),
        (
            r#"(import "env" "t" (table 10 funcref)) (table 1 1 funcref)"#,
            None,
        ),
        (r#"(import "env" "t" (table 10 funcref))"#, None),
        ("(table 10 funcref)", None),
        ("(table i64 10 funcref)", None),
    ] {
        // The engine's heap is refused there.
        if tables.contains("externref") && lacks(45) {
            continue;
        }
        let text = format!("(module {tables} (memory 16 16))");
        let module = host.module(&text);
        match host.pool.verify(&module) {
            Err(VerifyError::UnboundedTables {
                maximum: found,
                bound: 100,
            }) => {
                assert_eq!(found, maximum, "{tables}");
            }
            other => panic!("{tables}: {other:?}"),
        }
        host.pool.verify_limited(&module).unwrap();
        assert!(matches!(
            host.pool.reserve_for(&module),
            Err(Error::Verify(VerifyError::UnboundedTables { .. }))
        ));
    }
}

#[test]
fn minimums_above_the_bound_are_refused_with_a_limiter_too() {
    let host = Host::of_elements(100);
    for tables in [
        "(table 101 funcref)",
        "(table 60 funcref) (table 41 41 externref)",
        "(table i64 5000000000 funcref)",
        r#"(import "env" "t" (table 101 funcref))"#,
        r#"(import "env" "t" (table 90 funcref)) (table 11 11 funcref)"#,
    ] {
        // The engine's heap is refused there.
        if tables.contains("externref") && lacks(45) {
            continue;
        }
        let text = format!("(module {tables} (memory 16 16))");
        let module = host.module(&text);
        let error = host.pool.verify_limited(&module).unwrap_err();
        let remedy = error
            .to_string()
            .contains("MemoryPoolBuilder::table_elements");
        assert!(
            matches!(error, VerifyError::TablesTooLarge { bound: 100, .. }) && remedy,
            "{error}"
        );
        assert!(matches!(
            host.refusal(&text),
            Error::Verify(VerifyError::TablesTooLarge { .. })
        ));
    }
}

#[test]
fn element_segments_and_imports_do_not_hinder_a_probe() {
    let host = Host::of_elements(1000);
    let text = r#"(module
        (import "env" "f" (func $f (param i32 externref) (result i64)))
        (import "env" "g" (global $g i32))
        (import "env" "r" (global $r externref))
        (memory 16 16)
        (table $t 10 20 funcref)
        (elem (i32.const 0) $f $h)
        (elem declare func $h)
        (elem funcref (ref.func $h))
        (data (i32.const 0) "data")
        (func $h)
        (func $start (call_indirect $t (i32.const 5)))
        (start $start))"#;
    host.pool.verify(&host.module(text)).unwrap();
    // A reference that cannot be null has no stand-in. The pool made the engine, so its memories
    // are certain, and the limiter bounds the tables.
    let text = r#"(module
        (import "env" "r" (global $r (ref func)))
        (memory 16 16)
        (table 10 10 funcref))"#;
    let module = host.module(text);
    assert!(matches!(
        host.pool.verify(&module),
        Err(VerifyError::UnboundedTables { maximum: None, .. })
    ));
    host.pool.verify_limited(&module).unwrap();
    // An engine without a heap cannot be probed alone, and this module cannot be probed either.
    let mut config = Config::new();
    config.wasm_function_references(true).gc_support(false);
    host.pool.configure(&mut config);
    let engine = Engine::new(&config).unwrap();
    let module = crate::module(&engine, text);
    let error = host.pool.verify_limited(&module).unwrap_err();
    assert!(
        matches!(error, VerifyError::EngineUnproven { .. }),
        "{error}"
    );
}

#[test]
fn a_limiter_of_another_pool_does_not_count() {
    let (host, other) = (Host::of_elements(100), Host::of_elements(1_000_000));
    let module = host.module(&growing("0", "funcref", "func"));
    let linker = Linker::new(&host.engine);
    let mut store = Store::new(&host.engine, other.pool.limiter());
    store.limiter(|limiter| limiter);
    match host.pool.instantiate(&linker, &mut store, &module) {
        Err(InstantiateError::Memory(Error::Verify(VerifyError::UnboundedTables { .. }))) => {}
        other => panic!("{other:?}"),
    }
}

/// A limiter of the embedder, which calls the pool's.
struct Own(StoreLimiter);

impl ResourceLimiter for Own {
    fn memory_growing(&mut self, _: usize, _: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(true)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= 50 && self.0.table_growing(current, desired, maximum)?)
    }
}

#[test]
fn a_limiter_that_calls_the_pools_limiter_is_recognized() {
    let host = Host::of_elements(100);
    let module = host.module(&growing("0", "funcref", "func"));
    let linker = Linker::new(&host.engine);
    let mut store = Store::new(&host.engine, Own(host.pool.limiter()));
    store.limiter(|own| own);
    let instance = host.pool.instantiate(&linker, &mut store, &module).unwrap();
    let grow = instance
        .get_typed_func::<i32, i32>(&mut store, "grow")
        .unwrap();
    assert_eq!(grow.call(&mut store, 51).unwrap(), -1);
    assert_eq!(grow.call(&mut store, 50).unwrap(), 0);
}

#[test]
fn the_tables_of_one_store_share_its_bound() {
    let host = Host::of_elements(100);
    let module = host.module(&growing("40", "funcref", "func"));
    for (instances, grown) in [(1, 20), (2, 120)] {
        let limiter = host.pool.limiter().for_instances(instances);
        let mut store = Store::new(&host.engine, limiter);
        store.limiter(|limiter| limiter);
        let linker = Linker::new(&host.engine);
        let mut instance = || {
            let instance = host.pool.instantiate(&linker, &mut store, &module);
            instance.unwrap()
        };
        let (_, second) = (instance(), instance());
        let grow = second
            .get_typed_func::<i32, i32>(&mut store, "grow")
            .unwrap();
        assert_eq!(grow.call(&mut store, grown + 1).unwrap(), -1);
        assert_eq!(grow.call(&mut store, grown).unwrap(), 40);
    }
}

#[test]
fn tables_of_the_host_are_bounded_too() {
    let host = Host::of_elements(100);
    let mut store = host.limited();
    let ty = TableType::new(RefType::FUNCREF, 60, None);
    let table = Table::new(&mut store, ty.clone(), Ref::Func(None)).unwrap();
    assert!(Table::new(&mut store, ty, Ref::Func(None)).is_err());
    assert!(table.grow(&mut store, 41, Ref::Func(None)).is_err());
    assert_eq!(table.grow(&mut store, 40, Ref::Func(None)).unwrap(), 60);
}

#[test]
fn tables_are_counted_in_the_need() {
    let need = |elements, slots| {
        let builder = MemoryPool::builder().pages(16).slots(slots);
        builder
            .table_elements(elements)
            .need()
            .unwrap()
            .physical_bytes
    };
    assert_eq!(need(65_536, 1) - need(0, 1), 1 << 20);
    assert_eq!(need(65_536, 3) - need(0, 3), 3 << 20);
    let default = MemoryPool::builder()
        .pages(16)
        .need()
        .unwrap()
        .physical_bytes;
    assert_eq!(default, need(65_536, 1));
    assert!(need(u64::MAX, 3) == u64::MAX);
}
