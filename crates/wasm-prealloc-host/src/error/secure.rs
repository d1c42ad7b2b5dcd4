//! The errors of securing memory, and of checking that it is still there.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::commit::backing::Backing;
use crate::error::text::{FORKED, NOT_SECURED_YET, RELEASED, nearest_now};
use crate::limits::limit::{Bytes, Limit, Reading};
use crate::limits::shortfall::Shortfall;

/// Memory was not secured, or is not secured any more. Nothing is left mapped by a commit that
/// failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecureError {
    /// A limit leaves less than is needed.
    #[error("memory not secured: {0}")]
    Shortfall(Shortfall),

    /// A cgroup refused during the commit, although the limits that can be read leave enough: a
    /// neighbour in the group took memory first, or a parent group is not visible here.
    #[error(
        "memory not secured: a memory cgroup refused after {} of {} were committed; {}; give \
         this process a cgroup of its own, with a limit that its neighbours cannot use up",
        Bytes(*.committed_bytes), Bytes(*.needed_bytes), nearest_now(.nearest)
    )]
    CgroupRefused {
        /// The part that had been committed, and was given back.
        committed_bytes: u64,
        /// The whole need, page tables and margin included.
        needed_bytes: u64,
        /// The cgroup limit that leaves least now, if one is visible.
        nearest: Option<Box<Reading>>,
    },

    /// A limit that this process cannot see refused: a child process that committed the same amount
    /// of memory first was killed.
    #[error(
        "memory not secured: a limit that cannot be read from here is too low: a child process \
         that tried the commit was killed after {} of {} ({why}); raise the memory limit of the \
         parent cgroups (the pod, the slice or the service around this process), or secure less",
        Bytes(*.committed_bytes), Bytes(*.needed_bytes)
    )]
    HiddenLimit {
        /// The part that the child committed. It was given back.
        committed_bytes: u64,
        /// The part that the child was to commit, with the margin.
        needed_bytes: u64,
        /// The reason why the limit cannot be read.
        why: String,
    },

    /// A limit may be hidden, and no child process can try the commit first.
    #[error(
        "memory not secured: limits may be hidden ({why}), and the child process that has to try \
         the commit first fails ({call}); allow this process one child more (pids.max, ulimit -u) \
         and write access to /proc/self, make its cgroups readable, or take pages that an operator \
         sets aside (backing hugetlb-2m)"
    )]
    TrialUnavailable {
        /// The system call that failed.
        call: &'static str,
        /// The reason why a limit cannot be read.
        why: String,
        /// The reason of the failure.
        source: io::Error,
    },

    /// The commit came almost to a halt, and was given up.
    #[error(
        "memory not secured: the commit came almost to a halt after {} of {}, with {} in the last \
         {:.0} s; a cgroup above this process is over its memory.high, or at its limit without an \
         OOM killer (memory.oom_control); raise memory.high and the limit of this process's cgroup \
         and of its parents, or secure less",
        Bytes(*.committed_bytes), Bytes(*.needed_bytes), Bytes(*.recent_bytes),
        .waited.as_secs_f64()
    )]
    Stalled {
        /// The part that was committed. It was given back.
        committed_bytes: u64,
        /// The part that was to be committed.
        needed_bytes: u64,
        /// The part that was committed in `waited`.
        recent_bytes: u64,
        /// The time that the commit was watched for.
        waited: Duration,
    },

    /// [`secure_in_place`](crate::secure_in_place) cannot secure memory of this kind.
    #[error("memory cannot be secured in place: {why}")]
    Mapping {
        /// The kind, and the remedy.
        why: &'static str,
    },

    /// A 32-bit memory cannot have the required number of pages.
    #[error("{pages} pages of 64 KiB cannot be secured: the number must be from 1 to 65536")]
    PageCount {
        /// The required number of pages.
        pages: u64,
    },

    /// The lock that keeps hosts from committing at the same time cannot be taken.
    #[error(
        "cannot lock {}; choose another path for the lock, the same for every host \
         (LockOptions::path)",
        .path.display()
    )]
    Lock {
        /// The file or directory.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },

    /// Another host held the lock until the timeout.
    #[error(
        "another host was committing memory (lock on {}) for {:.1} s; wait for it, or allow a \
         longer wait (LockOptions::timeout)",
        .path.display(), .waited.as_secs_f64()
    )]
    LockTimeout {
        /// The file or directory.
        path: PathBuf,
        /// The time that this host waited.
        waited: Duration,
    },

    /// The kernel refused for a reason that no limit explains.
    #[error("memory not secured: {call} of {} failed", Bytes(*.bytes))]
    System {
        /// The system call, and its advice if it has one.
        call: &'static str,
        /// The length that it was called with.
        bytes: u64,
        /// The kernel's error.
        source: io::Error,
    },

    /// The kernel reported a commit, but not all of the memory is resident.
    #[error(
        "memory not secured: only {} of {} are resident after they were committed; turn off swap \
         for this process, or free memory",
        Bytes(*.resident_bytes), Bytes(*.expected_bytes)
    )]
    NotResident {
        /// The number of bytes that should be resident.
        expected_bytes: u64,
        /// The number of bytes that are.
        resident_bytes: u64,
    },

    /// [`LockMemory::On`](crate::LockMemory::On) was required, and the system refuses to lock the
    /// memory although the limit that can be read allows it.
    #[error(
        "memory not secured: {} cannot be locked (mlock); raise the limit on locked memory (ulimit \
         -l) or give the process CAP_IPC_LOCK, both outside of a user namespace, or lock it only \
         where that is permitted (LockMemory::Auto)",
        Bytes(*.bytes)
    )]
    NotLocked {
        /// The size of the memory.
        bytes: u64,
        /// The reason.
        source: io::Error,
    },

    /// [`Backing::Transparent`](crate::Backing::Transparent) was required, and there are not
    /// enough transparent huge pages.
    #[error(
        "memory not secured: the kernel provided only {} of {} in transparent huge pages; enable \
         them (/sys/kernel/mm/transparent_hugepage/enabled: madvise or always), compact memory \
         (echo 1 > /proc/sys/vm/compact_memory), or allow other pages (Backing::Auto)",
        Bytes(*.collapsed_bytes), Bytes(*.needed_bytes)
    )]
    NoHugePages {
        /// The part that was collapsed, and given back.
        collapsed_bytes: u64,
        /// The part that was required.
        needed_bytes: u64,
    },

    /// The backing is unsupported on this operating system, or for this size or policy.
    #[error("memory cannot be backed by {backing:?}: {why}")]
    Backing {
        /// The required backing.
        backing: Backing,
        /// The reason and the remedy.
        why: &'static str,
    },

    /// Growth inside the committed memory could be refused, so
    /// [`Policy::CommitMaximum`](crate::Policy::CommitMaximum) cannot be kept.
    #[error(
        "growth cannot be assured under {}, which counts memory as it becomes accessible; lift \
         the limit (ulimit -d unlimited), or rewrite the module and use Policy::Declared",
        .limit
    )]
    GrowthNotAssured {
        /// The limit that could refuse.
        limit: Limit,
    },

    /// The slots are smaller than the cap of [`Policy::Cap`](crate::Policy::Cap). Sizes are wasm
    /// pages of 64 KiB.
    #[error(
        "memories with a cap of {cap} pages do not fit in slots of {slot_pages} pages of 64 KiB; \
         give the slots at least {cap} pages (MemoryPoolBuilder::pages), or leave out their size"
    )]
    SlotsBelowCap {
        /// The cap, in pages.
        cap: u64,
        /// The size of a slot, in pages.
        slot_pages: u64,
    },

    /// Pools that are to be secured together have different options that must be the same.
    #[error(
        "the pools cannot be secured together: they differ in {what}; give all of them the same, or \
         secure one after the other (PreparedPool::secure)"
    )]
    PoolsDiffer {
        /// The option.
        what: &'static str,
    },

    /// The list of the pool's slots does not fit in memory.
    #[error("a pool of {slots} slots cannot exist: the list of them does not fit in memory")]
    TooManySlots {
        /// The required number of slots.
        slots: usize,
    },

    /// A file of `/proc` or of a cgroup is missing, or cannot be read or parsed.
    #[error(
        "cannot read {}; without it the memory that is available is unknown; let this process read \
         it (no ProcSubset=pid, and all of /proc and /sys)",
        .path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },

    /// The pool was prepared, and its memory is not secured yet.
    #[error("{NOT_SECURED_YET}")]
    NotSecuredYet,

    /// The pool's memory was given back with
    /// [`MemoryPool::release`](crate::MemoryPool::release).
    #[error("{RELEASED}")]
    Released,

    /// The environment chooses an [`Assurance`](crate::Assurance) that does not exist.
    #[error(
        "WASM_PREALLOC_ASSURANCE is {value:?}, which is unknown; set it to required, best-effort \
         or off, or unset it"
    )]
    Assurance {
        /// The value of the variable.
        value: String,
    },

    /// The pool was made by a parent of this process, and its memory is not in this process.
    #[error("{FORKED}")]
    Forked,
}

