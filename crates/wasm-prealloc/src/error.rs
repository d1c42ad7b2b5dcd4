//! What can be wrong with a module or with what was asked of it.
//!
//! Offsets are byte offsets from the start of the input.

use crate::limits::{MemoryId, MemoryImport};

/// Why a module could not be read or rewritten. No input makes this crate panic.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes do not begin as a WebAssembly module or component does.
    #[error("not a WebAssembly module: {found}")]
    NotWasm {
        /// What the bytes look like instead.
        found: &'static str,
    },

    /// The module's structure cannot be read.
    #[error("malformed module at offset {offset:#x}: {message}")]
    Malformed {
        /// Where reading stopped.
        offset: u64,
        /// What was wrong there.
        message: String,
    },

    /// The module can be read, but no engine may accept it.
    #[error("invalid module at offset {offset:#x}: {message}")]
    Invalid {
        /// Where validation stopped.
        offset: u64,
        /// What was wrong there.
        message: String,
    },

    /// The rewritten module did not validate. This is a defect of this crate, never of the input.
    #[error(
        "the rewritten module is invalid at its offset {offset:#x}: {message}; \
         this is a defect of wasm-prealloc, please report it with the module"
    )]
    OutputInvalid {
        /// Where validation of the output stopped.
        offset: u64,
        /// What was wrong there.
        message: String,
    },

    /// The input has a shape that cannot be rewritten (yet).
    #[error("the rewriter does not support {what} (at offset {offset:#x}){}", what.way_out())]
    Unsupported {
        /// What was met.
        what: Unsupported,
        /// Where it was met.
        offset: u64,
    },

    /// The size asked for is none that the memory can declare.
    #[error("{memory} cannot have {pages} pages of 64 KiB: choose `--pages` from 1 to {most}")]
    PagesOutOfRange {
        /// The memory.
        memory: MemoryId,
        /// The size asked for, in 64 KiB pages.
        pages: u64,
        /// The largest size that it can have, in 64 KiB pages.
        most: u64,
    },

    /// The memory starts larger than the size asked for.
    #[error(
        "{memory} at offset {offset:#x} declares a minimum that is more than the {pages} pages \
         asked for: choose `--pages {least}` or more"
    )]
    MinimumExceedsTarget {
        /// The memory.
        memory: MemoryId,
        /// Where it is declared.
        offset: u64,
        /// The size asked for, in 64 KiB pages.
        pages: u64,
        /// The least size that holds its minimum, in 64 KiB pages.
        least: u64,
    },

    /// `emulate` was asked for, but the memory is pinned already and says nothing of where it
    /// would have started.
    #[error(
        "{memory} is pinned at {pages} pages already, so where its growth would start is not \
         declared: choose `--emulate-from heap-base` (right for allocators that only grow the \
         memory, as Rust's) or `--emulate-from N` pages"
    )]
    NoNaturalMinimum {
        /// The memory.
        memory: MemoryId,
        /// Its size, in its own pages.
        pages: u64,
    },

    /// The module grows a memory that it imports, so that others may count its growth too.
    #[error(
        "{memory}, imported as {import}, is grown by the module (`memory.grow` at offset \
         {offset:#x}): two modules that count the growth of one memory would hand out the same \
         pages twice; choose `--memory-import keep` where nothing else grows it, \
         `--memory-import define` to give the module a memory of its own, or `--growth keep`"
    )]
    ImportedMemoryGrows {
        /// The memory.
        memory: MemoryId,
        /// The names of the import.
        import: Box<MemoryImport>,
        /// The first instruction that grows it.
        offset: u64,
    },

    /// In a component, several core modules grow memory, and one of them imports it.
    #[error(
        "{memory}, imported as {import}, is grown (`memory.grow` at offset \
         {offset:#x}), and core module {other} of the component grows memory too: two that count \
         the growth of one memory would hand out the same pages twice; choose `--growth keep`"
    )]
    ComponentSharesMemory {
        /// The memory of the module that imports it.
        memory: MemoryId,
        /// The names of the import.
        import: Box<MemoryImport>,
        /// The first instruction that grows it.
        offset: u64,
        /// The other core module, counted from 0 in the order of the bytes.
        other: u32,
    },

    /// The module grows a memory that threads share. Each thread has an instance, and so a global,
    /// of its own: there is no place for one counter.
    #[error(
        "{memory} is shared between threads, and grown (`memory.grow` at offset {offset:#x}): each \
         thread would count its growth alone, and hand out the same pages twice; choose `--growth \
         pregrown` (its size reads as grown) or `--growth keep`"
    )]
    SharedMemoryGrows {
        /// The memory.
        memory: MemoryId,
        /// The first instruction that grows it; that measures it where nothing grows it.
        offset: u64,
    },

    /// An export is to be added under a name that is taken.
    #[error("the module already has an export `{name}`: choose another name")]
    ExportExists {
        /// The name.
        name: String,
    },

    /// Growth should start at the heap's base, which the module does not tell.
    #[error(
        "the module has no `__heap_base`: it neither exports nor names an immutable i32 global of \
         that name with a constant value; choose `--emulate-from N` pages"
    )]
    NoHeapBase,

    /// Growth should start above its own end.
    #[error(
        "growth of {memory} cannot start at {from} pages, above its cap of {cap} pages: \
         choose `--emulate-from {cap}` or less"
    )]
    StartAboveCap {
        /// The memory.
        memory: MemoryId,
        /// Where growth should start, in its own pages.
        from: u64,
        /// Where it ends, in pages.
        cap: u64,
    },

    /// Growth should start below the end of the module's data, so that an allocator would be
    /// handed memory that is in use.
    #[error(
        "growth of {memory} cannot start at {from} pages: the module's data segments reach \
         up to byte {data_end}; choose `--emulate-from {least}` or more"
    )]
    StartBelowData {
        /// The memory.
        memory: MemoryId,
        /// Where growth should start, in its own pages.
        from: u64,
        /// First byte after the highest active data segment.
        data_end: u64,
        /// The least start that is above it, in pages.
        least: u64,
    },
}

