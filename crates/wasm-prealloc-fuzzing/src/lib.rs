//! Generators and oracles: random modules, and what must hold between a module and its rewrite.
//!
//! - [`Generated`] is a random module that grows, measures and uses its memories, and ends.
//! - [`differential::check`] runs such a module beside its rewrites: whatever can be observed is
//!   the same. [`walrus_rewrite`] is the same rewrite written a second time, as a further witness.
//! - [`declare`] changes the limits of a module's memories and nothing else: what a rewrite is
//!   compared with where only its limits are in question.
//! - [`mutation::check`] asks everything of arbitrary bytes: no panic, no broken output.
//!
//! Everything is made from bytes, so that a fuzzer can steer it; [`bytes_of_seed`] gives the bytes
//! for a bounded run with fixed seeds. Where something does not hold, an error says what.

mod compare;
mod declare;
pub mod differential;
mod generate;
pub mod mutation;
mod run;
mod walrus_rewrite;

pub use declare::declare;
pub use generate::Generated;
pub use walrus_rewrite::walrus_rewrite;

/// The bytes that a seed stands for: enough for one module.
#[must_use]
pub fn bytes_of_seed(seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; random.usize(512..6144)];
    random.fill(&mut bytes);
    bytes
}
