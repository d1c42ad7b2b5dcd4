//! What this crate asks of every operating system: address space, protection, residency.
//!
//! What only Linux can do is elsewhere: `populate` commits so that the kernel can refuse, `track`
//! finds out what was written, `cgroup` and `headroom` read limits.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(unix)]
mod unix;
#[cfg(not(target_os = "linux"))]
mod unsupported;
#[cfg(windows)]
mod windows;

#[cfg(target_os = "linux")]
pub(crate) use linux::*;
#[cfg(unix)]
pub(crate) use unix::*;
#[cfg(not(target_os = "linux"))]
pub(crate) use unsupported::*;
#[cfg(windows)]
pub(crate) use windows::*;

/// The errors that the rest of the crate tells apart.
pub(crate) mod errno {
    /// No memory, address space or map entry is left, or a limit is in the way.
    pub(crate) const ENOMEM: i32 = libc::ENOMEM;
}
