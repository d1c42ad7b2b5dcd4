//! Mutates modules, a million times unless told otherwise, and asks everything of the results:
//!
//!     cargo run --release -p wasm-prealloc-fuzzing --example mutations -- 1000000 target/wasm/*.wasm
//!
//! Without files it mutates generated modules. Every mutation is made of its number alone, so that
//! a failure is run again by `mutations N..M FILES`.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result};
use arbitrary::Unstructured;
use wasm_prealloc_fuzzing::mutation::{Fate, check, mutate};
use wasm_prealloc_fuzzing::{Generated, bytes_of_seed};

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let numbers = range(&args.next().unwrap_or_else(|| "1000000".to_owned()))?;
    let mut modules = Vec::new();
    for path in args {
        modules.push(std::fs::read(&path).with_context(|| path.clone())?);
    }
    if modules.is_empty() {
        modules = (0..500).filter_map(generated).collect();
    }
    let bytes: usize = modules.iter().map(Vec::len).sum();
    println!("{} modules of {bytes} bytes, {numbers:?}", modules.len());

    let started = Instant::now();
    let next = AtomicU64::new(numbers.start);
    let rewritten = AtomicU64::new(0);
    let run = || -> Result<()> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= numbers.end {
                return Ok(());
            }
            let mut random = fastrand::Rng::with_seed(number);
            let module = &modules[random.usize(..modules.len())];
            let mutated = mutate(module, &mut random);
            let fate = check(&mutated).with_context(|| format!("mutation {number}"))?;
            rewritten.fetch_add(u64::from(fate == Fate::Rewritten), Ordering::Relaxed);
            if number.is_multiple_of(100_000) {
                println!("{number} after {:?}", started.elapsed());
            }
        }
    };
    let threads = std::thread::available_parallelism()?.get();
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        for thread in running {
            // A panic is what is looked for: the thread has said where.
            thread.join().map_err(|_| anyhow::anyhow!("a panic"))??;
        }
        anyhow::Ok(())
    })?;
    let count = numbers.end - numbers.start;
    let rewritten = rewritten.into_inner();
    println!(
        "{count} mutations in {:?}: {rewritten} rewritten, {} refused, nothing broken",
        started.elapsed(),
        count - rewritten
    );
    Ok(())
}

/// `N` is `0..N`.
fn range(words: &str) -> Result<Range<u64>> {
    Ok(match words.split_once("..") {
        Some((from, to)) => from.parse()?..to.parse()?,
        None => 0..words.parse()?,
    })
}

fn generated(seed: u64) -> Option<Vec<u8>> {
    let bytes = bytes_of_seed(seed);
    let generated = Generated::new(&mut Unstructured::new(&bytes));
    generated.ok().map(|generated| generated.wasm)
}
