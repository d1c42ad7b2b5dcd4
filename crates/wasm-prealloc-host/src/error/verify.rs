//! The errors of verifying an engine and a module.

use crate::error::policy::PolicyError;
use crate::error::text::{elements, too_many_memories};

/// A module was not verified: it cannot be instantiated in memory of the pool alone.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The limits that the module declares for a memory do not suit the pool's policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),

    /// No memory of the component has the pinned size. Sizes are wasm pages of 64 KiB.
    #[error(
        "memory not pinned: the largest memory of the component starts with {largest} pages, but \
         each must be pinned to {expected} pages of 64 KiB; run `wasm-prealloc rewrite --pages \
         {expected}` on the component"
    )]
    ComponentNotPinned {
        /// The largest minimum of the component's memories, in pages.
        largest: u64,
        /// The required minimum and maximum of each memory, in pages.
        expected: u64,
    },

    /// The component imports core modules, so the memories that it needs cannot be counted.
    #[error(
        "the component imports core modules, so the memories that it needs cannot be counted; \
         define these core modules in the component itself"
    )]
    ImportedModules,

    /// The module imports its memory, which the pool does not secure.
    #[error(
        "the module imports its memory ({module:?} {name:?}), which would not be secured; link it \
         with a memory of its own (without `--import-memory`), or run `wasm-prealloc rewrite \
         --memory-import define` on it"
    )]
    ImportedMemory {
        /// The import's module name.
        module: String,
        /// The import's own name.
        name: String,
    },

    /// The module's memory is of a kind that cannot be secured.
    #[error("a {kind} memory cannot be secured; only unshared memories with pages of 64 KiB can")]
    UnsupportedMemory {
        /// The kind: shared, or with a custom page size.
        kind: &'static str,
    },

    /// More memories are needed at once than the pool can ever lend at once.
    #[error("{}", too_many_memories(*memories, *slots))]
    TooManyMemories {
        /// The number of memories.
        memories: usize,
        /// The number of slots, without those that cannot be lent again.
        slots: usize,
    },

    /// The engine's configuration would undo the commit or bypass the pool.
    #[error(
        "the engine {what}, so its memories would not be secured; call `WasmtimePool::configure` \
         after every other setting that concerns memory"
    )]
    Engine {
        /// The effect of the configuration.
        what: &'static str,
    },

    /// The pool did not make the engine, and a probe cannot show where the engine takes its
    /// memories from.
    #[error(
        "this pool did not make the engine, and {why}, so its memories may not be secured; \
         make the engine with `WasmtimePool::engine`"
    )]
    EngineUnproven {
        /// The reason why a probe is impossible.
        why: &'static str,
    },

    /// A memory without a minimum and a maximum, before wasmtime 45: the engine's own heap has these
    /// limits too.
    #[error(
        "wasmtime before version 45 requests its own heap, for exceptions, externref and GC types, as a \
         memory without a minimum and a maximum, so the pool cannot tell the two apart; use wasmtime \
         45 or later, or if the module has such a memory, declare a minimum"
    )]
    AmbiguousMemory,

    /// The module's tables are larger than the memory that is counted for them.
    #[error(
        "the module's tables have {elements} elements, and memory is counted for {bound}; raise \
         MemoryPoolBuilder::table_elements"
    )]
    TablesTooLarge {
        /// The number of elements that the module's tables have at least.
        elements: u64,
        /// The number of elements that are counted for an instance.
        bound: u64,
    },

    /// The module's tables can grow beyond the memory that is counted for them.
    #[error(
        "the module's tables can grow to {}, and memory is counted for {bound}; give every store of \
         this module the limiter of the pool (WasmtimePool::limiter), declare smaller maximums in \
         the module, or raise MemoryPoolBuilder::table_elements",
        elements(.maximum)
    )]
    UnboundedTables {
        /// The number of elements to which the tables can grow, if it is known.
        maximum: Option<u64>,
        /// The number of elements that are counted for an instance.
        bound: u64,
    },

    /// The component has tables, and the store does not bound them.
    #[error(
        "the component has tables, whose maximums cannot be read, and memory is counted for {bound} \
         elements; give the store the limiter of the pool (WasmtimePool::limiter)"
    )]
    ComponentTables {
        /// The number of elements that are counted for an instance.
        bound: u64,
    },

    /// The module needs the engine's own heap, for exceptions, `externref` or GC types, and
    /// [`MemoryPoolBuilder::engine_heap_bytes`](crate::MemoryPoolBuilder::engine_heap_bytes) is 0.
    #[error(
        "the module needs the engine's own heap, for exceptions, externref or GC types, and the \
         pool has no memory for it; set MemoryPoolBuilder::engine_heap_bytes, 16 MiB for example"
    )]
    NoEngineHeap,
}

impl VerifyError {
    /// Returns the name of the variant, for programs: lower case, with hyphens.
    pub fn kind(&self) -> &'static str {
        match self {
            VerifyError::Policy(error) => error.kind(),
            VerifyError::ComponentNotPinned { .. } => "component-not-pinned",
            VerifyError::ImportedModules => "imported-modules",
            VerifyError::ImportedMemory { .. } => "imported-memory",
            VerifyError::UnsupportedMemory { .. } => "unsupported-memory",
            VerifyError::TooManyMemories { .. } => "too-many-memories",
            VerifyError::Engine { .. } => "engine",
            VerifyError::EngineUnproven { .. } => "engine-unproven",
            VerifyError::AmbiguousMemory => "ambiguous-memory",
            VerifyError::TablesTooLarge { .. } => "tables-too-large",
            VerifyError::UnboundedTables { .. } => "unbounded-tables",
            VerifyError::ComponentTables { .. } => "component-tables",
            VerifyError::NoEngineHeap => "no-engine-heap",
        }
    }
}
