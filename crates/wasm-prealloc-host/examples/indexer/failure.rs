//! The exit statuses of this program.

use std::process::ExitCode;

/// The cause of a failure, by exit status.
pub(crate) enum Failure {
    /// Memory was not secured or was taken away, the module was not verified, the guest trapped, or a
    /// signal stopped the program. Nothing of that block was stored, nor of the blocks after it.
    Refused(anyhow::Error),
    /// The command line is wrong, or an input cannot be read or is invalid.
    Input(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::Input(error)
    }
}

impl Failure {
    pub(crate) fn error(&self) -> &anyhow::Error {
        match self {
            Failure::Refused(error) | Failure::Input(error) => error,
        }
    }

    /// Returns the exit status. 0 is success, and clap uses 2 for usage errors too.
    pub(crate) fn status(&self) -> ExitCode {
        ExitCode::from(match self {
            Failure::Refused(_) => 1,
            Failure::Input(_) => 2,
        })
    }
}
