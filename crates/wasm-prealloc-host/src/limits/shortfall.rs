//! A limit that is too low for a need, and the remedy.

use std::fmt;

use crate::limits::limit::{Bytes, Limit, Reading};

/// A limit that leaves less than is needed. All numbers are bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shortfall {
    /// The limit that leaves too little.
    pub limit: Limit,
    /// Its value.
    pub limit_bytes: u64,
    /// The part of it that is in use now.
    pub in_use_bytes: u64,
    /// The part of `in_use_bytes` that the kernel can reclaim: page cache.
    pub reclaimable_bytes: u64,
    /// The part that is still available, the reclaimable part included.
    pub available_bytes: u64,
    /// The need under this limit, page tables and margin included where they count.
    pub needed_bytes: u64,
}

impl Shortfall {
    /// Compares a reading with a need under it.
    pub(crate) fn new(reading: &Reading, needed_bytes: u64) -> Self {
        Shortfall {
            limit: reading.limit.clone(),
            limit_bytes: reading.limit_bytes,
            in_use_bytes: reading.in_use_bytes,
            reclaimable_bytes: reading.reclaimable_bytes,
            available_bytes: reading.available_bytes,
            needed_bytes,
        }
    }

    /// Returns the number of bytes that are missing.
    pub fn missing_bytes(&self) -> u64 {
        self.needed_bytes.saturating_sub(self.available_bytes)
    }

    /// Returns the smallest sufficient value of the limit in bytes, if nothing else changes.
    pub fn sufficient_bytes(&self) -> u64 {
        (self.in_use_bytes - self.reclaimable_bytes.min(self.in_use_bytes))
            .saturating_add(self.needed_bytes)
    }

    /// Returns the remedy, for an operator.
    pub fn advice(&self) -> String {
        let enough = Bytes(self.sufficient_bytes());
        // The shell's limits are in KiB.
        let enough_kib = self.sufficient_bytes().div_ceil(1024);
        match &self.limit {
            Limit::Cgroup { .. } => format!("raise this limit to at least {enough}"),
            Limit::CgroupHidden { .. } => format!(
                "raise the memory limit of the parent group (the pod or the service around this \
                 container) to at least {enough}"
            ),
            Limit::Machine => format!(
                "free at least {}, or use a larger machine",
                Bytes(self.missing_bytes())
            ),
            Limit::AddressSpace => {
                format!("raise this limit to at least {enough}: ulimit -v {enough_kib}")
            }
            Limit::DataSegment => {
                format!("raise this limit to at least {enough}: ulimit -d {enough_kib}")
            }
            Limit::Overcommit => format!(
                "raise CommitLimit to at least {enough} (sysctl vm.overcommit_kbytes={enough_kib}), \
                 or set vm.overcommit_memory=0"
            ),
            Limit::HugePages { page_bytes, pool } => format!(
                "have at least {} of them: echo {} > {}",
                self.sufficient_bytes().div_ceil(*page_bytes),
                self.sufficient_bytes().div_ceil(*page_bytes),
                pool.join("nr_hugepages").display()
            ),
            Limit::LockedMemory => format!(
                "raise this limit to at least {enough}: ulimit -l {enough_kib}, or give the \
                 process CAP_IPC_LOCK"
            ),
        }
    }
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "needed {}, available {} under {} (limit {}, in use {}, of that reclaimable {}); {}",
            Bytes(self.needed_bytes),
            Bytes(self.available_bytes),
            self.limit,
            Bytes(self.limit_bytes),
            Bytes(self.in_use_bytes),
            Bytes(self.reclaimable_bytes),
            self.advice()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_for_the_shell_is_in_kib_and_rounded_up() {
        let reading = Reading::new(Limit::AddressSpace, 1 << 20, 1000, 0);
        let advice = Shortfall::new(&reading, 2 << 20).advice();
        assert!(advice.ends_with("ulimit -v 2049"), "{advice}");
    }
}
