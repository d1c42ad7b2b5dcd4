//! wasmtime: its memory creator, and verified instantiation.

pub(crate) mod creator;
pub(crate) mod instantiate;
