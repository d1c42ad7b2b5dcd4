//! What can be wrong with a module or with what was asked of it.
//!
//! Offsets are byte offsets from the start of the input.

/// Why a module could not be read or rewritten. No input makes this crate panic.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes do not begin as a WebAssembly module does.
    #[error("not a WebAssembly module: {found}")]
    NotAModule {
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

    /// The size asked for is none that a 32-bit memory of 64 KiB pages can have.
    #[error("a memory of {pages} pages cannot be declared: choose from 1 to 65536 (`--pages`)")]
    PagesOutOfRange {
        /// The size asked for, in 64 KiB pages.
        pages: u64,
    },

    /// The memory starts larger than the size asked for.
    #[error(
        "memory {memory} at offset {offset:#x} declares a minimum of {minimum} pages, more than \
         the {pages} asked for: choose `--pages {minimum}` or more"
    )]
    MinimumExceedsTarget {
        /// Index of the memory.
        memory: u32,
        /// Where it is declared.
        offset: u64,
        /// Its minimum, in pages.
        minimum: u64,
        /// The size asked for, in pages.
        pages: u64,
    },

    /// `emulate` was asked for, but the memory is pinned already and says nothing of where it
    /// would have started.
    #[error(
        "memory {memory} is pinned at {pages} pages already, so where its growth would start is \
         not declared: choose `--emulate-from heap-base` (right for allocators that only grow the \
         memory, as Rust's) or `--emulate-from N` pages"
    )]
    NoNaturalMinimum {
        /// Index of the memory.
        memory: u32,
        /// Its size, in pages.
        pages: u64,
    },

    /// Growth should start at the heap's base, which the module does not tell.
    #[error(
        "the module has no `__heap_base`: it neither exports nor names an immutable i32 global of \
         that name with a constant value; choose `--emulate-from N` pages"
    )]
    NoHeapBase,

    /// Growth should start above its own end.
    #[error(
        "growth of memory {memory} cannot start at {from} pages, above its cap of {cap} pages: \
         choose `--emulate-from {cap}` or less"
    )]
    StartAboveCap {
        /// Index of the memory.
        memory: u32,
        /// Where growth should start, in pages.
        from: u64,
        /// Where it ends, in pages.
        cap: u64,
    },

    /// Growth should start below the end of the module's data, so that an allocator would be
    /// handed memory that is in use.
    #[error(
        "growth of memory {memory} cannot start at {from} pages: the module's data segments reach \
         up to byte {data_end}; choose `--emulate-from {least}` or more"
    )]
    StartBelowData {
        /// Index of the memory.
        memory: u32,
        /// Where growth should start, in pages.
        from: u64,
        /// First byte after the highest active data segment.
        data_end: u64,
        /// The least start that is above it, in pages.
        least: u64,
    },
}

impl Error {
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
    /// A component, rather than a core module.
    Component,
    /// A memory that the module imports.
    ImportedMemory {
        /// Module name of the import.
        module: String,
        /// Field name of the import.
        name: String,
    },
    /// More than one memory.
    SeveralMemories {
        /// How many there are.
        count: u32,
    },
    /// A shared (threads) memory.
    SharedMemory {
        /// Index of the memory.
        memory: u32,
    },
    /// A 64-bit memory.
    Memory64 {
        /// Index of the memory.
        memory: u32,
    },
    /// A memory whose pages are not 64 KiB.
    CustomPageSize {
        /// Index of the memory.
        memory: u32,
        /// Base-2 logarithm of its page size in bytes.
        page_size_log2: u32,
    },
}

impl Unsupported {
    /// What else can be done about it, where something can.
    fn way_out(&self) -> &'static str {
        match self {
            Self::Component => ": rewrite its core modules before they are made into a component",
            Self::ImportedMemory { .. } => {
                ": link the module without `--import-memory`, or have its embedder give it a \
                 memory that is pinned"
            }
            _ => "",
        }
    }
}

impl std::fmt::Display for Unsupported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Component => write!(f, "a component"),
            Self::ImportedMemory { module, name } => {
                write!(f, "an imported memory (`{module}` `{name}`)")
            }
            Self::SeveralMemories { count } => write!(f, "{count} memories in one module"),
            Self::SharedMemory { memory } => write!(f, "memory {memory} being shared"),
            Self::Memory64 { memory } => write!(f, "memory {memory} being 64-bit"),
            Self::CustomPageSize {
                memory,
                page_size_log2,
            } => write!(
                f,
                "memory {memory} having pages of 2^{page_size_log2} bytes"
            ),
        }
    }
}
