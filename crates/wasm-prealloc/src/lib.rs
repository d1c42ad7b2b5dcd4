//! Gives every linear memory of a WebAssembly module a fixed size, and keeps the module working.
//!
//! A memory is *pinned* if its declared minimum equals its declared maximum. A host can then commit
//! all of it at instantiation, and nothing that happens later depends on how much memory the machine
//! has left. The crate has three operations on the bytes of a module or component:
//!
//! - [`verify()`] checks that every memory is pinned at the size that the host commits.
//! - [`inspect()`] describes the memories, the code that grows them, and the effect of a rewrite.
//! - [`rewrite()`] pins the memories, and makes `memory.grow` and `memory.size` return what they did
//!   when the memory could still grow. [`rewrite_into`] writes into a buffer that can be used again.
//!
//! An [`Analysis`] serves all of them with one reading of the input.
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

mod analysis;
mod encode;
mod error;
mod growth;
mod inspect;
mod leb128;
mod limits;
#[cfg(feature = "serde")]
mod message;
mod remedy;
mod rewrite;
mod verify;

pub use analysis::Analysis;
pub use analysis::data::DataSegment;
pub use analysis::format::Format;
pub use analysis::provenance::Declared;
pub use analysis::site::Sites;
pub use encode::code_offsets::CodeOffsets;
pub use encode::offset_map::OffsetMap;
pub use error::{Error, Limit, Unsupported};
pub use growth::GrowthHandling;
pub use inspect::{Inspection, Landmarks, MemoryInspection, ModuleInspection, inspect};
pub use limits::{MAX_PAGES, Memory, MemoryId, MemoryImport, WASM_PAGE_SIZE};
pub use remedy::{Remedy, Setting};
pub use rewrite::options::{
    EmulateFrom, Features, Growth, MemoryImportPolicy, Options, UnknownValue, Validate,
};
pub use rewrite::report::{MemoryReport, Report, Rewritten, Warning};
pub use rewrite::{rewrite, rewrite_into};
pub use verify::{VerifyError, Violation, ViolationKind, Violations, verify, verify_deep};
