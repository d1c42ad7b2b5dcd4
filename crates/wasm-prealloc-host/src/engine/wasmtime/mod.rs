//! wasmtime: its memory creator, the limits of its tables, and verified instantiation.

pub(crate) mod creator;
pub(crate) mod instantiate;
pub(crate) mod known;
pub(crate) mod limiter;
pub(crate) mod probe;
pub(crate) mod refusals;
pub(crate) mod scope;
pub(crate) mod verify;
