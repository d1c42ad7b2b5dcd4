//! `wasm-prealloc preflight`: checks whether this machine can secure the memory that a host needs,
//! names the limit that prevents it, and the conditions that weaken secured memory.

use std::io::Write as _;
use std::iter;
use std::num::NonZeroUsize;
use std::str::FromStr;

use anyhow::Result;
use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;
use wasm_prealloc::MAX_PAGES;
use wasm_prealloc_host::{
    Condition, Conditions, DEFAULT_TABLE_ELEMENTS, Headroom, LendError, MemoryPool,
    MemoryPoolBuilder, Need, PreparedPool, Reading,
};

use crate::io::print_json;
use crate::json::{Failure, PoolReport, SCHEMA, SecuredReport};
use crate::{exit, memory};

const EXAMPLES: &[&str] = &[
    "wasm-prealloc preflight --instances 2",
    "wasm-prealloc preflight --pages 16384 --instances 8 --commit",
    "wasm-prealloc preflight --instances 2 --also 16x4096",
];

const NOT_SECURED: &str = "not-secured";

/// Check whether this machine can secure memories, and name the limit that prevents it
///
/// All limits are read, and nothing is committed without `--commit`. The answer is valid for the
/// cgroup and the limits of this process: run it where the host will run.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::help_with(EXAMPLES))]
pub(crate) struct Opts {
    /// The size of each memory, in 64 KiB pages [default: 65536]. With the policy `cap` it is the
    /// cap, and must be given
    #[arg(long, value_name = "N")]
    pages: Option<u64>,

    /// The number of memories at the same time
    #[arg(long, value_name = "N", default_value = "1")]
    instances: NonZeroUsize,

    /// A further pool that the host secures together with the first: INSTANCES memories of PAGES
    /// pages each, with the policy `cap`. The answer is that to the sum. Can be repeated
    #[arg(long, value_name = "INSTANCESxPAGES")]
    also: Vec<Also>,

    /// Commit the memory, and release it again
    #[arg(long)]
    commit: bool,

    /// The size of the engine's own heap for each memory, in bytes. Modules that use exceptions,
    /// `externref` or GC types need one; `run` gives them 16777216
    #[arg(long, value_name = "N", default_value_t = 0)]
    engine_heap_bytes: u64,

    /// The number of elements that the tables of each module can have together
    #[arg(long, value_name = "N", default_value_t = DEFAULT_TABLE_ELEMENTS)]
    table_elements: u64,

    /// Print only errors
    #[arg(short, long)]
    quiet: bool,

    #[command(flatten)]
    memory: memory::MemoryOpts,
}

/// The memories of a further pool.
#[derive(Debug, Clone, Copy)]
struct Also {
    instances: NonZeroUsize,
    pages: u64,
}

impl FromStr for Also {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let numbers = text.split_once('x').and_then(|(instances, pages)| {
            Some(Self {
                instances: instances.parse().ok()?,
                pages: pages.parse().ok()?,
            })
        });
        numbers.ok_or("expected two numbers, for example 16x4096")
    }
}

impl Also {
    fn report(&self) -> AlsoReport {
        AlsoReport {
            pages: self.pages,
            instances: self.instances.get(),
            secured: None,
        }
    }
}

/// A further pool, as `--json` prints it.
#[derive(Debug, Serialize)]
struct AlsoReport {
    pages: u64,
    instances: usize,
    secured: Option<SecuredReport>,
}

/// The answer, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Answer {
    schema: u32,
    command: &'static str,
    exit: u8,
    pages: u64,
    instances: usize,
    /// The pools of `--also`. The limits and `locks_memory` are those for all pools together.
    also: Vec<AlsoReport>,
    limits: Vec<Row>,
    visibility: Option<VisibilityReport>,
    /// `None` if the limits cannot be read.
    locks_memory: Option<bool>,
    tracks_writes: bool,
    conditions: Vec<ConditionReport>,
    #[serde(flatten)]
    memory: PoolReport,
    reset: Option<ResetReport>,
    error: Option<Failure>,
}

/// The part of the cgroup limits that could be read.
#[derive(Debug, Serialize)]
struct VisibilityReport {
    complete: bool,
    message: String,
}

/// A condition that weakens secured memory, or makes securing or a reset slow.
#[derive(Debug, Serialize)]
struct ConditionReport {
    kind: &'static str,
    message: String,
    remedy: String,
}

/// The time of a reset, measured here.
#[derive(Debug, Serialize)]
struct ResetReport {
    written_bytes: u64,
    /// The method, as `Statistics` of the library counts it.
    method: &'static str,
    seconds: f64,
}

