//! The lock that lets one host on a machine commit at a time: an exclusive flock(2), waited for
//! with a timeout.
//!
//! Without it two hosts can both find headroom that is enough for only one of them.

use std::fs::{File, TryLockError};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::sys;

const POLL: Duration = Duration::from_millis(10);

/// The lock of committers, and the timeout of waiting for it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockOptions {
    /// A file or directory that exists and that every host on this machine can open for reading.
    ///
    /// The default is the directory `/`: it exists on read-only systems too, services with a
    /// private `/tmp` share it, and no file is created. Each container has its own `/`; if several
    /// share one memory limit, use a path on a shared volume for all of them. On Windows the
    /// default is the file `wasm-prealloc.lock` in the user's folder for temporary files.
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
    _file: File,
}

impl CommitLock {
    pub(crate) fn acquire(options: &LockOptions) -> Result<CommitLock, Error> {
        let refused = |source| Error::Lock {
            path: options.path.clone(),
            source,
        };
        let file = sys::open_lock(&options.path).map_err(refused)?;
        let start = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(CommitLock { _file: file }),
                Err(TryLockError::Error(source)) => return Err(refused(source)),
                Err(TryLockError::WouldBlock) => {}
            }
            let waited = start.elapsed();
            if waited >= options.timeout {
                return Err(Error::LockTimeout {
                    path: options.path.clone(),
                    waited,
                });
            }
            thread::sleep(POLL.min(options.timeout - waited));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_directory_can_be_locked() {
        CommitLock::acquire(&LockOptions::default()).unwrap();
    }

    #[test]
    fn a_missing_path_is_named() {
        let options = LockOptions {
            path: "/no/such/lock".into(),
            ..LockOptions::default()
        };
        let error = CommitLock::acquire(&options).unwrap_err();
        assert!(error.to_string().contains("/no/such/lock"), "{error}");
    }
}
