//! The errors of this crate. Offsets are byte offsets from the start of the input.

use crate::limits::{MemoryId, MemoryImport};

/// The reasons for which a module cannot be read or rewritten. No input makes this crate panic.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes do not begin like a WebAssembly module or component.
    #[error("not a WebAssembly module: {found}")]
    NotWasm {
        /// A description of the bytes.
        found: &'static str,
    },

    /// The module's structure cannot be read.
    #[error("malformed module at offset {offset:#x}: {message}")]
    Malformed {
        /// The offset at which reading stopped.
        offset: u64,
        /// The fault at that offset.
        message: String,
    },

    /// The module can be read, but is invalid.
    #[error("invalid module at offset {offset:#x}: {message}")]
    Invalid {
        /// The offset at which validation stopped.
        offset: u64,
        /// The fault at that offset.
        message: String,
    },

    /// The module is valid only with proposals that [`Options::features`](crate::Options::features)
    /// does not allow.
    #[error("the module needs a proposal that is not allowed: {message} (at offset {offset:#x}){}", self.advice())]
    UnstableFeature {
        /// The offset at which validation stopped.
        offset: u64,
        /// The fault at that offset.
        message: String,
    },

    /// The rewritten module would exceed a limit that engines have in common (WebAssembly JavaScript
    /// interface, "Implementation-defined Limits").
    #[error("the rewritten module would have {count} {what}, and engines accept {most}{}", self.advice())]
    LimitExceeded {
        /// In a component, the module's position among the core modules.
        module: Option<u32>,
        /// The counted items.
        what: Limit,
        /// Their number.
        count: u64,
        /// The largest number that is accepted.
        most: u64,
    },

    /// The rewritten module is invalid. This is a defect of this crate, never of the input.
    #[error(
        "the rewritten module is invalid at its offset {offset:#x}: {message}; \
         this is a defect of wasm-prealloc, please report it with the module"
    )]
    OutputInvalid {
        /// The offset in the output at which validation stopped.
        offset: u64,
        /// The fault at that offset.
        message: String,
    },

    /// The input has a shape that the rewriter does not support.
    #[error("the rewriter does not support {what} (at offset {offset:#x}){}", self.advice())]
    Unsupported {
        /// The unsupported shape.
        what: Unsupported,
        /// The offset of the unsupported item.
        offset: u64,
    },

    /// The memory cannot declare the requested size.
    #[error("{memory} cannot have {pages} pages of 64 KiB{}", self.advice())]
    PagesOutOfRange {
        /// The memory.
        memory: MemoryId,
        /// The requested size, in pages of 64 KiB.
        pages: u64,
        /// The largest size that the memory can have, in pages of 64 KiB.
        most: u64,
    },

    /// The memory's minimum is larger than the requested size.
    #[error(
        "{memory} at offset {offset:#x} declares a minimum of more than the requested {pages} \
         pages{}",
        self.advice()
    )]
    MinimumExceedsTarget {
        /// The memory.
        memory: MemoryId,
        /// The offset of its declaration.
        offset: u64,
        /// The requested size, in pages of 64 KiB.
        pages: u64,
        /// The smallest size that holds its minimum, in pages of 64 KiB.
        least: u64,
    },

    /// A size was requested for a memory that the input does not have.
    #[error("the input has no {memory}{}", self.advice())]
    NoSuchMemory {
        /// The memory.
        memory: MemoryId,
    },

    /// A size was requested for a memory of a component that is linked to one with another size.
    #[error(
        "{memory} is linked to {definition}, which gets {pages} pages of 64 KiB, and cannot have \
         another size{}",
        self.advice()
    )]
    LinkedMemoryPages {
        /// The memory.
        memory: MemoryId,
        /// The memory that gives the size.
        definition: MemoryId,
        /// Its size, in pages of 64 KiB.
        pages: u64,
    },

    /// Emulation was requested, but the memory is pinned already, and its natural minimum is
    /// unknown.
    #[error(
        "{memory} is pinned at {pages} pages already, so the start of its growth is unknown{}",
        self.advice()
    )]
    NoNaturalMinimum {
        /// The memory.
        memory: MemoryId,
        /// Its size, in its own pages.
        pages: u64,
    },

    /// The module grows a memory that it imports, and other modules may count its growth too.
    #[error(
        "{memory}, imported as {import}, is grown by the module (`memory.grow` at offset \
         {offset:#x}), and other modules may grow it too{}",
        self.advice()
    )]
    ImportedMemoryGrows {
        /// The memory.
        memory: MemoryId,
        /// The names of the import.
        import: Box<MemoryImport>,
        /// The offset of the first instruction that grows it.
        offset: u64,
    },

    /// The module grows a memory that it imports, and the size that its embedder gives the memory
    /// is unknown.
    #[error(
        "{memory}, imported as {import}, is grown by the module (`memory.grow` at offset \
         {offset:#x}), and its size at the start is unknown{}",
        self.advice()
    )]
    ImportedStartUnknown {
        /// The memory.
        memory: MemoryId,
        /// The names of the import.
        import: Box<MemoryImport>,
        /// The offset of the first instruction that grows it.
        offset: u64,
        /// The minimum of the import, in the memory's own pages.
        minimum: u64,
    },

    /// Growth is counted in the memory's last page, and that page belongs to the memory from the
    /// start.
    #[error(
        "growth of {memory} is counted in its last page, and its {minimum} pages at the start \
         leave no room for that page{}",
        self.advice()
    )]
    NoRoomForCounter {
        /// The memory.
        memory: MemoryId,
        /// The size at the start, in the memory's own pages.
        minimum: u64,
        /// The smallest size that has room, in pages of 64 KiB.
        least: u64,
    },

    /// An active data segment lies above the size that the memory has at instantiation. The input
    /// traps then, and the output would not.
    #[error(
        "data segment {segment} reaches up to byte {data_end} of {memory}, which has at most {pages} \
         pages at instantiation: the module traps then; link it with a larger initial memory"
    )]
    DataAboveMinimum {
        /// The memory.
        memory: MemoryId,
        /// The index of the data segment.
        segment: u32,
        /// The first byte after the segment.
        data_end: u64,
        /// The most pages that the memory has at instantiation: the declared minimum, or the maximum
        /// of an import of a core module. In the memory's own pages.
        pages: u64,
    },

    /// The requested start of growth is below the declared minimum. An allocator would hand out
    /// memory that is in use.
    #[error(
        "growth of {memory} cannot start at {from} pages, below its declared minimum of {minimum} \
         pages{}",
        self.advice()
    )]
    StartBelowMinimum {
        /// The memory.
        memory: MemoryId,
        /// The start of growth, in the memory's own pages.
        from: u64,
        /// The declared minimum, in the memory's own pages.
        minimum: u64,
    },

    /// An earlier rewrite pinned the memory at another size, or counts its growth in another place,
    /// and added code that depends on it.
    #[error(
        "{memory} was rewritten to {pages} pages with other options before, and the module has code \
         for them: rewrite the original module instead"
    )]
    AlreadyRewritten {
        /// The memory.
        memory: MemoryId,
        /// Its size, in its own pages.
        pages: u64,
    },

    /// A function that commits all memories was requested, and the module has no memory.
    #[error("the module has no memory to commit{}", self.advice())]
    NothingToCommit,

    /// The name of an export to be added is in use.
    #[error("the module already has an export `{name}`{}", self.advice())]
    ExportExists {
        /// The name.
        name: String,
        /// True if the export is a memory; false if it is the function that commits all memories.
        of_memory: bool,
    },

    /// The requested start of growth is `__heap_base`, which the module does not give.
    #[error(
        "the module has no `__heap_base`: it neither exports nor names an immutable i32 global of \
         that name with a constant value{}",
        self.advice()
    )]
    NoHeapBase,

    /// The start of growth is above the cap.
    #[error(
        "growth of {memory} cannot start at {from} pages, above its cap of {cap} pages{}",
        self.advice()
    )]
    StartAboveCap {
        /// The memory.
        memory: MemoryId,
        /// The start of growth, in the memory's own pages.
        from: u64,
        /// The cap of growth, in the memory's own pages.
        cap: u64,
        /// The lowest start that is allowed, in the memory's own pages.
        least: u64,
    },

    /// The start of growth is below the end of the module's data. An allocator would hand out memory
    /// that is in use.
    #[error(
        "growth of {memory} cannot start at {from} pages: the module's data segments reach \
         up to byte {data_end}{}",
        self.advice()
    )]
    StartBelowData {
        /// The memory.
        memory: MemoryId,
        /// The start of growth, in the memory's own pages.
        from: u64,
        /// The first byte after the highest active data segment.
        data_end: u64,
        /// The lowest start that is not below the data, in the memory's own pages.
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
            Self::UnstableFeature { .. } => "unstable-feature",
            Self::LimitExceeded { .. } => "limit-exceeded",
            Self::OutputInvalid { .. } => "output-invalid",
            Self::Unsupported { .. } => "unsupported",
            Self::PagesOutOfRange { .. } => "pages-out-of-range",
            Self::MinimumExceedsTarget { .. } => "minimum-exceeds-target",
            Self::NoSuchMemory { .. } => "no-such-memory",
            Self::LinkedMemoryPages { .. } => "linked-memory-pages",
            Self::NoNaturalMinimum { .. } => "no-natural-minimum",
            Self::ImportedMemoryGrows { .. } => "imported-memory-grows",
            Self::ImportedStartUnknown { .. } => "imported-start-unknown",
            Self::NoRoomForCounter { .. } => "no-room-for-counter",
            Self::DataAboveMinimum { .. } => "data-above-minimum",
            Self::StartBelowMinimum { .. } => "start-below-minimum",
            Self::AlreadyRewritten { .. } => "already-rewritten",
            Self::NothingToCommit => "nothing-to-commit",
            Self::ExportExists { .. } => "export-exists",
            Self::NoHeapBase => "no-heap-base",
            Self::StartAboveCap { .. } => "start-above-cap",
            Self::StartBelowData { .. } => "start-below-data",
        }
    }

    /// Returns true if the input is valid, and only its rewrite with the given options is refused.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        !matches!(
            self,
            Self::NotWasm { .. }
                | Self::Malformed { .. }
                | Self::Invalid { .. }
                | Self::OutputInvalid { .. }
        )
    }

    /// The byte offset in the input that the error is about. [`Error::OutputInvalid`] has none: its
    /// offset is one in the discarded output.
    #[must_use]
    pub fn offset(&self) -> Option<u64> {
        match self {
            Self::Malformed { offset, .. }
            | Self::Invalid { offset, .. }
            | Self::UnstableFeature { offset, .. }
            | Self::Unsupported { offset, .. }
            | Self::MinimumExceedsTarget { offset, .. }
            | Self::ImportedMemoryGrows { offset, .. }
            | Self::ImportedStartUnknown { offset, .. } => Some(*offset),
            Self::NotWasm { .. }
            | Self::LimitExceeded { .. }
            | Self::OutputInvalid { .. }
            | Self::PagesOutOfRange { .. }
            | Self::NoSuchMemory { .. }
            | Self::LinkedMemoryPages { .. }
            | Self::NoNaturalMinimum { .. }
            | Self::ExportExists { .. }
            | Self::NoRoomForCounter { .. }
            | Self::DataAboveMinimum { .. }
            | Self::StartBelowMinimum { .. }
            | Self::AlreadyRewritten { .. }
            | Self::NothingToCommit
            | Self::NoHeapBase
            | Self::StartAboveCap { .. }
            | Self::StartBelowData { .. } => None,
        }
    }

    /// Converts an error of wasmparser about the structure of the input.
    pub(crate) fn malformed(error: wasmparser::BinaryReaderError) -> Self {
        Self::Malformed {
            offset: error.offset(),
            message: error.message().to_owned(),
        }
    }
}

