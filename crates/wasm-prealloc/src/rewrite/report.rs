//! What a rewrite says of itself.

use std::borrow::Cow;
use std::fmt;

use crate::limits::{Memory, MemoryId};
use crate::scan::Sites;

/// A rewritten module.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Rewritten<'a> {
    /// The module's bytes: the input itself where nothing had to change.
    pub wasm: Cow<'a, [u8]>,
    /// What was done.
    pub report: Report,
}

/// What a rewrite found and did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Report {
    /// Length of the input in bytes.
    pub bytes_before: usize,
    /// Length of the output in bytes.
    pub bytes_after: usize,
    /// One entry a memory, in index order, module by module.
    pub memories: Vec<MemoryReport>,
    /// One entry for each core module in which code stands elsewhere than before: empty where all
    /// that DWARF, source maps and profiles say of code offsets still holds.
    pub code_offsets: Vec<CodeOffsets>,
    /// What the caller may want to act on.
    #[cfg_attr(
        feature = "serde",
        serde(serialize_with = "crate::message::serialize_all")
    )]
    pub warnings: Vec<Warning>,
}

/// What became of one memory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct MemoryReport {
    /// As the input declares it.
    pub before: Memory,
    /// As the output declares it.
    pub after: Memory,
    /// What its growth instructions became.
    pub growth: GrowthHandling,
    /// How many of them the input has.
    pub sites: Sites,
}

/// What the instructions that grow and measure a memory became.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(tag = "mode", rename_all = "kebab-case")
)]
pub enum GrowthHandling {
    /// There are none.
    None,
    /// Growth is counted in a global.
    #[non_exhaustive]
    Emulated {
        /// Size at the start, in pages.
        from_pages: u64,
        /// Size beyond which growth fails, in pages.
        cap_pages: u64,
        /// Index of the global that holds the size.
        global: u32,
        /// Index of the function that stands for `memory.grow`; `None` where nothing grows.
        function: Option<u32>,
    },
    /// The size reads as a constant.
    #[non_exhaustive]
    Pregrown {
        /// The size that is read, in pages.
        pages: u64,
        /// Index of the global that holds it.
        global: u32,
    },
    /// They are as they were.
    Kept,
}

/// Which code of a core module stands at another offset of the code section than before.
/// Functions are named by their index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct CodeOffsets {
    /// In a component, which core module it is.
    pub module: Option<u32>,
    /// Functions in which a few instructions stand up to four bytes from where they stood: room
    /// was taken from a number that was written longer than it needs. Line tables still give the
    /// right lines for such code, as a rule.
    pub nudged: Vec<u32>,
    /// Functions whose code stands at the end of the section now, called from its old place.
    pub relocated: Vec<u32>,
    /// The first function from which on all code has moved; `None` where none has.
    pub shifted_from: Option<u32>,
}

impl CodeOffsets {
    /// Whether all code stands where it stood.
    pub(crate) fn are_kept(&self) -> bool {
        self.nudged.is_empty() && self.relocated.is_empty() && self.shifted_from.is_none()
    }
}

/// Something that was done as asked and may not be what is wanted. Displays as one line.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(tag = "kind", rename_all = "kebab-case")
)]
#[non_exhaustive]
pub enum Warning {
    /// There is no memory, so nothing had to be done.
    NoMemory,
    /// `memory.grow` instructions are left, and the memory cannot grow.
    GrowthCanOnlyFail {
        /// The memory.
        memory: MemoryId,
        /// How many instructions there are.
        sites: usize,
        /// Whether the input was pinned already, so that its natural minimum is lost.
        pinned_before: bool,
    },
    /// `memory.size` gives 65,536, which guests that compute a 32-bit byte size turn into 0.
    SizeWraps {
        /// The memory.
        memory: MemoryId,
        /// How many instructions there are.
        sites: usize,
    },
    /// The module only measures its memory, so an embedder may grow it: its engine refuses now.
    EmbedderCannotGrow {
        /// The memory.
        memory: MemoryId,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMemory => write!(f, "the module has no memory: nothing to do"),
            Self::GrowthCanOnlyFail {
                memory,
                sites,
                pinned_before: true,
            } => write!(
                f,
                "{memory} was pinned before, so its {sites} `memory.grow` can only fail; \
                 `--emulate-from heap-base` helps where the allocator only grows the memory"
            ),
            Self::GrowthCanOnlyFail { memory, sites, .. } => write!(
                f,
                "{memory}: {sites} `memory.grow` are left and can only fail; \
                 `--growth emulate` lets them succeed up to the declared maximum"
            ),
            Self::SizeWraps { memory, sites } => write!(
                f,
                "{memory}: {sites} `memory.size` give 65536, and its size in bytes wraps \
                 to 0 in 32 bits; `--growth pregrown` makes them give 65535"
            ),
            Self::EmbedderCannotGrow { memory } => write!(
                f,
                "{memory} is measured but never grown by the module itself: it reads as \
                 grown already, and an embedder that calls the memory's `grow` is refused"
            ),
        }
    }
}
