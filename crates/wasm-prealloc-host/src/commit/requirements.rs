//! The size, the backing and the margin of the memory to be secured.

use crate::commit::backing::Backing;
use crate::commit::lock::LockOptions;
use crate::error::Error;

/// The size of a wasm page, in bytes.
pub const WASM_PAGE_BYTES: u64 = 64 << 10;

/// The number of wasm pages of a full 32-bit linear memory: 65,536 of 64 KiB are 4 GiB.
pub const DEFAULT_PAGES: u64 = 1 << 16;

/// The margin that a commit leaves by default: 32 MiB.
///
/// In a quiet cgroup none is needed. The margin covers what the same group still allocates between
/// the check and the end of the block: compiled code, tables and stacks of the engine, a few MiB,
/// and the kernel's charges in advance, up to 256 KiB for each processor.
pub const DEFAULT_MARGIN_BYTES: u64 = 32 << 20;

/// The memory to be secured.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Requirements {
    /// The size of each memory, in wasm pages of 64 KiB.
    pub pages: u64,
    /// The part that each limit on physical memory must leave beyond the need, in bytes.
    pub margin_bytes: u64,
    /// The lock that committers on one machine wait for.
    pub lock: LockOptions,
    /// The kind of pages.
    pub backing: Backing,
    /// If true, the memory is also kept from being swapped out, see mlock(2). If false, memory
    /// stays resident only as long as the machine does not swap.
    pub lock_memory: bool,
}

impl Default for Requirements {
    fn default() -> Self {
        Requirements::of_pages(DEFAULT_PAGES)
    }
}

impl Requirements {
    /// Requires memories of `pages` wasm pages of 64 KiB, with defaults for everything else.
    pub fn of_pages(pages: u64) -> Self {
        Requirements {
            pages,
            margin_bytes: DEFAULT_MARGIN_BYTES,
            lock: LockOptions::default(),
            backing: Backing::default(),
            lock_memory: false,
        }
    }

    /// Returns the size of each memory in bytes.
    ///
    /// # Errors
    /// [`Error::PageCount`] unless the number of pages is from 1 to 65,536.
    pub fn bytes(&self) -> Result<usize, Error> {
        let pages = self.pages;
        if !(1..=DEFAULT_PAGES).contains(&pages) {
            return Err(Error::PageCount { pages });
        }
        usize::try_from(pages * WASM_PAGE_BYTES).map_err(|_| Error::PageCount { pages })
    }

    /// Checks that memory of `bytes` can have the required backing.
    pub(crate) fn check_backing(&self, bytes: usize) -> Result<(), Error> {
        let backing = self.backing;
        match backing.unfit_for(bytes) {
            Some(why) => Err(Error::Backing { backing, why }),
            None => Ok(()),
        }
    }
}
