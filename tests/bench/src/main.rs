//! `cargo xtask bench` starts this program. It measures everything in one run, prints the ratios
//! first, and with `--write` writes the result to `docs/benchmarks.md`.
//!
//! Each measurement is a separate process, so that the allocator and the peak memory of one do not
//! influence another. The contenders take turns, so that other load on the machine affects all of
//! them alike.

mod child;
mod cost;
mod host;
mod rewriter;
mod tables;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

/// Measure the rewriter and the host beside their alternatives
///
/// The rewriter is compared with other libraries that read and write modules, the host with bare
/// system calls and with the engine's own memory.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", args_conflicts_with_subcommands = true)]
struct Cli {
    /// Write the result to docs/benchmarks.md
    #[arg(long)]
    write: bool,

    /// Number of rounds; the result is the median
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

/// The two halves, which are independent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Half {
    /// Work on the bytes of a module
    Rewriter,
    /// Work on memory
    Host,
}

/// The parts for which this program starts itself again.
#[derive(Debug, Subcommand)]
#[command(hide = true)]
enum Part {
    /// Measure one contender on one module
    #[command(hide = true)]
    Rewriter {
        contender: rewriter::Contender,
        module: PathBuf,
    },
    /// Measure one contender of one part of the host
    #[command(hide = true)]
    Host { part: String, contender: String },
    /// Rewrite a file with walrus, as the program that the whole command is compared with
    #[command(hide = true)]
    WalrusFile { input: PathBuf, output: PathBuf },
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let stdout = std::io::stdout();
    match &cli.part {
        Some(Part::Rewriter { contender, module }) => {
            let cost = rewriter::measure_one(*contender, module)?;
            Ok(serde_json::to_writer(stdout, &cost)?)
        }
        Some(Part::Host { part, contender }) => {
            let rows = host::measure_one(part, contender)?;
            Ok(serde_json::to_writer(stdout, &rows)?)
        }
        Some(Part::WalrusFile { input, output }) => rewriter::walrus_file(input, output),
        None => bench(&cli),
    }
}

fn bench(cli: &Cli) -> Result<()> {
    let rounds = usize::from(cli.rounds);
    let host = match cli.only {
        Some(Half::Rewriter) => host::Measured::default(),
        _ => host::measure(rounds)?,
    };
    let rewriter = match cli.only {
        Some(Half::Host) => rewriter::Measured::default(),
        _ => rewriter::measure(rounds, cli.quick)?,
    };
    let text = format!(
        "# Benchmarks\n\nWritten by `cargo xtask bench --write`; do not edit. {}\n\n{}{}",
        machine(),
        rewriter.text(),
        host.text()
    );
    writeln!(std::io::stdout(), "{text}")?;
    if cli.write {
        let path = wasm_prealloc_tests::repository().join("docs/benchmarks.md");
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// The machine and the date, in one sentence. Unknown facts are left out.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let output_of = |program: &str, arg: &str| {
        let output = Command::new(program).arg(arg).output().ok();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        text.unwrap_or_default()
    };
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("an unnamed CPU", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "Measured on {} with {model}, {cores} cores, Linux {}, {}.",
        output_of("date", "+%F"),
        read("/proc/sys/kernel/osrelease").trim(),
        output_of("rustc", "--version")
    )
}
