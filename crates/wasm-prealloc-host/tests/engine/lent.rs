//! The memory of an instance: resident, zero, of one size, and taken back when it is dropped.

use std::time::Duration;

use wasm_prealloc_host::{
    Error, InstantiateError, LendError, MemoryPool, WasmtimePool, WhenExhausted, resident_bytes,
};
use wasmtime::{Instance, Linker, Store, Trap};

use crate::support::{is_zero, one_at_a_time};
use crate::{Host, engine, module};

#[test]
fn four_gib_are_resident_and_data_segments_intact() {
    let mut host = Host::of_pages(65_536);
    let text = r#"(module
        (memory (export "memory") 65536 65536)
        (data (i32.const 0) "first")
        (data (i32.const 1048574) "across a boundary")
        (data (i32.const -4) "last"))"#;
    let instance = host.instantiate(text).unwrap();
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
fn each_instance_has_zeroed_memory_and_gives_it_back() {
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
    // Within the reservation, in the guard after 4 GiB, and across the end.
    for (address, offset) in [(67_108_864, 0), (-1, u32::MAX), (-1, 0), (67_108_861, 0)] {
        let mut host = Host::of_pages(1024);
        let text = format!(
            r#"(module
                (memory 1024 1024)
                (func (export "load") (param i32) (result i32)
                    (i32.load offset={offset} (i32.const {address}))))"#
        );
        let instance = host.instantiate(&text).unwrap();
        let trap = host.trap(instance, "load", 0);
        assert_eq!(trap, Some(Trap::MemoryOutOfBounds), "{address} {offset}");
    }
}

#[test]
fn a_pinned_memory_does_not_grow() {
    let mut host = Host::of_pages(16);
    let text = r#"(module
        (memory 16 16)
        (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
        (func (export "size") (param i32) (result i32) (memory.size)))"#;
    let instance = host.instantiate(text).unwrap();
    assert_eq!(host.call::<i32>(instance, "grow", 1), -1);
    assert_eq!(host.call::<i32>(instance, "size", 0), 16);
}

#[test]
fn a_pinned_64_bit_memory_gets_a_slot_too() {
    let mut host = Host::of_pages(16);
    let text = r#"(module
        (memory i64 16 16)
        (func (export "load") (param i32) (result i32)
            (i32.load (i64.extend_i32_u (local.get 0)))))"#;
    let instance = host.instantiate(text).unwrap();
    assert_eq!(host.call::<i32>(instance, "load", (1 << 20) - 4), 0);
    let trap = host.trap(instance, "load", 1 << 20);
    assert_eq!(trap, Some(Trap::MemoryOutOfBounds));
}

#[test]
fn a_module_without_memory_takes_no_slot() {
    let mut host = Host::of_pages(16);
    host.instantiate(r#"(module (func (export "f")))"#).unwrap();
    assert_eq!(host.pool.statistics().loans, 0);
}

#[test]
fn nothing_of_a_module_runs_if_no_memory_is_free() {
    let mut host = Host::of_pages(16);
    let text = "(module (memory 16 16) (memory 16 16))";
    host.instantiate(text).unwrap();
    // If the start function had run, the error would be its trap.
    let error = host.refusal("(module (memory 16 16) (func $f unreachable) (start $f))");
    assert!(
        matches!(error, Error::Lend(LendError::NoSlot { slots: 2, .. })),
        "{error}"
    );
    host.end_block();
    host.instantiate(text).unwrap();
}

#[test]
fn a_module_refused_in_the_middle_gives_its_memories_back() {
    let mut host = Host::of_pages(16);
    let module = host.module("(module (memory 16 16) (memory 16 16) (memory 16 16))");
    // wasmtime's own function takes the slots one after the other.
    let refused = Instance::new(&mut host.store, &module, &[]);
    match refused.map_err(InstantiateError::from) {
        Err(InstantiateError::Memory(Error::Lend(LendError::NoSlot { .. }))) => {}
        other => panic!("{other:?}"),
    }
    host.end_block();
    assert_eq!(host.pool.statistics().lent, 0);
}

/// Writes a byte into every OS page of 4 GiB, and returns 0 if all of these bytes were zero before.
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
    assert!(is_zero(bytes));
    assert_eq!(resident_bytes(bytes).unwrap(), 4 << 30);
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
    let engine = engine(&pool, |_| {});
    let text = r#"(module
        (memory 64 64)
        (func (export "run") (param i32) (result i32)
            (i32.load8_u (i32.const 4194303))
            (memory.fill (i32.const 0) (local.get 0) (i32.const 4194304))))"#;
    let module = module(&engine, text);
    pool.verify(&module).unwrap();
    let pre = Linker::<()>::new(&engine).instantiate_pre(&module).unwrap();
    std::thread::scope(|scope| {
        for thread in 1..=8 {
            let (pool, pre, engine) = (&pool, &pre, &engine);
            scope.spawn(move || {
                for _ in 0..50 {
                    let mut store = Store::new(engine, ());
                    let instance = pre.instantiate(&mut store);
                    let instance = instance.map_err(InstantiateError::from).unwrap();
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

    /// The future does not wait for anything, so one poll is enough.
    fn finish<F: Future>(future: F) -> F::Output {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => output,
            Poll::Pending => panic!("nothing to wait for"),
        }
    }

    let _turn = one_at_a_time();
    let pool = MemoryPool::builder().pages(16).secure().unwrap();
    let engine = engine(&pool, |_| {});
    let module = module(&engine, r#"(module (memory (export "memory") 16 16))"#);
    let linker = Linker::<()>::new(&engine);
    let mut first = Store::new(&engine, ());
    let instance = finish(linker.instantiate_async(&mut first, &module)).unwrap();
    let memory = instance.get_memory(&mut first, "memory").unwrap();
    assert_eq!(resident_bytes(memory.data(&first)).unwrap(), 1 << 20);
    let mut second = Store::new(&engine, ());
    let refused = finish(linker.instantiate_async(&mut second, &module));
    match refused.map_err(InstantiateError::from) {
        Err(InstantiateError::Memory(Error::Lend(LendError::NoSlot { slots: 1, .. }))) => {}
        other => panic!("{other:?}"),
    }
}
