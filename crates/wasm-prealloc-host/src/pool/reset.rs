//! Zeroes a slot that comes back. The time depends on what was written, not on the size of the
//! slot: up to a high-water mark, up to an adaptive watermark with write tracking above it, or
//! everything. Memory stays resident throughout.
//!
//! Growth in small steps and writes to tracked pages split huge pages. Measured on 100 MiB, that
//! does not change the speed of writing and zeroing (4.4 ms both ways, in order; within noise at
//! random), makes protecting slower (0.75 ms instead of 0.02) and growth by 1 MiB at a time faster
//! (1.15 ms instead of 1.7). Collapsing the pages again takes 11 ms, so it does not pay in every
//! reset. It pays for a range that every later reset scans (0.24 ms for 4 GiB of huge pages, 3.2 ms
//! of base pages), so it is done where the watermark comes down.

use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::commit::populate;
use crate::commit::region::HUGE_PAGE_BYTES;
use crate::commit::requirements::WASM_PAGE_BYTES;
use crate::sys::Tracker;

/// The part of a slot that a reset zeroes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub(crate) enum ResetMethod {
    /// Everything up to the memory's last size, which protection enforces.
    HighWater,
    /// Everything below a watermark, and the written pages above it.
    Watermark,
    /// The whole slot.
    Everything,
}

/// Writes zeros.
///
/// # Safety
/// The range from `base` on is mapped and writable, and not in use.
pub(crate) unsafe fn zero(base: NonNull<u8>, range: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe { base.add(range.start).write_bytes(0, range.len()) };
}

/// The cost of a write to a tracked page: the page fault, the scan, the zeros and the protection
/// for the next block. In units of zeroing one page; measured as 1 to 2 us against 0.064.
const TRACKED_PAGE: u64 = 16;

/// The number of consecutive blocks that must not write just below the mark before the mark comes
/// down. Lowering it costs about 0.13 ms for each MiB, and raising it again by writes to tracked
/// pages about 0.25 ms; zeroing costs 0.015 ms for each MiB and block. The number is about the
/// ratio of the last two, so that neither mistake costs much.
const QUIET_BLOCKS: u32 = 16;

/// The part below the mark that is compared with zero after each block: the top sixty-fourth.
/// Reading costs about three times as much as zeroing, and what is zero need not be zeroed.
const PROBED_PART: usize = 64;

/// The watermark of one slot that is accessible as a whole, and the tracker of writes above it.
#[derive(Debug)]
pub(crate) struct Watermark {
    tracker: Arc<Tracker>,
    /// Below it, writes are not tracked and everything is zeroed each time. Above it, writes are
    /// tracked, up to `tail`. A multiple of a huge page, or `tail`.
    mark: usize,
    /// The start of the last wasm page, which is zeroed each time and not tracked: a module that
    /// shares its memory counts its growth there.
    tail: usize,
    /// The number of consecutive blocks that did not write just below the mark.
    quiet: u32,
    /// True if the slot had huge pages at first.
    huge: bool,
    /// A buffer, kept for the next reset.
    written: Vec<Range<usize>>,
}

impl Watermark {
    /// Starts to track a slot that is zero.
    ///
    /// # Safety
    /// `bytes` from `base` on are whole pages, mapped, owned by the caller, and stay mapped for as
    /// long as this value is used.
    pub(crate) unsafe fn new(
        tracker: Arc<Tracker>,
        base: NonNull<u8>,
        bytes: usize,
        huge: bool,
    ) -> io::Result<Watermark> {
        let tail = bytes - bytes.min(WASM_PAGE_BYTES as usize);
        let mark = lowest(tail);
        // SAFETY: the caller's promise.
        unsafe { tracker.watch(absolute(base, mark..tail)) }?;
        Ok(Watermark {
            tracker,
            mark,
            tail,
            quiet: 0,
            huge,
            written: Vec::new(),
        })
    }

