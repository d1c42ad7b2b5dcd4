//! The pool without an engine: refusals, loans, resets, and waiting.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use wasm_prealloc_host::{
    Backing, LendError, LentMemory, Limit, MemoryPool, Method, Policy, PolicyError, SecureError,
    Stage, Tracking, WhenExhausted, resident_bytes,
};

use support::{is_zero, one_at_a_time, skipped, status_kib};

const MIB: usize = 1 << 20;

fn lend(pool: &MemoryPool) -> LentMemory {
    pool.lend(pool.pages(), Some(pool.pages())).unwrap()
}

#[test]
fn every_kind_of_reset_leaves_resident_zeros() {
    let _turn = one_at_a_time();
    for (policy, tracking) in [
        (Policy::Declared, Tracking::Auto),
        (Policy::Declared, Tracking::Off),
        (Policy::CommitMaximum, Tracking::Auto),
    ] {
        let pool = MemoryPool::builder()
            .pages(1024)
            .policy(policy)
            .tracking(tracking)
            .secure()
            .unwrap();
        let mut random = fastrand::Rng::with_seed(1);
        for block in 0..40 {
            let minimum = match policy {
                Policy::Declared => 1024,
                _ => random.u64(0..500),
            };
            let mut memory = pool.lend(minimum, Some(1024)).unwrap();
            let more = memory.len() + (random.usize(0..=(1024 - minimum as usize)) << 16);
            memory.grow_to(more).unwrap();
            let zero = is_zero(memory.bytes());
            assert!(zero, "{policy} {tracking:?} block {block}");
            // Blocks of all sizes, some of them with scattered writes.
            let end = random.usize(0..=more);
            match block % 3 {
                0 => memory.bytes_mut()[..end].fill(0xa5),
                1 => {
                    let bytes = memory.bytes_mut()[end..].iter_mut();
                    bytes.step_by(9973).for_each(|byte| *byte = 1);
                }
                _ => {}
            }
        }
        let minimum = if policy == Policy::Declared { 1024 } else { 0 };
        let mut memory = pool.lend(minimum, Some(1024)).unwrap();
        memory.grow_to(1024 << 16).unwrap();
        assert!(is_zero(memory.bytes()));
        assert_eq!(resident_bytes(memory.bytes()).unwrap(), 1024 << 16);
        drop(memory);
        let now = pool.statistics();
        let by = [now.watermark_resets, now.full_resets, now.high_water_resets];
        match (policy, tracking) {
            (Policy::Declared, Tracking::Auto) if by == [0, 41, 0] => {
                skipped("write tracking is unsupported here; everything was zeroed");
            }
            (Policy::Declared, Tracking::Auto) => assert_eq!(by, [41, 0, 0]),
            (Policy::Declared, _) => assert_eq!(by, [0, 41, 0]),
            _ => assert_eq!(by, [0, 0, 41]),
        }
        assert_eq!([now.slots, now.lent, now.retired], [1, 0, 0]);
    }
}

