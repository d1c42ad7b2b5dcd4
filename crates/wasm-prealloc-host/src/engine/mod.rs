//! Engines that take their linear memories from a pool, one folder each.

#[cfg(feature = "wasmtime-runtime")]
pub(crate) mod wasmtime;
