//! The errors of this crate, split by what was asked: fields for programs, and a message with the
//! remedy for people.
//!
//! Nothing here reads a limit or calls the kernel.

pub(crate) mod lend;
pub(crate) mod policy;
pub(crate) mod secure;
mod text;
pub(crate) mod verify;

pub use lend::LendError;
pub use policy::PolicyError;
pub use secure::SecureError;
pub use verify::VerifyError;

/// Any error of this crate. Functions return the part that can occur, which `?` converts.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Memory was not secured, or is not secured any more.
    #[error(transparent)]
    Secure(#[from] SecureError),
    /// No memory was lent, or lent memory cannot grow.
    #[error(transparent)]
    Lend(#[from] LendError),
    /// A module was not verified.
    #[error(transparent)]
    Verify(#[from] VerifyError),
}

impl Error {
    /// Returns the name of the variant of the part, for programs: lower case, with hyphens.
    pub fn kind(&self) -> &'static str {
        match self {
            Error::Secure(error) => error.kind(),
            Error::Lend(error) => error.kind(),
            Error::Verify(error) => error.kind(),
        }
    }

    /// Returns the refusal of a memory's limits, if it is one.
    pub fn policy(&self) -> Option<&PolicyError> {
        match self {
            Error::Lend(LendError::Policy(error)) | Error::Verify(VerifyError::Policy(error)) => {
                Some(error)
            }
            _ => None,
        }
    }
}
