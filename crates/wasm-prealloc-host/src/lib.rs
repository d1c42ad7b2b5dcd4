//! Commits a wasm host's linear memory physically at instantiation, or refuses with an error that
//! names the limit in the way.
//!
//! A host that must be deterministic needs its memory *before* it starts on a block of work. An
//! operating system hands out pages on first touch, and where there are none left it kills
//! somebody. This crate asks every limit first, commits in a way that the kernel can refuse,
//! reads back what became resident, and gives up cleanly.
//!
//! The smallest wasmtime host (feature `wasmtime`):
//!
//! ```no_run
//! # #[cfg(feature = "wasmtime")]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use wasm_prealloc_host::{Requirements, SecuredMemory, deterministic};
//! use wasmtime::{Config, Engine, Linker, Module, Store};
//!
//! let secured = SecuredMemory::new(Requirements::default()); // 65,536 pages of 64 KiB
//! let mut config = Config::new();
//! secured.configure(&mut config);
//! deterministic(&mut config);
//! let engine = Engine::new(&config)?;
//! let module = Module::from_file(&engine, "guest.wasm")?;
//! let mut store = Store::new(&engine, ());
//! // Here 4 GiB become resident, or the error says which limit to raise and by how much.
//! let instance = secured.instantiate(&Linker::new(&engine), &mut store, &module)?;
//! let start = instance.get_typed_func::<(), ()>(&mut store, "_start")?;
//! start.call(&mut store, ())?;
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "wasmtime"))]
//! # fn main() {}
//! ```
//!
//! Without an engine, [`SecuredRegion::secure`] commits a region and [`Headroom::read`] says what
//! each limit leaves.
//!
//! Sizes are in bytes unless a name says pages; a page is a wasm page of 64 KiB, and the
//! operating system's page is always called that.

// Mapping, protecting and advising memory is what this crate is for; no other crate of the
// workspace may. Every block carries its reason.
#![allow(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("wasm-prealloc-host supports Linux only so far");

#[cfg(not(target_pointer_width = "64"))]
compile_error!("wasm-prealloc-host needs a 64-bit address space: a linear memory is 4 GiB");

mod cgroup;
mod error;
mod files;
mod headroom;
mod limit;
mod lock;
mod populate;
mod region;
mod secure;
#[cfg(feature = "wasmtime")]
mod wasmtime;

pub use error::{Error, Shortfall};
pub use files::Files;
pub use headroom::{Headroom, Need};
pub use limit::{CgroupVersion, Limit, Reading};
pub use lock::LockOptions;
pub use secure::{
    Backing, DEFAULT_MARGIN_BYTES, DEFAULT_PAGES, Method, Requirements, Secured, SecuredRegion,
    WASM_PAGE_BYTES, resident_bytes,
};

#[cfg(feature = "wasmtime")]
pub use crate::wasmtime::{InstantiateError, SecuredMemory, deterministic};

/// The README's program is compiled with the documentation's tests, so that it stays true.
#[cfg(all(doctest, feature = "wasmtime"))]
#[doc = include_str!("../../../README.md")]
struct Readme;
