//! Counts the resident bytes of a range of memory: pages that are present and the process's own, so
//! that a write to them takes no further memory.
//!
//! Sources: the page tables, where the system has them readable. mincore(2) counts the zero page
//! and the page cache of a file on Linux, so it is used only for memory that was just committed.

use std::io;
use std::ops::Range;
use std::thread;
use std::time::Duration;

use crate::error::SecureError;
use crate::sys::{self, PageTables};

/// The number of pages that one call of mincore(2) reads.
const PAGES_AT_ONCE: usize = 16 << 10;

/// The pauses between counts. The kernel unmaps a page for a moment while it moves it.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(1),
    Duration::from_millis(2),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(20),
];

/// The residency of memory that was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Residency {
    /// The number of bytes that were committed.
    pub expected_bytes: u64,
    /// The number of bytes that are resident now.
    pub resident_bytes: u64,
    /// The time that counting took.
    pub elapsed: Duration,
}

/// Returns the number of bytes of `memory` that are resident: present, and the process's own. The
/// zero page, which the kernel maps where memory was only read, does not count, and neither does
/// the page cache of a file. The operating system counts whole pages; those at the ends are cut to
/// the slice.
///
/// A page that the kernel moves, for example to make room for a huge page, is absent for a moment.
/// As long as there are such pages the count is repeated, after pauses of 38 ms in all at most. Pages
/// that were swapped out look the same and take that time too; pages that were never written do not.
///
/// # Errors
/// The error of opening or reading the page tables, `/proc/self/pagemap` on Linux. On other
/// systems, the error of mincore(2).
///
/// ```
/// let memory = vec![1_u8; 100_000];
/// assert_eq!(wasm_prealloc_host::resident_bytes(&memory)?, 100_000);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn resident_bytes(memory: &[u8]) -> io::Result<u64> {
    let reader = match Reader::open() {
        Reader::Unreadable(error) => return Err(error),
        reader => reader,
    };
    let (start, bytes) = (memory.as_ptr(), memory.len());
    for pause in PAUSES {
        let resident_bytes = reader.count(start, bytes)?;
        if resident_bytes == bytes as u64 {
            return Ok(resident_bytes);
        }
        if !reader.has_moving(start, bytes)? {
            break;
        }
        thread::sleep(pause);
    }
    // A page can have come back since it was not counted.
    reader.count(start, bytes)
}

/// The kind of mappings in a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mapped {
    /// This crate's own, without files.
    Anonymous,
    /// Perhaps of files.
    Unknown,
}

/// A source of residency. It is opened before a commit, because at a limit the kernel may not have
/// the memory for an open file.
#[derive(Debug)]
pub(crate) enum Reader {
    /// Linux's page tables.
    PageTables(PageTables),
    /// Page tables that cannot be opened. Memory that was just committed is counted by mincore(2),
    /// and all other memory counts as missing.
    Unreadable(io::Error),
    /// mincore(2) of another system, or its counterpart.
    Mincore,
}

impl Reader {
    pub(crate) fn open() -> Reader {
        #[cfg(test)]
        if let Some(open) = tests::FORCED.get() {
            return open();
        }
        match PageTables::open() {
            Ok(tables) => Reader::PageTables(tables),
            Err(error) if sys::HAS_PAGE_TABLES => Reader::Unreadable(error),
            Err(_) => Reader::Mincore,
        }
    }

    /// Returns the number of bytes that populating the range would take at most. `start` and
    /// `bytes` are of whole pages.
    pub(crate) fn missing(&self, start: *const u8, bytes: usize) -> Result<u64, SecureError> {
        let own = match self {
            Reader::PageTables(tables) => {
                let mut own = 0;
                let range = start as usize..start as usize + bytes;
                // A write to a page that a child shares takes a page too.
                let counted = tables.unshared(range, |pages| own += pages.len() as u64);
                counted.map(|()| own)
            }
            Reader::Unreadable(_) => Ok(0),
            Reader::Mincore => self.count(start, bytes),
        };
        let own = own.map_err(SecureError::system("reading the page tables", bytes))?;
        Ok((bytes as u64).saturating_sub(own))
    }

    /// Counts the resident bytes of a range. Without page tables, it has to be committed.
    pub(crate) fn count(&self, start: *const u8, bytes: usize) -> io::Result<u64> {
        self.count_of(start, bytes, Mapped::Unknown)
    }

    /// Returns true if a page of the range is neither present nor empty: it is being moved, or was
    /// swapped out.
    fn has_moving(&self, start: *const u8, bytes: usize) -> io::Result<bool> {
        match self {
            Reader::PageTables(tables) => tables.any_swapped(whole_pages(start, bytes)),
            Reader::Unreadable(_) | Reader::Mincore => Ok(false),
        }
    }

