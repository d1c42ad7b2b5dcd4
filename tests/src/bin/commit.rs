//! A host without an engine: secures a pool of memories, reports the outcome, and gives them back.
//! Tests and `cargo xtask memory-test` run it under limits.

use std::process::ExitCode;

use clap::Parser;
use wasm_prealloc_host::{
    Backing, DEFAULT_MARGIN_BYTES, DEFAULT_PAGES, LockMemory, MemoryPool, Policy,
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
    #[arg(long, default_value_t)]
    backing: Backing,
    #[arg(long, default_value_t)]
    policy: Policy,
    /// The part that each limit on physical memory must leave beyond the need
    #[arg(long, default_value_t = DEFAULT_MARGIN_BYTES)]
    margin_bytes: u64,
    /// Keep the memory from being swapped out
    #[arg(long)]
    lock_memory: bool,
    /// Keep the memory until stdin ends
    #[arg(long)]
    hold: bool,
}

fn main() -> ExitCode {
    let opts = Opts::parse();
    let pool = MemoryPool::builder()
        .pages(opts.pages)
        .slots(opts.slots)
        .backing(opts.backing)
        .policy(opts.policy)
        .margin_bytes(opts.margin_bytes)
        .lock_memory(match opts.lock_memory {
            true => LockMemory::On,
            false => LockMemory::Auto,
        })
        .secure();
    match pool {
        Ok(pool) => {
            if let Some(done) = pool.secured() {
                eprintln!("secured: {done}");
            }
            if opts.hold {
                // The end of stdin and an error both end the wait.
                let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            // The variant and its fields, for tests.
            eprintln!("debug: {error:?}");
            ExitCode::from(1)
        }
    }
}
