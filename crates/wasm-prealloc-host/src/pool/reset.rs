//! Makes a slot that comes back zero again, in time that depends on what was written and not on
//! how much there is: up to a high-water mark, or up to an adaptive watermark with write tracking
//! above it, or all of it.
//!
//! Memory stays resident throughout. Who owns slots, and when they are reset, is in `pool`.
//!
//! Growing in small steps, and writing what is tracked, splits huge pages. Measured on 100 MiB,
//! that leaves the speed of writing and zeroing as it is (4.4 ms both ways, in order; within noise
//! at random), makes protecting slower (0.75 ms instead of 0.02) and growing by 1 MiB at a time
//! faster (1.15 instead of 1.7), while putting the pages together again takes 11 ms: a reset that
//! did so would lose. It pays for what a scan goes over from now on, block after block (0.24 ms for
//! 4 GiB of huge pages, 3.2 of small ones): there it is done.

use std::io;
use std::ops::Range;
use std::ptr::NonNull;

use crate::commit::populate;
use crate::commit::region::HUGE_PAGE_BYTES;
use crate::sys::Tracker;

/// How a slot was made zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub(crate) enum ResetMethod {
    /// Up to the size that the memory had, which the engine enforces.
    HighWater,
    /// Below a watermark everything, above it what was written.
    Watermark,
    /// Everything.
    Everything,
}

/// Writes zeros.
///
/// # Safety
///
/// The range from `base` on is mapped and writable, and nobody else reads or writes there.
pub(crate) unsafe fn zero(base: NonNull<u8>, range: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe { base.add(range.start).write_bytes(0, range.len()) };
}

/// What a page costs that is written while it is tracked: the fault that finds out, the scan, the
/// zeros and the protection for the next time. In units of zeroing one page; measured as 1 to
/// 2 us against 0.064.
const TRACKED_PAGE: u64 = 16;

/// How many blocks in a row have to leave the top of what is zeroed each time alone before the
/// mark comes down. Coming down costs about 0.13 ms for each MiB, and going up again by writing
/// what is tracked about 0.25; zeroing costs 0.015 for each block. With about as many blocks as
/// these are apart neither error is large.
const QUIET_BLOCKS: u32 = 16;

/// The part of what is below the mark that is looked at after each block: the top sixty-fourth.
/// Reading costs about three times as much as zeroing, and what is found zero need not be zeroed.
const PROBED_PART: usize = 64;

/// The watermark of one slot of which all is accessible.
#[derive(Debug)]
pub(crate) struct Watermark {
    /// Below, memory is written without a trace, and zeroed each time. Above, writes are tracked.
    /// A multiple of a huge page, or the whole size.
    mark: usize,
    /// How many blocks in a row left alone what is just below the mark.
    quiet: u32,
    /// Whether the slot had huge pages to begin with.
    huge: bool,
    /// Kept to be used again.
    written: Vec<Range<usize>>,
}

impl Watermark {
    /// Starts to track a slot of which nothing is written yet.
    ///
    /// # Safety
    ///
    /// `bytes` from `base` on are whole pages, mapped, the caller's own, and stay mapped for as
    /// long as this value is used.
    pub(crate) unsafe fn new(
        tracker: &Tracker,
        base: NonNull<u8>,
        bytes: usize,
        huge: bool,
    ) -> io::Result<Watermark> {
        let mark = lowest(bytes);
        // SAFETY: the caller's promise.
        unsafe { tracker.watch(absolute(base, mark..bytes)) }?;
        Ok(Watermark {
            mark,
            quiet: 0,
            huge,
            written: Vec::new(),
        })
    }

