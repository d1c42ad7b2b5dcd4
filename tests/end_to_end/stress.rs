//! The stress guest on the indexer host and in Node: an ordinary program with an ordinary
//! allocator, up to the last hundred MiB of a 4 GiB memory.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use wasm_prealloc::{Growth, Options, rewrite};
use wasm_prealloc_tests::{repository, skipped};

use crate::{INDEXER, NATURAL, PINNED, machine};

/// A block: MiB an allocation and the number of allocations, u32 little-endian, in hexadecimal.
fn block(mib_each: u32, allocations: u32) -> String {
    let bytes = [mib_each.to_le_bytes(), allocations.to_le_bytes()].concat();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Blocks with what the guest stores for them.
const BLOCKS: [(u32, u32, &str); 3] = [
    (1, 50, "SUCCESS:50MB"),
    (50, 20, "SUCCESS:1000MB"),
    (100, 39, "SUCCESS:3900MB"),
];

fn index(module: &Path, database: &Path, blocks: &[String]) -> Output {
    let mut command = Command::new(&*INDEXER);
    command.arg(module).arg("--db").arg(database);
    for block in blocks {
        command.args(["--block", block]);
    }
    command.output().unwrap()
}

fn stored(database: &Path) -> String {
    let mut command = Command::new(&*INDEXER);
    let output = command
        .args(["--dump", "--db"])
        .arg(database)
        .output()
        .unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

/// Somebody else's module, linked by cargo alone and then rewritten, in a folder.
fn rewritten(growth: Growth, folder: &Path) -> PathBuf {
    let natural = std::fs::read(&NATURAL.memory_stress).unwrap();
    let mut options = Options::default();
    options.growth = growth;
    let module = folder.join("rewritten.wasm");
    std::fs::write(&module, &rewrite(&natural, &options).unwrap().wasm).unwrap();
    module
}

/// What must be stored for `BLOCKS`.
fn expected() -> String {
    let lines = BLOCKS.iter().enumerate();
    lines
        .map(|(height, (_, _, value))| format!("/memory-stress-result/{height} = {value}\n"))
        .collect()
}

#[test]
fn the_stress_guest_gets_all_of_its_memory() {
    let _machine = machine();
    let scratch = tempfile::tempdir().unwrap();
    let database = scratch.path().join("index.redb");
    let blocks = BLOCKS.map(|(mib, count, _)| block(mib, count));
    let output = index(&PINNED.memory_stress, &database, &blocks);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert_eq!(stored(&database), expected());
    // Once for all blocks: each takes the slot that the block before it gave back.
    assert_eq!(stderr.matches("(4096 MiB) resident").count(), 1, "{stderr}");
}

/// Its growth starts at its declared minimum.
#[test]
fn a_module_that_was_linked_without_us_works_too() {
    let _machine = machine();
    let scratch = tempfile::tempdir().unwrap();
    let module = rewritten(Growth::Auto, scratch.path());
    let database = scratch.path().join("index.redb");
    let output = index(&module, &database, &[block(50, 20)]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(
        stored(&database),
        "/memory-stress-result/0 = SUCCESS:1000MB\n"
    );
}

/// Why this project is more than a linker flag: with minimum = maximum and nothing else, the first
/// allocation of an ordinary guest fails.
#[test]
fn with_kept_growth_the_guest_cannot_allocate() {
    let _machine = machine();
    let scratch = tempfile::tempdir().unwrap();
    let module = rewritten(Growth::Keep, scratch.path());
    let database = scratch.path().join("index.redb");
    let output = index(&module, &database, &[block(1, 1)]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("unreachable"), "{stderr}");
    assert_eq!(stored(&database), "");
}

/// Runs a module on a block in Node; `None` where there is no Node.
fn in_node(module: &Path, height: usize, block: &str) -> Option<Output> {
    let host = repository().join("tests/fixtures/node/stress_host.mjs");
    let output = Command::new("node")
        .arg(host)
        .arg(module)
        .args(["--height", &height.to_string(), "--block", block])
        .output();
    match output {
        Ok(output) => Some(output),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            skipped("there is no `node` on PATH");
            None
        }
        Err(error) => panic!("node cannot be started: {error}"),
    }
}

#[test]
fn node_stores_what_the_indexer_stores() {
    let _machine = machine();
    for module in [&PINNED.memory_stress, &NATURAL.memory_stress] {
        for (height, (mib, count, value)) in BLOCKS.into_iter().enumerate() {
            let Some(output) = in_node(module, height, &block(mib, count)) else {
                return;
            };
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{stderr}");
            let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            let key = format!("/memory-stress-result/{height}");
            assert_eq!(
                result["flushed"],
                serde_json::json!([{ "key": key, "value": value }])
            );
            if *module == PINNED.memory_stress {
                let pages = [&result["pages_before"], &result["pages_after"]];
                assert_eq!(pages, [65_536, 65_536]);
            }
        }
    }
}

#[test]
fn with_kept_growth_the_guest_fails_in_node_too() {
    let _machine = machine();
    let scratch = tempfile::tempdir().unwrap();
    let module = rewritten(Growth::Keep, scratch.path());
    if let Some(output) = in_node(&module, 0, &block(1, 1)) {
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("unreachable"), "{stderr}");
    }
}
