//! The remedies of errors, warnings and violations. A remedy is a sentence that names settings of
//! [`Options`](crate::Options). A front end replaces these names with its own flags.

use std::fmt;

use crate::error::{Error, Limit, Unsupported};
use crate::limits::{MAX_PAGES, MAX_SIGNED_PAGES, MemoryId};
use crate::rewrite::options::{EmulateFrom, Features, Growth, MemoryImportPolicy};
use crate::rewrite::report::Warning;
use crate::verify::{Violation, ViolationKind};

/// A setting of [`Options`](crate::Options) that a remedy names, with the value to choose. Displays
/// in terms of this crate's API. This enum is exhaustive, so that a front end cannot miss a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// [`Options::pages`](crate::Options::pages), or the entry of a memory in
    /// [`Options::memory_pages`](crate::Options::memory_pages).
    Pages {
        /// The memory; `None` for all memories.
        memory: Option<MemoryId>,
        /// The value; `None` if the sentence gives a range.
        pages: Option<u64>,
    },
    /// [`Options::growth`](crate::Options::growth).
    Growth(Growth),
    /// [`Options::emulate_from`](crate::Options::emulate_from); `None` for a number of pages that
    /// only the caller knows.
    EmulateFrom(Option<EmulateFrom>),
    /// [`Options::emulate_to`](crate::Options::emulate_to), with a number of pages that only the
    /// caller knows.
    EmulateTo,
    /// [`Options::memory_import`](crate::Options::memory_import).
    MemoryImport(MemoryImportPolicy),
    /// [`Options::memory_import_name`](crate::Options::memory_import_name).
    MemoryImportName,
    /// [`Options::export_commit`](crate::Options::export_commit).
    ExportCommit,
    /// [`Options::features`](crate::Options::features).
    Features(Features),
    /// [`OffsetMap`](crate::OffsetMap), which gives a source map the offsets of the output.
    SourceMap,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pages { memory, pages } => {
                let field = match memory {
                    None => "pages",
                    Some(_) => "memory_pages",
                };
                write!(f, "`Options::{field}`")?;
                pages.map_or(Ok(()), |pages| write!(f, " of {pages}"))
            }
            Self::Growth(growth) => write!(f, "`Growth::{growth:?}`"),
            Self::EmulateFrom(None) => f.write_str("`EmulateFrom::Pages`"),
            Self::EmulateFrom(Some(from)) => write!(f, "`EmulateFrom::{from:?}`"),
            Self::EmulateTo => f.write_str("`Options::emulate_to`"),
            Self::MemoryImport(policy) => write!(f, "`MemoryImportPolicy::{policy:?}`"),
            Self::MemoryImportName => f.write_str("`Options::memory_import_name`"),
            Self::ExportCommit => f.write_str("`Options::export_commit`"),
            Self::Features(features) => write!(f, "`Features::{features:?}`"),
            Self::SourceMap => f.write_str("`OffsetMap`"),
        }
    }
}

const HEAP_BASE: Setting = Setting::EmulateFrom(Some(EmulateFrom::HeapBase));
const FROM_PAGES: Setting = Setting::EmulateFrom(None);
const KEEP_GROWTH: Setting = Setting::Growth(Growth::Keep);
const DEFINE: Setting = Setting::MemoryImport(MemoryImportPolicy::Define);

/// A remedy. Displays as a sentence in terms of this crate's API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remedy {
    /// The sentence, with `{}` in place of each setting.
    text: String,
    settings: Vec<Setting>,
}

impl Remedy {
    fn new(text: impl Into<String>, settings: impl IntoIterator<Item = Setting>) -> Option<Self> {
        Some(Self {
            text: text.into(),
            settings: settings.into_iter().collect(),
        })
    }

    /// A remedy that names no setting.
    fn plain(text: &str) -> Option<Self> {
        Self::new(text, [])
    }

    /// A remedy that gives the lowest or the highest start of growth.
    fn start(text: &str, pages: u64) -> Option<Self> {
        Self::new(
            text,
            [Setting::EmulateFrom(Some(EmulateFrom::Pages(pages)))],
        )
    }