    /// Makes the slot zero, says how many bytes were zeroed for it, and moves the mark to where
    /// the next block is expected.
    ///
    /// After an error the slot may hold anything.
    ///
    /// # Safety
    ///
    /// `base` and `bytes` are those of [`Watermark::new`], writable, and nobody else uses them.
    pub(crate) unsafe fn reset(
        &mut self,
        tracker: &Tracker,
        base: NonNull<u8>,
        bytes: usize,
    ) -> io::Result<u64> {
        let mark = self.mark;
        self.written.clear();
        tracker.written(absolute(base, mark..bytes), &mut self.written)?;
        let mut zeroed = 0;
        for range in &mut self.written {
            *range = range.start - base.addr().get()..range.end - base.addr().get();
            // SAFETY: the range lies above the mark and within the slot.
            unsafe { zero(base, range.clone()) };
            zeroed += range.len();
        }
        // SAFETY: the range lies within the slot.
        let (zeroed_below, dirty_end) = unsafe { self.reset_below(base) };
        zeroed += zeroed_below;

        let raised = raised(mark, bytes, &self.written);
        if raised > mark {
            // SAFETY: the range is the caller's own.
            unsafe { tracker.unwatch(absolute(base, mark..raised)) }?;
            self.mark = raised;
        } else if let Some(end) = dirty_end {
            let lowered = end
                .next_multiple_of(HUGE_PAGE_BYTES)
                .clamp(lowest(bytes), mark);
            // SAFETY: the range is the caller's own, and was not tracked since it fell below the
            // mark. All of it is zero by now. Both marks are multiples of a huge page, or the upper
            // one is the slot's end.
            unsafe {
                if self.huge {
                    populate::mend(base.add(lowered), mark - lowered);
                }
                tracker.watch(absolute(base, lowered..mark))
            }?;
            self.mark = lowered;
        }
        if self.mark != mark {
            tracing::debug!(from = mark, to = self.mark, "the watermark moves");
            self.quiet = 0;
        }
        // What stays tracked and was written has to be found again the next time.
        let above = self.written.iter().rfind(|range| range.end > self.mark);
        if let Some(last) = above {
            let first = self.written.iter().find(|range| range.end > self.mark);
            let start = first.map_or(last.start, |range| range.start.max(self.mark));
            tracker.forget(absolute(base, start..last.end))?;
        }
        Ok(zeroed as u64)
    }

    /// Zeroes what lies below the mark; how many bytes were written for it, and, once the top has
    /// been quiet for long enough, where the highest page ended that was not zero, but not less
    /// than half the mark: blocks differ, and this one may have been the smallest.
    ///
    /// # Safety
    ///
    /// All below the mark is mapped and writable, and nobody else uses it.
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
            // SAFETY: the range lies below the mark; what is above it was found to be zero.
            unsafe { zero(base, 0..probed) };
            return (probed, None);
        }
        let half = mark / 2 / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
        // SAFETY: the ranges lie below the mark; what is above them was found to be zero.
        unsafe {
            let end = last_not_zero(base, half..probed).unwrap_or(half);
            zero(base, 0..end);
            (end, Some(end))
        }
    }
}

/// The lowest mark there is: something is always written at the bottom.
fn lowest(bytes: usize) -> usize {
    HUGE_PAGE_BYTES.min(bytes)
}

/// Where the mark should be for the next block if it writes as this one did. It rises as long as
/// what would no longer be tracked costs more than what would be zeroed.
fn raised(mark: usize, bytes: usize, written: &[Range<usize>]) -> usize {
    let (mut best, mut best_gain) = (mark, 0);
    let mut tracked = 0;
    for range in written {
        tracked += pages(range.len()) * TRACKED_PAGE;
        let end = range.end.next_multiple_of(HUGE_PAGE_BYTES).min(bytes);
        let gain = tracked.saturating_sub(pages(end - mark));
        if gain > best_gain {
            (best, best_gain) = (end, gain);
        }
    }
    best
}

/// In units of 4 KiB, whatever the operating system's pages are: only ratios count.
fn pages(bytes: usize) -> u64 {
    (bytes >> 12) as u64
}

fn absolute(base: NonNull<u8>, range: Range<usize>) -> Range<usize> {
    base.addr().get() + range.start..base.addr().get() + range.end
}

