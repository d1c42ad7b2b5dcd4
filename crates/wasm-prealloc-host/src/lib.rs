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
//! use wasm_prealloc_host::{MemoryPool, deterministic};
//! use wasmtime::{Config, Engine, Linker, Module, Store};
//!
//! // Here two memories of 4 GiB become resident, or the error says which limit to raise and by
//! // how much.
//! let pool = MemoryPool::builder().slots(2).pages(65_536).secure()?;
//! let mut config = Config::new();
//! deterministic(&mut config);
//! pool.configure(&mut config);
//! let engine = Engine::new(&config)?;
//! let module = Module::from_file(&engine, "guest.wasm")?;
//! let mut store = Store::new(&engine, ());
//! // The instance takes one of them, and gives it back, zeroed, when the store is dropped.
//! let instance = pool.instantiate(&Linker::new(&engine), &mut store, &module)?;
//! let start = instance.get_typed_func::<(), ()>(&mut store, "_start")?;
//! start.call(&mut store, ())?;
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "wasmtime"))]
//! # fn main() {}
//! ```
//!
//! With another engine, [`MemoryPool::lend`] gives out memories, and [`secure_in_place`] commits
//! one that the engine has mapped itself. [`SecuredRegion::secure`] commits a region without a
//! pool, and [`Headroom::read`] says what each limit leaves.
//!
//! Securing emits a `tracing` span with its outcome, resets emit events; a subscriber of the host's
//! choice receives them.
//!
//! Limits are read, huge pages asked for and writes tracked on Linux. Elsewhere each page of the
//! operating system is touched, and everything is zeroed when a memory comes back.
//!
//! Sizes are in bytes unless a name says pages; a page is a wasm page of 64 KiB, and the
//! operating system's page is always called that.

// Mapping, protecting and advising memory is what this crate is for; no other crate of the
// workspace may. Every block carries its reason.
#![allow(unsafe_code)]

#[cfg(not(target_pointer_width = "64"))]
compile_error!("wasm-prealloc-host needs a 64-bit address space: a linear memory is 4 GiB");

#[cfg(all(target_os = "linux", feature = "bare"))]
#[doc(hidden)]
pub mod bare;
mod commit;
mod engine;
mod error;
mod limits;
mod pool;
mod sys;

pub use commit::in_place::secure_in_place;
pub use commit::lock::LockOptions;
pub use commit::requirements::{
    Backing, DEFAULT_MARGIN_BYTES, DEFAULT_PAGES, Requirements, WASM_PAGE_BYTES,
};
pub use commit::secure::{Method, Progress, Secured, SecuredRegion, resident_bytes};
#[cfg(feature = "wasmtime")]
pub use engine::wasmtime::instantiate::{InstantiateError, deterministic};
pub use error::{Error, Shortfall};
pub use limits::files::Files;
pub use limits::headroom::{Headroom, Need};
pub use limits::limit::{CgroupVersion, Limit, Reading};
pub use pool::builder::{MemoryPoolBuilder, Policy, PreparedPool, Tracking, WhenExhausted};
pub use pool::memory_pool::{LentMemory, MemoryPool, Statistics};

/// The README's program is compiled with the documentation's tests, so that it stays true.
#[cfg(all(doctest, feature = "wasmtime"))]
#[doc = include_str!("../../../README.md")]
struct Readme;
