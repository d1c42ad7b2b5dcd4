//! The limits that bound a process's memory, and one reading of one of them.
//!
//! They are read in `cgroup` and `headroom`; the remedy for each of them is in `shortfall`.

use std::fmt;
use std::path::PathBuf;

/// One of the two cgroup interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CgroupVersion {
    /// A hierarchy of the memory controller alone (`memory.limit_in_bytes`).
    V1,
    /// The unified hierarchy (`memory.max`).
    V2,
}

impl fmt::Display for CgroupVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CgroupVersion::V1 => "v1",
            CgroupVersion::V2 => "v2",
        })
    }
}

/// A limit on the memory of this process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Limit {
    /// A limit of this process's memory cgroup or of one of its ancestors.
    Cgroup {
        /// The interface that it was read through.
        version: CgroupVersion,
        /// The file that holds the limit.
        file: PathBuf,
    },
    /// A limit of a cgroup v1 ancestor outside the mount, as in a container. The kernel reports
    /// only its value.
    CgroupHidden {
        /// The `memory.stat` that reports it.
        file: PathBuf,
    },
    /// The machine's memory: `MemTotal` and `MemAvailable` of `/proc/meminfo`.
    Machine,
    /// The process's address space: `RLIMIT_AS`, see setrlimit(2).
    AddressSpace,
    /// The process's writable private memory: `RLIMIT_DATA`, see setrlimit(2).
    DataSegment,
    /// Strict overcommit accounting (`vm.overcommit_memory = 2`): `CommitLimit` and `Committed_AS`
    /// of `/proc/meminfo`, without `vm.user_reserve_kbytes` and, for a process without
    /// `CAP_SYS_ADMIN`, `vm.admin_reserve_kbytes`.
    Overcommit,
    /// The machine's pool of huge pages of one size, see `hugetlbpage.rst` of the kernel.
    HugePages {
        /// The size of one page, in bytes.
        page_bytes: u64,
        /// The directory that describes the pool.
        pool: PathBuf,
    },
    /// A limit on huge pages of one size, of this process's cgroup (version 2) or of one of its
    /// ancestors.
    HugePagesCgroup {
        /// The size of one page, in bytes.
        page_bytes: u64,
        /// The file that holds the limit.
        file: PathBuf,
    },
    /// The memory that the process may keep from being swapped out: `RLIMIT_MEMLOCK`, see
    /// setrlimit(2).
    LockedMemory,
    /// The memory of those NUMA nodes that the process may use, if they are not all, see cpuset(7)
    /// and set_mempolicy(2).
    Numa {
        /// The nodes, as in `Mems_allowed_list` of `/proc/self/status`.
        nodes: String,
    },
    /// The number of memory mappings of the process: `vm.max_map_count`. Its numbers are mappings
    /// instead of bytes.
    Mappings,
    /// The addresses that the processor and the kernel give to a process.
    Addresses,
}

impl Limit {
    /// Returns the name of the kind of limit, for programs: lower case, with hyphens.
    pub fn kind(&self) -> &'static str {
        match self {
            Limit::Cgroup { version, .. } => match version {
                CgroupVersion::V1 => "cgroup-v1",
                CgroupVersion::V2 => "cgroup-v2",
            },
            Limit::CgroupHidden { .. } => "cgroup-hidden",
            Limit::Machine => "machine",
            Limit::AddressSpace => "address-space",
            Limit::DataSegment => "data-segment",
            Limit::Overcommit => "overcommit",
            Limit::HugePages { .. } => "huge-pages",
            Limit::HugePagesCgroup { .. } => "huge-pages-cgroup",
            Limit::LockedMemory => "locked-memory",
            Limit::Numa { .. } => "numa",
            Limit::Mappings => "mappings",
            Limit::Addresses => "addresses",
        }
    }

    /// Returns true if the limit is on pages in use.
    pub(crate) fn is_physical(&self) -> bool {
        matches!(
            self,
            Limit::Cgroup { .. } | Limit::CgroupHidden { .. } | Limit::Machine | Limit::Numa { .. }
        )
    }

    /// Returns the unit of the limit's numbers: `bytes`, or `mappings` for [`Limit::Mappings`].
    pub fn unit(&self) -> &'static str {
        match self {
            Limit::Mappings => "mappings",
            _ => "bytes",
        }
    }

    /// Formats a number of this limit for people.
    pub(crate) fn amount(&self, number: u64) -> Amount {
        match self {
            Limit::Mappings => Amount::Mappings(number),
            _ => Amount::Bytes(number),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limit::Cgroup { version, file } => write!(f, "cgroup {version} {}", file.display()),
            Limit::CgroupHidden { file } => write!(
                f,
                "a parent cgroup outside this mount, reported by {}",
                file.display()
            ),
            Limit::Machine => f.write_str("this machine's memory (/proc/meminfo)"),
            Limit::AddressSpace => f.write_str("the address space limit (RLIMIT_AS, ulimit -v)"),
            Limit::DataSegment => f.write_str("the data segment limit (RLIMIT_DATA, ulimit -d)"),
            Limit::Overcommit => {
                f.write_str("strict overcommit accounting (vm.overcommit_memory = 2)")
            }
            Limit::HugePages { pool, .. } => {
                write!(f, "the pool of huge pages {}", pool.display())
            }
            Limit::HugePagesCgroup { file, .. } => write!(f, "cgroup v2 {}", file.display()),
            Limit::LockedMemory => {
                f.write_str("the locked memory limit (RLIMIT_MEMLOCK, ulimit -l)")
            }
            Limit::Numa { nodes } => write!(f, "the memory of the NUMA nodes {nodes}"),
            Limit::Mappings => f.write_str("the limit on mappings of a process (vm.max_map_count)"),
            Limit::Addresses => f.write_str("the address space of a process on this processor"),
        }
    }
}

