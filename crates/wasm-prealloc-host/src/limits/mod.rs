//! The limits on this process's memory: what they are, their values now, and whether a need fits.

pub(crate) mod cgroup;
pub(crate) mod condition;
pub(crate) mod conditions;
pub(crate) mod explain;
pub(crate) mod files;
pub(crate) mod headroom;
pub(crate) mod limit;
mod machine;
mod need;
mod process;
pub(crate) mod shortfall;
pub(crate) mod visibility;
