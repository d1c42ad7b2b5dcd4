//! Finds this process's memory cgroups, version 1 and 2, and reads the limits of each group from
//! the process's own up to the mount point.
//!
//! Other limits, and the comparison with a need, are in `headroom`.

use std::path::{Component, Path, PathBuf};

use crate::error::Error;
use crate::limits::files::{self, Files};
use crate::limits::limit::{CgroupVersion, Limit, Reading};

/// Version 1 writes "no limit" as the largest multiple of the operating system's page below
/// 2^63. Pages are at most 64 KiB.
const V1_NO_LIMIT: u64 = (1 << 63) - (64 << 10);

/// Reads the limits of all memory cgroups that bind this process and are visible to it. A system
/// without cgroups has none.
pub(crate) fn readings(files: &Files) -> Result<Vec<Reading>, Error> {
    let groups = files.read_optional(Path::new("/proc/self/cgroup"))?;
    let mounts = files.read_optional(Path::new("/proc/self/mountinfo"))?;
    let (Some(groups), Some(mounts)) = (groups, mounts) else {
        return Ok(Vec::new());
    };
    let mounts: Vec<Mount> = mounts.lines().filter_map(Mount::parse).collect();

    let mut readings = Vec::new();
    for line in groups.lines() {
        // hierarchy:controllers:path, and the path may contain colons.
        let fields: Vec<&str> = line.splitn(3, ':').collect();
        let [hierarchy, controllers, path] = fields[..] else {
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

/// A line of `/proc/self/mountinfo` that mounts a cgroup file system which can have the memory
/// controller.
struct Mount {
    version: CgroupVersion,
    /// The group of the hierarchy that is mounted at `point`.
    root: PathBuf,
    point: PathBuf,
}

impl Mount {
    fn parse(line: &str) -> Option<Mount> {
        // The number of fields before the dash varies, so the two halves are counted separately.
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

/// Undoes the escapes of mountinfo: blanks, tabs, newlines and backslashes as three octal digits.
fn unescape(field: &str) -> PathBuf {
    let mut parts = field.split('\\');
    let mut plain = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let digits = part.get(..3);
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        plain.push(byte.unwrap_or(b'\\'));
        let rest = if byte.is_some() { 3 } else { 0 };
        plain.extend_from_slice(&part.as_bytes()[rest..]);
    }
    PathBuf::from(String::from_utf8_lossy(&plain).into_owned())
}

/// Finds the directories of the process's group and its ancestors, the group's own first and the
/// mount point last.
fn locate(
    files: &Files,
    mounts: &[Mount],
    version: CgroupVersion,
    group: &Path,
) -> Option<Vec<PathBuf>> {
    let mounts = || mounts.iter().filter(|mount| mount.version == version);
    // Of the mounts that contain the group, the one with the shortest root shows most ancestors. A
    // mount can be covered by another at the same place, as when a container's own group is mounted
    // over the whole hierarchy. A covered mount cannot be read, so it comes last.
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
            // under the mount is used. Otherwise only the limits of the mount point are visible: in
            // a container they usually are the process's own. A refusal for a limit that does not
            // bind this process is better than a kill at one that does.
            let mount = mounts().next_back()?;
            let visible = below(group, Path::new("/"))
                .filter(|inside| files.is_directory(&mount.point.join(inside)));
            (mount.point.clone(), visible.unwrap_or_default())
        }
    };
    let own = point.join(&inside);
    let visible = own.ancestors().take(inside.components().count() + 1);
    Some(visible.map(Path::to_owned).collect())
}

/// Returns `group` relative to `root`, if it lies in it. A path with `..` (`/../x`) lies outside of
/// every visible group.
fn below(group: &Path, root: &Path) -> Option<PathBuf> {
    let inside = group.strip_prefix(root).ok()?;
    let leaves = inside.components().any(|part| part == Component::ParentDir);
    (!leaves).then(|| inside.to_owned())
}

fn read_v2(files: &Files, groups: &[PathBuf], readings: &mut Vec<Reading>) -> Result<(), Error> {
    const CACHE: [&str; 2] = ["inactive_file", "active_file"];
    for group in groups {
        // Above `high` the kernel does not refuse: it makes the process sleep, for ever if nothing
        // can be reclaimed. For a commit that is a limit like `max`.
        for name in ["memory.max", "memory.high"] {
            let file = group.join(name);
            let Some(text) = files.read_optional(&file)? else {
                continue;
            };
            if text.trim() == "max" {
                continue;
            }
            let bytes = files::number(&file, &text)?;
            let version = CgroupVersion::V2;
            let limit = Limit::Cgroup { version, file };
            let reading = read_usage(files, group, "memory.current", CACHE, limit, bytes)?;
            readings.push(reading);
        }
    }
    Ok(())
}

fn read_v1(files: &Files, groups: &[PathBuf], readings: &mut Vec<Reading>) -> Result<(), Error> {
    // The totals include the group's descendants, as its usage does.
    const CACHE: [&str; 2] = ["total_inactive_file", "total_active_file"];
    let Some(own) = groups.first() else {
        return Ok(());
    };
    for (kind, effective_name) in [
        ("memory", "hierarchical_memory_limit"),
        ("memory.memsw", "hierarchical_memsw_limit"),
    ] {
        let usage = format!("{kind}.usage_in_bytes");
        let mut tightest_visible = V1_NO_LIMIT;
        let mut outermost = None;
        for (depth, group) in groups.iter().enumerate() {
            // On old kernels an ancestor need not account for its descendants.
            let hierarchy = group.join("memory.use_hierarchy");
            let detached = files.read_optional(&hierarchy)?.as_deref().map(str::trim) == Some("0");
            if depth > 0 && detached {
                break;
            }
            let file = group.join(format!("{kind}.limit_in_bytes"));
            let Some(text) = files.read_optional(&file)? else {
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
            readings.push(read_usage(files, group, &usage, CACHE, limit, bytes)?);
        }

        // The kernel reports the smallest limit of all ancestors, those above the mount included.
        let stat = own.join("memory.stat");
        let effective = match files.read_optional(&stat)? {
            Some(text) => files::keyed_number(&stat, &text, effective_name)?,
            None => None,
        };
        if let (Some(effective), Some(outermost)) = (effective, outermost)
            && effective < tightest_visible
        {
            // The usage of the hidden group is unknown. The outermost visible group is a part of
            // it, so its usage is the best lower bound.
            let limit = Limit::CgroupHidden { file: stat };
            let reading = read_usage(files, outermost, &usage, CACHE, limit, effective)?;
            readings.push(reading);
        }
    }
    Ok(())
}

/// Reads the usage of a group under one of its limits. `cache` are the names of its page cache.
fn read_usage(
    files: &Files,
    group: &Path,
    usage: &str,
    cache: [&str; 2],
    limit: Limit,
    limit_bytes: u64,
) -> Result<Reading, Error> {
    let usage = group.join(usage);
    let in_use_bytes = files::number(&usage, &files.read(&usage)?)?;
    let reclaimable = page_cache(files, group, cache)?;
    Ok(Reading::new(limit, limit_bytes, in_use_bytes, reclaimable))
}

/// Reads the reclaimable page cache of a group. The kernel reclaims page cache, clean or dirty,
/// before it refuses memory to the group. It cannot reclaim memory of tmpfs, which these numbers do
/// not include. A kernel that does not report them counts as having nothing to reclaim.
///
/// File systems keep data for written pages (on ext4 a buffer head of 104 bytes for each 4 KiB,
/// measured as 2.6 % of the cache). It is freed with the pages, but version 1 does not distinguish
/// it from memory that cannot be reclaimed. So it is left out: that can refuse a need that would
/// fit, and never accepts one that does not.
fn page_cache(files: &Files, group: &Path, names: [&str; 2]) -> Result<u64, Error> {
    let stat = group.join("memory.stat");
    let Some(text) = files.read_optional(&stat)? else {
        return Ok(0);
    };
    let number = |name| Ok(files::keyed_number(&stat, &text, name)?.unwrap_or(0));
    Ok(number(names[0])?.saturating_add(number(names[1])?))
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
    fn a_path_with_dot_dot_is_not_below_any_group() {
        assert_eq!(below("/a/b".as_ref(), "/a".as_ref()), Some("b".into()));
        assert_eq!(below("/a".as_ref(), "/a".as_ref()), Some("".into()));
        assert_eq!(below("/ab".as_ref(), "/a".as_ref()), None);
        assert_eq!(below("/../x".as_ref(), "/".as_ref()), None);
    }
}
