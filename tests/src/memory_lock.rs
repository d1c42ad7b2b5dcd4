//! A lock for tests that use gigabytes of memory, so that only one of them runs at a time.

use std::fs::File;
use std::io;

use crate::programs::repository;

/// Waits until no other test holds the lock, in this process or in another. The lock is released when
/// the file is dropped.
pub fn memory_lock() -> io::Result<File> {
    let folder = repository().join("target/tests");
    let lock = || {
        std::fs::create_dir_all(&folder)?;
        let file = File::create(folder.join("memory.lock"))?;
        file.lock()?;
        Ok(file)
    };
    lock().map_err(|error: io::Error| {
        let text = format!("memory.lock in {}: {error}", folder.display());
        io::Error::new(error.kind(), text)
    })
}
