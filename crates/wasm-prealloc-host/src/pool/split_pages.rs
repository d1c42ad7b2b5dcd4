//! The huge pages of a slot that writes to tracked memory may have split into base pages.
//!
//! A scan takes longer over split pages, and collapsing one costs as much as about a hundred scans
//! save. So a page is collapsed only when it was not written for a whole period of blocks.

use std::ops::Range;

use crate::sys::HUGE_PAGE_BYTES;

/// The number of blocks during which a page must not be written before it is collapsed.
const PERIOD: u32 = 16;

const SPLIT: u8 = 1;
/// Written in this period.
const WRITTEN: u8 = 2;
/// Split, and not written during the whole last period.
const QUIET: u8 = 4;

/// The state of each huge page of a slot.
#[derive(Debug)]
pub(crate) struct SplitPages {
    pages: Vec<u8>,
    /// The number of pages that are split. Most of the time it is 0, and the list is not read.
    split: usize,
    /// The first page that can be quiet.
    next: usize,
    blocks: u32,
}

impl SplitPages {
    pub(crate) fn new(bytes: usize) -> SplitPages {
        SplitPages {
            pages: vec![0; bytes.div_ceil(HUGE_PAGE_BYTES)],
            split: 0,
            next: usize::MAX,
            blocks: 0,
        }
    }

    /// Records writes to tracked memory, which split its huge pages.
    pub(crate) fn write(&mut self, range: &Range<usize>) {
        for page in &mut self.pages[pages(range)] {
            self.split += usize::from(*page & SPLIT == 0);
            *page = SPLIT | WRITTEN;
        }
    }

    /// Records memory that may be split, and was not written.
    pub(crate) fn add(&mut self, range: Range<usize>) {
        for page in &mut self.pages[pages(&range)] {
            self.split += usize::from(*page & SPLIT == 0);
            *page |= SPLIT;
        }
    }

    /// Records memory that was collapsed, or could not be.
    pub(crate) fn remove(&mut self, range: Range<usize>) {
        for page in &mut self.pages[pages(&range)] {
            self.split -= usize::from(*page & SPLIT != 0);
            *page = 0;
        }
    }

    /// Returns a whole huge page within `tracked` that is split and quiet.
    pub(crate) fn next(&mut self, tracked: Range<usize>) -> Option<Range<usize>> {
        let whole = tracked.start.div_ceil(HUGE_PAGE_BYTES)..tracked.end / HUGE_PAGE_BYTES;
        let first = self.next.max(whole.start);
        let page = (first..whole.end).find(|&page| self.pages[page] & QUIET != 0);
        self.next = page.unwrap_or(usize::MAX);
        page.map(|page| page * HUGE_PAGE_BYTES..(page + 1) * HUGE_PAGE_BYTES)
    }

    /// Ends a block. After each period, the pages that it did not write become quiet.
    pub(crate) fn end_block(&mut self) {
        self.blocks += 1;
        if self.blocks < PERIOD {
            return;
        }
        self.blocks = 0;
        if self.split == 0 {
            return;
        }
        for page in &mut self.pages {
            let quiet = *page & (SPLIT | WRITTEN) == SPLIT;
            *page = (*page & SPLIT) | if quiet { QUIET } else { 0 };
        }
        self.next = 0;
    }
}

/// Returns the huge pages that contain a range.
fn pages(range: &Range<usize>) -> Range<usize> {
    range.start / HUGE_PAGE_BYTES..range.end.div_ceil(HUGE_PAGE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = HUGE_PAGE_BYTES;

    fn after_periods(split: &mut SplitPages, periods: u32) {
        (0..periods * PERIOD).for_each(|_| split.end_block());
    }

    #[test]
    fn a_page_is_collapsed_after_a_period_without_writes() {
        let mut split = SplitPages::new(8 * PAGE);
        let tracked = PAGE..8 * PAGE - 1;
        split.write(&(2 * PAGE + 5..4 * PAGE));
        split.write(&(7 * PAGE..7 * PAGE + 1));
        assert_eq!(split.next(tracked.clone()), None);
        after_periods(&mut split, 1);
        // Both were written in that period.
        assert_eq!(split.next(tracked.clone()), None);
        split.write(&(3 * PAGE..3 * PAGE + 1));
        after_periods(&mut split, 1);
        // The last page is not tracked as a whole.
        let next = split.next(tracked.clone());
        assert_eq!(next, Some(2 * PAGE..3 * PAGE));
        split.remove(next.unwrap());
        assert_eq!(split.next(tracked.clone()), None);
        after_periods(&mut split, 1);
        assert_eq!(split.next(tracked.clone()), Some(3 * PAGE..4 * PAGE));
        split.add(PAGE..2 * PAGE);
        after_periods(&mut split, 1);
        assert_eq!(split.next(tracked), Some(PAGE..2 * PAGE));
        assert_eq!(split.next(4 * PAGE..8 * PAGE), Some(7 * PAGE..8 * PAGE));
    }
}
