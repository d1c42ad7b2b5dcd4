//! Two core modules that share a memory, linked in Node: rewritten with the same answers, they have one
//! counter.

use std::path::Path;
use std::process::Command;

use wasm_prealloc::{EmulateFrom, Error, MemoryImportPolicy, Options, rewrite};
use wasm_prealloc_tests::{repository, skipped};

/// Defines, exports and grows the memory.
const DEFINES: &str = r#"(module
    (memory (export "memory") 3 20)
    (data (i32.const 131072) "data of the first module")
    (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
    (func (export "size") (result i32) (memory.size))
    (func (export "load") (param i32) (result i32) (i32.load8_u (local.get 0))))"#;

/// Imports the memory, with a smaller minimum as linkers write it, and grows it.
const GROWS: &str = r#"(module
    (import "first" "memory" (memory 1 20))
    (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
    (func (export "size") (result i32) (memory.size)))"#;

/// Imports the memory and measures it.
const MEASURES: &str = r#"(module
    (import "first" "memory" (memory 0 20))
    (func (export "size") (result i32) (memory.size)))"#;

/// Links modules in Node and makes the same calls each time. Returns the results, or `None` if Node is
/// not installed.
fn in_node(folder: &Path, modules: &[Vec<u8>; 3]) -> Option<String> {
    let mut command = Command::new("node");
    command.arg(repository().join("tests/fixtures/node/linked.mjs"));
    for (index, wasm) in modules.iter().enumerate() {
        let path = folder.join(format!("{index}.wasm"));
        std::fs::write(&path, wasm).unwrap();
        command.arg(path);
    }
    match command.output() {
        Ok(output) => {
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{stderr}");
            Some(String::from_utf8(output.stdout).unwrap())
        }
        Err(error) => {
            skipped(&format!("cannot start node: {error}"));
            None
        }
    }
}

#[test]
fn modules_that_are_linked_in_node_share_one_counter() {
    let modules = [DEFINES, GROWS, MEASURES].map(|text| wat::parse_str(text).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let Some(expected) = in_node(folder.path(), &modules) else {
        return;
    };
    let mut options = Options::default();
    options.pages = 1024;
    options.memory_import = MemoryImportPolicy::Keep;
    // The minimum of the module that defines the memory.
    options.emulate_from = EmulateFrom::Pages(3);
    let rewritten = modules
        .each_ref()
        .map(|wasm| rewrite(wasm, &options).unwrap());
    let rewritten = rewritten.map(|rewritten| rewritten.wasm.into_owned());
    let found = in_node(folder.path(), &rewritten).unwrap();
    assert_eq!(found, expected);
    assert_eq!(expected.lines().next(), Some("first.size 3"), "{expected}");
    assert!(expected.contains("second.grow -1"), "{expected}");
}

#[test]
fn a_module_that_grows_an_imported_memory_is_refused_by_name() {
    let module = wat::parse_str(GROWS).unwrap();
    let error = rewrite(&module, &Options::default()).unwrap_err();
    assert!(
        matches!(error, Error::ImportedMemoryGrows { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("`first` `memory`"), "{error}");

    // The caller must say where growth starts: the import's minimum is not that of the memory.
    let mut options = Options::default();
    options.memory_import = MemoryImportPolicy::Keep;
    let error = rewrite(&module, &options).unwrap_err();
    assert!(
        matches!(error, Error::ImportedStartUnknown { .. }),
        "{error}"
    );
    options.emulate_from = EmulateFrom::Declared;
    rewrite(&module, &options).unwrap();
}
