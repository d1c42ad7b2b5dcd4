//! The engine's own heap, for exceptions, `externref` and GC types: memory of its own.

use std::sync::{Arc, Mutex};

use wasm_prealloc_host::{
    Error, Headroom, InstantiateError, LendError, MemoryPool, Policy, SecureError, VerifyError,
    WasmtimePool,
};
use wasmtime::{Config, Engine, ExternRef, Linker, Module, Rooted, Store};

use crate::module;
#[allow(unused_imports, reason = "unused where wasmtime has the setters")]
use crate::versions::HeapSettings as _;
use crate::versions::lacks;

const HEAP_BYTES: u64 = 1 << 20;

struct Host {
    pool: MemoryPool,
    engine: Engine,
}

impl Host {
    fn new(policy: Policy, heap_bytes: u64) -> Host {
        let builder = MemoryPool::builder().pages(16).policy(policy);
        let pool = builder.engine_heap_bytes(heap_bytes).secure().unwrap();
        let mut config = Config::new();
        config.wasm_exceptions(true);
        config.wasm_function_references(true).wasm_gc(true);
        let engine = pool.engine(&mut config).unwrap();
        Host { pool, engine }
    }

    fn run(&self, text: &str, argument: i32) -> Result<i32, InstantiateError> {
        self.run_module(&module(&self.engine, text), argument)
    }

    fn run_module(&self, module: &Module, argument: i32) -> Result<i32, InstantiateError> {
        let mut store = Store::new(&self.engine, ());
        let linker = Linker::new(&self.engine);
        let instance = self.pool.instantiate(&linker, &mut store, module)?;
        let run = instance.get_typed_func::<i32, i32>(&mut store, "run")?;
        Ok(run.call(&mut store, argument)?)
    }
}

/// Throws and catches an exception the given number of times.
const EXCEPTIONS: &str = r#"(module
    (tag $tag (param i32))
    (memory 16 16)
    (func $throws (param i32) (throw $tag (local.get 0)))
    (func (export "run") (param $times i32) (result i32)
        (local $caught i32)
        (loop $next
            (block $handler (result i32)
                (try_table (catch $tag $handler) (call $throws (i32.const 1)))
                (i32.const 0))
            (local.set $caught (i32.add (local.get $caught)))
            (br_if $next (i32.lt_s (local.get $caught) (local.get $times))))
        (local.get $caught)))"#;

const STRUCTS: &str = r#"(module
    (type $pair (struct (field i32) (field i32)))
    (memory 16 16)
    (func (export "run") (param $times i32) (result i32)
        (local $sum i32)
        (loop $next
            (local.set $sum (i32.add (local.get $sum)
                (struct.get $pair 1 (struct.new $pair (i32.const 0) (i32.const 1)))))
            (br_if $next (i32.lt_s (local.get $sum) (local.get $times))))
        (local.get $sum)))"#;

const EXTERNREFS: &str = r#"(module
    (memory 16 16)
    (table $t 10 10 externref)
    (func (export "run") (param i32) (result i32)
        (table.set $t (i32.const 3) (ref.null extern))
        (ref.is_null (table.get $t (local.get 0)))))"#;

const POLICIES: [Policy; 2] = [Policy::Declared, Policy::CommitMaximum];

#[test]
fn modules_that_need_the_heap_run_in_a_heap_of_their_own() {
    if lacks(45) {
        return;
    }
    for policy in POLICIES {
        let host = Host::new(policy, HEAP_BYTES);
        assert_eq!(host.run(EXCEPTIONS, 100).unwrap(), 100);
        assert_eq!(host.run(STRUCTS, 100).unwrap(), 100);
        assert_eq!(host.run(EXTERNREFS, 3).unwrap(), 1);
        let statistics = host.pool.statistics();
        // The heap takes no slot.
        assert_eq!((statistics.loans, statistics.lent), (3, 0));
    }
}

