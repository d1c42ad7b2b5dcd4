//! The report of a rewrite.

use std::borrow::Cow;
use std::fmt;

use crate::analysis::site::Sites;
use crate::encode::code_offsets::CodeOffsets;
use crate::encode::offset_map::OffsetMap;
use crate::growth::GrowthHandling;
use crate::limits::{MAX_PAGES, Memory, MemoryId};

/// A rewritten module.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Rewritten<'a> {
    /// The module's bytes; the input itself if nothing had to change.
    pub wasm: Cow<'a, [u8]>,
    /// The report of what was done.
    pub report: Report,
    /// The place in `wasm` of each byte of the input.
    pub offset_map: OffsetMap,
}

/// The findings of a rewrite, and what it did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Report {
    /// Length of the input in bytes.
    pub bytes_before: usize,
    /// Length of the output in bytes.
    pub bytes_after: usize,
    /// One entry for each memory, in index order, module by module.
    pub memories: Vec<MemoryReport>,
    /// One entry for each core module in which code has moved within the file. If empty, source maps
    /// and the offsets in stack traces are right as they are. DWARF is right as it is if each entry
    /// [keeps its offsets within the code section](CodeOffsets::keeps_section_offsets).
    pub code_offsets: Vec<CodeOffsets>,
    /// Results that the caller may want to act on.
    #[cfg_attr(
        feature = "serde",
        serde(serialize_with = "crate::message::serialize_all")
    )]
    pub warnings: Vec<Warning>,
}

/// The rewrite of one memory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct MemoryReport {
    /// The memory as the input declares it.
    pub before: Memory,
    /// The memory as the output declares it.
    pub after: Memory,
    /// The handling of its growth instructions.
    pub growth: GrowthHandling,
    /// The number of growth instructions in the input.
    pub sites: Sites,
}

/// An effect of the options that the caller may not want. Displays as one line.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(tag = "kind", rename_all = "kebab-case")
)]
#[non_exhaustive]
pub enum Warning {
    /// There is no memory, so nothing was done.
    NoMemory,
    /// The output has `memory.grow` instructions, and the memory cannot grow.
    GrowthCanOnlyFail {
        /// The memory.
        memory: MemoryId,
        /// The number of instructions.
        sites: usize,
        /// True if the input was pinned already, so that its natural minimum is lost.
        pinned_before: bool,
    },
    /// `memory.size` returns 65,536, and guests that compute a 32-bit size in bytes get 0.
    SizeWraps {
        /// The memory.
        memory: MemoryId,
        /// The number of instructions.
        sites: usize,
    },
    /// The module exports its memory, or imports it, and does not grow it, so an embedder may try to
    /// grow it. Its engine refuses that now.
    EmbedderCannotGrow {
        /// The memory.
        memory: MemoryId,
        /// True if the module measures the memory, so that it reads the size as already grown.
        measured: bool,
        /// True if the size in bytes needs more than 31 bits, and the memory could be pinned at a
        /// size that does not. JavaScript glue that keeps sizes in 32 signed bits needs that: it
        /// computes 0, or a negative number.
        #[cfg_attr(feature = "serde", serde(default))]
        beyond_signed_sizes: bool,
    },
    /// Threads share an imported memory, and its growth is counted from the import's minimum. An
    /// embedder that provides more pages needs [`EmulateFrom::Pages`](crate::EmulateFrom::Pages).
    StartAssumed {
        /// The memory.
        memory: MemoryId,
        /// The assumed start of growth, in the memory's own pages.
        pages: u64,
    },
    /// The growth of a memory that other modules may share starts at the `__heap_base` of this module.
    /// The other modules need the same start.
    OwnHeapBase {
        /// The memory.
        memory: MemoryId,
        /// The start of growth, in the memory's own pages.
        pages: u64,
    },
    /// The growth of an imported memory ends at the maximum of the import, or at its last page. The
    /// memory that the embedder provides may have a smaller maximum.
    CapAssumed {
        /// The memory.
        memory: MemoryId,
        /// The size beyond which growth fails, in the memory's own pages.
        pages: u64,
    },
    /// The address of an active data segment is not a constant. If it lies above the declared
    /// minimum, the input traps at instantiation and the output does not.
    DataAddressUnknown {
        /// The memory.
        memory: MemoryId,
        /// The index of the data segment.
        segment: u32,
    },
    /// The input has a signature, which is not valid for the output.
    SignatureInvalidated {
        /// The name of the custom section that holds the signature.
        section: String,
    },
    /// Hints of a `metadata.code.*` section could not follow the code that they are about.
    HintsDropped {
        /// In a component, the module's position among the core modules.
        module: Option<u32>,
        /// The name of the section.
        section: String,
        /// The number of hints that were not at an instruction; `None` if the section has an unknown
        /// form and was dropped as a whole.
        hints: Option<usize>,
    },
    /// The module names a source map, whose offsets are those of the input.
    SourceMapStays {
        /// In a component, the module's position among the core modules.
        module: Option<u32>,
        /// The location of the source map. [`OffsetMap`] gives the new offsets.
        url: String,
    },
}

