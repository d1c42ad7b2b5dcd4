//! What can be seen when a directive of a script is run, and what came of it. Judges nothing.

use std::collections::BTreeSet;
use std::fmt;

use wasmtime::Trap;

/// What came of a directive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It held: this was seen.
    Held(Seen),
    /// It did not hold: this was seen instead.
    Not(Seen),
    /// It could not be run because the rewriter refuses a module that it needs, or because what
    /// it asks is nothing that a rewriter or this engine answers.
    Skipped(String),
}

/// What was seen when a directive was run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// A call gave these values, in words.
    Values(String),
    Trapped(Trap),
    /// A module was instantiated.
    Instance,
    /// It was refused at linking, validation, or decoding, with these words.
    Refused(String),
    /// A module is not there, because of the directive in this line, for this reason.
    Absent {
        line: usize,
        why: String,
    },
    /// Something else happened.
    Other(String),
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Values(values) => write!(f, "gave ({values})"),
            Self::Trapped(trap) => write!(f, "{trap}"),
            Self::Instance => write!(f, "instantiated"),
            Self::Refused(words) | Self::Other(words) | Self::Absent { why: words, .. } => {
                write!(f, "{words}")
            }
        }
    }
}

/// A directive of a script, and what came of it.
#[derive(Clone, Debug)]
pub(super) struct Directive {
    pub(super) line: usize,
    /// Whether it asserts something, rather than preparing the ground.
    pub(super) asserts: bool,
    /// The number of the instantiation that it makes or uses.
    pub(super) number: Option<usize>,
    /// That instance, and all that are linked with that one so far, by the
    /// number of their instantiation: what one of them does to a memory or a table, the others
    /// may see.
    pub(super) reach: BTreeSet<usize>,
    pub(super) outcome: Outcome,
}

/// What a script came to.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) directives: Vec<Directive>,
    /// By the number of their instantiation.
    pub(super) modules: Vec<Facts>,
}

/// What the rewriter says of a module that it was given.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) imports_memory: bool,
    /// Whether an instruction grows or measures a memory.
    pub(super) has_sites: bool,
    /// Whether one grows or measures a memory that is imported, and still is.
    pub(super) has_sites_in_import: bool,
    /// The constants, in pages, as which sizes of memories are read.
    pub(super) pregrown: Vec<u64>,
}

/// The last cause in a chain, without what differs from place to place.
pub(super) fn cause(error: &wasmtime::Error) -> String {
    let words = error.root_cause().to_string();
    let words = words.split(" (at offset").next().unwrap_or_default();
    words.lines().next().unwrap_or_default().to_owned()
}

pub(super) fn failure(error: &wasmtime::Error) -> Seen {
    match error.downcast_ref::<Trap>() {
        Some(trap) => Seen::Trapped(*trap),
        None => Seen::Refused(cause(error)),
    }
}

pub(super) fn held_if(holds: bool, seen: Seen) -> Outcome {
    match holds {
        true => Outcome::Held(seen),
        false => Outcome::Not(seen),
    }
}
