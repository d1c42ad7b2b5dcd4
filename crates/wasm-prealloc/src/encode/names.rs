//! The name and producers sections: names for what is added, and this crate's mark.
//!
//! Both sections are information only. One that cannot be read is left unchanged.

use std::ops::Range;

use wasm_encoder::Encode as _;
use wasmparser::{BinaryReader, ProducersSectionReader};

use super::splice::Patch;
use crate::analysis::module_info::ModuleInfo;
use crate::analysis::sections::{Section, to_range};
use crate::leb128::leb128;

/// Subsections of the name section (core specification, "Name Section").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subsection {
    Functions = 1,
    Globals = 7,
}

/// Names to be added, in ascending order of their indices.
#[derive(Debug, Default)]
pub(crate) struct Names {
    pub(crate) functions: Vec<(u32, String)>,
    pub(crate) globals: Vec<(u32, String)>,
}

/// Returns the names of the `wanted` functions that have one.
pub(crate) fn of_functions(info: &ModuleInfo<'_>, wanted: &[u32]) -> Vec<(u32, String)> {
    let mut found = Vec::new();
    if let Some((_, section)) = info.custom("name")
        && !wanted.is_empty()
    {
        // Names before one that cannot be read are used.
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
        let (index, name) = read_name(&mut names)?;
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

/// Reads an entry of a name map. wasmparser would also check every byte of the name, and a map can
/// hold many.
fn read_name<'a>(names: &mut BinaryReader<'a>) -> wasmparser::Result<(u32, &'a [u8])> {
    let index = names.read_var_u32()?;
    let length = names.read_var_u32()?;
    Ok((index, names.read_bytes(length as usize)?))
}

/// Adds names to a module's name section; `None` if it has none that can be read. A module that was
/// stripped of its names stays stripped.
pub(crate) fn add_names<'m>(
    info: &'m ModuleInfo<'_>,
    names: &Names,
) -> Option<(&'m Section, Patch)> {
    let (section, mut reader) = info.custom("name")?;
    let mut content = Patch::new(section.content.clone());
    let mut missing = vec![
        (Subsection::Functions, &names.functions),
        (Subsection::Globals, &names.globals),
    ];
    missing.retain(|(_, names)| !names.is_empty());
    while !reader.eof() {
        let start = reader.original_position() as usize;
        let id = reader.read_u8().ok()?;
        // Subsections are in the order of their ids.
        while let Some((kind, names)) = missing.first()
            && (*kind as u8) < id
        {
            content.insert(start, new_subsection(*kind, names));
            missing.remove(0);
        }
        let length = reader.original_position() as usize;
        let subsection = reader.read_reader().ok()?;
        let range = to_range(&subsection.range());
        if let Some((kind, names)) = missing.first()
            && *kind as u8 == id
        {
            let patch = append_names(subsection, range.clone(), names)?;
            content.nest(length..range.start, patch);
            missing.remove(0);
        }
    }
    for (kind, names) in missing {
        content.append(new_subsection(kind, names));
    }
    Some((section, content))
}

fn new_subsection(kind: Subsection, names: &[(u32, String)]) -> Vec<u8> {
    let mut content = leb128(names.len() as u64, 1);
    encode_names(names, &mut content);
    let mut bytes = vec![kind as u8];
    content.as_slice().encode(&mut bytes);
    bytes
}

fn encode_names(names: &[(u32, String)], bytes: &mut Vec<u8>) {
    for (index, name) in names {
        index.encode(bytes);
        name.as_str().encode(bytes);
    }
}

/// Appends names to a name map; `None` if the map is malformed or has one of the indices already.
fn append_names(
    mut reader: BinaryReader<'_>,
    range: Range<usize>,
    names: &[(u32, String)],
) -> Option<Patch> {
    let first = names.first()?.0;
    let count = reader.read_var_u32().ok()?;
    let field = range.start..reader.original_position() as usize;
    let mut next = 0;
    for _ in 0..count {
        let (index, _) = read_name(&mut reader).ok()?;
        if index < next || index >= first {
            return None;
        }
        next = index + 1;
    }
    if !reader.eof() {
        return None;
    }
    let sum = u64::from(count) + names.len() as u64;
    let mut patch = Patch::new(range);
    patch.replace(field.clone(), leb128(sum, field.len()));
    let mut added = Vec::new();
    encode_names(names, &mut added);
    patch.append(added);
    Some(patch)
}

/// The content of a module's producers section, its name included, with this crate among the tools
/// that processed the module; `None` if the section cannot be read.
pub(crate) fn producers(section: Option<BinaryReader<'_>>) -> Option<Vec<u8>> {
    const FIELD: &str = "processed-by";
    const TOOL: &str = env!("CARGO_PKG_NAME");
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    let mut fields: Vec<(&str, Vec<(&str, &str)>)> = Vec::new();
    if let Some(section) = section {
        for field in ProducersSectionReader::new(section).ok()? {
            let field = field.ok()?;
            let values = field.values.into_iter();
            let values = values.map(|value| value.map(|value| (value.name, value.version)));
            fields.push((field.name, values.collect::<Result<_, _>>().ok()?));
        }
    }
    let position = fields.iter().position(|(name, _)| *name == FIELD);
    let position = position.unwrap_or_else(|| {
        fields.push((FIELD, Vec::new()));
        fields.len() - 1
    });
    let tools = &mut fields[position].1;
    match tools.iter_mut().find(|(tool, _)| *tool == TOOL) {
        Some((_, version)) => *version = VERSION,
        None => tools.push((TOOL, VERSION)),
    }
    let mut bytes = Vec::new();
    PRODUCERS.encode(&mut bytes);
    fields.len().encode(&mut bytes);
    for (field, values) in &fields {
        field.encode(&mut bytes);
        values.len().encode(&mut bytes);
        for (name, version) in values {
            name.encode(&mut bytes);
            version.encode(&mut bytes);
        }
    }
    Some(bytes)
}

/// The name of the producers section.
pub(crate) const PRODUCERS: &str = "producers";