/// Words that name a core module of a component, after the name of something in it.
fn of_module(module: &Option<u32>) -> String {
    module.map_or(String::new(), |module| format!(" of core module {module}"))
}

/// Writes that hints were dropped, or the section if their number is unknown.
fn describe_dropped(
    f: &mut fmt::Formatter<'_>,
    of_module: &str,
    section: &str,
    hints: Option<usize>,
) -> fmt::Result {
    match hints {
        Some(hints) => write!(
            f,
            "{hints} hints in the section `{section}`{of_module} were not at an instruction, and \
             were dropped"
        ),
        None => write!(
            f,
            "the section `{section}`{of_module} was dropped: it has an unknown form, and code that \
             it may refer to moved"
        ),
    }
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
                "{memory} was pinned before, so its {sites} `memory.grow` can only fail"
            ),
            Self::GrowthCanOnlyFail { memory, sites, .. } => write!(
                f,
                "{memory}: {sites} `memory.grow` are left and can only fail"
            ),
            Self::SizeWraps { memory, sites } => write!(
                f,
                "{memory}: {sites} `memory.size` return {MAX_PAGES}, and the size in bytes wraps \
                 to 0 in 32 bits"
            ),
            Self::HintsDropped {
                module,
                section,
                hints,
            } => describe_dropped(f, &of_module(module), section, *hints),
            Self::SourceMapStays { module, url } => write!(
                f,
                "the offsets in the source map `{url}`{} are those before the rewrite",
                of_module(module)
            ),
            Self::EmbedderCannotGrow {
                memory,
                measured: true,
                ..
            } => write!(
                f,
                "the module measures {memory} and never grows it: its size reads as already \
                 grown, and an embedder's call of the memory's `grow` is refused"
            ),
            Self::EmbedderCannotGrow { memory, .. } => write!(
                f,
                "the module exports {memory} and never grows it: an embedder's call of the \
                 memory's `grow` is refused"
            ),
            Self::StartAssumed { memory, pages } => write!(
                f,
                "{memory} is shared between threads and imported: its growth starts at the \
                 import's minimum of {pages} pages"
            ),
            Self::OwnHeapBase { memory, pages } => {
                write!(
                    f,
                    "growth of {memory} starts at page {pages}, this module's heap base"
                )
            }
            Self::CapAssumed { memory, pages } => write!(
                f,
                "{memory} is imported, and its growth ends at {pages} pages"
            ),
            Self::DataAddressUnknown { memory, segment } => write!(
                f,
                "data segment {segment} is placed in {memory} at an address that is known only at \
                 instantiation: above the declared minimum, the original traps and the output \
                 does not"
            ),
            Self::SignatureInvalidated { section } => write!(
                f,
                "the module has a signature (section `{section}`), which no longer holds: sign \
                 the output"
            ),
        }?;
        f.write_str(&self.advice())
    }
}
