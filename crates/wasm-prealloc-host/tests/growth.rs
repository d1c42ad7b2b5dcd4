//! Growth inside of committed memory: of any length, and never refused once the memory is lent.
#![allow(unsafe_code, reason = "tests of system calls")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![cfg(target_os = "linux")]

mod support;

use wasm_prealloc_host::{LendError, LentMemory, MemoryPool, Policy};

use support::{fill_the_table_of_mappings, in_child_process, is_zero, skipped};

const PAGE: usize = 64 << 10;

fn pool(slots: usize, pages: u64) -> MemoryPool {
    let builder = MemoryPool::builder().slots(slots).pages(pages);
    builder.policy(Policy::CommitMaximum).secure().unwrap()
}

#[test]
fn a_length_that_is_no_multiple_of_a_page_is_exact_and_harms_no_later_loan() {
    let pool = pool(1, 16);
    let mut memory = pool.lend(1, Some(16)).unwrap();
    let mut before = PAGE;
    for length in [
        100_000,
        100_001,
        131_071,
        131_072,
        131_073,
        200_000,
        16 * PAGE - 1,
    ] {
        memory.grow_to(length).unwrap();
        assert_eq!(memory.len(), length);
        assert!(is_zero(&memory.bytes()[before.min(length)..]), "{length}");
        memory.bytes_mut().fill(1);
        // The rest of the page is accessible too: an engine may have written there.
        let end = length.next_multiple_of(PAGE);
        // SAFETY: the page is accessible, and only this test uses it.
        unsafe { memory.as_ptr().add(end - 1).write(1) };
        before = end;
    }
    drop(memory);
    for (minimum, length) in [(16, 16 * PAGE), (0, 1), (0, 16 * PAGE), (3, 4 * PAGE + 5)] {
        let mut memory = pool.lend(minimum, Some(16)).unwrap();
        memory.grow_to(length).unwrap();
        assert!(is_zero(memory.bytes()), "{minimum} {length}");
        memory.bytes_mut().fill(1);
    }
    assert_eq!(pool.statistics().retired, 0);
}

/// Grows a memory to its maximum in steps, and writes all of it.
fn grow(memory: &mut LentMemory, random: &mut fastrand::Rng) {
    while memory.len() < memory.maximum_bytes() {
        let before = memory.len();
        let step = match random.u8(0..3) {
            0 => 1,
            1 => PAGE,
            _ => random.usize(1..=memory.maximum_bytes() - before),
        };
        let length = (before + step).min(memory.maximum_bytes());
        memory.grow_to(length).unwrap();
        memory.bytes_mut()[before..].fill(1);
    }
}

#[test]
fn growth_is_never_refused_where_the_kernel_has_no_further_mapping() {
    let name = "growth_is_never_refused_where_the_kernel_has_no_further_mapping";
    if in_child_process(name, "WASM_PREALLOC_TEST_GROWTH") {
        return;
    }
    let mut random = fastrand::Rng::with_seed(3);
    let pool = pool(24, 40);
    let single = self::pool(2, 1);
    // Slots that were lent before: their boundaries are at different places.
    for _ in 0..40 {
        let mut memory = pool.lend(random.u64(0..=40), Some(40)).unwrap();
        let length = random.usize(memory.len()..=40 * PAGE);
        memory.grow_to(length).unwrap();
    }
    let minimums = [0, 1, 2, 39, 40, 0, 17, 0, 31, 32, 33, 0];
    let mut lent: Vec<_> = minimums
        .map(|pages| pool.lend(pages, Some(40)).unwrap())
        .into();
    lent.push(single.lend(0, Some(1)).unwrap());
    lent.push(single.lend(1, Some(1)).unwrap());
    fill_the_table_of_mappings();
    lent.iter_mut().for_each(|memory| grow(memory, &mut random));
    drop(lent);
    // A memory can be refused when it is lent. Once it is lent it grows.
    let (mut grown, mut refused) = (0, 0);
    for block in 0..300 {
        match pool.lend(
            if block % 2 == 0 {
                0
            } else {
                random.u64(0..=40)
            },
            Some(40),
        ) {
            Ok(mut memory) => {
                assert!(is_zero(memory.bytes()));
                grow(&mut memory, &mut random);
                grown += 1;
            }
            Err(LendError::System { .. }) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(grown > 0, "{refused} were refused");
    assert_eq!((pool.statistics().lent, pool.statistics().retired), (0, 0));
}

#[test]
fn resets_work_where_the_kernel_has_no_further_mapping() {
    let name = "resets_work_where_the_kernel_has_no_further_mapping";
    if in_child_process(name, "WASM_PREALLOC_TEST_RESETS") {
        return;
    }
    let pool = MemoryPool::builder().pages(512).secure().unwrap();
    let lend = || pool.lend(512, Some(512)).unwrap();
    // Twice, so that the watermark is at its highest.
    for _ in 0..2 {
        lend().bytes_mut().fill(1);
    }
    let filled = fill_the_table_of_mappings();
    for block in 0..60 {
        let mut memory = lend();
        let zero = is_zero(memory.bytes());
        assert!(zero, "block {block} after {filled} mappings");
        let end = if block % 30 < 25 { 1 } else { 20 << 20 };
        memory.bytes_mut()[..end].fill(1);
        memory.bytes_mut()[30 << 20] = 1;
    }
    let now = pool.statistics();
    assert_eq!([now.retired, now.lent], [0, 0]);
    match pool.tracking() {
        Some(_) => assert_eq!((now.watermark_resets, now.tracking_failures), (62, 0)),
        None => skipped("write tracking is unsupported here; everything was zeroed"),
    }
}
