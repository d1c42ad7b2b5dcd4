//! JavaScript glue that keeps sizes in 32 signed bits: it fails at 4 GiB, and works at the size that
//! the rewriter's warning names.

use std::process::{Command, Output};

use wasm_prealloc::{Options, Setting, Warning, rewrite};
use wasm_prealloc_tests::{repository, skipped};

/// A module whose memory the glue makes larger.
const MODULE: &str = r#"(module
    (memory (export "memory") 1)
    (func (export "load") (param i32) (result i32) (i32.load8_u (local.get 0)))
    (func (export "size") (result i32) (memory.size)))"#;

/// Uses a module in Node. Returns `None` if Node is not installed.
fn in_node(wasm: &[u8]) -> Option<Output> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("module.wasm");
    std::fs::write(&path, wasm).unwrap();
    let script = repository().join("tests/fixtures/node/signed_glue.mjs");
    match Command::new("node").arg(script).arg(path).output() {
        Ok(output) => Some(output),
        Err(error) => {
            skipped(&format!("cannot start node: {error}"));
            None
        }
    }
}

/// Returns the number of pages that the warning about the embedder advises.
fn advised(warnings: &[Warning]) -> Option<u64> {
    let remedies = warnings.iter().filter_map(Warning::remedy);
    let mut settings = remedies.flat_map(|remedy| remedy.settings().to_vec());
    settings.find_map(|setting| match setting {
        Setting::Pages { pages, .. } => pages,
        _ => None,
    })
}

#[test]
fn the_advised_size_is_enough_for_glue_with_signed_sizes() {
    let original = wat::parse_str(MODULE).unwrap();
    let Some(expected) = in_node(&original) else {
        return;
    };
    assert_eq!(expected.stdout, b"text true\n", "{expected:?}");

    let mut options = Options::default();
    let largest = rewrite(&original, &options).unwrap();
    let failed = in_node(&largest.wasm).unwrap();
    let stderr = String::from_utf8_lossy(&failed.stderr);
    assert!(stderr.contains("WebAssembly.Memory.grow()"), "{failed:?}");

    options.pages = advised(&largest.report.warnings).unwrap();
    let smaller = rewrite(&original, &options).unwrap();
    let output = in_node(&smaller.wasm).unwrap();
    assert_eq!(output.stdout, expected.stdout, "{output:?}");
    assert_eq!(advised(&smaller.report.warnings), None);
}
