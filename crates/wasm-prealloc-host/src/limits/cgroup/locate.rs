//! Finds the directories of this process's cgroup and its ancestors among the mounts.

use std::path::{Component, Path, PathBuf};

use crate::limits::files::Files;
use crate::limits::limit::CgroupVersion;
use crate::limits::visibility::Visibility;

/// The directories of groups whose limits bind this process, as far as they can be found.
pub(crate) struct Located {
    /// The process's own group first, and the topmost visible one last.
    pub(crate) groups: Vec<PathBuf>,
    /// Unknown if the process's own group was not found.
    pub(crate) visibility: Visibility,
    /// True if the groups count huge pages of the machine's pool, an option of the mount.
    pub(crate) counts_huge_pages: bool,
}

/// A line of `/proc/self/mountinfo` that mounts a cgroup file system which can have the memory
/// controller.
struct Mount {
    version: CgroupVersion,
    /// The group of the hierarchy that is mounted at `point`.
    root: PathBuf,
    point: PathBuf,
    counts_huge_pages: bool,
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
            counts_huge_pages: options
                .split(',')
                .any(|option| option == "memory_hugetlb_accounting"),
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

/// Finds the directories of `group` and its ancestors. `mounts` is the text of
/// `/proc/self/mountinfo`.
pub(crate) fn locate(files: &Files, mounts: &str, version: CgroupVersion, group: &Path) -> Located {
    let mounts = mounts.lines().filter_map(Mount::parse);
    let mounts: Vec<Mount> = mounts.filter(|mount| mount.version == version).collect();
    // All mounts of a hierarchy have the same options.
    let counts_huge_pages = mounts.iter().any(|mount| mount.counts_huge_pages);
    // Of the mounts that contain the group, the one with the shortest root shows most ancestors. A
    // mount can be covered by another at the same place, as when a container's own group is mounted
    // over the whole hierarchy, or an empty directory over all of it. A covered mount cannot be
    // read.
    let holding = mounts
        .iter()
        .filter_map(|mount| Some((mount, below(group, &mount.root)?)))
        .filter(|(mount, inside)| is_group(files, &mount.point.join(inside), version))
        .min_by_key(|(mount, _)| mount.root.components().count());
    if let Some((mount, inside)) = holding {
        // Joining an empty path would add a slash to the name.
        let own = match inside.as_os_str().is_empty() {
            true => mount.point.clone(),
            false => mount.point.join(&inside),
        };
        let visible = own.ancestors().take(inside.components().count() + 1);
        return Located {
            groups: visible.map(Path::to_owned).collect(),
            visibility: Visibility::Complete,
            counts_huge_pages,
        };
    }
    let why = match mounts.is_empty() {
        true => format!("no cgroup {version} file system with a memory controller is mounted"),
        false => format!(
            "the directory of this process's cgroup {version} {} cannot be found",
            group.display()
        ),
    };
    // The path and the mount belong to different cgroup namespaces, or the mount is covered. A
    // mount whose root is above the namespace's root shows an ancestor. If neither is above the
    // namespace's root, the mount usually is the container's own group, so its limits count. A
    // group above the namespace's root is not below the mount, so its limits do not.
    let is_above = |path: &Path| path.components().any(|part| part == Component::ParentDir);
    let binding = mounts.iter().rev().find(|mount| {
        (is_above(&mount.root) || !is_above(group)) && is_group(files, &mount.point, version)
    });
    Located {
        groups: binding
            .map(|mount| mount.point.clone())
            .into_iter()
            .collect(),
        visibility: Visibility::Unknown(why),
        counts_huge_pages,
    }
}

/// Returns true if a directory is one of a hierarchy with this interface.
fn is_group(files: &Files, directory: &Path, version: CgroupVersion) -> bool {
    let present_in_each = match version {
        CgroupVersion::V1 => "memory.usage_in_bytes",
        CgroupVersion::V2 => "cgroup.controllers",
    };
    files.exists(&directory.join(present_in_each))
}

/// Returns `group` relative to `root`, if it lies in it. A path with `..` (`/../x`) lies outside of
/// every visible group, unless the root has the same.
fn below(group: &Path, root: &Path) -> Option<PathBuf> {
    let inside = group.strip_prefix(root).ok()?;
    let leaves = inside.components().any(|part| part == Component::ParentDir);
    (!leaves).then(|| inside.to_owned())
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
    fn a_path_with_dot_dot_is_below_no_group_of_the_namespace() {
        assert_eq!(below("/a/b".as_ref(), "/a".as_ref()), Some("b".into()));
        assert_eq!(below("/a".as_ref(), "/a".as_ref()), Some("".into()));
        assert_eq!(below("/ab".as_ref(), "/a".as_ref()), None);
        assert_eq!(below("/../x".as_ref(), "/".as_ref()), None);
        assert_eq!(below("/../x".as_ref(), "/..".as_ref()), Some("x".into()));
        assert_eq!(below("/".as_ref(), "/..".as_ref()), None);
    }
}
