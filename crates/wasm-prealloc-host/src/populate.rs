//! Makes writable memory resident, and counts what is: the madvise(2) and mincore(2) calls in
//! the order that was found to get nobody killed.
//!
//! Nothing here unmaps; `secure` does, as soon as anything here fails. So no failure allocates.

use std::io;
use std::ptr::NonNull;

use crate::error::Error;
use crate::headroom::{Headroom, Need};
use crate::region::{HUGE_PAGE_BYTES, os_page_bytes};
use crate::secure::Method;

/// Not in every C library's headers yet. Since Linux 6.1.
const MADV_COLLAPSE: libc::c_int = 25;
/// Since Linux 5.14.
const MADV_POPULATE_WRITE: libc::c_int = 23;

/// How much is populated between two headroom checks, in bytes.
const CHUNK_BYTES: usize = 64 << 20;

/// How often a huge page is asked for that the kernel says to ask for again.
const ATTEMPTS: u32 = 8;

/// Why memory did not become resident, in a form that allocates nothing.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A cgroup at its limit refused a huge page.
    CgroupFull { committed_bytes: u64 },
    /// A system call failed.
    System {
        call: &'static str,
        bytes: usize,
        errno: i32,
    },
    /// A check between two chunks failed.
    Known(Error),
    /// Everything succeeded, but not everything is resident.
    NotResident {
        expected_bytes: u64,
        resident_bytes: u64,
    },
}

impl Failure {
    pub(crate) fn system(call: &'static str, bytes: usize, source: &io::Error) -> Failure {
        Failure::System {
            call,
            bytes,
            errno: source.raw_os_error().unwrap_or(0),
        }
    }
}

/// Populates whole huge pages from `base` on, and returns how many bytes from there are done.
/// What is left, for want of huge pages or as a tail, is for [`in_chunks`].
///
/// # Safety
///
/// `bytes` from `base` on are mapped, writable and zero, `base` is aligned to a huge page, and
/// nobody else reads or writes there.
pub(crate) unsafe fn collapse(base: NonNull<u8>, bytes: usize) -> Result<usize, Failure> {
    let whole = bytes - bytes % HUGE_PAGE_BYTES;
    if whole == 0 || !has_huge_pages() {
        return Ok(0);
    }
    // A collapse at a cgroup's limit is refused, but a page fault there kills. So every fault
    // comes first, and each as small as can be: faults that took huge pages would use up the
    // group's room before the kernel was asked for anything that it can refuse.
    // SAFETY: the caller's range; the advice changes how it is backed, not what it holds.
    if unsafe { advise(base, whole, libc::MADV_NOHUGEPAGE) } != 0 {
        return Ok(0);
    }
    for offset in (0..bytes).step_by(HUGE_PAGE_BYTES) {
        // SAFETY: the offset lies in the caller's range. The byte is zero and stays so; a
        // volatile write is not optimised away.
        unsafe { base.add(offset).write_volatile(0) };
    }
    // SAFETY: as for the advice before.
    if unsafe { advise(base, whole, libc::MADV_HUGEPAGE) } != 0 {
        return Ok(0);
    }
    for offset in (0..whole).step_by(HUGE_PAGE_BYTES) {
        let mut attempts = 0;
        loop {
            // SAFETY: the offset lies in the caller's range, and collapsing keeps contents.
            match unsafe { advise(base.add(offset), HUGE_PAGE_BYTES, MADV_COLLAPSE) } {
                0 => break,
                libc::EBUSY => {
                    return Err(Failure::CgroupFull {
                        committed_bytes: offset as u64,
                    });
                }
                libc::EAGAIN | libc::EINTR if attempts < ATTEMPTS => attempts += 1,
                // No huge pages on this kernel or for this process, or memory is too fragmented.
                libc::EINVAL | libc::ENOMEM | libc::EAGAIN | libc::EINTR => return Ok(offset),
                errno => {
                    return Err(Failure::System {
                        call: "madvise(MADV_COLLAPSE)",
                        bytes: HUGE_PAGE_BYTES,
                        errno,
                    });
                }
            }
        }
    }
    Ok(whole)
}

/// Whether the kernel's huge pages are of the size that is built in here.
fn has_huge_pages() -> bool {
    let path = "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size";
    match std::fs::read_to_string(path) {
        Ok(text) => text.trim().parse() == Ok(HUGE_PAGE_BYTES),
        // A sandbox may hide the file; the kernel's answer to the call decides.
        Err(_) => true,
    }
}

