//! Limits of cgroup version 2.

use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::limits::cgroup::Cgroups;
use crate::limits::files::{self, Files};
use crate::limits::limit::{CgroupVersion, Limit, Reading};

/// The names of reclaimable page cache in `memory.stat`; see [`reclaimable`].
const CACHE: [&str; 2] = ["inactive_file", "active_file"];

/// Reads the limits of `groups`, the process's own first.
///
/// A group without the memory controller has no limits; those of the nearest ancestor with the
/// controller apply.
pub(crate) fn read(files: &Files, groups: &[PathBuf], found: &mut Cgroups) -> Result<(), Error> {
    for group in groups {
        // Above `high` the kernel does not refuse: it makes the process sleep, for ever if nothing
        // can be reclaimed. For a commit that is a limit like `max`.
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
            let reclaimable_bytes = super::page_cache(files, group, CACHE)?;
            let version = CgroupVersion::V2;
            let limit = Limit::Cgroup { version, file };
            let reading = Reading::new(limit, limit_bytes, in_use_bytes, reclaimable_bytes);
            found.readings.push(reading);
        }
    }
    if let Some(top) = groups.last()
        && !is_root(files, top)
    {
        found.visibility.reduce(format!(
            "{} is not the root of the cgroup v2 hierarchy, and version 2 does not report limits \
             above it",
            top.display()
        ));
    }
    Ok(())
}

/// Returns true if a directory is the root of the hierarchy, which alone has neither of these files.
fn is_root(files: &Files, directory: &Path) -> bool {
    let absent = |name| !files.exists(&directory.join(name));
    absent("cgroup.events") && absent("memory.max")
}
