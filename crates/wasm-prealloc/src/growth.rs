//! The handling of a memory's growth, as reports show it and rewritten modules record it.

use std::fmt;

/// The handling of the instructions that grow and measure a memory. Displays as a few words, with
/// sizes in the memory's own pages.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(tag = "mode", rename_all = "kebab-case")
)]
pub enum GrowthHandling {
    /// There are no such instructions.
    None,
    /// A counter holds the growth: either a global, or a number in the memory's last page, which
    /// all modules and threads that share the memory use.
    #[non_exhaustive]
    Emulated {
        /// Size at the start, in pages.
        from_pages: u64,
        /// Size beyond which growth fails, in pages.
        cap_pages: u64,
        /// Index of the global that holds the size; `None` if the counter is in the memory.
        global: Option<u32>,
        /// Address of the counter in the memory. It holds the number of pages grown so far, in the
        /// type of the memory's addresses. `None` if the counter is a global.
        address: Option<u64>,
        /// Index of the function that replaces `memory.grow`; `None` if the module does not grow
        /// the memory.
        function: Option<u32>,
        /// Index of the function that replaces `memory.size`; `None` if the counter is a global or
        /// the module does not measure the memory.
        size_function: Option<u32>,
    },
    /// The size reads as the declared minimum: no code outside of the module or its component can
    /// change it.
    #[non_exhaustive]
    Fixed {
        /// The size that the module reads, in pages.
        pages: u64,
        /// Index of the global that holds it.
        global: u32,
    },
    /// The size reads as a constant, as if an embedder had grown the memory already.
    #[non_exhaustive]
    Pregrown {
        /// The size that the module reads, in pages.
        pages: u64,
        /// Index of the global that holds it.
        global: u32,
    },
    /// The instructions are unchanged.
    Kept,
}

impl GrowthHandling {
    /// Returns true if the module's growth instructions are replaced.
    #[must_use]
    pub fn changes_code(&self) -> bool {
        match self {
            Self::None | Self::Kept => false,
            Self::Emulated { .. } | Self::Fixed { .. } | Self::Pregrown { .. } => true,
        }
    }

    /// The numbers of globals and functions that are added for it.
    pub(crate) fn additions(&self) -> (u32, u32) {
        match self {
            Self::None | Self::Kept => (0, 0),
            Self::Fixed { .. } | Self::Pregrown { .. } => (1, 0),
            Self::Emulated {
                global,
                function,
                size_function,
                ..
            } => {
                let functions = function.iter().chain(size_function).count();
                (u32::from(global.is_some()), functions as u32)
            }
        }
    }
}

impl fmt::Display for GrowthHandling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Emulated {
                from_pages,
                cap_pages,
                address,
                ..
            } => {
                write!(f, "emulated from page {from_pages} up to {cap_pages}")?;
                match address {
                    Some(address) => write!(f, ", counted at address {address:#x}"),
                    None => Ok(()),
                }
            }
            Self::Fixed { pages: 1, .. } => f.write_str("fixed at 1 page"),
            Self::Fixed { pages, .. } => write!(f, "fixed at {pages} pages"),
            Self::Pregrown { pages, .. } => write!(f, "pregrown to {pages} pages"),
            Self::Kept => f.write_str("kept"),
        }
    }
}