/// Populates `from..bytes` in chunks. Page faults cannot be refused, so each chunk is preceded by
/// a check that all the rest fits.
///
/// # Safety
///
/// `bytes` from `base` on are mapped and writable, `from` is a multiple of the operating system's
/// page, from there on everything is zero, and nobody else reads or writes there.
pub(crate) unsafe fn in_chunks(
    base: NonNull<u8>,
    from: usize,
    bytes: usize,
    margin_bytes: u64,
) -> Result<Method, Failure> {
    let missing = |from: usize, to: usize| {
        let resident = resident(base.as_ptr().wrapping_add(from), to - from)
            .map_err(|source| Failure::system("mincore", to - from, &source))?;
        Ok((to - from) as u64 - resident)
    };
    // Writes before a collapse that was not to be may have made much of it resident already.
    let mut remaining_bytes = missing(from, bytes)?;
    let mut method = Method::Populated;
    let mut at = from;
    while at < bytes {
        let end = bytes.min(at + CHUNK_BYTES);
        let missing_bytes = missing(at, end)?;
        if missing_bytes > 0 {
            let need = Need::populate(remaining_bytes, margin_bytes);
            Headroom::read()
                .and_then(|headroom| headroom.check(&need))
                .map_err(Failure::Known)?;
        }
        if method == Method::Populated {
            // SAFETY: the chunk lies in the caller's range; populating keeps contents.
            match unsafe { populate_write(base.add(at), end - at) } {
                0 => {}
                libc::EINVAL => method = Method::Touched,
                errno => {
                    return Err(Failure::System {
                        call: "madvise(MADV_POPULATE_WRITE)",
                        bytes: end - at,
                        errno,
                    });
                }
            }
        }
        if method == Method::Touched {
            // SAFETY: the chunk lies in the caller's range, all of it zero and nobody else's.
            unsafe { touch(base.add(at), end - at) };
        }
        remaining_bytes = remaining_bytes.saturating_sub(missing_bytes);
        at = end;
    }
    Ok(method)
}

/// # Safety
///
/// `bytes` from `start` on are mapped.
unsafe fn populate_write(start: NonNull<u8>, bytes: usize) -> i32 {
    loop {
        // SAFETY: the caller's range; populating changes nothing that can be read.
        match unsafe { advise(start, bytes, MADV_POPULATE_WRITE) } {
            // A signal, or a page that is being moved. What was populated stays.
            libc::EAGAIN | libc::EINTR => {}
            errno => return errno,
        }
    }
}

/// Writes one byte in each of the operating system's pages.
///
/// # Safety
///
/// `bytes` from `start` on are mapped, writable and zero, and nobody else reads or writes there.
unsafe fn touch(start: NonNull<u8>, bytes: usize) {
    for offset in (0..bytes).step_by(os_page_bytes()) {
        // SAFETY: the offset lies in the caller's range. The byte is zero and stays so; a
        // volatile write is not optimised away.
        unsafe { start.add(offset).write_volatile(0) };
    }
}

/// madvise(2): 0, or what `errno` says.
///
/// # Safety
///
/// `bytes` from `start` on are mapped, and the caller may give `advice` on them.
unsafe fn advise(start: NonNull<u8>, bytes: usize, advice: libc::c_int) -> i32 {
    // SAFETY: the caller's promise.
    match unsafe { libc::madvise(start.as_ptr().cast(), bytes, advice) } {
        0 => 0,
        // 0 would be success; there is no error without a number.
        _ => io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO),
    }
}

/// How many of `bytes` from `start` on are resident.
pub(crate) fn resident(start: *const u8, bytes: usize) -> io::Result<u64> {
    const PAGES_AT_ONCE: usize = 16 << 10;
    let page = os_page_bytes();
    let end = start as usize + bytes;
    let mut at = start as usize - start as usize % page;
    let mut sum: u64 = 0;
    let mut vector = [0_u8; PAGES_AT_ONCE];
    while at < end {
        let stop = end.min(at + PAGES_AT_ONCE * page);
        let pages = (stop - at).div_ceil(page);
        // SAFETY: mincore reads no memory of the range, and fails where nothing is mapped; the
        // vector has a byte for each page.
        let result = unsafe {
            libc::mincore(
                at as *mut libc::c_void,
                stop - at,
                vector.as_mut_ptr().cast(),
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        for (index, _) in vector[..pages]
            .iter()
            .enumerate()
            .filter(|(_, state)| **state & 1 == 1)
        {
            let first = (at + index * page).max(start as usize);
            let last = (at + (index + 1) * page).min(end);
            sum += (last - first) as u64;
        }
        at = stop;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::{Extent, Region};

    fn writable(bytes: usize) -> Region {
        let mut region = Region::reserve(Extent {
            reservation_bytes: bytes,
            guard_bytes: 1 << 16,
        })
        .unwrap();
        region.make_writable(bytes).unwrap();
        region
    }

    #[test]
    fn touching_makes_every_page_resident() {
        let bytes = 3 << 20;
        let region = writable(bytes);
        assert_eq!(resident(region.base().as_ptr(), bytes).unwrap(), 0);
        // SAFETY: the range is writable, zero, and this test's own.
        unsafe { touch(region.base(), bytes) };
        assert_eq!(
            resident(region.base().as_ptr(), bytes).unwrap(),
            bytes as u64
        );
    }

    #[test]
    fn chunks_populate_what_is_left_and_no_more() {
        let bytes = CHUNK_BYTES + (3 << 20);
        let region = writable(bytes);
        let from = 1 << 20;
        // SAFETY: the range is writable, zero, and this test's own.
        let method = unsafe { in_chunks(region.base(), from, bytes, 0) }.unwrap();
        assert_eq!(method, Method::Populated);
        assert_eq!(
            resident(region.base().as_ptr(), bytes).unwrap(),
            (bytes - from) as u64
        );
    }

    #[test]
    fn residency_is_cut_to_the_range() {
        let region = writable(1 << 20);
        // SAFETY: the range is writable, zero, and this test's own.
        unsafe { touch(region.base(), 8192) };
        let inside = region.base().as_ptr().wrapping_add(100);
        assert_eq!(resident(inside, 1000).unwrap(), 1000);
        assert_eq!(resident(inside, 1 << 19).unwrap(), 8192 - 100);
    }
}
