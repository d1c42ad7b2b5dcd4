//! The memory and the other resources that a commit needs under each kind of limit.

use crate::limits::limit::{Limit, Reading};

/// Room for small allocations of other threads between check and commit, under the limits that the
/// margin for physical memory does not apply to.
const SLACK_BYTES: u64 = 1 << 20;

/// The mappings that the process can make besides those for its memories: for threads, code and the
/// allocator.
const OTHER_MAPPINGS: u64 = 1024;

/// The memory that is needed under each kind of limit. All numbers are bytes unless they say
/// otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Need {
    /// Under cgroups and the machine's memory: the pages, their page tables, and a margin.
    pub physical_bytes: u64,
    /// Under the address space limit: the whole reservation, guards included.
    pub address_space_bytes: u64,
    /// Under the data segment limit and strict overcommit: the memory that becomes writable.
    pub data_bytes: u64,
    /// Under the machine's pool of huge pages of [`huge_page_bytes`](Need::huge_page_bytes), and
    /// under the cgroups' limits on them.
    pub huge_pool_bytes: u64,
    /// The size of a huge page of that pool, or 0 if none are needed.
    pub huge_page_bytes: u64,
    /// Under the locked memory limit.
    pub locked_bytes: u64,
    /// Under the limit on mappings: the number of new mappings.
    pub mappings: u64,
}

impl Need {
    /// Returns the need of committing `committed_bytes` in a new reservation of `reserved_bytes`.
    pub fn commit(committed_bytes: u64, reserved_bytes: u64, margin_bytes: u64) -> Need {
        Need {
            address_space_bytes: reserved_bytes.saturating_add(SLACK_BYTES),
            data_bytes: committed_bytes.saturating_add(SLACK_BYTES),
            ..Need::populate(committed_bytes, margin_bytes)
        }
    }

    /// Returns the need of committing `remaining_bytes` of a mapping that is already writable.
    pub fn populate(remaining_bytes: u64, margin_bytes: u64) -> Need {
        Need {
            // Page tables count too: one entry of 8 bytes for each 4 KiB.
            physical_bytes: remaining_bytes
                .saturating_add(remaining_bytes / 512)
                .saturating_add(margin_bytes),
            ..Need::default()
        }
    }

    /// Returns the same need, met by huge pages of the machine's pool. Neither cgroups nor the
    /// machine's available memory count those.
    pub fn in_huge_pages(self, page_bytes: u64, committed_bytes: u64, margin_bytes: u64) -> Need {
        Need {
            physical_bytes: margin_bytes,
            data_bytes: 0,
            huge_pool_bytes: committed_bytes,
            huge_page_bytes: page_bytes,
            ..self
        }
    }

    /// Returns the same need with `locked_bytes` that are kept from being swapped out.
    pub fn locked(self, locked_bytes: u64) -> Need {
        Need {
            locked_bytes,
            ..self
        }
    }

    /// Returns the same need with `count` mappings more than the process has now.
    pub fn mappings(self, count: u64) -> Need {
        Need {
            mappings: count,
            ..self
        }
    }

    /// Returns the need of both together. At most one of them is met by huge pages of the machine's
    /// pool.
    pub(crate) fn and(self, other: Need) -> Need {
        Need {
            physical_bytes: self.physical_bytes.saturating_add(other.physical_bytes),
            address_space_bytes: (self.address_space_bytes)
                .saturating_add(other.address_space_bytes),
            data_bytes: self.data_bytes.saturating_add(other.data_bytes),
            huge_pool_bytes: self.huge_pool_bytes.saturating_add(other.huge_pool_bytes),
            huge_page_bytes: self.huge_page_bytes.max(other.huge_page_bytes),
            locked_bytes: self.locked_bytes.saturating_add(other.locked_bytes),
            mappings: self.mappings.saturating_add(other.mappings),
        }
    }

    /// Returns the part of the need that counts against a limit as it was read, in the limit's
    /// [unit](Limit::unit). Strict overcommit keeps a part from each process that depends on the
    /// size of the process, and some systems count huge pages of the machine's pool in cgroups.
    pub fn against(&self, reading: &Reading) -> u64 {
        let needed = self.under(&reading.limit);
        let more = match (&reading.user_reserve, needed) {
            (Some(reserve), 1..) => reserve.after(self.address_space_bytes),
            _ if reading.counts_huge_pages => self.huge_pool_bytes,
            _ => 0,
        };
        needed.saturating_add(more)
    }

    /// Returns the part of the need that counts against `limit`, in the limit's
    /// [unit](Limit::unit).
    pub fn under(&self, limit: &Limit) -> u64 {
        match limit {
            Limit::Cgroup { .. }
            | Limit::CgroupHidden { .. }
            | Limit::Machine
            | Limit::Numa { .. } => self.physical_bytes,
            Limit::AddressSpace | Limit::Addresses => self.address_space_bytes,
            Limit::DataSegment | Limit::Overcommit => self.data_bytes,
            Limit::HugePages { page_bytes, .. } | Limit::HugePagesCgroup { page_bytes, .. } => {
                match *page_bytes == self.huge_page_bytes {
                    true => self.huge_pool_bytes,
                    false => 0,
                }
            }
            Limit::LockedMemory => self.locked_bytes,
            Limit::Mappings if self.mappings == 0 => 0,
            Limit::Mappings => self.mappings.saturating_add(OTHER_MAPPINGS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_overflow_are_cut_and_not_wrapped() {
        let need = Need::commit(u64::MAX, u64::MAX, u64::MAX).mappings(u64::MAX);
        let limits = [
            Limit::Machine,
            Limit::AddressSpace,
            Limit::DataSegment,
            Limit::Addresses,
            Limit::Mappings,
        ];
        for limit in limits {
            assert_eq!(need.under(&limit), u64::MAX, "{limit}");
        }
    }
}
