//! The custom section in which a rewritten module records what its memories declared before.
//!
//! The rewriter reads it to refuse another size for a module that has code for its size, and to
//! refuse a second counter. All other decisions are based on the module itself. A section that cannot
//! be read counts as absent.
//!
//! Its content, after the name: the version of the layout, 2, in a byte; a byte that is 1 if a
//! function that commits the memories was added; the number of memories; and for each memory its
//! index, its minimum, its maximum plus one (0: none), and the handling of its growth, all in its
//! own pages. The handling is a byte (see `encode_growth`) and the numbers that belong to it. At the
//! end is the offset in the module of the code section's content, if there is code. All numbers are
//! unsigned LEB128. Version 1 has neither the second byte, nor the handling, nor that offset.

use std::collections::BTreeMap;

use wasm_encoder::Encode as _;
use wasmparser::BinaryReader;

use super::module_info::ModuleInfo;
use super::sections::id;
use crate::growth::GrowthHandling;

pub(crate) const SECTION: &str = "wasm-prealloc";

const VERSION: u8 = 2;

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

/// The record of a memory.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    declared: Declared,
    /// `None` if it is unknown: a section of version 1 does not have it.
    growth: Option<GrowthHandling>,
}

/// The content of a module's section.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Provenance {
    /// True if a function that commits the memories was added.
    commits: bool,
    /// Records by the index of the memory.
    memories: BTreeMap<u32, Record>,
    /// The offset in the module of the code section's content.
    code_start: Option<u64>,
}

impl Provenance {
    /// Reads the section of a module; empty where there is none.
    pub(crate) fn read(info: &ModuleInfo<'_>) -> Self {
        info.custom(SECTION)
            .and_then(|(_, reader)| Self::parse(reader).ok())
            .unwrap_or_default()
    }

    fn parse(mut reader: BinaryReader<'_>) -> wasmparser::Result<Self> {
        let mut provenance = Self::default();
        let version = reader.read_u8()?;
        match version {
            1 => {}
            VERSION => provenance.commits = reader.read_u8()? != 0,
            _ => return Ok(provenance),
        }
        for _ in 0..reader.read_var_u32()? {
            let index = reader.read_var_u32()?;
            let minimum = reader.read_var_u64()?;
            let maximum = reader.read_var_u64()?.checked_sub(1);
            let growth = match version {
                VERSION => read_growth(&mut reader)?,
                _ => None,
            };
            let declared = Declared { minimum, maximum };
            let record = Record { declared, growth };
            provenance.memories.entry(index).or_insert(record);
        }
        if !reader.eof() {
            provenance.code_start = Some(reader.read_var_u64()?);
        }
        Ok(provenance)
    }

    /// The limits that a memory declared before.
    pub(crate) fn declared(&self, memory: u32) -> Option<Declared> {
        Some(self.memories.get(&memory)?.declared)
    }

    /// The handling of a memory's growth by the rewrite.
    pub(crate) fn growth(&self, memory: u32) -> Option<&GrowthHandling> {
        self.memories.get(&memory)?.growth.as_ref()
    }

    /// Returns true if the rewrite has added code or globals that depend on the size of the memory.
    pub(crate) fn has_code_for_size(&self, memory: u32) -> bool {
        let Some(record) = self.memories.get(&memory) else {
            return false;
        };
        self.commits
            || match &record.growth {
                Some(
                    GrowthHandling::None | GrowthHandling::Kept | GrowthHandling::Fixed { .. },
                ) => false,
                Some(GrowthHandling::Pregrown { .. } | GrowthHandling::Emulated { .. }) | None => {
                    true
                }
            }
    }

    /// Records the limits that a memory declares now and the handling of its growth. What an earlier
    /// rewrite has recorded stays, unless instructions that it kept are replaced now.
    pub(crate) fn record(&mut self, memory: u32, declared: Declared, growth: &GrowthHandling) {
        let record = self.memories.entry(memory).or_insert_with(|| Record {
            declared,
            growth: Some(growth.clone()),
        });
        if let Some(recorded) = &mut record.growth
            && !recorded.changes_code()
        {
            recorded.clone_from(growth);
        }
    }

    /// The number of bytes by which the content of the code section moved within the module.
    pub(crate) fn code_moved(&self, info: &ModuleInfo<'_>) -> Option<i64> {
        let moved = code_start(info)?.wrapping_sub(self.code_start?);
        Some(moved.cast_signed())
    }

