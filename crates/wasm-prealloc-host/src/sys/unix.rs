//! mmap(2), mprotect(2), mincore(2) and mlock(2).

use std::io;
use std::ptr::{self, NonNull};

/// Reserves `bytes` of address space, nothing of it accessible.
pub(crate) fn reserve(bytes: usize) -> io::Result<NonNull<u8>> {
    // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
    let mapping = unsafe {
        libc::mmap(
            ptr::null_mut(),
            bytes,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if mapping == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // The kernel gives out address 0 only to those who ask for it.
    NonNull::new(mapping.cast()).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))
}

/// Makes a range readable and writable for the first time. It reads as zero.
///
/// # Safety
///
/// The range lies in a reservation of the caller's.
pub(crate) unsafe fn make_writable(start: NonNull<u8>, bytes: usize) -> io::Result<()> {
    // SAFETY: the caller's promise.
    unsafe { protect(start, bytes, true) }
}

/// Makes a range accessible or inaccessible. What it holds stays, and stays resident.
///
/// # Safety
///
/// The range lies in a reservation of the caller's, who knows of nobody that still uses it.
pub(crate) unsafe fn protect(start: NonNull<u8>, bytes: usize, accessible: bool) -> io::Result<()> {
    let access = match accessible {
        true => libc::PROT_READ | libc::PROT_WRITE,
        false => libc::PROT_NONE,
    };
    // SAFETY: the caller's promise.
    match unsafe { libc::mprotect(start.as_ptr().cast(), bytes, access) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives a reservation back.
///
/// # Safety
///
/// It is the whole of a reservation, and nobody uses it any more.
pub(crate) unsafe fn release(start: NonNull<u8>, bytes: usize) {
    // SAFETY: the caller's promise.
    let result = unsafe { libc::munmap(start.as_ptr().cast(), bytes) };
    debug_assert_eq!(result, 0, "munmap of an own mapping");
}

/// Keeps a range from being swapped out.
///
/// # Safety
///
/// The range lies in a reservation of the caller's and is resident.
pub(crate) unsafe fn lock(start: NonNull<u8>, bytes: usize) -> io::Result<()> {
    // SAFETY: the caller's promise; locking changes nothing that can be read.
    match unsafe { libc::mlock(start.as_ptr().cast(), bytes) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// How many of `bytes` from `start` on are resident.
pub(crate) fn resident(start: *const u8, bytes: usize) -> io::Result<u64> {
    const PAGES_AT_ONCE: usize = 16 << 10;
    let page = page_bytes();
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

/// The size of the operating system's page, in bytes.
pub(crate) fn page_bytes() -> usize {
    // SAFETY: sysconf reads a constant.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    // It cannot fail for this name; 4 KiB divides every page size there is.
    usize::try_from(bytes).unwrap_or(4096)
}
