//! The custom section in which a rewritten module tells what its memories declared before.
//!
//! It informs and decides nothing: what a module is, is judged by the module itself. A section that
//! cannot be read counts as none.
//!
//! Its content, behind the name: the layout's version, 1, in a byte; the number of memories, and
//! for each its index, its minimum and its maximum plus one (0: none), in its own pages. All numbers
//! are unsigned LEB128.

use wasmparser::BinaryReader;

use crate::leb128::leb128;
use crate::map::Map;

/// The section's name.
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

/// What a module's section tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Provenance {
    /// Memory indices with their limits, in index order.
    memories: Vec<(u32, Declared)>,
}

impl Provenance {
    /// Reads the section of a module; without one, nothing is known.
    pub(crate) fn read(map: &Map<'_>) -> Self {
        map.custom(SECTION)
            .and_then(|(_, reader)| Self::parse(reader).ok())
            .unwrap_or_default()
    }

    fn parse(mut reader: BinaryReader<'_>) -> wasmparser::Result<Self> {
        let mut memories = Vec::new();
        if reader.read_u8()? == VERSION {
            for _ in 0..reader.read_var_u32()? {
                let index = reader.read_var_u32()?;
                let minimum = reader.read_var_u64()?;
                let maximum = reader.read_var_u64()?.checked_sub(1);
                memories.push((index, Declared { minimum, maximum }));
            }
        }
        Ok(Self { memories })
    }

    /// What a memory declared before.
    pub(crate) fn declared(&self, memory: u32) -> Option<Declared> {
        let found = self.memories.iter().find(|(index, _)| *index == memory);
        found.map(|(_, declared)| *declared)
    }

    /// Notes what a memory declares now, unless an earlier rewrite has noted what it declared then.
    pub(crate) fn note(&mut self, memory: u32, declared: Declared) {
        if self.declared(memory).is_none() {
            self.memories.push((memory, declared));
            self.memories.sort_by_key(|(index, _)| *index);
        }
    }

    /// The section's content, name included.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = leb128(SECTION.len() as u64, 1);
        bytes.extend(SECTION.as_bytes());
        bytes.push(VERSION);
        bytes.extend(leb128(self.memories.len() as u64, 1));
        for (index, declared) in &self.memories {
            bytes.extend(leb128(u64::from(*index), 1));
            bytes.extend(leb128(declared.minimum, 1));
            // A maximum of 2^64 - 1 pages of a byte has no successor: it reads back as none.
            let maximum = declared.maximum.map_or(0, |pages| pages.wrapping_add(1));
            bytes.extend(leb128(maximum, 1));
        }
        bytes
    }
}