    fn count_of(&self, start: *const u8, bytes: usize, mapped: Mapped) -> io::Result<u64> {
        let page = sys::page_bytes();
        let whole = whole_pages(start, bytes);
        let (start, end) = (start as usize, start as usize + bytes);
        let mut sum = 0;
        let mut add = |pages: Range<usize>| {
            sum += pages.end.min(end).saturating_sub(pages.start.max(start)) as u64;
        };
        match self {
            Reader::PageTables(tables) => tables.own(whole, mapped == Mapped::Anonymous, add)?,
            Reader::Unreadable(_) | Reader::Mincore => {
                let mut states = [0_u8; PAGES_AT_ONCE];
                for first in whole.clone().step_by(PAGES_AT_ONCE * page) {
                    let pages = ((whole.end - first) / page).min(PAGES_AT_ONCE);
                    let states = &mut states[..pages];
                    sys::residency(first, states)?;
                    let pages = states.iter().enumerate();
                    for (index, _) in pages.filter(|(_, state)| **state & 1 == 1) {
                        add(first + index * page..first + (index + 1) * page);
                    }
                }
            }
        }
        Ok(sum)
    }

    /// Counts all ranges that were committed, and counts again after a pause if a part is missing.
    pub(crate) fn count_all(
        &self,
        ranges: impl Iterator<Item = (*const u8, usize)>,
        mapped: Mapped,
    ) -> Result<u64, SecureError> {
        let mut pauses = PAUSES.iter();
        let mut sum = 0;
        for (start, bytes) in ranges {
            sum += loop {
                let counted = self.count_of(start, bytes, mapped);
                let resident =
                    counted.map_err(SecureError::system("reading the page tables", bytes))?;
                match pauses.as_slice() {
                    [_, ..] if resident < bytes as u64 => {}
                    _ => break resident,
                }
                thread::sleep(pauses.next().copied().unwrap_or_default());
            };
        }
        Ok(sum)
    }

    /// Checks that all of a range that was committed is resident, and returns its size.
    pub(crate) fn check(
        &self,
        start: *const u8,
        bytes: usize,
        mapped: Mapped,
    ) -> Result<u64, SecureError> {
        let resident_bytes = self.count_all([(start, bytes)].into_iter(), mapped)?;
        all_of(bytes as u64, resident_bytes)
    }
}

/// Returns the pages that contain a range.
fn whole_pages(start: *const u8, bytes: usize) -> Range<usize> {
    let page = sys::page_bytes();
    let (start, end) = (start as usize, start as usize + bytes);
    start - start % page..end.next_multiple_of(page)
}

/// Counts the residency of ranges that this crate mapped and committed, and that may be in use. The
/// error of missing memory is [`SecureError::NotResident`].
///
/// For 4 GiB it takes 0.3 ms in huge pages, and 40 ms in base pages. Page faults are not held
/// up, but changes of mappings are, for about 1 ms at a time.
pub(crate) fn residency(
    ranges: impl Iterator<Item = (*const u8, usize)> + Clone,
) -> Result<Residency, SecureError> {
    let start = std::time::Instant::now();
    let reader = match Reader::open() {
        // What mincore says was true after the commit, and may not be true any more.
        Reader::Unreadable(source) => {
            return Err(SecureError::Unreadable {
                path: sys::PAGEMAP.into(),
                source,
            });
        }
        reader => reader,
    };
    let expected_bytes = ranges.clone().map(|(_, bytes)| bytes as u64).sum();
    let resident_bytes = all_of(expected_bytes, reader.count_all(ranges, Mapped::Anonymous)?)?;
    Ok(Residency {
        expected_bytes,
        resident_bytes,
        elapsed: start.elapsed(),
    })
}

/// Counts the residency of ranges of which none has to be resident.
pub(crate) fn resident(
    ranges: impl Iterator<Item = (*const u8, usize)> + Clone,
) -> Result<Residency, SecureError> {
    let start = std::time::Instant::now();
    Ok(Residency {
        expected_bytes: 0,
        resident_bytes: Reader::open().count_all(ranges, Mapped::Anonymous)?,
        elapsed: start.elapsed(),
    })
}

fn all_of(expected_bytes: u64, resident_bytes: u64) -> Result<u64, SecureError> {
    match resident_bytes < expected_bytes {
        true => Err(SecureError::NotResident {
            expected_bytes,
            resident_bytes,
        }),
        false => Ok(resident_bytes),
    }
}

#[cfg(test)]
pub(crate) mod tests;
