//! Builds WebAssembly guests with cargo, gives each memory a minimum equal to its maximum, and keeps
//! growth working inside that memory. The crate knows cargo and files, and no engine and no host.
//!
//! Without the feature `cargo`, which is on by default, only [`AtomicFile`] is left.
//!
//! # The link arguments
//!
//! A finished module declares the limits that `--initial-memory=4294967296 --max-memory=4294967296`
//! ask for, and the manifest records these two arguments. There are two ways to get there. This
//! crate uses the second one:
//!
//! 1. Both arguments go to the linker. The module is then pinned by the link, and the size at which
//!    growth should start is lost. It can only be derived from `__heap_base`, which
//!    `wasm32-unknown-unknown` does not export since Rust 1.97, and which is only right for
//!    allocators that do not read `__heap_end`: at 65,536 pages that symbol wraps to 0.
//! 2. Only `--max-memory` goes to the linker. The linker records the minimum that the module needs.
//!    The rewriter starts growth exactly there, and declares the minimum of 65,536 pages. This works
//!    for every allocator and every toolchain, and needs no symbol.
//!
//! If the workspace's own flags pin the memory (`--initial-memory=4294967296` in RUSTFLAGS, in a
//! cargo configuration or in a build script), growth starts at `__heap_base`. If the module does not
//! have that symbol, the build fails.
//!
//! # The toolchain
//!
//! Guests are built with the toolchain that rustup chooses for their folder, as if `cargo build` ran
//! there: a `rust-toolchain.toml` in the folder is honoured. A `+toolchain` on the command line and a
//! `RUSTUP_TOOLCHAIN` that the user has set take precedence.
//!
//! # Example
//!
#![cfg_attr(feature = "cargo", doc = "```no_run")]
#![cfg_attr(not(feature = "cargo"), doc = "```ignore")]
//! use wasm_prealloc_build::{BuildOptions, build};
//!
//! let options = BuildOptions::new("wasm-modules/Cargo.toml", "target/wasm");
//! for guest in build(&options)?.guests {
//!     println!("{}: {} bytes", guest.file, guest.report.bytes_after);
//! }
//! # Ok::<(), wasm_prealloc_build::Error>(())
//! ```

mod atomic_file;
#[cfg(feature = "cargo")]
mod build;
#[cfg(feature = "cargo")]
mod cargo_env;
#[cfg(feature = "cargo")]
mod error;
#[cfg(feature = "cargo")]
mod guest;
#[cfg(feature = "cargo")]
pub mod manifest;
#[cfg(feature = "cargo")]
mod target;

pub use crate::atomic_file::AtomicFile;
#[cfg(feature = "cargo")]
pub use crate::{
    build::{Build, BuildOptions, build},
    error::Error,
    guest::Linking,
    target::{Toolchain, WASM_TARGET},
};
