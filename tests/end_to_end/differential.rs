//! A bounded run of the differential test and of the mutation test, with fixed seeds. `SEED=17`
//! repeats one case. `cargo fuzz` (see `fuzz/`) runs more.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use wasm_prealloc_fuzzing::differential::check;
use wasm_prealloc_fuzzing::{Stats, for_each_seed, generate, mutation};

/// Runs `case` for every seed below `seeds`, or only for the one in `SEED`. Returns true for all.
pub(crate) fn run_seeds(seeds: u64, case: impl Fn(u64) + Sync) -> bool {
    match std::env::var("SEED") {
        Ok(seed) => case(seed.parse().unwrap()),
        Err(_) => for_each_seed(0..seeds, case),
    }
    std::env::var_os("SEED").is_none()
}

/// Mutates modules and checks the results. Returns the number of mutations that were rewritten, or
/// `None` if only one seed ran.
pub(crate) fn check_mutations(
    seeds: u64,
    module: impl Fn(u64, &mut fastrand::Rng) -> Option<Vec<u8>> + Sync,
) -> Option<u64> {
    let rewritten = AtomicU64::new(0);
    let all = run_seeds(seeds, |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let Some(module) = module(seed, &mut random) else {
            return;
        };
        let outcome = mutation::check(&mutation::mutate(&module, &mut random));
        let outcome = outcome.unwrap_or_else(|error| panic!("`SEED={seed}`: {error:?}"));
        let is_rewritten = outcome == mutation::Outcome::Rewritten;
        rewritten.fetch_add(u64::from(is_rewritten), Ordering::Relaxed);
    });
    let rewritten = rewritten.into_inner();
    println!("{rewritten} mutations were rewritten");
    all.then_some(rewritten)
}

#[test]
fn generated_modules_behave_as_their_rewrites() {
    let total = Mutex::new(Stats::default());
    let all = run_seeds(2_500, |seed| {
        let Some(generated) = generate(seed) else {
            return;
        };
        let mut stats = Stats::default();
        if let Err(error) = check(&generated, &mut stats) {
            panic!("`SEED={seed}`: {error:?}");
        }
        total.lock().unwrap().add(&stats);
    });
    let total = total.into_inner().unwrap();
    println!("{total}");
    if !all {
        return;
    }
    let cases = total.get("cases");
    for (kind, least) in [
        ("", 20_000),
        (" compared with walrus", 5_000),
        (" in which memory grew", cases.div_ceil(4)),
        (" to the end", cases.div_ceil(2)),
        (" committed", 500),
        (" pinned before", 500),
        (" rewritten in a component too", 500),
        (" with 64-bit memories", 500),
        (" with garbage-collected types", 500),
        (" with custom page sizes", 500),
        (" with exceptions", 500),
        (" with several memories", 500),
        (" with tail calls", 500),
        (" with vectors", 500),
    ] {
        let count = total.get(&format!("cases{kind}"));
        assert!(count >= least, "{count} cases{kind}:\n{total}");
    }
}

#[test]
fn mutations_of_generated_modules_are_refused_or_rewritten() {
    let modules: Vec<_> = (0..500)
        .map(|seed| generate(seed).map(|m| m.wasm))
        .collect();
    let module = |seed: u64, _: &mut _| modules[seed as usize % 500].clone();
    if let Some(rewritten) = check_mutations(13_000, module) {
        // If all were refused, only the first check was tested.
        assert!(rewritten > 500, "{rewritten} mutations were rewritten");
    }
}
