//! This repository's own chores, one file each. This one reads the command line, prints errors with
//! their causes, and chooses the exit code; what a user of the crates would want is in the crates.

mod bench;
mod build_wasm;
mod docs;
mod memory_test;
mod sanitize;
mod test;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Done.
const EXIT_DONE: u8 = 0;
/// The chore was understood, and failed.
const EXIT_FAILED: u8 = 1;
/// The command line asks for something that does not exist, or that this machine cannot do. clap's
/// own code for bad usage, too.
const EXIT_USAGE: u8 = 2;

#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    about = "This repository's own chores",
    after_help = "Exit status: 0 done, 1 failed, 2 bad usage"
)]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Build the guests in wasm-modules/ with fixed memory
    BuildWasm(build_wasm::Opts),
    /// Compare the rewriter and the host with others, side by side in one run
    Bench(bench::Opts),
    /// Write docs/cli.md and the examples in docs/json.md anew
    Docs(docs::Opts),
    /// Run everything that CI runs but format and lints: build-wasm, then all tests
    Test(test::Opts),
    /// Show the cells that the project exists for, before and after, in real memory cgroups
    MemoryTest(memory_test::Opts),
    /// Run what sanitizers and Miri can run of the host half (nightly)
    Sanitize(sanitize::Opts),
}

fn main() -> ExitCode {
    let result = match Cli::parse().chore {
        Chore::BuildWasm(opts) => build_wasm::run(&opts),
        Chore::Bench(opts) => bench::run(&opts),
        Chore::Docs(opts) => docs::run(&opts),
        Chore::Test(opts) => test::run(&opts),
        Chore::MemoryTest(opts) => memory_test::run(&opts),
        Chore::Sanitize(opts) => sanitize::run(&opts),
    };
    let code = match result {
        Ok(()) => EXIT_DONE,
        Err(error) => {
            eprintln!("error: {error}");
            for cause in error.chain().skip(1) {
                eprintln!("  caused by: {cause}");
            }
            if is_usage(&error) {
                EXIT_USAGE
            } else {
                EXIT_FAILED
            }
        }
    };
    ExitCode::from(code)
}

/// Whether another command line, or another machine, would have been the cure.
fn is_usage(error: &anyhow::Error) -> bool {
    use wasm_prealloc_build::Error;
    error.is::<memory_test::NoGroup>()
        || matches!(
            error.downcast_ref(),
            Some(Error::UnknownPackage { .. } | Error::NoGuests { .. })
        )
}

/// The root of the repository, wherever the chore is run from.
fn repository() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_owned()
}
