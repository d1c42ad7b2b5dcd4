//! The host with wasmi: its memory is secured if there is enough, and refused by name if not.

use std::process::Output;

use wasm_prealloc_tests::{MIB, MemoryGroup, memory_lock};

use crate::processes::{expect_parts, expect_status};

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
    let host = wasm_prealloc_tests::any_engine().unwrap();
    group.command(host).arg(&guest).output().unwrap()
}

#[test]
fn wasmis_memory_is_secured_in_place_or_refused() {
    let _lock = memory_lock().unwrap();
    let Some(group) = MemoryGroup::create_or_skip(4608 * MIB) else {
        return;
    };
    let output = run(&group);
    expect_status(&output, 0);
    let stdout = String::from_utf8_lossy(&output.stdout);
    expect_parts(&stdout, &["secured: 4294967296 bytes", "ran `_start`"]);

    group.set_limit(512 * MIB).unwrap();
    let stderr = expect_status(&run(&group), 1);
    expect_parts(&stderr, &[group.limit_file().to_str().unwrap()]);
    assert_eq!(group.oom_kills().unwrap(), 0);
}