/// A limit, and the part of the need that counts against it. All numbers have the unit `unit`.
#[derive(Debug, Serialize)]
struct Row {
    kind: &'static str,
    limit: String,
    unit: &'static str,
    limit_bytes: u64,
    in_use_bytes: u64,
    reclaimable_bytes: u64,
    available_bytes: u64,
    needed_bytes: u64,
    sufficient: bool,
}

impl Row {
    fn new(reading: &Reading, need: &Need) -> Self {
        let needed_bytes = need.against(reading);
        Self {
            kind: reading.limit.kind(),
            limit: reading.limit.to_string(),
            unit: reading.limit.unit(),
            limit_bytes: reading.limit_bytes,
            in_use_bytes: reading.in_use_bytes,
            reclaimable_bytes: reading.reclaimable_bytes,
            available_bytes: reading.available_bytes,
            needed_bytes,
            sufficient: needed_bytes <= reading.available_bytes,
        }
    }
}

pub(crate) fn run(opts: &Opts, json: bool) -> Result<u8> {
    let policy = opts.memory.policy(opts.pages)?;
    let pages = opts.pages.unwrap_or(MAX_PAGES);
    let builder = MemoryPool::builder()
        .slots(opts.instances.get())
        .pages(pages)
        .policy(policy)
        .engine_heap_bytes(opts.engine_heap_bytes)
        .table_elements(opts.table_elements);
    let builder = match opts.quiet {
        true => opts.memory.apply(builder),
        false => opts.memory.apply_with_progress(builder),
    };
    let mut answer = Answer {
        schema: SCHEMA,
        command: "preflight",
        exit: exit::DONE,
        pages,
        instances: opts.instances.get(),
        also: Vec::new(),
        limits: Vec::new(),
        visibility: None,
        locks_memory: None,
        tracks_writes: false,
        conditions: Vec::new(),
        memory: PoolReport::default(),
        reset: None,
        error: None,
    };
    let pools = pools(opts, builder);
    let pools: Vec<&PreparedPool> = pools.iter().collect();
    answer.also = opts.also.iter().map(Also::report).collect();
    if let Err(error) = MemoryPool::need_all(&pools) {
        answer.exit = exit::USAGE;
        answer.error = Some(Failure::of_kind("refused", error.to_string()));
        return report(opts, json, &answer);
    }
    if let Err(error) = check(opts, &pools, &mut answer) {
        answer.exit = exit::NO;
        answer.error = Some(Failure::of_kind(
            NOT_SECURED,
            format!("{:#}", memory::with_flags(error)),
        ));
    }
    report(opts, json, &answer)
}

/// Returns the first pool and those of `--also`.
fn pools(opts: &Opts, first: MemoryPoolBuilder) -> Vec<PreparedPool> {
    let mut pools = vec![first.prepare()];
    for also in &opts.also {
        let builder = MemoryPool::builder()
            .slots(also.instances.get())
            .cap(also.pages)
            .engine_heap_bytes(opts.engine_heap_bytes)
            .table_elements(opts.table_elements);
        pools.push(opts.memory.apply_to_further(builder).prepare());
    }
    pools
}

/// Reads and checks all limits, and commits the memory if the flags say so.
fn check(
    opts: &Opts,
    pools: &[&PreparedPool],
    answer: &mut Answer,
) -> Result<(), wasm_prealloc_host::Error> {
    let headroom = Headroom::read()?;
    let need = &MemoryPool::need_all_under(pools, &headroom)?;
    let readings = headroom.readings.iter();
    answer.limits = readings.map(|reading| Row::new(reading, need)).collect();
    answer.visibility = Some(VisibilityReport {
        complete: headroom.visibility.is_complete(),
        message: headroom.visibility.to_string(),
    });
    let locks_memory = MemoryPool::locks_memory_of_all(pools, &headroom);
    answer.locks_memory = Some(locks_memory);
    let conditions = Conditions::read().list;
    answer.tracks_writes = !conditions
        .iter()
        .any(|condition| matches!(condition, Condition::NoWriteTracking { .. }));
    let conditions = conditions.iter();
    let applying = conditions.filter(|condition| opts.memory.concerns(condition, locks_memory));
    answer.conditions = applying.map(report_condition).collect();
    MemoryPool::check_all(pools, &headroom)?;
    if opts.commit {
        let pools = MemoryPool::secure_list(pools)?;
        let mut pools = pools.iter();
        if let Some(first) = pools.next() {
            opts.memory.warn_if_unsecured(first);
            answer.memory = PoolReport::new(first);
            answer.reset = measure_reset(first)?;
        }
        for (also, pool) in answer.also.iter_mut().zip(pools) {
            also.secured = PoolReport::new(pool).secured;
        }
    }
    Ok(())
}

