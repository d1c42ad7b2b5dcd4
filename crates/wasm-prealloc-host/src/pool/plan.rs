//! The memory of pools that are secured together: one lock, one need, one commit.

use std::sync::PoisonError;

use crate::commit::group::{CommitOptions, Group};
use crate::commit::locking::Locking;
use crate::commit::report::Progress;
use crate::commit::requirements::Requirements;
use crate::commit::secure::{bytes_of, need_of_many, need_under, reserve_many, secure_many};
use crate::error::SecureError;
use crate::limits::headroom::{Headroom, Need};
use crate::pool::assurance::{Assurance, Chosen};
use crate::pool::builder::{MemoryPoolBuilder, PreparedPool};
use crate::pool::memory_pool::MemoryPool;

/// The memory of one or several pools, and the options of its commit.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The margin includes the room for tables.
    options: CommitOptions,
    /// The slots of the first pool, its heaps if it has any, the slots of the second, and so on.
    groups: Vec<Group>,
}

impl Plan {
    /// Plans the memory of pools. The margin is the largest of all, counted once.
    pub(crate) fn of(pools: &[&MemoryPoolBuilder]) -> Result<Plan, SecureError> {
        let mut options = match pools {
            [] => CommitOptions::of(&Requirements::default()),
            [first, ..] => first.commit_options(),
        };
        let mut table_bytes = 0_u64;
        let mut groups = Vec::new();
        for pool in pools {
            let own = pool.commit_options();
            let differ = |what| Err(SecureError::PoolsDiffer { what });
            if own.lock != options.lock {
                return differ("the lock that hosts wait for");
            }
            if own.lock_memory != options.lock_memory {
                return differ("whether the memory is locked");
            }
            options.margin_bytes = options.margin_bytes.max(own.margin_bytes);
            table_bytes = table_bytes.saturating_add(pool.table_bytes());
            groups.extend(pool.groups()?);
        }
        let mut page_sizes = groups.iter().filter_map(Group::pool_page_log2);
        if let Some(first) = page_sizes.next()
            && page_sizes.any(|other| other != first)
        {
            let what = "the size of huge pages of the machine's pool";
            return Err(SecureError::PoolsDiffer { what });
        }
        options.margin_bytes = options.margin_bytes.saturating_add(table_bytes);
        Ok(Plan { options, groups })
    }

    /// Returns the need where every limit is visible.
    pub(crate) fn need(&self) -> Need {
        need_of_many(&self.options, &self.groups)
    }

    pub(crate) fn need_under(&self, headroom: &Headroom) -> Need {
        need_under(&self.options, &self.groups, headroom)
    }

    /// Checks all that securing checks before it commits memory.
    pub(crate) fn check(
        &self,
        pools: &[&MemoryPoolBuilder],
        headroom: &Headroom,
    ) -> Result<(), SecureError> {
        for pool in pools {
            pool.check_protection(headroom)?;
        }
        headroom.check(&self.need_under(headroom))
    }

    pub(crate) fn locks_memory(&self, headroom: &Headroom) -> bool {
        let bytes = bytes_of(&self.groups);
        Locking::decide(self.options.lock_memory, headroom, bytes) != Locking::None
    }
}

/// Secures those of the pools that are not secured yet, all of them or none.
pub(crate) fn secure_together(pools: &[&PreparedPool]) -> Result<(), SecureError> {
    // In one order for all threads, so that two of them cannot wait for each other.
    let mut pools = pools.to_vec();
    pools.sort_by_key(|pool| pool.pool.id());
    pools.dedup_by_key(|pool| pool.pool.id());
    let mut progress = Vec::with_capacity(pools.len());
    for pool in &pools {
        // A function that panicked is called again.
        let lock = pool.builder.progress.lock();
        progress.push(lock.unwrap_or_else(PoisonError::into_inner));
        if !pool.pool.shared().is_here() {
            return Err(SecureError::Forked);
        }
    }
    pools.retain(|pool| !pool.pool.shared().is_filled());
    if pools.is_empty() {
        return Ok(());
    }
    let builders: Vec<&MemoryPoolBuilder> = pools.iter().map(|pool| &pool.builder).collect();
    let chosen = chosen(&builders)?;
    let plan = Plan::of(&builders)?;
    let mut lists = Vec::with_capacity(pools.len());
    for builder in &builders {
        let slots = builder.slot_count();
        let mut list = Vec::new();
        let listed = list.try_reserve_exact(slots);
        listed.map_err(|_| SecureError::TooManySlots { slots })?;
        lists.push(list);
    }
    let mut report = |now: Progress| {
        for function in progress.iter_mut().filter_map(|lock| lock.as_mut()) {
            function(now);
        }
    };
    let mut secure = || {
        builders
            .iter()
            .try_for_each(|builder| builder.check_growth())?;
        secure_many(&plan.options, &plan.groups, &mut report)
    };
    let secured = match chosen.assurance {
        Assurance::Off => Err(None),
        Assurance::Required | Assurance::BestEffort => secure().map_err(Some),
    };
    let (regions, assurance, unsecured) = match (secured, chosen.assurance) {
        (Ok(regions), assurance) => (regions, assurance, None),
        (Err(Some(failure)), Assurance::Required) => return Err(failure),
        (Err(failure), _) => {
            let regions = reserve_many(&plan.groups)?;
            let report = chosen.report(failure.as_ref());
            (regions, Assurance::Off, Some(report))
        }
    };
    let mut regions = regions.into_iter();
    for (pool, list) in pools.iter().zip(lists) {
        let shared = pool.pool.shared();
        if let Some(heap) = &shared.engine.heap {
            heap.set_assurance(assurance, unsecured.clone());
        }
        shared.set_assurance(assurance, unsecured.clone());
        let own = regions.by_ref().take(pool.builder.region_count());
        pool.fill(own.collect(), list);
    }
    Ok(())
}

