//! The memory creator in a real engine: what is verified, what is resident, what stays intact,
//! what comes back, and which engines are refused.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![cfg(feature = "wasmtime")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use wasm_prealloc_host::{
    Error, InstantiateError, MemoryPool, Policy, WhenExhausted, deterministic, resident_bytes,
};
use wasmtime::{
    Config, Engine, Instance, InstanceAllocationStrategy, Linker, Module, PoolingAllocationConfig,
    Store, Trap,
};

/// 4 GiB at a time, whatever the number of test threads.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
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
        let builder = MemoryPool::builder().slots(2).pages(pages).policy(policy);
        let pool = match pages {
            65_536 => builder.slots(1),
            _ => builder,
        };
        let pool = pool.secure().unwrap();
        let mut config = Config::new();
        config.wasm_multi_memory(true).wasm_memory64(true);
        config.wasm_custom_page_sizes(true);
        deterministic(&mut config);
        pool.configure(&mut config);
        let engine = Engine::new(&config).unwrap();
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
        Module::new(&self.engine, wat::parse_str(text).unwrap()).unwrap()
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

#[test]
fn four_gib_are_resident_and_data_segments_intact() {
    let mut host = Host::of_pages(65_536);
    let instance = host
        .instantiate(
            r#"(module
                (memory (export "memory") 65536 65536)
                (data (i32.const 0) "first")
                (data (i32.const 1048574) "across a boundary")
                (data (i32.const -4) "last"))"#,
        )
        .unwrap();
    let memory = instance.get_memory(&mut host.store, "memory").unwrap();
    let bytes = memory.data(&host.store);
    assert_eq!(bytes.len(), 4 << 30);
    assert_eq!(&bytes[..6], b"first\0");
    assert_eq!(&bytes[1_048_574..][..18], b"across a boundary\0");
    assert_eq!(&bytes[(4 << 30) - 5..], b"\0last");
    assert_eq!(resident_bytes(bytes).unwrap(), 4 << 30);
    let secured = host.pool.secured().unwrap();
    assert_eq!(secured.resident_bytes, 4 << 30);
    println!("{secured}");
}

#[test]
fn each_instance_finds_its_memory_zero_and_gives_it_back() {
    let mut host = Host::of_pages(1024);
    let text = r#"(module (memory (export "memory") 1024 1024) (data (i32.const 7) "x"))"#;
    for _ in 0..5 {
        let instance = host.instantiate(text).unwrap();
        let memory = instance.get_memory(&mut host.store, "memory").unwrap();
        let bytes = memory.data_mut(&mut host.store);
        assert_eq!(bytes[7], b'x');
        bytes[7] = 0;
        assert!(bytes.iter().all(|&byte| byte == 0));
        bytes.fill(0xff);
        host.end_block();
    }
    let statistics = host.pool.statistics();
    assert_eq!((statistics.loans, statistics.lent), (5, 0));
    assert_eq!(statistics.retired, 0);
}

#[test]
fn accesses_beyond_the_memory_trap() {
    // Within the reservation, in the guard behind 4 GiB, and across the end.
    for (address, offset) in [
        ("67108864", 0_u32),
        ("-1", u32::MAX),
        ("-1", 0),
        ("67108861", 0),
    ] {
        let mut host = Host::of_pages(1024);
        let instance = host
            .instantiate(&format!(
                r#"(module
                    (memory 1024 1024)
                    (func (export "load") (result i32)
                        (i32.load offset={offset} (i32.const {address}))))"#
            ))
            .unwrap();
        let load = instance
            .get_typed_func::<(), i32>(&mut host.store, "load")
            .unwrap();
        let error = load.call(&mut host.store, ()).unwrap_err();
        let trap = error.downcast_ref::<Trap>().copied();
        assert_eq!(trap, Some(Trap::MemoryOutOfBounds), "{address} {offset}");
    }
}

