//! The exit codes of the command.

use std::io;

/// Done, and the answer is yes.
pub(crate) const DONE: u8 = 0;
/// The answer is no: not verified, memory not secured, guest trapped.
pub(crate) const NO: u8 = 1;
/// Bad usage, or unreadable or invalid input. It is clap's code for bad usage too.
pub(crate) const USAGE: u8 = 2;

/// The exit codes as `--help` lists them.
pub(crate) const HELP: &str = "\
Exit status:
  0  done
  1  the answer is no: not verified, memory not secured, guest trapped
  2  bad usage, or unreadable or invalid input";

/// Returns the help of a subcommand that follows its flags: examples, then the exit status.
pub(crate) fn help_with(examples: &[&str]) -> String {
    let examples = examples.join("\n  ");
    format!("Examples:\n  {examples}\n\n{HELP}")
}

/// Returns true if an error is a closed pipe, such as `head` leaves.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref());
    causes.any(|cause: &io::Error| cause.kind() == io::ErrorKind::BrokenPipe)
}

/// Accepts a report that could not be printed because the pipe is closed. The exit code still says
/// what was done.
pub(crate) fn ignore_broken_pipe(printed: anyhow::Result<()>) -> anyhow::Result<()> {
    match printed {
        Err(error) if is_broken_pipe(&error) => Ok(()),
        printed => printed,
    }
}
