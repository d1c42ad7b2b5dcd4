//! The memory creator in a real engine: what is verified, what is resident, what stays intact,
//! and why copy-on-write images are off.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![cfg(feature = "wasmtime")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};

use wasm_prealloc_host::{
    Error, InstantiateError, Limit, Requirements, SecuredMemory, deterministic, resident_bytes,
};
use wasmtime::{Config, Engine, Instance, Linker, Module, Store, Trap};

const MIB: u64 = 1 << 20;

/// 4 GiB at a time, whatever the number of test threads.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Host {
    secured: SecuredMemory,
    engine: Engine,
    store: Store<()>,
    _turn: MutexGuard<'static, ()>,
}

impl Host {
    fn new(requirements: Requirements) -> Host {
        let secured = SecuredMemory::new(requirements);
        let mut config = Config::new();
        config.wasm_multi_memory(true).wasm_memory64(true);
        config.wasm_custom_page_sizes(true);
        secured.configure(&mut config);
        deterministic(&mut config);
        let engine = Engine::new(&config).unwrap();
        Host {
            secured,
            store: Store::new(&engine, ()),
            engine,
            _turn: one_at_a_time(),
        }
    }

    fn of_pages(pages: u64) -> Host {
        Host::new(Requirements::of_pages(pages))
    }

    fn instantiate(&mut self, text: &str) -> Result<Instance, InstantiateError> {
        let module = Module::new(&self.engine, wat::parse_str(text).unwrap()).unwrap();
        let linker = Linker::new(&self.engine);
        self.secured.instantiate(&linker, &mut self.store, &module)
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
    let last = host.secured.last().unwrap();
    assert_eq!(last.resident_bytes, 4 << 30);
    println!("{last}");
}

#[test]
fn each_instance_has_new_memory_and_gives_it_back() {
    let mut host = Host::of_pages(1024);
    let text = r#"(module (memory (export "memory") 1024 1024) (data (i32.const 7) "x"))"#;
    for _ in 0..3 {
        let instance = host.instantiate(text).unwrap();
        let memory = instance.get_memory(&mut host.store, "memory").unwrap();
        assert_eq!(memory.data(&host.store)[7], b'x');
        assert_eq!(memory.data(&host.store)[8], 0);
        memory.data_mut(&mut host.store)[..4096].fill(0xff);
        host.store = Store::new(&host.engine, ());
    }
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
fn memories_of_another_kind_are_refused() {
    let error = Host::of_pages(16).refusal("(module (memory i64 16 16))");
    assert!(error.to_string().contains("a 64-bit memory"), "{error}");
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
fn a_module_without_memory_instantiates() {
    let mut host = Host::of_pages(65_536);
    host.instantiate(r#"(module (func (export "f")))"#).unwrap();
    assert_eq!(host.secured.last(), None);
}

#[test]
fn the_limit_arrives_as_data_and_nothing_of_the_module_has_run() {
    let mut requirements = Requirements::of_pages(16);
    requirements.margin_bytes = 1 << 50;
    let mut host = Host::new(requirements);
    // Had the start function run, the error would be its trap.
    let error = host.refusal("(module (memory 16 16) (func $f unreachable) (start $f))");
    match error {
        Error::Shortfall(shortfall) => {
            assert_eq!(shortfall.needed_bytes, (1 << 50) + MIB + MIB / 512);
            assert!(shortfall.available_bytes < shortfall.needed_bytes);
            assert!(matches!(
                shortfall.limit,
                Limit::Machine | Limit::Cgroup { .. } | Limit::CgroupHidden { .. }
            ));
        }
        other => panic!("{other}"),
    }
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
    let result = host.secured.instantiate(&linker, &mut host.store, &module);
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
fn an_engine_configured_otherwise_afterwards_is_refused() {
    let secured = SecuredMemory::new(Requirements::of_pages(16));
    let mut config = Config::new();
    secured.configure(&mut config);
    config.memory_reservation(64 << 10);
    let engine = Engine::new(&config).unwrap();
    let module = Module::new(&engine, wat::parse_str("(module (memory 16 16))").unwrap()).unwrap();
    let mut store = Store::new(&engine, ());
    let result = secured.instantiate(&Linker::new(&engine), &mut store, &module);
    let Err(InstantiateError::Memory(error)) = result else {
        panic!("{result:?}");
    };
    assert!(matches!(error, Error::Reservation { .. }), "{error}");
}

/// Why [`SecuredMemory::configure`] turns copy-on-write images off: the engine makes an image of
/// the data segments, and then finds itself unable to map it into memory that is not its own.
#[test]
fn copy_on_write_images_make_the_engine_panic() {
    let secured = SecuredMemory::new(Requirements::of_pages(16));
    let mut config = Config::new();
    secured.configure(&mut config);
    config.memory_init_cow(true);
    let engine = Engine::new(&config).unwrap();
    let instantiate = |text: &str| {
        let module = Module::new(&engine, wat::parse_str(text).unwrap()).unwrap();
        let mut store = Store::new(&engine, ());
        catch_unwind(AssertUnwindSafe(|| {
            secured
                .instantiate(&Linker::new(&engine), &mut store, &module)
                .is_ok()
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
