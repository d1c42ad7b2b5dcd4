//! The `wasm-prealloc` command. This file parses the command line, prints errors with their causes
//! and sets the exit code. Each subcommand has a file, and the logic is in the libraries.

mod batch;
mod destination;
mod exit;
mod folder;
mod inspect;
mod io;
mod json;
mod memory;
mod names;
mod preflight;
mod rewrite;
mod run;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Give WebAssembly modules a fixed memory, verify it, and run them in committed memory
#[derive(Debug, Parser)]
#[command(name = "wasm-prealloc", version, after_help = exit::HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Rewrite(rewrite::Opts),
    Verify(verify::Opts),
    Inspect(inspect::Opts),
    Preflight(preflight::Opts),
    Run(run::Opts),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Rewrite(opts) => rewrite::run(&opts),
        Command::Verify(opts) => verify::run(&opts),
        Command::Inspect(opts) => inspect::run(&opts),
        Command::Preflight(opts) => preflight::run(&opts),
        Command::Run(opts) => run::run(&opts),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(exit::USAGE)
        }
    }
}
