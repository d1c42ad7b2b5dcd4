//! Several pools that are secured together, and the layout of the memories that they lend.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use support::{one_at_a_time, skipped, status_kib};
use wasm_prealloc_host::{
    Backing, Headroom, LendError, LentMemory, LockMemory, LockOptions, MemoryPool, Policy,
    PreparedPool, SecureError,
};

/// Returns two pools: one with large slots of a fixed size, and one with many small slots.
fn blocks_and_views(backings: [Backing; 2]) -> [PreparedPool; 2] {
    let blocks = MemoryPool::builder().slots(2).pages(64);
    let views = MemoryPool::builder().slots(16).cap(32).engine_heap_bytes(1);
    [
        blocks.backing(backings[0]).prepare(),
        views.backing(backings[1]).prepare(),
    ]
}

#[test]
fn pools_with_different_pages_are_secured_together() {
    use Backing::{Auto, Base, Transparent};
    let _turn = one_at_a_time();
    for backings in [
        [Auto, Auto],
        [Auto, Base],
        [Base, Auto],
        [Transparent, Base],
    ] {
        let prepared = blocks_and_views(backings);
        let pools = MemoryPool::secure_all([&prepared[0], &prepared[1]]);
        let [blocks, views] = match pools {
            Err(SecureError::NoHugePages { .. }) if backings.contains(&Transparent) => {
                skipped("there are not enough transparent huge pages");
                continue;
            }
            pools => pools.unwrap(),
        };
        assert_eq!((blocks.slots(), blocks.pages()), (2, 64));
        assert_eq!((views.slots(), views.pages()), (16, 32));
        assert_eq!(blocks.check().unwrap().resident_bytes, (2 * 64) << 16);
        // A heap of one page for each slot.
        assert_eq!(views.check().unwrap().resident_bytes, (16 * 33) << 16);
        for (pool, backing) in [(&blocks, backings[0]), (&views, backings[1])] {
            let how = pool.secured().unwrap().how;
            let is_base = how != wasm_prealloc_host::Method::Collapsed;
            assert!(backing != Base || is_base, "{backings:?}: {how}");
        }
        let views: Vec<LentMemory> = (0..16).map(|_| views.lend(1, None).unwrap()).collect();
        assert!(views.iter().all(|view| view.maximum_bytes() == 32 << 16));
        // The same pools again: they are secured.
        let again = MemoryPool::secure_list(&[&prepared[1], &prepared[0], &prepared[1]]).unwrap();
        assert!(again[1].is_same(&blocks) && again[0].is_same(&again[2]));
    }
}

#[test]
fn a_view_without_a_slot_is_refused_at_once() {
    let prepared = blocks_and_views([Backing::Auto; 2]);
    let [_blocks, views] = MemoryPool::secure_all([&prepared[0], &prepared[1]]).unwrap();
    let _all = views.reserve(16).unwrap();
    let refused = views.lend(1, None);
    assert!(matches!(refused, Err(LendError::NoSlot { lent: 16, .. })));
}

/// A shortfall has the sum, nothing stays mapped, and each pool can be secured later.
#[test]
fn all_are_secured_or_none_and_it_can_be_tried_again() {
    let _turn = one_at_a_time();
    let big = MemoryPool::builder().slots(1 << 20).cap(65_536).prepare();
    let small = MemoryPool::builder().pages(16).prepare();
    let before = status_kib("VmSize");
    let headroom = Headroom::read().unwrap();
    let pools = [&small, &big];
    MemoryPool::check_all(&pools, &headroom).unwrap_err();
    let SecureError::Shortfall(shortfall) = MemoryPool::secure_all(pools).unwrap_err() else {
        panic!("not a shortfall");
    };
    let need = MemoryPool::need_all_under(&pools, &headroom).unwrap();
    assert_eq!(shortfall.needed_bytes, need.under(&shortfall.limit));
    assert!(status_kib("VmSize") < before + (64 << 10));
    assert_eq!(small.secure().unwrap().slots(), 1);
}

