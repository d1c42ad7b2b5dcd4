//! Taking memory back, against the memset or the scan that it needs at least.

use anyhow::{Result, bail};
use wasm_prealloc_host::{DEFAULT_PAGES, MemoryPool, Policy, Tracking, WASM_PAGE_BYTES};

use crate::bare::Mapping;
use crate::track::Tracker;
use crate::{Cost, GIB, MIB};

const BYTES: usize = 4 * GIB;
const ROUNDS: usize = 25;

pub(crate) fn measure(contender: &str) -> Result<()> {
    match contender {
        "high-water" => ours(Policy::CommitMaximum, Tracking::Auto, &[10, 100, 1000]),
        "watermark" => ours(Policy::Declared, Tracking::Auto, &[0, 10, 100, 1000]),
        "everything" => ours(Policy::Declared, Tracking::Off, &[4096]),
        "memset" => memset(),
        "scan" => scan(),
        other => bail!("no contender {other:?}"),
    }
}

/// Lends, writes from the bottom on, and measures how long giving back takes.
fn ours(policy: Policy, tracking: Tracking, sizes: &[usize]) -> Result<()> {
    let pool = MemoryPool::builder()
        .policy(policy)
        .tracking(tracking)
        .secure()?;
    for &mib in sizes {
        let mut costs = Vec::new();
        // The first blocks of a size move the watermark to where it belongs.
        for round in 0..ROUNDS + 5 {
            let minimum = match policy {
                Policy::Declared => DEFAULT_PAGES,
                _ => (mib * MIB) as u64 / WASM_PAGE_BYTES,
            };
            let mut memory = pool.lend(minimum, Some(DEFAULT_PAGES))?;
            memory.bytes_mut()[..mib * MIB].fill(0xa5);
            let cost = Cost::of(|| {
                drop(memory);
                Ok(())
            })?;
            if round >= 5 {
                costs.push(cost);
            }
        }
        Cost::median(&costs).print("ours", mib);
    }
    let statistics = pool.statistics();
    if tracking == Tracking::Auto && statistics.full_resets > 0 {
        bail!("writes cannot be tracked on this machine");
    }
    Ok(())
}

/// The same sizes, in memory that is committed as the pool's.
fn memset() -> Result<()> {
    let mapping = Mapping::new(BYTES)?;
    mapping.collapse()?;
    for mib in [10, 100, 1000, 4096] {
        let mut costs = Vec::new();
        for _ in 0..ROUNDS {
            mapping.fill(mib * MIB, 0xa5);
            costs.push(Cost::of(|| {
                mapping.fill(mib * MIB, 0);
                Ok(())
            })?);
        }
        Cost::median(&costs).print("memset", mib);
    }
    Ok(())
}

/// One scan of memory that is tracked and not written.
fn scan() -> Result<()> {
    let mapping = Mapping::new(BYTES)?;
    mapping.collapse()?;
    let range = mapping.range();
    let tracker = Tracker::open()?;
    // SAFETY: the range is the mapping's own, which outlives the tracker's use of it.
    unsafe { tracker.watch(range.clone()) }?;
    let mut costs = Vec::new();
    for _ in 0..ROUNDS {
        let mut written = Vec::new();
        costs.push(Cost::of(|| {
            Ok(tracker.written(range.clone(), &mut written)?)
        })?);
        if !written.is_empty() {
            bail!("what nobody wrote counts as written");
        }
    }
    Cost::median(&costs).print("scan", BYTES / MIB);
    // SAFETY: as above.
    Ok(unsafe { tracker.unwatch(range) }?)
}
