//! The watermark in one slot of 64 MiB: the work of each reset is the same on every machine.
#![cfg(target_os = "linux")]

use std::io::Write as _;
use std::os::fd::AsRawFd;

use super::*;
use crate::commit::region::Region;
use crate::commit::requirements::WASM_PAGE_BYTES;

const MIB: usize = 1 << 20;
const TAIL_BYTES: usize = WASM_PAGE_BYTES as usize;
const BYTES: usize = 64 * MIB;
const HIGHEST: usize = BYTES - 2 * TAIL_BYTES;

#[test]
fn the_best_mark_rises_over_dense_writes_and_not_to_a_far_page() {
    let bytes = 4096 * MIB;
    let dense = 2 * MIB..100 * MIB;
    assert_eq!(raised(2 * MIB, std::slice::from_ref(&dense)), 100 * MIB);
    // One page at the top is tracked: zeroing 4 GiB each time would cost more.
    let top = bytes - 4096..bytes;
    assert_eq!(raised(2 * MIB, &[dense, top.clone()]), 100 * MIB);
    assert_eq!(raised(2 * MIB, &[top]), 0);
    assert_eq!(raised(2 * MIB, &[]), 0);
    // Zeroing is cheaper than tracking for one page in 8, not for one in 32.
    let sparse = |step: usize| -> Vec<Range<usize>> {
        (2 * MIB..66 * MIB)
            .step_by(step * 4096)
            .map(|at| at..at + 4096)
            .collect()
    };
    assert_eq!(raised(2 * MIB, &sparse(8)), 66 * MIB);
    assert_eq!(raised(2 * MIB, &sparse(32)), 0);
}

struct Slot {
    region: Region,
    watermark: Watermark,
}

impl Slot {
    fn new_or_skip() -> Option<Slot> {
        // Past the test harness, which hides what passing tests print with `println!`.
        let skip = |why| writeln!(io::stderr(), "skipped: {why}");
        let tracker = Tracker::open().map_err(skip).ok()?;
        let region = Region::writable(BYTES);
        // SAFETY: the range is writable and this test's own.
        let (watermark, started) = unsafe {
            region.base().write_bytes(0, BYTES);
            Watermark::new(
                Arc::new(tracker),
                region.base(),
                BYTES,
                true,
                WASM_PAGE_BYTES as usize,
            )
        };
        started.unwrap();
        Some(Slot { watermark, region })
    }

    fn write(&mut self, range: Range<usize>) {
        // SAFETY: the range is writable and this test's own.
        unsafe {
            let start = self.region.base().add(range.start);
            start.write_bytes(0xa5, range.len());
        }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the range is readable and this test's own.
        unsafe { std::slice::from_raw_parts(self.region.base().as_ptr(), BYTES) }
    }

    /// Resets, and checks that everything is zero.
    fn reset_with_failures(&mut self) -> Work {
        let base = self.region.base();
        // SAFETY: the range is writable and this test's own.
        let work = unsafe { self.watermark.reset(base, BYTES) };
        let (words, _) = self.bytes().as_chunks::<4096>();
        assert!(words.iter().all(|page| *page == [0; 4096]));
        work
    }

    /// Resets without failure, and returns the bytes that were zeroed below the last wasm page,
    /// protected and collapsed.
    fn reset(&mut self) -> [usize; 3] {
        let work = self.reset_with_failures();
        assert!(work.failure.is_none(), "{work:?}");
        assert_eq!(work.method, ResetMethod::Watermark);
        [
            work.zeroed_bytes as usize - TAIL_BYTES,
            work.protected_bytes as usize,
            work.collapsed_bytes as usize,
        ]
    }

    /// Returns the number of mappings that the slot consists of.
    fn mappings(&self) -> usize {
        let slot = self.bytes().as_ptr_range();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let start = |line: &str| usize::from_str_radix(line.split('-').next()?, 16).ok();
        let starts = maps.lines().filter_map(start);
        starts
            .filter(|start| (slot.start.addr()..slot.end.addr()).contains(start))
            .count()
    }
}

