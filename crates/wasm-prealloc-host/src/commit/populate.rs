//! Makes writable memory resident and keeps its contents. The madvise(2) calls are in the order
//! that was measured to cause no kill. Systems without them touch each page.
//!
//! Nothing is unmapped here: `secure` unmaps as soon as a function here fails. At a limit an
//! allocation can cause a kill, so failures of the kernel are returned without one.

use std::io::{self, ErrorKind};
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::commit::backing::Backing;
use crate::commit::region::HUGE_PAGE_BYTES;
use crate::commit::report::Method;
use crate::commit::requirements::Requirements;
use crate::commit::residency::Reader;
use crate::error::Error;
use crate::limits::headroom::{Headroom, Need};
use crate::sys::{self, Advice};

/// The size that is populated between two headroom checks, in bytes.
const CHUNK_BYTES: usize = 64 << 20;

/// The number of retries for a huge page that the kernel fails to provide with EAGAIN or EINTR.
const RETRIES: u32 = 8;

const COLLAPSE: &str = "madvise(MADV_COLLAPSE)";
const POPULATE_WRITE: &str = "madvise(MADV_POPULATE_WRITE)";

/// Receives the number of bytes from the base on that are populated. It must not allocate much.
pub(crate) type Progress<'a> = &'a mut dyn FnMut(usize);

/// Populates a range by the required backing, other than the machine's pool of huge pages.
///
/// # Safety
/// `bytes` from `base` on are whole pages, mapped and writable.
pub(crate) unsafe fn populate(
    base: NonNull<u8>,
    bytes: usize,
    requirements: &Requirements,
    reader: &Reader,
    progress: Progress<'_>,
) -> Result<Method, Error> {
    let head = base.align_offset(HUGE_PAGE_BYTES).min(bytes);
    let mut collapsed = 0;
    if requirements.backing != Backing::Base && head < bytes {
        let progress = &mut |done| progress(head + done);
        // SAFETY: the range lies in the caller's, and starts at a multiple of a huge page.
        collapsed = unsafe { collapse(base.add(head), bytes - head, progress) }?;
    }
    let rest = bytes - head - collapsed;
    if requirements.backing == Backing::Transparent && rest >= HUGE_PAGE_BYTES {
        return Err(Error::NoHugePages {
            collapsed_bytes: collapsed as u64,
            needed_bytes: bytes as u64,
        });
    }
    let mut method = Method::Populated;
    for range in [0..head, head + collapsed..bytes] {
        if !range.is_empty() {
            let margin = requirements.margin_bytes;
            // SAFETY: the range lies in the caller's, and both ends are multiples of a page.
            method = unsafe { in_chunks(base, range, margin, reader, progress) }?;
        }
    }
    // Base pages before and after the huge pages do not change the method.
    Ok(match rest < HUGE_PAGE_BYTES && collapsed > 0 {
        true => Method::Collapsed,
        false => method,
    })
}

