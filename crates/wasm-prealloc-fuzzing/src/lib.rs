//! Generators and oracles: random modules, and properties that hold between a module and its rewrite.
//!
//! - [`Generated`] is a random module that grows, reads and writes its memories, and terminates.
//! - [`differential::check`] compares such a module with its rewrites: all observable behaviour is the
//!   same. [`walrus_rewrite`] is a second implementation of the rewrite, to compare with.
//! - [`linked::check`] does the same with several modules and instances that share a memory: core
//!   modules that an embedder links, and components.
//! - [`declare`] changes the limits of a module's memories and nothing else. Its result is the
//!   reference where only the limits matter.
//! - [`mutation::check`] calls every function of the library on arbitrary bytes: no panic, and no
//!   invalid output.
//!
//! All input is derived from bytes, so that a fuzzer can control it. [`bytes_of_seed`] makes the bytes
//! of a run with fixed seeds. A property that does not hold is an error.

mod compare;
mod component;
mod declare;
pub mod differential;
mod generate;
mod insert;
mod legacy;
pub mod linked;
mod metadata;
pub mod mutation;
mod reference;
mod run;
mod sections;
mod seeds;
mod stats;
mod walrus_rewrite;

pub use declare::declare;
pub use generate::Generated;
pub use legacy::Pair;
pub use linked::Linked;
pub use seeds::{bytes_of_seed, for_each_seed, generate, generate_legacy, generate_linked};
pub use stats::Stats;
pub use walrus_rewrite::walrus_rewrite;
