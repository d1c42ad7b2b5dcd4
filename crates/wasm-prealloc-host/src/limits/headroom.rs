//! What every limit leaves to this process now, and whether a need fits into it.
//!
//! Cgroups are read in `cgroup`. Nothing here allocates memory for a guest, and a reading is
//! only true for the moment: `secure` takes a lock around it.

use std::cmp::Reverse;
use std::path::Path;

use crate::error::{Error, Shortfall};
use crate::limits::cgroup;
use crate::limits::files::{self, Files};
use crate::limits::limit::{Limit, Reading};

/// Room for the small allocations that other threads make between check and commit, where the
/// margin for physical memory does not apply.
const SLACK_BYTES: u64 = 1 << 20;

/// What is needed, by the kind of limit that it counts against. All numbers are bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Need {
    /// Under cgroups and the machine's memory: pages, their page tables, and a margin.
    pub physical_bytes: u64,
    /// Under the address space limit: the whole reservation, guards included.
    pub address_space_bytes: u64,
    /// Under the data segment limit and strict overcommit: what is made writable.
    pub data_bytes: u64,
    /// Under the machine's pool of huge pages of [`huge_page_bytes`](Need::huge_page_bytes).
    pub huge_pool_bytes: u64,
    /// The size of a huge page, where the need is for such; otherwise 0.
    pub huge_page_bytes: u64,
    /// Under the locked memory limit.
    pub locked_bytes: u64,
}

impl Need {
    /// The need of committing `committed_bytes` in a new reservation of `reserved_bytes`.
    pub fn commit(committed_bytes: u64, reserved_bytes: u64, margin_bytes: u64) -> Need {
        Need {
            address_space_bytes: reserved_bytes.saturating_add(SLACK_BYTES),
            data_bytes: committed_bytes.saturating_add(SLACK_BYTES),
            ..Need::populate(committed_bytes, margin_bytes)
        }
    }

    /// The need of committing `remaining_bytes` of a mapping that is already writable.
    pub fn populate(remaining_bytes: u64, margin_bytes: u64) -> Need {
        Need {
            // Page tables are charged too: one entry of 8 bytes for each 4 KiB.
            physical_bytes: remaining_bytes
                .saturating_add(remaining_bytes / 512)
                .saturating_add(margin_bytes),
            address_space_bytes: 0,
            data_bytes: 0,
            huge_pool_bytes: 0,
            huge_page_bytes: 0,
            locked_bytes: 0,
        }
    }

    /// The same need, met by huge pages of the machine's pool, which cgroups and the machine's
    /// available memory do not count.
    pub fn in_huge_pages(self, page_bytes: u64, committed_bytes: u64, margin_bytes: u64) -> Need {
        Need {
            physical_bytes: margin_bytes,
            data_bytes: 0,
            huge_pool_bytes: committed_bytes,
            huge_page_bytes: page_bytes,
            ..self
        }
    }

    /// The same need, with `locked_bytes` of it to be kept from being swapped out.
    pub fn locked(self, locked_bytes: u64) -> Need {
        Need {
            locked_bytes,
            ..self
        }
    }

    /// The part of the need that counts against `limit`, in bytes.
    pub fn under(&self, limit: &Limit) -> u64 {
        match limit {
            Limit::Cgroup { .. } | Limit::CgroupHidden { .. } | Limit::Machine => {
                self.physical_bytes
            }
            Limit::AddressSpace => self.address_space_bytes,
            Limit::DataSegment | Limit::Overcommit => self.data_bytes,
            Limit::HugePages { page_bytes, .. } if *page_bytes == self.huge_page_bytes => {
                self.huge_pool_bytes
            }
            Limit::HugePages { .. } => 0,
            Limit::LockedMemory => self.locked_bytes,
        }
    }
}

/// All limits that bind this process, read one after the other. A limit that is set to
/// "unlimited" is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Headroom {
    /// The readings: cgroups from the process's own outwards, then the machine, then the
    /// process's own limits.
    pub readings: Vec<Reading>,
}

impl Headroom {
    /// Reads the limits of the running system. Elsewhere than on Linux none can be read, and
    /// there are no readings.
    ///
    /// # Errors
    ///
    /// [`Error::Unreadable`] where a file of `/proc` is missing, or a file that is there cannot
    /// be read or understood. A system without memory cgroups is no error.
    pub fn read() -> Result<Headroom, Error> {
        match cfg!(target_os = "linux") {
            true => Headroom::read_from(&Files::default()),
            false => Ok(Headroom {
                readings: Vec::new(),
            }),
        }
    }

    /// Reads the limits from the files below another root.
    ///
    /// # Errors
    ///
    /// As for [`Headroom::read`].
    pub fn read_from(files: &Files) -> Result<Headroom, Error> {
        let mut readings = cgroup::readings(files)?;
        let meminfo = Table::read(files, "/proc/meminfo")?;
        readings.push(machine(&meminfo)?);
        let limits_path = Path::new("/proc/self/limits");
        let limits = files.read(limits_path)?;
        let status = Table::read(files, "/proc/self/status")?;
        for (limit, name, used) in [
            (Limit::AddressSpace, "Max address space", "VmSize"),
            (Limit::DataSegment, "Max data size", "VmData"),
        ] {
            if let Some(limit_bytes) = soft_limit(limits_path, &limits, name)? {
                readings.push(Reading::new(limit, limit_bytes, status.bytes(used)?, 0));
            }
        }
        let mode = files.read_optional(Path::new("/proc/sys/vm/overcommit_memory"))?;
        if mode.is_some_and(|mode| mode.trim() == "2") {
            let limit_bytes = meminfo.bytes("CommitLimit")?;
            let in_use_bytes = meminfo.bytes("Committed_AS")?;
            let limit = Limit::Overcommit;
            readings.push(Reading::new(limit, limit_bytes, in_use_bytes, 0));
        }
        // Sandboxes leave this line out of the files that they make up, and need no lock.
        if limits.contains("Max locked memory")
            && !may_lock_memory(&status)
            && let Some(limit_bytes) = soft_limit(limits_path, &limits, "Max locked memory")?
        {
            let in_use_bytes = status.bytes("VmLck")?;
            readings.push(Reading::new(
                Limit::LockedMemory,
                limit_bytes,
                in_use_bytes,
                0,
            ));
        }
        for page_bytes in HUGE_PAGES {
            readings.extend(huge_pages(files, page_bytes)?);
        }
        Ok(Headroom { readings })
    }

