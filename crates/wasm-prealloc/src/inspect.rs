//! Tells what a module's memories are, who grows them, and what a rewrite would make of that.

use crate::component::Node;
use crate::data::{DataSegment, data_segments};
use crate::error::Error;
use crate::limits::Memory;
use crate::map::Map;
use crate::provenance::{Declared, Provenance};
use crate::rewrite::{GrowthHandling, MemoryReport, Options, Report, preview};
use crate::scan::{Body, Sites, count_sites, growth_sites};

/// What there is to know of an input's memories.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Inspection {
    /// Length of the input in bytes.
    pub bytes: usize,
    /// The core modules: the input itself, or those that a component nests.
    pub modules: Vec<ModuleInspection>,
    /// Why a rewrite with default options would refuse the input; `None` where it would not.
    pub refusal: Option<String>,
}

impl Inspection {
    /// The memories of all core modules.
    pub fn memories(&self) -> impl Iterator<Item = &MemoryInspection> {
        self.modules.iter().flat_map(|module| &module.memories)
    }

    /// Returns the report of a rewrite that changes nothing.
    #[must_use]
    pub fn unchanged(&self) -> Report {
        let memories = self.memories().map(|inspected| MemoryReport {
            before: inspected.memory.clone(),
            after: inspected.memory.clone(),
            growth: match inspected.sites {
                Sites { size: 0, grow: 0 } => GrowthHandling::None,
                _ => GrowthHandling::Kept,
            },
            sites: inspected.sites,
        });
        Report {
            bytes_before: self.bytes,
            bytes_after: self.bytes,
            memories: memories.collect(),
            code_offsets: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

/// One core module.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ModuleInspection {
    /// In a component, which core module it is, counted from 0 in the order of the bytes.
    pub module: Option<u32>,
    /// Length of the module in bytes.
    pub bytes: usize,
    /// One entry a memory, in index order.
    pub memories: Vec<MemoryInspection>,
    /// Where the linker says that things lie.
    pub landmarks: Landmarks,
    /// The data segments, in order.
    pub data: Vec<DataSegment>,
}

/// One memory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct MemoryInspection {
    /// As the module declares it.
    pub memory: Memory,
    /// As the module declared it before it was rewritten, by its own account.
    pub declared_before: Option<Declared>,
    /// How many instructions grow and measure it.
    pub sites: Sites,
    /// Indices of the functions that hold them, ascending.
    pub functions: Vec<u32>,
    /// What a rewrite with default options would make of them; `None` where it would refuse.
    pub rewrite: Option<GrowthHandling>,
}

/// Addresses that linkers export, or name, as constant globals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Landmarks {
    /// `__data_end`: first byte after the static data.
    pub data_end: Option<u64>,
    /// `__heap_base`: first byte that an allocator may use.
    pub heap_base: Option<u64>,
    /// `__heap_end`: first byte after the memory that was there at the link; 0 for 4 GiB.
    pub heap_end: Option<u64>,
}

/// Looks at a core module, or at all those of a component, without changing or validating it.
///
/// # Errors
/// Where the bytes are no module, or are malformed.
pub fn inspect(wasm: &[u8]) -> Result<Inspection, Error> {
    let (previews, refusal) = match preview(wasm, &Options::default()) {
        Ok(memories) => (memories, None),
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    let mut modules = Vec::new();
    for (module, range) in Node::read(wasm)?.modules() {
        let map = Map::read(wasm, range, module)?;
        let bodies = growth_sites(&map)?;
        let provenance = Provenance::read(&map);
        let memories = map.memories().map(|memory| {
            let holds_site = |body: &&Body| body.sites.iter().any(|s| s.memory == memory.id.index);
            let functions = bodies.iter().filter(holds_site);
            let preview = previews.iter().find(|p| p.before.id == memory.id);
            MemoryInspection {
                memory: memory.clone(),
                declared_before: provenance.declared(memory.id.index),
                sites: count_sites(&bodies, memory.id.index).0,
                functions: functions
                    .map(|body| map.imported_functions + body.defined)
                    .collect(),
                rewrite: preview.map(|p| p.growth.clone()),
            }
        });
        modules.push(ModuleInspection {
            module,
            bytes: map.range.len(),
            memories: memories.collect(),
            landmarks: Landmarks {
                data_end: map.landmark("__data_end")?,
                heap_base: map.landmark("__heap_base")?,
                heap_end: map.landmark("__heap_end")?,
            },
            data: data_segments(&map)?,
        });
    }
    Ok(Inspection {
        bytes: wasm.len(),
        modules,
        refusal,
    })
}
