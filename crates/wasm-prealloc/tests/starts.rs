//! The start of growth that the caller gives, and rewrites of rewritten modules with other options.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use wasm_prealloc::{
    EmulateFrom, Error, Features, Growth, MemoryImportPolicy, Options, Warning, inspect, rewrite,
};

/// The default options, but for what `set` changes.
fn options(set: impl FnOnce(&mut Options)) -> Options {
    let mut options = Options::default();
    set(&mut options);
    options
}

#[test]
fn given_limits_apply_to_the_memories_that_other_modules_reach() {
    let text = r#"(module (import "env" "memory" (memory 2)) (memory 3 50)
        (func (drop (memory.grow 0 (i32.const 1))) (drop (memory.grow 1 (i32.const 1)))))"#;
    let options = options(|options| {
        options.memory_import = MemoryImportPolicy::Keep;
        options.emulate_from = EmulateFrom::Pages(17);
        options.emulate_to = Some(40);
    });
    let module = wat::parse_str(text).unwrap();
    let report = rewrite(&module, &options).unwrap().report;
    let growth: Vec<_> = report
        .memories
        .iter()
        .map(|m| m.growth.to_string())
        .collect();
    assert_eq!(
        growth,
        [
            "emulated from page 17 up to 40, counted at address 0xffff0000",
            "emulated from page 3 up to 50",
        ]
    );
}

#[test]
fn a_shared_start_at_the_heap_base_of_one_module_gives_a_warning() {
    let text = r#"(module (import "env" "memory" (memory 2))
        (global (export "__heap_base") i32 (i32.const 200000))
        (func (drop (memory.grow (i32.const 1)))))"#;
    let module = wat::parse_str(text).unwrap();
    let mut options = options(|options| {
        options.memory_import = MemoryImportPolicy::Keep;
        options.emulate_from = EmulateFrom::HeapBase;
    });
    let report = rewrite(&module, &options).unwrap().report;
    assert!(matches!(
        report.warnings[..],
        [Warning::OwnHeapBase { pages: 4, .. }]
    ));
    options.emulate_from = EmulateFrom::Pages(4);
    let report = rewrite(&module, &options).unwrap().report;
    assert!(matches!(report.warnings[..], [Warning::CapAssumed { .. }]));
}

#[test]
fn a_second_rewrite_that_replaces_kept_growth_is_recorded() {
    let module = wat::parse_str("(module (memory 2) (func (drop (memory.grow (i32.const 1)))))");
    let mut options = options(|options| {
        options.pages = 100;
        options.growth = Growth::Keep;
    });
    let kept = rewrite(&module.unwrap(), &options)
        .unwrap()
        .wasm
        .into_owned();
    options.growth = Growth::Auto;
    options.emulate_from = EmulateFrom::Pages(20);
    let emulated = rewrite(&kept, &options).unwrap().wasm.into_owned();
    let before = inspect(&emulated)
        .unwrap()
        .modules
        .remove(0)
        .memories
        .remove(0);
    let growth = before.growth_before.unwrap().to_string();
    assert_eq!(growth, "emulated from page 20 up to 100");
    // The added function contains the cap.
    options.pages = 200;
    let error = rewrite(&emulated, &options).unwrap_err();
    assert_eq!(error.kind(), "already-rewritten");
}

#[test]
fn the_size_that_leaves_room_for_a_counter_is_enough() {
    let text = r#"(module (memory (export "memory") 65530 65540 (pagesize 1))
        (func (drop (memory.grow (i32.const 1)))))"#;
    let module = wat::parse_str(text).unwrap();
    let mut options = options(|options| {
        options.features = Features::All;
        options.memory_import = MemoryImportPolicy::Keep;
        options.pages = 1;
    });
    let Err(Error::NoRoomForCounter { least, .. }) = rewrite(&module, &options) else {
        panic!();
    };
    assert_eq!(least, 2);
    options.pages = least;
    let growth = rewrite(&module, &options)
        .unwrap()
        .report
        .memories
        .remove(0)
        .growth;
    let expected = "emulated from page 65530 up to 65540, counted at address 0x1fff8";
    assert_eq!(growth.to_string(), expected);
}
