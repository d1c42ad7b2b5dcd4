//! Finds this process's memory cgroups, version 1 and 2, and reads the limits of each group from
//! its own up to the mount point.
//!
//! Other limits, and what is compared with them, are in `headroom`.

use std::path::{Component, Path, PathBuf};

use crate::error::Error;
use crate::limits::files::{self, Files};
use crate::limits::limit::{CgroupVersion, Limit, Reading};

/// Version 1 writes "no limit" as the largest multiple of the operating system's page below
/// 2^63. Pages are at most 64 KiB.
const V1_NO_LIMIT: u64 = (1 << 63) - (64 << 10);

/// The limits of all memory cgroups that bind this process and are visible to it. A system
/// without cgroups has none.
pub(crate) fn readings(files: &Files) -> Result<Vec<Reading>, Error> {
    let groups = Path::new("/proc/self/cgroup");
    let mounts = Path::new("/proc/self/mountinfo");
    let Some(groups) = files.read_optional(groups)? else {
        return Ok(Vec::new());
    };
    let Some(mounts) = files.read_optional(mounts)? else {
        return Ok(Vec::new());
    };
    let mounts: Vec<Mount> = mounts.lines().filter_map(Mount::parse).collect();

    let mut readings = Vec::new();
    for line in groups.lines() {
        // hierarchy:controllers:path, and the path may hold colons.
        let mut fields = line.splitn(3, ':');
        let (Some(hierarchy), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let version = if hierarchy == "0" && controllers.is_empty() {
            CgroupVersion::V2
        } else if controllers.split(',').any(|name| name == "memory") {
            CgroupVersion::V1
        } else {
            continue;
        };
        let Some(found) = locate(files, &mounts, version, Path::new(path)) else {
            continue;
        };
        match version {
            CgroupVersion::V1 => read_v1(files, &found, &mut readings)?,
            CgroupVersion::V2 => read_v2(files, &found, &mut readings)?,
        }
    }
    Ok(readings)
}

/// One line of `/proc/self/mountinfo` that mounts a cgroup file system with, possibly, the memory
/// controller.
struct Mount {
    version: CgroupVersion,
    /// Which group of the hierarchy is seen at `point`.
    root: PathBuf,
    point: PathBuf,
}

impl Mount {
    fn parse(line: &str) -> Option<Mount> {
        // Optional fields stand before the dash, so the two halves are counted separately.
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let (root, point) = (before.next()?, before.next()?);
        let mut after = after.split(' ');
        let (kind, _source, options) = (after.next()?, after.next()?, after.next()?);
        let version = match kind {
            "cgroup2" => CgroupVersion::V2,
            "cgroup" if options.split(',').any(|option| option == "memory") => CgroupVersion::V1,
            _ => return None,
        };
        Some(Mount {
            version,
            root: unescape(root),
            point: unescape(point),
        })
    }
}

/// mountinfo writes blanks, tabs, newlines and backslashes as three octal digits.
fn unescape(field: &str) -> PathBuf {
    let bytes = field.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'\\')
            .then(|| field.get(at + 1..at + 4))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match escaped {
            Some(byte) => {
                plain.push(byte);
                at += 4;
            }
            None => {
                plain.push(bytes[at]);
                at += 1;
            }
        }
    }
    PathBuf::from(String::from_utf8_lossy(&plain).into_owned())
}

/// The directories of the process's group and its ancestors, the group's own first and the mount
/// point last.
fn locate(
    files: &Files,
    mounts: &[Mount],
    version: CgroupVersion,
    group: &Path,
) -> Option<Vec<PathBuf>> {
    let mounts = || mounts.iter().filter(|mount| mount.version == version);
    // Of the mounts that hold the group, the one with the shortest root shows most ancestors. A
    // mount can be covered by another at the same place, as where a container's own group is put
    // over the whole hierarchy: nothing can be read through it, so it comes last.
    let holding = mounts()
        .filter_map(|mount| Some((mount, below(group, &mount.root)?)))
        .min_by_key(|(mount, inside)| {
            let covered = !files.is_directory(&mount.point.join(inside));
            (covered, mount.root.components().count())
        });
    let (point, inside) = match holding {
        Some((mount, inside)) => (mount.point.clone(), inside),
        None => {
            // The path and the mount belong to different cgroup namespaces. A path that exists
            // below the mount is taken at its word. Otherwise the mount point itself has the only
            // limits in sight: a container's usually are the process's own, and refusing for a
            // limit that is not ours is better than being killed by one that is.
            let mount = mounts().next_back()?;
            let visible = below(group, Path::new("/"))
                .filter(|inside| files.is_directory(&mount.point.join(inside)));
            (mount.point.clone(), visible.unwrap_or_default())
        }
    };
    let own = point.join(&inside);
    Some(
        own.ancestors()
            .take(inside.components().count() + 1)
            .map(Path::to_owned)
            .collect(),
    )
}

/// `group` relative to `root`, if it lies in it. A path that climbs (`/../x`) lies outside of
/// everything that has a name here.
fn below(group: &Path, root: &Path) -> Option<PathBuf> {
    let inside = group.strip_prefix(root).ok()?;
    let climbs = inside.components().any(|part| part == Component::ParentDir);
    (!climbs).then(|| inside.to_owned())
}

