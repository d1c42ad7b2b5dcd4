//! Makes writable memory resident, whatever it holds: the madvise(2) calls in the order that was
//! found to get nobody killed. Where there are none, each page is touched.
//!
//! Nothing here unmaps; `secure` does, as soon as anything here fails. So no failure allocates.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

#[cfg(target_os = "linux")]
use crate::commit::region::HUGE_PAGE_BYTES;
use crate::commit::secure::Method;
use crate::error::Error;
use crate::limits::headroom::{Headroom, Need};
use crate::sys as os;

/// Not in every C library's headers yet. Since Linux 6.1.
#[cfg(target_os = "linux")]
const MADV_COLLAPSE: libc::c_int = 25;
/// Since Linux 5.14.
#[cfg(target_os = "linux")]
const MADV_POPULATE_WRITE: libc::c_int = 23;

/// How much is populated between two headroom checks, in bytes.
const CHUNK_BYTES: usize = 64 << 20;

/// Hears how many bytes from the base on are done. It must not need much memory itself.
pub(crate) type Progress<'a> = &'a mut dyn FnMut(usize);

/// How often a huge page is asked for that the kernel says to ask for again.
#[cfg(target_os = "linux")]
const ATTEMPTS: u32 = 8;

/// Why memory did not become resident, in a form that allocates nothing.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A cgroup at its limit refused a huge page.
    #[cfg_attr(
        not(target_os = "linux"),
        expect(dead_code, reason = "Linux has cgroups")
    )]
    CgroupFull { committed_bytes: u64 },
    /// Huge pages were required, and there are none for all of it.
    NoHugePages {
        collapsed_bytes: u64,
        needed_bytes: u64,
    },
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
/// `bytes` from `base` on are mapped and writable, and `base` is aligned to a huge page.
#[cfg(target_os = "linux")]
pub(crate) unsafe fn collapse(
    base: NonNull<u8>,
    bytes: usize,
    progress: Progress<'_>,
) -> Result<usize, Failure> {
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
    // SAFETY: the caller's range.
    unsafe { touch(base, bytes, HUGE_PAGE_BYTES) };
    // SAFETY: as for the advice before.
    if unsafe { advise(base, whole, libc::MADV_HUGEPAGE) } != 0 {
        return Ok(0);
    }
    for offset in (0..whole).step_by(HUGE_PAGE_BYTES) {
        if offset > 0 && offset % CHUNK_BYTES == 0 {
            progress(offset);
        }
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

/// Puts huge pages together again that were split, those that lie in the range as a whole, as far
/// as the kernel has any to give. What the range holds stays, and it is as resident as before
/// whatever happens.
///
/// # Safety
///
/// The range is mapped, was once collapsed, and starts at a multiple of a huge page.
pub(crate) unsafe fn mend(start: NonNull<u8>, bytes: usize) {
    #[cfg(target_os = "linux")]
    for offset in (0..bytes - bytes % HUGE_PAGE_BYTES).step_by(HUGE_PAGE_BYTES) {
        // SAFETY: the offset lies in the caller's range, and collapsing keeps contents.
        if unsafe { advise(start.add(offset), HUGE_PAGE_BYTES, MADV_COLLAPSE) } != 0 {
            return;
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (start, bytes);
}

/// Elsewhere nothing can be collapsed.
///
/// # Safety
///
/// None is asked for; the function is unsafe where there is something to do.
#[cfg(not(target_os = "linux"))]
pub(crate) unsafe fn collapse(
    _base: NonNull<u8>,
    _bytes: usize,
    _progress: Progress<'_>,
) -> Result<usize, Failure> {
    Ok(0)
}

/// Whether the kernel's huge pages are of the size that is built in here.
#[cfg(target_os = "linux")]
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
/// `bytes` from `base` on are mapped and writable, and `base` and `from` are multiples of the
/// operating system's page.
pub(crate) unsafe fn in_chunks(
    base: NonNull<u8>,
    from: usize,
    bytes: usize,
    margin_bytes: u64,
    progress: Progress<'_>,
) -> Result<Method, Failure> {
    let missing = |from: usize, to: usize| {
        let resident = os::resident(base.as_ptr().wrapping_add(from), to - from)
            .map_err(|source| Failure::system("mincore", to - from, &source))?;
        Ok((to - from) as u64 - resident)
    };
    // Writes before a collapse that was not to be may have made much of it resident already.
    let mut remaining_bytes = missing(from, bytes)?;
    #[cfg_attr(
        not(target_os = "linux"),
        expect(unused_mut, reason = "there is but one")
    )]
    let mut method = FIRST_METHOD;
    let mut at = from;
    while at < bytes {
        if at > from {
            progress(at);
        }
        let end = bytes.min(at + CHUNK_BYTES);
        let missing_bytes = missing(at, end)?;
        if missing_bytes > 0 {
            let need = Need::populate(remaining_bytes, margin_bytes);
            Headroom::read()
                .and_then(|headroom| headroom.check(&need))
                .map_err(Failure::Known)?;
        }
        #[cfg(target_os = "linux")]
        if method == Method::Populated {
            // SAFETY: the chunk lies in the caller's range; populating keeps contents.
            match unsafe { populate_write(base.add(at), end - at) } {
                0 => {}
                libc::EINVAL => method = Method::Touched,
                errno => {
                    return Err(Failure::System {
                        call: POPULATE_WRITE,
                        bytes: end - at,
                        errno,
                    });
                }
            }
        }
        if method == Method::Touched {
            // SAFETY: the chunk lies in the caller's range.
            unsafe { touch(base.add(at), end - at, os::page_bytes()) };
        }
        remaining_bytes = remaining_bytes.saturating_sub(missing_bytes);
        at = end;
    }
    Ok(method)
}

#[cfg(target_os = "linux")]
const FIRST_METHOD: Method = Method::Populated;
#[cfg(not(target_os = "linux"))]
const FIRST_METHOD: Method = Method::Touched;

#[cfg(target_os = "linux")]
const POPULATE_WRITE: &str = "madvise(MADV_POPULATE_WRITE)";

/// Populates pages of the machine's pool of huge pages. A page fault there can end in SIGBUS, so
/// they are never touched.
///
/// # Safety
///
/// `bytes` from `base` on are such pages, mapped and writable.
#[cfg(target_os = "linux")]
pub(crate) unsafe fn huge_pages(
    base: NonNull<u8>,
    bytes: usize,
    page_bytes: usize,
    progress: Progress<'_>,
) -> Result<(), Failure> {
    let chunk_bytes = CHUNK_BYTES.max(page_bytes);
    for at in (0..bytes).step_by(chunk_bytes) {
        if at > 0 {
            progress(at);
        }
        let chunk = chunk_bytes.min(bytes - at);
        // SAFETY: the chunk lies in the caller's range; populating keeps contents.
        match unsafe { populate_write(base.add(at), chunk) } {
            0 => {}
            errno => {
                return Err(Failure::System {
                    call: POPULATE_WRITE,
                    bytes: chunk,
                    errno,
                });
            }
        }
    }
    Ok(())
}

/// # Safety
///
/// `bytes` from `start` on are mapped.
#[cfg(target_os = "linux")]
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

/// Writes one byte in every `step` as it already is.
///
/// # Safety
///
/// `bytes` from `start` on are mapped and writable.
unsafe fn touch(start: NonNull<u8>, bytes: usize, step: usize) {
    for offset in (0..bytes).step_by(step) {
        // SAFETY: the offset lies in the caller's range, and any byte is aligned.
        let byte = unsafe { AtomicU8::from_ptr(start.add(offset).as_ptr()) };
        // Atomic, so that what another thread writes at the same time is not undone; where that
        // makes it fail, the page was written too. Not an `or` with 0, of which a compiler knows
        // that it changes nothing, and makes a load, which populates nothing; nor a load first,
        // which would take a page fault of its own.
        let same = |is| byte.compare_exchange(is, is, Ordering::Relaxed, Ordering::Relaxed);
        let _ = same(0).or_else(same);
    }
}

/// Keeps a range out of the children that fork(2) makes: a write after a fork would copy pages,
/// which takes memory that nobody has secured. A kernel that cannot is left to itself.
///
/// # Safety
///
/// `bytes` from `start` on are mapped and the caller's own.
pub(crate) unsafe fn keep_from_children(start: NonNull<u8>, bytes: usize) {
    #[cfg(target_os = "linux")]
    // SAFETY: the caller's range; the advice concerns other processes only.
    unsafe {
        advise(start, bytes, libc::MADV_DONTFORK);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (start, bytes);
}

/// madvise(2): 0, or what `errno` says.
///
/// # Safety
///
/// `bytes` from `start` on are mapped, and the caller may give `advice` on them.
#[cfg(target_os = "linux")]
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::region::Region;

    #[test]
    fn touching_makes_every_page_resident_and_keeps_what_it_holds() {
        let bytes = 3 << 20;
        let region = Region::writable(bytes);
        let base = region.base().as_ptr();
        assert_eq!(os::resident(base, bytes).unwrap(), 0);
        // SAFETY: the range is writable and this test's own.
        unsafe {
            base.add(os::page_bytes()).write(7);
            touch(region.base(), bytes, os::page_bytes());
            assert_eq!(base.add(os::page_bytes()).read(), 7);
        }
        assert_eq!(os::resident(base, bytes).unwrap(), bytes as u64);
    }

    #[test]
    fn chunks_populate_what_is_left_and_no_more() {
        let bytes = CHUNK_BYTES + (3 << 20);
        let region = Region::writable(bytes);
        let from = 1 << 20;
        let mut heard = Vec::new();
        let mut progress = |done| heard.push(done);
        // SAFETY: the range is writable and this test's own.
        let method = unsafe { in_chunks(region.base(), from, bytes, 0, &mut progress) }.unwrap();
        assert_eq!(method, FIRST_METHOD);
        assert_eq!(heard, [from + CHUNK_BYTES]);
        assert_eq!(
            os::resident(region.base().as_ptr(), bytes).unwrap(),
            (bytes - from) as u64
        );
    }

    #[test]
    fn residency_is_cut_to_the_range() {
        let region = Region::writable(1 << 20);
        // SAFETY: the range is writable and this test's own.
        unsafe { touch(region.base(), 8192, os::page_bytes()) };
        let inside = region.base().as_ptr().wrapping_add(100);
        assert_eq!(os::resident(inside, 1000).unwrap(), 1000);
        assert_eq!(os::resident(inside, 1 << 19).unwrap(), 8192 - 100);
    }
}
