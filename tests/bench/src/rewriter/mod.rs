//! The benchmarks of the rewriter: each contender on each module, and the whole command.

mod command;
mod contenders;
mod corpus;
mod report;
mod shapes;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::ValueEnum as _;

use crate::child::measure_in_child;
use crate::cost::{Cost, peak_bytes};

pub(crate) use command::walrus_file;
pub(crate) use contenders::Contender;
pub(crate) use report::Measured;

/// The minimum time for which a module is processed again and again.
const AT_LEAST: Duration = Duration::from_millis(40);

/// The size of the module that the whole command is compared with.
const WHOLE_COMMAND_BYTES: usize = 30 << 20;

/// Measures one contender on one module, in this process.
pub(crate) fn measure_one(contender: Contender, module: &Path) -> Result<Cost> {
    let before = peak_bytes("self")?;
    let wasm = std::fs::read(module).with_context(|| module.display().to_string())?;
    let mut output = Vec::new();
    // The first round warms the caches. It is not timed.
    contender.run(&wasm, &mut output)?;
    let peak_bytes = (peak_bytes("self")? - before).max(0.0);

    let begin = Instant::now();
    let mut costs = Vec::new();
    while costs.is_empty() || begin.elapsed() < AT_LEAST {
        if !contender.reuses_its_buffer() {
            output = Vec::new();
        }
        costs.push(Cost::of(|| {
            contender.run(std::hint::black_box(&wasm), &mut output)
        })?);
        std::hint::black_box(&output);
    }
    let cost = Cost::median(&costs);
    Ok(Cost { peak_bytes, ..cost })
}

/// Measures every contender on every module, each in a separate process. The contenders take turns.
/// If `quick`, leaves out walrus, which takes minutes.
pub(crate) fn measure(rounds: usize, quick: bool) -> Result<Measured> {
    let modules = corpus::modules()?;
    let contenders: Vec<Contender> = Contender::value_variants()
        .iter()
        .copied()
        .filter(|contender| !(quick && *contender == Contender::Walrus))
        .collect();
    let mut samples = vec![vec![Vec::with_capacity(rounds); contenders.len()]; modules.len()];
    for round in 1..=rounds {
        for (module, samples) in modules.iter().zip(&mut samples) {
            eprintln!("round {round} of {rounds}: {}", module.name);
            for (contender, samples) in contenders.iter().zip(samples) {
                let name = contender
                    .to_possible_value()
                    .context("a contender has a name")?;
                let arguments = [
                    "rewriter".as_ref(),
                    name.get_name().as_ref(),
                    module.path.as_os_str(),
                ];
                samples.push(measure_in_child(arguments)?);
            }
        }
    }
    let large = modules
        .iter()
        .min_by_key(|module| module.bytes.abs_diff(WHOLE_COMMAND_BYTES));
    let whole = match large.filter(|_| !quick) {
        None => None,
        Some(large) => {
            eprintln!("the whole command: {}", large.name);
            Some((large.clone(), command::compare(large, rounds)?))
        }
    };
    let medians = samples.iter().map(|contenders| {
        let costs = contenders.iter();
        costs.map(|costs: &Vec<Cost>| Cost::median(costs)).collect()
    });
    Ok(Measured {
        costs: medians.collect(),
        modules,
        contenders,
        whole,
        shapes: shapes::measure(rounds)?,
        rounds,
    })
}
