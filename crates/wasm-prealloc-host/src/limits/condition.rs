//! The settings of a machine, a group or a process that weaken what securing achieves, in words.
//!
//! They are read in `conditions`.

use std::fmt;
use std::path::PathBuf;

use crate::limits::limit::Bytes;

/// A setting that can take secured memory away, or that makes securing or a reset slow or risky.
///
/// It is displayed as a sentence; [`remedy`](Condition::remedy) says what removes it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Condition {
    /// Some limits on memory cgroups cannot be read.
    HiddenLimits {
        /// The reason.
        why: String,
    },
    /// The kernel can swap memory of this process out.
    Swap {
        /// The part of the machine's swap that this process's group may use, in bytes.
        bytes: u64,
    },
    /// The kernel merges equal pages of this process, see `PR_SET_MEMORY_MERGE` of prctl(2).
    SamePageMerging,
    /// Under memory pressure the kernel splits huge pages that are mostly zero, and frees their
    /// zero pages.
    UnderusedHugePages {
        /// The value of `khugepaged/max_ptes_none`. From 511 on the kernel does not do that.
        max_ptes_none: u64,
    },
    /// The process gets base pages only.
    NoHugePages {
        /// The reason.
        why: String,
        /// The remedy for this reason.
        remedy: String,
    },
    /// The OOM killer ends all processes of a group together.
    GroupKill {
        /// The `memory.oom.group` that demands it.
        file: PathBuf,
    },
    /// At the limit of a version 1 group, processes wait indefinitely instead of being killed.
    OomKillDisabled {
        /// The `memory.oom_control` that demands it.
        file: PathBuf,
    },
    /// Memory counts when it becomes writable, `vm.overcommit_memory = 2`.
    StrictOvercommit,
    /// The default lock is a path that every user can open.
    SharedLock {
        /// The path.
        path: PathBuf,
    },
    /// The kernel does not report which pages were written.
    NoWriteTracking {
        /// The reason.
        why: String,
    },
}

impl Condition {
    /// Returns the name of the kind, for programs: lower case, with hyphens.
    pub fn kind(&self) -> &'static str {
        match self {
            Condition::HiddenLimits { .. } => "hidden-limits",
            Condition::Swap { .. } => "swap",
            Condition::SamePageMerging => "same-page-merging",
            Condition::UnderusedHugePages { .. } => "underused-huge-pages",
            Condition::NoHugePages { .. } => "no-huge-pages",
            Condition::GroupKill { .. } => "group-kill",
            Condition::OomKillDisabled { .. } => "oom-kill-disabled",
            Condition::StrictOvercommit => "strict-overcommit",
            Condition::SharedLock { .. } => "shared-lock",
            Condition::NoWriteTracking { .. } => "no-write-tracking",
        }
    }

    /// Returns the remedy, for an operator.
    pub fn remedy(&self) -> String {
        match self {
            Condition::HiddenLimits { .. } => {
                "give this container or unit a limit of its own that \
                is at most the limits above it, and let it read /sys/fs/cgroup"
                    .to_owned()
            }
            Condition::Swap { .. } => "set memory.swap.max of this cgroup to 0 (MemorySwapMax=0), \
                turn swap off, or lock the memory (LockMemory::Auto, with a sufficient ulimit -l)"
                .to_owned(),
            Condition::SamePageMerging => "run the process without PR_SET_MEMORY_MERGE \
                (MemoryKSM=no), or echo 0 > /sys/kernel/mm/ksm/run"
                .to_owned(),
            Condition::UnderusedHugePages { .. } => "lock the memory (LockMemory::Auto, with a \
                sufficient ulimit -l), or echo 0 > \
                /sys/kernel/mm/transparent_hugepage/shrink_underused"
                .to_owned(),
            Condition::NoHugePages { remedy, .. } => remedy.clone(),
            Condition::GroupKill { file } => format!(
                "echo 0 > {}, or in Kubernetes set singleProcessOOMKill of the kubelet",
                file.display()
            ),
            Condition::OomKillDisabled { file } => format!("echo 0 > {}", file.display()),
            Condition::StrictOvercommit => "set vm.overcommit_memory=0, or start programs from \
                another process than the host"
                .to_owned(),
            Condition::SharedLock { .. } => "let this process create /run/wasm-prealloc.lock, set \
                XDG_RUNTIME_DIR, or name a lock that other users cannot open (LockOptions::path)"
                .to_owned(),
            Condition::NoWriteTracking { .. } => "permit userfaultfd (the seccomp profile \
                docs/deploy/seccomp.json, or the device /dev/userfaultfd) on Linux 6.7 or later, or use \
                Policy::CommitMaximum"
                .to_owned(),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Condition::HiddenLimits { why } => write!(
                f,
                "some memory limits cannot be read ({why}); memory is refused at them only by the \
                 kernel"
            ),
            Condition::Swap { bytes } => write!(
                f,
                "this process may use {} of swap, so memory that is not locked can be swapped out",
                Bytes(*bytes)
            ),
            Condition::SamePageMerging => f.write_str(
                "the kernel merges equal pages of this process; secured memory is kept out of it \
                 (MADV_UNMERGEABLE), other memory is not",
            ),
            Condition::UnderusedHugePages { max_ptes_none } => write!(
                f,
                "under memory pressure the kernel frees zero pages inside huge pages \
                 (shrink_underused is 1, max_ptes_none is {max_ptes_none}), unless they are locked"
            ),
            Condition::NoHugePages { why, .. } => write!(
                f,
                "no transparent huge pages ({why}); base pages take two to three times as long to \
                 commit, and the kernel cannot refuse them at a cgroup limit"
            ),
            Condition::GroupKill { file } => write!(
                f,
                "{} is 1: when the OOM killer ends one process of the group, it ends all of them, \
                 a host included that only tried a commit in a child process",
                file.display()
            ),
            Condition::OomKillDisabled { file } => write!(
                f,
                "the OOM killer is disabled by {}: at the group's limit the host waits \
                 indefinitely instead of being killed",
                file.display()
            ),
            Condition::StrictOvercommit => f.write_str(
                "vm.overcommit_memory is 2: memory counts when it becomes writable, and a process \
                 that forks needs its own size again",
            ),
            Condition::SharedLock { path } => write!(
                f,
                "hosts lock {}, which every user can lock, so another user can make this host wait \
                 until its timeout",
                path.display()
            ),
            Condition::NoWriteTracking { why } => write!(
                f,
                "writes cannot be tracked ({why}), so under Policy::Declared a reset zeroes all of \
                 a slot"
            ),
        }
    }
}
