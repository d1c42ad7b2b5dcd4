//! Resets on a thread of the pool, and pools in children that fork(2) makes.
#![allow(unsafe_code, reason = "tests of system calls")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![cfg(target_os = "linux")]

mod support;

use std::time::{Duration, Instant};

use wasm_prealloc_host::{
    LendError, MemoryPool, Policy, Reset, SecureError, Tracking, WhenExhausted,
};

use support::{in_child_process, is_zero, one_at_a_time, skipped, status_kib};

const MIB: usize = 1 << 20;

fn builder(slots: usize) -> wasm_prealloc_host::MemoryPoolBuilder {
    let builder = MemoryPool::builder().slots(slots).pages(1024);
    builder.tracking(Tracking::Off).reset(Reset::Background)
}

/// Waits until no slot is being reset.
fn settle(pool: &MemoryPool) {
    let since = Instant::now();
    while pool.statistics().resetting > 0 {
        assert!(since.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_slot_that_is_being_reset_is_neither_lent_nor_free_and_is_waited_for() {
    let _turn = one_at_a_time();
    for when_exhausted in [WhenExhausted::Fail, WhenExhausted::Wait(Duration::ZERO)] {
        let pool = builder(2).when_exhausted(when_exhausted).secure().unwrap();
        assert!(pool.statistics().background);
        for round in 0..30 {
            let mut memory = pool.lend(1024, Some(1024)).unwrap();
            assert!(is_zero(memory.bytes()), "round {round}");
            memory.bytes_mut().fill(1);
            drop(memory);
            let now = pool.statistics();
            assert_eq!((now.lent, now.retired), (0, 0));
            assert!(now.resetting <= 2);
        }
        // Both at once are waited for as well, and what is lent is not.
        let mut both = pool.reserve(2).unwrap();
        assert!(is_zero(both.lend(1024, Some(1024)).unwrap().bytes()));
        let refused = pool.reserve(2).unwrap_err();
        assert!(
            matches!(refused, LendError::NoSlot { lent: 1, .. }),
            "{refused}"
        );
        drop(both);
        settle(&pool);
        assert_eq!(pool.statistics().full_resets, 31);
        assert_eq!(pool.check().unwrap().resident_bytes, 128 * MIB as u64);
    }
}

#[test]
fn a_pool_that_is_dropped_while_slots_are_queued_unmaps_all_of_them() {
    let _turn = one_at_a_time();
    let before = status_kib("VmRSS");
    for _ in 0..5 {
        let pool = builder(4).secure().unwrap();
        let lent: Vec<_> = (0..4)
            .map(|_| pool.lend(1024, Some(1024)).unwrap())
            .collect();
        // The last loan keeps the pool.
        drop(pool);
        drop(lent);
        let now = status_kib("VmRSS");
        assert!(
            now < before + (32 << 10),
            "{before} KiB before, {now} KiB now"
        );
    }
}

#[test]
fn without_a_thread_resets_are_inline() {
    let name = "without_a_thread_resets_are_inline";
    if in_child_process(name, "WASM_PREALLOC_TEST_NO_THREAD") {
        return;
    }
    // Address space that is used up leaves no room for a stack.
    let pool = {
        let prepared = builder(1).prepare();
        deny_threads();
        prepared.secure().unwrap()
    };
    if pool.statistics().background {
        return skipped("the system does not refuse the thread");
    }
    for _ in 0..3 {
        let mut memory = pool.lend(1024, Some(1024)).unwrap();
        assert!(is_zero(memory.bytes()));
        memory.bytes_mut().fill(1);
        drop(memory);
        assert_eq!(pool.statistics().resetting, 0);
    }
    assert_eq!(pool.statistics().full_resets, 3);
}

/// Makes clone(2) fail with EAGAIN in this thread, as a limit of processes does.
fn deny_threads() {
    support::deny_system_calls(&[
        (libc::SYS_clone, libc::EAGAIN),
        (libc::SYS_clone3, libc::EAGAIN),
    ]);
}

#[test]
fn a_forked_child_leaves_the_pool_alone() {
    let _turn = one_at_a_time();
    for reset in [Reset::Inline, Reset::Background] {
        for policy in [Policy::Declared, Policy::CommitMaximum] {
            let builder = MemoryPool::builder().slots(3).pages(64).policy(policy);
            let pool = builder.reset(reset).secure().unwrap();
            let minimum = match policy {
                Policy::CommitMaximum => 32,
                _ => 64,
            };
            let mut memory = pool.lend(minimum, Some(64)).unwrap();
            memory.bytes_mut().fill(7);
            let reserved = pool.reserve(1).unwrap();
            // SAFETY: the child only uses the pool and ends without unwinding.
            match unsafe { libc::fork() } {
                0 => {
                    let refused = matches!(pool.lend(64, Some(64)), Err(LendError::Forked))
                        && matches!(pool.check(), Err(SecureError::Forked))
                        && match memory.grow_to(64 << 16) {
                            Ok(()) => minimum == 64,
                            Err(error) => matches!(error, LendError::Forked),
                        };
                    drop(memory);
                    drop(reserved);
                    drop(pool);
                    // A child can have a pool of its own.
                    let own = MemoryPool::builder().pages(16).secure().unwrap();
                    let mut memory = own.lend(16, Some(16)).unwrap();
                    memory.bytes_mut().fill(1);
                    drop(memory);
                    let zero = is_zero(own.lend(16, Some(16)).unwrap().bytes());
                    // SAFETY: the child ends here.
                    unsafe { libc::_exit(if refused && zero { 0 } else { 1 }) }
                }
                child => {
                    assert!(child > 0, "{}", std::io::Error::last_os_error());
                    let mut status = 0;
                    // SAFETY: the status outlives the call.
                    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
                    assert_eq!(status, 0, "{policy} {reset}");
                }
            }
            assert!(memory.bytes().iter().all(|&byte| byte == 7));
            drop((memory, reserved));
            settle(&pool);
            assert_eq!(pool.statistics().lent, 0);
            let mut all = pool.reserve(3).unwrap();
            while !all.is_empty() {
                assert!(is_zero(all.lend(64, Some(64)).unwrap().bytes()));
            }
        }
    }
}
