//! What is to be secured, and how carefully: sizes, margin, backing.
//!
//! How it is done is in `secure`.

use crate::commit::lock::LockOptions;
use crate::error::Error;

/// The bytes of a wasm page.
pub const WASM_PAGE_BYTES: u64 = 64 << 10;

/// The pages of a full 32-bit linear memory: 65,536 of 64 KiB are 4 GiB.
pub const DEFAULT_PAGES: u64 = 1 << 16;

/// The margin that a commit leaves by default: 32 MiB.
///
/// In a quiet cgroup none is needed. This covers what the same group still allocates between the
/// check and the end of the block: compiled code, tables and stacks of the engine, a few MiB, and
/// the charges that the kernel makes in advance, up to 256 KiB for each processor.
pub const DEFAULT_MARGIN_BYTES: u64 = 32 << 20;

/// How pages are obtained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Backing {
    /// Huge pages, which are fastest and which a cgroup can refuse without killing anybody.
    /// Where the kernel has none to give, as for [`Backing::Base`].
    #[default]
    Auto,
    /// Pages of the operating system's base size, with a headroom check for every 64 MiB.
    Base,
    /// Transparent huge pages throughout, or an error. Up to 31 wasm pages at the end, where the
    /// size is not a multiple of 2 MiB, are in base pages.
    Transparent,
    /// The machine's pool of 2 MiB pages (hugetlbfs), which an operator sets apart. Nothing else
    /// can take them, and cgroups' memory limits do not count them. The size has to be a multiple
    /// of 32 wasm pages.
    HugeTlb2M,
    /// The machine's pool of 1 GiB pages. The size has to be a multiple of 16,384 wasm pages.
    HugeTlb1G,
}

impl Backing {
    /// The binary logarithm of the size of the pool's huge pages, where they come from a pool.
    pub(crate) fn pool_page_log2(self) -> Option<u32> {
        match self {
            Backing::HugeTlb2M => Some(21),
            Backing::HugeTlb1G => Some(30),
            Backing::Auto | Backing::Base | Backing::Transparent => None,
        }
    }

    /// Whether memory of `bytes` can be had this way at all.
    pub(crate) fn check(self, bytes: usize) -> Result<(), Error> {
        let unfit = |why| Error::Backing { backing: self, why };
        match self {
            Backing::Auto | Backing::Base => Ok(()),
            _ if cfg!(not(target_os = "linux")) => {
                Err(unfit("only Linux has it; use Backing::Auto"))
            }
            Backing::HugeTlb2M if !bytes.is_multiple_of(2 << 20) => {
                Err(unfit("the size must be a multiple of 32 pages of 64 KiB"))
            }
            Backing::HugeTlb1G if !bytes.is_multiple_of(1 << 30) => Err(unfit(
                "the size must be a multiple of 16384 pages of 64 KiB",
            )),
            _ => Ok(()),
        }
    }
}

/// What is to be secured, and how carefully.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Requirements {
    /// The size of each memory, in wasm pages of 64 KiB.
    pub pages: u64,
    /// What each limit on physical memory must leave beyond the need, in bytes.
    pub margin_bytes: u64,
    /// How committers on one machine wait for each other.
    pub lock: LockOptions,
    /// How pages are obtained.
    pub backing: Backing,
    /// Whether the memory is also kept from being swapped out, see mlock(2). Without it, what is
    /// resident at first stays so only as long as nothing makes the machine swap.
    pub lock_memory: bool,
}

impl Default for Requirements {
    fn default() -> Self {
        Requirements::of_pages(DEFAULT_PAGES)
    }
}

impl Requirements {
    /// Memories of `pages` wasm pages of 64 KiB, and the default for everything else.
    pub fn of_pages(pages: u64) -> Self {
        Requirements {
            pages,
            margin_bytes: DEFAULT_MARGIN_BYTES,
            lock: LockOptions::default(),
            backing: Backing::default(),
            lock_memory: false,
        }
    }

    /// The size of each memory in bytes.
    ///
    /// # Errors
    ///
    /// [`Error::PageCount`] unless the number of pages is from 1 to 65,536.
    pub fn bytes(&self) -> Result<usize, Error> {
        let pages = self.pages;
        if !(1..=DEFAULT_PAGES).contains(&pages) {
            return Err(Error::PageCount { pages });
        }
        usize::try_from(pages * WASM_PAGE_BYTES).map_err(|_| Error::PageCount { pages })
    }
}
