//! Reads what every limit leaves to this process now, and compares it with a need.
//!
//! Cgroups are read in `cgroup`. A reading is true only at its moment, so `secure` holds a lock
//! from the reading to the end of the commit.

use std::cmp::Reverse;
use std::path::Path;

use crate::error::Error;
use crate::limits::cgroup::Cgroups;
use crate::limits::files::{self, Files};
use crate::limits::limit::{Limit, Reading};
use crate::limits::shortfall::Shortfall;
use crate::limits::visibility::Visibility;
use crate::sys;

/// Room for small allocations of other threads between check and commit, under the limits that the
/// margin for physical memory does not apply to.
const SLACK_BYTES: u64 = 1 << 20;

/// The memory that is needed under each kind of limit. All numbers are bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Need {
    /// Under cgroups and the machine's memory: the pages, their page tables, and a margin.
    pub physical_bytes: u64,
    /// Under the address space limit: the whole reservation, guards included.
    pub address_space_bytes: u64,
    /// Under the data segment limit and strict overcommit: the memory that becomes writable.
    pub data_bytes: u64,
    /// Under the machine's pool of huge pages of [`huge_page_bytes`](Need::huge_page_bytes).
    pub huge_pool_bytes: u64,
    /// The size of a huge page of that pool, or 0 if none are needed.
    pub huge_page_bytes: u64,
    /// Under the locked memory limit.
    pub locked_bytes: u64,
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

    /// Returns the part of the need that counts against `limit`, in bytes.
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

/// Readings of all limits that bind this process. A limit that is set to "unlimited" is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Headroom {
    /// The readings: cgroups from the process's own outwards, then the machine, then the limits of
    /// the process.
    pub readings: Vec<Reading>,
    /// The part of the cgroup limits that could be read.
    pub visibility: Visibility,
}

impl Headroom {
    /// Reads the limits of the running system. Only Linux has readable limits; on other systems
    /// there are no readings.
    ///
    /// # Errors
    /// [`Error::Unreadable`] if a file of `/proc` is missing or cannot be read, or a file cannot be
    /// parsed. A cgroup that cannot be found or read is not an error: it is reported as
    /// [`Visibility`].
    pub fn read() -> Result<Headroom, Error> {
        match sys::HAS_LIMIT_FILES {
            true => Headroom::read_from(&Files::default()),
            false => Ok(Headroom {
                readings: vec![],
                visibility: Visibility::Complete,
            }),
        }
    }

    /// Reads the limits from the files under another root.
    ///
    /// # Errors
    /// As for [`Headroom::read`].
    pub fn read_from(files: &Files) -> Result<Headroom, Error> {
        let Cgroups {
            mut readings,
            visibility,
            ..
        } = Cgroups::read(files)?;
        let meminfo = Table::read(files, "/proc/meminfo")?;
        readings.push(machine(&meminfo)?);
        let limits_path = Path::new("/proc/self/limits");
        let limits = files.read(limits_path)?;
        let status = Table::read(files, "/proc/self/status")?;
        for (limit, name, used) in [
            (Limit::AddressSpace, "Max address space", "VmSize"),
            (Limit::DataSegment, "Max data size", "VmData"),
        ] {
            if let Some(bytes) = soft_limit(limits_path, &limits, name)? {
                readings.push(Reading::new(limit, bytes, status.bytes(used)?, 0));
            }
        }
        let mode = files.read_optional(Path::new("/proc/sys/vm/overcommit_memory"))?;
        if mode.is_some_and(|mode| mode.trim() == "2") {
            let bytes = meminfo.bytes("CommitLimit")?;
            let used = meminfo.bytes("Committed_AS")?;
            readings.push(Reading::new(Limit::Overcommit, bytes, used, 0));
        }
        // Sandboxes leave this line out of the files that they emulate, and limit nothing.
        if limits.contains("Max locked memory")
            && !may_lock_memory(&status)
            && let Some(bytes) = soft_limit(limits_path, &limits, "Max locked memory")?
        {
            let used = status.bytes("VmLck")?;
            readings.push(Reading::new(Limit::LockedMemory, bytes, used, 0));
        }
        for page_bytes in HUGE_PAGES {
            readings.extend(huge_pages(files, page_bytes)?);
        }
        Ok(Headroom {
            readings,
            visibility,
        })
    }

