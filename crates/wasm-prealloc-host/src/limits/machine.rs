//! Limits of the machine: its memory, the NUMA nodes that the process may use, and its pools of
//! huge pages.

use std::path::{Path, PathBuf};

use crate::error::SecureError;
use crate::limits::files::{self, Files, Table};
use crate::limits::limit::{Limit, Reading};
use crate::sys;

/// The expected drift of the machine's available memory.
const DRIFT_BYTES: u64 = 32 << 20;

/// Reads the memory of the machine, and of the nodes that the process may use if they are not all.
/// `protected_bytes` of page cache are not reclaimable.
pub(crate) fn memory(files: &Files, protected_bytes: u64) -> Result<Vec<Reading>, SecureError> {
    let meminfo = Table::read(files, "/proc/meminfo")?;
    let mut readings = vec![machine(&meminfo, protected_bytes)?];
    readings.extend(nodes(files, protected_bytes)?);
    Ok(readings)
}

fn machine(meminfo: &Table, protected_bytes: u64) -> Result<Reading, SecureError> {
    let total = meminfo.bytes("MemTotal")?;
    let free = meminfo.bytes("MemFree")?;
    let available = meminfo.bytes("MemAvailable")?;
    let used = total.saturating_sub(free);
    let reclaimable = available
        .saturating_sub(free)
        .saturating_sub(protected_bytes);
    let mut reading = Reading::new(Limit::Machine, total, used, reclaimable);
    // The available part is the kernel's own estimate: it knows which page cache and slab it can
    // reclaim, and what it keeps for itself. Only the split into free and reclaimable is computed
    // here.
    reading.available_bytes = available.saturating_sub(protected_bytes);
    Ok(reading.drifting(DRIFT_BYTES))
}

const NODES: &str = "/sys/devices/system/node";

/// Returns the NUMA nodes that the process may use, or `None` if it may use all of them.
fn allowed_nodes(files: &Files) -> Result<Option<Vec<usize>>, SecureError> {
    let with_memory = files.read_if_possible(&Path::new(NODES).join("has_memory"));
    let Some(with_memory) = with_memory else {
        return Ok(None);
    };
    let status = Table::read(files, "/proc/self/status")?;
    let allowed = status.value("Mems_allowed_list").and_then(files::list);
    let (Some(all), Some(mut allowed)) = (files::list(&with_memory), allowed) else {
        return Ok(None);
    };
    if files.is_running_system()
        && let Some(bound) = sys::bound_nodes()
    {
        allowed.retain(|node| bound.contains(node));
    }
    allowed.retain(|node| all.contains(node));
    Ok((!allowed.is_empty() && allowed.len() < all.len()).then_some(allowed))
}

/// Reads the memory of the NUMA nodes that the process may use. Returns `None` if it may use all of
/// them.
fn nodes(files: &Files, protected_bytes: u64) -> Result<Option<Reading>, SecureError> {
    let Some(allowed) = allowed_nodes(files)? else {
        return Ok(None);
    };
    let folder = Path::new(NODES);
    let mut sums = [0_u64; 3];
    for node in &allowed {
        let meminfo = Table::read(files, folder.join(format!("node{node}/meminfo")))?;
        let cache = meminfo
            .bytes("Active(file)")?
            .saturating_add(meminfo.bytes("Inactive(file)")?);
        for (sum, bytes) in
            sums.iter_mut()
                .zip([meminfo.bytes("MemTotal")?, meminfo.bytes("MemFree")?, cache])
        {
            *sum = sum.saturating_add(bytes);
        }
    }
    let [total, free, cache] = sums;
    // As the kernel estimates `MemAvailable`: it keeps the reserve of each zone, and half of the
    // page cache up to the low watermark. Reclaimable slab memory is not counted here.
    let kept = zones(files, &allowed, total);
    let unreclaimable = (cache / 2)
        .min(kept.low_bytes)
        .saturating_add(protected_bytes);
    let names: Vec<String> = allowed.iter().map(usize::to_string).collect();
    let limit = Limit::Numa {
        nodes: names.join(","),
    };
    let used = total.saturating_sub(free);
    let reading = Reading::new(limit, total, used, cache.saturating_sub(unreclaimable));
    Ok(Some(
        reading.keeping(kept.reserve_bytes).drifting(DRIFT_BYTES),
    ))
}