/// What is compared with zero at once.
const PROBE_BYTES: usize = 4096;

/// The end of the highest part of a range that is not zero.
///
/// # Safety
///
/// The range from `base` on is mapped and readable, both ends are multiples of
/// [`PROBE_BYTES`] from `base`, which is aligned to one, and nobody writes there.
unsafe fn last_not_zero(base: NonNull<u8>, range: Range<usize>) -> Option<usize> {
    let mut end = range.end;
    while end > range.start {
        let start = end - PROBE_BYTES.min(end - range.start);
        // SAFETY: the part lies in the caller's range and is aligned far beyond a word; every bit
        // pattern is a number.
        let words = unsafe {
            std::slice::from_raw_parts(
                base.add(start).cast::<u64>().as_ptr(),
                (end - start) / size_of::<u64>(),
            )
        };
        // Without a branch for each word this is a few vector instructions.
        if words.iter().fold(0, |bits, word| bits | word) != 0 {
            return Some(end);
        }
        end = start;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::region::Region;

    const MIB: usize = 1 << 20;

    #[test]
    fn the_mark_rises_over_what_is_dense_and_not_to_a_far_page() {
        let bytes = 4096 * MIB;
        let dense = 2 * MIB..100 * MIB;
        assert_eq!(
            raised(2 * MIB, bytes, std::slice::from_ref(&dense)),
            100 * MIB
        );
        // One page at the very top is tracked rather than 4 GiB zeroed each time.
        let top = bytes - 4096..bytes;
        assert_eq!(raised(2 * MIB, bytes, &[dense, top.clone()]), 100 * MIB);
        assert_eq!(raised(2 * MIB, bytes, &[top]), 2 * MIB);
        assert_eq!(raised(2 * MIB, bytes, &[]), 2 * MIB);
        // A page in every 32 is worth it no more, one in every 8 is.
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
        tracker: Tracker,
        watermark: Watermark,
    }

    impl Slot {
        fn new_or_skip(bytes: usize) -> Option<Slot> {
            let tracker = Tracker::open()
                .map_err(|why| {
                    wasm_prealloc_tests::skipped(&format!("writes cannot be tracked here: {why}"));
                })
                .ok()?;
            let region = Region::writable(bytes);
            // SAFETY: the range is writable and this test's own.
            let watermark = unsafe {
                zero(region.base(), 0..bytes);
                Watermark::new(&tracker, region.base(), bytes, true)
            };
            Some(Slot {
                bytes,
                tracker,
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

        /// Resets, and returns how many bytes were zeroed. All are zero afterwards.
        fn reset(&mut self) -> usize {
            let base = self.region.base();
            // SAFETY: the range is writable and this test's own.
            let zeroed = unsafe { self.watermark.reset(&self.tracker, base, self.bytes) };
            // SAFETY: as above.
            assert_eq!(unsafe { last_not_zero(base, 0..self.bytes) }, None);
            zeroed.unwrap() as usize
        }
    }

    #[test]
    fn what_was_written_raises_the_mark_and_is_not_tracked_the_next_time() {
        let Some(mut slot) = Slot::new_or_skip(64 * MIB) else {
            return;
        };
        assert_eq!(slot.reset(), 2 * MIB);
        slot.write(0..20 * MIB + 1);
        // Below the mark everything, above it the pages that were written.
        assert_eq!(slot.reset(), 20 * MIB + 4096);
        assert_eq!(slot.watermark.mark, 22 * MIB);
        slot.write(0..22 * MIB);
        assert_eq!(slot.reset(), 22 * MIB);
        // A lonely page stays tracked, and is found each time.
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
        // By halves, in whole huge pages, down to what is written.
        assert_eq!(marks, [60, 30, 14, 6, 4].map(|mib| mib * MIB));
        slot.write(40 * MIB..60 * MIB);
        slot.reset();
        assert_eq!(slot.watermark.mark, 60 * MIB);
    }

    #[test]
    fn a_block_near_the_mark_keeps_it_where_it_is() {
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
