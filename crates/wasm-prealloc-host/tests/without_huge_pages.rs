//! A process without huge pages falls back to populating, unless it requires them.
//!
//! The setting applies to the whole process, so this test has its own binary.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
// A process disables its huge pages by prctl(2).
#![allow(unsafe_code)]

mod support;

use wasm_prealloc_host::{
    Backing, Method, Requirements, SecureError, SecuredRegion, resident_bytes,
};

#[test]
fn collapse_is_refused_and_memory_is_populated() {
    // SAFETY: the call changes how the kernel serves later page faults, and no contents.
    let result = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
    if result != 0 {
        let why = std::io::Error::last_os_error();
        return support::skipped(&format!("huge pages cannot be disabled: {why}"));
    }
    let mut requirements = Requirements::of_pages(4096);
    requirements.backing = Backing::Auto;
    let region = SecuredRegion::secure(&requirements).unwrap();
    assert_eq!(region.secured().how, Method::Populated);
    assert_eq!(resident_bytes(region.bytes()).unwrap(), 4096 << 16);
    assert!(region.bytes().iter().step_by(512).all(|&byte| byte == 0));

    requirements.backing = Backing::Transparent;
    match SecuredRegion::secure(&requirements) {
        Err(SecureError::NoHugePages {
            collapsed_bytes,
            needed_bytes,
        }) => assert_eq!((collapsed_bytes, needed_bytes), (0, 4096 << 16)),
        other => panic!("{other:?}"),
    }
}