    /// Returns the limit that is exceeded most by `need`, if any is.
    pub fn shortfall(&self, need: &Need) -> Option<Shortfall> {
        self.readings
            .iter()
            .map(|reading| Shortfall::new(reading, need.under(&reading.limit)))
            .filter(|shortfall| shortfall.missing_bytes() > 0)
            .min_by_key(|shortfall| Reverse(shortfall.missing_bytes()))
    }

    /// Checks that `need` fits.
    ///
    /// # Errors
    /// [`Error::Shortfall`] with the limit that is exceeded most.
    pub fn check(&self, need: &Need) -> Result<(), Error> {
        match self.shortfall(need) {
            Some(shortfall) => Err(Error::Shortfall(shortfall)),
            None => Ok(()),
        }
    }

    /// Returns the cgroup limit that leaves least.
    pub(crate) fn nearest_cgroup(&self) -> Option<&Reading> {
        use Limit::{Cgroup, CgroupHidden};
        let readings = self.readings.iter();
        readings
            .filter(|reading| matches!(reading.limit, Cgroup { .. } | CgroupHidden { .. }))
            .min_by_key(|reading| reading.available_bytes)
    }
}

fn machine(meminfo: &Table) -> Result<Reading, Error> {
    let total = meminfo.bytes("MemTotal")?;
    let free = meminfo.bytes("MemFree")?;
    let available = meminfo.bytes("MemAvailable")?;
    let used = total.saturating_sub(free);
    let mut reading = Reading::new(Limit::Machine, total, used, available.saturating_sub(free));
    // The available part is the kernel's own estimate: it knows which page cache and slab it can
    // reclaim, and what it keeps for itself. Only the split into free and reclaimable is ours.
    reading.available_bytes = available;
    Ok(reading)
}

/// The sizes of huge pages that memory can be backed by.
const HUGE_PAGES: [u64; 2] = [2 << 20, 1 << 30];

/// Reads the machine's pool of huge pages of one size, if there is one.
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
    // The kernel makes pages beyond the pool's own on demand, up to a number.
    let limit_bytes = (all - bytes("surplus_hugepages")?.min(all))
        .saturating_add(bytes("nr_overcommit_hugepages")?);
    // A mapping reserves its pages when it is made, and uses them when they are touched.
    let in_use_bytes =
        (all - bytes("free_hugepages")?.min(all)).saturating_add(bytes("resv_hugepages")?);
    let limit = Limit::HugePages { page_bytes, pool };
    Ok(Some(Reading::new(limit, limit_bytes, in_use_bytes, 0)))
}

/// Returns true if the process has the capability to lock memory without a limit, see
/// capabilities(7).
fn may_lock_memory(status: &Table) -> bool {
    const CAP_IPC_LOCK: u32 = 14;
    let effective = status.text.lines().find_map(|line| {
        let digits = line.strip_prefix("CapEff:")?;
        u64::from_str_radix(digits.trim(), 16).ok()
    });
    effective.is_some_and(|bits| bits >> CAP_IPC_LOCK & 1 == 1)
}

/// Reads the soft limit in bytes of one line of `/proc/self/limits`; `None` if it is unlimited.
fn soft_limit(path: &Path, text: &str, name: &str) -> Result<Option<u64>, Error> {
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
            .ok_or_else(|| files::malformed(self.path, format!("no line {name:?} in kB")))?;
        files::number(self.path, value)?
            .checked_mul(1024)
            .ok_or_else(|| files::malformed(self.path, format!("{name} is too large")))
    }
}
