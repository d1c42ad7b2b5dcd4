//! Limits of cgroup version 1.

use std::path::{Path, PathBuf};

use crate::error::SecureError;
use crate::limits::cgroup::Cgroups;
use crate::limits::files::{self, Files};
use crate::limits::limit::{CgroupVersion, Limit, Reading};

/// Version 1 writes "no limit" as the largest multiple of the operating system's page below
/// 2^63. Pages are at most 64 KiB.
const V1_NO_LIMIT: u64 = (1 << 63) - (64 << 10);

/// The names of reclaimable page cache. These totals include the group's descendants, as its usage
/// does.
const CACHE: [&str; 2] = ["total_inactive_file", "total_active_file"];

/// Reads the limits of `groups`, the process's own first.
pub(crate) fn read(
    files: &Files,
    groups: &[PathBuf],
    found: &mut Cgroups,
) -> Result<(), SecureError> {
    let Some(own) = groups.first() else {
        return Ok(());
    };
    let stat = own.join("memory.stat");
    let text = found.text(files, &stat)?;
    for (kind, effective_name) in [
        ("memory", "hierarchical_memory_limit"),
        ("memory.memsw", "hierarchical_memsw_limit"),
    ] {
        let usage = format!("{kind}.usage_in_bytes");
        let mut tightest_visible = V1_NO_LIMIT;
        let mut outermost = None;
        for (depth, group) in groups.iter().enumerate() {
            // On old kernels an ancestor need not account for its descendants.
            let hierarchy = found.text(files, &group.join("memory.use_hierarchy"))?;
            if depth > 0 && hierarchy.as_deref().map(str::trim) == Some("0") {
                break;
            }
            let file = group.join(format!("{kind}.limit_in_bytes"));
            let Some(text) = found.text(files, &file)? else {
                continue;
            };
            outermost = Some(group);
            let bytes = files::number(&file, &text)?;
            if bytes >= V1_NO_LIMIT {
                continue;
            }
            tightest_visible = tightest_visible.min(bytes);
            let version = CgroupVersion::V1;
            let limit = Limit::Cgroup { version, file };
            read_usage(files, group, &usage, limit, bytes, found)?;
        }

        // The kernel reports the smallest limit of all ancestors, those above the mount included.
        let effective = match &text {
            Some(text) => files::keyed_number(&stat, text, effective_name)?,
            None => None,
        };
        if kind == "memory" && effective.is_none() {
            found.visibility.reduce(format!(
                "{} does not report the limits of parent groups",
                stat.display()
            ));
        }
        if let (Some(effective), Some(outermost)) = (effective, outermost)
            && effective < tightest_visible
        {
            // The usage of the hidden group is unknown. The outermost visible group is a part of
            // it, so its usage is the best lower bound.
            let limit = Limit::CgroupHidden { file: stat.clone() };
            read_usage(files, outermost, &usage, limit, effective, found)?;
        }
    }
    Ok(())
}

/// Reads the usage of a group under one of its limits.
fn read_usage(
    files: &Files,
    group: &Path,
    usage: &str,
    limit: Limit,
    limit_bytes: u64,
    found: &mut Cgroups,
) -> Result<(), SecureError> {
    let usage = group.join(usage);
    // Without its usage, a limit still refuses what is larger than all of it.
    let in_use_bytes = match found.text(files, &usage)? {
        Some(text) => files::number(&usage, &text)?,
        None => 0,
    };
    let reclaimable = super::page_cache(files, group, CACHE)?;
    let reading = Reading::new(limit, limit_bytes, in_use_bytes, reclaimable);
    let drift_bytes = super::drift_bytes(files);
    found.readings.push(reading.drifting(drift_bytes));
    Ok(())
}
