//! Compares generated modules with their rewrites, for other seeds or more of them than the tests:
//!
//!     cargo run --release -p wasm-prealloc-fuzzing --example cases -- 100000..200000
//!
//! A failure is a panic that names its seed.

use std::ops::Range;
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context as _, Result};
use wasm_prealloc_fuzzing::{
    Stats, differential, for_each_seed, generate, generate_linked, linked,
};

fn main() -> Result<()> {
    let seeds = range(&std::env::args().nth(1).context("usage: cases N..M")?)?;
    let started = Instant::now();
    let total = Mutex::new(Stats::default());
    for_each_seed(seeds.clone(), |seed| {
        let mut stats = Stats::default();
        if let Some(generated) = generate(seed) {
            let checked = differential::check(&generated, &mut stats);
            checked.unwrap_or_else(|error| panic!("seed {seed}: {error:?}"));
        }
        if let Some(generated) = generate_linked(seed) {
            let checked = linked::check(&generated, &mut stats);
            checked.unwrap_or_else(|error| panic!("linked, seed {seed}: {error:?}"));
        }
        let mut total = total.lock().expect("no case panicked");
        total.add(&stats);
        if seed.is_multiple_of(1_000) {
            println!(
                "{seed} after {:?}: {} cases",
                started.elapsed(),
                total.get("cases")
            );
        }
    });
    println!("{}", total.into_inner().expect("no case panicked"));
    Ok(())
}

/// Parses `N..M`.
fn range(text: &str) -> Result<Range<u64>> {
    let (from, to) = text.split_once("..").context("not a range N..M")?;
    Ok(from.parse()?..to.parse()?)
}
