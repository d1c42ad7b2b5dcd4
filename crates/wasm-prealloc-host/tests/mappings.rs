//! The mappings of a pool are no more than its need says. This is a test binary of its own, because
//! it counts the mappings of the process.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use wasm_prealloc_host::{Backing, LentMemory, MemoryPool, Policy};

fn mappings() -> u64 {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().count() as u64
}

#[test]
fn a_pool_makes_no_more_mappings_than_it_says() {
    const SLOTS: usize = 24;
    for backing in [Backing::Base, Backing::Auto] {
        for (policy, minimum) in [(Policy::CommitMaximum, 1), (Policy::Declared, u64::MAX)] {
            // A multiple of a huge page, and one that is none.
            for pages in [64, 33] {
                let builder = MemoryPool::builder();
                let builder = builder.slots(SLOTS).pages(pages).policy(policy);
                let builder = builder.backing(backing);
                let said = builder.need().unwrap().mappings;
                let before = mappings();
                let pool = builder.secure().unwrap();
                let lend = || pool.lend(minimum.min(pages), Some(pages)).unwrap();
                let mut most = mappings();
                for _ in 0..3 {
                    let mut lent: Vec<LentMemory> = (0..SLOTS).map(|_| lend()).collect();
                    most = most.max(mappings());
                    for memory in &mut lent {
                        memory.grow_to(memory.maximum_bytes() / 2).unwrap();
                        memory.bytes_mut()[100] = 1;
                    }
                    most = most.max(mappings());
                    drop(lent);
                    most = most.max(mappings());
                }
                // The allocator and the pool's thread have a few mappings of their own.
                let made = most - before;
                assert!(
                    made <= said + 16,
                    "{backing} {policy} {pages}: {made} of {said}"
                );
                assert!(
                    said <= 2 * made + 16,
                    "{backing} {policy} {pages}: {made} of {said}"
                );
            }
        }
    }
}
