//! Modules with the legacy exception-handling instructions, which wasmtime does not run, compared with
//! their rewrites in Node.

use std::collections::BTreeMap;
use std::process::Command;

use wasm_prealloc_fuzzing::{for_each_seed, generate_legacy};
use wasm_prealloc_tests::{repository, skipped};

const SEEDS: u64 = 300;

#[test]
fn modules_with_legacy_exceptions_behave_as_their_rewrites_in_node() {
    let folder = tempfile::tempdir().unwrap();
    for_each_seed(0..SEEDS, |seed| {
        let pair = generate_legacy(seed);
        let pair = pair.unwrap_or_else(|error| panic!("seed {seed}: {error:?}"));
        let Some(pair) = pair else {
            return;
        };
        for (kind, wasm) in [("reference", pair.reference), ("rewritten", pair.rewritten)] {
            let name = format!("{seed}.{kind}.wasm");
            std::fs::write(folder.path().join(name), wasm).unwrap();
        }
    });
    let output = Command::new("node")
        .arg(repository().join("tests/fixtures/node/compare.mjs"))
        .arg(folder.path())
        .arg(SEEDS.to_string())
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => return skipped(&format!("cannot start node: {error}")),
    };
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let counts: BTreeMap<String, u64> = serde_json::from_slice(&output.stdout).unwrap();
    println!("{counts:?}");
    for (kind, least) in [("cases", 400), ("calls", 2_000), ("grew", 200)] {
        assert!(counts[kind] >= least, "{counts:?}");
    }
}
