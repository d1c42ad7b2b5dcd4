//! The exit codes of the command.

use std::io;

use anyhow::Context as _;

/// Done, and the answer is yes.
pub(crate) const DONE: u8 = 0;
/// The answer is no: not rewritten, not verified, memory not secured, guest trapped.
pub(crate) const NO: u8 = 1;
/// Bad usage, or unreadable or invalid input. It is clap's code for bad usage too.
pub(crate) const USAGE: u8 = 2;

/// The exit codes as `--help` lists them.
pub(crate) const HELP: &str = "\
Exit status:
  0  done
  1  the answer is no: not rewritten, not verified, memory not secured, guest trapped
  2  bad usage, or unreadable or invalid input";

/// The exit codes of `run`.
#[cfg(feature = "run")]
const RUN_HELP: &str = "\
Exit status:
  that of the program, if it ran to its end
  1  the answer is no: not verified, memory not secured, or the program trapped
  2  bad usage, or unreadable or invalid input
`--json` tells them apart: `outcome`, and `guest_exit` for that of the program";

/// Returns the help of a subcommand that follows its flags: examples, then the exit status.
pub(crate) fn help_with(examples: &[&str]) -> String {
    help(examples, HELP)
}

/// Returns the help of `run` that follows its flags.
#[cfg(feature = "run")]
pub(crate) fn help_of_run(examples: &[&str]) -> String {
    help(examples, RUN_HELP)
}

fn help(examples: &[&str], status: &str) -> String {
    let examples = examples.join("\n  ");
    format!("Examples:\n  {examples}\n\n{status}")
}

/// Accepts a report that could not be printed because the pipe is closed, as `head` closes it. The
/// exit code still says what was done.
pub(crate) fn ignore_broken_pipe(printed: io::Result<()>) -> anyhow::Result<()> {
    match printed {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed.context("cannot write <stdout>"),
    }
}
