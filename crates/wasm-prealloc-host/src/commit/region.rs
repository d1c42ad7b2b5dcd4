//! A range of address space with guards on both sides: reserved, made writable in part, and
//! unmapped when dropped.
//!
//! Nothing is made resident here; that is in `populate`.

use std::io;
use std::ops::Range;
use std::ptr::NonNull;

use crate::sys::{self, HUGE_PAGE_BYTES};

/// The address space to reserve for a region, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    /// The reservation from the base on. Its start can be made writable, its rest stays
    /// inaccessible.
    pub(crate) reservation_bytes: usize,
    /// The inaccessible range before the base, and another one after the reservation.
    pub(crate) guard_bytes: usize,
    /// The alignment of the base: the size of a huge page.
    pub(crate) alignment_bytes: usize,
}

impl Layout {
    /// Returns the length of a mapping that has room for an aligned base.
    pub(crate) fn mapping_bytes(&self) -> Option<usize> {
        self.guard_bytes
            .checked_mul(2)?
            .checked_add(self.reservation_bytes)?
            .checked_add(self.alignment_bytes)?
            .checked_next_multiple_of(sys::page_bytes())
    }
}

impl Layout {
    /// Returns the most mappings that a region has whose first `bytes` are writable: the guards on
    /// both sides and the memory, which a pool divides once, at the end of its accessible or of its
    /// untracked part. A tail that is not a whole huge page is a mapping of its own.
    pub(crate) fn mappings(&self, bytes: usize) -> u64 {
        4 + u64::from(!bytes.is_multiple_of(HUGE_PAGE_BYTES))
    }
}

/// Private anonymous memory that this value owns.
#[derive(Debug)]
pub(crate) struct Region {
    mapping: NonNull<u8>,
    mapping_bytes: usize,
    base: NonNull<u8>,
    reservation_bytes: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and this value alone owns it.
unsafe impl Send for Region {}
// SAFETY: a shared reference gives out addresses and numbers only; reads and writes through them
// need an unsafe block of their own.
unsafe impl Sync for Region {}

impl Region {
    /// Reserves the address space, with the base aligned. All of it is inaccessible.
    pub(crate) fn reserve(layout: Layout) -> io::Result<Region> {
        let mapping_bytes = layout.mapping_bytes().ok_or(io::ErrorKind::OutOfMemory)?;
        let mapping = sys::reserve(mapping_bytes)?;
        // The room that the alignment leaves on both sides makes the guards larger.
        let first = mapping.as_ptr() as usize;
        let base = (first + layout.guard_bytes).next_multiple_of(layout.alignment_bytes);
        // SAFETY: the mapping is longer than both guards, the reservation and the alignment
        // together, so the base lies in it.
        let base = unsafe { mapping.add(base - first) };
        Ok(Region {
            mapping,
            mapping_bytes,
            base,
            reservation_bytes: layout.reservation_bytes,
        })
    }

    /// Makes the first `bytes` of the reservation readable and writable. They read as zero.
    pub(crate) fn make_writable(&mut self, bytes: usize) -> io::Result<()> {
        let range = self.inside(0..bytes);
        // SAFETY: the range lies in this value's own mapping.
        unsafe { sys::make_writable(self.base, range.len()) }
    }

    /// Replaces the first `bytes` of the reservation by huge pages of the machine's pool: readable,
    /// writable, and zero. `log2` is the binary logarithm of the huge page's size.
    pub(crate) fn map_huge_pages(&mut self, bytes: usize, log2: u32) -> io::Result<()> {
        let range = self.inside(0..bytes);
        // SAFETY: the range lies in this value's own mapping, which the layout aligns, and is not
        // in use: its address was not given out yet.
        unsafe { sys::map_huge_pages(self.base, range.len(), log2) }
    }

    /// Makes a range that was made writable before accessible or inaccessible. Contents and
    /// residency stay.
    ///
    /// # Safety
    /// A range that becomes inaccessible is not in use.
    pub(crate) unsafe fn protect(&self, range: Range<usize>, accessible: bool) -> io::Result<()> {
        let range = self.inside(range);
        if range.is_empty() {
            return Ok(());
        }
        // SAFETY: the range lies in this value's own mapping; the rest is the caller's promise.
        unsafe { sys::protect(self.base.add(range.start), range.len(), accessible) }
    }

    /// Returns the address of the first byte of the reservation.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    fn inside(&self, range: Range<usize>) -> Range<usize> {
        assert!(
            range.start <= range.end && range.end <= self.reservation_bytes,
            "outside of the reservation"
        );
        range
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and no address of it is used after this value.
        unsafe { sys::release(self.mapping, self.mapping_bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Layout {
        /// Returns the layout of a reservation of `bytes`, with guards of 1 MiB.
        fn of(bytes: usize) -> Layout {
            Layout {
                reservation_bytes: bytes,
                guard_bytes: 1 << 20,
                alignment_bytes: HUGE_PAGE_BYTES,
            }
        }
    }

    impl Region {
        /// Returns a region of `bytes` that are writable and zero, with guards around them.
        pub(crate) fn writable(bytes: usize) -> Region {
            let mut region = Region::reserve(Layout::of(bytes)).unwrap();
            region.make_writable(bytes).unwrap();
            region
        }
    }

    #[test]
    fn the_base_is_aligned_and_the_writable_part_reads_as_zero() {
        let mut region = Region::reserve(Layout::of(8 << 20)).unwrap();
        region.make_writable(1 << 20).unwrap();
        assert_eq!(region.base().as_ptr() as usize % HUGE_PAGE_BYTES, 0);
        // SAFETY: the range was just made writable, and its address was not given out.
        let bytes = unsafe { std::slice::from_raw_parts(region.base().as_ptr(), 1 << 20) };
        assert!(bytes.iter().all(|&byte| byte == 0));
    }

    #[test]
    fn guards_on_both_sides_are_mapped_and_inaccessible() {
        let mut region = Region::reserve(Layout::of(4 << 20)).unwrap();
        region.make_writable(2 << 20).unwrap();
        let base = region.base().as_ptr() as usize;
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let access = |address: usize| {
            maps.lines().find_map(|line| {
                let (range, rest) = line.split_once(' ')?;
                let (from, to) = range.split_once('-')?;
                let from = usize::from_str_radix(from, 16).ok()?;
                let to = usize::from_str_radix(to, 16).ok()?;
                (from..to).contains(&address).then(|| rest[..4].to_owned())
            })
        };
        assert_eq!(access(base - (1 << 20)).as_deref(), Some("---p"));
        assert_eq!(access(base - 1).as_deref(), Some("---p"));
        assert_eq!(access(base).as_deref(), Some("rw-p"));
        assert_eq!(access(base + (2 << 20) - 1).as_deref(), Some("rw-p"));
        assert_eq!(access(base + (2 << 20)).as_deref(), Some("---p"));
        assert_eq!(access(base + (5 << 20) - 1).as_deref(), Some("---p"));
    }

    #[test]
    fn a_layout_that_overflows_is_refused() {
        assert!(Region::reserve(Layout::of(usize::MAX - 10)).is_err());
    }
}
