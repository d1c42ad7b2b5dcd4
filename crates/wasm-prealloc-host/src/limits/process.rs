//! Limits of the process: rlimits, strict overcommit accounting, mappings and addresses.

use std::path::Path;

use crate::error::SecureError;
use crate::limits::files::{self, Files, Table};
use crate::limits::limit::{Limit, Reading, UserReserve};
use crate::sys;

/// The expected drift of the sizes of a process between two runs, and for each of its other threads
/// the address space of a stack and of an arena of the allocator.
const DRIFT_BYTES: u64 = 4 << 20;
const THREAD_ADDRESS_BYTES: u64 = 72 << 20;
const THREAD_DATA_BYTES: u64 = 3 << 20;

/// Reads the limits that count this process alone.
pub(crate) fn own(files: &Files) -> Result<Vec<Reading>, SecureError> {
    let limits_path = Path::new("/proc/self/limits");
    let limits = files.read(limits_path)?;
    let status = Table::read(files, "/proc/self/status")?;
    let threads = status.value("Threads").and_then(|count| count.parse().ok());
    let others = threads.unwrap_or(1_u64).saturating_sub(1);
    let mut readings = Vec::new();
    for (limit, name, used, a_thread) in [
        (
            Limit::AddressSpace,
            "Max address space",
            "VmSize",
            THREAD_ADDRESS_BYTES,
        ),
        (
            Limit::DataSegment,
            "Max data size",
            "VmData",
            THREAD_DATA_BYTES,
        ),
    ] {
        if let Some(bytes) = soft_limit(limits_path, &limits, name)? {
            let drift_bytes = DRIFT_BYTES.saturating_add(others.saturating_mul(a_thread));
            let reading = Reading::new(limit, bytes, status.bytes(used)?, 0);
            readings.push(reading.drifting(drift_bytes));
        }
    }
    // Sandboxes leave this line out of the files that they emulate, and limit nothing.
    if limits.contains("Max locked memory")
        && !has_capability(files, &status, CAP_IPC_LOCK)
        && let Some(bytes) = soft_limit(limits_path, &limits, "Max locked memory")?
    {
        let used = status.bytes("VmLck")?;
        readings.push(Reading::new(Limit::LockedMemory, bytes, used, 0));
    }
    readings.extend(of_mappings(files, &status)?);
    Ok(readings)
}

/// Reads strict overcommit accounting by the kernel's formula, `__vm_enough_memory` in `mm/util.c`:
/// `CommitLimit`, without the administrator's reserve for a process without `CAP_SYS_ADMIN`, and
/// without the user's reserve, must stay above `Committed_AS`.
pub(crate) fn overcommit(files: &Files) -> Result<Option<Reading>, SecureError> {
    let mode = files.read_if_possible(Path::new("/proc/sys/vm/overcommit_memory"));
    if mode.is_none_or(|mode| mode.trim() != "2") {
        return Ok(None);
    }
    let status = Table::read(files, "/proc/self/status")?;
    let meminfo = Table::read(files, "/proc/meminfo")?;
    let (limit, used) = (
        meminfo.bytes("CommitLimit")?,
        meminfo.bytes("Committed_AS")?,
    );
    let page = sys::page_bytes() as u64;
    let reserve = |name: &str| -> Result<u64, SecureError> {
        let path = Path::new("/proc/sys/vm").join(name);
        // A kernel without the setting keeps nothing.
        let text = files.read_if_possible(&path);
        let kib = text.map_or(Ok(0), |text| files::number(&path, &text))?;
        Ok(kib.saturating_mul(1024))
    };
    let admin = match has_capability(files, &status, CAP_SYS_ADMIN) {
        true => 0,
        false => reserve("admin_reserve_kbytes")?,
    };
    // The commit must stay below the limit, not reach it.
    let reading = Reading::new(Limit::Overcommit, limit, used, 0).keeping(admin + page);
    // The kernel compares a count to which each processor adds in batches: a 256th of the memory
    // for all of them, and at least 32 pages or 2 for each processor.
    let processors = files.processors();
    let least = processors.saturating_mul(page * (2 * processors).max(32));
    let batches = (meminfo.bytes("MemTotal")? / 256).max(least);
    let mut reading = reading.drifting(batches.saturating_add(DRIFT_BYTES));
    reading.user_reserve = Some(UserReserve {
        address_space_bytes: status.bytes("VmSize")?,
        most_bytes: reserve("user_reserve_kbytes")?,
    });
    Ok(Some(reading))
}

