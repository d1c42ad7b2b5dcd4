//! The exit codes of the command, and which of them an outcome has.

/// Done; what was asked is so.
pub(crate) const DONE: u8 = 0;
/// The answer is no: not verified, memory not secured, guest trapped.
pub(crate) const NO: u8 = 1;
/// The question was wrong: bad usage, unreadable or invalid input. clap's own code for bad usage.
pub(crate) const BAD_QUESTION: u8 = 2;

/// What `--help` says of them.
pub(crate) const HELP: &str = "\
Exit status:
  0  done
  1  the answer is no: not verified, memory not secured, guest trapped
  2  the question was wrong: usage, unreadable or invalid input";

/// The outcome of several inputs is that of the worst.
pub(crate) fn worst(codes: impl IntoIterator<Item = u8>) -> u8 {
    codes.into_iter().max().unwrap_or(DONE)
}

/// A subcommand's help below its flags: examples, then the exit status.
pub(crate) fn help_with(examples: &[&str]) -> String {
    let examples = examples.join("\n  ");
    format!("Examples:\n  {examples}\n\n{HELP}")
}

/// Whether an error is that the reader of our output has gone, as `head` does.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

/// What came of telling. A reader that has gone is nobody to complain to, and the exit status is
/// still there to tell of what was done.
pub(crate) fn unless_unheard(told: anyhow::Result<()>) -> anyhow::Result<()> {
    match told {
        Err(error) if is_broken_pipe(&error) => Ok(()),
        told => told,
    }
}
