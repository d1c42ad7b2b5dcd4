//! Regions of one size and one kind of pages, which are committed together with others, and the
//! options that all of them share.

use crate::commit::backing::Backing;
use crate::commit::lock::LockOptions;
use crate::commit::region::Layout;
use crate::commit::requirements::{LockMemory, Requirements};
use crate::error::SecureError;
use crate::limits::headroom::Need;
use crate::sys::HUGE_PAGE_BYTES;

/// The options of a commit that all of its regions share.
#[derive(Debug, Clone)]
pub(crate) struct CommitOptions {
    /// The part that each limit on physical memory must leave beyond the need, in bytes.
    pub(crate) margin_bytes: u64,
    pub(crate) lock: LockOptions,
    pub(crate) lock_memory: LockMemory,
}

impl CommitOptions {
    pub(crate) fn of(requirements: &Requirements) -> CommitOptions {
        CommitOptions {
            margin_bytes: requirements.margin_bytes,
            lock: requirements.lock.clone(),
            lock_memory: requirements.lock_memory,
        }
    }
}

/// Regions of one size.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Group {
    pub(crate) layout: Layout,
    /// The size of each region.
    pub(crate) bytes: usize,
    pub(crate) count: usize,
    /// The kind of pages.
    pub(crate) backing: Backing,
}

impl Group {
    /// Returns `count` regions, if one can have the required pages at all.
    pub(crate) fn new(
        requirements: &Requirements,
        reservation_bytes: usize,
        guard_bytes: usize,
        count: usize,
    ) -> Result<Group, SecureError> {
        let bytes = requirements.bytes()?;
        requirements.check_backing(bytes)?;
        let pool_page_log2 = requirements.backing.pool_page_log2();
        Ok(Group {
            layout: Layout {
                reservation_bytes: reservation_bytes.max(bytes),
                guard_bytes,
                alignment_bytes: pool_page_log2.map_or(HUGE_PAGE_BYTES, |log2| 1 << log2),
            },
            bytes,
            count,
            backing: requirements.backing,
        })
    }

    /// Returns the binary logarithm of the size of a page of the machine's pool, if the regions are
    /// in such pages.
    pub(crate) fn pool_page_log2(&self) -> Option<u32> {
        self.backing.pool_page_log2()
    }

    /// Returns the size of all regions.
    pub(crate) fn all_bytes(&self) -> u64 {
        (self.bytes as u64).saturating_mul(self.count as u64)
    }

    /// Returns the need of all regions, without the margin.
    pub(crate) fn need(&self, lock_memory: LockMemory) -> Need {
        let all = |number: u64| number.saturating_mul(self.count as u64);
        let committed_bytes = self.all_bytes();
        let reserved_bytes = all(self.layout.mapping_bytes().unwrap_or(usize::MAX) as u64);
        let mut need = Need {
            address_space_bytes: reserved_bytes,
            data_bytes: committed_bytes,
            ..Need::populate(committed_bytes, 0)
        };
        need = need.mappings(all(self.layout.mappings(self.bytes)));
        if let Some(log2) = self.pool_page_log2() {
            need = need.in_huge_pages(1 << log2, committed_bytes, 0);
        }
        if lock_memory == LockMemory::On {
            need = need.locked(committed_bytes);
        }
        need
    }
}
