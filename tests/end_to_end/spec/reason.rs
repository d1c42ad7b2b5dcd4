//! The reasons why a directive holds with the original and not with the rewritten module. They are
//! derived from observations, so that the list cannot contain a wrong one.

use std::collections::BTreeSet;
use std::fmt;

use wasm_prealloc::MemoryImportPolicy;
use wasmtime::Trap;

use super::observed::{Directive, Facts, Observed, Outcome};

/// The reason why a directive no longer holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// A data segment above the declared minimum is within the memory.
    Data,
    /// An access above the virtual size is within the memory.
    Access,
    /// Limits that did not match now match, because all memories have the same size.
    Limits,
    /// A module that only measures a memory reads this size in pages.
    GrownAlready(u64),
    /// An earlier directive with another outcome changed the state of an instance that this directive
    /// uses.
    Since { line: usize, divergence: Divergence },
    /// With `--memory-import define`: the module has its own memory instead of the imported one.
    OwnMemory,
    /// With `--memory-import keep`: a module uses the limits that its import declares, instead of
    /// those of the memory that it imports.
    ImportsLimits,
    /// None of these, with a description of the observation.
    Unexplained(String),
}

/// The kind of a directive that had another outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Divergence {
    Access,
    Data,
    Limits,
    OwnMemory,
    Refused,
}

/// The start of the text of [`Reason::Unexplained`].
pub(super) const UNEXPLAINED: &str = "UNEXPLAINED";

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Data => f.write_str("a data segment above the declared minimum no longer traps"),
            Self::Access => f.write_str("an access above the virtual size no longer traps"),
            Self::Limits => f.write_str(
                "limits that did not match now match, because all memories have the same size",
            ),
            Self::GrownAlready(pages) => write!(
                f,
                "a memory that the module only measures reads as already grown, to {pages} pages"
            ),
            Self::Since { line, divergence } => write!(
                f,
                "reads state that line {line} changed, where {}",
                match divergence {
                    Divergence::Access => "an access no longer traps",
                    Divergence::Data => "a data segment no longer traps",
                    Divergence::Limits => "limits now match",
                    Divergence::OwnMemory => "a module no longer imports its memory",
                    Divergence::Refused => "the rewriter refuses a module",
                }
            ),
            Self::OwnMemory => f.write_str("an imported memory is now the module's own"),
            Self::ImportsLimits => {
                f.write_str("growth is counted between the limits that the import declares")
            }
            Self::Unexplained(words) => write!(f, "{UNEXPLAINED}: {words}"),
        }
    }
}

/// A directive that held before, and its outcome with the rewritten modules.
pub(super) struct Difference<'a> {
    pub(super) before: &'a Directive,
    pub(super) after: &'a Directive,
    /// The outcome if only the limits are changed.
    pub(super) declared: &'a Directive,
    /// The modules of the rewritten script, by the number of their instantiation.
    pub(super) modules: &'a [Facts],
    pub(super) memory_import: MemoryImportPolicy,
}

impl Difference<'_> {
    fn reached(&self) -> impl Iterator<Item = &Facts> {
        let numbers = self.before.reach.iter();
        numbers.filter_map(|number| self.modules.get(*number))
    }

    fn module(&self) -> Option<&Facts> {
        self.modules.get(self.before.number?)
    }

    /// Returns true if the modules that the directive uses contain no instruction that grows or
    /// measures a memory. Then only their limits are rewritten, and the outcome must be the same as
    /// with the declared limits.
    pub(super) fn only_limits(&self) -> bool {
        self.memory_import != MemoryImportPolicy::Define
            && !self.reached().any(|module| module.has_sites)
    }

    /// Returns the reason. `divergences` are the earlier ones of the script.
    pub(super) fn explain(&self, divergences: &Divergences) -> Reason {
        let (Outcome::Held(expected), Outcome::Held(found) | Outcome::Failed(found)) =
            (&self.before.outcome, &self.after.outcome)
        else {
            return self.unexplained("");
        };
        // A refused module is not instantiated, so the tables that it imports stay unchanged.
        if let Some((line, divergence @ Divergence::Refused)) =
            divergences.affecting(&self.before.reach)
        {
            return Reason::Since { line, divergence };
        }
        if self.only_limits() && self.declared.outcome != self.after.outcome {
            return self.unexplained(", and not if only limits are changed");
        }
        let imports_memory = self.module().is_some_and(|module| module.imports_memory);
        let own_memory = self.memory_import == MemoryImportPolicy::Define
            && self.reached().any(|module| module.imports_memory)
            && self.declared.outcome != self.after.outcome;
        let counting = self.reached().filter(|module| module.has_sites).count();
        let counts_import = self.module().is_some_and(|m| m.has_sites_in_import);
        let starts: BTreeSet<_> = self.reached().flat_map(|m| &m.counted_from).collect();
        match (expected, found) {
            (Observed::Trapped(Trap::MemoryOutOfBounds), Observed::Instance) => Reason::Data,
            (Observed::Trapped(Trap::MemoryOutOfBounds), Observed::Values(_)) => Reason::Access,
            (Observed::Refused(_), Observed::Instance | Observed::Trapped(_))
            | (Observed::Instance, _)
            | (Observed::Values(_) | Observed::Trapped(_), Observed::Values(_))
                if own_memory =>
            {
                Reason::OwnMemory
            }
            (Observed::Refused(_), Observed::Instance | Observed::Trapped(_)) if imports_memory => {
                Reason::Limits
            }
            (Observed::Values(_), Observed::Values(found)) => {
                let pregrown = self.module().map_or(&[][..], |module| &module.pregrown);
                let read = |pages: &&u64| {
                    [format!("i32 {pages:#x}"), format!("i64 {pages:#x}")].contains(found)
                };
                if let Some(pages) = pregrown.iter().find(read) {
                    Reason::GrownAlready(*pages)
                } else if counts_import && (counting == 1 || starts.len() > 1) {
                    Reason::ImportsLimits
                } else if let Some((line, divergence)) = divergences.affecting(&self.before.reach) {
                    Reason::Since { line, divergence }
                } else {
                    self.unexplained("")
                }
            }
            _ => self.unexplained(""),
        }
    }

    fn unexplained(&self, more: &str) -> Reason {
        let (before, after) = (&self.before.outcome, &self.after.outcome);
        Reason::Unexplained(format!("{before:?} before, {after:?} after{more}"))
    }
}

/// The divergences of a script so far, each with the instances that it may have affected, and its line.
#[derive(Debug, Default)]
pub(super) struct Divergences(Vec<(BTreeSet<usize>, usize, Divergence)>);

impl Divergences {
    pub(super) fn add(&mut self, directive: &Directive, divergence: Divergence) {
        let reach = directive.reach.clone();
        self.0.push((reach, directive.line, divergence));
    }

    /// Adds a directive with another outcome, if it may have changed the state of an instance.
    pub(super) fn add_difference(&mut self, directive: &Directive, reason: &Reason) {
        let divergence = match reason {
            Reason::Access => Divergence::Access,
            Reason::Data => Divergence::Data,
            Reason::Limits => Divergence::Limits,
            Reason::OwnMemory => Divergence::OwnMemory,
            _ => return,
        };
        self.add(directive, divergence);
    }

    /// Returns the last divergence that may have affected these instances.
    fn affecting(&self, reach: &BTreeSet<usize>) -> Option<(usize, Divergence)> {
        let mut latest_first = self.0.iter().rev();
        let latest = latest_first.find(|(others, ..)| !others.is_disjoint(reach));
        latest.map(|(_, line, divergence)| (*line, *divergence))
    }
}
