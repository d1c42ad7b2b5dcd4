//! Tells what a module's memories are, who grows them, and what a rewrite would make of that.

use crate::data::{DataSegment, data_segments};
use crate::error::Error;
use crate::limits::Memory;
use crate::map::Map;
use crate::rewrite::{GrowthHandling, Options, preview};
use crate::scan::{Body, Sites, growth_sites};

/// What there is to know of a module's memories.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Inspection {
    /// Length of the module in bytes.
    pub bytes: usize,
    /// One entry a memory, in index order.
    pub memories: Vec<MemoryInspection>,
    /// Where the linker says that things lie.
    pub landmarks: Landmarks,
    /// The data segments, in order.
    pub data: Vec<DataSegment>,
    /// Why a rewrite with default options would refuse the module; `None` where it would not.
    pub refusal: Option<String>,
}

/// One memory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct MemoryInspection {
    /// As the module declares it.
    pub memory: Memory,
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
    pub data_end: Option<u32>,
    /// `__heap_base`: first byte that an allocator may use.
    pub heap_base: Option<u32>,
    /// `__heap_end`: first byte after the memory that was there at the link; 0 for 4 GiB.
    pub heap_end: Option<u32>,
}

/// Looks at a core module without changing or validating it.
///
/// # Errors
/// Where the bytes are no core module, or are malformed.
pub fn inspect(wasm: &[u8]) -> Result<Inspection, Error> {
    let map = Map::read(wasm)?;
    let bodies = growth_sites(&map)?;
    let (previews, refusal) = match preview(&map, &Options::default()) {
        Ok(memories) => (memories, None),
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    let memories = map.memories().map(|memory| {
        let holds_site = |body: &&Body| body.sites.iter().any(|s| s.memory == memory.index);
        let functions = bodies.iter().filter(holds_site);
        let preview = previews.iter().find(|p| p.before.index == memory.index);
        MemoryInspection {
            memory: memory.clone(),
            sites: Sites::count(&bodies, memory.index),
            functions: functions
                .map(|body| map.imported_functions + body.defined)
                .collect(),
            rewrite: preview.map(|p| p.growth.clone()),
        }
    });
    Ok(Inspection {
        bytes: wasm.len(),
        memories: memories.collect(),
        landmarks: Landmarks {
            data_end: map.landmark("__data_end")?,
            heap_base: map.landmark("__heap_base")?,
            heap_end: map.landmark("__heap_end")?,
        },
        data: data_segments(&map)?,
        refusal,
    })
}
