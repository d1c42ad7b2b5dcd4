//! The options of a rewrite. Their values have the names that the command line uses.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZero;
use std::str::FromStr;

use crate::limits::{MAX_PAGES, MemoryId};

/// Options for [`rewrite`](crate::rewrite()). Start from [`Options::default`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// The size of every memory afterwards, in pages of 64 KiB: 1 to 65,536, and more if all
    /// memories are 64-bit. Default: 65,536, which is 4 GiB.
    pub pages: u64,
    /// The sizes of memories that are to have another size than `pages`, in pages of 64 KiB. A
    /// module with a 32-bit memory and a larger 64-bit memory needs this.
    pub memory_pages: BTreeMap<MemoryId, u64>,
    /// The handling of `memory.grow` and `memory.size`.
    pub growth: Growth,
    /// The size at which emulated growth starts. Unused if growth is not emulated.
    pub emulate_from: EmulateFrom,
    /// The size beyond which emulated growth fails, in the memory's own pages, if it is below the
    /// declared maximum; `None` for the declared maximum. An imported memory may have a smaller
    /// maximum than its import declares.
    /// With [`MemoryImportPolicy::Keep`], it does not apply to a core module's memories that no other
    /// module can reach.
    pub emulate_to: Option<u64>,
    /// The handling of memories that the module imports.
    pub memory_import: MemoryImportPolicy,
    /// With [`MemoryImportPolicy::Define`], the name under which the memory is exported; `None` for
    /// the import's field name.
    pub memory_import_name: Option<String>,
    /// The name under which to export an added function without parameters and results. It writes
    /// to every page (4 KiB) of the operating system in every memory and keeps the contents. With
    /// it, a host can commit memory on engines that offer no other way.
    pub export_commit: Option<String>,
    /// The parts that are validated before the result is returned.
    pub validate: Validate,
    /// The proposals that a module may use.
    pub features: Features,
    /// The most threads that validate a large module, the caller's own included; `None` for as many
    /// as there are processors. With 1, no thread is started. The result does not depend on the
    /// number of threads, also if the system refuses to start them.
    pub threads: Option<NonZero<usize>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            pages: MAX_PAGES,
            memory_pages: BTreeMap::new(),
            growth: Growth::default(),
            emulate_from: EmulateFrom::default(),
            emulate_to: None,
            memory_import: MemoryImportPolicy::default(),
            memory_import_name: None,
            export_commit: None,
            validate: Validate::default(),
            features: Features::default(),
            threads: None,
        }
    }
}

impl Options {
    /// The size of a memory afterwards, in pages of 64 KiB. A memory that is linked to another in a
    /// component has the size of its definition.
    pub(crate) fn pages_of(&self, memory: MemoryId) -> u64 {
        self.memory_pages
            .get(&memory)
            .copied()
            .unwrap_or(self.pages)
    }
}

/// The handling of the instructions that grow and measure a memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Growth {
    /// `emulate` if the module, or another part of its component, grows the memory. If the module
    /// only measures the memory: `pregrown` where an embedder can reach it, and otherwise the
    /// declared minimum as a constant.
    #[default]
    Auto,
    /// A counter holds a virtual size: `memory.grow` raises it up to the maximum that the module
    /// declared, and `memory.size` reads it.
    Emulate,
    /// `memory.size` returns a constant, as if the embedder had grown the memory already.
    Pregrown,
    /// The instructions stay: `memory.grow` can only fail.
    Keep,
}

/// The start of the virtual size of an emulated memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(rename_all = "kebab-case")
)]
#[non_exhaustive]
pub enum EmulateFrom {
    /// The declared minimum of a memory whose declaration is known: one that the module or its
    /// component defines, or that threads share. The start of an imported memory of a core module
    /// is unknown, because its embedder may provide more pages than the import declares.
    #[default]
    Auto,
    /// The minimum that the module declares, also for a memory that it imports.
    Declared,
    /// The value of the global `__heap_base`, rounded up to a page. Linkers place the heap in
    /// memory 0; other memories start at their minimum.
    HeapBase,
    /// This many pages, for every memory. With [`MemoryImportPolicy::Keep`], a core module's memories
    /// that no other module can reach start at their minimum.
    Pages(u64),
}