#[test]
fn eight_threads_share_three_slots_and_see_no_data_of_each_other() {
    let _turn = one_at_a_time();
    for policy in [Policy::Declared, Policy::CommitMaximum] {
        let pool = MemoryPool::builder()
            .slots(3)
            .pages(64)
            .policy(policy)
            .when_exhausted(WhenExhausted::Wait(Duration::from_secs(120)))
            .secure()
            .unwrap();
        let lent = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for thread in 0..8_u8 {
                let (pool, lent) = (&pool, &lent);
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(u64::from(thread));
                    for _ in 0..200 {
                        let minimum = match policy {
                            Policy::Declared => 64,
                            _ => random.u64(0..=64),
                        };
                        let mut memory = pool.lend(minimum, Some(64)).unwrap();
                        assert!(lent.fetch_add(1, Ordering::SeqCst) < 3);
                        memory.grow_to(random.usize(0..=64) << 16).unwrap();
                        assert!(is_zero(memory.bytes()));
                        let end = random.usize(0..=memory.len());
                        memory.bytes_mut()[..end].fill(thread + 1);
                        assert!(memory.bytes()[..end].iter().all(|&byte| byte == thread + 1));
                        lent.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        let statistics = pool.statistics();
        assert_eq!((statistics.loans, statistics.lent), (8 * 200, 0));
    }
}

#[test]
fn a_pool_without_a_free_slot_fails_or_waits_as_configured() {
    let pool = |when_exhausted| {
        let builder = MemoryPool::builder().pages(1);
        builder.when_exhausted(when_exhausted).secure().unwrap()
    };
    let failing = pool(WhenExhausted::Fail);
    let first = lend(&failing);
    match failing.lend(1, Some(1)) {
        Err(error @ LendError::NoSlot { .. }) => {
            let text = error.to_string();
            assert!(text.starts_with(
                "no memory is free: of the pool's 1 slots 1 are lent (to the host itself for "
            ));
        }
        other => panic!("{other:?}"),
    }
    drop(first);
    drop(lend(&failing));

    let wait = Duration::from_millis(60);
    let pool = |wait| pool(WhenExhausted::Wait(wait));
    let waiting = pool(wait);
    let first = lend(&waiting);
    match waiting.lend(1, Some(1)) {
        Err(LendError::NoSlot { waited, .. }) => assert!(waited >= wait),
        other => panic!("{other:?}"),
    }
    drop(first);

    let pool = pool(Duration::from_secs(60));
    let first = lend(&pool);
    std::thread::scope(|scope| {
        let second = scope.spawn(|| lend(&pool).len());
        std::thread::sleep(Duration::from_millis(20));
        drop(first);
        assert_eq!(second.join().unwrap(), 1 << 16);
    });
}

#[test]
fn limits_that_do_not_suit_the_policy_are_refused() {
    let pool = MemoryPool::builder().pages(4).secure().unwrap();
    for (minimum, maximum) in [(4, None), (3, Some(4)), (5, Some(5)), (0, Some(4))] {
        match pool.lend(minimum, maximum) {
            Err(LendError::Policy(PolicyError::NotPinned { expected: 4, .. })) => {}
            other => panic!("{minimum} {maximum:?}: {other:?}"),
        }
    }
    let pool = MemoryPool::builder().pages(4).policy(Policy::CommitMaximum);
    let pool = pool.secure().unwrap();
    for (minimum, maximum) in [(0, None), (3, Some(5)), (4, Some(3))] {
        match pool.lend(minimum, maximum) {
            Err(LendError::Policy(PolicyError::SlotTooSmall { .. })) => {}
            other => panic!("{minimum} {maximum:?}: {other:?}"),
        }
    }
    let mut memory = pool.lend(1, Some(3)).unwrap();
    assert_eq!((memory.len(), memory.maximum_bytes()), (1 << 16, 3 << 16));
    let refused = memory.grow_to((3 << 16) + 1).unwrap_err();
    assert!(
        matches!(refused, LendError::Policy(PolicyError::SlotTooSmall { .. })),
        "{refused}"
    );
    memory.grow_to(3 << 16).unwrap();
    memory.grow_to(0).unwrap();
    assert_eq!(memory.len(), 3 << 16);
}

#[test]
fn progress_is_reported_in_order_and_to_the_end() {
    let _turn = one_at_a_time();
    for backing in [Backing::Auto, Backing::Base] {
        let reports = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&reports);
        let pool = MemoryPool::builder()
            .slots(2)
            .pages(3 << 10)
            .backing(backing)
            .on_progress(move |now| {
                // Another test may hold the lock.
                if now.stage == Stage::Committing {
                    let report = [now.committed_bytes, now.total_bytes];
                    sink.lock().unwrap().push(report);
                }
            })
            .secure()
            .unwrap();
        let reports = reports.lock().unwrap();
        let steps: Vec<_> = (1..=6)
            .map(|step| [step * 64 * MIB as u64, 384 * MIB as u64])
            .collect();
        assert_eq!(*reports, steps, "{backing:?}");
        assert_eq!(pool.secured().unwrap().resident_bytes, 384 * MIB as u64);
    }
}

#[test]
fn clones_and_loans_keep_the_memory() {
    let pool = MemoryPool::builder().pages(1).secure().unwrap();
    let clone = pool.clone();
    let mut memory = lend(&pool);
    drop(pool);
    assert_eq!(clone.statistics().lent, 1);
    drop(clone);
    memory.bytes_mut().fill(1);
    assert_eq!(resident_bytes(memory.bytes()).unwrap(), 1 << 16);
}

#[test]
fn a_pool_of_no_slots_secures_nothing_and_lends_nothing() {
    let pool = MemoryPool::builder().slots(0).secure().unwrap();
    assert_eq!(pool.secured(), None);
    match pool.lend(65_536, Some(65_536)) {
        Err(LendError::NoSlot { slots: 0, .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn all_slots_count_against_a_limit_together() {
    let builder = || MemoryPool::builder().pages(1024);
    let margin = wasm_prealloc_host::DEFAULT_MARGIN_BYTES;
    let one = builder().need().unwrap().physical_bytes - margin;
    let three = builder().slots(3).need().unwrap().physical_bytes - margin;
    assert_eq!(three, 3 * one);
    // More slots than a machine has memory for; none of them is committed first.
    let since = Instant::now();
    match MemoryPool::builder().slots(100_000).secure() {
        Err(SecureError::Shortfall(shortfall)) => assert!(shortfall.missing_bytes() > 0),
        other => panic!("{other:?}"),
    }
    assert!(since.elapsed() < Duration::from_secs(30));
}

#[test]
fn more_slots_than_can_exist_are_refused_before_anything_is_mapped() {
    let since = Instant::now();
    for slots in [usize::MAX, usize::MAX / 200, 1 << 40, 1 << 30] {
        let builder = MemoryPool::builder().slots(slots).pages(1);
        match builder.secure() {
            Err(SecureError::TooManySlots { slots: named }) => assert_eq!(named, slots),
            // The list would fit, and the memory does not.
            Err(SecureError::Shortfall(_)) if slots < 1 << 41 => {}
            other => panic!("{slots}: {other:?}"),
        }
    }
    assert!(since.elapsed() < Duration::from_secs(120));
}

/// Adds huge pages to the machine's pool during a test, and restores the pool afterwards.
struct HugePages {
    file: String,
    before: String,
}

impl HugePages {
    fn reserve_or_skip(kib: u64, pages: u64) -> Option<HugePages> {
        let file = format!("/sys/kernel/mm/hugepages/hugepages-{kib}kB/nr_hugepages");
        let before = std::fs::read_to_string(&file).unwrap_or_default();
        let wanted = before.trim().parse().unwrap_or(0) + pages;
        let huge = HugePages { file, before };
        let written = std::fs::write(&huge.file, wanted.to_string());
        let now = std::fs::read_to_string(&huge.file).unwrap_or_default();
        let reserved = written.is_ok() && now.trim().parse() == Ok(wanted);
        if !reserved {
            skipped(&format!(
                "{pages} huge pages of {kib} KiB cannot be reserved here"
            ));
        }
        reserved.then_some(huge)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        if let Err(error) = std::fs::write(&self.file, &self.before) {
            eprintln!("{} was {:?}: {error}", self.file, self.before);
        }
    }
}

#[test]
fn the_machines_pool_of_huge_pages_backs_slots_or_is_named() {
    let _turn = one_at_a_time();
    let pool = |slots| {
        let builder = MemoryPool::builder().slots(slots).pages(1024);
        builder.backing(Backing::HugeTlb2M).secure()
    };
    let Some(_huge) = HugePages::reserve_or_skip(2048, 64) else {
        return;
    };
    let lender = pool(2).unwrap();
    assert_eq!(lender.secured().unwrap().how, Method::HugePool);
    for round in 0..3 {
        let mut memory = lend(&lender);
        assert!(is_zero(memory.bytes()), "round {round}");
        assert_eq!(resident_bytes(memory.bytes()).unwrap(), 64 * MIB as u64);
        memory.bytes_mut()[..40 * MIB].fill(7);
        memory.bytes_mut()[60 * MIB] = 7;
    }
    // The kernel protects these pages only as a whole, and tracks writes to them.
    assert_eq!(lender.statistics().tracking_failures, 0);
    match pool(1) {
        Err(SecureError::Shortfall(shortfall)) => {
            let limit = shortfall.limit.to_string();
            assert!(limit.ends_with("hugepages-2048kB"), "{limit}");
            assert_eq!(shortfall.needed_bytes, 64 * MIB as u64);
            let advice = shortfall.advice();
            assert!(advice.contains("nr_hugepages"), "{advice}");
        }
        other => panic!("{other:?}"),
    }
    drop(lender);
    pool(2).unwrap();
}

#[test]
fn pages_of_1_gib_back_a_slot_or_are_named() {
    let _turn = one_at_a_time();
    let secure = || {
        let builder = MemoryPool::builder().pages(16_384);
        builder.backing(Backing::HugeTlb1G).secure()
    };
    match secure() {
        Err(SecureError::Shortfall(shortfall)) => {
            let limit = shortfall.limit.to_string();
            assert!(limit.ends_with("hugepages-1048576kB"), "{limit}");
        }
        Err(SecureError::System { .. }) => return skipped("this machine has no pages of 1 GiB"),
        other => panic!("{other:?}"),
    }
    let Some(_huge) = HugePages::reserve_or_skip(1 << 20, 1) else {
        return;
    };
    let pool = secure().unwrap();
    let mut memory = lend(&pool);
    assert_eq!(memory.as_ptr() as usize % (1 << 30), 0);
    memory.bytes_mut()[MIB..2 * MIB].fill(7);
    drop(memory);
    assert!(is_zero(lend(&pool).bytes()));
}

#[test]
fn unsuitable_backings_are_refused_with_the_remedy() {
    use Backing::{HugeTlb1G, HugeTlb2M};
    use Policy::{CommitMaximum, Declared};
    for (pages, backing, policy, text) in [
        (33, HugeTlb2M, Declared, "multiple of 32"),
        (32, HugeTlb1G, Declared, "multiple of 16384"),
        (32, HugeTlb2M, CommitMaximum, "exactly to 64 KiB"),
    ] {
        let builder = MemoryPool::builder().pages(pages).backing(backing);
        match builder.policy(policy).secure() {
            Err(error @ SecureError::Backing { .. }) => {
                assert!(error.to_string().contains(text), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn locked_memory_is_locked() {
    let _turn = one_at_a_time();
    let before = status_kib("VmLck");
    match MemoryPool::builder().pages(256).lock_memory(true).secure() {
        Ok(pool) => {
            assert_eq!(status_kib("VmLck") - before, 16 << 10);
            drop(pool);
            assert_eq!(status_kib("VmLck"), before);
        }
        // Without root's capability the limit may be lower than this.
        Err(SecureError::Shortfall(shortfall)) => assert_eq!(shortfall.limit, Limit::LockedMemory),
        Err(other) => panic!("{other}"),
    }
}

/// Reads the flags of the mapping at an address from `/proc/self/smaps`, see proc(5).
fn flags_of_mapping(address: usize) -> String {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let number = |text: &str| usize::from_str_radix(text, 16).ok();
    let contains = |line: &str| {
        let (start, end) = line.split(' ').next()?.split_once('-')?;
        Some((number(start)?..number(end)?).contains(&address))
    };
    let mut mapping = maps.lines().skip_while(|line| contains(line) != Some(true));
    let flags = mapping.find_map(|line| line.strip_prefix("VmFlags:"));
    flags.expect("the address is mapped").to_owned()
}

#[test]
fn children_do_not_inherit_the_memory() {
    let pool = MemoryPool::builder().pages(64).secure().unwrap();
    let memory = lend(&pool);
    // "dc": do not copy area on fork.
    let flags = flags_of_mapping(memory.as_ptr() as usize);
    assert!(flags.split_whitespace().any(|flag| flag == "dc"), "{flags}");
}
