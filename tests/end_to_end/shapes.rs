//! Different kinds of modules, rewritten and run: with 64-bit memories, several memories, imported
//! memories, custom page sizes, and the exported function that commits.

use wasm_prealloc::{
    EmulateFrom, Error, Features, Growth, MemoryImportPolicy, Options, rewrite, verify,
};
use wasm_prealloc_host::resident_bytes;
use wasmtime::{Instance, Memory, MemoryType, Module, Store, Val};

use crate::running::{Running, engine};

const PAGE: u64 = 65_536;

/// Returns a module and its rewrite to 64 MiB.
fn both(text: &str, change: impl FnOnce(&mut Options)) -> [Vec<u8>; 2] {
    let original = wat::parse_str(text).unwrap();
    let mut options = Options::default();
    options.pages = 1024;
    options.features = Features::All;
    change(&mut options);
    let rewritten = rewrite(&original, &options).unwrap().wasm.into_owned();
    verify(&rewritten, 1024).unwrap();
    [original, rewritten]
}

/// Makes the same calls on both modules, and compares the results.
fn compare([original, rewritten]: [Vec<u8>; 2], calls: &[(&str, Val)]) {
    let (mut before, mut after) = (Running::new(&original), Running::new(&rewritten));
    for (name, arg) in calls {
        let args = [*arg];
        let expected = before.call_as_text(name, &args);
        assert_eq!(after.call_as_text(name, &args), expected, "{name}({arg:?})");
    }
}

#[test]
fn a_64_bit_memory_grows_as_before() {
    let modules = both(
        r#"(module (memory i64 1 100)
            (func (export "grow") (param i64) (result i64 i64)
              (memory.grow (local.get 0)) (memory.size)))"#,
        |_| {},
    );
    let deltas = [0, 1, 50, 100, i64::MAX, i64::MIN, -1, 48, 1, 0];
    compare(modules, &deltas.map(|delta| ("grow", Val::I64(delta))));
}

#[test]
fn several_memories_grow_independently() {
    let modules = both(
        r#"(module (memory $a 1 10) (memory $b 2 5) (memory $c i64 0 3) (memory $d 4 4)
            (func (export "a") (param i32) (result i32) (memory.grow $a (local.get 0)))
            (func (export "b") (param i32) (result i32) (memory.grow $b (local.get 0)))
            (func (export "c") (param i64) (result i64) (memory.grow $c (local.get 0)))
            (func (export "all") (param i32) (result i32 i32 i64)
              (memory.size $a) (memory.size $b) (memory.size $c)))"#,
        |_| {},
    );
    let calls = [
        ("a", Val::I32(2)),
        ("b", Val::I32(2)),
        ("all", Val::I32(0)),
        ("b", Val::I32(2)),
        ("c", Val::I64(3)),
        ("c", Val::I64(1)),
        ("a", Val::I32(7)),
        ("a", Val::I32(1)),
        ("all", Val::I32(0)),
    ];
    compare(modules, &calls);
}

#[test]
fn a_memory_with_pages_of_one_byte_grows_by_bytes() {
    let modules = both(
        r#"(module (memory 3 5000 (pagesize 1))
            (func (export "grow") (param i32) (result i32 i32)
              (memory.grow (local.get 0)) (memory.size)))"#,
        |_| {},
    );
    let deltas = [1, 4000, 996, 997, 0, -1, 1000, 996, 1];
    compare(modules, &deltas.map(|delta| ("grow", Val::I32(delta))));
}

const IMPORTING: &str = r#"(module
    (import "env" "memory" (memory 1 10))
    (func (export "grow") (param i32) (result i32 i32)
      (memory.grow (local.get 0)) (memory.size))
    (data (i32.const 7) "\2a"))"#;

#[test]
fn an_imported_memory_is_refused_and_with_keep_it_is_counted() {
    let original = wat::parse_str(IMPORTING).unwrap();
    let error = rewrite(&original, &Options::default()).unwrap_err();
    assert!(
        matches!(error, Error::ImportedMemoryGrows { .. }),
        "{error}"
    );

    let [_, kept] = both(IMPORTING, |options| {
        options.memory_import = MemoryImportPolicy::Keep;
        options.emulate_from = EmulateFrom::Declared;
    });
    let engine = engine();
    let module = Module::new(&engine, kept).unwrap();
    let mut store = Store::new(&engine, ());
    let imported = Memory::new(&mut store, MemoryType::new(1024, Some(1024))).unwrap();
    let instance = Instance::new(&mut store, &module, &[imported.into()]).unwrap();
    let mut kept = Running { store, instance };
    for (delta, expected) in [
        (4, "[I32(1), I32(5)]"),
        (6, "[I32(-1), I32(5)]"),
        (5, "[I32(5), I32(10)]"),
    ] {
        assert_eq!(kept.call_as_text("grow", &[Val::I32(delta)]), expected);
    }
    assert_eq!(imported.data(&kept.store)[7], 42);
}