impl SecureError {
    /// Returns the name of the variant, for programs: lower case, with hyphens.
    pub fn kind(&self) -> &'static str {
        match self {
            SecureError::Shortfall(_) => "shortfall",
            SecureError::CgroupRefused { .. } => "cgroup-refused",
            SecureError::HiddenLimit { .. } => "hidden-limit",
            SecureError::TrialUnavailable { .. } => "trial-unavailable",
            SecureError::Stalled { .. } => "stalled",
            SecureError::Mapping { .. } => "mapping",
            SecureError::PageCount { .. } => "page-count",
            SecureError::Lock { .. } => "lock",
            SecureError::LockTimeout { .. } => "lock-timeout",
            SecureError::System { .. } => "system",
            SecureError::NotResident { .. } => "not-resident",
            SecureError::NotLocked { .. } => "not-locked",
            SecureError::NoHugePages { .. } => "no-huge-pages",
            SecureError::Backing { .. } => "backing",
            SecureError::GrowthNotAssured { .. } => "growth-not-assured",
            SecureError::SlotsBelowCap { .. } => "slots-below-cap",
            SecureError::PoolsDiffer { .. } => "pools-differ",
            SecureError::TooManySlots { .. } => "too-many-slots",
            SecureError::Unreadable { .. } => "unreadable",
            SecureError::NotSecuredYet => "not-secured-yet",
            SecureError::Released => "released",
            SecureError::Assurance { .. } => "assurance",
            SecureError::Forked => "forked",
        }
    }

    /// Makes the error of a system call that was called with a length of `bytes`.
    pub(crate) fn system(
        call: &'static str,
        bytes: usize,
    ) -> impl FnOnce(io::Error) -> SecureError {
        move |source| SecureError::System {
            call,
            bytes: bytes as u64,
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::limit::CgroupVersion;

    #[test]
    fn a_shortfall_names_the_file_the_numbers_and_the_remedy() {
        let limit = Limit::Cgroup {
            version: CgroupVersion::V1,
            file: "/sys/fs/cgroup/memory/x/memory.limit_in_bytes".into(),
        };
        let reading = Reading::new(limit, 512 << 20, 20 << 20, 8 << 20);
        let error = SecureError::Shortfall(Shortfall::new(&reading, 4096 << 20));
        assert_eq!(
            error.to_string(),
            "memory not secured: needed 4294967296 bytes (4096 MiB), available 524288000 bytes \
             (500 MiB) under cgroup v1 /sys/fs/cgroup/memory/x/memory.limit_in_bytes (limit \
             536870912 bytes (512 MiB), in use 20971520 bytes (20 MiB), of that reclaimable \
             8388608 bytes (8 MiB)); raise this limit to at least 4307550208 bytes (4108 MiB)"
        );
    }
}
