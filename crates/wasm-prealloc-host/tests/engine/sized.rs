//! Enforced sizes: an unchanged module in its committed maximum.

use wasm_prealloc_host::{Policy, PolicyError, WasmtimePool};
use wasmtime::{Linker, Trap};

use crate::Host;

/// A module that grows, reads and writes on request.
const UNCHANGED: &str = r#"(module
    (memory (export "memory") 3 512)
    (data (i32.const 5) "segment")
    (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
    (func (export "size") (param i32) (result i32) (memory.size))
    (func (export "load") (param i32) (result i32) (i32.load8_u (local.get 0)))
    (func (export "store") (param i32) (i32.store8 (local.get 0) (i32.const 0xa5))))"#;

#[test]
fn an_unchanged_module_sees_its_own_size_and_grows_to_its_maximum() {
    let mut host = Host::new(512, Policy::CommitMaximum);
    let module = host.module(UNCHANGED);
    for block in 0..3 {
        let linker = Linker::new(&host.engine);
        let instance = host.pool.instantiate(&linker, &mut host.store, &module);
        let instance = instance.unwrap();
        let mut pages = 3;
        for delta in [1, 31, 100, 377] {
            let size = host.call::<i32>(instance, "size", 0);
            assert_eq!(size, pages, "block {block}");
            // The last byte is new and zero; an access to the next one traps.
            let last = (pages << 16) - 1;
            assert_eq!(host.call::<i32>(instance, "load", last), 0);
            host.call::<()>(instance, "store", last);
            let trap = host.trap(instance, "load", last + 1);
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
        let Some(PolicyError::SlotTooSmall {
            slot_pages: 512, ..
        }) = error.policy()
        else {
            panic!("{declared}: {text}");
        };
        assert!(text.contains("wasm-prealloc rewrite --pages 512"), "{text}");
    }
    Host::new(512, Policy::CommitMaximum)
        .instantiate("(module (memory 0 512))")
        .unwrap();
}