#[test]
fn a_pinned_memory_does_not_grow() {
    let mut host = Host::of_pages(16);
    let instance = host
        .instantiate(
            r#"(module
                (memory 16 16)
                (func (export "grow") (result i32) (memory.grow (i32.const 1)))
                (func (export "size") (result i32) (memory.size)))"#,
        )
        .unwrap();
    for (name, expected) in [("grow", -1), ("size", 16)] {
        let function = instance
            .get_typed_func::<(), i32>(&mut host.store, name)
            .unwrap();
        assert_eq!(function.call(&mut host.store, ()).unwrap(), expected);
    }
}

#[test]
fn a_memory_that_can_grow_is_not_pinned() {
    for (declared, found) in [
        ("17", (17, None)),
        ("16", (16, None)),
        ("0 16", (0, Some(16))),
        ("16 17", (16, Some(17))),
        ("17 17", (17, Some(17))),
    ] {
        match Host::of_pages(16).refusal(&format!("(module (memory {declared}))")) {
            Error::NotPinned {
                minimum,
                maximum,
                expected: 16,
            } => assert_eq!((minimum, maximum), found),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn every_memory_of_a_module_is_verified() {
    let error = Host::of_pages(16).refusal("(module (memory 16 16) (memory 1))");
    assert!(
        matches!(error, Error::NotPinned { minimum: 1, .. }),
        "{error}"
    );
    Host::of_pages(16)
        .instantiate("(module (memory 16 16) (memory 16 16))")
        .unwrap();
}

#[test]
fn a_pinned_64_bit_memory_is_lent_a_slot_too() {
    let mut host = Host::of_pages(16);
    let text = r#"(module
        (memory i64 16 16)
        (func (export "load") (param i32) (result i32)
            (i32.load (i64.extend_i32_u (local.get 0)))))"#;
    let instance = host.instantiate(text).unwrap();
    assert_eq!(host.call::<i32>(instance, "load", (1 << 20) - 4), 0);
    let load = instance.get_typed_func::<i32, i32>(&mut host.store, "load");
    let error = load.unwrap().call(&mut host.store, 1 << 20).unwrap_err();
    let trap = error.downcast_ref::<Trap>().copied();
    assert_eq!(trap, Some(Trap::MemoryOutOfBounds));
}

#[test]
fn memories_of_another_kind_are_refused() {
    let error = Host::of_pages(16).refusal("(module (memory 16 16 (pagesize 1)))");
    assert!(error.to_string().contains("custom-page-size"), "{error}");
}

#[test]
fn an_imported_memory_is_refused_by_name() {
    match Host::of_pages(16).refusal(r#"(module (import "env" "memory" (memory 16 16)))"#) {
        Error::ImportedMemory { module, name } => {
            assert_eq!((module.as_str(), name.as_str()), ("env", "memory"));
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_module_without_memory_instantiates_and_takes_none() {
    let mut host = Host::of_pages(16);
    host.instantiate(r#"(module (func (export "f")))"#).unwrap();
    assert_eq!(host.pool.statistics().loans, 0);
}

#[test]
fn errors_of_the_engine_stay_what_they_are() {
    let mut host = Host::of_pages(16);
    let text = "(module (memory 16 16) (func $f unreachable) (start $f))";
    match host.instantiate(text) {
        Err(InstantiateError::Engine(error)) => {
            let trap = error.downcast_ref::<Trap>().copied();
            assert_eq!(trap, Some(Trap::UnreachableCodeReached));
        }
        other => panic!("{other:?}"),
    }
    match host.instantiate(r#"(module (import "env" "f" (func)))"#) {
        Err(InstantiateError::Engine(error)) => assert!(error.to_string().contains("env")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_refusal_that_a_start_function_swallowed_is_not_the_cause() {
    let mut host = Host::of_pages(16);
    let growing = wat::parse_str("(module (memory 1))").unwrap();
    let growing = Module::new(&host.engine, growing).unwrap();
    let mut linker = Linker::new(&host.engine);
    linker
        .func_wrap(
            "env",
            "inner",
            move |mut caller: wasmtime::Caller<'_, ()>| {
                // The engine's own instantiation: the refusal stays on record.
                assert!(Instance::new(&mut caller, &growing, &[]).is_err());
            },
        )
        .unwrap();
    let text = r#"(module
        (import "env" "inner" (func $inner))
        (memory 16 16)
        (func $start (call $inner) unreachable)
        (start $start))"#;
    let module = Module::new(&host.engine, wat::parse_str(text).unwrap()).unwrap();
    let result = host.pool.instantiate(&linker, &mut host.store, &module);
    assert!(matches!(result, Err(InstantiateError::Engine(_))));
}

#[test]
fn the_engine_alone_still_has_the_whole_message() {
    let mut host = Host::of_pages(16);
    let module = Module::new(&host.engine, wat::parse_str("(module (memory 1))").unwrap()).unwrap();
    let error = Instance::new(&mut host.store, &module, &[]).unwrap_err();
    let text = format!("{error:#}");
    assert!(text.contains("wasm-prealloc rewrite --pages 16"), "{text}");
}

#[test]
fn nothing_of_a_module_has_run_when_no_memory_is_free() {
    let mut host = Host::of_pages(16);
    let text = "(module (memory 16 16) (memory 16 16))";
    host.instantiate(text).unwrap();
    // Had the start function run, the error would be its trap.
    let error = host.refusal("(module (memory 16 16) (func $f unreachable) (start $f))");
    assert!(matches!(error, Error::NoSlot { slots: 2, .. }), "{error}");
    host.end_block();
    host.instantiate(text).unwrap();
}

#[test]
fn a_module_that_is_refused_half_way_gives_back_what_it_had() {
    let mut host = Host::of_pages(16);
    let error = host.refusal("(module (memory 16 16) (memory 16 16) (memory 16 16))");
    assert!(matches!(error, Error::NoSlot { .. }), "{error}");
    host.end_block();
    assert_eq!(host.pool.statistics().lent, 0);
}

/// Grows by as many pages as it is told, and reads and writes where it is told.
const UNTOUCHED: &str = r#"(module
    (memory (export "memory") 3 512)
    (data (i32.const 5) "segment")
    (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
    (func (export "size") (param i32) (result i32) (memory.size))
    (func (export "load") (param i32) (result i32) (i32.load8_u (local.get 0)))
    (func (export "store") (param i32) (i32.store8 (local.get 0) (i32.const 0xa5))))"#;

#[test]
fn an_untouched_module_sees_its_own_size_and_grows_to_its_maximum() {
    let mut host = Host::new(512, Policy::CommitMaximum);
    let module = host.module(UNTOUCHED);
    for block in 0..3 {
        let linker = Linker::new(&host.engine);
        let instance = host.pool.instantiate(&linker, &mut host.store, &module);
        let instance = instance.unwrap();
        let mut pages = 3;
        for delta in [1, 31, 100, 377] {
            assert_eq!(
                host.call::<i32>(instance, "size", 0),
                pages,
                "block {block}"
            );
            // The last byte is there, new, and zero; the one behind it traps.
            let last = (pages << 16) - 1;
            assert_eq!(host.call::<i32>(instance, "load", last), 0);
            host.call::<()>(instance, "store", last);
            let load = instance.get_typed_func::<i32, i32>(&mut host.store, "load");
            let error = load.unwrap().call(&mut host.store, last + 1).unwrap_err();
            let trap = error.downcast_ref::<Trap>().copied();
            assert_eq!(trap, Some(Trap::MemoryOutOfBounds), "{pages} pages");
            assert_eq!(host.call::<i32>(instance, "grow", 0), pages);
            assert_eq!(host.call::<i32>(instance, "grow", delta), pages);
            pages += delta;
        }
        assert_eq!(host.call::<i32>(instance, "grow", 1), -1);
        assert_eq!(host.call::<i32>(instance, "size", 0), 512);
        host.end_block();
    }
    let statistics = host.pool.statistics();
    assert_eq!(statistics.high_water_resets, 3);
    assert_eq!(statistics.zeroed_bytes, 3 * (512 << 16));
}

#[test]
fn a_memory_that_can_outgrow_its_slot_is_refused() {
    for declared in ["3 513", "3", "i64 3", "513 513"] {
        let mut host = Host::new(512, Policy::CommitMaximum);
        let error = host.refusal(&format!("(module (memory {declared}))"));
        let text = error.to_string();
        assert!(
            matches!(
                error,
                Error::SlotTooSmall {
                    slot_pages: 512,
                    ..
                }
            ),
            "{text}"
        );
        assert!(text.contains("wasm-prealloc rewrite --pages 512"), "{text}");
    }
    Host::new(512, Policy::CommitMaximum)
        .instantiate("(module (memory 0 512))")
        .unwrap();
}

/// Writes a byte into every OS page of 4 GiB, and tells whether it found any that was not zero.
const WRITES_ALL_OVER: &str = r#"(module
    (memory 65536 65536)
    (func (export "run") (param $value i32) (result i32)
        (local $at i32) (local $found i32)
        (loop $next
            (local.set $found (i32.or (local.get $found) (i32.load8_u (local.get $at))))
            (i32.store8 (local.get $at) (local.get $value))
            (local.set $at (i32.add (local.get $at) (i32.const 4093)))
            (br_if $next (i32.gt_u (local.get $at) (i32.const 4093))))
        (local.get $found)))"#;

#[test]
fn nothing_of_one_instance_is_visible_to_the_next() {
    let mut host = Host::of_pages(65_536);
    let module = host.module(WRITES_ALL_OVER);
    for value in 1..4 {
        let linker = Linker::new(&host.engine);
        let instance = host.pool.instantiate(&linker, &mut host.store, &module);
        assert_eq!(host.call::<i32>(instance.unwrap(), "run", value), 0);
        host.end_block();
    }
    let reader = r#"(module (memory (export "memory") 65536 65536))"#;
    let instance = host.instantiate(reader).unwrap();
    let memory = instance.get_memory(&mut host.store, "memory").unwrap();
    let bytes = memory.data(&host.store);
    let (pages, rest) = bytes.as_chunks::<4096>();
    assert!(pages.iter().all(|page| *page == [0; 4096]) && rest.is_empty());
    assert_eq!(resident_bytes(bytes).unwrap(), 4 << 30);
}

#[test]
fn a_thousand_instances_use_the_same_memory_and_fault_no_more() {
    let mut host = Host::of_pages(65_536);
    // 12 MiB at the bottom, and a page far above.
    let module = host.module(
        r#"(module
            (memory 65536 65536)
            (func (export "run") (param i32)
                (memory.fill (i32.const 0) (local.get 0) (i32.const 12582912))
                (i32.store (i32.const 0x80000000) (local.get 0))))"#,
    );
    let resident_kib = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.unwrap().trim().strip_suffix(" kB").unwrap();
        number.parse::<u64>().unwrap()
    };
    let mut before = None;
    for block in 0..1000 {
        let linker = Linker::new(&host.engine);
        let instance = host.pool.instantiate(&linker, &mut host.store, &module);
        let instance = instance.unwrap();
        let run = instance.get_typed_func::<i32, ()>(&mut host.store, "run");
        let run = run.unwrap();
        let faults = thread_faults();
        run.call(&mut host.store, 7).unwrap();
        let faults = thread_faults() - faults;
        // The first block finds the watermark low. The far page is tracked, which is one fault
        // each time; that its huge page was split shows once more.
        if block > 1 {
            assert!(faults <= 2, "block {block}: {faults} page faults");
        }
        host.end_block();
        match before {
            None => before = (block == 10).then(&resident_kib),
            Some(before) => {
                let now = resident_kib();
                assert!(
                    now.abs_diff(before) < 2048,
                    "block {block}: {before} then {now} KiB"
                );
            }
        }
    }
    assert_eq!(host.pool.statistics().watermark_resets, 1000);
}

/// Minor page faults of this thread so far.
fn thread_faults() -> i64 {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    // After the name in parentheses: state, 6 numbers, minor faults.
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    rest.split(' ').nth(7).unwrap().parse().unwrap()
}

#[test]
fn stores_in_several_threads_wait_for_a_slot() {
    let _turn = one_at_a_time();
    let pool = MemoryPool::builder()
        .slots(2)
        .pages(64)
        .when_exhausted(WhenExhausted::Wait(Duration::from_secs(60)))
        .secure()
        .unwrap();
    let mut config = Config::new();
    pool.configure(&mut config);
    let engine = Engine::new(&config).unwrap();
    let text = r#"(module
        (memory 64 64)
        (func (export "run") (param i32) (result i32)
            (i32.load8_u (i32.const 4194303))
            (memory.fill (i32.const 0) (local.get 0) (i32.const 4194304))))"#;
    let module = Module::new(&engine, wat::parse_str(text).unwrap()).unwrap();
    pool.verify(&module).unwrap();
    let pre = Linker::<()>::new(&engine).instantiate_pre(&module).unwrap();
    std::thread::scope(|scope| {
        for thread in 1..=8 {
            let (pool, pre, engine) = (&pool, &pre, &engine);
            scope.spawn(move || {
                for _ in 0..50 {
                    let mut store = Store::new(engine, ());
                    let instance = pre
                        .instantiate(&mut store)
                        .map_err(InstantiateError::from)
                        .unwrap();
                    let run = instance.get_typed_func::<i32, i32>(&mut store, "run");
                    assert_eq!(run.unwrap().call(&mut store, thread).unwrap(), 0);
                    assert!(pool.statistics().lent <= 2);
                }
            });
        }
    });
    let statistics = pool.statistics();
    assert_eq!((statistics.loans, statistics.lent), (400, 0));
}

#[test]
fn an_asynchronous_store_gets_the_same_memory_and_the_same_errors() {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    /// Nothing here waits for anything, so that one look is enough.
    fn finish<F: Future>(future: F) -> F::Output {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => output,
            Poll::Pending => panic!("nothing to wait for"),
        }
    }

    let _turn = one_at_a_time();
    let pool = MemoryPool::builder().pages(16).secure().unwrap();
    let mut config = Config::new();
    pool.configure(&mut config);
    let engine = Engine::new(&config).unwrap();
    let text = r#"(module (memory (export "memory") 16 16))"#;
    let module = Module::new(&engine, wat::parse_str(text).unwrap()).unwrap();
    let linker = Linker::<()>::new(&engine);
    let mut first = Store::new(&engine, ());
    let instance = finish(linker.instantiate_async(&mut first, &module)).unwrap();
    let memory = instance.get_memory(&mut first, "memory").unwrap();
    assert_eq!(resident_bytes(memory.data(&first)).unwrap(), 1 << 20);
    let mut second = Store::new(&engine, ());
    let refused = finish(linker.instantiate_async(&mut second, &module));
    match refused.map_err(InstantiateError::from) {
        Err(InstantiateError::Memory(Error::NoSlot { slots: 1, .. })) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_is_instantiated_before_the_pool_is_secured() {
    let prepared = MemoryPool::builder().pages(16).prepare();
    let mut config = Config::new();
    prepared.configure(&mut config);
    let engine = Engine::new(&config).unwrap();
    let module = Module::new(&engine, wat::parse_str("(module (memory 16 16))").unwrap()).unwrap();
    prepared.verify(&module).unwrap();
    let mut store = Store::new(&engine, ());
    let error = Instance::new(&mut store, &module, &[]).unwrap_err();
    match InstantiateError::from(error) {
        InstantiateError::Memory(Error::NotSecuredYet) => {}
        other => panic!("{other}"),
    }
    let pool = prepared.secure().unwrap();
    let linker = Linker::new(&engine);
    pool.instantiate(&linker, &mut store, &module).unwrap();
}

/// An engine whose configuration was changed after [`MemoryPool::configure`].
#[track_caller]
fn refused_engine(change: impl FnOnce(&mut Config)) -> Error {
    let pool = MemoryPool::builder().pages(16).secure().unwrap();
    let mut config = Config::new();
    pool.configure(&mut config);
    change(&mut config);
    let engine = Engine::new(&config).unwrap();
    let text = r#"(module (memory 16 16) (data (i32.const 0) "x"))"#;
    let module = Module::new(&engine, wat::parse_str(text).unwrap()).unwrap();
    let mut store = Store::new(&engine, ());
    match pool.instantiate(&Linker::new(&engine), &mut store, &module) {
        Err(InstantiateError::Memory(error @ Error::Engine { .. })) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn engines_that_would_quietly_undo_the_commit_are_refused() {
    for (change, named) in [
        (
            (|config| {
                config.memory_init_cow(true);
            }) as fn(&mut Config),
            "memory_init_cow",
        ),
        (
            |config| {
                config.memory_may_move(true);
            },
            "memory_may_move",
        ),
        (
            |config| {
                let own = PoolingAllocationConfig::default();
                config.allocation_strategy(InstanceAllocationStrategy::Pooling(own));
            },
            "InstanceAllocationStrategy::Pooling",
        ),
        (
            |config| {
                config.memory_reservation(64 << 10);
            },
            "memory_reservation",
        ),
        (
            |config| {
                config.memory_guard_size(1 << 30);
            },
            "memory_guard_size",
        ),
    ] {
        let text = refused_engine(change).to_string();
        assert!(text.contains(named), "{named}: {text}");
        assert!(text.contains("MemoryPool::configure"), "{text}");
    }
}

/// Why [`MemoryPool::configure`] turns copy-on-write images off: the engine makes an image of
/// the data segments, and then finds itself unable to map it into memory that is not its own.
#[test]
fn copy_on_write_images_make_the_engine_panic() {
    let pool = MemoryPool::builder().pages(16).secure().unwrap();
    let mut config = Config::new();
    pool.configure(&mut config);
    config.memory_init_cow(true);
    let engine = Engine::new(&config).unwrap();
    let instantiate = |text: &str| {
        let module = Module::new(&engine, wat::parse_str(text).unwrap()).unwrap();
        let mut store = Store::new(&engine, ());
        // The engine's own way, past what would refuse it.
        catch_unwind(AssertUnwindSafe(|| {
            Instance::new(&mut store, &module, &[]).is_ok()
        }))
    };
    let without_data = instantiate("(module (memory 16 16))");
    assert!(without_data.unwrap());
    let panic = instantiate(r#"(module (memory 16 16) (data (i32.const 0) "x"))"#).unwrap_err();
    let text = panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()))
        .unwrap();
    assert!(text.contains("only for mmap-based memories"), "{text}");
}

/// A module that allocates objects of the GC proposal.
const COLLECTED: &str = r#"(module
    (type $pair (struct (field i32) (field i32)))
    (func (export "run") (param i32) (result i32)
        (struct.get $pair 1 (struct.new $pair (local.get 0) (local.get 0)))))"#;

#[test]
fn the_heap_of_the_gc_proposal_is_refused_where_it_would_have_to_be_pinned() {
    let mut host = Host::of_pages(16);
    let error = host.refusal(COLLECTED);
    assert!(
        matches!(error, Error::NotPinned { minimum: 0, .. }),
        "{error}"
    );
    assert_eq!(host.pool.statistics().loans, 0);
}

#[test]
fn the_heap_of_the_gc_proposal_takes_a_slot_where_sizes_are_enforced() {
    let mut host = Host::new(65_536, Policy::CommitMaximum);
    let instance = host.instantiate(COLLECTED).unwrap();
    assert_eq!(host.call::<i32>(instance, "run", 7), 7);
    assert_eq!(host.pool.statistics().lent, 1);
    host.end_block();
    assert_eq!(host.pool.statistics().lent, 0);
}
