//! The sections of a module or component: ids, order, byte ranges, and the header before them.
//! What the sections contain is read in `module_info` and `component`.

use std::ops::Range;

use wasmparser::BinaryReader;

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

/// The two kinds of input, as the header tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Module,
    Component,
}

/// Bytes before the first section.
pub(crate) const HEADER_BYTES: usize = 8;

/// Reads the header of a module or component.
pub(crate) fn kind(wasm: &[u8]) -> Result<Kind, Error> {
    const MAGIC: &[u8] = b"\0asm";
    const MODULE: &[u8] = &[1, 0, 0, 0];
    /// A component's layer is 1 and a module's 0; the two bytes before it are a version.
    const COMPONENT_LAYER: &[u8] = &[1, 0];

    let not_wasm = |found| Err(Error::NotWasm { found });
    if wasm.is_empty() {
        return not_wasm("it is empty");
    }
    if wasm.starts_with(&[0x1f, 0x8b]) {
        return not_wasm("it is gzip-compressed; decompress it first");
    }
    if !wasm.starts_with(MAGIC) {
        let text = wasm.trim_ascii_start();
        if text.starts_with(b"(") || text.starts_with(b";;") {
            return not_wasm("it looks like the text format; convert it to binary first");
        }
        return not_wasm("its first four bytes are not `\\0asm`");
    }
    match wasm.get(MAGIC.len()..HEADER_BYTES) {
        None => not_wasm("it ends within its header"),
        Some(MODULE) => Ok(Kind::Module),
        Some(version) if version.ends_with(COMPONENT_LAYER) => Ok(Kind::Component),
        Some(_) => not_wasm("its version is unknown"),
    }
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
        Some(section.map_err(Error::malformed))
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