    /// A remedy that gives a size for a memory, or other settings. Memory 0 of a core module may be
    /// the only memory, so the sentence also names the size of all memories. For any other memory,
    /// that size could be too large for memory 0.
    fn pages(
        range: &str,
        memory: MemoryId,
        pages: Option<u64>,
        others: &[Setting],
    ) -> Option<Self> {
        let of = |memory| Setting::Pages { memory, pages };
        let alone = of(Some(memory));
        let (mut text, mut settings) = match (memory.module, memory.index) {
            (None, 0) => (
                format!("choose {{}}{range} (for this memory alone: {{}})"),
                vec![of(None), alone],
            ),
            _ => (format!("choose {{}}{range}"), vec![alone]),
        };
        for other in others {
            text.push_str(", or {}");
            settings.push(*other);
        }
        Self::new(text, settings)
    }

    /// Returns the sentence after a condition.
    fn after(self, condition: &str) -> Self {
        Self {
            text: format!("{condition}{}", self.text),
            ..self
        }
    }

    /// The settings in the sentence, in order.
    #[must_use]
    pub fn settings(&self) -> &[Setting] {
        &self.settings
    }

    /// Returns the sentence with other names for the settings.
    ///
    /// ```
    /// use wasm_prealloc::{EmulateFrom, Options, rewrite};
    ///
    /// let grows = "(module (memory 2 9) (func (drop (memory.grow (i32.const 1)))))";
    /// let mut options = Options::default();
    /// options.emulate_from = EmulateFrom::Pages(10);
    /// let error = rewrite(&wat::parse_str(grows)?, &options).unwrap_err();
    /// assert_eq!(
    ///     error.problem(),
    ///     "growth of memory 0 cannot start at 10 pages, above its cap of 9 pages",
    /// );
    /// let remedy = error.remedy().unwrap();
    /// assert_eq!(remedy.to_string(), "choose `EmulateFrom::Pages(9)` or less");
    /// assert_eq!(remedy.with(|_| "`--start 9`".to_owned()), "choose `--start 9` or less");
    /// # Ok::<(), wat::Error>(())
    /// ```
    #[must_use]
    pub fn with(&self, name: impl Fn(&Setting) -> String) -> String {
        let mut names = self.settings.iter().map(name);
        let mut sentence = String::new();
        for (position, part) in self.text.split("{}").enumerate() {
            if position > 0 {
                sentence.extend(names.next());
            }
            sentence.push_str(part);
        }
        sentence
    }
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with(Setting::to_string))
    }
}

/// Returns a message without the part that `advice` has added to it.
fn without(message: &str, advice: &str) -> String {
    message.strip_suffix(advice).unwrap_or(message).to_owned()
}

