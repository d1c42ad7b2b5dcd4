//! wasmtime: its memory creator, the limits of its tables, and verified instantiation of modules and
//! components.

#[cfg(feature = "async")]
pub(crate) mod asynchronous;
#[cfg(feature = "component-model")]
pub(crate) mod component;
pub(crate) mod creator;
pub(crate) mod error;
pub(crate) mod instantiate;
pub(crate) mod known;
pub(crate) mod limiter;
pub(crate) mod needs;
pub(crate) mod probe;
pub(crate) mod refusals;
pub(crate) mod scope;
pub(crate) mod verify;
pub(crate) mod versions;
