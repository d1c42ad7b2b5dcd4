//! Counts of a run of the suite with one policy for imported memories.

use std::collections::BTreeMap;
use std::fmt;

use super::list::Differences;

#[derive(Debug, Default)]
pub(super) struct Stats {
    pub(super) files: usize,
    /// Modules that were instantiated, both the original and the rewritten one.
    pub(super) modules: usize,
    /// Assertions that hold before and after.
    pub(super) held: usize,
    /// Those of them that observe an instance with an imported memory.
    pub(super) held_with_import: usize,
    /// Assertions that could not be run, by reason.
    pub(super) skipped: BTreeMap<String, usize>,
    /// Differences that are the same if only the limits are changed.
    pub(super) only_limits: usize,
    /// Directives that held before and do not hold now.
    pub(super) differences: Differences,
}

impl Stats {
    pub(super) fn add(&mut self, other: &Self) {
        self.files += other.files;
        self.modules += other.modules;
        self.held += other.held;
        self.held_with_import += other.held_with_import;
        self.only_limits += other.only_limits;
        for (reason, count) in &other.skipped {
            *self.skipped.entry(reason.clone()).or_default() += count;
        }
        self.differences.extend(other.differences.clone());
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let skipped: usize = self.skipped.values().sum();
        writeln!(
            f,
            "{} files, {} modules; {} assertions held ({} with an imported memory), \
             {skipped} skipped, {} differ ({} in the same way if only limits are changed)",
            self.files,
            self.modules,
            self.held,
            self.held_with_import,
            self.differences.len(),
            self.only_limits
        )?;
        for (reason, count) in &self.skipped {
            writeln!(f, "{count:6} skipped: {reason}")?;
        }
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        for reason in self.differences.values() {
            // Some reasons contain a line number.
            let kind = reason.replace(|c: char| c.is_ascii_digit(), "");
            *reasons.entry(kind).or_default() += 1;
        }
        for (reason, count) in reasons {
            writeln!(f, "{count:6} differ: {reason}")?;
        }
        Ok(())
    }
}
