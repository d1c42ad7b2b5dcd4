//! Hosts in memory cgroups: one named test for each of the four cells, before and after, and for each
//! limit around the memory that a 4 GiB guest needs. `cargo xtask memory-test` shows the same cells.

use anyhow::{Error, Result, anyhow, ensure};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use wasm_prealloc_tests::cells::Cell;
use wasm_prealloc_tests::chain::Block;
use wasm_prealloc_tests::limits::Stats;
use wasm_prealloc_tests::{Guest, INDEXER, MIB, MemoryGroup, Setup, memory_lock};

/// Limits from far too low to high enough.
const LIMITS_MIB: [u64; 18] = [
    64, 96, 128, 256, 512, 1024, 1536, 2048, 2560, 3072, 3584, 4000, 4096, 4104, 4112, 4128, 4144,
    4160,
];

/// 4 GiB and their page tables.
const NEEDED_BYTES: u64 = (4096 + 8) * MIB;

fn main() -> std::process::ExitCode {
    let cells = Cell::all().into_iter().map(|cell| {
        let name = format!("cell::{cell}")
            .replace(", ", "::")
            .replace(' ', "_");
        in_memory_group(name, move || check_cell(cell))
    });
    let limits = LIMITS_MIB
        .map(|mib| in_memory_group(format!("limit::{mib}_MiB"), move || check_limit(mib * MIB)));
    let trials = cells.chain(limits).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// A test that needs memory cgroups, and gigabytes of memory.
fn in_memory_group(name: String, case: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    Trial::ignorable_test(name, || {
        if let Err(why) = MemoryGroup::create(MIB) {
            return Ok(Completion::ignored_with(format!("skipped: {why}")));
        }
        let _lock = memory_lock()?;
        case().map_err(|error| Failed::from(format!("{error:?}")))?;
        Ok(Completion::Completed)
    })
}

fn check_cell(cell: Cell) -> Result<()> {
    let outcome = cell.run(&INDEXER)?;
    let verdict = cell.judge(&outcome);
    verdict.map_err(|difference| anyhow!("{difference}: {outcome:?}"))
}

/// The host secures its memory, or it is refused with the file and the value of the limit.
fn check_limit(limit_bytes: u64) -> Result<()> {
    let database = INDEXER.new_database()?;
    let mut stats = Stats::default();
    let output = stats.run(limit_bytes, (NEEDED_BYTES, u64::MAX), |group| {
        let mut command = INDEXER.command(group, Setup::After, Guest::Stress, &database);
        command.args(["--block", &Block::new(20, 10).to_hexadecimal()]);
        command
    })?;
    stats.judge().map_err(Error::msg)?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    let expected = match stats.secured {
        0 => format!("limit {limit_bytes} bytes"),
        _ => "(4096 MiB) resident".to_owned(),
    };
    ensure!(
        stderr.contains(&expected),
        "{expected:?} is missing: {stderr}"
    );
    Ok(())
}
