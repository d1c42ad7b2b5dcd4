//! A lock for tests that use gigabytes of memory, so that a machine has enough for those that run at
//! the same time.

use std::fs::File;
use std::io;

use crate::programs::repository;

/// Waits until no other test holds the lock, in this process or in another. The lock is released when
/// the file is dropped.
pub fn memory_lock() -> io::Result<File> {
    lock(File::lock)
}

/// Waits until no test holds the lock of [`memory_lock`]. Several tests can hold this lock, so each of
/// them may use a few gigabytes only, and its harness must bound how many run.
pub fn shared_memory_lock() -> io::Result<File> {
    lock(File::lock_shared)
}

fn lock(wait: impl FnOnce(&File) -> io::Result<()>) -> io::Result<File> {
    let folder = repository().join("target/tests");
    let locked = || {
        std::fs::create_dir_all(&folder)?;
        let file = File::create(folder.join("memory.lock"))?;
        wait(&file)?;
        Ok(file)
    };
    locked().map_err(|error: io::Error| {
        let text = format!("memory.lock in {}: {error}", folder.display());
        io::Error::new(error.kind(), text)
    })
}
