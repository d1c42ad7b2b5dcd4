//! The JSON that `--json` prints, as `docs/json.md` describes it. Fields are printed in the order of
//! their declaration. A field that does not apply is null; it is never missing.

use std::io;

use serde::Serialize;
use wasm_prealloc::Error;
use wasm_prealloc_host::MemoryPool;

use crate::io::print_json;
use crate::{exit, flags};

/// The version of the layout. It changes when a field is removed or changes its meaning, and not
/// when a field is added.
pub(crate) const SCHEMA: u32 = 1;

/// The kind of all errors without a more specific kind.
const REFUSED: &str = "refused";

/// The document of a command that did not start: its command line is wrong, or its output folder cannot
/// be created.
#[derive(Debug, Serialize)]
struct UsageError<'a> {
    schema: u32,
    command: Option<&'a str>,
    exit: u8,
    error: &'a Failure,
}

/// Prints the document of a command that did not start. `command` is `None` if the command line names
/// no command.
pub(crate) fn print_usage_error(command: Option<&str>, error: &Failure) -> io::Result<()> {
    print_json(&UsageError {
        schema: SCHEMA,
        command,
        exit: exit::USAGE,
        error,
    })
}

/// A pool's memory, once it has any.
#[derive(Debug, Default, Serialize)]
pub(crate) struct PoolReport {
    /// The assurance that was reached: `off` if nothing is secured.
    assurance: Option<&'static str>,
    pub(crate) secured: Option<SecuredReport>,
}

impl PoolReport {
    pub(crate) fn new(pool: &MemoryPool) -> Self {
        Self {
            assurance: Some(pool.assurance().as_str()),
            secured: SecuredReport::new(pool),
        }
    }
}

/// The memory that a pool has secured.
#[derive(Debug, Serialize)]
pub(crate) struct SecuredReport {
    slots: usize,
    slot_pages: u64,
    resident_bytes: u64,
    method: String,
    seconds: f64,
    waited_seconds: f64,
    locked_bytes: u64,
    pub(crate) message: String,
}

impl SecuredReport {
    /// Returns `None` if the pool has no slots, or nothing is secured.
    fn new(pool: &MemoryPool) -> Option<Self> {
        let secured = pool.secured()?;
        Some(Self {
            slots: pool.statistics().slots,
            slot_pages: pool.pages(),
            resident_bytes: secured.resident_bytes,
            method: secured.how.to_string(),
            seconds: secured.elapsed.as_secs_f64(),
            waited_seconds: secured.waited.as_secs_f64(),
            locked_bytes: secured.locked_bytes,
            message: secured.to_string(),
        })
    }
}

/// The reason why there is no result.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Failure {
    kind: &'static str,
    /// The byte offset in the input that the error is about.
    offset: Option<u64>,
    pub(crate) message: String,
    #[serde(skip)]
    pub(crate) exit: u8,
}

impl Failure {
    /// Describes an error. The remedy of an error of the library names flags.
    pub(crate) fn new(error: &anyhow::Error) -> Self {
        let library = error
            .chain()
            .find_map(|cause| cause.downcast_ref::<Error>());
        let (kind, offset) = match library {
            Some(error) => (error.kind(), error.offset()),
            None if error.chain().any(|cause| cause.is::<std::io::Error>()) => ("io", None),
            None if error.chain().any(|cause| cause.is::<wat::Error>()) => ("text", None),
            None => (REFUSED, None),
        };
        let causes = error.chain().map(|cause| match cause.downcast_ref() {
            Some(library) => flags::error(library),
            None => cause.to_string(),
        });
        Self {
            kind,
            offset,
            message: causes.collect::<Vec<_>>().join(": "),
            exit: match library {
                Some(error) if error.is_refusal() => exit::NO,
                _ => exit::USAGE,
            },
        }
    }

    /// Returns a failure whose kind the command knows and its causes do not.
    pub(crate) fn of_kind(kind: &'static str, message: String) -> Self {
        Self {
            kind,
            offset: None,
            message,
            exit: exit::USAGE,
        }
    }

    /// Returns the failure of a command that did not start.
    pub(crate) fn usage(error: &anyhow::Error) -> Self {
        let failure = Self::new(error);
        match failure.kind {
            REFUSED => Self::of_kind("usage", failure.message),
            _ => failure,
        }
    }

    pub(crate) fn print(&self) {
        eprintln!("error: {}", self.message);
    }
}
