//! Several memories that are taken at once: all of them or none, in the order of the requests.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use wasm_prealloc_host::{LendError, MemoryPool, Policy, PolicyError, WhenExhausted};

use support::is_zero;

const LONG: Duration = Duration::from_secs(120);

fn pool(slots: usize, when_exhausted: WhenExhausted) -> MemoryPool {
    let builder = MemoryPool::builder().slots(slots).pages(16);
    builder.when_exhausted(when_exhausted).secure().unwrap()
}

/// Waits until `count` threads wait for slots of the pool.
fn until_waiting(pool: &MemoryPool, count: usize) {
    let since = Instant::now();
    while pool.statistics().waiting < count {
        assert!(since.elapsed() < LONG, "{:?}", pool.statistics());
        std::thread::yield_now();
    }
}

#[test]
fn a_reservation_lends_its_slots_and_gives_the_rest_back() {
    let pool = pool(3, WhenExhausted::Fail);
    let mut two = pool.reserve(2).unwrap();
    assert_eq!((pool.statistics().lent, pool.statistics().loans), (2, 0));
    // A refused module does not use its slot up.
    let refused = two.lend(15, Some(16)).unwrap_err();
    assert!(
        matches!(refused, LendError::Policy(PolicyError::NotPinned { .. })),
        "{refused}"
    );
    let mut first = two.lend(16, Some(16)).unwrap();
    first.bytes_mut().fill(1);
    assert_eq!(two.len(), 1);
    match pool.reserve(2) {
        Err(LendError::NoSlot {
            slots: 3, lent: 2, ..
        }) => {}
        other => panic!("{other:?}"),
    }
    drop(two);
    assert_eq!((pool.statistics().lent, pool.statistics().loans), (1, 1));
    let mut two = pool.reserve(2).unwrap();
    let loans = [two.lend(16, Some(16)), two.lend(16, Some(16))];
    assert!(two.is_empty());
    match two.lend(16, Some(16)) {
        Err(LendError::NotReserved { reserved: 2 }) => {}
        other => panic!("{other:?}"),
    }
    drop((first, two));
    assert_eq!(pool.statistics().lent, 2);
    drop(loans);
    let mut all = pool.reserve(3).unwrap();
    while !all.is_empty() {
        assert!(is_zero(all.lend(16, Some(16)).unwrap().bytes()));
    }
    drop(all);
    assert_eq!(pool.reserve(0).unwrap().len(), 0);
    assert_eq!(pool.statistics().lent, 0);
}

#[test]
fn more_than_can_ever_be_free_is_refused_at_once() {
    let since = Instant::now();
    let waiting = pool(2, WhenExhausted::Wait(LONG));
    let held = waiting.reserve(1).unwrap();
    match waiting.reserve(3) {
        Err(error @ LendError::TooManyMemories { .. }) => assert_eq!(
            error.to_string(),
            "3 memories are needed at once, and the pool can lend only 2; give it a slot for each \
             memory that a module defines (MemoryPoolBuilder::slots)"
        ),
        other => panic!("{other:?}"),
    }
    drop(held);
    let none = pool(0, WhenExhausted::Wait(LONG));
    let refused = none.lend(16, Some(16)).unwrap_err();
    assert!(
        matches!(refused, LendError::NoSlot { slots: 0, .. }),
        "{refused}"
    );
    assert!(since.elapsed() < LONG);
}

#[test]
fn threads_that_need_two_memories_each_do_not_wait_for_each_other() {
    let pool = pool(3, WhenExhausted::Wait(LONG));
    let lent = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let (pool, lent) = (&pool, &lent);
            scope.spawn(move || {
                for round in 0..300 {
                    let count = 1 + (round + usize::from(thread)) % 3;
                    let mut slots = pool.reserve(count).unwrap();
                    assert!(lent.fetch_add(count, Ordering::SeqCst) + count <= 3);
                    let mut memories = Vec::new();
                    for _ in 0..count {
                        let mut memory = slots.lend(16, Some(16)).unwrap();
                        assert!(is_zero(memory.bytes()));
                        memory.bytes_mut()[..100].fill(thread + 1);
                        memories.push(memory);
                    }
                    lent.fetch_sub(count, Ordering::SeqCst);
                }
            });
        }
    });
    assert_eq!((pool.statistics().lent, pool.statistics().waiting), (0, 0));
}

#[test]
fn a_large_request_is_not_passed_by_small_ones() {
    let pool = pool(2, WhenExhausted::Wait(LONG));
    let held = pool.lend(16, Some(16)).unwrap();
    let (order, served) = mpsc::channel();
    std::thread::scope(|scope| {
        let (pool, large) = (&pool, order.clone());
        scope.spawn(move || {
            let both = pool.reserve(2).unwrap();
            large.send("large").unwrap();
            drop(both);
        });
        until_waiting(pool, 1);
        // One slot is free, and the large request came first.
        scope.spawn(|| {
            let _one = pool.lend(16, Some(16)).unwrap();
            order.send("small").unwrap();
        });
        until_waiting(pool, 2);
        assert_eq!(pool.statistics().lent, 1);
        drop(held);
        assert_eq!(served.recv().unwrap(), "large");
        assert_eq!(served.recv().unwrap(), "small");
    });
}

#[test]
fn a_request_that_gives_up_lets_the_next_one_pass() {
    let pool = pool(2, WhenExhausted::Wait(Duration::from_millis(300)));
    let _held = pool.lend(16, Some(16)).unwrap();
    std::thread::scope(|scope| {
        let large = scope.spawn(|| pool.reserve(2).map(drop));
        until_waiting(&pool, 1);
        std::thread::sleep(Duration::from_millis(150));
        // It is served when the large request gives up, before its own time is over.
        pool.lend(16, Some(16)).unwrap();
        match large.join().unwrap() {
            Err(LendError::NoSlot { lent: 1, .. }) => {}
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn a_weak_handle_does_not_keep_the_pool() {
    let builder = MemoryPool::builder().pages(16);
    let pool = builder.policy(Policy::CommitMaximum).secure().unwrap();
    let weak = pool.downgrade();
    assert!(weak.upgrade().unwrap().is_same(&pool));
    let memory = pool.lend(1, Some(2)).unwrap();
    drop(pool);
    assert_eq!(weak.upgrade().unwrap().statistics().lent, 1);
    drop(memory);
    assert!(weak.upgrade().is_none());
}
