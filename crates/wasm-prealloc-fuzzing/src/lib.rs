//! Generators and oracles: random modules, and properties that hold between a module and its rewrite.
//!
//! - [`Generated`] is a random module that grows, reads and writes its memories, and terminates.
//! - [`differential::check`] compares such a module with its rewrites: all observable behaviour is the
//!   same. [`walrus_rewrite`] is a second implementation of the rewrite, to compare with.
//! - [`declare`] changes the limits of a module's memories and nothing else. Its result is the
//!   reference where only the limits matter.
//! - [`mutation::check`] calls every function of the library on arbitrary bytes: no panic, and no
//!   invalid output.
//!
//! All input is derived from bytes, so that a fuzzer can control it. [`bytes_of_seed`] makes the bytes
//! of a run with fixed seeds. A property that does not hold is an error.

mod compare;
mod declare;
pub mod differential;
mod generate;
pub mod mutation;
mod run;
mod seeds;
mod stats;
mod walrus_rewrite;

pub use declare::declare;
pub use generate::Generated;
pub use seeds::{bytes_of_seed, for_each_seed, generate};
pub use stats::Stats;
pub use walrus_rewrite::walrus_rewrite;
