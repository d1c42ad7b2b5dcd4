//! The sizes that `--pages` gives: one for all memories, and others for single memories.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail};
use wasm_prealloc::{MAX_PAGES, MemoryId};

/// One value of `--pages`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PagesValue {
    /// `None` for all memories that no other value names.
    memory: Option<MemoryId>,
    pages: u64,
}

impl FromStr for PagesValue {
    type Err = String;

    fn from_str(value: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse().map_err(|error| format!("`{text}`: {error}"));
        let Some((memory, pages)) = value.split_once('=') else {
            let pages = number(value)?;
            return Ok(Self {
                memory: None,
                pages,
            });
        };
        let index = |text: &str| text.parse().map_err(|error| format!("`{text}`: {error}"));
        let memory = match memory.split_once('.') {
            Some((module, memory)) => MemoryId {
                module: Some(index(module)?),
                index: index(memory)?,
            },
            None => MemoryId {
                module: None,
                index: index(memory)?,
            },
        };
        Ok(Self {
            memory: Some(memory),
            pages: number(pages)?,
        })
    }
}

/// The sizes of all memories, in pages of 64 KiB.
#[derive(Clone, Debug)]
pub(crate) struct Pages {
    pub(crate) all: u64,
    pub(crate) memories: BTreeMap<MemoryId, u64>,
}

/// Displays as the flags that give these sizes.
impl fmt::Display for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--pages {}", self.all)?;
        for (memory, pages) in &self.memories {
            write!(f, " --pages {}={pages}", index(*memory))?;
        }
        Ok(())
    }
}

impl Pages {
    /// Returns one size for all memories.
    #[cfg(feature = "run")]
    pub(crate) fn of_all(pages: u64) -> Self {
        Self {
            all: pages,
            memories: BTreeMap::new(),
        }
    }

    pub(crate) fn new(values: &[PagesValue]) -> Result<Self> {
        let mut all = None;
        let mut memories = BTreeMap::new();
        for PagesValue { memory, pages } in values {
            let before = match memory {
                None => all.replace(*pages),
                Some(memory) => memories.insert(*memory, *pages),
            };
            if before.is_some() {
                let of = memory.map_or("all memories".to_owned(), |memory| memory.to_string());
                bail!("`--pages` gives two sizes for {of}");
            }
        }
        Ok(Self {
            all: all.unwrap_or(MAX_PAGES),
            memories,
        })
    }

    pub(crate) fn of(&self, memory: MemoryId) -> u64 {
        self.memories.get(&memory).copied().unwrap_or(self.all)
    }
}

/// Returns a memory as `--pages` names it.
pub(crate) fn index(memory: MemoryId) -> String {
    match memory.module {
        Some(module) => format!("{module}.{}", memory.index),
        None => memory.index.to_string(),
    }
}
