//! The stress guest on the indexer host and in Node: a program with an ordinary allocator, which
//! allocates almost all of a 4 GiB memory.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use wasm_prealloc::{Growth, Options, rewrite};
use wasm_prealloc_tests::chain::Block;
use wasm_prealloc_tests::{INDEXER, memory_lock, repository, skipped};

use crate::processes::{expect_parts, expect_status};

/// Blocks, each with the value that the guest stores.
const BLOCKS: [(Block, &str); 3] = [
    (Block::new(1, 50), "SUCCESS:50MB"),
    (Block::new(50, 20), "SUCCESS:1000MB"),
    (Block::new(100, 39), "SUCCESS:3900MB"),
];

/// Runs blocks on the indexer, and checks its exit status. Returns the stored values and stderr.
fn index(module: &Path, blocks: &[Block], status: i32) -> (Vec<String>, String) {
    let database = INDEXER.new_database().unwrap();
    let mut command = Command::new(&INDEXER.program);
    command.arg(module).arg("--db").arg(&database);
    for block in blocks {
        command.args(["--block", &block.to_hexadecimal()]);
    }
    let stderr = expect_status(&command.output().unwrap(), status);
    assert!(database.exists(), "the indexer made no database: {stderr}");
    (INDEXER.stored(&database).unwrap(), stderr)
}

/// Rewrites a guest that cargo linked without this project's link arguments.
fn rewritten(growth: Growth) -> PathBuf {
    let natural = std::fs::read(&INDEXER.natural.memory_stress).unwrap();
    let mut options = Options::default();
    options.growth = growth;
    let module = INDEXER.scratch.join(format!("rewritten-{growth}.wasm"));
    std::fs::write(&module, &rewrite(&natural, &options).unwrap().wasm).unwrap();
    module
}

#[test]
fn the_stress_guest_allocates_almost_all_of_its_memory() {
    let _lock = memory_lock().unwrap();
    let blocks = BLOCKS.map(|(block, _)| block);
    let (stored, stderr) = index(&INDEXER.pinned.memory_stress, &blocks, 0);
    let lines = BLOCKS.iter().enumerate();
    let expected: Vec<String> = lines
        .map(|(height, (_, value))| format!("/memory-stress-result/{height} = {value}"))
        .collect();
    assert_eq!(stored, expected);
    // Memory is secured once for all blocks: each block uses the slot that the last one returned.
    assert_eq!(stderr.matches("(4096 MiB) resident").count(), 1, "{stderr}");
}

/// Growth starts at the declared minimum.
#[test]
fn a_rewritten_guest_works_without_the_link_arguments() {
    let _lock = memory_lock().unwrap();
    let (stored, _) = index(&rewritten(Growth::Auto), &[Block::new(50, 20)], 0);
    assert_eq!(stored, ["/memory-stress-result/0 = SUCCESS:1000MB"]);
}

/// The reason why a linker flag is not enough: if only minimum and maximum are set to 4 GiB, the first
/// allocation of an ordinary guest fails.
#[test]
fn with_keep_the_guest_cannot_allocate() {
    let _lock = memory_lock().unwrap();
    let (stored, stderr) = index(&rewritten(Growth::Keep), &[Block::new(1, 1)], 1);
    expect_parts(&stderr, &["unreachable"]);
    assert!(stored.is_empty(), "{stored:?}");
}

/// Runs a module on a block in Node. `None` if Node is not installed.
fn in_node(module: &Path, height: usize, block: Block) -> Option<Output> {
    let host = repository().join("tests/fixtures/node/stress_host.mjs");
    let output = Command::new("node")
        .arg(host)
        .arg(module)
        .args(["--height", &height.to_string()])
        .args(["--block", &block.to_hexadecimal()])
        .output();
    match output {
        Ok(output) => Some(output),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            skipped("there is no `node` on PATH");
            None
        }
        Err(error) => panic!("cannot start node: {error}"),
    }
}

#[test]
fn node_stores_the_same_values_as_the_indexer() {
    let _lock = memory_lock().unwrap();
    for guests in [&INDEXER.pinned, &INDEXER.natural] {
        let module = &guests.memory_stress;
        for (height, (block, value)) in BLOCKS.into_iter().enumerate() {
            let Some(output) = in_node(module, height, block) else {
                return;
            };
            expect_status(&output, 0);
            let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            let key = format!("/memory-stress-result/{height}");
            assert_eq!(
                result["flushed"],
                serde_json::json!([{ "key": key, "value": value }])
            );
            if *module == INDEXER.pinned.memory_stress {
                let pages = [&result["pages_before"], &result["pages_after"]];
                assert_eq!(pages, [65_536, 65_536]);
            }
        }
    }
}

#[test]
fn with_keep_the_guest_fails_in_node_too() {
    let _lock = memory_lock().unwrap();
    if let Some(output) = in_node(&rewritten(Growth::Keep), 0, Block::new(1, 1)) {
        expect_parts(&expect_status(&output, 1), &["unreachable"]);
    }
}
