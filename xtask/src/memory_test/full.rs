//! `--full`: hosts at hundreds of limits, and a chain of blocks on machines of many sizes. This file
//! selects and prints the rows. Their expected outcomes are defined in the tests' package.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use comfy_table::CellAlignment;
use wasm_prealloc_tests::chain::Chain;
use wasm_prealloc_tests::limits::{BACKINGS, Cached, Host, Stats, cannot_hide, limits};
use wasm_prealloc_tests::machines::{Bench, Machine};
use wasm_prealloc_tests::{Indexer, MIB, Setup, skipped};

const KIB: u64 = 1 << 10;
/// 4 GiB and 1 GiB, in wasm pages.
const WHOLE: u64 = 65_536;
const QUARTER: u64 = 16_384;

/// Runs and prints hosts at limits, and returns the number of rows that are not as expected.
pub(super) fn limit_rows(commit: &Path, scratch: &Path) -> Result<usize> {
    let mut table = super::table(
        "hosts|memory MiB|backing|tried|secured|refused|killed|OOM kills|seconds|as expected",
    );
    let mut wrong = 0;
    let mut row = |what: &str, host: &Host, stats: Stats| {
        let verdict = stats.judge();
        wrong += usize::from(verdict.is_err());
        table.add_row([
            what.to_owned(),
            (host.bytes() / MIB).to_string(),
            host.backing.to_string(),
            stats.tried.to_string(),
            stats.secured.to_string(),
            stats.refused.to_string(),
            stats.killed.to_string(),
            stats.oom_kills.to_string(),
            stats.elapsed.as_secs().to_string(),
            super::verdict_text(&verdict),
        ]);
    };
    for backing in BACKINGS {
        let host = |pages| Host {
            program: commit.to_owned(),
            pages,
            also: None,
            backing,
            hidden: false,
        };
        eprintln!("running: 200 limits, {backing}");
        let whole = host(WHOLE);
        let stats = whole.sweep(limits(64 * MIB, 5120 * MIB, 200))?;
        row("limits from 64 MiB to 5 GiB", &whole, stats);

        eprintln!("running: 256 limits around the break-even, {backing}");
        let quarter = host(QUARTER);
        let around = quarter.limits_around_break_even(256, 16 * KIB)?;
        let stats = quarter.sweep(around)?;
        row("limits every 16 KiB around the break-even", &quarter, stats);

        eprintln!("running: 20 rounds of 4 hosts at once, {backing}");
        let stats = quarter.race(4, 2, 2560 * MIB, 20)?;
        row("4 at once in 2560 MiB, 20 rounds", &quarter, stats);

        if let Some(why) = cannot_hide() {
            skipped(&format!("hosts that cannot see their limit: {why}"));
        } else {
            let mut hidden = host(QUARTER);
            hidden.hidden = true;
            eprintln!("running: 128 hidden limits, {backing}");
            let stats = hidden.sweep(limits(64 * MIB, 1280 * MIB, 128))?;
            row("hidden limits from 64 MiB to 1280 MiB", &hidden, stats);

            eprintln!("running: 128 hidden limits around the break-even, {backing}");
            let around = hidden.limits_around_break_even(128, 32 * KIB)?;
            let stats = hidden.sweep(around)?;
            row(
                "hidden limits every 32 KiB around the break-even",
                &hidden,
                stats,
            );
        }

        for (cached, what) in [
            (Cached::Written, "in page cache of a file written"),
            (Cached::Read, "in page cache of a file read"),
        ] {
            eprintln!("running: {what}, {backing}");
            let stats = quarter.in_page_cache(cached, scratch)?;
            row(what, &quarter, stats);
        }
    }
    for column in table.column_iter_mut().skip(3).take(6) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    writeln!(
        std::io::stdout(),
        "\nHosts at limits, without a margin. A refusal names the file that holds the limit, unless it \
         is hidden. OOM kills at hidden limits are those of child processes, which try the commit.\n\n{table}"
    )?;
    Ok(wrong)
}

/// Runs and prints one chain on many machines, and returns the number of rows that are not as
/// expected.
pub(super) fn chain_rows(indexer: &Indexer, commit: &Path) -> Result<usize> {
    let bench = Bench { indexer, commit };
    let mut chain = Chain::long();
    let mut machines = Vec::new();
    for setup in [Setup::Before, Setup::After] {
        let machine = |limit_mib| Machine::new(setup, limit_mib);
        machines.extend([512, 1024, 2048, 4096, 4608].map(machine));
        machines.push(machine(4608).beside(600));
        machines.push(machine(6144));
        if setup == Setup::After {
            machines.push(machine(6144).beside(600));
            machines.push(machine(6144).interrupted_at(77));
        }
        machines.push(machine(20 * 1024));
    }
    let mut table = super::table("host|exit|blocks stored|state root|seconds|as expected");
    let mut wrong = 0;
    for machine in machines {
        eprintln!("running: {} blocks, {machine}", chain.blocks.len());
        let outcome = bench
            .run(&chain, machine)
            .with_context(|| machine.to_string())?;
        let verdict = machine.judge(&mut chain, &outcome);
        wrong += usize::from(verdict.is_err());
        let root = outcome.state_root.as_deref();
        table.add_row([
            machine.to_string(),
            super::status(outcome.status),
            outcome.stored.len().to_string(),
            root.map_or("", |root| &root[..root.len().min(12)])
                .to_owned(),
            outcome.elapsed.as_secs().to_string(),
            super::verdict_text(&verdict),
        ]);
    }
    for index in [2, 4] {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    writeln!(
        std::io::stdout(),
        "\nA chain of {} blocks that allocate {} MiB together, {} of them more than a memory has, \
         on machines of many sizes. Its state root is {}.\n\n{table}",
        chain.blocks.len(),
        chain.total_mib(),
        chain.beyond(),
        chain.state_root.as_deref().unwrap_or("unknown"),
    )?;
    Ok(wrong)
}
