//! The part of the cgroup limits that this process can see.

use std::fmt;

/// The part of the limits on this process's memory cgroups that could be read.
///
/// A limit that cannot be read is not a missing limit: where some are hidden, a commit of base
/// pages is tried in a child process first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Visibility {
    /// All of them, or the kernel has no memory cgroups.
    #[default]
    Complete,
    /// Some of them, with the reason why others could not be read.
    Partial(String),
    /// None that are known to be this process's, with the reason.
    Unknown(String),
}

impl Visibility {
    /// Returns true if every limit could be read.
    pub fn is_complete(&self) -> bool {
        *self == Visibility::Complete
    }

    /// Returns the reason why a limit could not be read.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Visibility::Complete => None,
            Visibility::Partial(why) | Visibility::Unknown(why) => Some(why),
        }
    }

    /// Records that one limit could not be read. The first reason is kept.
    pub(crate) fn reduce(&mut self, why: impl Into<String>) {
        if self.is_complete() {
            *self = Visibility::Partial(why.into());
        }
    }
}

impl fmt::Display for Visibility {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Visibility::Complete => f.write_str("every memory cgroup limit is visible"),
            Visibility::Partial(why) => write!(f, "some memory cgroup limits are hidden: {why}"),
            Visibility::Unknown(why) => {
                write!(f, "the memory cgroup limits are unknown: {why}")
            }
        }
    }
}
