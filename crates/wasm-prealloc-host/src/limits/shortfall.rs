//! A limit that is too low for a need, and the remedy.

use std::fmt;

use crate::limits::limit::{Bytes, Limit, Reading};

const MIB: u64 = 1 << 20;

/// A limit that leaves less than is needed. All numbers are bytes, or the limit's other
/// [unit](Limit::unit).
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
    /// The part of the limit that the kernel keeps from this process.
    pub kept_bytes: u64,
    /// The part that is still available, the reclaimable part included.
    pub available_bytes: u64,
    /// The expected drift of the reading, which the advice allows for.
    pub drift_bytes: u64,
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
            kept_bytes: reading.kept_bytes,
            available_bytes: reading.available_bytes,
            drift_bytes: reading.drift_bytes,
            needed_bytes,
        }
    }

    /// Returns the number of bytes that are missing.
    pub fn missing_bytes(&self) -> u64 {
        self.needed_bytes.saturating_sub(self.available_bytes)
    }

    /// Returns true if the limit is exceeded within the precision of its reading.
    pub(crate) fn is_nearly_exceeded(&self) -> bool {
        self.needed_bytes.saturating_add(self.drift_bytes) > self.available_bytes
    }

    /// Returns a value of the limit that is sufficient if nothing else changes: the smallest, with
    /// an allowance for the drift of the reading, rounded up to the unit in which people set it.
    pub fn sufficient_bytes(&self) -> u64 {
        let exact = (self.in_use_bytes - self.reclaimable_bytes.min(self.in_use_bytes))
            .saturating_add(self.kept_bytes)
            .saturating_add(self.needed_bytes)
            .saturating_add(self.drift_bytes);
        let unit = match &self.limit {
            Limit::HugePages { page_bytes, .. } | Limit::HugePagesCgroup { page_bytes, .. } => {
                (*page_bytes).max(1)
            }
            Limit::Mappings => 1,
            _ => MIB,
        };
        exact.div_ceil(unit).saturating_mul(unit)
    }

    /// Returns the remedy, for an operator.
    pub fn advice(&self) -> String {
        let enough = self.limit.amount(self.sufficient_bytes());
        // The shell's limits are in KiB.
        let enough_kib = self.sufficient_bytes().div_ceil(1024);
        let missing = || {
            let missing = self.missing_bytes().saturating_add(self.drift_bytes);
            Bytes(missing.div_ceil(MIB).saturating_mul(MIB))
        };
        match &self.limit {
            Limit::Cgroup { .. } | Limit::HugePagesCgroup { .. } => {
                format!("raise this limit to at least {enough}")
            }
            Limit::CgroupHidden { .. } => format!(
                "raise the memory limit of the parent group (the pod or the service around this \
                 container) to at least {enough}"
            ),
            Limit::Machine => {
                format!("free at least {}, or use a larger machine", missing())
            }
            Limit::Numa { .. } => format!(
                "free at least {} on these nodes, or allow more of them (cpuset.mems, \
                 AllowedMemoryNodes=, numactl)",
                missing()
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
            Limit::HugePages { page_bytes, pool } => {
                let pages = self.sufficient_bytes().div_ceil((*page_bytes).max(1));
                format!(
                    "have at least {pages} of them: echo {pages} > {}",
                    pool.join("nr_hugepages").display()
                )
            }
            Limit::LockedMemory => format!(
                "raise this limit to at least {enough}: ulimit -l {enough_kib}, or give the \
                 process CAP_IPC_LOCK"
            ),
            Limit::Mappings => format!(
                "raise this limit to at least {enough}: sysctl vm.max_map_count={}, or secure \
                 fewer memories",
                self.sufficient_bytes()
            ),
            Limit::Addresses => {
                "secure fewer memories in one process, or distribute them over several".to_owned()
            }
        }
    }
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let amount = |number| self.limit.amount(number);
        write!(
            f,
            "needed {}, available {} under {} (limit {}, in use {}, of that reclaimable {}",
            amount(self.needed_bytes),
            amount(self.available_bytes),
            self.limit,
            amount(self.limit_bytes),
            amount(self.in_use_bytes),
            amount(self.reclaimable_bytes),
        )?;
        if self.kept_bytes > 0 {
            write!(f, ", kept by the kernel {}", amount(self.kept_bytes))?;
        }
        if self.missing_bytes() == 0 {
            let drift = amount(self.drift_bytes);
            write!(f, ", read to within {drift}, and the kernel refused")?;
        }
        write!(f, "); {}", self.advice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_is_rounded_up_with_an_allowance_and_for_the_shell_in_kib() {
        let reading = Reading::new(Limit::AddressSpace, MIB, 1000, 0);
        let advice = Shortfall::new(&reading, 2 * MIB).advice();
        assert!(advice.ends_with("ulimit -v 3072"), "{advice}");
        let shortfall = Shortfall::new(&reading.keeping(MIB).drifting(MIB), 2 * MIB);
        assert_eq!(shortfall.sufficient_bytes(), 5 * MIB);
    }

    #[test]
    fn mappings_are_not_bytes() {
        let reading = Reading::new(Limit::Mappings, 65_530, 30, 0);
        let message = Shortfall::new(&reading, 70_000).to_string();
        let parts = [
            "needed 70000 mappings, available 65500 mappings under",
            "sysctl vm.max_map_count=70030",
        ];
        for part in parts {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn a_need_beyond_all_numbers_is_refused_without_an_overflow() {
        let reading = Reading::new(Limit::Machine, 100, 60, 0).drifting(MIB);
        let shortfall = Shortfall::new(&reading, u64::MAX);
        assert!(shortfall.sufficient_bytes() >= u64::MAX - MIB);
        assert!(!shortfall.to_string().is_empty());
    }
}
