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
use crate::commit::pace::Pace;
use crate::commit::report::{Method, OnProgress, Stage};
use crate::commit::residency::Reader;
use crate::commit::trial::{Amount, Trial};
use crate::error::SecureError;
use crate::limits::headroom::{Headroom, Need};
use crate::sys::HUGE_PAGE_BYTES;
use crate::sys::{self, Advice};

/// The size that is populated between two headroom checks, in bytes.
const CHUNK_BYTES: usize = 64 << 20;

/// The size that one call populates. The pace is measured between two calls.
const STEP_BYTES: usize = 2 << 20;

/// The number of retries for a huge page that the kernel fails to provide with EAGAIN or EINTR.
const RETRIES: u32 = 8;

const COLLAPSE: &str = "madvise(MADV_COLLAPSE)";
const POPULATE_WRITE: &str = "madvise(MADV_POPULATE_WRITE)";

/// A range to be populated, and the outcome.
#[derive(Debug)]
pub(crate) struct Part {
    base: NonNull<u8>,
    bytes: usize,
    /// The kind of pages, other than the machine's pool of huge pages.
    backing: Backing,
    /// The size up to the first huge page.
    head: usize,
    /// The size of the huge pages that can be collapsed, from the head on. 0 for base pages.
    whole: usize,
    /// The size of those that were collapsed.
    collapsed: usize,
    /// True if there is none, and all was populated together with the edges of other parts.
    populated: bool,
    method: Method,
}

impl Part {
    /// # Safety
    /// `bytes` from `base` on are whole pages, mapped and writable, until the part is dropped. They
    /// are private and anonymous, or `huge` is false.
    pub(crate) unsafe fn new(
        base: NonNull<u8>,
        bytes: usize,
        backing: Backing,
        huge: bool,
    ) -> Part {
        let head = base.align_offset(HUGE_PAGE_BYTES).min(bytes);
        let rest = bytes - head;
        Part {
            base,
            bytes,
            backing,
            head,
            whole: if huge {
                rest - rest % HUGE_PAGE_BYTES
            } else {
                0
            },
            collapsed: 0,
            populated: false,
            method: Method::Populated,
        }
    }

    /// Returns the method. Base pages before and after the huge pages do not change it.
    pub(crate) fn method(&self) -> Method {
        match self.collapsed > 0 && self.bytes - self.head - self.collapsed < HUGE_PAGE_BYTES {
            true => Method::Collapsed,
            false => self.method,
        }
    }

    /// Returns the ranges before and after the huge pages.
    fn edges(&self) -> [Range<usize>; 2] {
        [0..self.head, self.head + self.whole..self.bytes]
    }

    /// Returns the range of huge pages that were not collapsed.
    fn not_collapsed(&self) -> Range<usize> {
        self.head + self.collapsed..self.head + self.whole
    }

    /// Returns true if a page that is not huge is an error. `may_be_hidden` is true if a limit may be
    /// hidden.
    fn requires_huge_pages(&self, may_be_hidden: bool) -> bool {
        self.backing == Backing::Transparent || (may_be_hidden && may_have_huge_pages(self.backing))
    }

    /// Gives advice on the huge pages. Returns false if the kernel has none.
    fn advise(&self, advice: Advice) -> bool {
        // SAFETY: the range lies in the part, see `new`.
        self.whole > 0
            && unsafe { sys::advise(self.base.add(self.head), self.whole, advice) }.is_ok()
    }
}

/// Populates ranges by the backing of each, other than the machine's pool of huge pages.
pub(crate) struct Populate<'a> {
    pub(crate) margin_bytes: u64,
    pub(crate) reader: &'a Reader,
    pub(crate) trial: &'a Trial,
    pub(crate) progress: OnProgress<'a>,
    /// The number of bytes that were populated.
    done: u64,
    pace: Pace,
}

