//! The data segments: where instantiation writes, and how much. Their contents are not looked at.

use wasmparser::{DataKind, DataSectionReader};

use crate::error::Error;
use crate::map::{Map, constant_address, id};

/// A data segment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct DataSegment {
    /// The memory that instantiation writes it to; `None` for a passive segment.
    pub memory: Option<u32>,
    /// Its address there, where that is a constant.
    pub address: Option<u64>,
    /// Its length in bytes.
    pub bytes: usize,
}

impl DataSegment {
    /// First byte after the segment in its memory, where its address is known.
    pub(crate) fn end(&self) -> Option<u64> {
        self.address?.checked_add(self.bytes as u64)
    }
}

/// The module's data segments, in order.
pub(crate) fn data_segments(map: &Map<'_>) -> Result<Vec<DataSegment>, Error> {
    read(map).map_err(|error| Error::malformed(&error))
}

fn read(map: &Map<'_>) -> wasmparser::Result<Vec<DataSegment>> {
    let Some(section) = map.section(id::DATA) else {
        return Ok(Vec::new());
    };
    let segments = DataSectionReader::new(section.reader(map.wasm))?.into_iter();
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