impl Error {
    /// The change to the options, or to the input, that resolves the error. It is the last part of
    /// the error's text.
    #[must_use]
    pub fn remedy(&self) -> Option<Remedy> {
        match self {
            Self::NotWasm { .. }
            | Self::Malformed { .. }
            | Self::Invalid { .. }
            | Self::OutputInvalid { .. }
            | Self::DataAboveMinimum { .. }
            | Self::AlreadyRewritten { .. } => None,
            Self::UnstableFeature { .. } => {
                Remedy::new("choose {}", [Setting::Features(Features::All)])
            }
            Self::LimitExceeded { what, .. } => what.remedy(),
            Self::Unsupported { what, .. } => what.remedy(),
            Self::PagesOutOfRange { memory, most, .. } => {
                Remedy::pages(&format!(" from 1 to {most}"), *memory, None, &[])
            }
            Self::MinimumExceedsTarget { memory, least, .. } => {
                Remedy::pages(" or more", *memory, Some(*least), &[])
            }
            Self::NoRoomForCounter { memory, least, .. } => {
                Remedy::pages(" or more", *memory, Some(*least), &[KEEP_GROWTH])
            }
            Self::NoSuchMemory { memory } | Self::LinkedMemoryPages { memory, .. } => {
                let of_memory = Setting::Pages {
                    memory: Some(*memory),
                    pages: None,
                };
                Remedy::new("leave out {}", [of_memory])
            }
            // Linkers place the heap in memory 0.
            Self::NoNaturalMinimum { memory, .. } if memory.index > 0 => {
                Remedy::new("choose {} pages", [FROM_PAGES])
            }
            Self::NoNaturalMinimum { .. } => Remedy::new(
                "choose {} (for allocators that only grow the memory, like Rust's) or {} pages",
                [HEAP_BASE, FROM_PAGES],
            ),
            Self::ImportedMemoryGrows { .. } => Remedy::new(
                "choose {} with {} for all modules that share it, where N is its size in pages at \
                 the start, {} to let the module define the memory itself, or {}",
                [
                    Setting::MemoryImport(MemoryImportPolicy::Keep),
                    FROM_PAGES,
                    DEFINE,
                    KEEP_GROWTH,
                ],
            ),
            Self::ImportedStartUnknown { minimum, .. } => Remedy::new(
                format!(
                    "choose {{}}, the number of pages that the embedder provides, or {{}} if those \
                     are the import's {minimum}"
                ),
                [
                    FROM_PAGES,
                    Setting::EmulateFrom(Some(EmulateFrom::Declared)),
                ],
            ),
            Self::StartBelowMinimum { minimum: pages, .. }
            | Self::StartBelowData { least: pages, .. } => {
                Remedy::start("choose {} or more", *pages)
            }
            // Only the cap that the caller gives can be below the lowest start.
            Self::StartAboveCap { cap, least, .. } if cap < least => Remedy::new(
                format!("choose {{}} of at least {least} pages"),
                [Setting::EmulateTo],
            ),
            Self::StartAboveCap { cap, .. } => Remedy::start("choose {} or less", *cap),
            Self::NoHeapBase => Remedy::new("choose {} pages", [FROM_PAGES]),
            Self::NothingToCommit => Remedy::new("leave out {}", [Setting::ExportCommit]),
            Self::ExportExists { of_memory, .. } => Remedy::new(
                "choose another name with {}",
                [match of_memory {
                    true => Setting::MemoryImportName,
                    false => Setting::ExportCommit,
                }],
            ),
        }
    }

    /// The text of the error without its remedy.
    #[must_use]
    pub fn problem(&self) -> String {
        without(&self.to_string(), &self.advice())
    }

    /// The end of the error's text.
    pub(crate) fn advice(&self) -> String {
        self.remedy()
            .map_or(String::new(), |remedy| format!(": {remedy}"))
    }
}

impl Limit {
    fn remedy(&self) -> Option<Remedy> {
        match self {
            Self::ExportName => Remedy::plain("choose a shorter name"),
            Self::Exports | Self::TypeSize => {
                Remedy::new("leave out {} and {}", [DEFINE, Setting::ExportCommit])
            }
            Self::Types
            | Self::Functions
            | Self::Globals
            | Self::FunctionBody { .. }
            | Self::Section => Remedy::new(
                "choose {} and leave out {}",
                [KEEP_GROWTH, Setting::ExportCommit],
            ),
        }
    }
}

impl Unsupported {
    fn remedy(&self) -> Option<Remedy> {
        match self {
            Self::CompactImport { .. } => {
                Remedy::plain("link or encode the module without compact imports")
            }
            Self::DefineShared { .. } => Remedy::new("leave out {}", [DEFINE]),
            Self::DefineSameName {
                is_chosen: false, ..
            } => Remedy::new(
                "choose {} with {}",
                [Setting::MemoryImport(MemoryImportPolicy::Keep), FROM_PAGES],
            ),
            Self::DefineSameName { .. } => Remedy::new("leave out {}", [Setting::MemoryImportName]),
            Self::SharedFunction { .. } => Remedy::new("choose {}", [KEEP_GROWTH]),
            Self::RelocatableObject { .. } => Remedy::plain("link it first"),
            Self::CoreModuleType { .. } => {
                Remedy::plain("define the core module in the component that instantiates it")
            }
            Self::HiddenMemory { .. } => Remedy::new(
                "link the core module in this component alone, or choose {}",
                [KEEP_GROWTH],
            ),
            Self::DifferentMemories { .. } => Remedy::new(
                "give the memories the same limits, or choose {}",
                [KEEP_GROWTH],
            ),
            Self::CommitInComponent => Remedy::new("leave out {}", [Setting::ExportCommit]),
        }
    }
}

