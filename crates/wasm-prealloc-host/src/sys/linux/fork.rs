//! Tells a process from the children that fork(2) makes of it.

use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys::unix;

/// Returns a number that the process keeps and that none of its children has.
///
/// The process id is not enough: a child can have the same one in a namespace of its own. So the
/// number lies in a page that a fork clears (Linux 4.14).
pub(crate) fn process_mark() -> u64 {
    static PAGE: OnceLock<Option<&'static AtomicU64>> = OnceLock::new();
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let Some(mark) = *PAGE.get_or_init(map_page) else {
        return std::process::id().into();
    };
    match mark.load(Ordering::Relaxed) {
        0 => {
            let next = NEXT.fetch_add(1, Ordering::Relaxed);
            match mark.compare_exchange(0, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => next,
                Err(present) => present,
            }
        }
        present => present,
    }
}

/// Maps a page that is never unmapped, and that is zero at first and after each fork.
fn map_page() -> Option<&'static AtomicU64> {
    let bytes = unix::page_bytes();
    // SAFETY: a new mapping at an address that the kernel chooses replaces nothing.
    let page = unsafe {
        libc::mmap(
            ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if page == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: the page was just mapped, and only this function knows its address.
    let advised = unsafe { libc::madvise(page, bytes, libc::MADV_WIPEONFORK) };
    if advised != 0 {
        // SAFETY: as above.
        unsafe { libc::munmap(page, bytes) };
        return None;
    }
    // SAFETY: the page is zero, aligned, and stays mapped for the life of the process.
    Some(unsafe { &*page.cast::<AtomicU64>() })
}