#[test]
fn without_a_heap_the_refusal_names_it() {
    if lacks(45) {
        return;
    }
    for policy in POLICIES {
        let host = Host::new(policy, 0);
        for text in [EXCEPTIONS, STRUCTS] {
            match host.run(text, 1) {
                Err(InstantiateError::Memory(error @ Error::Verify(VerifyError::NoEngineHeap))) => {
                    let text = error.to_string();
                    assert!(
                        text.contains("MemoryPoolBuilder::engine_heap_bytes"),
                        "{text}"
                    );
                    assert!(!text.contains("pinned"), "{text}");
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(host.pool.statistics().loans, 0);
    }
}

#[test]
fn a_module_of_the_gc_proposal_without_memory_is_refused_without_a_heap() {
    if lacks(45) {
        return;
    }
    let text = r#"(module
        (type $pair (struct (field i32)))
        (func (export "run") (param i32) (result i32)
            (struct.get $pair 0 (struct.new $pair (local.get 0)))))"#;
    for policy in POLICIES {
        match Host::new(policy, 0).run(text, 1) {
            Err(InstantiateError::Memory(Error::Verify(VerifyError::NoEngineHeap))) => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(Host::new(policy, HEAP_BYTES).run(text, 7).unwrap(), 7);
    }
}

/// The number of times that a module can allocate before it traps.
fn times(host: &Host, text: &str) -> i32 {
    let module = module(&host.engine, text);
    let (mut fits, mut fails) = (0, 1 << 14);
    while fails - fits > 1 {
        let middle = (fits + fails) / 2;
        match host.run_module(&module, middle) {
            Ok(_) => fits = middle,
            Err(InstantiateError::Engine(_)) => fails = middle,
            Err(other) => panic!("{other}"),
        }
    }
    fits
}

#[test]
fn the_bound_of_the_heap_is_reached_at_the_same_point_every_time() {
    if lacks(45) {
        return;
    }
    let bytes = 64 << 10;
    for text in [EXCEPTIONS, STRUCTS] {
        let host = Host::new(Policy::Declared, bytes);
        let first = times(&host, text);
        assert!(first > 1000, "{first}");
        println!("{first} allocations in 64 KiB");
        assert_eq!(times(&host, text), first);
        let other = Host::new(Policy::CommitMaximum, bytes);
        assert_eq!(times(&other, text), first);
        // Twice the heap is twice the room.
        let twice = times(&Host::new(Policy::Declared, 2 * bytes), text);
        assert!(
            (2 * first - 8..=2 * first + 8).contains(&twice),
            "{first} {twice}"
        );
    }
}

#[test]
fn each_store_has_a_heap_and_gives_it_back() {
    if lacks(45) {
        return;
    }
    let builder = MemoryPool::builder().pages(16).slots(2);
    let pool = builder.engine_heap_bytes(HEAP_BYTES).secure().unwrap();
    let engine = pool.engine(&mut Config::new()).unwrap();
    let store = || {
        let mut store = Store::new(&engine, ());
        let made: wasmtime::Result<Rooted<ExternRef>> = ExternRef::new(&mut store, 7);
        made.map(|_| store)
    };
    let (first, _second) = (store().unwrap(), store().unwrap());
    match store().map(|_| ()).map_err(InstantiateError::from) {
        Err(InstantiateError::Memory(Error::Lend(LendError::NoEngineHeap { heaps: 2 }))) => {}
        other => panic!("{other:?}"),
    }
    drop(first);
    store().unwrap();
}

#[test]
fn the_heap_is_counted_in_the_need_and_in_what_is_secured() {
    let builder = |heap_bytes| {
        let builder = MemoryPool::builder().pages(16).slots(2);
        builder.engine_heap_bytes(heap_bytes)
    };
    let need = |heap_bytes| builder(heap_bytes).need().unwrap();
    // Two heaps and their page tables.
    let physical = need(HEAP_BYTES).physical_bytes - need(0).physical_bytes;
    assert_eq!(physical, 2 * (HEAP_BYTES + HEAP_BYTES / 512));
    assert!(need(HEAP_BYTES).address_space_bytes - need(0).address_space_bytes >= 2 << 32);
    let resident = |heap_bytes| builder(heap_bytes).secure().unwrap().secured().unwrap();
    let (with, without) = (resident(HEAP_BYTES), resident(0));
    assert_eq!(with.resident_bytes - without.resident_bytes, 2 * HEAP_BYTES);
    // Sizes are rounded up to wasm pages of 64 KiB, and a heap is at most 4 GiB.
    assert_eq!(need(1).physical_bytes, need(1 << 16).physical_bytes);
    assert!(matches!(
        builder(5 << 30).need(),
        Err(SecureError::PageCount { pages: 81_920 })
    ));
    assert!(matches!(
        builder(u64::MAX).secure(),
        Err(SecureError::PageCount { .. })
    ));
}

#[test]
fn slots_and_heaps_are_one_commit_with_one_answer() {
    // More than any machine of a test has, and neither the slots nor the heaps alone decide.
    let pool = || MemoryPool::builder().slots(1 << 10).pages(1 << 16);
    let both = pool().engine_heap_bytes(4 << 30);
    let need = both.need_under(&Headroom::read().unwrap()).unwrap();
    assert!(need.physical_bytes > 2 * 1024 * (4 << 30));
    match both.secure() {
        Err(SecureError::Shortfall(shortfall)) => {
            assert_eq!(shortfall.needed_bytes, need.under(&shortfall.limit));
        }
        other => panic!("{other:?}"),
    }
    // Heaps smaller than a huge page, and larger than one.
    for heap_bytes in [64 << 10, 3 << 20] {
        let total_bytes = 2 * ((4 << 20) + heap_bytes);
        let last = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&last);
        let builder = MemoryPool::builder().slots(2).pages(64);
        let builder = builder.on_progress(move |progress| seen.lock().unwrap().push(progress));
        let pool = builder.engine_heap_bytes(heap_bytes).secure().unwrap();
        let seen = last.lock().unwrap();
        assert!(seen.iter().all(|one| one.total_bytes == total_bytes));
        assert_eq!(pool.secured().unwrap().resident_bytes, total_bytes);
        assert_eq!(pool.check().unwrap().resident_bytes, total_bytes);
    }
}

#[test]
fn other_settings_for_the_heap_are_refused() {
    if lacks(47) {
        return;
    }
    let changes: [fn(&mut Config) -> &mut Config; 5] = [
        |config| config.gc_heap_guard_size(32 << 20),
        |config| config.gc_heap_reservation(1 << 20),
        |config| config.gc_heap_may_move(true),
        |config| config.gc_heap_initial_size(1 << 20),
        |config| config.memory_guard_size(16 << 20),
    ];
    for change in changes {
        let pool = MemoryPool::builder().pages(16).secure().unwrap();
        let mut config = Config::new();
        pool.configure(&mut config);
        let engine = Engine::new(change(&mut config)).unwrap();
        let module = module(&engine, "(module (table 1 1 funcref) (memory 16 16))");
        let error = pool.verify(&module).unwrap_err();
        assert!(matches!(error, VerifyError::Engine { .. }), "{error}");
        assert!(error.to_string().contains("heap"), "{error}");
    }
}