#[test]
fn with_define_an_imported_memory_is_defined() {
    let text = r#"(module
        (import "env" "f" (func))
        (import "env" "first" (memory $first 1 10))
        (import "env" "second" (memory $second 2 20))
        (import "env" "g" (global i32))
        (memory $own 3 30)
        (export "first" (memory $first))
        (func (export "sizes") (param i32) (result i32 i32 i32 i32)
          (memory.grow $second (local.get 0))
          (memory.size $first) (memory.size $second) (memory.size $own))
        (data (memory $second) (i32.const 9) "\07"))"#;
    let [_, defined] = both(text, |o| o.memory_import = MemoryImportPolicy::Define);
    let module = Module::new(&engine(), &defined).unwrap();
    let imports: Vec<_> = module.imports().map(|import| import.name()).collect();
    assert_eq!(imports, ["f", "g"]);
    let mut defined = Running::new(&defined);
    // The exported memory that the module only measures reads as grown, and the private one has its
    // declared minimum. The memory that the module grows starts at its declared minimum.
    let sizes = defined.call_as_text("sizes", &[Val::I32(3)]);
    assert_eq!(sizes, "[I32(2), I32(10), I32(5), I32(3)]");
    for (name, address, byte) in [("first", 0, 0), ("second", 9, 7)] {
        let memory = defined.memory(name);
        assert_eq!(memory.len() as u64, 1024 * PAGE);
        assert_eq!(memory[address], byte, "{name}");
    }
}

#[test]
fn the_exported_commit_touches_every_page_and_keeps_the_contents() {
    let text = r#"(module
        (memory (export "a") 1 10) (memory (export "b") i64 1) (memory 0 4 (pagesize 1))
        (data (i32.const 4095) "edge"))"#;
    let export = |options: &mut Options| options.export_commit = Some("commit".to_owned());
    let [_, wasm] = both(text, export);
    let mut running = Running::new(&wasm);
    let resident = |running: &mut Running, name: &str| {
        let data = running.memory(name);
        assert_eq!(data.len() as u64, 1024 * PAGE);
        resident_bytes(data).unwrap()
    };
    for name in ["a", "b"] {
        let resident = resident(&mut running, name);
        assert!(resident < PAGE, "{name} is committed too early");
    }
    assert_eq!(running.call_as_text("commit", &[]), "[]");
    for name in ["a", "b"] {
        assert_eq!(resident(&mut running, name), 1024 * PAGE);
    }
    let data = running.memory("a");
    assert_eq!(&data[4095..4099], b"edge");
    assert!(data[4099..].iter().all(|byte| *byte == 0));

    // A second rewrite changes nothing. A name that is exported already is refused.
    let mut options = Options::default();
    options.pages = 1024;
    options.features = Features::All;
    export(&mut options);
    assert_eq!(rewrite(&wasm, &options).unwrap().wasm, wasm);
    options.export_commit = Some("a".to_owned());
    let error = rewrite(&wasm, &options).unwrap_err();
    assert!(matches!(error, Error::ExportExists { .. }), "{error}");
}

#[test]
fn the_growth_of_a_shared_memory_is_counted_in_its_last_page() {
    let handling = |text: &str, growth: Growth| {
        let mut options = Options::default();
        options.growth = growth;
        let module = wat::parse_str(text).unwrap();
        let rewritten = rewrite(&module, &options).unwrap();
        rewritten.report.memories[0].growth.to_string()
    };
    let measured =
        r#"(module (memory 1 20 shared) (func (export "size") (result i32) (memory.size)))"#;
    assert_eq!(handling(measured, Growth::Auto), "fixed at 1 page");
    let grown = "(module (memory 1 20 shared) (func (drop (memory.grow (i32.const 1)))))";
    for (growth, expected) in [
        (
            Growth::Auto,
            "emulated from page 1 up to 20, counted at address 0xffff0000",
        ),
        (
            Growth::Emulate,
            "emulated from page 1 up to 20, counted at address 0xffff0000",
        ),
        (Growth::Pregrown, "kept"),
        (Growth::Keep, "kept"),
    ] {
        assert_eq!(handling(grown, growth), expected, "{growth}");
    }
}
