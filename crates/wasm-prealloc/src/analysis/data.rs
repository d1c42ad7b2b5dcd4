//! The data segments: the addresses that instantiation writes to, and the lengths. Their contents
//! are not read.

use wasmparser::{BinaryReader, DataKind, DataSectionReader};

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

/// Reads the data segments. Go's modules have more than 100,000.
pub(crate) fn data_segments(info: &ModuleInfo<'_>) -> wasmparser::Result<Vec<DataSegment>> {
    let Some(section) = info.section(id::DATA) else {
        return Ok(Vec::new());
    };
    match quick_segments(section.reader(info.wasm)) {
        Ok(Some(segments)) => Ok(segments),
        // wasmparser words the errors.
        Ok(None) | Err(_) => all_segments(section.reader(info.wasm)),
    }
}

/// Decodes a section whose segments all have the usual form: active, in memory 0, at an `i32.const`.
/// `None` for another section.
fn quick_segments(mut reader: BinaryReader<'_>) -> wasmparser::Result<Option<Vec<DataSegment>>> {
    const ACTIVE: u8 = 0;
    const I32_CONST: u8 = 0x41;
    const END: u8 = 0x0b;
    let mut segments = Vec::new();
    for _ in 0..reader.read_var_u32()? {
        if (reader.read_u8()?, reader.read_u8()?) != (ACTIVE, I32_CONST) {
            return Ok(None);
        }
        let address = reader.read_var_i32()?.cast_unsigned();
        if reader.read_u8()? != END {
            return Ok(None);
        }
        let bytes = reader.read_var_u32()? as usize;
        reader.read_bytes(bytes)?;
        segments.push(DataSegment {
            memory: Some(0),
            address: Some(address.into()),
            bytes,
        });
    }
    Ok(reader.eof().then_some(segments))
}

fn all_segments(reader: BinaryReader<'_>) -> wasmparser::Result<Vec<DataSegment>> {
    let segments = DataSectionReader::new(reader)?.into_iter();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quick_way_reads_what_the_parser_reads() {
        // Each is the content of a data section: segments, or an error.
        for content in [
            &[2, 0, 0x41, 5, 0x0b, 2, 7, 8, 0, 0x41, 0x7f, 0x0b, 0][..],
            &[1, 0, 0x41, 0x80, 0x80, 0x04, 0x0b, 1, 9],
            &[1, 1, 1, 9],
            &[1, 2, 1, 0x41, 0, 0x0b, 0],
            &[1, 0, 0x23, 0, 0x0b, 0],
            &[1, 0, 0x41, 1, 0x41, 2, 0x6a, 0x0b, 0],
            &[1, 0, 0x41, 0, 0x0b, 4, 1],
            &[0, 0],
            &[],
        ] {
            let expected = all_segments(BinaryReader::new(content, 0));
            match quick_segments(BinaryReader::new(content, 0)) {
                Ok(Some(quick)) => assert_eq!(quick, expected.unwrap(), "{content:x?}"),
                Ok(None) => {}
                Err(_) => assert!(expected.is_err(), "{content:x?}"),
            }
        }
        let usual: &[u8] = &[1, 0, 0x41, 5, 0x0b, 2, 7, 8];
        assert!(
            quick_segments(BinaryReader::new(usual, 0))
                .unwrap()
                .is_some()
        );
    }
}