#[test]
fn the_need_of_pools_is_the_sum_with_the_largest_margin_once() {
    let one = MemoryPool::builder().pages(16).margin_bytes(5 << 20);
    let other = MemoryPool::builder().slots(3).cap(8).margin_bytes(7 << 20);
    let sum = one.need().unwrap().physical_bytes + other.need().unwrap().physical_bytes;
    let together = MemoryPool::need_all(&[&one.prepare(), &other.prepare()]).unwrap();
    assert_eq!(together.physical_bytes, sum - (5 << 20));
}

#[test]
fn options_that_exclude_each_other_are_refused_by_name() {
    let mut lock = LockOptions::default();
    lock.path = std::env::temp_dir();
    let builder = || MemoryPool::builder().pages(16_384);
    for (other, name) in [
        (builder().lock(lock), "the lock that hosts wait for"),
        (
            builder().lock_memory(LockMemory::Off),
            "whether the memory is locked",
        ),
        (
            builder().backing(Backing::HugeTlb1G),
            "the size of huge pages",
        ),
    ] {
        let first = builder().backing(Backing::HugeTlb2M).prepare();
        let refused = MemoryPool::secure_all([&first, &other.prepare()]);
        let error = refused.unwrap_err();
        assert!(matches!(error, SecureError::PoolsDiffer { .. }), "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
}

/// The mappings of this process: the first address, the address after the last, and the access.
fn mappings() -> Vec<(usize, usize, String)> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let number = |text| usize::from_str_radix(text, 16).unwrap();
    let lines = maps.lines().map(|line| {
        let (start, rest) = line.split_once('-').unwrap();
        let (end, rest) = rest.split_once(' ').unwrap();
        (number(start), number(end), rest[..4].to_owned())
    });
    lines.collect()
}

/// Checks that all of a range is mapped with this access.
#[track_caller]
fn expect_access(mut start: usize, end: usize, access: &str) {
    for (first, after, found) in mappings() {
        if (first..after).contains(&start) && start < end {
            assert!(found.starts_with(access), "{start:x}: {found}");
            start = after;
        }
    }
    assert!(start >= end, "{start:x} is not mapped");
}

/// What `LentMemory` promises to the glue of other engines.
#[test]
fn the_layout_of_lent_memory_is_as_documented() {
    let _turn = one_at_a_time();
    let policies = [
        Policy::Declared,
        Policy::CommitMaximum,
        Policy::Cap { pages: 64 },
    ];
    for policy in policies {
        for backing in Backing::ALL {
            let pages = match backing {
                Backing::HugeTlb1G => 16_384,
                _ => 64,
            };
            let builder = MemoryPool::builder().pages(pages).policy(policy);
            let pool = match builder.backing(backing).secure() {
                Ok(pool) => pool,
                // Those pages suit one policy only.
                Err(SecureError::Backing { .. }) if policy != Policy::Declared => continue,
                Err(error) => {
                    skipped(&format!("no {backing} for {policy} here: {error}"));
                    continue;
                }
            };
            let minimum = if policy == Policy::Declared { pages } else { 3 };
            let mut memory = pool.lend(minimum, Some(pages)).unwrap();
            let base = memory.as_ptr() as usize;
            assert_eq!(base % (2 << 20), 0);
            for _ in 0..2 {
                let end = base + memory.len();
                let reserved = base + memory.reservation_bytes();
                assert_eq!(memory.reservation_bytes(), 4 << 30);
                assert_eq!(memory.guard_bytes(), 32 << 20);
                expect_access(base - memory.guard_bytes(), base, "---p");
                expect_access(base, end, "rw-p");
                expect_access(end, reserved + memory.guard_bytes(), "---p");
                memory.grow_to(memory.maximum_bytes()).unwrap();
                assert_eq!(memory.as_ptr() as usize, base);
            }
        }
    }
}
