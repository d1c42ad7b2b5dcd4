//! Limits of cgroup version 2.

use std::path::{Path, PathBuf};

use crate::error::SecureError;
use crate::limits::cgroup::Cgroups;
use crate::limits::files::{self, Files};
use crate::limits::limit::{CgroupVersion, Limit, Reading};

/// The names of reclaimable page cache in `memory.stat`; see [`reclaimable`].
const CACHE: [&str; 2] = ["inactive_file", "active_file"];

/// Reads the limits of `groups`, the process's own first.
///
/// A group without the memory controller has no limits; those of the nearest ancestor with the
/// controller apply.
pub(crate) fn read(
    files: &Files,
    groups: &[PathBuf],
    found: &mut Cgroups,
) -> Result<(), SecureError> {
    for group in groups {
        // Above `high` the kernel does not refuse: it makes the process sleep, indefinitely if
        // nothing can be reclaimed. For a commit that is a limit like `max`.
        for name in ["memory.max", "memory.high"] {
            let file = group.join(name);
            let Some(text) = found.text(files, &file)? else {
                continue;
            };
            if text.trim() == "max" {
                continue;
            }
            let limit_bytes = files::number(&file, &text)?;
            let usage = group.join("memory.current");
            // Without its usage, a limit still refuses what is larger than all of it.
            let in_use_bytes = match found.text(files, &usage)? {
                Some(text) => files::number(&usage, &text)?,
                None => 0,
            };
            let cache = super::page_cache(files, group, CACHE)?;
            let reclaimable = match cache {
                0 => 0,
                _ => cache.saturating_sub(protected_cache(files, group, found)?),
            };
            let version = CgroupVersion::V2;
            let limit = Limit::Cgroup { version, file };
            let reading = Reading::new(limit, limit_bytes, in_use_bytes, reclaimable);
            let drift_bytes = super::drift_bytes(files);
            found.readings.push(reading.drifting(drift_bytes));
        }
    }
    match groups.last() {
        // Reclaim of the whole machine keeps to the protection of the topmost groups.
        Some(top) if is_root(files, top) => {
            found.protected_bytes = protected_cache(files, top, found)?;
        }
        Some(top) => found.visibility.reduce(format!(
            "{} is not the root of the cgroup v2 hierarchy, and version 2 does not report limits \
             above it",
            top.display()
        )),
        None => {}
    }
    Ok(())
}

/// Reads the limits of `groups` on huge pages. A mapping counts against the second of each when it
/// is made, and against the first when its pages are used.
pub(crate) fn huge_pages(files: &Files, groups: &[PathBuf]) -> Result<Vec<Reading>, SecureError> {
    const SIZES: [(&str, u64); 2] = [("2MB", 2 << 20), ("1GB", 1 << 30)];
    let mut readings = Vec::new();
    for group in groups {
        for (name, page_bytes) in SIZES {
            for kind in ["", ".rsvd"] {
                let prefix = format!("hugetlb.{name}{kind}");
                let file = group.join(format!("{prefix}.max"));
                let usage = group.join(format!("{prefix}.current"));
                let (Some(limit), Some(used)) = (
                    files.read_if_possible(&file),
                    files.read_if_possible(&usage),
                ) else {
                    continue;
                };
                if limit.trim() == "max" {
                    continue;
                }
                let (limit_bytes, in_use_bytes) =
                    (files::number(&file, &limit)?, files::number(&usage, &used)?);
                let limit = Limit::HugePagesCgroup { page_bytes, file };
                readings.push(Reading::new(limit, limit_bytes, in_use_bytes, 0));
            }
        }
    }
    Ok(readings)
}

/// Returns the page cache below a group that the kernel does not reclaim at the group's limit,
/// because `memory.min` of a group below it protects it.
///
/// The protection of the group itself does not count against its own limit. Of the groups below, it
/// is enough to read the children: a child distributes no more than its own protection, see
/// `effective_protection` in the kernel's `mm/page_counter.c`. The kernel reclaims from a child
/// until its usage is down to its protection, so that much of its page cache can be reclaimed. The
/// child that contains this process is treated alike: its usage only increases.
///
/// `memory.low` is not counted, because the kernel reclaims memory below it before it refuses.
fn protected_cache(files: &Files, group: &Path, found: &mut Cgroups) -> Result<u64, SecureError> {
    let mut sum = 0_u64;
    for child in files.directories(group) {
        let file = child.join("memory.min");
        let protection = match found.text(files, &file)? {
            None => continue,
            Some(text) if text.trim() == "max" => u64::MAX,
            Some(text) => files::number(&file, &text)?,
        };
        if protection == 0 {
            continue;
        }
        let usage = child.join("memory.current");
        let in_use_bytes = match found.text(files, &usage)? {
            Some(text) => files::number(&usage, &text)?,
            None => 0,
        };
        let cache = super::page_cache(files, &child, CACHE)?;
        let kept = cache
            .saturating_add(protection)
            .saturating_sub(in_use_bytes);
        sum = sum.saturating_add(kept.min(cache));
    }
    Ok(sum)
}

/// Returns true if a directory is the root of the hierarchy, which alone has neither of these
/// files.
fn is_root(files: &Files, directory: &Path) -> bool {
    let absent = |name| !files.exists(&directory.join(name));
    absent("cgroup.events") && absent("memory.max")
}
