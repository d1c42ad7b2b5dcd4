//! Counts of checked modules and cases.

use std::collections::BTreeMap;
use std::fmt;

/// The end of a comparison that found no difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Agreed,
    OutOfBounds,
    /// A stack or the garbage-collected heap was full.
    Full,
}

/// Counts by name: modules, cases and calls, cases with some property, and refusals. A case is one
/// sequence of calls, made on a rewritten module and on a reference that must behave the same.
#[derive(Clone, Debug, Default)]
pub struct Stats(BTreeMap<String, u64>);

impl Stats {
    /// Adds the counts of another run.
    pub fn add(&mut self, other: &Self) {
        for (name, count) in &other.0 {
            self.count(name, *count);
        }
    }

    /// Returns a count, or 0 for an unknown name.
    #[must_use]
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or_default()
    }

    /// Increases a count.
    pub fn count(&mut self, name: &str, by: u64) {
        *self.0.entry(name.to_owned()).or_default() += by;
    }

    pub(crate) fn count_case(&mut self, end: End, kinds: &[&str]) {
        self.count("cases", 1);
        for kind in kinds {
            self.count(&format!("cases {kind}"), 1);
        }
        let end = match end {
            End::Agreed => "cases to the end",
            End::OutOfBounds => "cases until an access out of bounds",
            End::Full => "cases until a stack or heap was full",
        };
        self.count(end, 1);
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, count) in &self.0 {
            writeln!(f, "{count:7} {name}")?;
        }
        Ok(())
    }
}