/// The parts of some nodes that the kernel keeps free, in bytes.
#[derive(Default)]
struct Zones {
    reserve_bytes: u64,
    low_bytes: u64,
}

/// Reads them from `/proc/zoneinfo`. If it cannot be read, a 64th of the memory is assumed.
fn zones(files: &Files, nodes: &[usize], total_bytes: u64) -> Zones {
    let Ok(text) = files.read(Path::new("/proc/zoneinfo")) else {
        return Zones {
            reserve_bytes: total_bytes / 64,
            low_bytes: total_bytes / 64,
        };
    };
    let page = sys::page_bytes() as u64;
    let mut sum = Zones::default();
    let mut counted = false;
    let (mut high, mut managed) = (0_u64, 0_u64);
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("Node ") {
            let node = rest.split(',').next().and_then(|node| node.parse().ok());
            counted = node.is_some_and(|node| nodes.contains(&node));
            (high, managed) = (0, 0);
        }
        let mut words = line.split_whitespace();
        let (Some(key), Some(value), true) = (words.next(), words.next(), counted) else {
            continue;
        };
        let pages = value.parse().unwrap_or(0_u64);
        match key {
            "high" => high = pages,
            "managed" => managed = pages,
            "low" => sum.low_bytes = sum.low_bytes.saturating_add(pages.saturating_mul(page)),
            "protection:" => {
                let digits = line.split(|c: char| !c.is_ascii_digit());
                let most = digits.filter_map(|number| number.parse().ok()).max();
                let kept = high.saturating_add(most.unwrap_or(0_u64)).min(managed);
                sum.reserve_bytes = sum.reserve_bytes.saturating_add(kept.saturating_mul(page));
            }
            _ => {}
        }
    }
    sum
}

/// The sizes of huge pages that memory can be backed by.
const HUGE_PAGES: [u64; 2] = [2 << 20, 1 << 30];

/// Reads the machine's pools of huge pages, or those of the only node that the process may use.
pub(crate) fn huge_pools(files: &Files) -> Result<Vec<Reading>, SecureError> {
    let machine = Path::new("/sys/kernel/mm/hugepages");
    let folder = match allowed_nodes(files)?.as_deref() {
        Some([node]) => Path::new(NODES).join(format!("node{node}/hugepages")),
        _ => machine.to_owned(),
    };
    let mut readings = Vec::new();
    for page_bytes in HUGE_PAGES {
        let name = format!("hugepages-{}kB", page_bytes >> 10);
        let pool = folder.join(&name);
        if files.is_directory(&pool) {
            let machine = machine.join(&name);
            // The kernel refuses pages of a pool that cannot be read, without a kill.
            match huge_pool(files, page_bytes, pool, &machine) {
                Err(error) if !files::is_malformed(&error) => {}
                reading => readings.push(reading?),
            }
        }
    }
    Ok(readings)
}

/// Reads one pool. Only the whole machine has numbers of reserved pages and of pages on demand.
fn huge_pool(
    files: &Files,
    page_bytes: u64,
    pool: PathBuf,
    machine: &Path,
) -> Result<Reading, SecureError> {
    let bytes = |folder: &Path, name: &str| {
        let path = folder.join(name);
        let pages = files::number(&path, &files.read(&path)?)?;
        Ok(pages.saturating_mul(page_bytes))
    };
    let all = bytes(&pool, "nr_hugepages")?;
    // The kernel makes pages beyond the pool's own on demand, up to a number.
    let limit_bytes = (all - bytes(&pool, "surplus_hugepages")?.min(all))
        .saturating_add(bytes(machine, "nr_overcommit_hugepages")?);
    // A mapping reserves its pages when it is made, and uses them when they are touched.
    let in_use_bytes = (all - bytes(&pool, "free_hugepages")?.min(all))
        .saturating_add(bytes(machine, "resv_hugepages")?);
    let limit = Limit::HugePages { page_bytes, pool };
    Ok(Reading::new(limit, limit_bytes, in_use_bytes, 0))
}