/// Populates whole huge pages from `base` on, and returns the number of bytes that are done. The
/// rest, if the kernel has no huge pages for it or as a tail, is left for [`in_chunks`].
///
/// # Safety
/// `bytes` from `base` on are mapped and writable, and `base` is aligned to a huge page.
unsafe fn collapse(
    base: NonNull<u8>,
    bytes: usize,
    progress: Progress<'_>,
) -> Result<usize, Error> {
    let whole = bytes - bytes % HUGE_PAGE_BYTES;
    if whole == 0 || !sys::has_transparent_huge_pages(HUGE_PAGE_BYTES) {
        return Ok(0);
    }
    // A collapse at a cgroup's limit is refused, but a page fault there causes a kill. So all page
    // faults come first, and take base pages: faults that took huge pages would use up the group's
    // room before the first call that the kernel can refuse.
    // SAFETY: the caller's range.
    if unsafe { sys::advise(base, whole, Advice::BasePages) }.is_err() {
        return Ok(0);
    }
    // SAFETY: the caller's range.
    unsafe { touch(base, bytes, HUGE_PAGE_BYTES) };
    // SAFETY: the caller's range.
    if unsafe { sys::advise(base, whole, Advice::HugePages) }.is_err() {
        return Ok(0);
    }
    for offset in (0..whole).step_by(HUGE_PAGE_BYTES) {
        if offset > 0 && offset % CHUNK_BYTES == 0 {
            progress(offset);
        }
        let mut retries = 0;
        // SAFETY: the offset lies in the caller's range.
        let advise = || unsafe { sys::advise(base.add(offset), HUGE_PAGE_BYTES, Advice::Collapse) };
        while let Err(source) = advise() {
            match source.kind() {
                // The caller adds the need and the nearest limit.
                ErrorKind::ResourceBusy => {
                    return Err(Error::CgroupRefused {
                        committed_bytes: offset as u64,
                        needed_bytes: bytes as u64,
                        nearest: None,
                    });
                }
                kind if is_temporary(kind) && retries < RETRIES => retries += 1,
                // No huge pages on this kernel or for this process, or memory is too fragmented.
                ErrorKind::InvalidInput
                | ErrorKind::OutOfMemory
                | ErrorKind::WouldBlock
                | ErrorKind::Interrupted => return Ok(offset),
                _ => return Err(Error::system(COLLAPSE, HUGE_PAGE_BYTES)(source)),
            }
        }
    }
    Ok(whole)
}

/// Collapses split huge pages again, those that lie completely in the range, until the kernel has
/// no more. Contents and residency stay, even if it fails.
///
/// # Safety
/// The range is mapped, was once collapsed, and starts at a multiple of a huge page.
pub(crate) unsafe fn recollapse(start: NonNull<u8>, bytes: usize) {
    for offset in (0..bytes - bytes % HUGE_PAGE_BYTES).step_by(HUGE_PAGE_BYTES) {
        // SAFETY: the offset lies in the caller's range.
        let collapsed =
            unsafe { sys::advise(start.add(offset), HUGE_PAGE_BYTES, Advice::Collapse) };
        if collapsed.is_err() {
            return;
        }
    }
}

/// Populates a part of a range in chunks. Page faults cannot be refused, so each chunk is preceded
/// by a check that all the rest fits.
///
/// # Safety
/// The part is mapped and writable, and its ends are multiples of the operating system's page.
unsafe fn in_chunks(
    base: NonNull<u8>,
    part: Range<usize>,
    margin_bytes: u64,
    reader: &Reader,
    progress: Progress<'_>,
) -> Result<Method, Error> {
    let missing = |from: usize, to: usize| -> Result<u64, Error> {
        reader.missing(base.as_ptr().wrapping_add(from), to - from)
    };
    // Writes before an attempt to collapse may have made a part of it resident already.
    let mut remaining_bytes = missing(part.start, part.end)?;
    let mut method = Method::Populated;
    for at in part.clone().step_by(CHUNK_BYTES) {
        if at > part.start {
            progress(at);
        }
        let end = part.end.min(at + CHUNK_BYTES);
        let missing_bytes = missing(at, end)?;
        if missing_bytes > 0 {
            let need = Need::populate(remaining_bytes, margin_bytes);
            Headroom::check_physical(&need)?;
        }
        if method == Method::Populated {
            // SAFETY: the chunk lies in the caller's range.
            match unsafe { populate_write(base.add(at), end - at) } {
                Ok(()) => {}
                Err(error) if is_unsupported(error.kind()) => method = Method::Touched,
                Err(source) => return Err(Error::system(POPULATE_WRITE, end - at)(source)),
            }
        }
        if method == Method::Touched {
            // SAFETY: the chunk lies in the caller's range.
            unsafe { touch(base.add(at), end - at, sys::page_bytes()) };
        }
        remaining_bytes = remaining_bytes.saturating_sub(missing_bytes);
    }
    Ok(method)
}

