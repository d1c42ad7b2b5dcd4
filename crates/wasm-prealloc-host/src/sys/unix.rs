//! mmap(2), mprotect(2), mincore(2), and mlock(2).

use std::io;
use std::ptr::{self, NonNull};

/// Reserves `bytes` of inaccessible address space.
pub(crate) fn reserve(bytes: usize) -> io::Result<NonNull<u8>> {
    // SAFETY: a new mapping at an address that the kernel chooses replaces nothing.
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
    // The kernel maps address 0 only on request.
    NonNull::new(mapping.cast()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

/// Makes a range readable and writable for the first time. It reads as zero.
///
/// # Safety
/// The range lies in a reservation that the caller owns.
pub(crate) unsafe fn make_writable(start: NonNull<u8>, bytes: usize) -> io::Result<()> {
    // SAFETY: the caller's promise.
    unsafe { protect(start, bytes, true) }
}

/// Makes a range accessible or inaccessible. Its contents stay, and stay resident.
///
/// # Safety
/// The range lies in a reservation that the caller owns. If it becomes inaccessible, it is not in
/// use.
pub(crate) unsafe fn protect(start: NonNull<u8>, bytes: usize, accessible: bool) -> io::Result<()> {
    let access = match accessible {
        true => libc::PROT_READ | libc::PROT_WRITE,
        false => libc::PROT_NONE,
    };
    // SAFETY: the caller's promise.
    result(unsafe { libc::mprotect(start.as_ptr().cast(), bytes, access) })
}

/// Unmaps a reservation.
///
/// # Safety
/// The range is a whole reservation, and is not used afterwards.
pub(crate) unsafe fn release(start: NonNull<u8>, bytes: usize) {
    // SAFETY: the caller's promise.
    let released = unsafe { libc::munmap(start.as_ptr().cast(), bytes) };
    debug_assert_eq!(released, 0, "munmap of an own mapping");
}

/// Keeps a range from being swapped out.
///
/// # Safety
/// The range lies in a reservation that the caller owns and is resident.
#[cfg(not(target_os = "linux"))]
pub(crate) unsafe fn lock_memory(start: NonNull<u8>, bytes: usize) -> io::Result<()> {
    // SAFETY: the caller's promise; locking changes no contents.
    result(unsafe { libc::mlock(start.as_ptr().cast(), bytes) })
}

/// Undoes [`lock_memory`], also where nothing is locked.
///
/// # Safety
/// The range belongs to the caller.
pub(crate) unsafe fn unlock_memory(start: NonNull<u8>, bytes: usize) {
    // SAFETY: the caller's promise. It fails only where nothing is mapped.
    unsafe { libc::munlock(start.as_ptr().cast(), bytes) };
}

/// Reads the residency of the pages from address `first` on. The lowest bit of a page's entry is 1
/// if the page is resident.
pub(crate) fn residency(first: usize, pages: &mut [u8]) -> io::Result<()> {
    // SAFETY: mincore reads no memory of the range, and fails where nothing is mapped. `pages` has
    // a byte for each page.
    result(unsafe {
        libc::mincore(
            first as *mut libc::c_void,
            pages.len() * page_bytes(),
            pages.as_mut_ptr().cast(),
        )
    })
}

/// The size of the operating system's page, in bytes.
pub(crate) fn page_bytes() -> usize {
    // SAFETY: sysconf reads a constant.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    // It cannot fail for this name. Every page size is a multiple of 4 KiB.
    usize::try_from(bytes).unwrap_or(4096)
}

/// The result of a system call that returns 0 on success and sets `errno` otherwise.
pub(super) fn result(returned: libc::c_int) -> io::Result<()> {
    match returned {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
