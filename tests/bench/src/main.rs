//! `cargo xtask bench` starts this program. It measures everything side by side in one run, prints
//! the ratios first, and writes them into `docs/benchmarks.md` when asked to.
//!
//! Each measurement is a process of its own; the contenders take turns, so that whatever else the
//! machine does hits all alike.

mod child;
mod command;
mod contenders;
mod corpus;
mod host;
mod report;
mod tables;

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

use contenders::Contender;
use report::{Measured, Report};

/// Measure the rewriter side by side with what else reads and writes modules, and the host side by
/// side with bare system calls and with the engine's own memory
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", args_conflicts_with_subcommands = true)]
struct Cli {
    /// Write the result into docs/benchmarks.md
    #[arg(long)]
    write: bool,

    /// How often everything is measured; the medians count
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,

    /// Leave out the contenders that take minutes
    #[arg(long)]
    quick: bool,

    /// Measure one half only
    #[arg(long, value_name = "HALF", conflicts_with = "write")]
    only: Option<Half>,

    #[command(subcommand)]
    part: Option<Part>,
}

/// The two halves, which know nothing of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Half {
    /// What is done with a module's bytes
    Rewriter,
    /// What is done with memory
    Host,
}

/// What this program starts itself again for.
#[derive(Debug, Subcommand)]
#[command(hide = true)]
enum Part {
    /// Measure one contender on one module
    #[command(hide = true)]
    Child {
        contender: Contender,
        module: PathBuf,
    },
    /// The program that the whole command is compared with
    #[command(hide = true)]
    WalrusFile { input: PathBuf, output: PathBuf },
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    match cli.part {
        Some(Part::Child { contender, module }) => {
            let sample = child::run(contender, &module)?;
            Ok(serde_json::to_writer(std::io::stdout(), &sample)?)
        }
        Some(Part::WalrusFile { input, output }) => command::walrus_file(&input, &output),
        None => bench(&cli),
    }
}

/// The size that the whole command is compared at.
const WHOLE_COMMAND_BYTES: usize = 30 << 20;

fn bench(cli: &Cli) -> Result<()> {
    let programs = command::build()?;
    let rounds = usize::from(cli.rounds);
    let host = match cli.only {
        Some(Half::Rewriter) => host::Measured::default(),
        _ => host::measure(&programs.measure, rounds)?,
    };
    let modules = match cli.only {
        Some(Half::Host) => Vec::new(),
        _ => corpus::modules()?,
    };
    let contenders: Vec<Contender> = Contender::ALL
        .iter()
        .copied()
        .filter(|contender| !(cli.quick && *contender == Contender::Walrus))
        .collect();
    let mut samples = vec![vec![Vec::with_capacity(rounds); contenders.len()]; modules.len()];
    for round in 1..=rounds {
        for (module, samples) in modules.iter().zip(&mut samples) {
            eprintln!("round {round} of {rounds}: {}", module.name);
            for (contender, samples) in contenders.iter().zip(samples) {
                samples.push(child::measure(*contender, &module.path)?);
            }
        }
    }
    let measured: Vec<Vec<Measured>> = samples
        .iter()
        .map(|contenders| contenders.iter().map(|s| Measured::median(s)).collect())
        .collect();
    // The one nearest to the size that the comparison is about.
    let large = modules
        .iter()
        .min_by_key(|module| module.bytes.abs_diff(WHOLE_COMMAND_BYTES))
        .filter(|_| !cli.quick);
    let whole = match large {
        None => None,
        Some(large) => {
            eprintln!("the whole command: {}", large.name);
            let compared = command::compare(&programs.command, large, rounds)?;
            Some((large, compared))
        }
    };
    let report = Report {
        modules: &modules,
        contenders: &contenders,
        measured: &measured,
        whole,
        rounds,
        host: &host,
    };
    let text = report.text()?;
    writeln!(std::io::stdout(), "{text}")?;
    if cli.write {
        let path = wasm_prealloc_tests::repository().join("docs/benchmarks.md");
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    Ok(())
}
