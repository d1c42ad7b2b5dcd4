//! Counts the resident bytes of a range of memory.

use std::io;

use crate::error::Error;
use crate::sys;

/// The number of pages that are queried at a time.
const PAGES_AT_ONCE: usize = 16 << 10;

/// Returns the number of bytes of `memory` that are resident. The operating system counts whole
/// pages; those at the ends are cut to the slice.
///
/// # Errors
/// The error of mincore(2).
pub fn resident_bytes(memory: &[u8]) -> io::Result<u64> {
    count(memory.as_ptr(), memory.len())
}

/// Counts the resident bytes of the range of `bytes` from `start` on.
pub(crate) fn count(start: *const u8, bytes: usize) -> io::Result<u64> {
    let page = sys::page_bytes();
    let (start, end) = (start as usize, start as usize + bytes);
    let mut states = [0_u8; PAGES_AT_ONCE];
    let mut sum = 0;
    for first in (start - start % page..end).step_by(PAGES_AT_ONCE * page) {
        let pages = (end - first).div_ceil(page).min(PAGES_AT_ONCE);
        sys::residency(first, &mut states[..pages])?;
        for (index, _) in (states[..pages].iter().enumerate()).filter(|(_, state)| **state & 1 == 1)
        {
            let at = first + index * page;
            sum += ((at + page).min(end) - at.max(start)) as u64;
        }
    }
    Ok(sum)
}

/// Checks that all of the range is resident, and returns its size.
pub(crate) fn check(start: *const u8, bytes: usize) -> Result<u64, Error> {
    let (expected_bytes, resident_bytes) = (bytes as u64, measure(start, bytes)?);
    match resident_bytes < expected_bytes {
        true => Err(Error::NotResident {
            expected_bytes,
            resident_bytes,
        }),
        false => Ok(resident_bytes),
    }
}

/// Counts the resident bytes of the range, for a commit.
pub(crate) fn measure(start: *const u8, bytes: usize) -> Result<u64, Error> {
    count(start, bytes).map_err(Error::system("mincore", bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::region::Region;

    #[test]
    fn residency_is_cut_to_the_range() {
        let region = Region::writable(1 << 20);
        // SAFETY: the range is writable and this test's own.
        unsafe { region.base().write_bytes(0, 8192) };
        let inside = region.base().as_ptr().wrapping_add(100);
        assert_eq!(count(inside, 1000).unwrap(), 1000);
        assert_eq!(count(inside, 1 << 19).unwrap(), 8192 - 100);
    }
}
