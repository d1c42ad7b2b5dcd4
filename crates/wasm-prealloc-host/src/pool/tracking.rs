//! The kernel's write tracking as a host sees it: available through which interface, or denied for
//! which reason. The system calls are in `sys`.

use std::fmt;
use std::io;

use crate::sys::Tracker;

/// The kernel interface through which writes are tracked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TrackingInterface {
    /// The system call userfaultfd(2).
    SystemCall,
    /// The device `/dev/userfaultfd`, because a sandbox denies the system call.
    Device,
}

impl fmt::Display for TrackingInterface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TrackingInterface::SystemCall => "userfaultfd(2)",
            TrackingInterface::Device => "/dev/userfaultfd",
        })
    }
}

/// Writes cannot be tracked here, so each reset under [`Policy::Declared`](crate::Policy::Declared)
/// zeroes the whole slot.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrackingError {
    /// The kernel or a sandbox denies both interfaces.
    #[error(
        "writes cannot be tracked: userfaultfd(2) failed ({system_call}) and /dev/userfaultfd \
         failed ({device}); allow the system call in the sandbox (a seccomp profile), give the \
         process the device, or use Policy::CommitMaximum, which needs no tracking"
    )]
    #[non_exhaustive]
    Denied {
        /// The error of the system call.
        system_call: io::Error,
        /// The error of the device.
        device: io::Error,
    },
    /// The kernel has one of the interfaces, and not the features that are needed.
    #[error(
        "writes cannot be tracked: the kernel is older than Linux 6.7 or was built without it \
         ({0}); use a newer kernel, or Policy::CommitMaximum, which needs no tracking"
    )]
    Unsupported(io::Error),
    /// The file that is scanned cannot be opened.
    #[error(
        "writes cannot be tracked: /proc/self/pagemap cannot be opened ({0}); mount /proc, or use \
         Policy::CommitMaximum, which needs no tracking"
    )]
    Pagemap(io::Error),
    /// The operating system has no write tracking.
    #[error(
        "writes cannot be tracked on this operating system; Policy::CommitMaximum needs no tracking"
    )]
    NotLinux,
}

/// Checks that the kernel tracks writes for this process, and returns the interface. A pool with
/// [`Tracking::Auto`](crate::Tracking::Auto) uses the same one.
///
/// # Errors
/// The reason why it does not.
pub fn write_tracking() -> Result<TrackingInterface, TrackingError> {
    Ok(Tracker::open()?.interface())
}
