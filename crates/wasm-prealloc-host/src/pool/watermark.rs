//! An adaptive watermark: writes below it are not tracked and everything there is zeroed each time,
//! writes above it are tracked by the kernel and only what was written is zeroed.
//!
//! The mark follows the second largest of the last [`WINDOW`] blocks. A single large block does not
//! move it, so it costs the later blocks nothing: its writes are found by tracking, zeroed, and
//! protected again in its own reset. Two large blocks within the window raise the mark, because
//! tracking the writes of a third would cost more than zeroing up to the mark until the window has
//! passed.
//!
//! Growth in small steps and writes to tracked pages split huge pages. Measured on 100 MiB, that
//! does not change the speed of writing and zeroing (4.4 ms both ways, in order; within noise at
//! random). A scan of 4 GiB takes 0.24 ms in huge pages and 3.2 ms in base pages, and collapsing
//! takes 0.11 ms for each MiB. So only tracked memory is collapsed again: what a single large block
//! wrote in its own reset, the rest when it was not written for a while, and little of it at a
//! time.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::commit::populate;
use crate::pool::reset::{ResetMethod, Work};
use crate::pool::split_pages::SplitPages;
use crate::sys::HUGE_PAGE_BYTES;
use crate::sys::Tracker;

/// The cost of a write to a tracked page: the page fault, the scan, the zeros and the protection
/// for the next block. In units of zeroing one page; measured as 1 to 2 us against 0.064.
const TRACKED_PAGE: u64 = 16;

/// The number of blocks that the mark is derived from.
///
/// A mark that is too high costs 0.015 ms for each MiB and block, and raising it by writes to
/// tracked pages 0.25 ms for each MiB. The number is about the ratio of the two, so that neither
/// mistake costs much more than the other.
const WINDOW: usize = 16;

/// The distance of the bytes that are read below the mark to estimate the end of what a block
/// wrote. An estimate that is wrong moves the mark and nothing else. Reading one cache line in each
/// takes about a sixteenth of the time of zeroing.
const SAMPLE_BYTES: usize = 64 << 10;

/// The number of huge pages that one reset collapses again at most, apart from those of a single
/// large block. Each takes about 0.22 ms.
const COLLAPSED_AT_ONCE: usize = 2;

/// The watermark of one slot that is accessible as a whole, and the tracker of writes above it.
#[derive(Debug)]
pub(crate) struct Watermark {
    tracker: Arc<Tracker>,
    /// False if nothing is tracked, because the kernel refused.
    tracking: bool,
    /// The start of what is tracked, up to `tail`. A multiple of a huge page, or `highest`.
    mark: usize,
    /// The start of the last wasm page, or of the last page of the machine's pool, which is zeroed
    /// each time and not tracked: a module that shares its memory counts its growth there.
    tail: usize,
    /// The size of a wasm page, or of a page of the machine's pool, which the kernel protects only
    /// as a whole.
    unit: usize,
    /// The ends of what the last blocks wrote, the newest last.
    ends: VecDeque<usize>,
    /// The huge pages above the mark that may be split, if the slot has huge pages.
    split: Option<SplitPages>,
    /// A buffer, kept for the next reset.
    written: Vec<Range<usize>>,
}

impl Watermark {
    /// Starts to track a slot that is zero. If the kernel refuses, the first resets zero everything
    /// and try again.
    ///
    /// # Safety
    /// `bytes` from `base` on are whole pages, mapped, owned by the caller, and stay mapped for as
    /// long as this value is used.
    pub(crate) unsafe fn new(
        tracker: Arc<Tracker>,
        base: NonNull<u8>,
        bytes: usize,
        huge: bool,
        unit: usize,
    ) -> (Watermark, io::Result<()>) {
        let tail = bytes - bytes.min(unit);
        let mut watermark = Watermark {
            tracker,
            tracking: false,
            mark: 0,
            tail,
            unit,
            ends: VecDeque::from([0; WINDOW]),
            split: huge.then(|| SplitPages::new(bytes)),
            written: Vec::new(),
        };
        // SAFETY: the caller's promise.
        let started = unsafe { watermark.start(base) };
        (watermark, started)
    }

    /// The lowest mark: every block writes something at the bottom.
    fn lowest(&self) -> usize {
        HUGE_PAGE_BYTES.min(self.highest())
    }

    /// The highest mark. A page stays tracked, so that moving the mark moves the boundary of
    /// two mappings and never needs one more: `vm.max_map_count` limits their number.
    fn highest(&self) -> usize {
        self.tail - self.tail.min(self.unit)
    }