/// The items whose number engines limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Limit {
    /// The types of a module.
    #[error("types")]
    Types,
    /// The functions of a module.
    #[error("functions")]
    Functions,
    /// The globals of a module.
    #[error("globals")]
    Globals,
    /// The exports of a module.
    #[error("exports")]
    Exports,
    /// The parameters and results of all imports and exports of a module, and one item for each.
    #[error("items in the types of its imports and exports")]
    TypeSize,
    /// The bytes of the name of an export.
    #[error("bytes in the name of an export")]
    ExportName,
    /// The bytes of a function's body.
    #[error("bytes in the body of function {function}")]
    FunctionBody {
        /// The index of the function in the input.
        function: u32,
    },
    /// The bytes of a section, or of a core module or component within a component.
    #[error("bytes in a section")]
    Section,
}

/// A shape of module that the rewriter refuses before it changes anything.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unsupported {
    /// A memory whose import shares its names or its type with other imports (the compact import
    /// encoding), so that it cannot be changed alone.
    #[error("{memory} in a compact group of imports")]
    CompactImport {
        /// The memory.
        memory: MemoryId,
    },
    /// An imported memory that other modules or threads share. The options request that the module
    /// defines it.
    #[error("defining {memory}, which other modules or threads share,")]
    DefineShared {
        /// The memory.
        memory: MemoryId,
    },
    /// An imported memory that the module is to define and export, and another one that gets the same
    /// name.
    #[error("defining {memory} and another memory, both exported as `{name}`")]
    DefineSameName {
        /// The memory.
        memory: MemoryId,
        /// The name of both exports.
        name: String,
        /// True if the name is [`Options::memory_import_name`](crate::Options::memory_import_name);
        /// false if it is the field name of both imports.
        is_chosen: bool,
    },
    /// An object file, which a linker reads: its code refers to symbols by their offsets.
    #[error("object files: this one has a section `{section}`")]
    RelocatableObject {
        /// The name of a custom section that only object files have.
        section: String,
    },
    /// A core module type of a component that has a memory. The memories of the modules that match
    /// the type change, and the type would have to change with them.
    #[error("a core module type with a memory, {memory}")]
    CoreModuleType {
        /// The name of the memory's export, or the two names of its import, in backticks.
        memory: String,
    },
    /// A memory of a component whose definition or whose other users cannot be seen.
    #[error("{memory}, because {reason}")]
    HiddenMemory {
        /// The memory.
        memory: MemoryId,
        /// The reason.
        reason: String,
    },
    /// A core module of a component that is linked to memories with different limits.
    #[error("{memory}, which is linked to memories with different limits")]
    DifferentMemories {
        /// The memory.
        memory: MemoryId,
    },
    /// A function that threads share, and that grows or measures a memory.
    #[error("function {function}, which threads share and which grows or measures a memory,")]
    SharedFunction {
        /// The index of the function.
        function: u32,
    },
    /// A function that commits memory in a component: only the component itself could call it.
    #[error("an added function that commits the memories of a component")]
    CommitInComponent,
}
