//! Counts of what the differential test has checked.

use std::collections::BTreeMap;
use std::fmt;

/// Counts of checked modules and cases. A case is one sequence of calls, made on a rewritten module
/// and on a reference that must behave the same.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Generated modules.
    pub modules: u64,
    /// Cases.
    pub cases: u64,
    /// Cases by a property of the module or of the rewrite.
    pub kinds: BTreeMap<&'static str, u64>,
    /// Cases whose reference is the rewrite on walrus.
    pub walrus: u64,
    /// Cases in which a memory grew.
    pub grew: u64,
    /// Cases that ended without an allowed difference.
    pub to_the_end: u64,
    /// Cases that stopped at an access out of bounds.
    pub out_of_bounds: u64,
    /// Cases that stopped because a stack overflowed or the garbage-collected heap was full.
    pub full: u64,
    /// Calls whose outcomes were compared.
    pub calls: u64,
    /// Refusals of the rewriter, by reason.
    pub refused: BTreeMap<String, u64>,
}

impl Stats {
    /// Adds the counts of another run.
    pub fn add(&mut self, other: &Self) {
        self.modules += other.modules;
        self.cases += other.cases;
        self.walrus += other.walrus;
        self.grew += other.grew;
        self.to_the_end += other.to_the_end;
        self.out_of_bounds += other.out_of_bounds;
        self.full += other.full;
        self.calls += other.calls;
        for (kind, count) in &other.kinds {
            self.count_kind(kind, *count);
        }
        for (reason, count) in &other.refused {
            *self.refused.entry(reason.clone()).or_default() += count;
        }
    }

    pub(crate) fn count_kind(&mut self, kind: &'static str, cases: u64) {
        *self.kinds.entry(kind).or_default() += cases;
    }

    pub(crate) fn count_refusal(&mut self, reason: String) {
        *self.refused.entry(reason).or_default() += 1;
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} modules, {} cases ({} compared with walrus), {} calls; memory grew in {}",
            self.modules, self.cases, self.walrus, self.calls, self.grew
        )?;
        write!(
            f,
            "{} to the end, {} until an access out of bounds, {} until a stack or heap was full",
            self.to_the_end, self.out_of_bounds, self.full
        )?;
        for (kind, count) in &self.kinds {
            write!(f, "\n{count:6} {kind}")?;
        }
        for (reason, count) in &self.refused {
            write!(f, "\n{count:6} refused: {reason}")?;
        }
        Ok(())
    }
}
