//! Gives every linear memory of a WebAssembly module a fixed size, and keeps the module working.
//!
//! A memory is *pinned* when its declared minimum equals its declared maximum. A host can then
//! commit all of it at instantiation, and nothing that happens later depends on how much memory
//! the machine has left. Three questions can be asked of a module's bytes:
//!
//! - [`verify`]: is every memory pinned at the size that the host commits?
//! - [`inspect`]: what memories are there, who grows them, and what would a rewrite do?
//! - [`rewrite`]: pin the memory, and make `memory.grow` and `memory.size` answer as they did
//!   when the memory could still grow. For many modules, [`rewrite_into`] saves the time that a
//!   fresh buffer takes for each.
//!
//! The crate works on bytes alone: no I/O, no unsafe code, no engine, and no panics on any input.
//!
//! ```
//! use wasm_prealloc::{Options, rewrite, verify};
//!
//! let module = wat::parse_str(
//!     r#"(module
//!          (memory (export "memory") 2 100)
//!          (func (export "more") (param i32) (result i32) (memory.grow (local.get 0))))"#,
//! )?;
//!
//! let rewritten = rewrite(&module, &Options::default())?;
//! assert!(verify(&rewritten.wasm, 65_536).is_ok());
//! assert!(verify(&module, 65_536).is_err());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod candidates;
mod component;
mod data;
mod error;
mod inspect;
mod leb128;
mod limits;
mod map;
#[cfg(feature = "serde")]
mod message;
mod provenance;
mod rewrite;
mod scan;
mod skip;
mod stride;
mod types;
mod verify;

pub use data::DataSegment;
pub use error::{Error, Unsupported};
pub use inspect::{Inspection, Landmarks, MemoryInspection, ModuleInspection, inspect};
pub use limits::{MAX_PAGES, Memory, MemoryId, MemoryImport, WASM_PAGE_SIZE};
pub use provenance::Declared;
pub use rewrite::{
    CodeOffsets, EmulateFrom, Growth, GrowthHandling, MemoryImportPolicy, MemoryReport, Options,
    Report, Rewritten, UnknownValue, Validate, Warning, rewrite, rewrite_into,
};
pub use scan::Sites;
pub use verify::{VerifyError, Violation, ViolationKind, Violations, verify, verify_deep};
