//! Commits where a limit cannot be seen: the kernel kills a process at a limit of its cgroup, so a
//! child process commits the same memory first, and is the one that is killed. Its memory is free
//! again before this process commits.

use std::thread;
use std::time::Duration;

use crate::commit::pace::Pace;
use crate::commit::report::{OnProgress, Stage};
use crate::error::SecureError;
use crate::limits::headroom::{Headroom, Need};
use crate::sys::HUGE_PAGE_BYTES;
use crate::sys::{self, Child, Outcome};

/// The interval at which the outcome of the child is read.
const POLL: Duration = Duration::from_millis(1);

/// The least that a trial commits beyond the memory. The host takes a little more than the child
/// did, for example for the kernel's charges in advance: without a margin 1 of 200 hosts at limits
/// around the break-even was killed after a trial had succeeded.
const RESERVE_BYTES: u64 = 1 << 20;

/// The trials of a commit, which are needed if a limit may be hidden.
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

    /// Returns the least that a trial commits beyond the memory.
    pub(crate) fn reserve_bytes(&self) -> usize {
        match self.is_needed() {
            true => RESERVE_BYTES as usize,
            false => 0,
        }
    }

    /// Adds to a need the memory that is mapped besides it where a limit may be hidden: the margin or
    /// the reserve, in whole and aligned huge pages.
    pub(crate) fn add_need(margin_bytes: u64, need: Need) -> Need {
        let mapped_bytes = margin_bytes
            .max(RESERVE_BYTES)
            .saturating_add(2 * HUGE_PAGE_BYTES as u64);
        need.and(Need {
            address_space_bytes: mapped_bytes.saturating_add(Child::address_space_bytes()),
            data_bytes: mapped_bytes,
            ..Need::default()
        })
    }

    /// Returns trials that do nothing, for limits that are all visible.
    pub(crate) fn of_visible_limits() -> Trial {
        Trial { hidden: None }
    }

    /// Commits memory and the margin, or a reserve, in base pages in a child process, as
    /// [`run`](Trial::run).
    pub(crate) fn of_base_pages(
        &self,
        bytes: u64,
        margin_bytes: u64,
        progress: OnProgress<'_>,
    ) -> Result<(), SecureError> {
        let all = bytes.saturating_add(margin_bytes.max(RESERVE_BYTES));
        let amount = Amount {
            spread_bytes: 0,
            whole_bytes: usize::try_from(all).unwrap_or(usize::MAX),
        };
        self.run(amount, progress)
    }

    /// Commits the amount in a child process if a limit may be hidden, and gives it back.
    pub(crate) fn run(&self, amount: Amount, progress: OnProgress<'_>) -> Result<(), SecureError> {
        let needed_bytes = amount.bytes();
        let (Some(why), 1..) = (&self.hidden, needed_bytes) else {
            return Ok(());
        };
        let unavailable = |call: &'static str| {
            move |source| SecureError::TrialUnavailable {
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
                    return Err(SecureError::HiddenLimit {
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
            Err(error @ SecureError::TrialUnavailable { call: "mmap", .. }) => {
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
}