    /// Records where the code of a module is, unless an earlier rewrite may have moved it.
    pub(crate) fn record_code(&mut self, info: &ModuleInfo<'_>) {
        if self.memories.is_empty() {
            self.code_start = code_start(info);
        }
    }

    pub(crate) fn record_commit(&mut self) {
        self.commits = true;
    }

    /// The section's content, including its name.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        SECTION.encode(&mut bytes);
        bytes.push(VERSION);
        bytes.push(self.commits.into());
        self.memories.len().encode(&mut bytes);
        for (index, record) in &self.memories {
            let Declared { minimum, maximum } = record.declared;
            index.encode(&mut bytes);
            minimum.encode(&mut bytes);
            // The sum wraps for 2^64 - 1 pages of a byte. That maximum is read back as `None`.
            let maximum = maximum.map_or(0, |pages| pages.wrapping_add(1));
            maximum.encode(&mut bytes);
            encode_growth(record.growth.as_ref(), &mut bytes);
        }
        if let Some(code_start) = self.code_start {
            code_start.encode(&mut bytes);
        }
        bytes
    }
}

/// The offset in a module of the code section's content.
fn code_start(info: &ModuleInfo<'_>) -> Option<u64> {
    let section = info.section(id::CODE)?;
    Some((section.content.start - info.range.start) as u64)
}

/// The codes of the handling of growth in the section.
mod code {
    /// The handling is unknown, because the record comes from a section of version 1.
    pub(super) const UNKNOWN: u8 = 0;
    pub(super) const NONE: u8 = 1;
    pub(super) const KEPT: u8 = 2;
    /// The size in pages and the global follow, also for `PREGROWN`.
    pub(super) const FIXED: u8 = 3;
    pub(super) const PREGROWN: u8 = 4;
    /// The start and the cap in pages, the global or the address, and the functions that replace
    /// `memory.grow` and `memory.size` follow, each function plus one (0: none).
    pub(super) const EMULATED_GLOBAL: u8 = 5;
    pub(super) const EMULATED_ADDRESS: u8 = 6;
}

fn encode_growth(growth: Option<&GrowthHandling>, bytes: &mut Vec<u8>) {
    let mut put = |code: u8, numbers: &[u64]| {
        bytes.push(code);
        for number in numbers {
            number.encode(bytes);
        }
    };
    let function = |index: Option<u32>| index.map_or(0, |index| u64::from(index) + 1);
    let Some(growth) = growth else {
        return put(code::UNKNOWN, &[]);
    };
    match *growth {
        GrowthHandling::None => put(code::NONE, &[]),
        GrowthHandling::Kept => put(code::KEPT, &[]),
        GrowthHandling::Fixed { pages, global } => put(code::FIXED, &[pages, global.into()]),
        GrowthHandling::Pregrown { pages, global } => put(code::PREGROWN, &[pages, global.into()]),
        GrowthHandling::Emulated {
            from_pages,
            cap_pages,
            global,
            address,
            function: grow,
            size_function: size,
        } => {
            let (code, place) = match address {
                Some(address) => (code::EMULATED_ADDRESS, address),
                None => (code::EMULATED_GLOBAL, global.unwrap_or_default().into()),
            };
            let (grow, size) = (function(grow), function(size));
            put(code, &[from_pages, cap_pages, place, grow, size]);
        }
    }
}

/// Returns `None` for an unknown code.
fn read_growth(reader: &mut BinaryReader<'_>) -> wasmparser::Result<Option<GrowthHandling>> {
    let code = reader.read_u8()?;
    Ok(match code {
        code::NONE => Some(GrowthHandling::None),
        code::KEPT => Some(GrowthHandling::Kept),
        code::FIXED => Some(GrowthHandling::Fixed {
            pages: reader.read_var_u64()?,
            global: reader.read_var_u32()?,
        }),
        code::PREGROWN => Some(GrowthHandling::Pregrown {
            pages: reader.read_var_u64()?,
            global: reader.read_var_u32()?,
        }),
        code::EMULATED_GLOBAL | code::EMULATED_ADDRESS => {
            let from_pages = reader.read_var_u64()?;
            let cap_pages = reader.read_var_u64()?;
            let (global, address) = match code {
                code::EMULATED_GLOBAL => (Some(reader.read_var_u32()?), None),
                _ => (None, Some(reader.read_var_u64()?)),
            };
            Some(GrowthHandling::Emulated {
                from_pages,
                cap_pages,
                global,
                address,
                function: reader.read_var_u32()?.checked_sub(1),
                size_function: reader.read_var_u32()?.checked_sub(1),
            })
        }
        _ => None,
    })
}
