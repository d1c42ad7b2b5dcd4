//! A stretch of address space with guards on both sides: reserved, made writable in part, and
//! unmapped when dropped.
//!
//! Whether any of it is resident is not known here; that is `secure`.

use std::io;
use std::ptr::{self, NonNull};

/// The size and the alignment of a huge page, in bytes.
pub(crate) const HUGE_PAGE_BYTES: usize = 2 << 20;

/// How much address space to reserve, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    /// From the base on: what may be made writable, and what stays inaccessible after it.
    pub(crate) reservation_bytes: usize,
    /// Inaccessible before the base, and again after the reservation.
    pub(crate) guard_bytes: usize,
}

impl Extent {
    /// The length of the mapping that finds an aligned base for this extent.
    pub(crate) fn mapping_bytes(&self) -> Option<usize> {
        self.guard_bytes
            .checked_mul(2)?
            .checked_add(self.reservation_bytes)?
            .checked_add(HUGE_PAGE_BYTES)?
            .checked_next_multiple_of(os_page_bytes())
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
    /// Reserves `extent`, with nothing accessible and the base aligned to a huge page.
    pub(crate) fn reserve(extent: Extent) -> io::Result<Region> {
        let mapping_bytes = extent
            .mapping_bytes()
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
        let mapping = unsafe {
            libc::mmap(
                ptr::null_mut(),
                mapping_bytes,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if mapping == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // The extra huge page leaves room to align; both its parts just make the guards larger.
        let first = mapping.cast::<u8>();
        let offset = (first as usize + extent.guard_bytes).next_multiple_of(HUGE_PAGE_BYTES)
            - first as usize;
        let (Some(mapping), Some(base)) = (
            NonNull::new(first),
            NonNull::new(first.wrapping_add(offset)),
        ) else {
            // The kernel gives out address 0 only to those who ask for it.
            return Err(io::Error::from_raw_os_error(libc::ENOMEM));
        };
        Ok(Region {
            mapping,
            mapping_bytes,
            base,
            reservation_bytes: extent.reservation_bytes,
        })
    }

    /// Makes the first `bytes` of the reservation readable and writable. They read as zero.
    pub(crate) fn make_writable(&mut self, bytes: usize) -> io::Result<()> {
        assert!(
            bytes <= self.reservation_bytes,
            "outside of the reservation"
        );
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the range lies in this value's own mapping, as was just asserted.
        match unsafe { libc::mprotect(self.base.as_ptr().cast(), bytes, access) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The first byte of the reservation.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and whoever was lent an address of it borrowed
        // this value or was told not to outlive it.
        let result = unsafe { libc::munmap(self.mapping.as_ptr().cast(), self.mapping_bytes) };
        debug_assert_eq!(result, 0, "munmap of an own mapping");
    }
}

/// The size of the operating system's page, in bytes.
pub(crate) fn os_page_bytes() -> usize {
    // SAFETY: sysconf reads a constant.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    // It cannot fail for this name; 4 KiB divides every page size there is.
    usize::try_from(bytes).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_is_aligned_and_the_writable_part_reads_as_zero() {
        let extent = Extent {
            reservation_bytes: 8 << 20,
            guard_bytes: 1 << 20,
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
        };
        assert!(Region::reserve(extent).is_err());
    }
}