#[test]
fn two_large_blocks_raise_the_mark_and_the_third_is_not_tracked() {
    let Some(mut slot) = Slot::new_or_skip() else {
        return;
    };
    assert_eq!(slot.reset(), [2 * MIB, 0, 0]);
    slot.write(0..20 * MIB + 1);
    // Everything below the mark, and the written pages above it.
    let [zeroed, ..] = slot.reset();
    assert_eq!((zeroed, slot.watermark.mark), (20 * MIB + 4096, 2 * MIB));
    slot.write(0..20 * MIB + 1);
    assert_eq!(slot.reset(), [20 * MIB + 4096, 0, 0]);
    assert_eq!(slot.watermark.mark, 22 * MIB);
    slot.write(0..22 * MIB);
    assert_eq!(slot.reset(), [22 * MIB, 0, 0]);
    // A single far page stays tracked, and is found each time.
    for _ in 0..3 {
        slot.write(22 * MIB - 1..22 * MIB);
        slot.write(50 * MIB..50 * MIB + 1);
        assert_eq!(slot.reset(), [22 * MIB + 4096, 4096, 0]);
        assert_eq!(slot.watermark.mark, 22 * MIB);
    }
}

#[test]
fn a_large_block_costs_no_later_block() {
    let Some(mut slot) = Slot::new_or_skip() else {
        return;
    };
    for block in 0..70 {
        let large = block == 3;
        slot.write(0..if large { 60 * MIB } else { MIB });
        let work = slot.reset();
        assert_eq!(slot.watermark.mark, 2 * MIB, "block {block}");
        match large {
            // All of it in its own reset: twice, because collapsed pages are protected as a whole.
            true => assert_eq!(work, [60 * MIB, 2 * 58 * MIB, 58 * MIB]),
            false => assert_eq!(work, [2 * MIB, 0, 0], "block {block}"),
        }
    }
}

#[test]
fn the_mark_comes_down_after_a_window_and_pages_are_collapsed_a_few_at_a_time() {
    let Some(mut slot) = Slot::new_or_skip() else {
        return;
    };
    for _ in 0..2 {
        slot.write(0..60 * MIB);
        slot.reset();
    }
    assert_eq!(slot.watermark.mark, 60 * MIB);
    let mut collapsed_bytes = 0;
    for block in 0..100 {
        slot.write(0..3 * MIB);
        let before = slot.watermark.mark;
        let [zeroed, protected, collapsed] = slot.reset();
        assert_eq!(zeroed, before, "block {block}");
        let mark = if block < WINDOW - 2 { 60 } else { 4 } * MIB;
        assert_eq!(slot.watermark.mark, mark, "block {block}");
        let moved = before - mark;
        assert_eq!(protected, moved + collapsed, "block {block}");
        assert!(collapsed <= COLLAPSED_AT_ONCE * HUGE_PAGE_BYTES);
        collapsed_bytes += collapsed;
    }
    assert_eq!(collapsed_bytes, 56 * MIB);
    for _ in 0..2 {
        slot.write(40 * MIB..60 * MIB);
        slot.reset();
    }
    assert_eq!(slot.watermark.mark, 60 * MIB);
}

#[test]
fn blocks_of_alternating_sizes_keep_the_mark() {
    let Some(mut slot) = Slot::new_or_skip() else {
        return;
    };
    for block in 0..80 {
        let large = block % 8 == 0;
        slot.write(0..if large { 32 * MIB } else { MIB });
        slot.reset();
        let mark = if block < 8 { 2 } else { 32 } * MIB;
        assert_eq!(slot.watermark.mark, mark, "block {block}");
    }
}

#[test]
fn the_last_wasm_page_is_zeroed_and_not_tracked() {
    let Some(mut slot) = Slot::new_or_skip() else {
        return;
    };
    for _ in 0..3 {
        slot.write(BYTES - TAIL_BYTES..BYTES - TAIL_BYTES + 4);
        assert_eq!(slot.reset(), [2 * MIB, 0, 0]);
        assert!(slot.watermark.written.is_empty());
        // The page before it is tracked.
        slot.write(BYTES - TAIL_BYTES - 1..BYTES);
        assert_eq!(slot.reset(), [2 * MIB + 4096, 4096, 0]);
        assert_eq!(slot.watermark.mark, 2 * MIB);
    }
}

