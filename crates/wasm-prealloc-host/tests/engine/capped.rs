//! A cap on untouched modules: growth up to it cannot fail, and growth beyond it returns -1.

use wasm_prealloc_host::{MemoryPool, Policy, PolicyError, SecureError, VerifyError, WasmtimePool};
use wasmtime::{Instance, Linker, Store};

use crate::support::one_at_a_time;
use crate::{Host, engine, module};

const CAP: u64 = 16;

fn host() -> Host {
    Host::new(CAP, Policy::Cap { pages: CAP })
}

/// Returns the pages of a memory that an instance exports.
fn pages(host: &mut Host, instance: Instance, name: &str) -> u64 {
    let memory = instance.get_memory(&mut host.store, name).unwrap();
    memory.size(&host.store)
}

#[test]
fn a_memory_grows_to_its_maximum_or_to_the_cap_whichever_is_smaller() {
    for (declared, minimum, limit) in [
        ("i32 3", 3, 16),
        ("i32 3 8", 3, 8),
        ("i32 3 16", 3, 16),
        ("i32 3 17", 3, 16),
        ("i32 3 65536", 3, 16),
        ("i32 0", 0, 16),
        ("i32 0 0", 0, 0),
        ("i32 16", 16, 16),
        ("i32 16 16", 16, 16),
        ("i64 3", 3, 16),
        ("i64 0 8", 0, 8),
        ("i64 3 281474976710656", 3, 16),
    ] {
        let mut host = host();
        let index = &declared[..3];
        let text = format!(
            r#"(module
                (memory (export "memory") {declared})
                (func (export "grow") (param {index}) (result {index})
                    (memory.grow (local.get 0)))
                (func (export "grow-to-all") (result {index})
                    (memory.grow ({index}.const -1))))"#
        );
        let instance = host.instantiate(&text).unwrap();
        assert_eq!(pages(&mut host, instance, "memory"), minimum, "{declared}");
        let mut grow = |delta: u64| -> i64 {
            let function = instance.get_func(&mut host.store, "grow").unwrap();
            let mut results = [wasmtime::Val::I32(0)];
            let delta = match index {
                "i32" => wasmtime::Val::I32(delta as i32),
                _ => wasmtime::Val::I64(delta as i64),
            };
            function
                .call(&mut host.store, &[delta], &mut results)
                .unwrap();
            results[0]
                .i64()
                .unwrap_or_else(|| results[0].unwrap_i32().into())
        };
        assert_eq!(grow(limit - minimum + 1), -1, "{declared}");
        assert_eq!(grow(u64::from(u32::MAX)), -1, "{declared}");
        assert_eq!(grow(limit - minimum), minimum as i64, "{declared}");
        assert_eq!(grow(1), -1, "{declared}");
        assert_eq!(grow(0), limit as i64, "{declared}");
        // The host is refused in the same way as the guest.
        let memory = instance.get_memory(&mut host.store, "memory").unwrap();
        memory.grow(&mut host.store, 1).unwrap_err();
        memory.grow(&mut host.store, u64::MAX).unwrap_err();
        assert_eq!(memory.grow(&mut host.store, 0).unwrap(), limit);
        memory.data_mut(&mut host.store).fill(0xa5);
        host.end_block();
        // What the guest wrote is gone.
        let instance = host.instantiate(&text).unwrap();
        let memory = instance.get_memory(&mut host.store, "memory").unwrap();
        memory.grow(&mut host.store, limit - minimum).unwrap();
        assert!(memory.data(&host.store).iter().all(|&byte| byte == 0));
        assert_eq!(host.pool.statistics().high_water_resets, 1);
    }
}

#[test]
fn each_memory_of_a_module_has_the_cap() {
    let mut host = host();
    let text = r#"(module
        (memory $a (export "a") 1)
        (memory $b (export "b") 2 9)
        (func (export "grow") (param i32) (result i32)
            (memory.grow $a (i32.const 15))
            (memory.grow $a (i32.const 1))
            (memory.grow $b (i32.const 7))
            (memory.grow $b (i32.const 1))
            drop drop drop drop
            (i32.add (memory.size $a) (memory.size $b))))"#;
    let instance = host.instantiate(text).unwrap();
    assert_eq!(host.call::<i32>(instance, "grow", 0), 16 + 9);
}

/// Everything is refused before memory is committed: the pool is never secured.
#[test]
fn a_minimum_above_the_cap_is_refused_and_the_advised_cap_is_enough() {
    for (declared, needed) in [("17", 17), ("17 17", 17), ("i64 17", 17)] {
        for export in ["", r#"(export "m")"#] {
            let text = format!("(module (memory {export} {declared}))");
            let verify = |cap: u64| {
                let prepared = MemoryPool::builder().cap(cap).prepare();
                let engine = engine(&prepared, |_| {});
                prepared.verify(&module(&engine, &text))
            };
            let error = verify(CAP).unwrap_err();
            let text = error.to_string();
            assert!(
                text.contains("at least 17 (MemoryPoolBuilder::cap)"),
                "{text}"
            );
            match error {
                VerifyError::Policy(PolicyError::AboveCap { minimum, cap: CAP }) => {
                    assert_eq!(minimum, needed)
                }
                other => panic!("{other}"),
            }
            verify(needed).unwrap();
        }
    }
    // No cap is enough for this one.
    let prepared = MemoryPool::builder().cap(CAP).prepare();
    let engine = engine(&prepared, |_| {});
    let error = prepared.verify(&module(&engine, "(module (memory i64 65537))"));
    let text = error.unwrap_err().to_string();
    assert!(text.contains("no slot can have more than 65536"), "{text}");
}

#[test]
fn a_slot_can_be_larger_than_the_cap_and_never_smaller() {
    let _turn = one_at_a_time();
    let pool = MemoryPool::builder().cap(CAP).pages(20).secure().unwrap();
    assert_eq!(
        (pool.pages(), pool.policy()),
        (20, Policy::Cap { pages: CAP })
    );
    assert_eq!(pool.lend(1, None).unwrap().maximum_bytes(), 16 << 16);
    let small = || MemoryPool::builder().pages(CAP - 1).cap(CAP);
    assert!(small().need().is_err());
    let error = small().prepare().secure().unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("at least 16 pages (MemoryPoolBuilder::pages)"),
        "{text}"
    );
    small().pages(CAP).secure().unwrap();
    // A cap is the size of a slot, and is checked as such.
    for pages in [0, 65_537] {
        let error = MemoryPool::builder().cap(pages).secure().unwrap_err();
        assert!(matches!(error, SecureError::PageCount { .. }), "{error}");
    }
}

/// A host can still give a store a limiter of its own, which may be smaller.
#[test]
fn the_limiter_of_a_store_applies_too() {
    let host = host();
    let limits = wasmtime::StoreLimitsBuilder::new()
        .memory_size(5 << 16)
        .build();
    let mut store = Store::new(&host.engine, limits);
    store.limiter(|limits| limits);
    let module = host.module(r#"(module (memory (export "memory") 1))"#);
    let instance = host
        .pool
        .instantiate(&Linker::new(&host.engine), &mut store, &module);
    let memory = instance.unwrap().get_memory(&mut store, "memory").unwrap();
    memory.grow(&mut store, 5).unwrap_err();
    assert_eq!(memory.grow(&mut store, 4).unwrap(), 1);
}
