//! A stretch of address space with guards on both sides: reserved, made writable in part, and
//! unmapped when dropped.
//!
//! Whether any of it is resident is not known here; that is `secure`.

use std::io;
use std::ops::Range;
use std::ptr::NonNull;

use crate::sys as os;

/// The size and the alignment of a transparent huge page, in bytes.
pub(crate) const HUGE_PAGE_BYTES: usize = 2 << 20;

/// How much address space to reserve, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    /// From the base on: what may be made writable, and what stays inaccessible after it.
    pub(crate) reservation_bytes: usize,
    /// Inaccessible before the base, and again after the reservation.
    pub(crate) guard_bytes: usize,
    /// What the base is a multiple of: the size of some huge page.
    pub(crate) alignment_bytes: usize,
}

impl Extent {
    /// The length of the mapping that finds an aligned base for this extent.
    pub(crate) fn mapping_bytes(&self) -> Option<usize> {
        self.guard_bytes
            .checked_mul(2)?
            .checked_add(self.reservation_bytes)?
            .checked_add(self.alignment_bytes)?
            .checked_next_multiple_of(os::page_bytes())
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
// SAFETY: a shared reference gives out addresses and numbers only; reading or writing through
// them takes an unsafe block of its own.
unsafe impl Sync for Region {}

impl Region {
    /// Reserves `extent`, with nothing accessible and the base aligned.
    pub(crate) fn reserve(extent: Extent) -> io::Result<Region> {
        let no_room = || io::Error::from_raw_os_error(os::errno::ENOMEM);
        let mapping_bytes = extent.mapping_bytes().ok_or_else(no_room)?;
        let mapping = os::reserve(mapping_bytes)?;
        // The extra room is there to align the base; both its parts just make the guards larger.
        let first = mapping.as_ptr() as usize;
        let base = (first + extent.guard_bytes).next_multiple_of(extent.alignment_bytes);
        // SAFETY: the mapping is longer than both guards, the reservation and the alignment
        // together, so the base lies in it.
        let base = unsafe { mapping.add(base - first) };
        Ok(Region {
            mapping,
            mapping_bytes,
            base,
            reservation_bytes: extent.reservation_bytes,
        })
    }

    /// Makes the first `bytes` of the reservation readable and writable. They read as zero.
    pub(crate) fn make_writable(&mut self, bytes: usize) -> io::Result<()> {
        let range = self.inside(0..bytes);
        // SAFETY: the range lies in this value's own mapping.
        unsafe { os::make_writable(self.base, range.len()) }
    }

    /// Puts huge pages of the machine's pool in place of the first `bytes` of the reservation:
    /// readable, writable, and zero. `log2` is the logarithm of the huge page's size.
    #[cfg(target_os = "linux")]
    pub(crate) fn map_huge_pages(&mut self, bytes: usize, log2: u32) -> io::Result<()> {
        let range = self.inside(0..bytes);
        // SAFETY: the range lies in this value's own mapping, is aligned by the caller's extent,
        // and is known to nobody else, so what it held before can go.
        let mapped = unsafe {
            libc::mmap(
                self.base.as_ptr().cast(),
                range.len(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE
                    | libc::MAP_ANONYMOUS
                    | libc::MAP_FIXED
                    | libc::MAP_HUGETLB
                    | (log2 << libc::MAP_HUGE_SHIFT).cast_signed(),
                -1,
                0,
            )
        };
        match mapped == libc::MAP_FAILED {
            true => Err(io::Error::last_os_error()),
            false => Ok(()),
        }
    }

    /// Makes a range that was once made writable accessible or not; contents and residency stay.
    ///
    /// # Safety
    ///
    /// Nobody uses what becomes inaccessible.
    pub(crate) unsafe fn protect(&self, range: Range<usize>, accessible: bool) -> io::Result<()> {
        let range = self.inside(range);
        if range.is_empty() {
            return Ok(());
        }
        // SAFETY: the range lies in this value's own mapping; for the rest the caller answers.
        unsafe { os::protect(self.base.add(range.start), range.len(), accessible) }
    }

    /// The first byte of the reservation.
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
        // SAFETY: the mapping is this value's own, and whoever was lent an address of it borrowed
        // this value or was told not to outlive it.
        unsafe { os::release(self.mapping, self.mapping_bytes) };
    }
}

#[cfg(test)]
impl Region {
    /// For tests: `bytes` that are writable and zero, with guards around them.
    pub(crate) fn writable(bytes: usize) -> Region {
        let mut region = Region::reserve(Extent {
            reservation_bytes: bytes,
            guard_bytes: 1 << 16,
            alignment_bytes: HUGE_PAGE_BYTES,
        })
        .unwrap();
        region.make_writable(bytes).unwrap();
        region
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_is_aligned_and_the_writable_part_reads_as_zero() {
        let extent = Extent {
            reservation_bytes: 8 << 20,
            guard_bytes: 1 << 20,
            alignment_bytes: HUGE_PAGE_BYTES,
        };
        let mut region = Region::reserve(extent).unwrap();
        region.make_writable(1 << 20).unwrap();
        assert_eq!(region.base().as_ptr() as usize % HUGE_PAGE_BYTES, 0);
        // SAFETY: the range was just made writable, and nobody else has its address.
        let bytes = unsafe { std::slice::from_raw_parts(region.base().as_ptr(), 1 << 20) };
        assert!(bytes.iter().all(|&byte| byte == 0));
    }

    #[test]
    fn guards_on_both_sides_are_mapped_and_inaccessible() {
        let extent = Extent {
            reservation_bytes: 4 << 20,
            guard_bytes: 1 << 20,
            alignment_bytes: HUGE_PAGE_BYTES,
        };
        let mut region = Region::reserve(extent).unwrap();
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
    fn an_extent_that_overflows_is_refused() {
        let extent = Extent {
            reservation_bytes: usize::MAX - 10,
            guard_bytes: 1 << 20,
            alignment_bytes: HUGE_PAGE_BYTES,
        };
        assert!(Region::reserve(extent).is_err());
    }
}
