//! Limits around what a 4 GiB memory needs: it is secured, or refused by name; nobody is killed.

use std::os::unix::process::ExitStatusExt as _;

use wasm_prealloc_tests::MemoryGroup;

use crate::{INDEXER, PINNED, machine};

const MIB: u64 = 1 << 20;

#[test]
fn from_far_too_little_to_enough_nobody_is_killed() {
    const LIMITS_MIB: [u64; 18] = [
        64, 96, 128, 256, 512, 1024, 1536, 2048, 2560, 3072, 3584, 4000, 4096, 4104, 4112, 4128,
        4144, 4160,
    ];
    let _machine = machine();
    if MemoryGroup::create_or_skip(MIB).is_none() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    for limit in LIMITS_MIB {
        let group = MemoryGroup::create(limit * MIB).unwrap();
        let output = group
            .command(&*INDEXER)
            .arg(&PINNED.memory_stress)
            // 10 allocations of 20 MiB.
            .args(["--block", "140000000a000000", "--db"])
            .arg(scratch.path().join(format!("{limit}.redb")))
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.signal(), None, "{limit} MiB: {stderr}");
        assert_eq!(group.oom_kills().unwrap(), 0, "{limit} MiB: {stderr}");
        match output.status.code() {
            Some(0) => {
                assert!(limit > 4096, "{limit} MiB cannot hold 4 GiB: {stderr}");
                assert!(
                    stderr.contains("(4096 MiB) resident"),
                    "{limit} MiB: {stderr}"
                );
            }
            Some(1) => {
                let file = group.limit_file().display().to_string();
                assert!(stderr.contains(&file), "{limit} MiB: {stderr}");
                let value = format!("limit {} bytes", limit * MIB);
                assert!(stderr.contains(&value), "{limit} MiB: {stderr}");
            }
            other => panic!("{limit} MiB: exit status {other:?}: {stderr}"),
        }
    }
}
