//! One module, instantiated a thousand times in one slot: resident memory stays the same, and page
//! faults end once the watermark fits the guest.
//!
//! Resident memory is counted for the whole process, so this test has its own binary.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![cfg(feature = "wasmtime")]

mod support;

use support::status_kib;
use wasm_prealloc_host::{MemoryPool, WasmtimePool};
use wasmtime::{Config, Linker, Module, Store};

#[test]
fn a_thousand_instances_use_the_same_memory_without_page_faults() {
    let pool = MemoryPool::builder().secure().unwrap();
    let engine = pool.engine(&mut Config::new()).unwrap();
    let linker = Linker::new(&engine);
    // 12 MiB at the bottom, and a page far above.
    let text = r#"(module
            (memory 65536 65536)
            (func (export "run") (param i32)
                (memory.fill (i32.const 0) (local.get 0) (i32.const 12582912))
                (i32.store (i32.const 0x80000000) (local.get 0))))"#;
    let module = Module::new(&engine, wat::parse_str(text).unwrap()).unwrap();
    let mut before = None;
    let mut disturbed = Vec::new();
    for block in 0..1000 {
        let mut store = Store::new(&engine, ());
        let instance = pool.instantiate(&linker, &mut store, &module).unwrap();
        let run = instance.get_typed_func::<i32, ()>(&mut store, "run");
        let run = run.unwrap();
        let faults = thread_faults();
        run.call(&mut store, 7).unwrap();
        let faults = thread_faults() - faults;
        // In the first block the watermark is low. The far page is tracked, which causes one page
        // fault each time, and one more after its huge page was split.
        if block > 1 && faults > 2 {
            disturbed.push((block, faults));
        }
        drop(store);
        match before {
            None => before = (block == 10).then(|| status_kib("VmRSS")),
            Some(before) => {
                let now = status_kib("VmRSS");
                assert!(
                    now.abs_diff(before) < 2048,
                    "block {block}: {before} then {now} KiB"
                );
            }
        }
    }
    assert_eq!(pool.statistics().watermark_resets, 1000);
    // The kernel can unmap a page at any time, of this program's code for instance, to reclaim or
    // to migrate it. The next access to such a page is a fault that the pool does not cause.
    assert!(
        disturbed.len() <= 5,
        "blocks with page faults: {disturbed:?}"
    );
}

/// Reads the number of minor page faults of this thread so far.
fn thread_faults() -> i64 {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    // The fields after the name in parentheses: state, 6 numbers, minor faults.
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    rest.split(' ').nth(7).unwrap().parse().unwrap()
}
