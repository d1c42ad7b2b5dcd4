//! Counts and differences of a run with one policy for imported memories.

use std::fmt;

use wasm_prealloc_fuzzing::Stats as Counts;

use super::list::Differences;

#[derive(Debug, Default)]
pub(super) struct Stats {
    /// Counts by name: files, modules that were instantiated before and after, assertions that hold
    /// before and after, and reasons for skipped assertions.
    pub(super) counts: Counts,
    /// Directives that held before and do not hold now.
    pub(super) differences: Differences,
}

impl Stats {
    pub(super) fn add(&mut self, other: &Self) {
        self.counts.add(&other.counts);
        self.differences.extend(other.differences.clone());
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut reasons = Counts::default();
        for reason in self.differences.values() {
            // Some reasons contain a line number.
            let kind = reason.replace(|c: char| c.is_ascii_digit(), "");
            reasons.count(&format!("differ: {kind}"), 1);
        }
        write!(f, "{}{reasons}", self.counts)
    }
}
