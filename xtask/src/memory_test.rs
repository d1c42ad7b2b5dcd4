//! `cargo xtask memory-test`: the cells that the project exists for, before and after, in real
//! memory cgroups. What a cell is and must come to is in the harness that the tests share.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use comfy_table::{Table, presets::ASCII_MARKDOWN};
use wasm_prealloc_build::Linking;
use wasm_prealloc_tests::cells::{Bench, Cell, Guest, Outcome, Setup};
use wasm_prealloc_tests::{Guests, MemoryGroup, indexer};

const MIB: u64 = 1 << 20;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit status: 0 every cell is as it must be, 1 one is not, 2 no memory cgroup can be made here")]
pub(crate) struct Opts {}

/// No memory cgroup can be made, so that nothing can be shown.
#[derive(Debug)]
pub(crate) struct NoGroup(String);

impl std::fmt::Display for NoGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "memory-test needs memory cgroups: {}", self.0)
    }
}

impl std::error::Error for NoGroup {}

pub(crate) fn run(_: &Opts) -> Result<()> {
    // First, because everything else takes longer.
    drop(MemoryGroup::create(MIB).map_err(NoGroup)?);
    let scratch = crate::repository().join("target/tests/memory-test");
    std::fs::create_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
    let bench = Bench {
        natural: Guests::build(Linking::Natural)?,
        pinned: Guests::build(Linking::Pinned)?,
        indexer: indexer()?,
        scratch,
    };
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header([
        "setup",
        "memory",
        "guest",
        "exit",
        "peak MiB",
        "stored",
        "as it must be",
    ]);
    let mut said = Vec::new();
    let mut wrong = 0;
    for cell in Cell::all() {
        eprintln!("running: {cell}");
        let outcome = bench.run(cell)?;
        let verdict = cell.judge(&outcome);
        wrong += usize::from(verdict.is_err());
        table.add_row(row(cell, &outcome, &verdict));
        if cell.setup == Setup::After {
            said.push(format!(
                "{cell}:\n  {}",
                outcome.stderr.trim().replace('\n', "\n  ")
            ));
        }
    }
    let mut stdout = std::io::stdout().lock();
    writeln!(
        stdout,
        "{table}\n\nWhat the hosts said that secure memory:\n"
    )?;
    for words in said {
        writeln!(stdout, "{words}")?;
    }
    match wrong {
        0 => Ok(()),
        _ => anyhow::bail!("{wrong} cells are not as they must be"),
    }
}

fn row(cell: Cell, outcome: &Outcome, verdict: &Result<(), String>) -> [String; 7] {
    let setup = match cell.setup {
        Setup::Before => "before",
        Setup::After => "after",
    };
    let guest = match cell.guest {
        Guest::Stress => "stress",
        Guest::Minimal => "minimal",
    };
    let status = match outcome.status {
        137 => "137 (killed)".to_owned(),
        status => status.to_string(),
    };
    [
        setup.to_owned(),
        format!("{} MiB", cell.limit_bytes / MIB),
        guest.to_owned(),
        status,
        outcome
            .peak_bytes
            .map_or_else(|| "unknown".to_owned(), |peak| (peak / MIB).to_string()),
        match outcome.stored.as_slice() {
            [] => "nothing".to_owned(),
            stored => stored.join("\n"),
        },
        match verdict {
            Ok(()) => "yes".to_owned(),
            Err(difference) => format!("NO: {difference}"),
        },
    ]
}
