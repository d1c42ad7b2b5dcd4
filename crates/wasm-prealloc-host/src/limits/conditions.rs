//! Reads the settings that weaken what securing achieves.
//!
//! Their words are in `condition`. Limits that leave too little are read in `headroom`.

use std::path::{Path, PathBuf};

use crate::limits::cgroup::Cgroups;
use crate::limits::condition::Condition;
use crate::limits::files::{self, Files};
use crate::limits::limit::CgroupVersion;
use crate::sys;

const HUGE_PAGES: &str = "/sys/kernel/mm/transparent_hugepage";

/// The highest number of empty entries in a page table of 2 MiB, at which the kernel never takes a
/// huge page as underused.
const ALL_BUT_ONE: u64 = 511;

/// The settings of the machine, of this process and of its groups that can take secured memory
/// away, or that make securing slow or risky.
///
/// ```
/// use wasm_prealloc_host::Conditions;
///
/// for condition in Conditions::read().list {
///     println!("{}: {condition}; {}", condition.kind(), condition.remedy());
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Conditions {
    /// Those that hold. A setting that cannot be read is left out, except hidden limits.
    pub list: Vec<Condition>,
}

impl Conditions {
    /// Reads the running system.
    pub fn read() -> Conditions {
        let mut conditions = match sys::HAS_LIMIT_FILES {
            true => Conditions::read_from(&Files::default()),
            false => Conditions::default(),
        };
        let list = &mut conditions.list;
        if sys::merges_equal_pages()
            && is_merging(&Files::default())
            && !list.contains(&Condition::SamePageMerging)
        {
            list.push(Condition::SamePageMerging);
        }
        let path = sys::default_lock_path();
        if path == Path::new(sys::SHARED_LOCK) {
            list.push(Condition::SharedLock { path });
        }
        if let Some(error) = sys::Tracker::open().err() {
            // The condition has a remedy of its own.
            let text = error.to_string();
            let problem = text.split("; ").next().unwrap_or_default();
            let why = problem.trim_start_matches("writes cannot be tracked");
            let why = why.trim_start_matches([':', ' ']).to_owned();
            list.push(Condition::NoWriteTracking { why });
        }
        conditions
    }

    /// Reads the files under another root, and nothing else.
    pub fn read_from(files: &Files) -> Conditions {
        let groups =
            Cgroups::read(files).unwrap_or_else(|error| Cgroups::unknown(files::reason(&error)));
        let mut list = Vec::new();
        if let Some(why) = groups.visibility.reason() {
            list.push(Condition::HiddenLimits { why: why.into() });
        }
        list.extend(swap(files, &groups));
        if is_merging(files)
            && line(files, "/proc/self/ksm_stat", "ksm_merge_any:").as_deref() == Some("yes")
        {
            list.push(Condition::SamePageMerging);
        }
        list.extend(underused_huge_pages(files));
        list.extend(no_huge_pages(files));
        list.extend(of_groups(files, &groups));
        if text(files, "/proc/sys/vm/overcommit_memory").as_deref() == Some("2") {
            list.push(Condition::StrictOvercommit);
        }
        Conditions { list }
    }
}

/// Reads a file, without the blanks around its text. Returns `None` if it cannot be read.
fn text(files: &Files, path: impl AsRef<Path>) -> Option<String> {
    let text = files.read(path.as_ref()).ok()?;
    Some(text.trim().to_owned())
}

fn number(files: &Files, path: impl AsRef<Path>) -> Option<u64> {
    text(files, path)?.parse().ok()
}

/// Returns the last word of the line of a file that starts with `key`.
fn line(files: &Files, path: &str, key: &str) -> Option<String> {
    let text = files.read(Path::new(path)).ok()?;
    let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
    rest.split_whitespace().next().map(str::to_owned)
}

fn swap(files: &Files, groups: &Cgroups) -> Option<Condition> {
    let kib: u64 = line(files, "/proc/meminfo", "SwapTotal:")?.parse().ok()?;
    let mut bytes = kib.saturating_mul(1024);
    if groups.version == Some(CgroupVersion::V2) {
        // Version 1 limits only the sum of memory and swap, which does not keep pages from swap.
        for group in &groups.groups {
            let limit = number(files, group.join("memory.swap.max"));
            bytes = limit.unwrap_or(u64::MAX).min(bytes);
        }
    }
    (bytes > 0).then_some(Condition::Swap { bytes })
}

fn is_merging(files: &Files) -> bool {
    number(files, "/sys/kernel/mm/ksm/run") == Some(1)
}

fn underused_huge_pages(files: &Files) -> Option<Condition> {
    let folder = Path::new(HUGE_PAGES);
    let shrinks = number(files, folder.join("shrink_underused"))? == 1;
    let max_ptes_none = number(files, folder.join("khugepaged/max_ptes_none"))?;
    (shrinks && max_ptes_none < ALL_BUT_ONE)
        .then_some(Condition::UnderusedHugePages { max_ptes_none })
}

fn no_huge_pages(files: &Files) -> Option<Condition> {
    let folder = Path::new(HUGE_PAGES);
    let enabled = folder.join("enabled");
    let because = |why: String, remedy: String| Some(Condition::NoHugePages { why, remedy });
    let other_kernel = || "use a kernel with transparent huge pages of 2 MiB".to_owned();
    // Such a kernel also reports that they are disabled for the process.
    if !files.is_directory(folder) && files.is_directory(Path::new("/sys/kernel/mm")) {
        return because("the kernel was built without them".into(), other_kernel());
    }
    if line(files, "/proc/self/status", "THP_enabled:").as_deref() == Some("0") {
        return because(
            "PR_SET_THP_DISABLE is set".into(),
            "run the process without PR_SET_THP_DISABLE, which it inherited".into(),
        );
    }
    if text(files, &enabled).is_some_and(|mode| mode.contains("[never]")) {
        let enabled = enabled.display();
        return because(
            format!("{enabled} is never"),
            format!("echo madvise > {enabled}"),
        );
    }
    let file = folder.join("hpage_pmd_size");
    match number(files, &file) {
        Some(bytes) if bytes != 2 << 20 => {
            let why = format!(
                "{} is {bytes}, and only 2 MiB are supported",
                file.display()
            );
            because(why, other_kernel())
        }
        _ => None,
    }
}

/// Returns the conditions of the process's own group and of its visible ancestors.
fn of_groups(files: &Files, groups: &Cgroups) -> Vec<Condition> {
    let in_each = |file: &str| -> Vec<PathBuf> {
        let files = groups.groups.iter().map(|group| group.join(file));
        files.collect()
    };
    let kill = in_each("memory.oom.group").into_iter();
    let kill = kill.filter(|file| number(files, file) == Some(1));
    let disabled = in_each("memory.oom_control").into_iter().filter(|file| {
        let text = files.read(file).unwrap_or_default();
        let flag = files::keyed_number(file, &text, "oom_kill_disable");
        matches!(flag, Ok(Some(1)))
    });
    kill.map(|file| Condition::GroupKill { file })
        .chain(disabled.map(|file| Condition::OomKillDisabled { file }))
        .collect()
}
