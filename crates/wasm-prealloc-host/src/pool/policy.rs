//! The options of a pool: the modules that it serves, and how it waits, tracks writes and resets.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::commit::requirements::DEFAULT_PAGES;
use crate::error::PolicyError;
use crate::name::{self, UnknownName};

/// The modules that a pool serves, and the part of a slot that they see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Policy {
    /// The module declares a minimum and a maximum equal to the slot's size, as
    /// `wasm-prealloc rewrite` makes it. All of the slot is accessible.
    #[default]
    Declared,
    /// The module is unchanged. Its maximum is committed, and it sees its current size: growth up
    /// to the maximum cannot fail, and accesses beyond the current size trap.
    CommitMaximum,
}

impl Policy {
    /// Every policy.
    pub const ALL: [Policy; 2] = [Policy::Declared, Policy::CommitMaximum];

    /// Returns the name of the policy, which [`FromStr`] parses.
    pub fn as_str(self) -> &'static str {
        match self {
            Policy::Declared => "declared",
            Policy::CommitMaximum => "commit-maximum",
        }
    }

    /// Returns the number of pages that a memory with these limits can grow to in a slot of
    /// `slot_pages`.
    pub(crate) fn limit_pages(
        self,
        minimum: u64,
        maximum: Option<u64>,
        slot_pages: u64,
    ) -> Result<u64, PolicyError> {
        match self {
            Policy::Declared if minimum == slot_pages && maximum == Some(slot_pages) => {
                Ok(slot_pages)
            }
            Policy::Declared => Err(PolicyError::NotPinned {
                minimum,
                maximum,
                expected: slot_pages,
            }),
            Policy::CommitMaximum => match maximum.unwrap_or(DEFAULT_PAGES) {
                limit if minimum <= limit && limit <= slot_pages => Ok(limit),
                limit => Err(PolicyError::SlotTooSmall {
                    maximum: Some(limit.max(minimum)),
                    slot_pages,
                }),
            },
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Policy {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Policy, UnknownName> {
        name::parse(&Policy::ALL, name)
    }
}

/// The behaviour of a pool when every slot is lent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum WhenExhausted {
    /// Returns [`LendError::NoSlot`](crate::LendError::NoSlot) at once, unless enough slots are free
    /// or being reset. It waits for resets, because they end.
    #[default]
    Fail,
    /// Blocks the thread until enough slots come back, and returns
    /// [`LendError::NoSlot`](crate::LendError::NoSlot) after this time. Requests are served in the
    /// order in which they came. In an asynchronous host this blocks the executor's thread;
    /// [`MemoryPool::lend_async`](crate::MemoryPool::lend_async) suspends the task instead.
    Wait(Duration),
}

/// The way to find out what an instance wrote, under [`Policy::Declared`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Tracking {
    /// The kernel's write tracking (Linux 6.7) where it is available.
    #[default]
    Auto,
    /// No tracking: every reset zeroes everything.
    Off,
}

/// The thread that zeroes a memory when it comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Reset {
    /// The thread that drops the memory.
    #[default]
    Inline,
    /// A thread of the pool. With one slot more than blocks that run at the same time, the next
    /// block does not wait for a reset. If the system refuses the thread, resets are inline, and
    /// [`Statistics::background`](crate::Statistics::background) is false.
    Background,
}

impl Reset {
    /// Every value.
    pub const ALL: [Reset; 2] = [Reset::Inline, Reset::Background];

    /// Returns the name, which [`FromStr`] parses.
    pub fn as_str(self) -> &'static str {
        match self {
            Reset::Inline => "inline",
            Reset::Background => "background",
        }
    }
}

impl fmt::Display for Reset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Reset {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Reset, UnknownName> {
        name::parse(&Reset::ALL, name)
    }
}

/// The options of a pool that loans depend on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    pub(crate) pages: u64,
    pub(crate) slots: usize,
    pub(crate) policy: Policy,
    pub(crate) when_exhausted: WhenExhausted,
    pub(crate) reset: Reset,
}

impl Options {
    /// Returns the number of pages that a memory with these limits can grow to.
    pub(crate) fn limit_pages(
        &self,
        minimum: u64,
        maximum: Option<u64>,
    ) -> Result<u64, PolicyError> {
        self.policy.limit_pages(minimum, maximum, self.pages)
    }
}
