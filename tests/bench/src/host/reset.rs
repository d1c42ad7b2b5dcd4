//! (c) Taking memory back, compared with the memset and the scan that it needs at least.

use anyhow::{Result, bail, ensure};
use wasm_prealloc_host::bare::{Tracked, collapse};
use wasm_prealloc_host::{DEFAULT_PAGES, MemoryPool, Policy, Tracking, WASM_PAGE_BYTES};

use super::memory::{GIB, MIB, Memory};
use crate::cost::{Cost, Row};

const BYTES: usize = 4 * GIB;
const ROUNDS: usize = 25;

pub(super) fn measure(contender: &str) -> Result<Vec<Row>> {
    match contender {
        "high-water" => ours(Policy::CommitMaximum, Tracking::Auto, &[10, 100, 1000]),
        "watermark" => ours(Policy::Declared, Tracking::Auto, &[0, 1, 10, 100, 1000]),
        "after-large" => after_large(),
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
        let minimum = match policy {
            Policy::Declared => DEFAULT_PAGES,
            _ => (mib * MIB) as u64 / WASM_PAGE_BYTES,
        };
        // The first blocks of a size move the watermark to its place.
        let cost = Cost::repeated(5, ROUNDS, || {
            let mut memory = pool.lend(minimum, Some(DEFAULT_PAGES))?;
            memory.bytes_mut()[..mib * MIB].fill(0xa5);
            Cost::of(|| {
                drop(memory);
                Ok(())
            })
        });
        rows.push((mib, cost?));
    }
    ensure!(
        tracking == Tracking::Off || pool.statistics().full_resets == 0,
        "writes cannot be tracked on this machine"
    );
    Ok(rows)
}

/// Measures the slowest reset of a block of 1 MiB after one block of 1000 MiB.
fn after_large() -> Result<Vec<Row>> {
    let pool = MemoryPool::builder().secure()?;
    let block = |mib: usize| {
        let mut memory = pool.lend(DEFAULT_PAGES, Some(DEFAULT_PAGES))?;
        memory.bytes_mut()[..mib * MIB].fill(0xa5);
        Cost::of(|| {
            drop(memory);
            Ok(())
        })
    };
    let mut slowest = Vec::new();
    for _ in 0..3 {
        for _ in 0..40 {
            block(1)?;
        }
        block(1000)?;
        let after = (0..90).map(|_| block(1)).collect::<Result<Vec<_>>>()?;
        let by_time = |one: &Cost, other: &Cost| one.cpu_seconds.total_cmp(&other.cpu_seconds);
        slowest.extend(after.into_iter().max_by(by_time));
    }
    ensure!(
        pool.tracking().is_some(),
        "writes cannot be tracked on this machine"
    );
    Ok(vec![(1, Cost::median(&slowest))])
}

/// Zeroes the same sizes, in memory that is committed like the pool's.
fn memset() -> Result<Vec<Row>> {
    let mut memory = Memory::new(BYTES);
    collapse(memory.bytes())?;
    let mut rows = Vec::new();
    for mib in [10, 100, 1000, 4096] {
        let cost = Cost::repeated(0, ROUNDS, || {
            memory.fill(mib * MIB, 0xa5);
            Cost::of(|| {
                memory.fill(mib * MIB, 0);
                Ok(())
            })
        });
        rows.push((mib, cost?));
    }
    Ok(rows)
}

/// Scans tracked memory that was not written.
fn scan() -> Result<Vec<Row>> {
    let mut memory = Memory::new(BYTES);
    collapse(memory.bytes())?;
    let tracked = Tracked::new(memory.bytes())?;
    let cost = Cost::repeated(0, ROUNDS, || {
        let mut written = 0;
        let cost = Cost::of(|| {
            written = tracked.written_bytes()?;
            Ok(())
        });
        ensure!(
            written == 0,
            "{written} bytes count as written, and none were"
        );
        cost
    });
    Ok(vec![(BYTES / MIB, cost?)])
}
