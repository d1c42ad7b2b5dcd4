//! The kinds of pages that memory can be backed by.

use std::fmt;
use std::str::FromStr;

use crate::name::{self, UnknownName};
use crate::sys;

/// The kind of pages that back a memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Backing {
    /// Transparent huge pages: the fastest, and a cgroup can refuse them without a kill. Where the
    /// kernel has none, base pages as for [`Backing::Base`].
    #[default]
    Auto,
    /// Base pages of the operating system, with a headroom check for every 64 MiB.
    Base,
    /// Transparent huge pages throughout, or an error. Up to 31 wasm pages at the end, where the
    /// size is not a multiple of 2 MiB, are in base pages.
    Transparent,
    /// The machine's pool of 2 MiB pages (hugetlbfs), which an operator sets aside. No other
    /// memory can take them, and the memory limits of cgroups do not count them. The size has to be
    /// a multiple of 32 wasm pages.
    HugeTlb2M,
    /// The machine's pool of 1 GiB pages. The size has to be a multiple of 16,384 wasm pages.
    HugeTlb1G,
}

impl Backing {
    /// Every backing.
    pub const ALL: [Backing; 5] = [
        Backing::Auto,
        Backing::Base,
        Backing::Transparent,
        Backing::HugeTlb2M,
        Backing::HugeTlb1G,
    ];

    /// Returns the name of the backing, which [`FromStr`] parses.
    pub fn as_str(self) -> &'static str {
        match self {
            Backing::Auto => "auto",
            Backing::Base => "base",
            Backing::Transparent => "transparent",
            Backing::HugeTlb2M => "hugetlb-2m",
            Backing::HugeTlb1G => "hugetlb-1g",
        }
    }

    /// Returns the binary logarithm of the size of the pool's huge pages, if they come from a pool.
    pub(crate) fn pool_page_log2(self) -> Option<u32> {
        match self {
            Backing::HugeTlb2M => Some(21),
            Backing::HugeTlb1G => Some(30),
            Backing::Auto | Backing::Base | Backing::Transparent => None,
        }
    }

    /// Returns the reason why memory of `bytes` cannot have this backing, if there is one.
    pub(crate) fn unfit_for(self, bytes: usize) -> Option<&'static str> {
        match self {
            Backing::Auto | Backing::Base => None,
            _ if !sys::HAS_HUGE_PAGES => Some("only Linux has it; use Backing::Auto"),
            Backing::HugeTlb2M if !bytes.is_multiple_of(2 << 20) => {
                Some("the size must be a multiple of 32 pages of 64 KiB")
            }
            Backing::HugeTlb1G if !bytes.is_multiple_of(1 << 30) => {
                Some("the size must be a multiple of 16384 pages of 64 KiB")
            }
            _ => None,
        }
    }
}

impl fmt::Display for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Backing {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Backing, UnknownName> {
        name::parse(&Backing::ALL, name)
    }
}
