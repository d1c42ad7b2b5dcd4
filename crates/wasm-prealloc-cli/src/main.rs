//! The `wasm-prealloc` command. This file parses the command line, prints errors with their causes
//! and sets the exit code. Each subcommand has a file, and the logic is in the libraries.

mod batch;
mod destination;
mod exit;
mod flags;
mod folder;
mod input;
mod inspect;
mod io;
mod json;
mod memory;
mod names;
mod pages;
mod preflight;
mod rewrite;
#[cfg(feature = "run")]
mod run;
mod source_map;
mod verify;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use json::Failure;

/// Give WebAssembly modules a fixed memory, verify it, and run them in committed memory
#[derive(Debug, Parser)]
#[command(name = "wasm-prealloc", version, after_help = exit::HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// Print one JSON document, which docs/json.md describes, also for an error of usage
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Rewrite(rewrite::Opts),
    Verify(verify::Opts),
    Inspect(inspect::Opts),
    Preflight(preflight::Opts),
    #[cfg(feature = "run")]
    Run(run::Opts),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return report_usage(&error),
    };
    let json = cli.json;
    let (name, result) = match cli.command {
        Command::Rewrite(opts) => ("rewrite", rewrite::run(&opts, json)),
        Command::Verify(opts) => ("verify", verify::run(&opts, json)),
        Command::Inspect(opts) => ("inspect", inspect::run(&opts, json)),
        Command::Preflight(opts) => ("preflight", preflight::run(&opts, json)),
        #[cfg(feature = "run")]
        Command::Run(opts) => ("run", run::run(&opts, json)),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let failure = Failure::usage(&error);
            failure.print();
            if json {
                // The exit code says that the command failed, also if the pipe is closed.
                let _ = json::print_usage_error(Some(name), &failure);
            }
            ExitCode::from(exit::USAGE)
        }
    }
}

/// Prints help, the version, or an error of the command line.
fn report_usage(error: &clap::Error) -> ExitCode {
    // A closed pipe is not an error.
    let _ = error.print();
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let flags = || arguments.iter().take_while(|argument| *argument != "--");
    if error.use_stderr() && flags().any(|flag| flag == "--json") {
        // The first argument that is no flag is the command, because `--json` has no value.
        let name = flags().find_map(|word| {
            let word = word.to_str().filter(|word| !word.starts_with('-'))?;
            Some(word.to_owned())
        });
        let cli = Cli::command();
        let command = name.and_then(|name| cli.find_subcommand(name)?.get_name().to_owned().into());
        let failure = Failure::of_kind("usage", message(error));
        let _ = json::print_usage_error(command.as_deref(), &failure);
    }
    u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// Returns the message of an error in one line, without the usage that clap prints after it.
fn message(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let end = ["\n\nUsage: ", "\n\nFor more information"]
        .iter()
        .filter_map(|after| text.find(after))
        .min();
    let paragraphs = text[..end.unwrap_or(text.len())].split("\n\n");
    let in_one_line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    paragraphs.map(in_one_line).collect::<Vec<_>>().join("; ")
}
