//! wasmtime: its memory creator, and verified instantiation.

pub(crate) mod instantiate;
