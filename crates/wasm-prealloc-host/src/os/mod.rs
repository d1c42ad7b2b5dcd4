//! What this crate asks of every operating system: address space, protection, residency.
//!
//! What only Linux can do is elsewhere: `populate` commits so that the kernel can refuse, `track`
//! finds out what was written, `cgroup` and `headroom` read limits.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub(crate) use unix::*;
#[cfg(windows)]
pub(crate) use windows::*;

/// The errors that the rest of the crate tells apart.
pub(crate) mod errno {
    /// No memory, address space or map entry is left, or a limit is in the way.
    pub(crate) const ENOMEM: i32 = libc::ENOMEM;
}