/// Populates huge pages of the machine's pool. A page fault there can end in SIGBUS, so they are
/// never touched.
///
/// # Safety
/// `bytes` from `base` on are mapped as pages of the pool, and writable.
pub(crate) unsafe fn pool_pages(
    base: NonNull<u8>,
    bytes: usize,
    page_bytes: usize,
    progress: Progress<'_>,
) -> Result<(), Error> {
    let chunk_bytes = CHUNK_BYTES.max(page_bytes);
    for at in (0..bytes).step_by(chunk_bytes) {
        if at > 0 {
            progress(at);
        }
        let chunk = chunk_bytes.min(bytes - at);
        // SAFETY: the chunk lies in the caller's range.
        unsafe { populate_write(base.add(at), chunk) }
            .map_err(Error::system(POPULATE_WRITE, chunk))?;
    }
    Ok(())
}

/// # Safety
/// `bytes` from `start` on are mapped.
unsafe fn populate_write(start: NonNull<u8>, bytes: usize) -> io::Result<()> {
    loop {
        // SAFETY: the caller's range.
        match unsafe { sys::advise(start, bytes, Advice::Populate) } {
            // A signal, or a page that is being moved. The pages that were populated stay.
            Err(error) if is_temporary(error.kind()) => {}
            result => return result,
        }
    }
}

/// EAGAIN or EINTR.
fn is_temporary(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// EINVAL, which an older kernel returns for new advice, or a system without the call.
fn is_unsupported(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::InvalidInput | ErrorKind::Unsupported)
}

/// Writes one byte in every `step` without a change of its value.
///
/// # Safety
/// `bytes` from `start` on are mapped and writable.
unsafe fn touch(start: NonNull<u8>, bytes: usize, step: usize) {
    for offset in (0..bytes).step_by(step) {
        // SAFETY: the offset lies in the caller's range, and any byte is aligned.
        let byte = unsafe { AtomicU8::from_ptr(start.add(offset).as_ptr()) };
        // Atomic, so that a concurrent write of another thread is not undone; if that write makes
        // the exchange fail, the page was written too. Not an `or` with 0: compilers turn it into a
        // load, which populates nothing. Not a load first: it would cause a page fault more.
        let same = |is| byte.compare_exchange(is, is, Ordering::Relaxed, Ordering::Relaxed);
        let _ = same(0).or_else(same);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::region::Region;

    #[test]
    fn touching_makes_every_page_resident_and_keeps_contents() {
        let bytes = 3 << 20;
        let region = Region::writable(bytes);
        let base = region.base().as_ptr();
        assert_eq!(Reader::open().count(base, bytes).unwrap(), 0);
        // SAFETY: the range is writable and this test's own.
        unsafe {
            base.add(sys::page_bytes()).write(7);
            touch(region.base(), bytes, sys::page_bytes());
            assert_eq!(base.add(sys::page_bytes()).read(), 7);
        }
        assert_eq!(Reader::open().count(base, bytes).unwrap(), bytes as u64);
    }

    #[test]
    fn chunks_populate_the_rest_and_no_more() {
        let bytes = CHUNK_BYTES + (3 << 20);
        let region = Region::writable(bytes);
        let reader = Reader::open();
        let from = 1 << 20;
        let mut reported = Vec::new();
        let mut progress = |done| reported.push(done);
        // SAFETY: the range is writable and this test's own.
        let populated = unsafe { in_chunks(region.base(), from..bytes, 0, &reader, &mut progress) };
        let method = populated.unwrap();
        assert_eq!(method, Method::Populated);
        assert_eq!(reported, [from + CHUNK_BYTES]);
        assert_eq!(
            reader.count(region.base().as_ptr(), bytes).unwrap(),
            (bytes - from) as u64
        );
    }
}
