//! Names for what is added, and the mark of who added it: the name and producers sections.
//!
//! Both only inform. One that cannot be read is left as it is.

use std::ops::Range;

use wasmparser::BinaryReader;

use super::splice::Span;
use crate::leb128::leb128;
use crate::map::{Map, Section};

/// Under which name the producers section knows this crate.
const TOOL: &str = env!("CARGO_PKG_NAME");
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Subsections of the name section (core specification, "Name Section").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subsection {
    Functions = 1,
    Globals = 7,
}

/// Names to be given, in ascending order of their indices.
#[derive(Debug, Default)]
pub(crate) struct Names {
    pub(crate) functions: Vec<(u32, String)>,
    pub(crate) globals: Vec<(u32, String)>,
}

/// A string as the format writes it.
fn string(text: &str) -> Vec<u8> {
    let mut bytes = leb128(text.len() as u64, 1);
    bytes.extend(text.as_bytes());
    bytes
}

/// The names of a module's functions, of which only some are asked for.
///
/// Not read by the parser, which would look at every byte of every name.
pub(crate) fn of_functions(map: &Map<'_>, wanted: &[u32]) -> Vec<(u32, String)> {
    let mut found = Vec::new();
    if let Some((_, section)) = map.custom("name")
        && !wanted.is_empty()
    {
        // What stands before something that cannot be read is good all the same.
        let _ = find_functions(section, wanted, &mut found);
    }
    found
}

fn find_functions(
    mut section: BinaryReader<'_>,
    wanted: &[u32],
    found: &mut Vec<(u32, String)>,
) -> wasmparser::Result<()> {
    while section.read_u8()? != Subsection::Functions as u8 {
        section.read_reader()?;
    }
    let mut names = section.read_reader()?;
    for _ in 0..names.read_var_u32()? {
        let index = names.read_var_u32()?;
        let length = names.read_var_u32()?;
        let name = names.read_bytes(length as usize)?;
        if wanted.contains(&index)
            && let Ok(name) = str::from_utf8(name)
        {
            found.push((index, name.to_owned()));
            if found.len() == wanted.len() {
                break;
            }
        }
    }
    Ok(())
}

/// A module's name section with names added; `None` where there is none, or it cannot be read. A
/// module that was stripped of its names stays so.
pub(crate) fn add_names<'m>(map: &'m Map<'_>, names: &Names) -> Option<(&'m Section, Span)> {
    let (section, mut reader) = map.custom("name")?;
    let mut content = Span::new(section.content.clone());
    let mut missing = vec![
        (Subsection::Functions, &names.functions),
        (Subsection::Globals, &names.globals),
    ];
    missing.retain(|(_, names)| !names.is_empty());
    while !reader.eof() {
        let start = reader.original_position() as usize;
        let id = reader.read_u8().ok()?;
        // Subsections stand in the order of their ids.
        while let Some((kind, names)) = missing.first()
            && (*kind as u8) < id
        {
            content.insert(start, new_subsection(*kind, names));
            missing.remove(0);
        }
        let length = reader.original_position() as usize;
        let subsection = reader.read_reader().ok()?;
        let range = crate::map::to_range(&subsection.range());
        if let Some((kind, names)) = missing.first()
            && *kind as u8 == id
        {
            let span = append_names(subsection, range.clone(), names)?;
            content.prefixed(length..range.start, span);
            missing.remove(0);
        }
    }
    for (kind, names) in missing {
        content.append(new_subsection(kind, names));
    }
    Some((section, content))
}

fn namings(names: &[(u32, String)]) -> Vec<u8> {
    let items = names.iter().map(|(index, name)| {
        let mut item = leb128(u64::from(*index), 1);
        item.extend(string(name));
        item
    });
    items.collect::<Vec<_>>().concat()
}

fn new_subsection(kind: Subsection, names: &[(u32, String)]) -> Vec<u8> {
    let mut content = leb128(names.len() as u64, 1);
    content.extend(namings(names));
    let mut bytes = vec![kind as u8];
    bytes.extend(leb128(content.len() as u64, 1));
    bytes.extend(content);
    bytes
}

/// A name map with names appended; `None` where it is not well-formed, or knows one of the indices
/// already.
fn append_names(
    mut reader: BinaryReader<'_>,
    range: Range<usize>,
    names: &[(u32, String)],
) -> Option<Span> {
    let first = names.first()?.0;
    let count = reader.read_var_u32().ok()?;
    let field = range.start..reader.original_position() as usize;
    // Indices ascend, and the names themselves are none of our business: a map can hold many.
    let mut next = 0;
    for _ in 0..count {
        let index = reader.read_var_u32().ok()?;
        let length = reader.read_var_u32().ok()?;
        reader.read_bytes(length as usize).ok()?;
        if index < next || index >= first {
            return None;
        }
        next = index + 1;
    }
    if !reader.eof() {
        return None;
    }
    let sum = u64::from(count) + names.len() as u64;
    let mut span = Span::new(range);
    span.replace(field.clone(), leb128(sum, field.len()));
    span.append(namings(names));
    Some(span)
}

/// The edits that mark a module as processed by this crate: its producers section, changed, or the
/// content of one that it does not have yet, name included. `None` where nothing can be marked.
pub(crate) enum Mark<'m> {
    Changed(&'m Section, Span),
    New(Vec<u8>),
}

pub(crate) fn mark<'m>(map: &'m Map<'_>) -> Option<Mark<'m>> {
    const SECTION: &str = "producers";
    const FIELD: &str = "processed-by";
    let value = [string(TOOL), string(VERSION)].concat();
    let field = |values: &[u8]| [string(FIELD), leb128(1, 1), values.to_vec()].concat();
    let Some((section, mut reader)) = map.custom(SECTION) else {
        return Some(Mark::New(
            [string(SECTION), leb128(1, 1), field(&value)].concat(),
        ));
    };
    let mut content = Span::new(section.content.clone());
    let count_start = reader.original_position() as usize;
    let fields = reader.read_var_u32().ok()?;
    let count_field = count_start..reader.original_position() as usize;
    for _ in 0..fields {
        let name = reader.read_string().ok()?;
        let start = reader.original_position() as usize;
        let values = reader.read_var_u32().ok()?;
        let values_field = start..reader.original_position() as usize;
        for _ in 0..values {
            let tool = reader.read_string().ok()?;
            let start = reader.original_position() as usize;
            reader.skip_string().ok()?;
            if name == FIELD && tool == TOOL {
                let end = reader.original_position() as usize;
                content.replace(start..end, string(VERSION));
                return Some(Mark::Changed(section, content));
            }
        }
        if name == FIELD {
            let sum = u64::from(values) + 1;
            content.replace(values_field.clone(), leb128(sum, values_field.len()));
            content.insert(reader.original_position() as usize, value);
            return Some(Mark::Changed(section, content));
        }
    }
    let sum = u64::from(fields) + 1;
    content.replace(count_field.clone(), leb128(sum, count_field.len()));
    content.append(field(&value));
    reader.eof().then_some(Mark::Changed(section, content))
}
