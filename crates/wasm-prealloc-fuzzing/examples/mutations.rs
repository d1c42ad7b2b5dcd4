//! Checks mutations of modules, a million unless another number is given:
//!
//!     cargo run --release -p wasm-prealloc-fuzzing --example mutations -- 1000000 target/wasm/*.wasm
//!
//! Without files it mutates generated modules. Each mutation depends only on its number, so
//! `mutations N..M FILES` repeats a failure. A failure is a panic.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result};
use wasm_prealloc_fuzzing::mutation::{Outcome, check, mutate};
use wasm_prealloc_fuzzing::{for_each_seed, generate};

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let numbers = range(&args.next().unwrap_or_else(|| "1000000".to_owned()))?;
    let mut modules = Vec::new();
    for path in args {
        modules.push(std::fs::read(&path).with_context(|| path.clone())?);
    }
    if modules.is_empty() {
        modules = (0..500).filter_map(generate).map(|m| m.wasm).collect();
    }
    let bytes: usize = modules.iter().map(Vec::len).sum();
    println!("{} modules of {bytes} bytes, {numbers:?}", modules.len());

    let started = Instant::now();
    let rewritten = AtomicU64::new(0);
    for_each_seed(numbers.clone(), |number| {
        let mut random = fastrand::Rng::with_seed(number);
        let module = &modules[random.usize(..modules.len())];
        let outcome = check(&mutate(module, &mut random));
        let outcome = outcome.unwrap_or_else(|error| panic!("mutation {number}: {error:?}"));
        rewritten.fetch_add(u64::from(outcome == Outcome::Rewritten), Ordering::Relaxed);
        if number.is_multiple_of(100_000) {
            println!("{number} after {:?}", started.elapsed());
        }
    });
    let count = numbers.end - numbers.start;
    let rewritten = rewritten.into_inner();
    println!(
        "{count} mutations in {:?}: {rewritten} rewritten, {} refused, no failure",
        started.elapsed(),
        count - rewritten
    );
    Ok(())
}

/// Parses `N..M`, or `N` as `0..N`.
fn range(text: &str) -> Result<Range<u64>> {
    Ok(match text.split_once("..") {
        Some((from, to)) => from.parse()?..to.parse()?,
        None => 0..text.parse()?,
    })
}
