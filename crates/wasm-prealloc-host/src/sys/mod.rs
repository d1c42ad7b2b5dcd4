//! The operating system's memory: address space, protection, residency, huge pages, and write
//! tracking. The operating system is chosen here and nowhere else.
//!
//! Every function exists on every operating system. If a system lacks the facility, the function in
//! `unsupported` returns an error.

use std::ops::Range;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(unix)]
mod lock_file;
mod tracking;
#[cfg(unix)]
mod unix;
#[cfg(not(target_os = "linux"))]
mod unsupported;
#[cfg(windows)]
mod windows;

#[cfg(target_os = "linux")]
pub(crate) use linux::*;
#[cfg(unix)]
pub(crate) use lock_file::{SHARED_LOCK, default_lock_path, is_private_lock, open_lock};
pub use tracking::{TrackingError, TrackingInterface};
#[cfg(unix)]
pub(crate) use unix::*;
#[cfg(not(target_os = "linux"))]
pub(crate) use unsupported::*;
#[cfg(windows)]
pub(crate) use windows::*;

/// The size and the alignment of a transparent huge page, in bytes.
pub(crate) const HUGE_PAGE_BYTES: usize = 2 << 20;

/// A part of a range, and the kind of its mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) range: Range<usize>,
    /// Writes are visible to other processes or to a file (`MAP_SHARED`).
    pub(crate) shared: bool,
    /// The contents come from a file.
    pub(crate) file: bool,
    /// The process can read it and write to it.
    pub(crate) accessible: bool,
}

/// Advice of madvise(2) that this crate gives. None of it changes what the memory holds.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Advice {
    /// `MADV_NOHUGEPAGE`: page faults take base pages.
    BasePages,
    /// `MADV_HUGEPAGE`: page faults take transparent huge pages.
    HugePages,
    /// `MADV_COLLAPSE`: replaces base pages by one huge page now.
    Collapse,
    /// `MADV_POPULATE_WRITE`: makes every page resident and writable now.
    Populate,
    /// `MADV_UNMERGEABLE`: same-page merging (KSM) leaves the range alone.
    KeepFromMerging,
    /// `MADV_DONTFORK`: children that fork(2) makes do not have the range.
    KeepFromChildren,
    /// `MADV_DONTDUMP`: core dumps do not contain the range.
    KeepFromDumps,
    /// `MADV_RANDOM`: no readahead, which private memory does not have. The range is not merged
    /// with mappings around it.
    Apart,
    /// `MADV_NORMAL`: undoes [`Advice::Apart`].
    Normal,
}
