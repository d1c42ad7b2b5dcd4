//! What `--json` prints, as `docs/json.md` describes it. Fields stand in the order in which they
//! are declared; one that does not apply is null, and never missing.

use std::fmt::Display;

use serde::Serialize;
use wasm_prealloc::Error;
use wasm_prealloc_host::MemoryPool;

/// Changes when a field goes away or comes to mean something else; new fields may come any time.
pub(crate) const SCHEMA: u32 = 1;

/// What a command that takes many modules says.
#[derive(Debug, Serialize)]
pub(crate) struct Document<'a, M> {
    schema: u32,
    command: &'static str,
    exit: u8,
    modules: &'a [M],
}

impl<'a, M: Serialize> Document<'a, M> {
    pub(crate) fn new(command: &'static str, exit: u8, modules: &'a [M]) -> Self {
        Self {
            schema: SCHEMA,
            command,
            exit,
            modules,
        }
    }
}

/// Something with its fields, and the sentence that people are told.
#[derive(Debug, Serialize)]
pub(crate) struct Told<T> {
    #[serde(flatten)]
    what: T,
    pub(crate) message: String,
}

impl<T: Display> Told<T> {
    pub(crate) fn new(what: T) -> Self {
        let message = what.to_string();
        Self { what, message }
    }
}

/// What was secured.
#[derive(Debug, Serialize)]
pub(crate) struct SecuredReport {
    slots: usize,
    slot_pages: u64,
    resident_bytes: u64,
    method: String,
    seconds: f64,
    pub(crate) message: String,
}

impl SecuredReport {
    /// Nothing where the pool has no slots.
    pub(crate) fn new(pool: &MemoryPool) -> Option<Self> {
        let secured = pool.secured()?;
        Some(Self {
            slots: pool.statistics().slots,
            slot_pages: pool.pages(),
            resident_bytes: secured.resident_bytes,
            method: secured.how.to_string(),
            seconds: secured.elapsed.as_secs_f64(),
            message: secured.to_string(),
        })
    }
}

/// Why there is no result.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Failure {
    kind: &'static str,
    /// Byte offset in the input, where one is to blame.
    offset: Option<u64>,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(error: &anyhow::Error) -> Self {
        let library = error
            .chain()
            .find_map(|cause| cause.downcast_ref::<Error>());
        let (kind, offset) = match library {
            Some(error) => (error.kind(), error.offset()),
            None if error.chain().any(|cause| cause.is::<std::io::Error>()) => ("io", None),
            None if error.chain().any(|cause| cause.is::<wat::Error>()) => ("text", None),
            None => ("refused", None),
        };
        Self {
            kind,
            offset,
            message: format!("{error:#}"),
        }
    }

    /// Tells people.
    pub(crate) fn print(&self) {
        eprintln!("error: {}", self.message);
    }

    /// A failure that this command knows better than its causes tell.
    pub(crate) fn of_kind(kind: &'static str, message: String) -> Self {
        Self {
            kind,
            offset: None,
            message,
        }
    }
}