/// The handling of memories that a module imports. Their limits are pinned in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemoryImportPolicy {
    /// Refuse the module if it grows such a memory, because other modules may grow it too. A memory
    /// that threads share is counted in the memory itself, and is not refused.
    #[default]
    Refuse,
    /// They stay imports, and other modules may share them. Growth is counted in the last page of
    /// each memory that the module imports or exports, so all modules that are rewritten with this
    /// value and the same start count together. [`Options::emulate_from`] must say where the growth
    /// of an imported memory starts: at the size that the embedder gives it.
    Keep,
    /// The module defines them itself, and exports them under the import's field name or
    /// [`Options::memory_import_name`].
    Define,
}

/// The amount of validation before a result is returned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Validate {
    /// The whole input, so that an invalid one is refused, and all parts of the output that changed.
    /// The rest of the output is compared with the input, byte for byte.
    #[default]
    Full,
    /// The parts of the output that changed, and the parts that those need. For callers whose engine
    /// validates anyway.
    Changed,
}

/// The proposals to WebAssembly that a module may use. The set of stable ones grows with the
/// standard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Features {
    /// The proposals that are finished or about to be (phases 4 and 5 of the process), among them
    /// threads, several memories, 64-bit memories, garbage collection and exceptions, and also
    /// exceptions in their legacy form: all browsers support them, and compilers of C++ have used
    /// them for years.
    #[default]
    Stable,
    /// All proposals that this version can read. Their encoding and meaning may still change, and
    /// another version may read such a module differently. Custom page sizes, shared functions and
    /// stack switching need this.
    All,
}

/// The error for a word that is not a value of an option.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is none of {expected}")]
pub struct UnknownValue {
    given: String,
    expected: &'static str,
}

/// Implements `Display`, `FromStr` and `Serialize` with one table of words.
macro_rules! words {
    ($ty:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        impl $ty {
            /// The words for the values.
            pub const WORDS: &'static [&'static str] = &[$($word),+];
        }

        impl fmt::Display for $ty {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $word),+ })
            }
        }

        #[cfg(feature = "serde")]
        impl serde::Serialize for $ty {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl FromStr for $ty {
            type Err = UnknownValue;

            fn from_str(word: &str) -> Result<Self, UnknownValue> {
                match word {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(UnknownValue {
                        given: word.to_owned(),
                        expected: concat!($("`", $word, "` "),+).trim_ascii_end(),
                    }),
                }
            }
        }
    };
}

words!(Growth { Auto = "auto", Emulate = "emulate", Pregrown = "pregrown", Keep = "keep" });
words!(MemoryImportPolicy { Refuse = "refuse", Keep = "keep", Define = "define" });
words!(Validate { Full = "full", Changed = "changed" });
words!(Features { Stable = "stable", All = "all" });

impl fmt::Display for EmulateFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Declared => f.write_str("declared"),
            Self::HeapBase => f.write_str("heap-base"),
            Self::Pages(pages) => write!(f, "{pages}"),
        }
    }
}

impl FromStr for EmulateFrom {
    type Err = UnknownValue;

    fn from_str(word: &str) -> Result<Self, UnknownValue> {
        match word {
            "auto" => Ok(Self::Auto),
            "declared" => Ok(Self::Declared),
            "heap-base" => Ok(Self::HeapBase),
            number => number.parse().map(Self::Pages).map_err(|_| UnknownValue {
                given: number.to_owned(),
                expected: "`auto` `declared` `heap-base` or a number of pages",
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_parse_as_they_are_displayed() {
        for growth in [
            Growth::Auto,
            Growth::Emulate,
            Growth::Pregrown,
            Growth::Keep,
        ] {
            assert_eq!(growth.to_string().parse(), Ok(growth));
        }
        for from in [
            EmulateFrom::Auto,
            EmulateFrom::Declared,
            EmulateFrom::HeapBase,
            EmulateFrom::Pages(17),
        ] {
            assert_eq!(from.to_string().parse(), Ok(from));
        }
        let error = "fast".parse::<Validate>().unwrap_err();
        assert_eq!(error.to_string(), "`fast` is none of `full` `changed`");
        assert!("-1".parse::<EmulateFrom>().is_err());
    }
}
