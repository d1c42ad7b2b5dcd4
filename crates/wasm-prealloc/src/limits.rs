//! What a module declares about its memories: limits, in pages, and where it says so.

/// Size of a WebAssembly page in bytes (core specification, "Memory Instances").
pub const WASM_PAGE_SIZE: u64 = 65_536;

/// Pages of the largest 32-bit memory: 4 GiB.
pub const MAX_PAGES: u64 = 65_536;

/// A memory as a module declares it. Sizes are in pages of the memory's own page size, which is
/// 64 KiB unless [`page_size_log2`](Self::page_size_log2) says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Memory {
    /// Index in the module's memory index space, where imports come first.
    pub index: u32,
    /// Pages that the memory has at instantiation.
    pub minimum: u64,
    /// Pages that it may grow to; `None` where the module sets no bound.
    pub maximum: Option<u64>,
    /// Whether threads share it.
    pub shared: bool,
    /// Whether its addresses are 64-bit.
    pub memory64: bool,
    /// Base-2 logarithm of its page size in bytes, where the module declares one.
    pub page_size_log2: Option<u32>,
    /// The import it comes from; `None` where the module defines it.
    pub import: Option<MemoryImport>,
    /// Byte offset of its declaration in the input.
    pub offset: u64,
}

/// The two names under which a memory is imported.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct MemoryImport {
    /// Module name.
    pub module: String,
    /// Field name.
    pub name: String,
}

impl Memory {
    pub(crate) fn new(
        index: u32,
        ty: &wasmparser::MemoryType,
        import: Option<MemoryImport>,
        offset: u64,
    ) -> Self {
        Self {
            index,
            minimum: ty.initial,
            maximum: ty.maximum,
            shared: ty.shared,
            memory64: ty.memory64,
            page_size_log2: ty.page_size_log2,
            import,
            offset,
        }
    }

    /// Whether the memory can have one size only.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        self.maximum == Some(self.minimum)
    }

    /// What a number of the memory's own pages comes to in 64 KiB pages; `None` where that is no
    /// whole number of them.
    pub(crate) fn in_wasm_pages(&self, pages: u64) -> Option<u64> {
        let Some(log2) = self.page_size_log2 else {
            return Some(pages);
        };
        let bytes = u128::from(pages).checked_shl(log2)?;
        let whole = bytes.is_multiple_of(WASM_PAGE_SIZE.into());
        whole.then_some(u64::try_from(bytes / u128::from(WASM_PAGE_SIZE)).ok()?)
    }
}
