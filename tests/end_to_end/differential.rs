//! A bounded run of the differential test and of the mutation test, with fixed seeds. `SEED=17`
//! repeats one case. The examples of `wasm-prealloc-fuzzing` run as many seeds as wanted, and
//! `cargo fuzz` (see `fuzz/`) runs without an end.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use wasm_prealloc_fuzzing::differential::check;
use wasm_prealloc_fuzzing::{Stats, for_each_seed, generate, generate_linked, linked, mutation};

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

/// Runs a case for every seed. Returns the counts, or `None` if only one seed ran.
fn count_cases(
    seeds: u64,
    case: impl Fn(u64, &mut Stats) -> anyhow::Result<()> + Sync,
) -> Option<Stats> {
    let total = Mutex::new(Stats::default());
    let all = run_seeds(seeds, |seed| {
        let mut stats = Stats::default();
        if let Err(error) = case(seed, &mut stats) {
            panic!("`SEED={seed}`: {error:?}");
        }
        total.lock().unwrap().add(&stats);
    });
    let total = total.into_inner().unwrap();
    println!("{total}");
    all.then_some(total)
}

/// Checks that enough cases of each kind were made.
fn expect(total: &Stats, least: &[(&str, u64)]) {
    for (kind, least) in least {
        let count = total.get(kind);
        assert!(count >= *least, "{count} {kind}:\n{total}");
    }
}

#[test]
fn generated_modules_behave_as_their_rewrites() {
    let case = |seed, stats: &mut Stats| match generate(seed) {
        Some(generated) => check(&generated, stats),
        None => Ok(()),
    };
    let Some(total) = count_cases(1_200, case) else {
        return;
    };
    let cases = total.get("cases");
    expect(
        &total,
        &[
            ("cases", 8_000),
            ("cases compared with walrus", 1_600),
            ("cases in which memory grew", cases.div_ceil(5)),
            ("cases to the end", cases.div_ceil(2)),
            ("cases committed", 200),
            ("cases pinned before", 200),
            ("cases rewritten in a component too", 200),
            ("cases with 64-bit memories", 200),
            ("cases with a private memory", 200),
            ("cases with a start above the minimum", 120),
            ("cases with a start at the minimum", 40),
            ("cases with an import that gets more than its minimum", 200),
            ("cases with an imported memory", 200),
            ("cases with an imported memory that is defined", 80),
            ("cases with an imported shared memory", 40),
            ("cases with custom page sizes", 200),
            ("cases with data at an address from a global", 80),
            ("cases with data that ends at the minimum", 200),
            ("cases with exceptions", 200),
            ("cases with garbage-collected types", 200),
            ("cases with passive data", 200),
            ("cases with several memories", 200),
            ("cases with shared memories", 200),
            ("cases with tail calls", 200),
            ("cases with vectors", 200),
            ("branch hints that moved", 2_000),
            ("growths by the embedder, refused", 2_000),
            ("modules with names", 200),
            ("refused: data-above-minimum", 20),
            ("refused: imported-memory-grows", 8),
            ("refused: imported-start-unknown", 8),
            ("refused: start-below-minimum", 8),
            ("traps with compared offsets", 2_000),
        ],
    );
}

#[test]
fn generated_modules_that_share_a_memory_behave_as_their_rewrites() {
    let case = |seed, stats: &mut Stats| match generate_linked(seed) {
        Some(generated) => linked::check(&generated, stats),
        None => Ok(()),
    };
    let Some(total) = count_cases(600, case) else {
        return;
    };
    let cases = total.get("cases");
    expect(
        &total,
        &[
            ("cases", 800),
            ("cases in which memory grew", cases.div_ceil(4)),
            ("cases to the end", cases.div_ceil(2)),
            ("cases of components", 120),
            ("cases of components that use outer modules", 40),
            ("cases of linked core modules", 120),
            ("cases of modules that share a memory of threads", 40),
            ("cases of modules that share the embedder's memory", 40),
            ("cases of nested components", 40),
            ("cases of two instances on one memory", 80),
            ("cases of two memories of one module", 40),
            ("refused: component, unsupported", 20),
        ],
    );
}

#[test]
fn mutations_of_generated_modules_are_refused_or_rewritten() {
    let modules: Vec<_> = (0..500)
        .map(|seed| generate(seed).map(|m| m.wasm))
        .collect();
    let module = |seed: u64, _: &mut _| modules[seed as usize % 500].clone();
    if let Some(rewritten) = check_mutations(4_000, module) {
        // If all were refused, only the first check was tested.
        assert!(rewritten > 150, "{rewritten} mutations were rewritten");
    }
}
