//! Commits where a limit cannot be seen: the kernel kills a process at a limit of its cgroup, so a
//! child process commits the same memory first, and is the one that is killed. Its memory is free
//! again before this process commits.
//!
//! Also notices commits that come almost to a halt: a cgroup above `memory.high` is slowed down, and
//! one whose OOM killer is disabled waits at its limit for ever.

use std::thread;
use std::time::{Duration, Instant};

use crate::commit::populate::Progress;
use crate::commit::region::HUGE_PAGE_BYTES;
use crate::commit::report::Stage;
use crate::error::Error;
use crate::limits::headroom::Headroom;
use crate::sys::{self, Child, Outcome};

/// The pause between two looks at the child.
const POLL: Duration = Duration::from_millis(1);

/// The time over which the pace is measured.
const WINDOW: Duration = Duration::from_secs(5);

/// A commit that is slower in two windows in succession has come to a halt. Memory that a virtual
/// machine uses for the first time is 500 times faster. One window can be a pause of the machine.
const HALTED_BYTES_PER_WINDOW: u64 = 2 << 20;

/// A commit that is slower is reported.
const SLOW_BYTES_PER_WINDOW: u64 = 100 << 20;

/// The least that a trial commits beyond the memory. The host takes a little more than the child
/// did, for example for the kernel's charges in advance: without a margin 1 of 200 hosts at limits
/// around the break-even was killed after a trial had succeeded.
const RESERVE_BYTES: u64 = 1 << 20;

/// A decision on trials, made from a reading of the limits.
#[derive(Debug)]
pub(crate) struct Trial {
    /// The reason why a limit may be hidden.
    hidden: Option<String>,
}

/// The memory that a trial commits, in base pages.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Amount {
    /// The size of ranges of which one page in each 2 MiB is written.
    pub(crate) spread_bytes: usize,
    /// The size of ranges that are written completely.
    pub(crate) whole_bytes: usize,
}

impl Amount {
    fn bytes(self) -> u64 {
        let pages = self.spread_bytes.div_ceil(HUGE_PAGE_BYTES);
        (pages * sys::page_bytes()).saturating_add(self.whole_bytes) as u64
    }
}

impl Trial {
    pub(crate) fn new(headroom: &Headroom) -> Trial {
        Trial {
            hidden: headroom.visibility.reason().map(str::to_owned),
        }
    }

    /// Returns true if a limit may be hidden.
    pub(crate) fn is_needed(&self) -> bool {
        self.hidden.is_some()
    }

    /// Decides on no trials.
    pub(crate) fn of_visible_limits() -> Trial {
        Trial { hidden: None }
    }

    /// Commits memory and the margin, or a reserve, in base pages in a child process, as [`run`](Trial::run).
    pub(crate) fn of_base_pages(
        &self,
        bytes: u64,
        margin_bytes: u64,
        progress: Progress<'_>,
    ) -> Result<(), Error> {
        let all = bytes.saturating_add(margin_bytes.max(RESERVE_BYTES));
        let amount = Amount {
            spread_bytes: 0,
            whole_bytes: usize::try_from(all).unwrap_or(usize::MAX),
        };
        self.run(amount, progress)
    }

    /// Commits the amount in a child process if a limit may be hidden, and gives it back.
    pub(crate) fn run(&self, amount: Amount, progress: Progress<'_>) -> Result<(), Error> {
        let needed_bytes = amount.bytes();
        let (Some(why), 1..) = (&self.hidden, needed_bytes) else {
            return Ok(());
        };
        let unavailable = |call: &'static str| {
            move |source| Error::TrialUnavailable {
                call,
                why: why.clone(),
                source,
            }
        };
        let child = Child::start(amount.spread_bytes, amount.whole_bytes);
        let mut child = child.map_err(unavailable("clone"))?;
        let mut pace = Pace::new();
        loop {
            // Read first: the child may end in between.
            let committed_bytes = child.committed_bytes();
            match child.outcome().map_err(unavailable("waitpid"))? {
                Some(Outcome::Committed) => return Ok(()),
                Some(Outcome::Killed) => {
                    return Err(Error::HiddenLimit {
                        committed_bytes: child.committed_bytes(),
                        needed_bytes,
                        why: why.clone(),
                    });
                }
                Some(Outcome::Failed(call, source)) => return Err(unavailable(call)(source)),
                None => {}
            }
            progress(Stage::Trial, committed_bytes);
            pace.check(committed_bytes, needed_bytes)?;
            thread::sleep(POLL);
        }
    }
}

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

    /// Checks that the commit goes on.
    pub(crate) fn check(&mut self, committed_bytes: u64, needed_bytes: u64) -> Result<(), Error> {
        self.check_after(self.since.elapsed(), committed_bytes, needed_bytes)
    }

    fn check_after(
        &mut self,
        waited: Duration,
        committed_bytes: u64,
        needed_bytes: u64,
    ) -> Result<(), Error> {
        if waited < WINDOW {
            return Ok(());
        }
        let recent_bytes = committed_bytes.saturating_sub(self.committed_bytes);
        let windows = waited.as_secs_f64() / WINDOW.as_secs_f64();
        let slower_than = |bytes: u64| (recent_bytes as f64) < bytes as f64 * windows;
        let halted = slower_than(HALTED_BYTES_PER_WINDOW);
        if halted && self.halted {
            return Err(Error::Stalled {
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

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn hidden() -> Trial {
        Trial {
            hidden: Some("a test hides it".to_owned()),
        }
    }

    #[test]
    fn a_child_commits_as_much_and_gives_it_back() {
        let amount = Amount {
            spread_bytes: 8 << 20,
            whole_bytes: 3 << 20,
        };
        hidden().run(amount, &mut |_, _| {}).unwrap();
        let visible = Trial { hidden: None };
        visible
            .run(amount, &mut |_, _| panic!("nothing is tried"))
            .unwrap();
    }

    #[test]
    fn a_child_that_cannot_have_the_address_space_is_named() {
        let amount = Amount {
            spread_bytes: 0,
            whole_bytes: 1 << 60,
        };
        match hidden().run(amount, &mut |_, _| {}) {
            Err(error @ Error::TrialUnavailable { call: "mmap", .. }) => {
                let text = error.to_string();
                assert!(text.contains("a test hides it"), "{text}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_killed_child_is_a_limit_that_is_hidden() {
        let mut child = Child::start(0, 1 << 30).unwrap();
        assert!(child.outcome().unwrap().is_none());
        child.kill();
        let outcome = loop {
            if let Some(outcome) = child.outcome().unwrap() {
                break outcome;
            }
            thread::sleep(POLL);
        };
        assert!(matches!(outcome, Outcome::Killed), "{outcome:?}");
    }

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
            Err(Error::Stalled { recent_bytes, .. }) => assert_eq!(recent_bytes, 1280 << 10),
            other => panic!("{other:?}"),
        }
    }
}
