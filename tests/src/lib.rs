//! Support for the end-to-end tests and for `cargo xtask memory-test`: the guests and programs under
//! test, memory cgroups to run them in, and the experiments in such groups: the four [`cells`], hosts at
//! many [`limits`], a [`chain`] of blocks on many [`machines`], and views beside the blocks of a
//! [`ledger`]. Scenarios in virtual
//! machines are in [`vm`].
//!
//! This crate does not depend on an engine, so that `cargo xtask` builds quickly.

pub mod cells;
pub mod chain;
mod differences;
mod indexer;
pub mod ledger;
pub mod limits;
pub mod machines;
mod memory_group;
mod memory_lock;
mod npm;
mod programs;
mod skip;
pub mod vm;

pub use indexer::{INDEXER, Indexer, Outcome, Setup};
pub use memory_group::MemoryGroup;
pub use memory_lock::{memory_lock, shared_memory_lock};
pub use npm::install_packages;
pub use programs::{
    Guest, Guests, Profile, any_engine, command, commit, debug_guest, in_place, migration,
    repository,
};
pub use skip::skipped;

/// One MiB in bytes.
pub const MIB: u64 = 1 << 20;