    /// The limit that misses most of `need`, if any does.
    pub fn shortfall(&self, need: &Need) -> Option<Shortfall> {
        self.readings
            .iter()
            .map(|reading| Shortfall::new(reading, need.under(&reading.limit)))
            .filter(|shortfall| shortfall.missing_bytes() > 0)
            .min_by_key(|shortfall| Reverse(shortfall.missing_bytes()))
    }

    /// Whether `need` fits.
    ///
    /// # Errors
    ///
    /// [`Error::Shortfall`] with the limit that misses most.
    pub fn check(&self, need: &Need) -> Result<(), Error> {
        match self.shortfall(need) {
            Some(shortfall) => Err(Error::Shortfall(shortfall)),
            None => Ok(()),
        }
    }

    /// The cgroup limit that leaves least.
    pub(crate) fn nearest_cgroup(&self) -> Option<&Reading> {
        self.readings
            .iter()
            .filter(|reading| {
                matches!(
                    reading.limit,
                    Limit::Cgroup { .. } | Limit::CgroupHidden { .. }
                )
            })
            .min_by_key(|reading| reading.available_bytes)
    }
}

fn machine(meminfo: &Table) -> Result<Reading, Error> {
    let total = meminfo.bytes("MemTotal")?;
    let free = meminfo.bytes("MemFree")?;
    let available = meminfo.bytes("MemAvailable")?;
    // The kernel's own estimate: it knows which page cache and slab it would give back, and what
    // it keeps for itself. Only the split into free and reclaimable is ours.
    Ok(Reading {
        available_bytes: available,
        ..Reading::new(
            Limit::Machine,
            total,
            total.saturating_sub(free),
            available.saturating_sub(free),
        )
    })
}

/// The sizes of huge pages that memory can be had in.
const HUGE_PAGES: [u64; 2] = [2 << 20, 1 << 30];

/// The machine's pool of huge pages of one size, where the machine has such.
fn huge_pages(files: &Files, page_bytes: u64) -> Result<Option<Reading>, Error> {
    let name = format!("hugepages-{}kB", page_bytes >> 10);
    let pool = Path::new("/sys/kernel/mm/hugepages").join(name);
    if !files.is_directory(&pool) {
        return Ok(None);
    }
    let bytes = |name: &str| {
        let path = pool.join(name);
        let pages = files::number(&path, &files.read(&path)?)?;
        Ok(pages.saturating_mul(page_bytes))
    };
    let all = bytes("nr_hugepages")?;
    // Pages beyond the pool's own can be made when they are asked for, up to a number.
    let limit_bytes = (all - bytes("surplus_hugepages")?.min(all))
        .saturating_add(bytes("nr_overcommit_hugepages")?);
    // A mapping takes its pages out of the pool when it is made, and uses them when touched.
    let in_use_bytes =
        (all - bytes("free_hugepages")?.min(all)).saturating_add(bytes("resv_hugepages")?);
    let limit = Limit::HugePages { page_bytes, pool };
    Ok(Some(Reading::new(limit, limit_bytes, in_use_bytes, 0)))
}

/// Whether the process has the capability to lock memory without a limit, see capabilities(7).
fn may_lock_memory(status: &Table) -> bool {
    const CAP_IPC_LOCK: u32 = 14;
    let effective = status.text.lines().find_map(|line| {
        let digits = line.strip_prefix("CapEff:")?;
        u64::from_str_radix(digits.trim(), 16).ok()
    });
    effective.is_some_and(|bits| bits >> CAP_IPC_LOCK & 1 == 1)
}

/// The soft limit in bytes of one line of `/proc/self/limits`; nothing where it is unlimited.
fn soft_limit(path: &Path, text: &str, name: &str) -> Result<Option<u64>, Error> {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next())
        .ok_or_else(|| files::not_understood(path, format!("no line {name:?}")))?;
    match value {
        "unlimited" => Ok(None),
        value => files::number(path, value).map(Some),
    }
}

/// A file of lines `Name: value kB`.
struct Table<'p> {
    path: &'p Path,
    text: String,
}

impl<'p> Table<'p> {
    fn read(files: &Files, path: &'p str) -> Result<Table<'p>, Error> {
        let path = Path::new(path);
        let text = files.read(path)?;
        Ok(Table { path, text })
    }

    fn bytes(&self, name: &str) -> Result<u64, Error> {
        let value = self
            .text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| *key == name)
            .and_then(|(_, value)| value.trim().strip_suffix(" kB"))
            .ok_or_else(|| files::not_understood(self.path, format!("no line {name:?} in kB")))?;
        files::number(self.path, value)?
            .checked_mul(1024)
            .ok_or_else(|| files::not_understood(self.path, format!("{name} is too large")))
    }
}
