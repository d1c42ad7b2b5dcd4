//! The outcome of a run: its exit status, the messages, and what `--json` prints.

use std::io::Write as _;

use anyhow::{Result, anyhow};
use serde::Serialize;
use wasm_prealloc_host::Error;
use wasmtime::Trap;
use wasmtime_wasi::I32Exit;

use super::from_engine;
use super::opts::Opts;
use crate::input::Input;
use crate::io::print_json;
use crate::json::PoolReport;
use crate::{exit, json, memory};

/// The end of a program that ran.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The function that `--invoke` names returned these values.
    Returned(Vec<String>),
    /// The program exited with this status.
    Exited(u8),
}

/// The reason why a program did not run to its end.
pub(super) enum Failure {
    /// The memory does not suit the policy, or was not secured.
    Refused(Refusal, anyhow::Error),
    /// The program was ended.
    Trapped(Cause, anyhow::Error),
    /// The program cannot be read, or cannot be run with these arguments.
    Invalid(anyhow::Error),
}

/// The step that refused.
#[derive(Clone, Copy)]
pub(super) enum Refusal {
    NotPinned,
    NotSecured,
}

/// The cause of a trap.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    Program,
    Timeout,
    Fuel,
}

impl Refusal {
    /// Returns the kind of the error that `--json` prints.
    fn kind(self) -> &'static str {
        match self {
            Self::NotPinned => "not-pinned",
            Self::NotSecured => "not-secured",
        }
    }
}

impl Cause {
    /// Returns the kind of the error that `--json` prints. It is the name of the outcome too.
    fn kind(self) -> &'static str {
        match self {
            Self::Program => "trapped",
            Self::Timeout => "timed-out",
            Self::Fuel => "out-of-fuel",
        }
    }
}

impl Failure {
    /// The module was not verified.
    pub(super) fn not_verified(error: impl Into<Error>) -> Self {
        Self::Refused(Refusal::NotPinned, memory::with_flags(error.into()))
    }

    /// The memory was not secured, or not lent.
    pub(super) fn not_secured(error: impl Into<Error>) -> Self {
        Self::Refused(Refusal::NotSecured, memory::with_flags(error.into()))
    }

    /// The time limit ended the program.
    pub(super) fn timed_out(opts: &Opts, error: anyhow::Error) -> Self {
        let limit = opts.timeout.unwrap_or_default();
        let full = format!("it ran for {limit:?} (`--timeout`)");
        Self::Trapped(Cause::Timeout, error.context(full))
    }

    pub(super) fn context(self, name: &str) -> Self {
        let name = name.to_owned();
        match self {
            Self::Refused(refusal, error) => Self::Refused(refusal, error.context(name)),
            Self::Trapped(cause, error) => Self::Trapped(cause, error.context(name)),
            Self::Invalid(error) => Self::Invalid(error.context(name)),
        }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Invalid(error.into())
    }
}

/// Returns the end of a program that the engine reports as an error: a call of `exit`, or a trap.
pub(super) fn ended(opts: &Opts, error: wasmtime::Error) -> Result<Ended, Failure> {
    if let Some(I32Exit(status)) = error.downcast_ref() {
        let status = u8::try_from(*status);
        return status.map(Ended::Exited).map_err(|_| {
            let error = anyhow!("it exited with a status that is not in 0..=255");
            Failure::Trapped(Cause::Program, error)
        });
    }
    let trap = error.downcast_ref().copied();
    let error = from_engine(error);
    Err(match trap {
        Some(Trap::Interrupt) => Failure::timed_out(opts, error),
        Some(Trap::OutOfFuel) => {
            let fuel = opts.fuel.unwrap_or_default();
            let used = format!("it used {fuel} units of fuel (`--fuel`)");
            Failure::Trapped(Cause::Fuel, error.context(used))
        }
        Some(Trap::AllocationTooLarge) => {
            let full = "the engine's own heap is full: raise `--engine-heap-bytes N`";
            Failure::Trapped(Cause::Program, error.context(full))
        }
        _ => Failure::Trapped(Cause::Program, error),
    })
}

/// The outcome, as `--json` prints it.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    schema: u32,
    command: &'static str,
    exit: u8,
    module: String,
    module_bytes: Option<String>,
    policy: String,
    #[serde(flatten)]
    memory: PoolReport,
    outcome: &'static str,
    guest_exit: Option<u8>,
    results: Vec<String>,
    error: Option<json::Failure>,
}

impl Report {
    pub(super) fn new(
        opts: &Opts,
        module: &Input,
        memory: PoolReport,
        ended: Result<Ended, Failure>,
    ) -> Self {
        let mut report = Self {
            schema: json::SCHEMA,
            command: "run",
            exit: exit::DONE,
            module: module.name(),
            module_bytes: module.name_bytes(),
            policy: opts.memory.policy.to_string(),
            memory,
            outcome: "returned",
            guest_exit: None,
            results: Vec::new(),
            error: None,
        };
        match ended {
            Ok(Ended::Returned(results)) => report.results = results,
            Ok(Ended::Exited(status)) => {
                report.outcome = "exited";
                report.exit = status;
                report.guest_exit = Some(status);
            }
            Err(Failure::Refused(refusal, error)) => {
                report.outcome = "refused";
                report.exit = exit::NO;
                report.error = Some(failure(refusal.kind(), &error));
            }
            Err(Failure::Trapped(cause, error)) => {
                report.outcome = cause.kind();
                report.exit = exit::NO;
                report.error = Some(failure(cause.kind(), &error));
            }
            Err(Failure::Invalid(error)) => {
                report.outcome = "invalid";
                report.exit = exit::USAGE;
                report.error = Some(json::Failure::new(&error));
            }
        }
        report
    }

    /// Prints the error, and the results or the document. Returns the exit status.
    pub(super) fn print(&self, json: bool) -> Result<u8> {
        if let Some(failure) = &self.error {
            failure.print();
        }
        let mut results = self.results.iter();
        exit::ignore_broken_pipe(match json {
            true => print_json(self),
            false => results.try_for_each(|result| writeln!(std::io::stdout(), "{result}")),
        })?;
        Ok(self.exit)
    }
}

fn failure(kind: &'static str, error: &anyhow::Error) -> json::Failure {
    json::Failure::of_kind(kind, format!("{error:#}"))
}
