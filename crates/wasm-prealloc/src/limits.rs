//! The declarations of memories: limits, in pages, and their offsets.

use std::fmt;

/// The size of a WebAssembly page in bytes (core specification, "Memory Instances").
pub const WASM_PAGE_SIZE: u64 = 65_536;

/// The number of pages of the largest 32-bit memory: 4 GiB.
pub const MAX_PAGES: u64 = 65_536;

/// The largest number of pages of 64 KiB whose size in bytes fits a signed 32-bit number.
pub(crate) const MAX_SIGNED_PAGES: u64 = 32_767;

/// The identity of a memory. Displays as `memory 0`, or as `memory 0 of core module 2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct MemoryId {
    /// In a component, the core module that it belongs to, counted from 0 in the order of the bytes;
    /// `None` if the input is a core module itself.
    pub module: Option<u32>,
    /// The index in the module's memory index space, in which imports come first.
    pub index: u32,
}

impl fmt::Display for MemoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "memory {}", self.index)?;
        match self.module {
            Some(module) => write!(f, " of core module {module}"),
            None => Ok(()),
        }
    }
}

/// A memory as a module declares it. Sizes are in pages of the memory's own page size, which is
/// 64 KiB unless [`page_size_log2`](Self::page_size_log2) says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Memory {
    /// The identity of the memory.
    #[cfg_attr(feature = "serde", serde(flatten))]
    pub id: MemoryId,
    /// The number of pages at instantiation.
    pub minimum: u64,
    /// The number of pages that it may grow to; `None` if the module sets no bound.
    pub maximum: Option<u64>,
    /// True if threads share it.
    pub shared: bool,
    /// True if its addresses are 64-bit.
    pub memory64: bool,
    /// Base-2 logarithm of its page size in bytes, if the module declares one.
    pub page_size_log2: Option<u32>,
    /// The import that it comes from; `None` if the module defines it.
    pub import: Option<MemoryImport>,
    /// The byte offset of its declaration in the input.
    pub offset: u64,
}

/// The two names under which a memory is imported.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct MemoryImport {
    /// Module name.
    pub module: String,
    /// Field name.
    pub name: String,
}

impl fmt::Display for MemoryImport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` `{}`", self.module, self.name)
    }
}

impl Memory {
    pub(crate) fn new(
        id: MemoryId,
        ty: &wasmparser::MemoryType,
        import: Option<MemoryImport>,
        offset: u64,
    ) -> Self {
        Self {
            id,
            minimum: ty.initial,
            maximum: ty.maximum,
            shared: ty.shared,
            memory64: ty.memory64,
            page_size_log2: ty.page_size_log2,
            import,
            offset,
        }
    }

    /// Returns true if the memory can have only one size.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        self.maximum == Some(self.minimum)
    }

    /// Base-2 logarithm of the page size in bytes, declared or default.
    pub(crate) fn page_log2(&self) -> u32 {
        self.page_size_log2.unwrap_or(WASM_PAGE_SIZE.ilog2())
    }

    /// Converts a number of the memory's own pages to pages of 64 KiB; `None` if the result is not a
    /// whole number.
    pub(crate) fn in_wasm_pages(&self, pages: u64) -> Option<u64> {
        let bytes = u128::from(pages).checked_shl(self.page_log2())?;
        let whole = bytes.is_multiple_of(WASM_PAGE_SIZE.into());
        whole.then_some(u64::try_from(bytes / u128::from(WASM_PAGE_SIZE)).ok()?)
    }

    /// Converts a number of pages of 64 KiB to the memory's own pages; `None` if the result is out of
    /// range.
    pub(crate) fn in_own_pages(&self, wasm_pages: u64) -> Option<u64> {
        let bytes = u128::from(wasm_pages) * u128::from(WASM_PAGE_SIZE);
        let pages = u64::try_from(bytes.checked_shr(self.page_log2())?).ok()?;
        (pages <= self.most_pages()).then_some(pages)
    }

    /// The largest number of its own pages that a memory of this type may declare. A size in pages
    /// must fit into the type of its addresses.
    pub(crate) fn most_pages(&self) -> u64 {
        let (address_bits, most) = match self.memory64 {
            true => (64, u64::MAX),
            false => (32, u64::from(u32::MAX)),
        };
        let pages = (1_u128 << address_bits) >> self.page_log2();
        u64::try_from(pages).unwrap_or(u64::MAX).min(most)
    }
}
