//! Reads from the process's page tables which pages are present and its own. A page of a file or of
//! shared memory is not, and neither is the zero page: a write there takes a new page.
//!
//! `PAGEMAP_SCAN` (Linux 6.7) reports all of this. The entries of `/proc/self/pagemap` do not name
//! the zero page, but they show which pages this process alone has mapped, and the zero page is
//! never one of those.
//!
//! Source: `Documentation/admin-guide/mm/pagemap.rst` of the kernel.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use linux_raw_sys::general::{
    PAGE_IS_FILE, PAGE_IS_PFNZERO, PAGE_IS_PRESENT, PAGE_IS_SWAPPED, page_region, pm_scan_arg,
};

use super::track::{PAGEMAP_SCAN, ioctl};
use crate::sys::page_bytes;

/// The file that both interfaces read.
pub(crate) const PAGEMAP: &str = "/proc/self/pagemap";

/// The size that one call reads. The kernel keeps mappings from being changed during a call, which
/// takes about 1 ms for this size in base pages.
const BYTES_AT_ONCE: usize = 64 << 20;

/// The number of ranges that one scan can return.
const RANGES_AT_ONCE: usize = 64;

/// The number of entries that one call reads.
const ENTRIES_AT_ONCE: usize = 1 << 12;

// The bits of an entry.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const FILE: u64 = 1 << 61;
const EXCLUSIVE: u64 = 1 << 56;

const NO_RANGE: page_region = page_region {
    start: 0,
    end: 0,
    categories: 0,
};

/// The categories that a scan looks for.
#[derive(Debug, Clone, Copy, Default)]
struct Wanted {
    /// Those that are looked for the other way round: pages that do not have them.
    inverted: u32,
    /// All of these, after the inversion.
    all_of: u32,
}

/// The page tables of this process, open for reading.
#[derive(Debug)]
pub(crate) struct PageTables {
    pagemap: File,
    /// False on kernels without `PAGEMAP_SCAN`.
    scans: bool,
}

impl PageTables {
    /// Opens the page tables. Some sandboxes do not have them.
    pub(crate) fn open() -> io::Result<PageTables> {
        let mut tables = PageTables::of_entries()?;
        // An empty range scans nothing.
        tables.scans = tables.scan(0..0, Wanted::default(), &mut []).is_ok();
        Ok(tables)
    }

    /// Opens the page tables as on a kernel without `PAGEMAP_SCAN`.
    pub(crate) fn of_entries() -> io::Result<PageTables> {
        let pagemap = File::open(PAGEMAP)?;
        Ok(PageTables {
            pagemap,
            scans: false,
        })
    }

    /// Calls `found` with each range of present pages that are the process's own. `range` is of
    /// whole pages. Pages that a child shares after a fork count only on kernels with
    /// `PAGEMAP_SCAN`.
    ///
    /// If the mappings are known to be anonymous, the kernel does not look for pages of files,
    /// which makes a count of huge pages ten times faster.
    pub(crate) fn own(
        &self,
        range: Range<usize>,
        anonymous: bool,
        mut found: impl FnMut(Range<usize>),
    ) -> io::Result<()> {
        if !self.scans {
            return self.unshared(range, found);
        }
        let other = match anonymous {
            true => PAGE_IS_PFNZERO | PAGE_IS_SWAPPED,
            false => PAGE_IS_PFNZERO | PAGE_IS_SWAPPED | PAGE_IS_FILE,
        };
        let wanted = Wanted {
            inverted: other,
            all_of: PAGE_IS_PRESENT | other,
        };
        for start in range.clone().step_by(BYTES_AT_ONCE) {
            let end = range.end.min(start + BYTES_AT_ONCE);
            let mut at = start;
            while at < end {
                let mut regions = [NO_RANGE; RANGES_AT_ONCE];
                let (walked, count) = self.scan(at..end, wanted, &mut regions)?;
                for region in &regions[..count] {
                    found(region.start as usize..region.end as usize);
                }
                if walked <= at {
                    return Err(io::Error::other("PAGEMAP_SCAN does not advance"));
                }
                at = walked;
            }
        }
        Ok(())
    }

    /// Calls `found` with each present page that this process alone has mapped. `range` is of whole
    /// pages.
    pub(crate) fn unshared(
        &self,
        range: Range<usize>,
        mut found: impl FnMut(Range<usize>),
    ) -> io::Result<()> {
        let page = page_bytes();
        self.entries(range, |at, bits| {
            if bits & (PRESENT | SWAPPED | FILE | EXCLUSIVE) == PRESENT | EXCLUSIVE {
                found(at..at + page);
            }
        })
    }

    /// Calls `read` with the address and the entry of each page.
    fn entries(&self, range: Range<usize>, mut read: impl FnMut(usize, u64)) -> io::Result<()> {
        let page = page_bytes();
        let mut entries = [0; ENTRIES_AT_ONCE * size_of::<u64>()];
        for start in range.clone().step_by(ENTRIES_AT_ONCE * page) {
            let pages = ((range.end - start) / page).min(ENTRIES_AT_ONCE);
            let entries = &mut entries[..pages * size_of::<u64>()];
            let offset = (start / page * size_of::<u64>()) as u64;
            self.pagemap.read_exact_at(entries, offset)?;
            for (index, entry) in entries.as_chunks().0.iter().enumerate() {
                read(start + index * page, u64::from_ne_bytes(*entry));
            }
        }
        Ok(())
    }

    /// Returns true if an entry of the range is neither present nor empty. `range` is of whole pages.
    pub(crate) fn any_swapped(&self, range: Range<usize>) -> io::Result<bool> {
        if self.scans {
            // A scan stops at the end of the range, or when it has found one.
            let mut found = [NO_RANGE];
            let wanted = Wanted {
                inverted: 0,
                all_of: PAGE_IS_SWAPPED,
            };
            let (_, count) = self.scan(range, wanted, &mut found)?;
            return Ok(count > 0);
        }
        let mut any = false;
        self.entries(range, |_, bits| any |= bits & SWAPPED != 0)?;
        Ok(any)
    }

    /// Makes one scan. Returns the address where it stopped, and the number of `regions` that it
    /// filled in.
    fn scan(
        &self,
        range: Range<usize>,
        wanted: Wanted,
        regions: &mut [page_region],
    ) -> io::Result<(usize, usize)> {
        let mut arg = pm_scan_arg {
            size: size_of::<pm_scan_arg>() as u64,
            flags: 0,
            start: range.start as u64,
            end: range.end as u64,
            walk_end: 0,
            vec: regions.as_mut_ptr() as u64,
            vec_len: regions.len() as u64,
            max_pages: 0,
            category_inverted: wanted.inverted.into(),
            category_mask: wanted.all_of.into(),
            category_anyof_mask: 0,
            // One category, so that neighbouring pages make one range.
            return_mask: PAGE_IS_PRESENT.into(),
        };
        // SAFETY: the request takes this structure, and fills in at most `vec_len` regions. It
        // reads page tables, and changes nothing.
        let count = unsafe { ioctl(&self.pagemap, PAGEMAP_SCAN, &mut arg) }?;
        Ok((arg.walk_end as usize, count))
    }
}