    /// Zeroes the slot, moves the mark to where the next block is expected to end, and returns the
    /// number of bytes that were zeroed.
    ///
    /// After an error the contents of the slot are unspecified.
    ///
    /// # Safety
    /// `base` and `bytes` are those of [`Watermark::new`], writable, and not in use.
    pub(crate) unsafe fn reset(&mut self, base: NonNull<u8>, bytes: usize) -> io::Result<u64> {
        let (mark, tail) = (self.mark, self.tail);
        self.written.clear();
        let above = absolute(base, mark..tail);
        self.tracker.written(above, &mut self.written)?;
        // SAFETY: the range lies within the slot.
        unsafe { zero(base, tail..bytes) };
        let mut zeroed = bytes - tail;
        for range in &mut self.written {
            *range = range.start - base.addr().get()..range.end - base.addr().get();
            // SAFETY: the range lies above the mark and within the slot.
            unsafe { zero(base, range.clone()) };
            zeroed += range.len();
        }
        // SAFETY: the range lies within the slot.
        let (zeroed_below, dirty_end) = unsafe { self.reset_below(base) };
        zeroed += zeroed_below;

        let raised = raised(mark, tail, &self.written);
        if raised > mark {
            // SAFETY: the caller owns the range.
            unsafe { self.tracker.unwatch(absolute(base, mark..raised)) }?;
            self.mark = raised;
        } else if let Some(end) = dirty_end {
            let lowered = end
                .next_multiple_of(HUGE_PAGE_BYTES)
                .clamp(lowest(tail), mark);
            // SAFETY: the caller owns the range, and it was not tracked while it was below the
            // mark. All of it is zero by now. Both marks are multiples of a huge page, or the upper
            // one is the start of the tail.
            unsafe {
                if self.huge {
                    populate::recollapse(base.add(lowered), mark - lowered);
                }
                self.tracker.watch(absolute(base, lowered..mark))
            }?;
            self.mark = lowered;
        }
        if self.mark != mark {
            tracing::debug!(from = mark, to = self.mark, "the watermark moves");
            self.quiet = 0;
        }
        // Pages that were written and stay tracked have to be found again after the next block.
        let mut tracked = self.written.iter().filter(|range| range.end > self.mark);
        if let Some(first) = tracked.next() {
            let last = tracked.next_back().unwrap_or(first);
            let start = first.start.max(self.mark);
            self.tracker.forget(absolute(base, start..last.end))?;
        }
        Ok(zeroed as u64)
    }

    /// Zeroes everything below the mark, and returns the number of bytes that were zeroed. Once the
    /// part just below the mark has been quiet for long enough, also returns the end of the highest
    /// page that was not zero, at least half the mark: blocks differ in size, and this one may have
    /// been the smallest.
    ///
    /// # Safety
    /// Everything below the mark is mapped and writable, and not in use.
    unsafe fn reset_below(&mut self, base: NonNull<u8>) -> (usize, Option<usize>) {
        let mark = self.mark;
        let probed = mark - (mark / PROBED_PART).next_multiple_of(PROBE_BYTES).min(mark);
        // SAFETY: the range lies below the mark.
        let quiet =
            mark > HUGE_PAGE_BYTES && unsafe { last_not_zero(base, probed..mark) }.is_none();
        if !quiet {
            self.quiet = 0;
            // SAFETY: the range lies below the mark.
            unsafe { zero(base, 0..mark) };
            return (mark, None);
        }
        self.quiet += 1;
        if self.quiet < QUIET_BLOCKS {
            // SAFETY: the range lies below the mark; the rest was found to be zero.
            unsafe { zero(base, 0..probed) };
            return (probed, None);
        }
        let half = mark / 2 / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
        // SAFETY: the ranges lie below the mark; the rest was found to be zero.
        unsafe {
            let end = last_not_zero(base, half..probed).unwrap_or(half);
            zero(base, 0..end);
            (end, Some(end))
        }
    }
}

/// Returns the lowest mark: every block writes something at the bottom.
fn lowest(tail: usize) -> usize {
    HUGE_PAGE_BYTES.min(tail)
}

