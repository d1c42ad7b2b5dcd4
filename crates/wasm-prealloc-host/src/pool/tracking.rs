//! The check that writes can be tracked. The system calls are in `sys`.

use crate::sys::{Tracker, TrackingError, TrackingInterface};

/// Checks that the kernel tracks writes for this process, and returns the interface. A pool with
/// [`Tracking::Auto`](crate::Tracking::Auto) uses the same one.
///
/// # Errors
/// The reason why it does not.
pub fn write_tracking() -> Result<TrackingInterface, TrackingError> {
    Ok(Tracker::open()?.interface())
}
