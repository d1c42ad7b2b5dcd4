//! Real threads that grow one shared memory at the same time, in wasmtime and in Node: no page is
//! granted twice, and sizes only rise. The original and the rewritten module give the same answers.

use std::process::Command;

use wasm_prealloc::{EmulateFrom, GrowthHandling, MemoryImportPolicy, Options, rewrite};
use wasm_prealloc_tests::{repository, skipped};
use wasmtime::{Config, Engine, Instance, MemoryTypeBuilder, Module, SharedMemory, Store};

/// The number of threads, and of the growths that each of them makes.
const THREADS: u32 = 8;
const GROWTHS: u32 = 1_000;

/// The growths by 0 pages before each growth. Without them the threads hardly overlap.
const IDLE_GROWTHS: u32 = 300;

/// The pages at the start. Each thread has one for its results.
const START: u32 = 10;

/// The most pages, which some of the growths reach.
const CAP: u32 = START + THREADS * GROWTHS - 100;

/// A module whose `run` grows the memory many times, by one page each, and stores each result. It
/// waits first until all threads have started, and traps if the size falls.
fn growing() -> Vec<u8> {
    let text = format!(
        r#"(module
        (import "env" "memory" (memory 1 {CAP} shared))
        (func (export "run") (param $thread i32)
            (local $place i32) (local $left i32) (local $old i32) (local $size i32) (local $seen i32)
            (local $idle i32)
            (local.set $place (i32.shl (i32.add (local.get $thread) (i32.const 1)) (i32.const 16)))
            (local.set $left (i32.const {GROWTHS}))
            (drop (i32.atomic.rmw.add (i32.const 0) (i32.const 1)))
            (loop $wait
                (br_if $wait (i32.lt_u (i32.atomic.load (i32.const 0)) (i32.const {THREADS}))))
            (loop $next
                ;; Growths by nothing. A counter that is not atomic loses other growths to them.
                (local.set $idle (i32.const {IDLE_GROWTHS}))
                (loop $again
                    (drop (memory.grow (i32.const 0)))
                    (local.set $idle (i32.sub (local.get $idle) (i32.const 1)))
                    (br_if $again (local.get $idle)))
                (local.set $old (memory.grow (i32.const 1)))
                (local.set $size (memory.size))
                (if (i32.lt_u (local.get $size) (local.get $seen)) (then unreachable))
                (local.set $seen (local.get $size))
                (if (i32.ne (local.get $old) (i32.const -1))
                    (then
                        (if (i32.ge_u (local.get $old) (local.get $size)) (then unreachable))
                        ;; The granted page has this thread's number, and no other thread's.
                        (if (i32.atomic.rmw.xchg
                                (i32.shl (local.get $old) (i32.const 16))
                                (i32.add (local.get $thread) (i32.const 1)))
                            (then unreachable))))
                (i32.store (local.get $place) (local.get $old))
                (local.set $place (i32.add (local.get $place) (i32.const 4)))
                (local.set $left (i32.sub (local.get $left) (i32.const 1)))
                (br_if $next (local.get $left))))
        (func (export "load") (param i32) (result i32) (i32.load (local.get 0)))
        (func (export "size") (result i32) (memory.size)))"#
    );
    wat::parse_str(text).unwrap()
}

/// The module, and its rewrite for an embedder that provides more pages than the import declares.
fn modules() -> [(&'static str, Vec<u8>, u32); 2] {
    let original = growing();
    let mut options = Options::default();
    options.pages = 16_384;
    options.memory_import = MemoryImportPolicy::Keep;
    options.emulate_from = EmulateFrom::Pages(START.into());
    let rewritten = rewrite(&original, &options).unwrap();
    let growth = &rewritten.report.memories[0].growth;
    let GrowthHandling::Emulated {
        address: Some(_), ..
    } = growth
    else {
        panic!("{growth:?}");
    };
    let rewritten = rewritten.wasm.into_owned();
    [
        ("original", original, START),
        ("rewritten", rewritten, 16_384),
    ]
}

/// Checks the results of all growths, and the size at the end.
fn check(name: &str, results: &[Vec<u32>], size: u32) {
    const FAILED: u32 = u32::MAX;
    for results in results {
        assert_eq!(results.len(), GROWTHS as usize, "{name}");
        let granted = results.iter().filter(|old| **old != FAILED);
        assert!(
            granted.is_sorted(),
            "{name}: a thread saw the size fall: {results:?}"
        );
    }
    let mut all: Vec<u32> = results.concat();
    all.retain(|old| *old != FAILED);
    all.sort_unstable();
    let expected: Vec<u32> = (START..CAP).collect();
    assert_eq!(all, expected, "{name}");
    assert_eq!(size, CAP, "{name}");
}

#[test]
fn eight_threads_that_grow_a_memory_never_get_the_same_page_in_wasmtime() {
    for (name, wasm, minimum) in modules() {
        let mut config = Config::new();
        config.wasm_threads(true).shared_memory(true);
        let engine = Engine::new(&config).unwrap();
        let module = Module::new(&engine, wasm).unwrap();
        let maximum = if name == "original" { CAP } else { minimum };
        let mut ty = MemoryTypeBuilder::default();
        ty.shared(true)
            .min(minimum.into())
            .max(Some(maximum.into()));
        let memory = SharedMemory::new(&engine, ty.build().unwrap()).unwrap();
        let instance = || {
            let mut store = Store::new(&engine, ());
            let memory = memory.clone().into();
            let instance = Instance::new(&mut store, &module, &[memory]).unwrap();
            (store, instance)
        };
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                scope.spawn(move || {
                    let (mut store, instance) = instance();
                    let run = instance
                        .get_typed_func::<u32, ()>(&mut store, "run")
                        .unwrap();
                    run.call(&mut store, thread).unwrap();
                });
            }
        });
        let (mut store, instance) = instance();
        let load = instance
            .get_typed_func::<u32, u32>(&mut store, "load")
            .unwrap();
        let size = instance
            .get_typed_func::<(), u32>(&mut store, "size")
            .unwrap();
        let mut results = Vec::new();
        for thread in 0..THREADS {
            let place = |index| ((thread + 1) << 16) + 4 * index;
            let result = |index| load.call(&mut store, place(index)).unwrap();
            results.push((0..GROWTHS).map(result).collect());
        }
        check(name, &results, size.call(&mut store, ()).unwrap());
    }
}

#[test]
fn eight_threads_that_grow_a_memory_never_get_the_same_page_in_node() {
    let folder = tempfile::tempdir().unwrap();
    for (name, wasm, minimum) in modules() {
        let path = folder.path().join(format!("{name}.wasm"));
        std::fs::write(&path, wasm).unwrap();
        let maximum = if name == "original" { CAP } else { minimum };
        let output = Command::new("node")
            .arg(repository().join("tests/fixtures/node/growing_threads.mjs"))
            .arg(&path)
            .args([minimum, maximum, THREADS, GROWTHS].map(|number| number.to_string()))
            .output();
        let output = match output {
            Ok(output) => output,
            Err(error) => return skipped(&format!("cannot start node: {error}")),
        };
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {stderr}");
        let found: (Vec<Vec<u32>>, u32) = serde_json::from_slice(&output.stdout).unwrap();
        check(name, &found.0, found.1);
    }
}
