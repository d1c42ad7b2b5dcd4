//! The two hosts of `docs/migration.md`, on the same blocks of an unchanged guest, and under a limit.

use std::process::Output;

use wasm_prealloc_tests::chain::Block;
use wasm_prealloc_tests::{INDEXER, MIB, MemoryGroup, memory_lock};

use crate::processes::{expect_parts, expect_status};

/// Runs two blocks on the hosts before and after, each in a group.
fn run(limit_bytes: u64) -> Option<[(MemoryGroup, Output); 2]> {
    let blocks = [Block::new(10, 10), Block::new(1, 1)].map(Block::to_hexadecimal);
    let hosts = wasm_prealloc_tests::migration().unwrap();
    let [before, after] = hosts.map(|host| {
        let group = MemoryGroup::create_or_skip(limit_bytes)?;
        let mut command = group.command(host);
        command.arg(&INDEXER.natural.memory_stress).args(&blocks);
        let output = command.output().unwrap();
        Some((group, output))
    });
    Some([before?, after?])
}

#[test]
fn the_host_after_the_migration_gives_the_same_results_or_does_not_start() {
    let _lock = memory_lock().unwrap();
    // A block of 4 GiB, four views of 256 MiB, and 160 MiB for page tables, margins and the process.
    let Some([(_, before), (_, after)]) = run((4096 + 4 * 256 + 160) * MIB) else {
        return;
    };
    expect_status(&before, 0);
    expect_status(&after, 0);
    let stdout = String::from_utf8_lossy(&after.stdout);
    assert_eq!(String::from_utf8_lossy(&before.stdout), stdout);
    assert_eq!(stdout.matches(" bytes, true").count(), 2, "{stdout}");

    let Some([(group, before), (other, after)]) = run(64 * MIB) else {
        return;
    };
    // Killed in the middle of the first view.
    assert_eq!(before.status.code(), None, "{before:?}");
    assert_eq!(group.oom_kills().unwrap(), 1);
    let stderr = expect_status(&after, 1);
    expect_parts(&stderr, &[other.limit_file().to_str().unwrap()]);
    assert_eq!(other.oom_kills().unwrap(), 0);
}
