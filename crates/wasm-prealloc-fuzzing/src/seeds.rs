//! Bounded runs: inputs from fixed seeds, and a loop over seeds on all processors.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use arbitrary::Unstructured;

use crate::generate::Generated;
use crate::legacy::{self, Pair};
use crate::linked::Linked;

/// Returns enough random bytes for one module.
#[must_use]
pub fn bytes_of_seed(seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; random.usize(512..6144)];
    random.fill(&mut bytes);
    bytes
}

/// Generates the module of a seed. `None` if the bytes do not make a module within the limits.
#[must_use]
pub fn generate(seed: u64) -> Option<Generated> {
    let bytes = bytes_of_seed(seed);
    Generated::new(&mut Unstructured::new(&bytes)).ok()
}

/// Generates the linked modules of a seed. `None` if the bytes do not make them within the limits.
#[must_use]
pub fn generate_linked(seed: u64) -> Option<Linked> {
    let bytes: Vec<u8> = (0..4)
        .flat_map(|part| bytes_of_seed(4 * seed + part))
        .collect();
    Linked::new(&mut Unstructured::new(&bytes)).ok()
}

/// Generates the module with legacy exceptions of a seed, and rewrites it.
///
/// # Errors
/// The rewriter refuses the module for a reason that the generator does not produce.
pub fn generate_legacy(seed: u64) -> anyhow::Result<Option<Pair>> {
    let bytes = bytes_of_seed(seed);
    legacy::pair(&mut Unstructured::new(&bytes))
}

/// Calls `case` for every seed, on all processors. A case fails by panicking.
pub fn for_each_seed(seeds: Range<u64>, case: impl Fn(u64) + Sync) {
    let next = AtomicU64::new(seeds.start);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let take = || Some(next.fetch_add(1, Ordering::Relaxed));
                let taken = std::iter::from_fn(take);
                taken.take_while(|seed| *seed < seeds.end).for_each(&case);
            });
        }
    });
}