/// Returns the best mark for a next block that writes as this one did. The mark rises as long as
/// tracking the pages below it would cost more than zeroing them.
fn raised(mark: usize, tail: usize, written: &[Range<usize>]) -> usize {
    let (mut best, mut best_gain) = (mark, 0);
    let mut tracked = 0;
    for range in written {
        tracked += pages(range.len()) * TRACKED_PAGE;
        let end = range.end.next_multiple_of(HUGE_PAGE_BYTES).min(tail);
        let gain = tracked.saturating_sub(pages(end - mark));
        if gain > best_gain {
            (best, best_gain) = (end, gain);
        }
    }
    best
}

/// Converts to units of 4 KiB, for any page size of the operating system: only ratios matter.
fn pages(bytes: usize) -> u64 {
    (bytes >> 12) as u64
}

fn absolute(base: NonNull<u8>, range: Range<usize>) -> Range<usize> {
    base.addr().get() + range.start..base.addr().get() + range.end
}

/// The size of a part that is compared with zero at a time.
const PROBE_BYTES: usize = 4096;

/// Finds the end of the highest part of a range that is not zero.
///
/// # Safety
/// The range from `base` on is mapped and readable, and not written during the call. Both ends are
/// multiples of [`PROBE_BYTES`], and so is the address `base`.
unsafe fn last_not_zero(base: NonNull<u8>, range: Range<usize>) -> Option<usize> {
    let mut end = range.end;
    while end > range.start {
        let start = end - PROBE_BYTES.min(end - range.start);
        // SAFETY: the part lies in the caller's range and is aligned to more than a word; every bit
        // pattern is a number.
        let words = unsafe {
            std::slice::from_raw_parts(
                base.add(start).cast::<u64>().as_ptr(),
                (end - start) / size_of::<u64>(),
            )
        };
        // Without a branch for each word this compiles to a few vector instructions.
        if words.iter().fold(0, |bits, word| bits | word) != 0 {
            return Some(end);
        }
        end = start;
    }
    None
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::commit::region::Region;

    const MIB: usize = 1 << 20;
    const TAIL_BYTES: usize = WASM_PAGE_BYTES as usize;

    #[test]
    fn the_mark_rises_over_dense_writes_and_not_to_a_far_page() {
        let bytes = 4096 * MIB;
        let dense = 2 * MIB..100 * MIB;
        assert_eq!(
            raised(2 * MIB, bytes, std::slice::from_ref(&dense)),
            100 * MIB
        );
        // One page at the top is tracked: zeroing 4 GiB each time would cost more.
        let top = bytes - 4096..bytes;
        assert_eq!(raised(2 * MIB, bytes, &[dense, top.clone()]), 100 * MIB);
        assert_eq!(raised(2 * MIB, bytes, &[top]), 2 * MIB);
        assert_eq!(raised(2 * MIB, bytes, &[]), 2 * MIB);
        // Zeroing is cheaper than tracking for one page in 8, not for one in 32.
        let sparse = |step: usize| -> Vec<Range<usize>> {
            (2 * MIB..66 * MIB)
                .step_by(step * 4096)
                .map(|at| at..at + 4096)
                .collect()
        };
        assert_eq!(raised(2 * MIB, bytes, &sparse(8)), 66 * MIB);
        assert_eq!(raised(2 * MIB, bytes, &sparse(32)), 2 * MIB);
    }

    struct Slot {
        region: Region,
        bytes: usize,
        watermark: Watermark,
    }

    impl Slot {
        fn new_or_skip(bytes: usize) -> Option<Slot> {
            // Past the test harness, which hides what passing tests print with `println!`.
            let skip = |why| writeln!(io::stderr(), "skipped: writes cannot be tracked: {why}");
            let tracker = Tracker::open().map_err(skip).ok()?;
            let region = Region::writable(bytes);
            // SAFETY: the range is writable and this test's own.
            let watermark = unsafe {
                zero(region.base(), 0..bytes);
                Watermark::new(Arc::new(tracker), region.base(), bytes, true)
            };
            Some(Slot {
                bytes,
                watermark: watermark.unwrap(),
                region,
            })
        }

        fn write(&mut self, range: Range<usize>) {
            // SAFETY: the range is writable and this test's own.
            unsafe {
                let start = self.region.base().add(range.start);
                start.write_bytes(0xa5, range.len());
            }
        }

        /// Resets, checks that everything is zero, and returns the number of bytes that were
        /// zeroed below the last wasm page.
        fn reset(&mut self) -> usize {
            let base = self.region.base();
            // SAFETY: the range is writable and this test's own.
            let zeroed = unsafe { self.watermark.reset(base, self.bytes) };
            // SAFETY: as above.
            assert_eq!(unsafe { last_not_zero(base, 0..self.bytes) }, None);
            zeroed.unwrap() as usize - TAIL_BYTES
        }
    }

    #[test]
    fn writes_raise_the_mark_and_are_not_tracked_the_next_time() {
        let Some(mut slot) = Slot::new_or_skip(64 * MIB) else {
            return;
        };
        assert_eq!(slot.reset(), 2 * MIB);
        slot.write(0..20 * MIB + 1);
        // Everything below the mark, and the written pages above it.
        assert_eq!(slot.reset(), 20 * MIB + 4096);
        assert_eq!(slot.watermark.mark, 22 * MIB);
        slot.write(0..22 * MIB);
        assert_eq!(slot.reset(), 22 * MIB);
        // A single far page stays tracked, and is found each time.
        for _ in 0..3 {
            slot.write(22 * MIB - 1..22 * MIB);
            slot.write(50 * MIB..50 * MIB + 1);
            assert_eq!(slot.reset(), 22 * MIB + 4096);
            assert_eq!(slot.watermark.mark, 22 * MIB);
        }
    }

    #[test]
    fn the_mark_comes_down_when_blocks_get_small_and_rises_again() {
        let Some(mut slot) = Slot::new_or_skip(64 * MIB) else {
            return;
        };
        slot.write(0..60 * MIB);
        slot.reset();
        let mut marks = Vec::new();
        for _ in 0..6 * QUIET_BLOCKS {
            if marks.last() != Some(&slot.watermark.mark) {
                marks.push(slot.watermark.mark);
            }
            slot.write(0..3 * MIB);
            let mark = slot.watermark.mark;
            let zeroed = slot.reset();
            assert!((3 * MIB..=mark).contains(&zeroed), "{zeroed} of {mark}");
        }
        // By halves, in whole huge pages, down to what the blocks write.
        assert_eq!(marks, [60, 30, 14, 6, 4].map(|mib| mib * MIB));
        slot.write(40 * MIB..60 * MIB);
        slot.reset();
        assert_eq!(slot.watermark.mark, 60 * MIB);
    }

    #[test]
    fn a_block_near_the_mark_keeps_the_mark() {
        let Some(mut slot) = Slot::new_or_skip(64 * MIB) else {
            return;
        };
        slot.write(0..32 * MIB);
        slot.reset();
        for block in 0..5 * QUIET_BLOCKS {
            let large = block % QUIET_BLOCKS == 0;
            slot.write(if large { 31 * MIB..32 * MIB } else { 0..MIB });
            slot.reset();
            assert_eq!(slot.watermark.mark, 32 * MIB, "block {block}");
        }
    }

    #[test]
    fn the_last_wasm_page_is_zeroed_and_not_tracked() {
        let Some(mut slot) = Slot::new_or_skip(64 * MIB) else {
            return;
        };
        for _ in 0..3 {
            slot.write(64 * MIB - TAIL_BYTES..64 * MIB - TAIL_BYTES + 4);
            assert_eq!(slot.reset(), 2 * MIB);
            assert!(slot.watermark.written.is_empty());
            // The page before it is tracked.
            slot.write(64 * MIB - TAIL_BYTES - 1..64 * MIB);
            assert_eq!(slot.reset(), 2 * MIB + 4096);
            assert_eq!(slot.watermark.mark, 2 * MIB);
        }
    }

    #[test]
    fn writes_of_the_kernel_are_found() {
        let Some(mut slot) = Slot::new_or_skip(8 * MIB) else {
            return;
        };
        // SAFETY: the range is writable and this test's own.
        let target = unsafe {
            let start = slot.region.base().add(5 * MIB);
            std::slice::from_raw_parts_mut(start.as_ptr(), 10_000)
        };
        let mut file = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
        io::Read::read_exact(&mut file, target).unwrap();
        assert_eq!(slot.reset(), 2 * MIB + 3 * 4096);
    }
}
