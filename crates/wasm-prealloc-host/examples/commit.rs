//! The smallest host: secures a pool of memories, says what came of it, and gives them back. It is
//! what the tests put under a limit.
//!
//! ```console
//! $ cargo run --example commit -- --pages 16384 --hold
//! ```

use std::process::ExitCode;

use clap::Parser;
use wasm_prealloc_host::{Backing, DEFAULT_MARGIN_BYTES, DEFAULT_PAGES, MemoryPool, Policy};

/// Secure memory, or say on stderr which limit is in the way.
#[derive(Parser)]
#[command(after_help = "Exit status: 0 secured, 1 refused, 2 usage")]
struct Opts {
    /// The size of each memory, in 64 KiB pages
    #[arg(long, default_value_t = DEFAULT_PAGES)]
    pages: u64,
    /// How many memories there are
    #[arg(long, default_value_t = 1)]
    slots: usize,
    #[arg(long, default_value_t)]
    backing: Backing,
    #[arg(long, default_value_t)]
    policy: Policy,
    /// What the need must leave under each limit on physical memory
    #[arg(long, default_value_t = DEFAULT_MARGIN_BYTES)]
    margin_bytes: u64,
    /// The memory is also kept from being swapped out
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
        .lock_memory(opts.lock_memory)
        .secure();
    match pool {
        Ok(pool) => {
            if let Some(done) = pool.secured() {
                eprintln!("secured: {done}");
            }
            if opts.hold {
                // Whatever ends the waiting, an error too, ends the loan.
                let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            // The kind of error, for tests to tell one from another.
            eprintln!("debug: {error:?}");
            ExitCode::from(1)
        }
    }
}
