//! (c) Taking memory back, compared with the memset and the scan that it needs at least.

use anyhow::{Result, bail};
use wasm_prealloc_host::bare::{Tracked, collapse};
use wasm_prealloc_host::{DEFAULT_PAGES, MemoryPool, Policy, Tracking, WASM_PAGE_BYTES};

use super::memory::{GIB, MIB, Memory};
use crate::cost::{Cost, Row};

const BYTES: usize = 4 * GIB;
const ROUNDS: usize = 25;

pub(super) fn measure(contender: &str) -> Result<Vec<Row>> {
    match contender {
        "high-water" => ours(Policy::CommitMaximum, Tracking::Auto, &[10, 100, 1000]),
        "watermark" => ours(Policy::Declared, Tracking::Auto, &[0, 10, 100, 1000]),
        "everything" => ours(Policy::Declared, Tracking::Off, &[4096]),
        "memset" => memset(),
        "scan" => scan(),
        other => bail!("no contender {other:?}"),
    }
}

/// Lends a memory, writes to its start, and measures the time to return it.
fn ours(policy: Policy, tracking: Tracking, sizes: &[usize]) -> Result<Vec<Row>> {
    let pool = MemoryPool::builder()
        .policy(policy)
        .tracking(tracking)
        .secure()?;
    let mut rows = Vec::new();
    for &mib in sizes {
        let mut costs = Vec::new();
        // The first blocks of a size move the watermark to its place.
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
        rows.push((mib, Cost::median(&costs)));
    }
    if tracking == Tracking::Auto && pool.statistics().full_resets > 0 {
        bail!("writes cannot be tracked on this machine");
    }
    Ok(rows)
}

/// Zeroes the same sizes, in memory that is committed like the pool's.
fn memset() -> Result<Vec<Row>> {
    let mut memory = Memory::new(BYTES);
    collapse(memory.bytes())?;
    let mut rows = Vec::new();
    for mib in [10, 100, 1000, 4096] {
        let mut costs = Vec::new();
        for _ in 0..ROUNDS {
            memory.fill(mib * MIB, 0xa5);
            costs.push(Cost::of(|| {
                memory.fill(mib * MIB, 0);
                Ok(())
            })?);
        }
        rows.push((mib, Cost::median(&costs)));
    }
    Ok(rows)
}

/// Scans tracked memory that was not written.
fn scan() -> Result<Vec<Row>> {
    let mut memory = Memory::new(BYTES);
    collapse(memory.bytes())?;
    let tracked = Tracked::new(memory.bytes())?;
    let mut costs = Vec::new();
    for _ in 0..ROUNDS {
        let mut written = 0;
        costs.push(Cost::of(|| {
            written = tracked.written_bytes()?;
            Ok(())
        })?);
        if written > 0 {
            bail!("{written} bytes count as written, and none were");
        }
    }
    Ok(vec![(BYTES / MIB, Cost::median(&costs))])
}