#[test]
fn writes_of_the_kernel_are_found() {
    let Some(mut slot) = Slot::new_or_skip() else {
        return;
    };
    // SAFETY: the range is writable and this test's own.
    let target = unsafe {
        let start = slot.region.base().add(5 * MIB);
        std::slice::from_raw_parts_mut(start.as_ptr(), 10_000)
    };
    let mut file = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
    io::Read::read_exact(&mut file, target).unwrap();
    assert_eq!(slot.reset()[0], 2 * MIB + 3 * 4096);
}

#[test]
fn moving_the_mark_needs_no_further_mapping() {
    let Some(mut slot) = Slot::new_or_skip() else {
        return;
    };
    // Below the mark, above it, and the last wasm page.
    assert_eq!(slot.mappings(), 3);
    let mut random = fastrand::Rng::with_seed(1);
    let mut marks = Vec::new();
    for block in 0..200 {
        let end = match block % 50 {
            0..25 => random.usize(0..=BYTES),
            _ => random.usize(0..=MIB),
        };
        slot.write(0..end);
        slot.reset();
        assert_eq!(slot.mappings(), 3, "block {block}");
        marks.push(slot.watermark.mark);
    }
    marks.dedup();
    assert!(marks.len() > 8, "{marks:?}");
    for _ in 0..2 {
        slot.write(0..BYTES);
        slot.reset();
    }
    assert_eq!((slot.watermark.mark, slot.mappings()), (HIGHEST, 3));
}

/// Lets the tracker's calls fail until it is dropped: another file is at its descriptor.
struct Broken {
    descriptor: i32,
    kept: i32,
}

impl Broken {
    fn new(tracker: &Tracker) -> Broken {
        let descriptor = tracker.userfault_for_tests().as_raw_fd();
        let null = std::fs::File::open("/dev/null").unwrap();
        // SAFETY: the calls change descriptors of this test only.
        let kept = unsafe { libc::dup(descriptor) };
        // SAFETY: as above.
        assert!(kept >= 0 && unsafe { libc::dup2(null.as_raw_fd(), descriptor) } >= 0);
        Broken { descriptor, kept }
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe {
            libc::dup2(self.kept, self.descriptor);
            libc::close(self.kept);
        }
    }
}

#[test]
fn a_failure_of_tracking_zeroes_more_and_loses_nothing() {
    let Some(mut slot) = Slot::new_or_skip() else {
        return;
    };
    let tracker = Arc::clone(&slot.watermark.tracker);
    // The mark cannot be raised.
    slot.write(0..20 * MIB);
    slot.reset();
    slot.write(0..20 * MIB);
    let broken = Broken::new(&tracker);
    let work = slot.reset_with_failures();
    assert!(work.failure.is_some());
    assert_eq!(slot.watermark.mark, 2 * MIB);
    drop(broken);
    for _ in 0..2 {
        slot.write(0..20 * MIB);
        slot.reset();
    }
    assert_eq!(slot.watermark.mark, 20 * MIB);
    // The mark cannot be lowered.
    let broken = Broken::new(&tracker);
    let failed = (0..20).filter(|_| {
        slot.write(0..MIB);
        slot.reset_with_failures().failure.is_some()
    });
    assert!(failed.count() > 0);
    assert_eq!(slot.watermark.mark, 20 * MIB);
    drop(broken);
    slot.write(0..MIB);
    slot.reset();
    assert_eq!(slot.watermark.mark, 2 * MIB);

    // A scan that fails: nothing is tracked, because another process's tracker is gone for example.
    let base = slot.region.base();
    // SAFETY: the range is this test's own.
    unsafe { tracker.unwatch(absolute(base, 2 * MIB..BYTES - TAIL_BYTES)) }.unwrap();
    slot.write(0..BYTES);
    let broken = Broken::new(&tracker);
    for _ in 0..3 {
        let work = slot.reset_with_failures();
        assert!(work.failure.is_some());
        assert_eq!(work.method, ResetMethod::Everything);
        assert_eq!(work.zeroed_bytes, BYTES as u64);
        slot.write(0..BYTES);
    }
    drop(broken);
    // The first reset after it zeroes everything, and from then on writes are tracked again.
    let work = slot.reset_with_failures();
    assert!(work.failure.is_none());
    assert_eq!(work.method, ResetMethod::Everything);
    slot.write(30 * MIB..31 * MIB);
    assert_eq!(slot.reset()[0], 3 * MIB);
}
