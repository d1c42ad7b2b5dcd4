//! Generated modules beside their rewrites, and mutations of modules: a bounded run, its seeds
//! fixed. `SEED=17` runs one case again; `cargo fuzz` (see `fuzz/`) goes on where this ends.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use arbitrary::Unstructured;
use wasm_prealloc_fuzzing::differential::{Tally, check};
use wasm_prealloc_fuzzing::{Generated, bytes_of_seed, mutation};

/// Runs `case` for every seed on all processors, or for the one that `SEED` names.
fn each_seed(seeds: u64, case: impl Fn(u64) + Sync) {
    if let Ok(seed) = std::env::var("SEED") {
        return case(seed.parse().unwrap());
    }
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        break;
                    }
                    case(seed);
                }
            });
        }
    });
}

fn generated(seed: u64) -> Option<Generated> {
    let bytes = bytes_of_seed(seed);
    // Chance does not always make a module that fits its limits.
    Generated::new(&mut Unstructured::new(&bytes)).ok()
}

#[test]
fn generated_modules_behave_as_their_rewrites() {
    let sum = Mutex::new(Tally::default());
    each_seed(2_500, |seed| {
        let Some(generated) = generated(seed) else {
            return;
        };
        let mut tally = Tally::default();
        if let Err(error) = check(&generated, &mut tally) {
            panic!("`SEED={seed}`: {error:?}");
        }
        sum.lock().unwrap().add(&tally);
    });
    let sum = sum.into_inner().unwrap();
    println!("{sum}");
    if std::env::var_os("SEED").is_none() {
        assert!(sum.cases >= 20_000, "too few cases: {sum}");
        assert!(sum.walrus >= 5_000, "too few beside walrus: {sum}");
        for kind in [
            "committed",
            "pinned before",
            "rewritten in a component too",
            "with 64-bit memories",
            "with collected types",
            "with custom page sizes",
            "with exceptions",
            "with several memories",
            "with tail calls",
            "with vectors",
        ] {
            let cases = sum.kinds.get(kind).copied().unwrap_or_default();
            assert!(cases >= 500, "{cases} cases {kind}: {sum}");
        }
        assert!(sum.grew * 4 >= sum.cases, "memory grew in too few: {sum}");
        assert!(sum.to_the_end * 2 >= sum.cases, "too few to the end: {sum}");
    }
}

#[test]
fn mutations_of_generated_modules_are_refused_or_handled() {
    let rewritten = AtomicU64::new(0);
    each_seed(13_000, |seed| {
        let Some(generated) = generated(seed % 500) else {
            return;
        };
        let mut random = fastrand::Rng::with_seed(seed);
        let mutated = mutation::mutate(&generated.wasm, &mut random);
        let fate = mutation::check(&mutated);
        let fate = fate.unwrap_or_else(|error| panic!("`SEED={seed}`: {error:?}"));
        let handled = fate == mutation::Fate::Rewritten;
        rewritten.fetch_add(u64::from(handled), Ordering::Relaxed);
    });
    let rewritten = rewritten.into_inner();
    println!("{rewritten} mutations were rewritten");
    if std::env::var_os("SEED").is_none() {
        // If all were refused, nothing was tested behind the first check.
        assert!(rewritten > 500, "{rewritten} mutations were rewritten");
    }
}
