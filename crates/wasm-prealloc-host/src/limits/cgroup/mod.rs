//! Finds this process's memory cgroups, version 1 and 2, and reads the limits of each group from
//! the process's own up to the topmost visible one.
//!
//! Other limits, and the comparison with a need, are in `headroom`.

mod locate;
mod v1;
mod v2;

use std::path::{Path, PathBuf};

use crate::error::SecureError;
use crate::limits::files::{self, Files};
use crate::limits::limit::{CgroupVersion, Reading};
use crate::limits::visibility::Visibility;
use crate::sys;

/// The limits of the memory cgroups that bind this process.
#[derive(Debug, Default)]
pub(crate) struct Cgroups {
    pub(crate) readings: Vec<Reading>,
    pub(crate) visibility: Visibility,
    /// The page cache that `memory.min` keeps from the whole machine.
    pub(crate) protected_bytes: u64,
    /// The interface of the groups, if the kernel has memory cgroups.
    pub(crate) version: Option<CgroupVersion>,
    /// The directories of the groups, the process's own first.
    pub(crate) groups: Vec<PathBuf>,
}

/// Reads the limits of version 2 on huge pages.
pub(crate) fn huge_pages(files: &Files, cgroups: &Cgroups) -> Result<Vec<Reading>, SecureError> {
    match cgroups.version {
        Some(CgroupVersion::V2) => v2::huge_pages(files, &cgroups.groups),
        _ => Ok(Vec::new()),
    }
}

impl Cgroups {
    pub(crate) fn unknown(why: impl Into<String>) -> Cgroups {
        Cgroups {
            visibility: Visibility::Unknown(why.into()),
            ..Cgroups::default()
        }
    }

    /// Reads them. A file that cannot be read makes them partly visible or unknown; a file that has
    /// an unexpected format is an error.
    pub(crate) fn read(files: &Files) -> Result<Cgroups, SecureError> {
        let path = Path::new("/proc/self/cgroup");
        let groups = match files.read_optional(path) {
            Ok(Some(groups)) => groups,
            Ok(None) if has_no_cgroups(files) => return Ok(Cgroups::default()),
            Ok(None) => return Ok(Cgroups::unknown("there is no /proc/self/cgroup")),
            Err(error) => return Ok(Cgroups::unknown(files::reason(&error))),
        };
        let Some((version, group)) = memory_group(&groups) else {
            // The memory controller belongs to no hierarchy that was ever mounted, so every process
            // is in its root, which has no limits.
            return Ok(Cgroups::default());
        };
        if version == CgroupVersion::V2 && is_disabled(files) {
            return Ok(Cgroups::default());
        }
        let mounts = match files.read(Path::new("/proc/self/mountinfo")) {
            Ok(mounts) => mounts,
            Err(error) => return Ok(Cgroups::unknown(files::reason(&error))),
        };
        let located = locate::locate(files, &mounts, version, Path::new(group));
        let mut found = Cgroups {
            visibility: located.visibility,
            version: Some(version),
            ..Cgroups::default()
        };
        match version {
            CgroupVersion::V1 => v1::read(files, &located.groups, &mut found)?,
            CgroupVersion::V2 => v2::read(files, &located.groups, &mut found)?,
        }
        for reading in &mut found.readings {
            reading.counts_huge_pages = located.counts_huge_pages;
        }
        found.groups = located.groups;
        Ok(found)
    }

    /// Reads a file of a group, or records that it cannot be read.
    fn text(&mut self, files: &Files, path: &Path) -> Result<Option<String>, SecureError> {
        match files.read_optional(path) {
            Err(error) if !files::is_malformed(&error) => {
                self.visibility.reduce(files::reason(&error));
                Ok(None)
            }
            result => result,
        }
    }
}

/// Returns the group of this process in the hierarchy that has the memory controller, from lines of
/// `hierarchy:controllers:path`. The controller is in one hierarchy only: that of version 2, unless
/// a line of version 1 names it.
fn memory_group(groups: &str) -> Option<(CgroupVersion, &str)> {
    let mut unified = None;
    for line in groups.lines() {
        // The path may contain colons.
        let fields: Vec<&str> = line.splitn(3, ':').collect();
        match fields[..] {
            ["0", "", path] => unified = Some((CgroupVersion::V2, path)),
            [_, controllers, path] if controllers.split(',').any(|name| name == "memory") => {
                return Some((CgroupVersion::V1, path));
            }
            _ => {}
        }
    }
    unified
}

/// Returns true if the kernel was built without cgroups.
fn has_no_cgroups(files: &Files) -> bool {
    let known = files.read_if_possible(Path::new("/proc/filesystems"));
    known.is_some_and(|known| {
        let mut names = known
            .lines()
            .filter_map(|line| line.split_whitespace().last());
        !names.any(|name| name.starts_with("cgroup"))
    })
}

/// Returns true if the memory controller was turned off when the kernel was booted.
fn is_disabled(files: &Files) -> bool {
    let controllers = files.read_if_possible(Path::new("/proc/cgroups"));
    controllers.is_some_and(|controllers| {
        // Lines of name, hierarchy, number of groups, enabled.
        let fields = controllers.lines().map(str::split_whitespace);
        let mut memory = fields.filter(|fields| fields.clone().next() == Some("memory"));
        memory.any(|fields| fields.last() == Some("0"))
    })
}

/// Returns the expected drift of a group's usage. Each processor charges up to 64 pages in advance,
/// and the statistics lag by as much; small allocations of the host and of the kernel differ
/// between two runs.
fn drift_bytes(files: &Files) -> u64 {
    const BATCH_PAGES: u64 = 64;
    const SMALL_BYTES: u64 = 4 << 20;
    let batch = BATCH_PAGES * sys::page_bytes() as u64;
    SMALL_BYTES + 2 * batch * files.processors()
}

/// Reads the reclaimable page cache of a group. The kernel reclaims page cache, clean or dirty,
/// before it refuses memory to the group. It cannot reclaim memory of tmpfs, which these numbers do
/// not include. A kernel that does not report them counts as having nothing to reclaim.
///
/// File systems keep data for written pages (on ext4 a buffer head of 104 bytes for each 4 KiB,
/// measured as 2.6 % of the cache). It is freed with the pages, but version 1 does not distinguish
/// it from memory that cannot be reclaimed. So it is left out: that can refuse a need that would
/// fit, and never accepts one that does not.
fn page_cache(files: &Files, group: &Path, names: [&str; 2]) -> Result<u64, SecureError> {
    let stat = group.join("memory.stat");
    let text = match files.read_optional(&stat) {
        Ok(Some(text)) => text,
        Ok(None) => return Ok(0),
        Err(error) if files::is_malformed(&error) => return Err(error),
        // Nothing to reclaim is the careful assumption.
        Err(_) => return Ok(0),
    };
    let number = |name| Ok(files::keyed_number(&stat, &text, name)?.unwrap_or(0));
    Ok(number(names[0])?.saturating_add(number(names[1])?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_with_the_memory_controller_is_found() {
        for (groups, expected) in [
            ("0::/a:b\n", Some((CgroupVersion::V2, "/a:b"))),
            ("4:cpu,memory:/x\n0::/\n", Some((CgroupVersion::V1, "/x"))),
            ("1:name=systemd:/\n", None),
            ("", None),
        ] {
            assert_eq!(memory_group(groups), expected, "{groups}");
        }
    }
}