fn read_v2(files: &Files, groups: &[PathBuf], readings: &mut Vec<Reading>) -> Result<(), Error> {
    for group in groups {
        // Above `high` the kernel does not refuse: it makes the process sleep, without an end
        // where nothing can be reclaimed. For a commit that is a limit like `max`.
        for name in ["memory.max", "memory.high"] {
            let file = group.join(name);
            let Some(text) = files.read_optional(&file)? else {
                continue;
            };
            if text.trim() == "max" {
                continue;
            }
            let limit_bytes = files::number(&file, &text)?;
            let current = group.join("memory.current");
            let in_use_bytes = files::number(&current, &files.read(&current)?)?;
            let reclaimable = page_cache(files, group, ["inactive_file", "active_file"])?;
            let limit = Limit::Cgroup {
                version: CgroupVersion::V2,
                file,
            };
            readings.push(Reading::new(limit, limit_bytes, in_use_bytes, reclaimable));
        }
    }
    Ok(())
}

/// A limit of version 1 with its usage, and the name of its effective value in `memory.stat`.
const V1_PAIRS: [(&str, &str, &str); 2] = [
    (
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "hierarchical_memory_limit",
    ),
    (
        "memory.memsw.limit_in_bytes",
        "memory.memsw.usage_in_bytes",
        "hierarchical_memsw_limit",
    ),
];

fn read_v1(files: &Files, groups: &[PathBuf], readings: &mut Vec<Reading>) -> Result<(), Error> {
    let Some(own) = groups.first() else {
        return Ok(());
    };
    for (limit_name, usage_name, effective_name) in V1_PAIRS {
        let mut tightest_visible = V1_NO_LIMIT;
        let mut outermost = None;
        for (depth, group) in groups.iter().enumerate() {
            // Old kernels let an ancestor stand outside of the accounting.
            let hierarchy = group.join("memory.use_hierarchy");
            let detached = files.read_optional(&hierarchy)?.as_deref().map(str::trim) == Some("0");
            if depth > 0 && detached {
                break;
            }
            let file = group.join(limit_name);
            let Some(text) = files.read_optional(&file)? else {
                continue;
            };
            outermost = Some(group);
            let limit_bytes = files::number(&file, &text)?;
            if limit_bytes >= V1_NO_LIMIT {
                continue;
            }
            tightest_visible = tightest_visible.min(limit_bytes);
            let limit = Limit::Cgroup {
                version: CgroupVersion::V1,
                file,
            };
            readings.push(read_v1_usage(files, group, usage_name, limit, limit_bytes)?);
        }

        // The kernel knows of ancestors above the mount; only their smallest limit shows through.
        let stat = own.join("memory.stat");
        let effective = match files.read_optional(&stat)? {
            Some(text) => files::keyed_number(&stat, &text, effective_name)?,
            None => None,
        };
        if let (Some(effective), Some(outermost)) = (effective, outermost)
            && effective < tightest_visible
        {
            // What the hidden group holds besides is unknown. The outermost group that can be
            // seen is a part of it, so its usage is the best lower bound.
            let limit = Limit::CgroupHidden { file: stat };
            let reading = read_v1_usage(files, outermost, usage_name, limit, effective)?;
            readings.push(reading);
        }
    }
    Ok(())
}

fn read_v1_usage(
    files: &Files,
    group: &Path,
    usage_name: &str,
    limit: Limit,
    limit_bytes: u64,
) -> Result<Reading, Error> {
    let usage = group.join(usage_name);
    let in_use_bytes = files::number(&usage, &files.read(&usage)?)?;
    // The totals include the group's descendants, as its usage does.
    let reclaimable = page_cache(files, group, ["total_inactive_file", "total_active_file"])?;
    Ok(Reading::new(limit, limit_bytes, in_use_bytes, reclaimable))
}

/// Page cache, clean or dirty, is given back before a group is refused. Memory of tmpfs is not,
/// and does not count among these. A kernel that does not say has none to give.
///
/// What file systems keep for pages that were written (on ext4 a buffer head of 104 bytes for each
/// 4 KiB, seen as 2.6 % of the cache) goes with the pages, but is told from memory that cannot go
/// nowhere on version 1. So it is left out: a refusal too many, at worst, and never one too few.
fn page_cache(files: &Files, group: &Path, names: [&str; 2]) -> Result<u64, Error> {
    let stat = group.join("memory.stat");
    let Some(text) = files.read_optional(&stat)? else {
        return Ok(0);
    };
    let mut sum: u64 = 0;
    for name in names {
        sum = sum.saturating_add(files::keyed_number(&stat, &text, name)?.unwrap_or(0));
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_escapes_are_undone() {
        assert_eq!(unescape(r"/a\040b\134c"), Path::new(r"/a b\c"));
        assert_eq!(unescape(r"/ends\04"), Path::new(r"/ends\04"));
    }

    #[test]
    fn optional_fields_of_a_mount_are_skipped() {
        let line =
            "30 23 0:26 /docker/x /sys/fs/cgroup ro,nosuid shared:4 master:2 - cgroup2 cgroup rw";
        let mount = Mount::parse(line).unwrap();
        assert_eq!(mount.version, CgroupVersion::V2);
        assert_eq!(mount.root, Path::new("/docker/x"));
        assert_eq!(mount.point, Path::new("/sys/fs/cgroup"));
    }

    #[test]
    fn a_path_that_climbs_is_not_below_anything() {
        assert_eq!(below("/a/b".as_ref(), "/a".as_ref()), Some("b".into()));
        assert_eq!(below("/a".as_ref(), "/a".as_ref()), Some("".into()));
        assert_eq!(below("/ab".as_ref(), "/a".as_ref()), None);
        assert_eq!(below("/../x".as_ref(), "/".as_ref()), None);
    }
}
