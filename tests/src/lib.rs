//! What the end-to-end tests and `cargo xtask memory-test` share: the guests and programs under
//! test, memory cgroups to run them in, the four cells that the project exists for, hosts at every
//! limit, and chains of blocks on unlike machines.
//!
//! No engine is a dependency here, so that `cargo xtask` is built quickly.

pub mod cells;
pub mod chain;
mod group;
pub mod limits;
mod programs;

pub use group::MemoryGroup;
pub use programs::{
    Guests, Profile, any_engine, command, commit, debug_guest, indexer, repository,
};

/// Says visibly that a test did not run, and why. The test harness hides what passing tests print
/// with `println!`, so this writes past it.
pub fn skipped(why: &str) {
    use std::io::Write as _;
    // Nothing can be done about a stderr that is gone.
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}
