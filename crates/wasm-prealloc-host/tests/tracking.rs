//! Write tracking in a sandbox: the system call, else the device, else everything is zeroed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![cfg(target_os = "linux")]

mod support;

use wasm_prealloc_host::{MemoryPool, TrackingError, TrackingInterface, write_tracking};

use support::{deny_system_calls, in_child_process, is_zero, skipped};

/// Runs blocks in a pool, and checks that each is zeroed and by which interface it was tracked.
fn run_blocks(expected: Option<TrackingInterface>) {
    let pool = MemoryPool::builder().pages(256).secure().unwrap();
    assert_eq!(pool.tracking(), expected);
    for _ in 0..5 {
        let mut memory = pool.lend(256, Some(256)).unwrap();
        assert!(is_zero(memory.bytes()));
        memory.bytes_mut()[..5 << 20].fill(1);
        memory.bytes_mut()[9 << 20] = 1;
    }
    let now = pool.statistics();
    let by = [now.watermark_resets, now.full_resets];
    assert_eq!(by, if expected.is_some() { [5, 0] } else { [0, 5] });
}

#[test]
fn the_device_is_used_where_the_system_call_is_denied() {
    for (errno, variable) in [
        (libc::EPERM, "WASM_PREALLOC_TEST_EPERM"),
        (libc::ENOSYS, "WASM_PREALLOC_TEST_ENOSYS"),
    ] {
        let denied = std::env::var_os(variable).is_some();
        let other = !denied && std::env::vars_os().any(|(name, _)| is_ours(&name));
        if other {
            continue;
        }
        let name = "the_device_is_used_where_the_system_call_is_denied";
        if in_child_process(name, variable) {
            continue;
        }
        let supported = write_tracking();
        deny_system_calls(&[(libc::SYS_userfaultfd, errno)]);
        match (supported, write_tracking()) {
            (_, Ok(interface)) => {
                assert_eq!(interface, TrackingInterface::Device);
                run_blocks(Some(interface));
            }
            (_, Err(error @ TrackingError::Denied { .. })) => {
                assert!(error.to_string().contains("seccomp"), "{error}");
                run_blocks(None);
                skipped(&format!("/dev/userfaultfd cannot be used here: {error}"));
            }
            (_, Err(error)) => {
                run_blocks(None);
                skipped(&error.to_string());
            }
        }
    }
}

fn is_ours(name: &std::ffi::OsStr) -> bool {
    name.to_string_lossy().starts_with("WASM_PREALLOC_TEST_")
}

#[test]
fn without_either_interface_everything_is_zeroed_and_the_reason_is_said() {
    let name = "without_either_interface_everything_is_zeroed_and_the_reason_is_said";
    if in_child_process(name, "WASM_PREALLOC_TEST_DENIED") {
        return;
    }
    // ioctl(2) makes userfaultfds of the device, and nothing else here needs it.
    deny_system_calls(&[
        (libc::SYS_userfaultfd, libc::EPERM),
        (libc::SYS_ioctl, libc::EACCES),
    ]);
    match write_tracking() {
        Err(error @ TrackingError::Denied { .. }) => {
            let text = error.to_string();
            for part in [
                "userfaultfd(2) failed (Operation not permitted",
                "CommitMaximum",
            ] {
                assert!(text.contains(part), "{text}");
            }
        }
        other => panic!("{other:?}"),
    }
    run_blocks(None);
}
