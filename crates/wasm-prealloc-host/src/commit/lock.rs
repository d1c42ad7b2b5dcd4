//! One committer at a time on a machine: an exclusive flock(2), waited for with a bound.
//!
//! Without it two hosts can both find enough headroom for one. What is done under the lock is in
//! `secure`.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::Error;

const POLL: Duration = Duration::from_millis(10);

/// Which lock to take, and for how long to wait for it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockOptions {
    /// A file or directory that exists and that every host on this machine can open for reading.
    ///
    /// The default is the directory `/`: it is there on read-only systems too, is the same for
    /// services with a private `/tmp`, and nothing is left behind. Containers each have a `/` of
    /// their own; where several share one memory limit, point them all at a shared volume. On
    /// Windows it is the file `wasm-prealloc.lock` in the user's folder for temporary files.
    pub path: PathBuf,
    /// How long to wait for other committers. A 4 GiB commit takes half a second on warm memory,
    /// but on a virtual machine that uses its memory for the first time it has taken 15 s: the
    /// default of 120 s lets several of those go first.
    pub timeout: Duration,
}

impl Default for LockOptions {
    fn default() -> Self {
        LockOptions {
            path: default_path(),
            timeout: Duration::from_secs(120),
        }
    }
}

/// The lock, held until dropped. Threads of one process exclude each other as well, because each
/// opens the path anew.
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
        let file = open(&options.path).map_err(refused)?;
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

#[cfg(not(windows))]
fn default_path() -> PathBuf {
    PathBuf::from("/")
}

#[cfg(not(windows))]
fn open(path: &Path) -> io::Result<File> {
    File::open(path)
}

/// Windows locks no directories, so a file is made where there is none.
#[cfg(windows)]
fn default_path() -> PathBuf {
    std::env::temp_dir().join("wasm-prealloc.lock")
}

#[cfg(windows)]
fn open(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create(true).truncate(false).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(path: &std::path::Path) -> LockOptions {
        LockOptions {
            path: path.to_owned(),
            timeout: Duration::from_millis(50),
        }
    }

    #[test]
    fn the_second_waits_and_gives_up_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let held = CommitLock::acquire(&options(directory.path())).unwrap();
        match CommitLock::acquire(&options(directory.path())) {
            Err(Error::LockTimeout { path, waited }) => {
                assert_eq!(path, directory.path());
                assert!(waited >= Duration::from_millis(50));
            }
            other => panic!("expected a timeout, got {other:?}"),
        }
        drop(held);
        CommitLock::acquire(&options(directory.path())).unwrap();
    }

    #[test]
    fn the_root_directory_can_be_locked() {
        CommitLock::acquire(&LockOptions::default()).unwrap();
    }

    #[test]
    fn a_path_that_is_not_there_is_named() {
        let error = CommitLock::acquire(&options("/no/such/lock".as_ref())).unwrap_err();
        assert!(error.to_string().contains("/no/such/lock"), "{error}");
    }
}
