//! Detects a commit that comes almost to a halt: the kernel slows a cgroup above its `memory.high`,
//! and a cgroup whose OOM killer is disabled waits at its limit until memory is freed.

use std::time::{Duration, Instant};

use crate::error::SecureError;

/// The time over which the pace is measured.
const WINDOW: Duration = Duration::from_secs(5);

/// A commit that is slower in two windows in succession has come to a halt. Memory that a virtual
/// machine uses for the first time is 500 times faster. One window can be a pause of the machine.
const HALTED_BYTES_PER_WINDOW: u64 = 2 << 20;

/// A commit that is slower emits a warning.
const SLOW_BYTES_PER_WINDOW: u64 = 100 << 20;

/// The pace of a commit.
#[derive(Debug)]
pub(crate) struct Pace {
    since: Instant,
    committed_bytes: u64,
    halted: bool,
    reported: bool,
}

impl Pace {
    pub(crate) fn new() -> Pace {
        Pace {
            since: Instant::now(),
            committed_bytes: 0,
            halted: false,
            reported: false,
        }
    }

    /// Returns [`SecureError::Stalled`] if the commit has come to a halt.
    pub(crate) fn check(
        &mut self,
        committed_bytes: u64,
        needed_bytes: u64,
    ) -> Result<(), SecureError> {
        self.check_after(self.since.elapsed(), committed_bytes, needed_bytes)
    }

    fn check_after(
        &mut self,
        waited: Duration,
        committed_bytes: u64,
        needed_bytes: u64,
    ) -> Result<(), SecureError> {
        if waited < WINDOW {
            return Ok(());
        }
        let recent_bytes = committed_bytes.saturating_sub(self.committed_bytes);
        let windows = waited.as_secs_f64() / WINDOW.as_secs_f64();
        let slower_than = |bytes: u64| (recent_bytes as f64) < bytes as f64 * windows;
        let halted = slower_than(HALTED_BYTES_PER_WINDOW);
        if halted && self.halted {
            return Err(SecureError::Stalled {
                committed_bytes,
                needed_bytes,
                recent_bytes,
                waited,
            });
        }
        if slower_than(SLOW_BYTES_PER_WINDOW) && !self.reported {
            self.reported = true;
            tracing::warn!(
                recent_bytes,
                ?waited,
                "the commit is slow: a cgroup above its memory.high, swap, or a busy machine"
            );
        }
        self.since = Instant::now();
        self.committed_bytes = committed_bytes;
        self.halted = halted;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_halt_is_an_error_after_two_windows_and_a_pause_is_not() {
        let mut pace = Pace::new();
        // A pause of one window, and a commit that goes on.
        pace.check_after(2 * WINDOW, 1 << 20, 1 << 30).unwrap();
        pace.check_after(WINDOW, 500 << 20, 1 << 30).unwrap();
        // 256 KiB in 2 s, as memory.high at its slowest.
        pace.check_after(WINDOW, (500 << 20) + (640 << 10), 1 << 30)
            .unwrap();
        match pace.check_after(2 * WINDOW, (501 << 20) + (896 << 10), 1 << 30) {
            Err(SecureError::Stalled { recent_bytes, .. }) => assert_eq!(recent_bytes, 1280 << 10),
            other => panic!("{other:?}"),
        }
    }
}
