//! The lock that lets one host on a machine commit at a time: an exclusive flock(2), waited for
//! with a timeout.
//!
//! Without it two hosts can both find headroom that is enough for only one of them. Opening the
//! file is in `sys`.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::SecureError;
use crate::sys;

const POLL: Duration = Duration::from_millis(10);

/// The time between two calls of the callback while another process holds the lock.
const REPORT: Duration = Duration::from_millis(100);

/// The part of the timeout for which a host waits for the path that all users share.
const SHARED_PART: u32 = 12;

/// The lock of committers, and the timeout of waiting for it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockOptions {
    /// A file or directory, the same for every host that shares a limit. A missing file is created
    /// for this user alone. In a directory that every user can write to, symbolic links and files
    /// of other users are refused.
    ///
    /// A process that can open the path for reading can hold the lock and make hosts wait until
    /// their timeout. The default is a path that other users cannot open: the file
    /// `/run/wasm-prealloc.lock`, if this process can open or create it, or else
    /// `wasm-prealloc.lock` in `$XDG_RUNTIME_DIR`. If neither can be had, it is the directory `/`,
    /// which every user can open. Root can let hosts of several users share the first of them:
    /// create it with a group that they have, readable for the group.
    ///
    /// A host with one of the first two paths also waits a twelfth of the timeout for `/`, for
    /// hosts whose default is another path. It commits after that wait in any case, so another user
    /// can delay it and cannot stop it.
    ///
    /// Each container has its own `/run` and `/`. Containers that share a limit need a path on a
    /// shared volume; if they run as different users, name a directory. On Windows the default is
    /// the file `wasm-prealloc.lock` in the user's folder for temporary files.
    pub path: PathBuf,
    /// The longest wait for other committers. A commit of 4 GiB takes half a second on warm memory,
    /// but took 15 s on a virtual machine that used its memory for the first time. The default of
    /// 120 s allows for several of those.
    pub timeout: Duration,
}

impl Default for LockOptions {
    fn default() -> Self {
        LockOptions {
            path: sys::default_lock_path(),
            timeout: Duration::from_secs(120),
        }
    }
}

/// The lock, held until dropped. It excludes other threads of the process too, because each opens
/// the path anew.
#[derive(Debug)]
pub(crate) struct CommitLock {
    files: [Option<File>; 2],
    waited: Duration,
}

impl CommitLock {
    /// Waits for the lock. `waiting` is called about ten times a second while another process holds
    /// it.
    pub(crate) fn acquire(
        options: &LockOptions,
        waiting: &mut dyn FnMut(),
    ) -> Result<CommitLock, SecureError> {
        let path = &options.path;
        let (own, mut waited) = acquire_one(path, options.timeout, waiting)?;
        let mut shared = None;
        if sys::is_private_lock(path) {
            let start = Instant::now();
            match acquire_one(
                sys::SHARED_LOCK.as_ref(),
                options.timeout / SHARED_PART,
                waiting,
            ) {
                Ok((file, more)) => {
                    shared = Some(file);
                    waited += more;
                }
                // A process that holds it longer than a commit takes is not waited for.
                Err(error) => {
                    tracing::warn!(%error, "committing without this lock");
                    waited += start.elapsed();
                }
            }
        }
        Ok(CommitLock {
            files: [Some(own), shared],
            waited,
        })
    }

    /// Returns the time that the lock was waited for: zero if it was free.
    pub(crate) fn waited(&self) -> Duration {
        self.waited
    }
}

impl Drop for CommitLock {
    /// Unlocks explicitly: a child that another thread forked has a copy of the descriptors, which
    /// would otherwise keep the lock until the child executes a program or exits.
    fn drop(&mut self) {
        for file in self.files.iter().flatten() {
            // An unlock of an own descriptor fails only where locks are unsupported.
            let _ = file.unlock();
        }
    }
}

/// Locks one path. Returns the time that another process held it.
fn acquire_one(
    path: &Path,
    timeout: Duration,
    waiting: &mut dyn FnMut(),
) -> Result<(File, Duration), SecureError> {
    let refused = |source| SecureError::Lock {
        path: path.to_owned(),
        source,
    };
    let file = sys::open_lock(path).map_err(refused)?;
    let start = Instant::now();
    let mut reported = None;
    loop {
        match file.try_lock() {
            Ok(()) if reported.is_none() => return Ok((file, Duration::ZERO)),
            Ok(()) => return Ok((file, start.elapsed())),
            Err(TryLockError::Error(source)) => return Err(refused(source)),
            Err(TryLockError::WouldBlock) => {}
        }
        let waited = start.elapsed();
        if waited >= timeout {
            return Err(SecureError::LockTimeout {
                path: path.to_owned(),
                waited,
            });
        }
        if reported.is_none_or(|last| waited >= last + REPORT) {
            reported = Some(waited);
            waiting();
        }
        thread::sleep(POLL.min(timeout - waited));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acquire(options: &LockOptions) -> Result<CommitLock, SecureError> {
        CommitLock::acquire(options, &mut || {})
    }

    fn options(path: &Path, timeout: Duration) -> LockOptions {
        LockOptions {
            path: path.to_owned(),
            timeout,
        }
    }

    #[test]
    fn the_default_can_be_locked_and_is_unlocked_when_dropped() {
        for _ in 0..2 {
            drop(acquire(&LockOptions::default()).unwrap());
        }
    }

    #[test]
    fn a_path_in_a_missing_directory_is_named() {
        let error = acquire(&options("/no/such/lock".as_ref(), Duration::ZERO)).unwrap_err();
        assert!(error.to_string().contains("/no/such/lock"), "{error}");
    }

    #[test]
    fn a_wait_is_reported_ten_times_a_second_and_ends_at_the_timeout() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let held = acquire(&options(&path, Duration::ZERO)).unwrap();
        assert_eq!(held.waited(), Duration::ZERO);
        let mut reports = 0;
        let limited = options(&path, Duration::from_millis(550));
        let refused = CommitLock::acquire(&limited, &mut || reports += 1);
        assert!(matches!(refused, Err(SecureError::LockTimeout { .. })));
        assert!((2..=6).contains(&reports), "{reports}");
        drop(held);
        acquire(&limited).unwrap();
    }

    #[test]
    fn the_wait_is_measured() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let held = acquire(&options(&path, Duration::ZERO)).unwrap();
        let wait = Duration::from_millis(60);
        let unlocked = thread::spawn(move || {
            thread::sleep(wait);
            drop(held);
        });
        let lock = acquire(&options(&path, Duration::from_secs(60))).unwrap();
        assert!(lock.waited() > wait / 2, "{lock:?}");
        unlocked.join().unwrap();
    }

    /// The descriptors of a forked child refer to the same lock.
    #[test]
    #[cfg(unix)]
    fn a_duplicate_descriptor_does_not_keep_the_lock() {
        let folder = tempfile::tempdir().unwrap();
        let limited = options(&folder.path().join("lock"), Duration::ZERO);
        let held = acquire(&limited).unwrap();
        let duplicate = held.files[0].as_ref().unwrap().try_clone().unwrap();
        drop(held);
        acquire(&limited).unwrap();
        drop(duplicate);
    }
}
