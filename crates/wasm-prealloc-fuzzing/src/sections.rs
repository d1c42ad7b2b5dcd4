//! The sections of a module as bytes, and items that are appended to them.

use std::ops::Range;

use anyhow::Result;
use wasm_encoder::{Encode as _, RawSection, SectionId};
use wasmparser::{BinaryReader, Parser};

/// The sections of a module in order, as (id, content).
pub(crate) type Sections = Vec<(u8, Vec<u8>)>;

/// Returns the sections of a module.
pub(crate) fn split(wasm: &[u8]) -> Result<Sections> {
    let mut sections = Sections::new();
    for payload in Parser::new(0).parse_all(wasm) {
        if let Some((id, range)) = payload?.as_section() {
            sections.push((id, wasm[usize_range(&range)].to_vec()));
        }
    }
    Ok(sections)
}

/// Returns the module that has these sections.
pub(crate) fn join(sections: &Sections) -> Vec<u8> {
    let mut module = wasm_encoder::Module::new();
    for (id, data) in sections {
        module.section(&RawSection { id: *id, data });
    }
    module.finish()
}

/// Appends an item to a section. Adds the section if there is none.
pub(crate) fn append(sections: &mut Sections, id: SectionId, item: &[u8]) -> Result<()> {
    const TAG: u8 = SectionId::Tag as u8;
    const DATA_COUNT: u8 = SectionId::DataCount as u8;
    let id = id as u8;
    // The sections are in ascending order of their ids, except for these two.
    let at = sections
        .iter()
        .position(|(other, _)| *other >= id && *other != TAG && *other != DATA_COUNT);
    let at = at.unwrap_or(sections.len());
    if sections.get(at).is_none_or(|(other, _)| *other != id) {
        sections.insert(at, (id, vec![0]));
    }
    let content = &mut sections[at].1;
    let mut reader = BinaryReader::new(content, 0);
    let count = reader.read_var_u32()?;
    let items = content.split_off(reader.original_position() as usize);
    content.clear();
    (count + 1).encode(content);
    content.extend(items);
    content.extend_from_slice(item);
    Ok(())
}

/// Returns the content of an encoded section. The encoder writes its length first.
pub(crate) fn content_of(section: &impl wasm_encoder::Encode) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    section.encode(&mut bytes);
    let mut reader = BinaryReader::new(&bytes, 0);
    reader.read_var_u32()?;
    let length = reader.original_position() as usize;
    Ok(bytes.split_off(length))
}

/// Converts a range that a reader returned. It is within the reader's slice, so it fits.
pub(crate) fn usize_range(range: &Range<u64>) -> Range<usize> {
    range.start as usize..range.end as usize
}