    /// Tracks everything above the lowest mark.
    ///
    /// # Safety
    /// As for [`reset`](Watermark::reset).
    unsafe fn start(&mut self, base: NonNull<u8>) -> io::Result<()> {
        self.tracking = false;
        self.mark = self.lowest();
        // SAFETY: the caller owns the range.
        unsafe { self.tracker.watch(absolute(base, self.mark..self.tail)) }?;
        self.tracking = true;
        Ok(())
    }

    /// Zeroes the slot, and moves the mark to where the next block is expected to end. The slot is
    /// zero even if tracking fails: then everything is zeroed, now or the next time.
    ///
    /// # Safety
    /// `base` and `bytes` are those of [`Watermark::new`], writable, and not in use.
    pub(crate) unsafe fn reset(&mut self, base: NonNull<u8>, bytes: usize) -> Work {
        let mut work = Work::new(ResetMethod::Watermark);
        let (mark, tail) = (self.mark, self.tail);
        self.written.clear();
        let scanned = match self.tracking {
            true => {
                let above = absolute(base, mark..tail);
                let scanned = self.tracker.written(above, &mut self.written);
                scanned.map_err(Some)
            }
            false => Err(None),
        };
        if let Err(failure) = scanned {
            work.method = ResetMethod::Everything;
            // SAFETY: the range is the whole slot.
            unsafe { work.zero(base, 0..bytes) };
            // SAFETY: the caller's promise.
            let restarted = unsafe { self.restart(base) };
            work.failure = failure.or(restarted.err());
            return work;
        }
        for range in &mut self.written {
            *range = range.start - base.addr().get()..range.end - base.addr().get();
            // SAFETY: the range lies above the mark and within the slot.
            unsafe { work.zero(base, range.clone()) };
        }
        // SAFETY: the ranges lie within the slot.
        let end_below = unsafe {
            let end = sampled_end(base, mark);
            work.zero(base, 0..mark);
            work.zero(base, tail..bytes);
            end
        };
        // SAFETY: the caller's promise; everything is zero now.
        work.failure = unsafe { self.adapt(base, end_below, &mut work) }.err();
        if self.mark != mark {
            work.moved = Some((mark, self.mark));
        }
        work
    }

    /// Tracks a slot anew whose tracking failed, and that is zero.
    ///
    /// # Safety
    /// As for [`reset`](Watermark::reset).
    unsafe fn restart(&mut self, base: NonNull<u8>) -> io::Result<()> {
        self.ends = VecDeque::from([0; WINDOW]);
        let tracked = self.lowest()..self.tail;
        if let Some(split) = &mut self.split {
            split.add(tracked);
        }
        // SAFETY: the caller owns the range.
        unsafe { self.start(base) }
    }

    /// Moves the mark and protects what was written above it. After a failure the mark is where it
    /// was, and pages that could not be protected count as written.
    ///
    /// # Safety
    /// As for [`reset`](Watermark::reset), and the slot is zero.
    unsafe fn adapt(
        &mut self,
        base: NonNull<u8>,
        end_below: usize,
        work: &mut Work,
    ) -> io::Result<()> {
        let (lowest, highest) = (self.lowest(), self.highest());
        let mark = self.mark;
        let to_mark = |end: usize| {
            let whole = end.next_multiple_of(HUGE_PAGE_BYTES);
            whole.min(highest).max(lowest)
        };
        let best = match raised(mark, &self.written) {
            0 => to_mark(end_below),
            end => to_mark(end),
        };
        self.ends.rotate_left(1);
        if let Some(newest) = self.ends.back_mut() {
            *newest = best;
        }
        let second = to_mark(second_largest(&self.ends));
        if let Some(split) = &mut self.split {
            self.written.iter().for_each(|range| split.write(range));
        }
        if second > mark {
            // SAFETY: the caller owns the range.
            unsafe { self.tracker.unwatch(absolute(base, mark..second)) }?;
            self.mark = second;
        } else if second <= mark / 2 {
            // The two marks are multiples of a huge page, or the upper one is the highest.
            // SAFETY: the caller owns the range.
            unsafe { self.tracker.watch(absolute(base, second..mark)) }?;
            work.protected_bytes += (mark - second) as u64;
            if let Some(split) = &mut self.split {
                split.add(second..mark);
            }
            self.mark = second;
        }
        if best > self.mark && self.split.is_some() {
            // SAFETY: the caller owns the range.
            unsafe { self.collapse(base, self.mark..best, work) }?;
        }
        self.protect_written(base, work)?;
        // SAFETY: the caller's promise.
        unsafe { self.collapse_some(base, work) }
    }