impl<'a> Populate<'a> {
    pub(crate) fn new(
        margin_bytes: u64,
        reader: &'a Reader,
        trial: &'a Trial,
        progress: OnProgress<'a>,
    ) -> Populate<'a> {
        Populate {
            margin_bytes,
            reader,
            trial,
            progress,
            done: 0,
            pace: Pace::new(),
        }
    }

    /// Populates all parts. Where a limit may be hidden, a trial precedes all page faults.
    ///
    /// In that case a shortage of huge pages is [`SecureError::NoHugePages`] for every backing: at
    /// a limit the kernel would prefer this process to the child of a further trial, because the
    /// child does not have the huge pages. The caller has to start anew with base pages.
    pub(crate) fn run(&mut self, parts: &mut [Part]) -> Result<(), SecureError> {
        for part in &mut *parts {
            // A collapse at a cgroup's limit is refused, but a page fault there causes a kill. So
            // all page faults come first, those of all parts, and take base pages: faults that took
            // huge pages would use up the group's room before the first call that the kernel can
            // refuse.
            if !(may_have_huge_pages(part.backing) && part.advise(Advice::BasePages)) {
                part.whole = 0;
            }
        }
        let whole = |parts: &[Part]| parts.iter().map(|part| part.whole).sum::<usize>();
        let total = parts.iter().map(|part| part.bytes as u64).sum();
        if whole(parts) > 0 {
            self.collapse_all(parts, total)?;
        }
        let collapsed: usize = parts.iter().map(|part| part.collapsed).sum();
        let is_short = |part: &Part| {
            part.requires_huge_pages(self.trial.is_needed())
                && part.bytes - part.head - part.collapsed >= HUGE_PAGE_BYTES
        };
        if parts.iter().any(is_short) {
            return Err(SecureError::NoHugePages {
                collapsed_bytes: collapsed as u64,
                needed_bytes: total,
            });
        }
        self.base_pages(parts, |part| match part.whole {
            0 if part.populated => 0..0,
            0 => 0..part.bytes,
            _ => part.not_collapsed(),
        })
    }

    /// Populates as many huge pages as the kernel provides, and the base pages around them.
    fn collapse_all(&mut self, parts: &mut [Part], total: u64) -> Result<(), SecureError> {
        let huge = || parts.iter().filter(|part| part.whole > 0);
        // Where a limit may be hidden, no page fault may follow the trial and the collapse.
        let all = self.trial.is_needed();
        let early = || parts.iter().filter(|part| all || part.whole > 0);
        let edges = early().flat_map(|part| part.edges().map(|range| range.len()));
        let edge_bytes: usize = edges.sum();
        let amount = Amount {
            spread_bytes: huge().map(|part| part.whole).sum(),
            whole_bytes: edge_bytes + self.trial.reserve_bytes(),
        };
        self.trial.run(amount, self.progress)?;
        for part in huge() {
            // SAFETY: the range lies in the part, see `Part::new`.
            unsafe { touch(part.base.add(part.head), part.whole, HUGE_PAGE_BYTES) };
        }
        for part in &mut *parts {
            if all || part.whole > 0 {
                for range in part.edges() {
                    self.in_chunks(part, range, edge_bytes as u64)?;
                }
                part.populated = part.whole == 0;
            }
        }
        for part in &mut *parts {
            if part.advise(Advice::HugePages) {
                self.collapse(part, total)?;
            }
        }
        Ok(())
    }

    /// Collapses the huge pages of a part, until the kernel provides no more. `needed_bytes` is the
    /// size of all parts.
    fn collapse(&mut self, part: &mut Part, needed_bytes: u64) -> Result<(), SecureError> {
        let start = part.head;
        while part.collapsed < part.whole {
            let mut retries = 0;
            let at = start + part.collapsed;
            // SAFETY: the huge page lies in the part, see `Part::new`.
            let advise =
                || unsafe { sys::advise(part.base.add(at), HUGE_PAGE_BYTES, Advice::Collapse) };
            while let Err(source) = advise() {
                match source.kind() {
                    // The caller adds the need and the nearest limit.
                    ErrorKind::ResourceBusy => {
                        return Err(SecureError::CgroupRefused {
                            committed_bytes: self.done,
                            needed_bytes,
                            nearest: None,
                        });
                    }
                    kind if is_temporary(kind) && retries < RETRIES => retries += 1,
                    // No huge pages on this kernel or for this process, or memory is too
                    // fragmented.
                    ErrorKind::InvalidInput
                    | ErrorKind::OutOfMemory
                    | ErrorKind::WouldBlock
                    | ErrorKind::Interrupted => return Ok(()),
                    _ => return Err(SecureError::system(COLLAPSE, HUGE_PAGE_BYTES)(source)),
                }
            }
            part.collapsed += HUGE_PAGE_BYTES;
            self.done += HUGE_PAGE_BYTES as u64;
            self.pace.check(self.done, needed_bytes)?;
            if part.collapsed.is_multiple_of(CHUNK_BYTES) {
                (self.progress)(Stage::Committing, self.done);
            }
        }
        Ok(())
    }

    /// Populates what is left in base pages.
    fn base_pages(
        &mut self,
        parts: &mut [Part],
        range: impl Fn(&Part) -> Range<usize>,
    ) -> Result<(), SecureError> {
        let mut missing_bytes = 0;
        for part in &*parts {
            missing_bytes += self.missing(part, range(part))?;
        }
        for part in parts {
            let range = range(part);
            missing_bytes -= self.in_chunks(part, range, missing_bytes)?;
        }
        Ok(())
    }

    fn missing(&self, part: &Part, range: Range<usize>) -> Result<u64, SecureError> {
        match range.is_empty() {
            true => Ok(0),
            false => {
                let start = part.base.as_ptr().wrapping_add(range.start);
                self.reader.missing(start, range.len())
            }
        }
    }

    /// Populates a range of a part in chunks. Page faults cannot be refused, so each chunk is
    /// preceded by a check that all the rest fits, `missing_bytes` in this range and after it.
    /// Returns the number of bytes that were missing in this range.
    fn in_chunks(
        &mut self,
        part: &mut Part,
        range: Range<usize>,
        missing_bytes: u64,
    ) -> Result<u64, SecureError> {
        let mut populated_bytes = 0;
        for at in range.clone().step_by(CHUNK_BYTES) {
            let end = range.end.min(at + CHUNK_BYTES);
            let missing_here = self.missing(part, at..end)?;
            if missing_here > 0 {
                let remaining_bytes = missing_bytes.saturating_sub(populated_bytes);
                let need = Need::populate(remaining_bytes, self.margin_bytes);
                Headroom::check_physical(&need)?;
            }
            for step in (at..end).step_by(STEP_BYTES) {
                let bytes = STEP_BYTES.min(end - step);
                // SAFETY: the step lies in the part, see `Part::new`.
                part.method =
                    unsafe { populate_or_touch(part.base.add(step), bytes, part.method) }?;
                self.done += bytes as u64;
                self.pace.check(self.done, self.done + missing_bytes)?;
            }
            populated_bytes += missing_here;
            (self.progress)(Stage::Committing, self.done);
        }
        Ok(populated_bytes)
    }
}

