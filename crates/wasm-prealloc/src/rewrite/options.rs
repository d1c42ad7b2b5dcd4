//! What a caller can ask of a rewrite, under the names that the command line uses.

use std::fmt;
use std::str::FromStr;

use crate::limits::MAX_PAGES;

/// What [`rewrite`](crate::rewrite) shall do. Start from [`Options::default`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// The size of every memory afterwards, in 64 KiB pages: 1 to 65,536, and more where all
    /// memories are 64-bit. Default: 65,536, 4 GiB.
    pub pages: u64,
    /// What becomes of `memory.grow` and `memory.size`.
    pub growth: Growth,
    /// Where emulated growth starts. Only read where growth is emulated.
    pub emulate_from: EmulateFrom,
    /// What becomes of memories that the module imports.
    pub memory_import: MemoryImportPolicy,
    /// Under this name, also export a function without parameters and results that writes to every
    /// page (4 KiB) of the operating system in every memory, contents kept: a way to commit for
    /// engines that offer none.
    pub export_commit: Option<String>,
    /// What is validated before the result is given back.
    pub validate: Validate,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            pages: MAX_PAGES,
            growth: Growth::default(),
            emulate_from: EmulateFrom::default(),
            memory_import: MemoryImportPolicy::default(),
            export_commit: None,
            validate: Validate::default(),
        }
    }
}

/// What becomes of the instructions that grow and measure a memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(rename_all = "kebab-case")
)]
pub enum Growth {
    /// `emulate` where the module grows its memory, `pregrown` where it only measures it.
    #[default]
    Auto,
    /// Count a virtual size in a global: `memory.grow` raises it up to the maximum that the
    /// module declared, `memory.size` reads it.
    Emulate,
    /// `memory.size` reads a constant, as if the embedder had grown the memory already.
    Pregrown,
    /// Leave the instructions: `memory.grow` can only fail.
    Keep,
}

/// Where the virtual size of an emulated memory starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(rename_all = "kebab-case")
)]
pub enum EmulateFrom {
    /// At the minimum that the module declares.
    #[default]
    Declared,
    /// At the global `__heap_base`, rounded up to a page. Linkers speak of memory 0; others start
    /// at their minimum.
    HeapBase,
    /// At this many pages, whichever memory it is.
    Pages(u64),
}

/// What becomes of memories that a module imports. Their limits are pinned in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(rename_all = "kebab-case")
)]
pub enum MemoryImportPolicy {
    /// Refuse the module where it grows such a memory, because others may grow it too.
    #[default]
    Refuse,
    /// They stay imports. The caller knows that nothing else grows them. Growth is counted between
    /// the limits that the import declares, whatever those of the memory that it is given.
    Keep,
    /// They become memories of the module's own, exported under the import's field name.
    Define,
}

/// How much of a result is validated before it is given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(rename_all = "kebab-case")
)]
pub enum Validate {
    /// The whole input, so that an invalid one is refused, and of the output everything that
    /// changed; that the rest is the input's, byte for byte, is checked.
    #[default]
    Full,
    /// Of the output, what changed and what that needs. For callers whose engine validates anyway.
    Changed,
}

/// A word that is no value of an option.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is none of {expected}")]
pub struct UnknownValue {
    given: String,
    expected: &'static str,
}

/// Implements `Display` and `FromStr` with one table of words.
macro_rules! words {
    ($ty:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        impl $ty {
            /// The words that stand for the values.
            pub const WORDS: &'static [&'static str] = &[$($word),+];
        }

        impl fmt::Display for $ty {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $word),+ })
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

impl fmt::Display for EmulateFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
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
            "declared" => Ok(Self::Declared),
            "heap-base" => Ok(Self::HeapBase),
            number => number.parse().map(Self::Pages).map_err(|_| UnknownValue {
                given: number.to_owned(),
                expected: "`declared` `heap-base` or a number of pages",
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_read_as_they_are_written() {
        for growth in [
            Growth::Auto,
            Growth::Emulate,
            Growth::Pregrown,
            Growth::Keep,
        ] {
            assert_eq!(growth.to_string().parse(), Ok(growth));
        }
        for from in [
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