    /// Protects the pages again that were written and stay tracked: they have to be found again
    /// after the next block.
    fn protect_written(&mut self, base: NonNull<u8>, work: &mut Work) -> io::Result<()> {
        let mut tracked = self.written.iter().filter(|range| range.end > self.mark);
        let Some(first) = tracked.next() else {
            return Ok(());
        };
        let last = tracked.next_back().unwrap_or(first);
        let start = first.start.max(self.mark);
        work.protected_bytes += self
            .written
            .iter()
            .map(|range| range.end.saturating_sub(range.start.max(self.mark)) as u64)
            .sum::<u64>();
        self.tracker.forget(absolute(base, start..last.end))
    }

    /// Collapses tracked memory again, and protects it.
    ///
    /// # Safety
    /// The caller owns the range, which is tracked, zero, and starts at a multiple of a huge page.
    unsafe fn collapse(
        &mut self,
        base: NonNull<u8>,
        range: Range<usize>,
        work: &mut Work,
    ) -> io::Result<()> {
        let whole = range.start..range.end / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
        if whole.is_empty() {
            return Ok(());
        }
        if let Some(split) = &mut self.split {
            split.remove(whole.clone());
        }
        // The kernel does not collapse pages that are protected.
        self.tracker.expose(absolute(base, whole.clone()))?;
        // SAFETY: the caller owns the range, which was collapsed when the slot was committed.
        unsafe { populate::recollapse(base.add(whole.start), whole.len()) };
        work.collapsed_bytes += whole.len() as u64;
        work.protected_bytes += whole.len() as u64;
        self.tracker.forget(absolute(base, whole))
    }

    /// Collapses a bounded number of huge pages again that were not written for a while.
    ///
    /// # Safety
    /// The caller owns the slot, which is zero.
    unsafe fn collapse_some(&mut self, base: NonNull<u8>, work: &mut Work) -> io::Result<()> {
        for _ in 0..COLLAPSED_AT_ONCE {
            let tracked = self.mark..self.tail;
            let next = self.split.as_mut().and_then(|split| split.next(tracked));
            let Some(page) = next else { break };
            // SAFETY: the caller's promise; the page is tracked and a whole huge page.
            unsafe { self.collapse(base, page, work) }?;
        }
        if let Some(split) = &mut self.split {
            split.end_block();
        }
        Ok(())
    }
}

/// Returns the best mark for a next block that writes as this one did above the mark, or 0 if the
/// mark should not rise. It rises as long as tracking the pages below it would cost more than
/// zeroing them.
fn raised(mark: usize, written: &[Range<usize>]) -> usize {
    let (mut best, mut best_gain) = (0, 0);
    let mut tracked = 0;
    for range in written {
        tracked += pages(range.len()) * TRACKED_PAGE;
        let end = range.end.next_multiple_of(HUGE_PAGE_BYTES);
        let gain = tracked.saturating_sub(pages(end - mark));
        if gain > best_gain {
            (best, best_gain) = (end, gain);
        }
    }
    best
}

fn second_largest(ends: &VecDeque<usize>) -> usize {
    let (mut largest, mut second) = (0, 0);
    for &end in ends {
        if end > largest {
            (largest, second) = (end, largest);
        } else if end > second {
            second = end;
        }
    }
    second
}

/// Converts to units of 4 KiB, for any page size of the operating system: only ratios matter.
fn pages(bytes: usize) -> u64 {
    (bytes >> 12) as u64
}

fn absolute(base: NonNull<u8>, range: Range<usize>) -> Range<usize> {
    base.addr().get() + range.start..base.addr().get() + range.end
}

/// Estimates the end of what was written in the first `bytes`: the end of the highest sample that
/// is not zero.
///
/// # Safety
/// The range from `base` on is mapped and readable, and not written during the call.
unsafe fn sampled_end(base: NonNull<u8>, bytes: usize) -> usize {
    const SAMPLED: usize = 64;
    for start in (0..bytes).step_by(SAMPLE_BYTES).rev() {
        let bytes = SAMPLED.min(bytes - start);
        // SAFETY: the sample lies in the caller's range; every bit pattern is a number.
        let sample = unsafe { std::slice::from_raw_parts(base.add(start).as_ptr(), bytes) };
        if sample.iter().any(|&byte| byte != 0) {
            return start + SAMPLE_BYTES;
        }
    }
    0
}
