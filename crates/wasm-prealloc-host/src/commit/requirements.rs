//! The size, the backing and the margin of the memory to be secured.

use std::fmt;
use std::str::FromStr;

use crate::commit::backing::Backing;
use crate::commit::lock::LockOptions;
use crate::error::SecureError;
use crate::name::{self, UnknownName};

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

/// The choice whether committed memory is locked, see mlock2(2). The kernel neither swaps locked
/// memory out nor takes the zero parts of its huge pages back, which Linux 6.12 does under memory
/// pressure where `khugepaged/max_ptes_none` is below 511.
///
/// Locking 1 GiB takes 0.2 ms in huge pages and about 100 ms in base pages, once. It costs nothing
/// later: with `MLOCK_ONFAULT`, a change of protection does not look at locked pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum LockMemory {
    /// Locks all of it where that is permitted: with `CAP_IPC_LOCK`, or with a `RLIMIT_MEMLOCK`
    /// that is large enough beside what the process has locked already. Elsewhere nothing is
    /// locked. [`Secured::locked_bytes`](crate::Secured::locked_bytes) has the outcome. Only Linux
    /// has it; on other systems it is the same as [`LockMemory::Off`].
    #[default]
    Auto,
    /// Locks all of it, or fails.
    On,
    /// Locks nothing: memory stays resident only as long as the kernel neither swaps it out nor takes
    /// the zero parts of huge pages back.
    Off,
}

impl LockMemory {
    /// Every choice.
    pub const ALL: [LockMemory; 3] = [LockMemory::Auto, LockMemory::On, LockMemory::Off];

    /// Returns the name of the choice, which [`FromStr`] parses.
    pub fn as_str(self) -> &'static str {
        match self {
            LockMemory::Auto => "auto",
            LockMemory::On => "on",
            LockMemory::Off => "off",
        }
    }
}

/// `true` is [`LockMemory::On`], and `false` is [`LockMemory::Off`].
impl From<bool> for LockMemory {
    fn from(on: bool) -> LockMemory {
        match on {
            true => LockMemory::On,
            false => LockMemory::Off,
        }
    }
}

impl fmt::Display for LockMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for LockMemory {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<LockMemory, UnknownName> {
        name::parse(&LockMemory::ALL, name)
    }
}

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
    /// The choice whether the kernel is kept from taking the memory back: by swap, or by the
    /// shrinker of underused huge pages.
    pub lock_memory: LockMemory,
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
            lock_memory: LockMemory::default(),
        }
    }

    /// Returns the size of each memory in bytes.
    ///
    /// # Errors
    /// [`SecureError::PageCount`] unless the number of pages is from 1 to 65,536.
    pub fn bytes(&self) -> Result<usize, SecureError> {
        let pages = self.pages;
        if !(1..=DEFAULT_PAGES).contains(&pages) {
            return Err(SecureError::PageCount { pages });
        }
        usize::try_from(pages * WASM_PAGE_BYTES).map_err(|_| SecureError::PageCount { pages })
    }

    /// Checks that memory of `bytes` can have the required backing.
    pub(crate) fn check_backing(&self, bytes: usize) -> Result<(), SecureError> {
        let backing = self.backing;
        match backing.unfit_for(bytes) {
            Some(why) => Err(SecureError::Backing { backing, why }),
            None => Ok(()),
        }
    }
}
