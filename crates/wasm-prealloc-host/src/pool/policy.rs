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
    /// The module is unchanged, and may declare any maximum or none. Each memory sees its current
    /// size and grows to its own maximum or to the cap, whichever is smaller. The cap is committed,
    /// so growth up to it cannot fail. Growth beyond it returns -1 in the guest, on every host. A
    /// module with a larger minimum is refused.
    ///
    /// The slots have the size of the cap, unless
    /// [`MemoryPoolBuilder::pages`](crate::MemoryPoolBuilder::pages) makes them larger.
    Cap {
        /// The cap, in wasm pages of 64 KiB.
        pages: u64,
    },
}

impl Policy {
    /// Returns the kind of the policy, which has a name.
    pub fn kind(self) -> PolicyKind {
        match self {
            Policy::Declared => PolicyKind::Declared,
            Policy::CommitMaximum => PolicyKind::CommitMaximum,
            Policy::Cap { .. } => PolicyKind::Cap,
        }
    }

    /// Returns the size of a slot if the builder does not set it, in wasm pages.
    pub(crate) fn default_slot_pages(self) -> u64 {
        match self {
            Policy::Cap { pages } => pages,
            Policy::Declared | Policy::CommitMaximum => DEFAULT_PAGES,
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
            Policy::Cap { pages: cap } => match maximum.unwrap_or(cap).min(cap) {
                limit if minimum <= limit => Ok(limit),
                limit => Err(PolicyError::AboveCap {
                    minimum,
                    cap: limit,
                }),
            },
        }
    }
}

/// The kind as [`PolicyKind`] displays it.
impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind().fmt(f)
    }
}

/// A [`Policy`] without its number, for command lines and configuration files: it has a name.
///
/// ```
/// use wasm_prealloc_host::{Policy, PolicyKind};
///
/// let kind: PolicyKind = "cap".parse()?;
/// assert_eq!(kind.policy(Some(4096)), Some(Policy::Cap { pages: 4096 }));
/// assert_eq!(kind.policy(None), None);
/// # Ok::<(), wasm_prealloc_host::UnknownName>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum PolicyKind {
    /// [`Policy::Declared`].
    #[default]
    Declared,
    /// [`Policy::CommitMaximum`].
    CommitMaximum,
    /// [`Policy::Cap`].
    Cap,
}

impl PolicyKind {
    /// Every kind.
    pub const ALL: [PolicyKind; 3] = [
        PolicyKind::Declared,
        PolicyKind::CommitMaximum,
        PolicyKind::Cap,
    ];

    /// Returns the name of the kind, which [`FromStr`] parses.
    pub fn as_str(self) -> &'static str {
        match self {
            PolicyKind::Declared => "declared",
            PolicyKind::CommitMaximum => "commit-maximum",
            PolicyKind::Cap => "cap",
        }
    }

    /// Returns the policy of this kind. `cap_pages` is the cap of [`Policy::Cap`], and the others
    /// ignore it. Returns `None` if the policy needs a cap and there is none.
    pub fn policy(self, cap_pages: Option<u64>) -> Option<Policy> {
        match self {
            PolicyKind::Declared => Some(Policy::Declared),
            PolicyKind::CommitMaximum => Some(Policy::CommitMaximum),
            PolicyKind::Cap => cap_pages.map(|pages| Policy::Cap { pages }),
        }
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for PolicyKind {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<PolicyKind, UnknownName> {
        name::parse(&PolicyKind::ALL, name)
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
