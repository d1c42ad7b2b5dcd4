//! The data segments: the addresses that instantiation writes to, and the lengths. Their contents
//! are not read.

use wasmparser::{DataKind, DataSectionReader};

use super::module_info::{ModuleInfo, constant_address};
use super::sections::id;

/// A data segment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct DataSegment {
    /// The memory that instantiation writes it to; `None` for a passive segment.
    pub memory: Option<u32>,
    /// Its address in that memory, if the address is a constant.
    pub address: Option<u64>,
    /// Its length in bytes.
    pub bytes: usize,
}

impl DataSegment {
    /// The first byte after the segment in its memory, if its address is known.
    pub(crate) fn end(&self) -> Option<u64> {
        self.address?.checked_add(self.bytes as u64)
    }
}

pub(crate) fn data_segments(info: &ModuleInfo<'_>) -> wasmparser::Result<Vec<DataSegment>> {
    let Some(section) = info.section(id::DATA) else {
        return Ok(Vec::new());
    };
    let segments = DataSectionReader::new(section.reader(info.wasm))?.into_iter();
    segments
        .map(|segment| {
            let segment = segment?;
            let (memory, address) = match &segment.kind {
                DataKind::Passive => (None, None),
                DataKind::Active {
                    memory_index,
                    offset_expr,
                } => (Some(*memory_index), constant_address(offset_expr)?),
            };
            Ok(DataSegment {
                memory,
                address,
                bytes: segment.data.len(),
            })
        })
        .collect()
}