fn report_condition(condition: &Condition) -> ConditionReport {
    ConditionReport {
        kind: condition.kind(),
        message: memory::in_flags(&condition.to_string()),
        remedy: memory::in_flags(&condition.remedy()),
    }
}

/// Measures what a reset costs after a block that wrote 1 MiB: the median of several. Returns
/// `None` for a pool that does not count its resets by one of the known methods.
fn measure_reset(pool: &MemoryPool) -> Result<Option<ResetReport>, LendError> {
    const ROUNDS: usize = 5;
    const WRITTEN_BYTES: usize = 1 << 20;
    let pages = pool.pages();
    let mut times = Vec::with_capacity(ROUNDS);
    let mut written_bytes = 0;
    for _ in 0..ROUNDS {
        let mut memory = pool.lend(pages, Some(pages))?;
        let bytes = memory.bytes_mut();
        written_bytes = bytes.len().min(WRITTEN_BYTES);
        bytes[..written_bytes].fill(1);
        let before = pool.statistics().reset_time;
        drop(memory);
        times.push(pool.statistics().reset_time - before);
    }
    times.sort_unstable();
    let counts = pool.statistics();
    let method = [
        (counts.watermark_resets, "watermark"),
        (counts.high_water_resets, "high-water"),
        (counts.full_resets, "full"),
    ];
    let method = method.iter().find(|(count, _)| *count > 0);
    Ok(method.map(|(_, method)| ResetReport {
        written_bytes: written_bytes as u64,
        method,
        seconds: times[ROUNDS / 2].as_secs_f64(),
    }))
}

fn report(opts: &Opts, json: bool, answer: &Answer) -> Result<u8> {
    if let Some(failure) = &answer.error {
        failure.print();
    }
    let printed = match (json, opts.quiet) {
        (true, _) => print_json(answer),
        (false, true) => Ok(()),
        (false, false) => print(answer),
    };
    exit::ignore_broken_pipe(printed)?;
    Ok(answer.exit)
}

fn print(answer: &Answer) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    if !answer.limits.is_empty() {
        writeln!(stdout, "{}\n", table(&answer.limits))?;
    }
    if let Some(visibility) = &answer.visibility {
        writeln!(stdout, "{}", visibility.message)?;
    }
    if let Some(locks_memory) = answer.locks_memory {
        let not = if locks_memory { "" } else { "not " };
        writeln!(stdout, "the memory will {not}be locked")?;
    }
    if answer.tracks_writes {
        writeln!(stdout, "writes can be tracked")?;
    }
    for condition in &answer.conditions {
        let ConditionReport {
            kind,
            message,
            remedy,
        } = condition;
        writeln!(stdout, "warning ({kind}): {message}; {remedy}")?;
    }
    if answer.error.is_some() {
        return Ok(());
    }
    let first = (answer.instances, answer.pages, &answer.memory.secured);
    let also = answer.also.iter();
    let also = also.map(|also| (also.instances, also.pages, &also.secured));
    for (instances, pages, secured) in iter::once(first).chain(also) {
        match secured {
            None => writeln!(
                stdout,
                "{instances} x {pages} pages can be secured now; --commit proves it"
            ),
            Some(secured) => writeln!(
                stdout,
                "{instances} x {pages} pages were secured and released: {}",
                secured.message
            ),
        }?;
    }
    match &answer.reset {
        None => Ok(()),
        Some(reset) => writeln!(
            stdout,
            "a reset after {} bytes were written took {:.3} ms ({})",
            reset.written_bytes,
            reset.seconds * 1000.0,
            reset.method
        ),
    }
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header("limit|MiB|in use|reclaimable|available|needed|enough".split('|'));
    for row in rows {
        table.add_row([
            row.limit.clone(),
            amount(row.unit, row.limit_bytes),
            amount(row.unit, row.in_use_bytes),
            amount(row.unit, row.reclaimable_bytes),
            amount(row.unit, row.available_bytes),
            amount(row.unit, row.needed_bytes),
            if row.sufficient { "yes" } else { "no" }.to_owned(),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Formats bytes in MiB, and other numbers as they are.
fn amount(unit: &str, number: u64) -> String {
    match unit {
        "bytes" => mib(number),
        _ => number.to_string(),
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}