/// Returns true if the kernel may have huge pages for this backing. The advice decides.
pub(crate) fn may_have_huge_pages(backing: Backing) -> bool {
    backing != Backing::Base && sys::has_transparent_huge_pages(HUGE_PAGE_BYTES)
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

/// Populates a range by a method, or by the next one if the kernel does not have it. Returns the
/// method.
///
/// # Safety
/// The range is mapped and writable, and both ends are multiples of the operating system's page.
unsafe fn populate_or_touch(
    start: NonNull<u8>,
    bytes: usize,
    method: Method,
) -> Result<Method, SecureError> {
    if method == Method::Populated {
        // SAFETY: the caller's range.
        match unsafe { populate_write(start, bytes) } {
            Ok(()) => return Ok(method),
            Err(error) if is_unsupported(error.kind()) => {}
            Err(source) => return Err(SecureError::system(POPULATE_WRITE, bytes)(source)),
        }
    }
    // SAFETY: the caller's range.
    unsafe { touch(start, bytes, sys::page_bytes()) };
    Ok(Method::Touched)
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
    progress: &mut dyn FnMut(usize),
) -> Result<(), SecureError> {
    let chunk_bytes = CHUNK_BYTES.max(page_bytes);
    for at in (0..bytes).step_by(chunk_bytes) {
        if at > 0 {
            progress(at);
        }
        let chunk = chunk_bytes.min(bytes - at);
        // SAFETY: the chunk lies in the caller's range.
        unsafe { populate_write(base.add(at), chunk) }
            .map_err(SecureError::system(POPULATE_WRITE, chunk))?;
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
pub(crate) fn is_unsupported(kind: ErrorKind) -> bool {
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

    /// Populates ranges in base pages, and returns the reported progress.
    fn populate(parts: &mut [Part], from: usize) -> Vec<u64> {
        let mut reported = Vec::new();
        let reader = Reader::open();
        let trial = Trial::of_visible_limits();
        let mut progress = |_, done| reported.push(done);
        let mut populate = Populate::new(0, &reader, &trial, &mut progress);
        populate.base_pages(parts, |part| from..part.bytes).unwrap();
        reported
    }

    #[test]
    fn chunks_populate_the_rest_and_no_more() {
        let bytes = CHUNK_BYTES + (3 << 20);
        let region = Region::writable(bytes);
        let from = 1 << 20;
        // SAFETY: the range is writable and this test's own.
        let mut parts = [unsafe { Part::new(region.base(), bytes, Backing::Base, false) }];
        let reported = populate(&mut parts, from);
        assert_eq!(parts[0].method(), Method::Populated);
        assert_eq!(reported, [CHUNK_BYTES as u64, (bytes - from) as u64]);
        assert_eq!(
            Reader::open().count(region.base().as_ptr(), bytes).unwrap(),
            (bytes - from) as u64
        );
    }
}
