//! The outcomes of a script's directives, without a judgement.

use std::collections::BTreeSet;
use std::fmt;

use wasmtime::Trap;

/// The outcome of a directive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It held.
    Held(Observed),
    /// It did not hold.
    Failed(Observed),
    /// It was not run, because the rewriter refuses a module that it needs, or because it is outside
    /// of the scope of the rewriter or of this engine.
    Skipped(String),
}

/// The observation when a directive was run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Observed {
    /// A call returned these values, as text.
    Values(String),
    Trapped(Trap),
    /// A module was instantiated.
    Instance,
    /// A module was refused at linking, validation or decoding, with this message.
    Refused(String),
    /// There is no instance, because the directive in this line failed.
    NoInstance {
        line: usize,
        why: String,
    },
    /// Another observation.
    Other(String),
}

impl fmt::Display for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Values(values) => write!(f, "returned ({values})"),
            Self::Trapped(trap) => write!(f, "{trap}"),
            Self::Instance => write!(f, "instantiated"),
            Self::Refused(words) | Self::Other(words) | Self::NoInstance { why: words, .. } => {
                write!(f, "{words}")
            }
        }
    }
}

/// A directive of a script, and its outcome.
#[derive(Clone, Debug)]
pub(super) struct Directive {
    pub(super) line: usize,
    /// True if it is an assertion.
    pub(super) asserts: bool,
    /// The number of the instantiation that it makes or uses.
    pub(super) number: Option<usize>,
    /// That instance and all instances that are linked with it so far, by the number of their
    /// instantiation. They may share memories and tables.
    pub(super) reach: BTreeSet<usize>,
    pub(super) outcome: Outcome,
}

/// The outcome of a script.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) directives: Vec<Directive>,
    /// By the number of their instantiation.
    pub(super) modules: Vec<Facts>,
}

/// Facts from the rewriter's report about a module.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) imports_memory: bool,
    /// True if an instruction grows or measures a memory.
    pub(super) has_sites: bool,
    /// True if an instruction grows or measures a memory that the rewritten module imports.
    pub(super) has_sites_in_import: bool,
    /// The sizes in pages that pregrown memories report.
    pub(super) pregrown: Vec<u64>,
    /// The sizes at which growth starts that is counted in a memory.
    pub(super) counted_from: Vec<u64>,
}

/// Returns the root cause of an error, without offsets.
pub(super) fn cause(error: &wasmtime::Error) -> String {
    let words = error.root_cause().to_string();
    let words = words.split(" (at offset").next().unwrap_or_default();
    words.lines().next().unwrap_or_default().to_owned()
}

pub(super) fn failure(error: &wasmtime::Error) -> Observed {
    match error.downcast_ref::<Trap>() {
        Some(trap) => Observed::Trapped(*trap),
        None => Observed::Refused(cause(error)),
    }
}

/// An observation instead of the expected one.
impl From<Observed> for Outcome {
    fn from(observed: Observed) -> Self {
        Self::Failed(observed)
    }
}
