//! `cargo xtask`: the tasks of this repository, one file each. This file parses the command line,
//! prints errors with their causes, and sets the exit code.

mod bench;
mod build_wasm;
mod docs;
mod engines;
mod memory_test;
mod msrv;
mod sanitize;
mod test;
mod vm_test;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, ensure};
use clap::{Parser, Subcommand};

/// Done.
const EXIT_DONE: u8 = 0;
/// The task failed.
const EXIT_FAILED: u8 = 1;
/// The command line asks for something that does not exist, or that this machine cannot do. It is
/// clap's code for bad usage too.
const EXIT_USAGE: u8 = 2;

#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    about = "The tasks of this repository",
    after_help = "Exit status: 0 done, 1 failed, 2 bad usage"
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Build the guests in wasm-modules/ with fixed memory
    BuildWasm(build_wasm::Opts),
    /// Measure the rewriter and the host side by side with others
    Bench(bench::Opts),
    /// Regenerate docs/cli.md and the examples in docs/json.md
    Docs(docs::Opts),
    /// Check or test the host crate with other versions of wasmtime than the workspace's
    Engines(engines::Opts),
    /// Run build-wasm, check each feature alone, and run all tests
    Test(test::Opts),
    /// Run guests in memory cgroups, without and with secured memory, and compare
    MemoryTest(memory_test::Opts),
    /// Check the published crates with the oldest Rust that they support
    Msrv(msrv::Opts),
    /// Run hosts in virtual machines with cgroup v2, and compare with the right outcomes
    VmTest(vm_test::Opts),
    /// Run the host crate's tests under sanitizers and Miri (needs nightly)
    Sanitize(sanitize::Opts),
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::BuildWasm(opts) => build_wasm::run(&opts),
        Task::Bench(opts) => bench::run(&opts),
        Task::Docs(opts) => docs::run(&opts),
        Task::Engines(opts) => engines::run(&opts),
        Task::Test(opts) => test::run(&opts),
        Task::MemoryTest(opts) => memory_test::run(&opts),
        Task::Msrv(opts) => msrv::run(&opts),
        Task::VmTest(opts) => vm_test::run(&opts),
        Task::Sanitize(opts) => sanitize::run(&opts),
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

/// Returns true if another command line or another machine is needed.
fn is_usage(error: &anyhow::Error) -> bool {
    use wasm_prealloc_build::Error;
    error.is::<memory_test::NoGroup>()
        || matches!(
            error.downcast_ref(),
            Some(Error::UnknownPackage { .. } | Error::NoGuests { .. })
        )
}

/// Returns the root of the repository.
fn repository() -> PathBuf {
    // `cargo run` sets the variable. The path of the build is wrong after the repository has moved
    // together with its target folder, because cargo does not build this program again.
    let xtask = std::env::var_os("CARGO_MANIFEST_DIR");
    let xtask = PathBuf::from(xtask.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into()));
    xtask.parent().unwrap_or(&xtask).to_owned()
}

/// Prepares cargo to be started in the root of the repository.
fn cargo<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(repository()).args(arguments);
    command
}

/// Runs a command that must succeed.
fn run(command: &mut Command, what: &str) -> anyhow::Result<()> {
    let program = command.get_program().display().to_string();
    let status = command.status();
    let status = status.with_context(|| format!("cannot start {program}"))?;
    ensure!(status.success(), "{what} failed ({status})");
    Ok(())
}
