//! Commits a wasm host's linear memory physically at instantiation, or refuses with an error that
//! names the limit that leaves too little.
//!
//! A host that must be deterministic needs its memory *before* it starts a block of work. An
//! operating system allocates pages on first touch, and kills a process if there are none left.
//! This crate reads every limit first, commits in a way that the kernel can refuse, checks that all
//! of the memory is resident, and gives everything back after a failure.
//!
//! The smallest wasmtime host (feature `wasmtime`):
//!
//! ```no_run
//! # #[cfg(feature = "wasmtime")]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use wasm_prealloc_host::{MemoryPool, WasmtimePool, deterministic};
//! use wasmtime::{Config, Linker, Module, Store};
//!
//! // Two memories of 4 GiB become resident here, or the error names the limit to raise, and the
//! // value that is enough.
//! let pool = MemoryPool::builder().slots(2).pages(65_536).secure()?;
//! let mut config = Config::new();
//! deterministic(&mut config);
//! let engine = pool.engine(&mut config)?;
//! let module = Module::from_file(&engine, "guest.wasm")?;
//! let mut store = Store::new(&engine, ());
//! // The instance takes one of them. It comes back, and is zeroed, when the store is dropped.
//! let instance = pool.instantiate(&Linker::new(&engine), &mut store, &module)?;
//! let start = instance.get_typed_func::<(), ()>(&mut store, "_start")?;
//! start.call(&mut store, ())?;
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "wasmtime"))]
//! # fn main() {}
//! ```
//!
//! | feature | content |
//! |---|---|
//! | `wasmtime` | wasmtime 43 to 50 with its compiler: `wasmtime-runtime`, `gc` and `deterministic` |
//! | `wasmtime-runtime` | the same without a compiler, for modules that were compiled before |
//! | `gc` | exceptions, `externref` and GC types, in a heap that the pool commits |
//! | `async` | waiting for slots and instantiation in asynchronous stores |
//! | `component-model` | components |
//!
//! `wasm_prealloc_host::wasmtime` is the version of wasmtime that this crate is built with. The
//! crate enables only the features of wasmtime that it needs; a host enables others itself.
//!
//! With another engine, [`MemoryPool::lend`] lends one memory, and [`MemoryPool::reserve`] takes
//! several at once. [`secure_in_place`] commits a memory that the engine mapped itself, and
//! [`SecuredRegion::secure`] commits a region without a pool.
//!
//! - [`Headroom::read`] reads what each limit leaves, and [`Conditions::read`] reads the settings
//!   that can take secured memory away, each with a remedy.
//! - [`LockMemory`] chooses whether committed memory is locked, so that the kernel does not swap it
//!   out. By default it is locked where that is permitted.
//! - [`MemoryPool::check`] counts the resident memory again, while instances run.
//! - [`Reset::Background`] zeroes returned memories on a thread of the pool.
//! - [`MemoryPool::lend_async`] and [`MemoryPool::reserve_async`] suspend a task until a slot is
//!   free, on every executor. With the feature `async`, `WasmtimePool::instantiate_async`
//!   instantiates in asynchronous stores.
//! - With the feature `component-model`, `WasmtimePool::instantiate_component` instantiates
//!   components.
//! - [`WasmtimePool::limiter`] bounds the tables of a store, and
//!   [`MemoryPoolBuilder::engine_heap_bytes`] commits the heap for exceptions, `externref` and GC
//!   types.
//!
//! In a container, a limit on this process's cgroups may be hidden ([`Visibility`]), and no reading
//! of limits suffices. Huge pages are then committed by a call that the kernel can refuse
//! at any limit. Base pages are first committed by a child process, with the margin: it has an
//! `oom_score_adj` of 1000, so the OOM killer ends it, and not the host. The exception is a group
//! with `memory.oom.group`, which the kernel ends as a whole.
//!
//! Securing emits a `tracing` span with its outcome, and resets emit events.
//!
//! Linux has readable limits, huge pages and write tracking. On other systems each page of the
//! operating system is touched, and everything is zeroed when a memory comes back.
//!
//! Sizes are in bytes unless a name says pages. A page is a wasm page of 64 KiB; a page of the
//! operating system is always called so.

// This crate maps and protects memory; the other crates of the workspace have no unsafe code.
#![allow(unsafe_code)]

#[cfg(not(target_pointer_width = "64"))]
compile_error!("wasm-prealloc-host needs a 64-bit address space: a linear memory is 4 GiB");

mod api_item;
#[cfg(feature = "bare")]
#[doc(hidden)]
pub mod bare;
mod commit;
mod engine;
mod error;
mod limits;
mod name;
mod pool;
mod sys;

pub use api_item::ApiItem;
pub use commit::backing::Backing;
pub use commit::in_place::secure_in_place;
pub use commit::lock::LockOptions;
pub use commit::report::{Method, Progress, Secured, Stage};
pub use commit::requirements::{
    DEFAULT_MARGIN_BYTES, DEFAULT_PAGES, LockMemory, Requirements, WASM_PAGE_BYTES,
};
pub use commit::residency::{Residency, resident_bytes};
pub use commit::secure::SecuredRegion;
#[cfg(feature = "wasmtime-runtime")]
pub use engine::wasmtime::error::InstantiateError;
#[cfg(feature = "wasmtime-runtime")]
pub use engine::wasmtime::instantiate::WasmtimePool;
#[cfg(feature = "wasmtime")]
pub use engine::wasmtime::instantiate::deterministic;
#[cfg(feature = "wasmtime-runtime")]
pub use engine::wasmtime::limiter::StoreLimiter;
#[cfg(feature = "wasmtime-runtime")]
pub use engine::wasmtime::scope::{InstanceMemories, WithMemories};
pub use error::{Error, LendError, PolicyError, SecureError, VerifyError};
pub use limits::condition::Condition;
pub use limits::conditions::Conditions;
pub use limits::files::Files;
pub use limits::headroom::{Headroom, Need};
pub use limits::limit::{CgroupVersion, Limit, Reading};
pub use limits::shortfall::Shortfall;
pub use limits::visibility::Visibility;
pub use name::UnknownName;
pub use pool::assurance::{ASSURANCE_VARIABLE, Assurance};
pub use pool::builder::{MemoryPoolBuilder, PreparedPool};
pub use pool::engine_side::DEFAULT_TABLE_ELEMENTS;
pub use pool::lent::LentMemory;
pub use pool::loans::{LentTo, Loan};
pub use pool::memory_pool::{MemoryPool, WeakPool};
pub use pool::policy::{Policy, PolicyKind, Reset, Tracking, WhenExhausted};
pub use pool::reservation::Reservation;
pub use pool::statistics::Statistics;
pub use pool::tracking::write_tracking;
pub use sys::{TrackingError, TrackingInterface};
/// The engine that this crate is built with, so that a host names one version in one place.
#[cfg(feature = "wasmtime-runtime")]
#[doc(no_inline)]
pub use wasmtime;

/// Compiles the README's program with the documentation tests.
#[cfg(all(doctest, feature = "wasmtime"))]
#[doc = include_str!("../../../README.md")]
struct Readme;
