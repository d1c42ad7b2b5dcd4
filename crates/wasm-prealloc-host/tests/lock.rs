//! The lock of committers and other users: root runs programs as another user with setpriv(1), and
//! they lock paths with flock(1).
#![cfg(target_os = "linux")]
#![allow(unsafe_code, reason = "a test forks and ends the child")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use wasm_prealloc_host::{LockOptions, MemoryPool, SecureError, Stage};

use support::{one_at_a_time, skipped};

const OTHER_USER: &str = "65534";

/// Returns a command that locks a path as another user and then runs `command`, or `None` if this
/// user cannot do that.
fn as_other_user(arguments: &[&str]) -> Option<Command> {
    let user = ["--reuid", OTHER_USER, "--clear-groups"];
    let mut command = Command::new("setpriv");
    command.args(user).arg("flock").args(arguments);
    let mut probe = Command::new("setpriv");
    let probe = probe.args(user).args(["flock", "--version"]);
    if probe.output().is_ok_and(|output| output.status.success()) {
        return Some(command);
    }
    skipped("flock(1) cannot be run as another user here");
    None
}

/// A process that holds a lock until it is dropped.
struct Holder(Child);

impl Holder {
    fn start(mut command: Command, path: &Path) -> Holder {
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        // It has the lock as soon as others do not get it.
        let file = std::fs::File::open(path).unwrap();
        while file.try_lock().is_ok() {
            file.unlock().unwrap();
            assert!(child.try_wait().unwrap().is_none(), "flock failed");
            std::thread::sleep(Duration::from_millis(5));
        }
        Holder(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // The end of its standard input ends the program that holds the lock.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Any user can hold the lock on `/`. That delays a host with a path of its own, and does not stop
/// it; the wait is shown.
#[test]
fn another_user_cannot_stop_a_host_with_the_default_lock() {
    let _turn = one_at_a_time();
    let mut lock = LockOptions::default();
    if lock.path == Path::new("/") {
        return skipped("this process has no path of its own for the lock");
    }
    let Some(holding) = as_other_user(&["/", "cat"]) else {
        return;
    };
    let _holder = Holder::start(holding, "/".as_ref());
    lock.timeout = Duration::from_secs(24);
    let waits = Arc::new(Mutex::new(0));
    let seen = Arc::clone(&waits);
    let start = Instant::now();
    let pool = MemoryPool::builder()
        .pages(1)
        .lock(lock)
        .on_progress(move |progress| {
            if progress.stage == Stage::WaitingForLock {
                assert_eq!(progress.committed_bytes, 0);
                *seen.lock().unwrap() += 1;
            }
        })
        .secure()
        .unwrap();
    // A twelfth of the timeout.
    let waited = pool.secured().unwrap().waited;
    assert!(waited >= Duration::from_secs(2), "{waited:?}");
    assert!(start.elapsed() < Duration::from_secs(24));
    assert!(*waits.lock().unwrap() >= 2);
}

/// The file that root created cannot be opened by another user.
#[test]
fn another_user_cannot_hold_the_default_lock() {
    let path = LockOptions::default().path;
    if path != Path::new("/run/wasm-prealloc.lock") {
        return skipped("this user cannot create the lock in /run");
    }
    let Some(mut holding) = as_other_user(&["--nonblock", path.to_str().unwrap(), "true"]) else {
        return;
    };
    let output = holding.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && text.contains("Permission denied"),
        "{text}"
    );
}

/// A host waits for a given path until the timeout.
#[test]
fn a_lock_that_is_held_ends_in_an_error_that_names_it() {
    let _turn = one_at_a_time();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lock");
    let mut lock = LockOptions::default();
    lock.path = path.clone();
    lock.timeout = Duration::from_millis(300);
    let builder = || MemoryPool::builder().pages(1).lock(lock.clone());
    drop(builder().secure().unwrap());
    let held = std::fs::File::open(&path).unwrap();
    held.lock().unwrap();
    match builder().secure() {
        Err(SecureError::LockTimeout {
            path: named,
            waited,
        }) => {
            assert_eq!(named, path);
            assert!(waited >= lock.timeout);
        }
        other => panic!("{other:?}"),
    }
    drop(held);
    builder().secure().unwrap();
}

/// A child that a program forks while this process commits has the lock's descriptor until it
/// executes another program.
#[test]
fn a_child_of_a_fork_does_not_keep_the_lock() {
    let _turn = one_at_a_time();
    let folder = tempfile::tempdir().unwrap();
    let mut lock = LockOptions::default();
    lock.path = folder.path().join("lock");
    lock.timeout = Duration::ZERO;
    let child = Arc::new(Mutex::new(0));
    let forked = Arc::clone(&child);
    let pool = MemoryPool::builder()
        .pages(1)
        .lock(lock.clone())
        .on_progress(move |_| {
            let mut child = forked.lock().unwrap();
            if *child == 0 {
                // SAFETY: the child calls only functions that are safe after a fork.
                *child = unsafe { libc::fork() };
                if *child == 0 {
                    // SAFETY: as above. The parent ends the child.
                    unsafe {
                        libc::pause();
                        libc::_exit(0);
                    }
                }
            }
        })
        .secure();
    let again = MemoryPool::builder().pages(1).lock(lock).secure();
    let child = *child.lock().unwrap();
    assert!(child > 0);
    // SAFETY: the child is this process's own and was not waited for.
    unsafe {
        libc::kill(child, libc::SIGKILL);
        libc::waitpid(child, std::ptr::null_mut(), 0);
    }
    pool.unwrap();
    again.unwrap();
}
