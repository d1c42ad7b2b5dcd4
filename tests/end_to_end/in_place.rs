//! Memory that an engine mapped itself, in memory cgroups: it is secured for real or refused, and
//! the writes after that never end in a kill.

use std::process::Output;

use wasm_prealloc_tests::{MIB, MemoryGroup};

use crate::processes::{expect_parts, expect_status};

const SIZE_MIB: u64 = 48;

fn run(group: &MemoryGroup, kind: &str) -> Output {
    let host = wasm_prealloc_tests::in_place().unwrap();
    let mut command = group.command(host);
    command
        .args([kind, &SIZE_MIB.to_string()])
        .output()
        .unwrap()
}

/// Runs the host at limits below and above its need. The image is charged to the group too.
#[track_caller]
fn sweep(kind: &str, image_mib: u64) {
    let Some(group) = MemoryGroup::create_or_skip((SIZE_MIB + image_mib + 32) * MIB) else {
        return;
    };
    let (mut secured, mut refused) = (0, 0);
    for limit in (image_mib + 8..image_mib + SIZE_MIB + 32).step_by(4) {
        group.set_limit(limit * MIB).unwrap();
        let output = run(&group, kind);
        match output.status.code() {
            Some(0) => {
                secured += 1;
                assert!(limit >= SIZE_MIB + image_mib, "{kind}: {limit} MiB");
                let stdout = String::from_utf8_lossy(&output.stdout);
                let before = "resident before: 0 bytes";
                expect_parts(&stdout, &[before, "secured: 50331648 bytes", "written"]);
            }
            _ => {
                refused += 1;
                let stderr = expect_status(&output, 1);
                expect_parts(&stderr, &[group.limit_file().to_str().unwrap()]);
            }
        }
    }
    assert!(secured > 0 && refused > 0, "{kind}: {secured}, {refused}");
    assert_eq!(group.oom_kills().unwrap(), 0, "{kind}");
}

#[test]
fn untouched_memory_is_secured_or_refused() {
    sweep("fresh", 0);
}

#[test]
fn memory_that_was_only_read_is_secured_or_refused() {
    sweep("read", 0);
}

#[test]
fn a_private_image_of_a_file_is_secured_or_refused() {
    sweep("image", SIZE_MIB);
}

#[test]
fn shared_memory_is_refused_by_name() {
    let Some(group) = MemoryGroup::create_or_skip(256 * MIB) else {
        return;
    };
    let stderr = expect_status(&run(&group, "shared"), 1);
    expect_parts(&stderr, &["MAP_SHARED", "MAP_PRIVATE"]);
}
