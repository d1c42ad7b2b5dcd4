//! What keeps the memory of a pool, who has it, and how it is given back.
//!
//! Mappings are counted for the whole process, so this test has its own binary.
#![cfg(all(target_os = "linux", feature = "wasmtime"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use support::one_at_a_time;
use wasm_prealloc_host::{
    Error, InstantiateError, LendError, LentTo, MemoryPool, Reset, SecureError, WasmtimePool,
};
use wasmtime::{Config, Engine, Instance, Linker, Module, Store};

/// The size of a slot. Nothing else in this process has a mapping of this size.
const PAGES: u64 = 1237;

/// Counts the slots that are mapped.
fn mapped_slots() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let size = |line: &str| {
        let (start, end) = line.split_once(' ')?.0.split_once('-')?;
        let address = |text| u64::from_str_radix(text, 16).ok();
        Some(address(end)? - address(start)?)
    };
    // Advice and write tracking divide a slot, but its end is a guard of its own.
    let guard_bytes = (4 << 30) - (PAGES << 16);
    let guards = maps.lines().filter_map(size);
    guards
        .filter(|bytes| (guard_bytes..guard_bytes + (70 << 20)).contains(bytes))
        .count()
}

fn module(engine: &Engine) -> Module {
    let text = format!("(module $block (memory {PAGES} {PAGES}))");
    Module::new(engine, wat::parse_str(text).unwrap()).unwrap()
}

#[test]
fn handles_and_loans_keep_the_memory_and_nothing_else_does() {
    let _turn = one_at_a_time();
    let prepared = MemoryPool::builder().pages(PAGES).slots(3).prepare();
    assert_eq!(mapped_slots(), 0);
    let pool = prepared.secure().unwrap();
    assert_eq!(mapped_slots(), 3);
    let mut config = Config::new();
    let engine = pool.engine(&mut config).unwrap();
    let module = module(&engine);
    let keeps_none = (config.clone(), config, module.clone(), pool.limiter());
    let weak = pool.downgrade();

    let mut store = Store::new(&engine, ());
    pool.instantiate(&Linker::new(&engine), &mut store, &module)
        .unwrap();
    let lent = pool.lend(PAGES, Some(PAGES)).unwrap();
    let reserved = pool.reserve(1).unwrap();
    let clone = pool.clone();
    drop(pool);
    drop(clone);
    drop(prepared);
    for loan in [
        Box::new(store) as Box<dyn std::any::Any>,
        Box::new(lent),
        Box::new(reserved),
    ] {
        assert_eq!(mapped_slots(), 3);
        drop(loan);
    }
    assert_eq!(mapped_slots(), 0);
    assert!(weak.upgrade().is_none());
    drop((keeps_none, engine));
}

#[test]
fn a_pool_without_a_free_slot_names_its_borrowers() {
    let _turn = one_at_a_time();
    let pool = MemoryPool::builder().pages(16).slots(4).secure().unwrap();
    let engine = pool.engine(&mut Config::new()).unwrap();
    let text = |name| format!("(module {name} (memory 16 16))");
    let module = |name| Module::new(&engine, wat::parse_str(text(name)).unwrap()).unwrap();
    let (named, unnamed) = (module("$block"), module(""));
    let mut store = Store::new(&engine, ());
    let linker = Linker::new(&engine);
    pool.instantiate(&linker, &mut store, &named).unwrap();
    Instance::new(&mut store, &unnamed, &[]).unwrap();
    let _lent = pool.lend(16, Some(16)).unwrap();
    let reserved = pool.reserve(1).unwrap();

    let error = pool.instantiate(&linker, &mut Store::new(&engine, ()), &named);
    let Err(InstantiateError::Memory(Error::Lend(error))) = error else {
        panic!("{error:?}");
    };
    let text = error.to_string();
    for part in [
        "an instance of \"block\" for ",
        "an engine for ",
        "the host itself for ",
        "a reservation for ",
        "before the last store is dropped",
    ] {
        assert!(text.contains(part), "{text}");
    }
    let LendError::NoSlot { lent: 4, loans, .. } = error else {
        panic!("{text}");
    };
    let borrowers: Vec<&LentTo> = loans.iter().map(|loan| &loan.to).collect();
    let module = Some("block".into());
    let expected = [
        &LentTo::Instance { module },
        &LentTo::Engine,
        &LentTo::Host,
        &LentTo::Reservation,
    ];
    assert_eq!(borrowers, expected);
    drop(reserved);
    assert_eq!(pool.loans().len(), 3);
    // As the error advises.
    drop(store);
    let mut store = Store::new(&engine, ());
    pool.instantiate(&linker, &mut store, &named).unwrap();
    assert_eq!(pool.loans().len(), 2);
}

#[test]
fn memory_that_is_released_can_be_secured_again() {
    let _turn = one_at_a_time();
    for reset in [Reset::Inline, Reset::Background] {
        let builder = MemoryPool::builder().pages(PAGES).slots(2).reset(reset);
        let prepared = builder.engine_heap_bytes(1 << 20).prepare();
        let engine = prepared.engine(&mut Config::new()).unwrap();
        let module = module(&engine);
        for _ in 0..3 {
            let pool = prepared.secure().unwrap();
            assert_eq!(mapped_slots(), 2);
            let mut store = Store::new(&engine, ());
            pool.instantiate(&Linker::new(&engine), &mut store, &module)
                .unwrap();
            match pool.release() {
                Err(error @ LendError::StillLent { lent: 1, .. }) => {
                    assert!(error.to_string().contains("\"block\""), "{error}");
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(mapped_slots(), 2);
            drop(store);
            pool.release().unwrap();
            assert_eq!(mapped_slots(), 0);
            assert!(matches!(pool.reserve(1), Err(LendError::Released)));
            assert!(matches!(pool.check(), Err(SecureError::Released)));
            pool.release().unwrap();
        }
    }
}
