//! A process that may not have huge pages falls back to populating, unless it insists on them.
//!
//! The setting is the whole process's, so this test has a binary of its own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
// prctl(2) is how a process gives up huge pages.
#![allow(unsafe_code)]

use wasm_prealloc_host::{Backing, Error, Method, Requirements, SecuredRegion, resident_bytes};

#[test]
fn collapse_is_refused_and_memory_is_populated() {
    // SAFETY: the call changes how later page faults are served, and nothing that can be read.
    let result = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
    if result != 0 {
        let why = std::io::Error::last_os_error();
        return wasm_prealloc_tests::skipped(&format!("huge pages cannot be given up: {why}"));
    }
    let mut requirements = Requirements::of_pages(4096);
    requirements.backing = Backing::Auto;
    let region = SecuredRegion::secure(&requirements).unwrap();
    assert_eq!(region.secured().how, Method::Populated);
    assert_eq!(resident_bytes(region.bytes()).unwrap(), 4096 << 16);
    assert!(region.bytes().iter().step_by(512).all(|&byte| byte == 0));

    requirements.backing = Backing::Transparent;
    match SecuredRegion::secure(&requirements) {
        Err(Error::NoHugePages {
            collapsed_bytes,
            needed_bytes,
        }) => assert_eq!((collapsed_bytes, needed_bytes), (0, 4096 << 16)),
        other => panic!("{other:?}"),
    }
}
