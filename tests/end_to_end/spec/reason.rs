//! Why a directive that holds with the original does not hold with the rewritten module. A reason
//! is told from what was observed, never put down by hand, so that a wrong one cannot be listed.

use std::collections::BTreeSet;
use std::fmt;

use wasm_prealloc::MemoryImportPolicy;
use wasmtime::Trap;

use super::seen::{Directive, Facts, Outcome, Seen};

/// Why a directive does not hold any longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// A data segment above the declared minimum is within the memory.
    Data,
    /// An access above the virtual size is within the memory.
    Access,
    /// Limits that did not match do, because all memories have one size.
    Limits,
    /// A module that measures a memory and never grows it reads this size in pages.
    GrownAlready(u64),
    /// An earlier directive that came out otherwise has left something else behind in an instance
    /// that this one sees.
    Since { line: usize, parting: Parting },
    /// With `--memory-import define`: the memory of a module is not the one that it imported.
    OwnMemory,
    /// With `--memory-import keep`: a module counts between the limits that its import declares,
    /// and not between those of the memory that it is given.
    ImportsLimits,
    /// None of these, in the words of what was seen.
    Unexplained(String),
}

/// What it was that came out otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parting {
    Access,
    Data,
    Limits,
    OwnMemory,
    Refused,
}

impl Reason {
    /// How a reason that is none begins.
    pub(super) const UNEXPLAINED: &str = "UNEXPLAINED";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Data => f.write_str("a data segment above the declared minimum no longer traps"),
            Self::Access => f.write_str("an access above the virtual size no longer traps"),
            Self::Limits => {
                f.write_str("limits that did not match match now: all memories have one size")
            }
            Self::GrownAlready(pages) => write!(
                f,
                "a memory that is measured and never grown reads as grown already, to {pages} pages"
            ),
            Self::Since { line, parting } => write!(
                f,
                "reads what line {line} left behind, where {}",
                match parting {
                    Parting::Access => "an access no longer traps",
                    Parting::Data => "a data segment no longer traps",
                    Parting::Limits => "limits match now",
                    Parting::OwnMemory => "a module no longer imports its memory",
                    Parting::Refused => "the rewriter refuses a module",
                }
            ),
            Self::OwnMemory => f.write_str("a memory that was imported is the module's own now"),
            Self::ImportsLimits => {
                f.write_str("growth is counted between the limits that the import declares")
            }
            Self::Unexplained(words) => write!(f, "{}: {words}", Self::UNEXPLAINED),
        }
    }
}

/// A directive that held before, beside what came of it afterwards.
pub(super) struct Difference<'a> {
    pub(super) before: &'a Directive,
    pub(super) after: &'a Directive,
    /// What comes of it where limits are declared as the rewritten modules have them, and nothing
    /// else is changed.
    pub(super) declared: &'a Directive,
    /// Modules of the rewritten script, by the number of their instantiation.
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

    /// Whether nothing but limits is rewritten in what the directive sees, there being no
    /// instruction that grows or measures: then what differs must differ likewise where nothing
    /// but limits is changed, and that is checked.
    pub(super) fn only_limits(&self) -> bool {
        self.memory_import != MemoryImportPolicy::Define
            && !self.reached().any(|module| module.has_sites)
    }

    /// Tells the reason, given what has come out otherwise in this script so far.
    pub(super) fn explain(&self, partings: &Partings) -> Reason {
        let (Outcome::Held(expected), Outcome::Held(found) | Outcome::Not(found)) =
            (&self.before.outcome, &self.after.outcome)
        else {
            return self.unexplained("");
        };
        if self.only_limits() && self.declared.outcome != self.after.outcome {
            return self.unexplained(", and not where only limits are changed");
        }
        let imports_memory = self.module().is_some_and(|module| module.imports_memory);
        let own_memory = self.memory_import == MemoryImportPolicy::Define
            && self.reached().any(|module| module.imports_memory)
            && self.declared.outcome != self.after.outcome;
        let counting = self.reached().filter(|module| module.has_sites).count();
        let counts_import = self.module().is_some_and(|m| m.has_sites_in_import);
        match (expected, found) {
            (Seen::Trapped(Trap::MemoryOutOfBounds), Seen::Instance) => Reason::Data,
            (Seen::Trapped(Trap::MemoryOutOfBounds), Seen::Values(_)) => Reason::Access,
            (Seen::Refused(_), Seen::Instance | Seen::Trapped(_)) if own_memory => {
                Reason::OwnMemory
            }
            (Seen::Refused(_), Seen::Instance | Seen::Trapped(_)) if imports_memory => {
                Reason::Limits
            }
            (Seen::Instance, _) if own_memory => Reason::OwnMemory,
            (Seen::Values(_) | Seen::Trapped(_), Seen::Values(_)) if own_memory => {
                Reason::OwnMemory
            }
            (Seen::Values(_), Seen::Values(found)) => {
                let pregrown = self.module().map_or(&[][..], |module| &module.pregrown);
                let read = |pages: &&u64| {
                    [format!("i32 {pages:#x}"), format!("i64 {pages:#x}")].contains(found)
                };
                if let Some(pages) = pregrown.iter().find(read) {
                    Reason::GrownAlready(*pages)
                } else if counts_import && counting == 1 {
                    Reason::ImportsLimits
                } else if let Some((line, parting)) = partings.seen_from(&self.before.reach) {
                    Reason::Since { line, parting }
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

/// What has come out otherwise in a script so far, and which instances may have seen it.
#[derive(Debug, Default)]
pub(super) struct Partings(Vec<(BTreeSet<usize>, usize, Parting)>);

impl Partings {
    pub(super) fn add(&mut self, directive: &Directive, parting: Parting) {
        let reach = directive.reach.clone();
        self.0.push((reach, directive.line, parting));
    }

    /// Adds a directive that came out otherwise for a reason, where it may have left something.
    pub(super) fn add_difference(&mut self, directive: &Directive, reason: &Reason) {
        let parting = match reason {
            Reason::Access => Parting::Access,
            Reason::Data => Parting::Data,
            Reason::Limits => Parting::Limits,
            Reason::OwnMemory => Parting::OwnMemory,
            _ => return,
        };
        self.add(directive, parting);
    }

    /// The last one that can be seen from these instances.
    fn seen_from(&self, reach: &BTreeSet<usize>) -> Option<(usize, Parting)> {
        let mut latest_first = self.0.iter().rev();
        let seen = latest_first.find(|(others, ..)| !others.is_disjoint(reach));
        seen.map(|(_, line, parting)| (*line, *parting))
    }
}
