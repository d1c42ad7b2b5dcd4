//! Committing memory: populated in a way that the kernel can refuse, checked for residency, and
//! given back after a failure.

pub(crate) mod backing;
pub(crate) mod group;
pub(crate) mod in_place;
pub(crate) mod lock;
pub(crate) mod locking;
pub(crate) mod pace;
pub(crate) mod populate;
pub(crate) mod region;
pub(crate) mod report;
pub(crate) mod requirements;
pub(crate) mod residency;
pub(crate) mod secure;
pub(crate) mod trial;