impl Error {
    /// The error's name in kebab case, for programs that read it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NotWasm { .. } => "not-wasm",
            Self::Malformed { .. } => "malformed",
            Self::Invalid { .. } => "invalid",
            Self::OutputInvalid { .. } => "output-invalid",
            Self::Unsupported { .. } => "unsupported",
            Self::PagesOutOfRange { .. } => "pages-out-of-range",
            Self::MinimumExceedsTarget { .. } => "minimum-exceeds-target",
            Self::NoNaturalMinimum { .. } => "no-natural-minimum",
            Self::ImportedMemoryGrows { .. } => "imported-memory-grows",
            Self::ComponentSharesMemory { .. } => "component-shares-memory",
            Self::SharedMemoryGrows { .. } => "shared-memory-grows",
            Self::ExportExists { .. } => "export-exists",
            Self::NoHeapBase => "no-heap-base",
            Self::StartAboveCap { .. } => "start-above-cap",
            Self::StartBelowData { .. } => "start-below-data",
        }
    }

    /// The byte offset in the input that the error is about. [`Error::OutputInvalid`] has none: its
    /// offset is one in the discarded output.
    #[must_use]
    pub fn offset(&self) -> Option<u64> {
        match self {
            Self::Malformed { offset, .. }
            | Self::Invalid { offset, .. }
            | Self::Unsupported { offset, .. }
            | Self::MinimumExceedsTarget { offset, .. }
            | Self::ImportedMemoryGrows { offset, .. }
            | Self::ComponentSharesMemory { offset, .. }
            | Self::SharedMemoryGrows { offset, .. } => Some(*offset),
            Self::NotWasm { .. }
            | Self::OutputInvalid { .. }
            | Self::PagesOutOfRange { .. }
            | Self::NoNaturalMinimum { .. }
            | Self::ExportExists { .. }
            | Self::NoHeapBase
            | Self::StartAboveCap { .. }
            | Self::StartBelowData { .. } => None,
        }
    }

    /// A reader's complaint about the input's structure.
    pub(crate) fn malformed(error: &wasmparser::BinaryReaderError) -> Self {
        Self::Malformed {
            offset: error.offset(),
            message: error.message().to_owned(),
        }
    }
}

/// A shape of module that the rewriter refuses, whole, before it changes anything.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unsupported {
    /// A memory whose import shares its names or its type with other imports (the compact import
    /// encoding), so that it cannot be changed alone.
    CompactImport {
        /// The memory.
        memory: MemoryId,
    },
    /// A module that shall define a memory that other modules of its component share.
    DefineInComponent {
        /// The memory.
        memory: MemoryId,
    },
}

impl Unsupported {
    /// What else can be done about it.
    fn way_out(&self) -> &'static str {
        match self {
            Self::CompactImport { .. } => ": link or encode the module without compact imports",
            Self::DefineInComponent { .. } => ": leave out `--memory-import define`",
        }
    }
}

impl std::fmt::Display for Unsupported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::CompactImport { memory } => {
                write!(f, "{memory} in a compact group of imports")
            }
            Self::DefineInComponent { memory } => {
                write!(
                    f,
                    "defining {memory}, which other parts of the component share,"
                )
            }
        }
    }
}
