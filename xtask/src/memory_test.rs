//! `cargo xtask memory-test`: runs guests in memory cgroups, without and with secured memory. The
//! cells and their expected outcomes are defined in the tests' package.

mod full;

use std::io::Write as _;

use anyhow::Result;
use comfy_table::{Table, presets::ASCII_MARKDOWN};
use wasm_prealloc_tests::cells::Cell;
use wasm_prealloc_tests::{Indexer, MIB, MemoryGroup, Outcome, Setup, commit};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask memory-test          the four cells, in half a minute
  cargo xtask memory-test --full   also hosts at 1,424 limits, and a chain of blocks on 18 machines

Exit status: 0 every row is as expected, 1 a row is not, 2 no memory cgroup can be created here")]
pub(crate) struct Opts {
    /// Also test that no limit kills a host, and that all machines store the same
    ///
    /// `limits`: hosts of 4 GiB at 200 cgroup limits from 64 MiB to 5 GiB, hosts of 1 GiB at 256
    /// limits around the smallest sufficient one, four hosts at once with room for two, hosts that
    /// cannot see their limit at 256 limits, and hosts in a group that is full of page cache. Each
    /// runs with huge pages and with base pages. Each must be secured, or refused by the name of
    /// the limit; none may be killed.
    ///
    /// `chain`: 200 blocks on machines from 512 MiB to 20 GiB, beside a neighbour, and interrupted.
    /// The state root must be the same everywhere, or the host must refuse before the first block.
    /// Hosts without secured memory run for comparison.
    ///
    /// Both need 7 GiB of free memory. On a busy machine with 2 processors they took 5 and 12
    /// minutes.
    #[arg(
        long,
        value_enum,
        value_name = "PART",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "all"
    )]
    full: Option<Part>,
}

/// The tests to run after the cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Both parts
    All,
    /// Hosts at many limits
    Limits,
    /// One chain of blocks on many machines
    Chain,
}

/// The reason why no memory cgroup can be created.
#[derive(Debug)]
pub(crate) struct NoGroup(String);

impl std::fmt::Display for NoGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "memory-test needs memory cgroups: {}", self.0)
    }
}

impl std::error::Error for NoGroup {}

pub(crate) fn run(opts: &Opts) -> Result<()> {
    // The quickest check comes first.
    drop(MemoryGroup::create(MIB).map_err(NoGroup)?);
    let indexer = Indexer::build("memory-test")?;
    let mut wrong = cell_rows(&indexer)?;
    if let Some(part) = opts.full {
        let commit = commit()?;
        if part != Part::Chain {
            wrong += full::limit_rows(&commit, &indexer.scratch)?;
        }
        if part != Part::Limits {
            wrong += full::chain_rows(&indexer, &commit)?;
        }
    }
    match wrong {
        0 => Ok(()),
        _ => anyhow::bail!("{wrong} rows are not as expected"),
    }
}

/// Runs and prints the cells, and returns the number of those that are not as expected.
fn cell_rows(indexer: &Indexer) -> Result<usize> {
    let mut table = table("setup|memory|guest|exit|peak MiB|stored|as expected");
    let mut messages = Vec::new();
    let mut wrong = 0;
    for cell in Cell::all() {
        eprintln!("running: {cell}");
        let outcome = cell.run(indexer)?;
        let verdict = cell.judge(&outcome);
        wrong += usize::from(verdict.is_err());
        table.add_row(row(cell, &outcome, &verdict));
        if cell.setup == Setup::After {
            messages.push(format!(
                "{cell}:\n  {}",
                outcome.stderr.trim().replace('\n', "\n  ")
            ));
        }
    }
    let mut stdout = std::io::stdout().lock();
    writeln!(
        stdout,
        "{table}\n\nThe output of the hosts that secure memory:\n"
    )?;
    for message in messages {
        writeln!(stdout, "{message}")?;
    }
    Ok(wrong)
}

/// Returns a table with titles that are separated by `|`.
pub(crate) fn table(titles: &str) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header(titles.split('|'));
    table
}

fn status(status: i32) -> String {
    match status {
        137 => "137 (killed)".to_owned(),
        status => status.to_string(),
    }
}

fn verdict_text(verdict: &Result<(), String>) -> String {
    match verdict {
        Ok(()) => "yes".to_owned(),
        Err(difference) => format!("NO: {difference}"),
    }
}

fn row(cell: Cell, outcome: &Outcome, verdict: &Result<(), String>) -> [String; 7] {
    [
        cell.setup.to_string(),
        format!("{} MiB", cell.limit_bytes / MIB),
        cell.guest.to_string(),
        status(outcome.status),
        outcome
            .peak_bytes
            .map_or_else(|| "unknown".to_owned(), |peak| (peak / MIB).to_string()),
        match outcome.stored.as_slice() {
            [] => "nothing".to_owned(),
            stored => stored.join("\n"),
        },
        verdict_text(verdict),
    ]
}
