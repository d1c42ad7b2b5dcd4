//! A host without an engine: secures a pool of memories, reports the outcome, and gives them back.
//! Tests and `cargo xtask memory-test` run it under limits.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use wasm_prealloc_host::{
    Backing, DEFAULT_MARGIN_BYTES, DEFAULT_PAGES, Error, Headroom, LockMemory, LockOptions,
    MemoryPool, PolicyKind, PreparedPool, SecureError,
};

/// Secure memory, or name on stderr the limit that leaves too little.
#[derive(Parser)]
#[command(after_help = "Exit status: 0 secured, 1 refused, 2 usage")]
struct Opts {
    /// The size of each memory, in 64 KiB pages
    #[arg(long, default_value_t = DEFAULT_PAGES)]
    pages: u64,
    /// The number of memories
    #[arg(long, default_value_t = 1)]
    slots: usize,
    /// Another pool, secured together with the first: memories of a size that the guests are capped
    /// at
    #[arg(long, value_name = "SLOTSxPAGES", value_parser = also)]
    also: Vec<(usize, u64)>,
    #[arg(long, default_value_t)]
    backing: Backing,
    /// With `cap`, `--pages` is the cap
    #[arg(long, default_value_t)]
    policy: PolicyKind,
    /// The part that each limit on physical memory must leave beyond the need
    #[arg(long, default_value_t = DEFAULT_MARGIN_BYTES)]
    margin_bytes: u64,
    /// Keep the memory from being swapped out
    #[arg(
        long,
        default_value_t,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "on"
    )]
    lock_memory: LockMemory,
    /// The file that hosts lock to commit one after another
    #[arg(long)]
    lock: Option<PathBuf>,
    /// Lend a memory, write this many MiB, and lend it again: it must be zero
    #[arg(long, value_name = "MIB")]
    write: Option<usize>,
    /// Check the limits first, and report whether that answer and the commit differ
    #[arg(long)]
    preflight: bool,
    /// Write a pattern and then zeros to ordinary memory instead of securing it
    #[arg(long)]
    by_writing: bool,
    /// Keep the memory until stdin ends
    #[arg(long)]
    hold: bool,
    /// At the end, check again that the memory is resident
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let opts = Opts::parse();
    match run(&opts) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            // The variant and its fields, for tests.
            eprintln!("debug: {error:?}");
            ExitCode::from(1)
        }
    }
}

fn run(opts: &Opts) -> Result<(), Error> {
    if opts.by_writing {
        write_everything(opts.pages);
        return Ok(());
    }
    let pools = secure(opts)?;
    used(opts, &pools[0])
}

fn also(text: &str) -> Result<(usize, u64), String> {
    let numbers = text.split_once('x');
    let numbers =
        numbers.and_then(|(slots, pages)| Some((slots.parse().ok()?, pages.parse().ok()?)));
    numbers.ok_or_else(|| "expected SLOTSxPAGES".to_owned())
}

/// Commits memory as some hosts do: by writing a pattern to all of it, and then zeros.
fn write_everything(pages: u64) {
    let mut memory = vec![0_u8; (pages << 16) as usize];
    for byte in [0x5a, 0] {
        memory.fill(byte);
        // The compiler must not leave the writes out.
        std::hint::black_box(&memory);
    }
    eprintln!("written: {} bytes", memory.len());
}

/// Secures the memory and reports it.
fn secure(opts: &Opts) -> Result<Vec<MemoryPool>, SecureError> {
    let mut lock = LockOptions::default();
    if let Some(path) = &opts.lock {
        lock.path.clone_from(path);
    }
    let builder = MemoryPool::builder()
        .pages(opts.pages)
        .slots(opts.slots)
        .backing(opts.backing)
        .policy(opts.policy.policy(Some(opts.pages)).unwrap_or_default())
        .margin_bytes(opts.margin_bytes)
        .lock_memory(opts.lock_memory)
        .lock(lock.clone());
    let mut pools = vec![builder.prepare()];
    for (slots, pages) in &opts.also {
        let builder = MemoryPool::builder().slots(*slots).cap(*pages);
        let builder = builder.backing(opts.backing).lock(lock.clone());
        let builder = builder.margin_bytes(opts.margin_bytes);
        pools.push(builder.lock_memory(opts.lock_memory).prepare());
    }
    let pools: Vec<&PreparedPool> = pools.iter().collect();
    let checked = match opts.preflight {
        true => {
            let headroom = Headroom::read();
            Some(headroom.and_then(|headroom| MemoryPool::check_all(&pools, &headroom)))
        }
        false => None,
    };
    let secured = MemoryPool::secure_list(&pools);
    if let Some(checked) = checked
        && checked.is_ok() != secured.is_ok()
    {
        eprintln!("the preflight differs: {checked:?}");
    }
    let secured = secured?;
    for done in secured.iter().filter_map(MemoryPool::secured) {
        eprintln!("secured: {done}");
    }
    Ok(secured)
}

/// Uses and keeps the memory as the options say.
fn used(opts: &Opts, pool: &MemoryPool) -> Result<(), Error> {
    if let Some(mib) = opts.write {
        write_and_reset(pool, mib << 20)?;
    }
    if opts.hold {
        // The end of stdin and an error both end the wait.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    }
    if opts.check {
        let residency = pool.check()?;
        eprintln!("still resident: {} bytes", residency.resident_bytes);
    }
    Ok(())
}

/// Lends a memory twice, and reports the number of bytes that were not zero the second time.
fn write_and_reset(pool: &MemoryPool, bytes: usize) -> Result<(), Error> {
    let pages = pool.pages();
    let mut first = pool.lend(pages, Some(pages))?;
    first.bytes_mut()[..bytes].fill(0xa5);
    drop(first);
    let second = pool.lend(pages, Some(pages))?;
    let left = second.bytes().iter().filter(|&&byte| byte != 0).count();
    let statistics = pool.statistics();
    eprintln!("{left} bytes were left of the first loan");
    eprintln!("{statistics:?}");
    Ok(())
}