impl Warning {
    /// The change to the options that gives another result. It is the last part of the warning's
    /// text.
    #[must_use]
    pub fn remedy(&self) -> Option<Remedy> {
        match self {
            // Linkers place the heap in memory 0.
            Self::GrowthCanOnlyFail {
                memory,
                pinned_before: true,
                ..
            } if memory.index > 0 => {
                Remedy::new("{} gives the page at which growth starts", [FROM_PAGES])
            }
            Self::GrowthCanOnlyFail {
                pinned_before: true,
                ..
            } => Remedy::new(
                "{} helps if the allocator only grows the memory",
                [HEAP_BASE],
            ),
            Self::GrowthCanOnlyFail { .. } => Remedy::new(
                "{} lets them succeed up to the declared maximum",
                [Setting::Growth(Growth::Emulate)],
            ),
            Self::SizeWraps { .. } => Remedy::new(
                format!("with {{}} they return {}", MAX_PAGES - 1),
                [Setting::Growth(Growth::Pregrown)],
            ),
            Self::StartAssumed { .. } => {
                Remedy::new("if the embedder provides more, choose {}", [FROM_PAGES])
            }
            Self::OwnHeapBase { pages, .. } => Remedy::start(
                "if other modules grow the memory, choose {} for all of them",
                *pages,
            ),
            Self::CapAssumed { .. } => Remedy::new(
                "if the memory has a smaller maximum, choose {}",
                [Setting::EmulateTo],
            ),
            Self::SourceMapStays { .. } => {
                Remedy::new("{} moves a source map along", [Setting::SourceMap])
            }
            Self::EmbedderCannotGrow {
                memory,
                beyond_signed_sizes: true,
                ..
            } => Remedy::pages("", *memory, Some(MAX_SIGNED_PAGES), &[]).map(|remedy| {
                remedy.after("if JavaScript glue (Emscripten's) keeps sizes in 32 signed bits, ")
            }),
            Self::NoMemory
            | Self::EmbedderCannotGrow { .. }
            | Self::DataAddressUnknown { .. }
            | Self::SignatureInvalidated { .. }
            | Self::HintsDropped { .. } => None,
        }
    }

    /// The text of the warning without its remedy. Warnings serialize with it as their `message`.
    #[must_use]
    pub fn problem(&self) -> String {
        without(&self.to_string(), &self.advice())
    }

    /// The end of the warning's text.
    pub(crate) fn advice(&self) -> String {
        self.remedy()
            .map_or(String::new(), |remedy| format!("; {remedy}"))
    }
}

impl Violation {
    /// The rewrite that pins the memory as expected. It is the last part of the violation's text.
    #[must_use]
    pub fn remedy(&self) -> Option<Remedy> {
        match self.kind {
            ViolationKind::GrowthCanOnlyFail { .. } => Remedy::new(
                "rewrite the original module instead, or use {} if the allocator only grows the \
                 memory",
                [HEAP_BASE],
            ),
            ViolationKind::WrongSize if self.memory.page_size_log2.is_some() => {
                Remedy::plain("link the module again")
            }
            ViolationKind::WrongSize if self.memory.minimum > self.expected => {
                let pages = self.memory.minimum;
                let text = format!(
                    "a memory is never made smaller, so expect {pages} pages or link the module \
                     again"
                );
                Remedy::new(text, [])
            }
            ViolationKind::NoMaximum | ViolationKind::NotPinned | ViolationKind::WrongSize => {
                let pages = Setting::Pages {
                    memory: None,
                    pages: Some(self.expected),
                };
                Remedy::new("rewrite it with {}", [pages])
            }
        }
    }

    /// The text of the violation without its remedy. Violations serialize with it as their
    /// `message`.
    #[must_use]
    pub fn problem(&self) -> String {
        without(&self.to_string(), &self.advice())
    }

    /// The end of the violation's text.
    pub(crate) fn advice(&self) -> String {
        self.remedy()
            .map_or(String::new(), |remedy| format!(": {remedy}"))
    }
}
