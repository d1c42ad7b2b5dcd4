//! The error of instantiation: the pool's own, or the engine's.

use crate::engine::wasmtime::refusals;
use crate::error::{Error, LendError, VerifyError};

/// The error of a module that was not instantiated.
#[derive(Debug, thiserror::Error)]
pub enum InstantiateError {
    /// The module was not verified, or no memory is free.
    #[error(transparent)]
    Memory(#[from] Error),
    /// The engine refused, or the module's start function trapped.
    #[error("{0:#}")]
    Engine(wasmtime::Error),
}

impl From<VerifyError> for InstantiateError {
    fn from(error: VerifyError) -> InstantiateError {
        InstantiateError::Memory(error.into())
    }
}

impl From<LendError> for InstantiateError {
    fn from(error: LendError) -> InstantiateError {
        InstantiateError::Memory(error.into())
    }
}

impl From<wasmtime::Error> for InstantiateError {
    /// Finds the pool's own error behind the engine's, on any thread. A pool keeps its last 64
    /// refusals for that.
    fn from(error: wasmtime::Error) -> InstantiateError {
        match refusals::take(&error) {
            Some(refusal) => InstantiateError::Memory(refusal),
            None => InstantiateError::Engine(error),
        }
    }
}
