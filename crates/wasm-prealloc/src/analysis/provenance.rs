//! The custom section in which a rewritten module records what its memories declared before.
//!
//! The section is information only: every decision is based on the module itself. A section that
//! cannot be read counts as absent.
//!
//! Its content, after the name: the version of the layout, 1, in a byte; the number of memories;
//! and for each memory its index, its minimum, and its maximum plus one (0: none), in its own
//! pages. All numbers are unsigned LEB128.

use std::collections::BTreeMap;

use wasm_encoder::Encode as _;
use wasmparser::BinaryReader;

use super::module_info::ModuleInfo;

pub(crate) const SECTION: &str = "wasm-prealloc";

const VERSION: u8 = 1;

/// The limits that a memory declared before it was rewritten, in its own pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Declared {
    /// Its minimum.
    pub minimum: u64,
    /// Its maximum; `None` where there was none.
    pub maximum: Option<u64>,
}

/// The content of a module's section.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Provenance {
    /// Limits by the index of the memory.
    memories: BTreeMap<u32, Declared>,
}

impl Provenance {
    /// Reads the section of a module; empty where there is none.
    pub(crate) fn read(info: &ModuleInfo<'_>) -> Self {
        info.custom(SECTION)
            .and_then(|(_, reader)| Self::parse(reader).ok())
            .unwrap_or_default()
    }

    fn parse(mut reader: BinaryReader<'_>) -> wasmparser::Result<Self> {
        let mut memories = BTreeMap::new();
        if reader.read_u8()? == VERSION {
            for _ in 0..reader.read_var_u32()? {
                let index = reader.read_var_u32()?;
                let minimum = reader.read_var_u64()?;
                let maximum = reader.read_var_u64()?.checked_sub(1);
                let declared = Declared { minimum, maximum };
                memories.entry(index).or_insert(declared);
            }
        }
        Ok(Self { memories })
    }

    /// The limits that a memory declared before.
    pub(crate) fn declared(&self, memory: u32) -> Option<Declared> {
        self.memories.get(&memory).copied()
    }

    /// Records the limits that a memory declares now, unless an earlier rewrite has recorded its
    /// limits already.
    pub(crate) fn record(&mut self, memory: u32, declared: Declared) {
        self.memories.entry(memory).or_insert(declared);
    }

    /// The section's content, including its name.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        SECTION.encode(&mut bytes);
        bytes.push(VERSION);
        self.memories.len().encode(&mut bytes);
        for (index, declared) in &self.memories {
            index.encode(&mut bytes);
            declared.minimum.encode(&mut bytes);
            // A maximum of 2^64 - 1 pages of a byte has no successor: it reads back as none.
            let maximum = declared.maximum.map_or(0, |pages| pages.wrapping_add(1));
            maximum.encode(&mut bytes);
        }
        bytes
    }
}
