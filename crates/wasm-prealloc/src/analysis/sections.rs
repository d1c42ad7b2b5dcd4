//! The sections of a module or component: ids, order, byte ranges, and the header before them.
//! What the sections contain is read in `module_info` and `component`.

use std::ops::Range;

use wasmparser::BinaryReader;

use super::format::Format;
use crate::error::Error;

/// Section ids of the binary format (core specification, "Sections").
pub(crate) mod id {
    pub(crate) const CUSTOM: u8 = 0;
    pub(crate) const TYPE: u8 = 1;
    pub(crate) const IMPORT: u8 = 2;
    pub(crate) const FUNCTION: u8 = 3;
    pub(crate) const MEMORY: u8 = 5;
    pub(crate) const GLOBAL: u8 = 6;
    pub(crate) const EXPORT: u8 = 7;
    pub(crate) const ELEMENT: u8 = 9;
    pub(crate) const CODE: u8 = 10;
    pub(crate) const DATA: u8 = 11;
    pub(crate) const DATA_COUNT: u8 = 12;
    pub(crate) const TAG: u8 = 13;
}

/// The position of a section in the order that the format prescribes; `None` for custom sections,
/// which may be anywhere, and for unknown ids.
pub(crate) fn rank(section: u8) -> Option<usize> {
    Some(match section {
        // A tag section comes after the memory section, and a data count before the code section.
        id::TYPE..=id::MEMORY => usize::from(section),
        id::TAG => 6,
        id::GLOBAL..=id::ELEMENT => usize::from(section) + 1,
        id::DATA_COUNT => 11,
        id::CODE | id::DATA => usize::from(section) + 2,
        _ => return None,
    })
}

/// A section's id and the bytes it occupies.
#[derive(Clone, Debug)]
pub(crate) struct Section {
    pub(crate) id: u8,
    /// The LEB128 with the length of the content. The id is the byte before it.
    pub(crate) length: Range<usize>,
    pub(crate) content: Range<usize>,
}

impl Section {
    /// The offset of the section's first byte, its id.
    pub(crate) fn start(&self) -> usize {
        self.length.start - 1
    }

    pub(crate) fn reader<'a>(&self, wasm: &'a [u8]) -> BinaryReader<'a> {
        reader(wasm, self.content.clone())
    }

    /// The number of items in the section, and the range of the LEB128 that holds it.
    pub(crate) fn count_field(&self, wasm: &[u8]) -> Result<(u32, Range<usize>), Error> {
        let mut reader = self.reader(wasm);
        let count = reader.read_var_u32().map_err(Error::malformed)?;
        let end = reader.original_position() as usize;
        Ok((count, self.content.start..end))
    }
}

/// A reader over part of the input. Its errors carry offsets into the whole input.
pub(crate) fn reader(wasm: &[u8], range: Range<usize>) -> BinaryReader<'_> {
    BinaryReader::new(&wasm[range.clone()], range.start as u64)
}

/// Converts offsets that a reader returns. They lie within the slice it reads, so they fit.
pub(crate) fn to_range(range: &Range<u64>) -> Range<usize> {
    range.start as usize..range.end as usize
}

/// The content whose length is the LEB128 at an offset. `wasm` ends with the enclosing section.
pub(crate) fn sized(wasm: &[u8], at: usize) -> wasmparser::Result<Range<usize>> {
    let mut length = 0;
    let groups = wasm.get(at..).unwrap_or_default();
    for (position, group) in groups.iter().take(4).enumerate() {
        length |= usize::from(group & 0x7f) << (7 * position);
        if *group < 0x80 {
            let start = at + position + 1;
            if length <= wasm.len() - start {
                return Ok(start..start + length);
            }
            break;
        }
    }
    // Lengths of five bytes are rare, and wasmparser words the errors.
    let rest = reader(wasm, at.min(wasm.len())..wasm.len()).read_reader()?;
    Ok(to_range(&rest.range()))
}

/// The two kinds of input, which the header distinguishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Module,
    Component,
}

/// Bytes before the first section.
pub(crate) const HEADER_BYTES: usize = 8;

/// Reads the header of a module or component.
pub(crate) fn kind(wasm: &[u8]) -> Result<Kind, Error> {
    let found = match Format::detect(wasm) {
        Format::Module => return Ok(Kind::Module),
        Format::Component => return Ok(Kind::Component),
        Format::Text => "it looks like the text format; convert it to binary first",
        Format::Gzip => "it is compressed with gzip; decompress it first (`gzip -dc FILE`)",
        Format::Other(found) => found,
    };
    Err(Error::NotWasm { found })
}

/// Reads the sections of the module or component at `range`, in order, up to the first error.
pub(crate) fn sections(
    wasm: &[u8],
    range: Range<usize>,
) -> impl Iterator<Item = Result<Section, Error>> + '_ {
    let start = (range.start + HEADER_BYTES).min(range.end);
    let mut reader = Some(reader(wasm, start..range.end));
    std::iter::from_fn(move || {
        let section = read_section(reader.as_mut().filter(|reader| !reader.eof())?);
        if section.is_err() {
            reader = None;
        }
        Some(section.map_err(|error| match Error::malformed(error) {
            // Only the outermost sections show that the file ends too early.
            Error::Malformed { offset, message } if range.end == wasm.len() => Error::Malformed {
                offset,
                message: format!(
                    "{message}; if the module is truncated, copy or download it again"
                ),
            },
            error => error,
        }))
    })
}

/// Reads an id, a length and content of that length. Custom sections with subsections use the same
/// form for them.
pub(crate) fn read_section(reader: &mut BinaryReader<'_>) -> wasmparser::Result<Section> {
    let id = reader.read_u8()?;
    let length = reader.original_position() as usize;
    let content = to_range(&reader.read_reader()?.range());
    Ok(Section {
        id,
        length: length..content.start,
        content,
    })
}
