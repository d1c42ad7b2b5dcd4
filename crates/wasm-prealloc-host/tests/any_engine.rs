//! The example with another engine as a process: secured where there is enough memory, refused by
//! name where there is not.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;
use std::process::Output;

use wasm_prealloc_tests::MemoryGroup;

const MIB: u64 = 1 << 20;

/// The example's binary, which cargo builds with the tests, beside them.
fn binary() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let target = tests.parent().and_then(std::path::Path::parent).unwrap();
    target.join("examples/any_engine")
}

fn run(group: &MemoryGroup) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let guest = folder.path().join("guest.wasm");
    let text = r#"(module
        (memory (export "memory") 65536 65536)
        (data (i32.const 4000000000) "kept")
        (func (export "_start")
            (if (i32.ne (i32.load (i32.const 4000000000)) (i32.const 0x7470656b))
                (then unreachable))))"#;
    std::fs::write(&guest, wat::parse_str(text).unwrap()).unwrap();
    group.command(binary()).arg(&guest).output().unwrap()
}

#[test]
fn wasmis_memory_is_secured_in_place_or_refused() {
    let Some(group) = MemoryGroup::create_or_skip(4608 * MIB) else {
        return;
    };
    let output = run(&group);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{:?}: {stderr}",
        output.status
    );
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.contains("secured: 4294967296 bytes"), "{stdout}");
    assert!(stdout.contains("ran `_start`"), "{stdout}");

    group.set_limit(512 * MIB).unwrap();
    let output = run(&group);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        output.status.code(),
        Some(1),
        "{:?}: {stderr}",
        output.status
    );
    assert!(
        stderr.contains(group.limit_file().to_str().unwrap()),
        "{stderr}"
    );
    assert_eq!(group.oom_kills().unwrap(), 0);
}