/// Reads the limit on mappings, and the addresses of a process.
fn of_mappings(files: &Files, status: &Table) -> Result<Vec<Reading>, SecureError> {
    let Some(maps) = files.read_if_possible(Path::new("/proc/self/maps")) else {
        return Ok(Vec::new());
    };
    let mut readings = Vec::new();
    let path = Path::new("/proc/sys/vm/max_map_count");
    if let Some(most) = files.read_if_possible(path) {
        let most = files::number(path, &most)?;
        // The kernel's own mapping of old system calls is listed and not counted.
        let mappings = maps.lines().filter(|line| !line.ends_with("[vsyscall]"));
        let reading = Reading::new(Limit::Mappings, most, mappings.count() as u64, 0);
        readings.push(reading.drifting(64));
    }
    if let Some(limit) = address_bytes(&maps) {
        let reading = Reading::new(Limit::Addresses, limit, status.bytes("VmSize")?, 0);
        // Gaps between mappings are not used completely, and a process with an unlimited stack gets
        // no new mappings in the lowest third.
        readings.push(reading.keeping(limit / 1024).drifting(limit / 3));
    }
    Ok(readings)
}

/// Returns the number of addresses of a process. The stack is below the highest address by less
/// than a part of it, so that is the next power of two: 2^47 on x86-64. A process with more address
/// bits gets those only if it passes an address to mmap(2).
fn address_bytes(maps: &str) -> Option<u64> {
    let mut mappings = maps.lines().filter(|line| !line.ends_with("[vsyscall]"));
    let last = mappings.next_back()?.split([' ', '-']).nth(1)?;
    u64::from_str_radix(last, 16)
        .ok()?
        .checked_next_power_of_two()
}

/// See capabilities(7).
const CAP_IPC_LOCK: u32 = 14;
const CAP_SYS_ADMIN: u32 = 21;

/// Returns true if the process has a capability in the initial user namespace, whose map contains
/// all users. The capabilities of another namespace lift no limit of memory.
fn has_capability(files: &Files, status: &Table, number: u32) -> bool {
    let map = files.read(Path::new("/proc/self/uid_map"));
    let is_initial = map.is_ok_and(|map| {
        let words: Vec<&str> = map.split_whitespace().collect();
        words == ["0", "0", "4294967295"]
    });
    let effective = status.value("CapEff");
    let effective = effective.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    is_initial && effective.is_some_and(|bits| bits >> number & 1 == 1)
}

/// Reads the soft limit in bytes of one line of `/proc/self/limits`; `None` if it is unlimited.
fn soft_limit(path: &Path, text: &str, name: &str) -> Result<Option<u64>, SecureError> {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next())
        .ok_or_else(|| files::malformed(path, format!("no line {name:?}")))?;
    match value {
        "unlimited" => Ok(None),
        value => files::number(path, value).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_reach_to_the_next_power_of_two_above_the_stack() {
        let stack = "7ffe17e00000-7ffe17e21000 rw-p 00000000 00:00 0 [stack]\n";
        let vdso = "7ffe17fe9000-7ffe17feb000 r-xp 00000000 00:00 0 [vdso]\n";
        let calls = "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]\n";
        let maps = format!("{stack}{vdso}{calls}");
        assert_eq!(address_bytes(&maps), Some(1 << 47));
        let small = "7fd1c95000-7fd1cb6000 rw-p 00000000 00:00 0 [stack]\n";
        assert_eq!(address_bytes(small), Some(1 << 39));
        assert_eq!(address_bytes(""), None);
    }
}