/// Returns the assurance of pools, which is the same for all.
fn chosen(pools: &[&MemoryPoolBuilder]) -> Result<Chosen, SecureError> {
    let first = Chosen::new(pools.first().and_then(|pool| pool.assurance))?;
    for pool in pools {
        if Chosen::new(pool.assurance)?.assurance != first.assurance {
            let what = "their assurance";
            return Err(SecureError::PoolsDiffer { what });
        }
    }
    Ok(first)
}

/// Several pools that are secured together, for example one with few large slots for blocks and one
/// with many small slots for views.
///
/// They are one need with one answer: one lock, one check of all limits, one commit, and after a
/// failure no memory stays mapped. A shortfall names the sum. The margin is the largest of the
/// pools' margins, counted once. Their backings can differ, except that huge pages of the machine's
/// pool must have one size. [`lock`](MemoryPoolBuilder::lock) and
/// [`lock_memory`](MemoryPoolBuilder::lock_memory) must be the same. Each pool's function for
/// progress receives the progress of all.
///
/// ```
/// use wasm_prealloc_host::MemoryPool;
///
/// let blocks = MemoryPool::builder().slots(2).pages(64).prepare();
/// let views = MemoryPool::builder().slots(16).cap(4).prepare();
/// // 2 x 4 MiB and 16 x 256 KiB, their page tables and tables, and one margin.
/// let need = MemoryPool::need_all(&[&blocks, &views])?;
/// let tables = 18 << 20;
/// assert_eq!(need.physical_bytes, (12 << 20) + (12 << 20) / 512 + tables + (32 << 20));
/// let [blocks, views] = MemoryPool::secure_all([&blocks, &views])?;
/// assert_eq!((blocks.slots(), views.slots()), (2, 16));
/// # Ok::<(), wasm_prealloc_host::SecureError>(())
/// ```
impl MemoryPool {
    /// Secures several pools together, all of them or none. Pools that are secured already are left
    /// as they are. After a failure it can be called again.
    ///
    /// # Errors
    /// As for [`PreparedPool::secure`], for all pools together. [`SecureError::PoolsDiffer`] if
    /// their options exclude each other.
    pub fn secure_all<const N: usize>(
        pools: [&PreparedPool; N],
    ) -> Result<[MemoryPool; N], SecureError> {
        secure_together(&pools)?;
        Ok(pools.map(|pool| pool.pool.clone()))
    }

    /// Secures as [`secure_all`](Self::secure_all) does, for a number of pools that is known at run
    /// time.
    ///
    /// # Errors
    /// As for [`secure_all`](Self::secure_all).
    pub fn secure_list(pools: &[&PreparedPool]) -> Result<Vec<MemoryPool>, SecureError> {
        secure_together(pools)?;
        Ok(pools.iter().map(|pool| pool.pool.clone()).collect())
    }

    /// Returns the need of several pools together, as [`MemoryPoolBuilder::need`] does for one.
    ///
    /// # Errors
    /// As for [`MemoryPoolBuilder::need`], and [`SecureError::PoolsDiffer`].
    pub fn need_all(pools: &[&PreparedPool]) -> Result<Need, SecureError> {
        Ok(Plan::of(&builders(pools))?.need())
    }

    /// Returns the need of several pools together, as [`MemoryPoolBuilder::need_under`] does for
    /// one.
    ///
    /// # Errors
    /// As for [`need_all`](Self::need_all).
    pub fn need_all_under(
        pools: &[&PreparedPool],
        headroom: &Headroom,
    ) -> Result<Need, SecureError> {
        Ok(Plan::of(&builders(pools))?.need_under(headroom))
    }

    /// Checks all that [`secure_all`](Self::secure_all) checks before it commits memory, as
    /// [`MemoryPoolBuilder::check`] does for one pool.
    ///
    /// # Errors
    /// As for [`MemoryPoolBuilder::check`], and [`SecureError::PoolsDiffer`].
    pub fn check_all(pools: &[&PreparedPool], headroom: &Headroom) -> Result<(), SecureError> {
        let builders = builders(pools);
        Plan::of(&builders)?.check(&builders, headroom)
    }

    /// Returns true if securing the pools together will lock the memory, as
    /// [`MemoryPoolBuilder::locks_memory`] does for one pool.
    pub fn locks_memory_of_all(pools: &[&PreparedPool], headroom: &Headroom) -> bool {
        Plan::of(&builders(pools)).is_ok_and(|plan| plan.locks_memory(headroom))
    }
}

fn builders<'a>(pools: &[&'a PreparedPool]) -> Vec<&'a MemoryPoolBuilder> {
    pools.iter().map(|pool| &pool.builder).collect()
}
