//! The outcome of a commit, and its progress.

use std::fmt;
use std::time::Duration;

use crate::limits::limit::Bytes;

/// The method that committed a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Method {
    /// Transparent huge pages throughout, `madvise(MADV_COLLAPSE)`.
    Collapsed,
    /// `madvise(MADV_POPULATE_WRITE)`, for at least a part of the region.
    Populated,
    /// One write to each of the operating system's pages, for at least a part of the region.
    Touched,
    /// Huge pages of the machine's pool.
    HugePool,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Method::Collapsed => "huge pages (MADV_COLLAPSE)",
            Method::Populated => "populating (MADV_POPULATE_WRITE)",
            Method::Touched => "touching each page of the operating system",
            Method::HugePool => "huge pages of the machine's pool (MAP_HUGETLB)",
        })
    }
}

/// The outcome of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Secured {
    /// The method.
    pub how: Method,
    /// The time that it took, without the wait for the lock.
    pub elapsed: Duration,
    /// The number of bytes that were found resident afterwards: all.
    pub resident_bytes: u64,
    /// The number of bytes that are locked, see [`LockMemory`](crate::LockMemory): all or none.
    pub locked_bytes: u64,
    /// The time that it waited for the lock of committers.
    pub waited: Duration,
}

impl fmt::Display for Secured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} resident, by {}, in {:.3} s",
            Bytes(self.resident_bytes),
            self.how,
            self.elapsed.as_secs_f64()
        )?;
        if self.locked_bytes > 0 {
            write!(f, "; {} locked", Bytes(self.locked_bytes))?;
        }
        if !self.waited.is_zero() {
            let seconds = self.waited.as_secs_f64();
            write!(f, "; waited {seconds:.3} s for other committers")?;
        }
        Ok(())
    }
}

/// The part of securing that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// Another host commits memory, and this one waits for the [lock](crate::LockOptions).
    WaitingForLock,
    /// A child process commits the same amount first, where a limit cannot be seen.
    Trial,
    /// This process commits its memory.
    Committing,
}

/// The progress of a commit. Memory that a virtual machine uses for the first time can take 15 s
/// for 4 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// The part of securing that is under way.
    pub stage: Stage,
    /// The part that is committed so far, in bytes.
    pub committed_bytes: u64,
    /// All that is to be committed, in bytes.
    pub total_bytes: u64,
}

/// A callback with the stage, and the number of bytes that it has committed. It must not allocate
/// much: it is called while memory is scarce.
pub(crate) type OnProgress<'a> = &'a mut dyn FnMut(Stage, u64);