/// A limit's values when it was read. All numbers are bytes, or the limit's other
/// [unit](Limit::unit).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reading {
    /// The limit that was read.
    pub limit: Limit,
    /// Its value.
    pub limit_bytes: u64,
    /// The part of it that is in use now.
    pub in_use_bytes: u64,
    /// The part of `in_use_bytes` that the kernel can reclaim: page cache, without the part that
    /// `memory.min` of other groups protects.
    pub reclaimable_bytes: u64,
    /// The part of the limit that the kernel keeps from this process.
    pub kept_bytes: u64,
    /// The part that is still available, the reclaimable part included.
    pub available_bytes: u64,
    /// The most by which the kernel's own count, or the next reading, is expected to be higher
    /// without an event that this process knows of. Advice allows for it.
    pub drift_bytes: u64,
    /// The kernel's reserve that grows with the size of the process.
    pub(crate) user_reserve: Option<UserReserve>,
    /// True for a cgroup that also counts huge pages of the machine's pool, see
    /// `memory_hugetlb_accounting` of the kernel's `cgroup-v2.rst`.
    pub(crate) counts_huge_pages: bool,
}

/// The part that strict overcommit keeps from a process, for a user who wants to end it: a 32nd of
/// its address space, up to a maximum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UserReserve {
    pub(crate) address_space_bytes: u64,
    pub(crate) most_bytes: u64,
}

impl UserReserve {
    /// Returns the reserve after `more_bytes` of address space were reserved.
    pub(crate) fn after(&self, more_bytes: u64) -> u64 {
        let address_space = self.address_space_bytes.saturating_add(more_bytes);
        address_space.div_ceil(32).min(self.most_bytes)
    }
}

impl Reading {
    /// Computes the available part from the other three numbers.
    pub(crate) fn new(limit: Limit, limit_bytes: u64, in_use_bytes: u64, reclaimable: u64) -> Self {
        // Usage and page cache are two counters that are not read at the same instant.
        let reclaimable_bytes = reclaimable.min(in_use_bytes);
        Reading {
            limit,
            limit_bytes,
            in_use_bytes,
            reclaimable_bytes,
            kept_bytes: 0,
            available_bytes: limit_bytes.saturating_sub(in_use_bytes - reclaimable_bytes),
            drift_bytes: 0,
            user_reserve: None,
            counts_huge_pages: false,
        }
    }

    /// Subtracts a part that the kernel keeps.
    pub(crate) fn keeping(mut self, kept_bytes: u64) -> Self {
        self.kept_bytes = kept_bytes;
        self.available_bytes = self.available_bytes.saturating_sub(kept_bytes);
        self
    }

    /// Sets the expected drift.
    pub(crate) fn drifting(mut self, drift_bytes: u64) -> Self {
        self.drift_bytes = drift_bytes;
        self
    }
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let amount = |number| self.limit.amount(number);
        write!(
            f,
            "{}: limit {}, in use {}, of that reclaimable {}, available {}",
            self.limit,
            amount(self.limit_bytes),
            amount(self.in_use_bytes),
            amount(self.reclaimable_bytes),
            amount(self.available_bytes)
        )
    }
}

/// Formats a number of a limit for people.
pub(crate) enum Amount {
    Bytes(u64),
    Mappings(u64),
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Amount::Bytes(bytes) => Bytes(*bytes).fmt(f),
            Amount::Mappings(mappings) => write!(f, "{mappings} mappings"),
        }
    }
}

/// Formats a size for people: exact, and in MiB.
pub(crate) struct Bytes(pub(crate) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: u64 = 1 << 20;
        if self.0.is_multiple_of(MIB) {
            write!(f, "{} bytes ({} MiB)", self.0, self.0 / MIB)
        } else {
            let mib = self.0 as f64 / MIB as f64;
            write!(f, "{} bytes ({mib:.1} MiB)", self.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_exact_and_in_mib() {
        assert_eq!(Bytes(1 << 32).to_string(), "4294967296 bytes (4096 MiB)");
        assert_eq!(Bytes(1_500_000).to_string(), "1500000 bytes (1.4 MiB)");
    }

    #[test]
    fn more_page_cache_than_usage_is_capped() {
        let reading = Reading::new(Limit::Machine, 100, 40, 60);
        assert_eq!(reading.reclaimable_bytes, 40);
        assert_eq!(reading.available_bytes, 100);
    }
}
