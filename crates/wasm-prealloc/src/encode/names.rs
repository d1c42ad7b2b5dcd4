//! The name and producers sections: names for what is added, and this crate's mark.
//!
//! Both sections are information only. One that cannot be read is left unchanged.

use std::collections::BTreeMap;

use wasm_encoder::Encode as _;
use wasmparser::{BinaryReader, ProducersSectionReader};

use super::local_names::{CopiedFunction, follow_copies, read_name};
use super::splice::Patch;
use crate::analysis::module_info::ModuleInfo;
use crate::analysis::sections::{Section, read_section};
use crate::leb128::leb128;

/// Subsections of the name section (core specification, "Name Section").
mod id {
    pub(super) const FUNCTIONS: u8 = 1;
    pub(super) const LOCALS: u8 = 2;
    pub(super) const LABELS: u8 = 3;
    pub(super) const GLOBALS: u8 = 7;
}

pub(crate) const PRODUCERS: &str = "producers";

/// Names to be added.
#[derive(Debug, Default)]
pub(crate) struct Names {
    pub(crate) functions: NameMap,
    pub(crate) globals: NameMap,
}

/// Entries of a name map, encoded, in ascending order of their indices.
#[derive(Debug, Default)]
pub(crate) struct NameMap {
    /// The index of the first entry.
    first: Option<u32>,
    count: u64,
    bytes: Vec<u8>,
}

impl NameMap {
    pub(crate) fn push(&mut self, index: u32, name: &str) {
        self.first.get_or_insert(index);
        self.count += 1;
        index.encode(&mut self.bytes);
        name.encode(&mut self.bytes);
    }
}

/// The subsections of a name section, in order.
fn subsections(mut reader: BinaryReader<'_>) -> wasmparser::Result<Vec<Section>> {
    let mut subsections = Vec::new();
    while !reader.eof() {
        subsections.push(read_section(&mut reader)?);
    }
    Ok(subsections)
}

/// Returns the names of the `wanted` functions that have one. `wanted` is in ascending order.
pub(crate) fn of_functions<'a>(info: &ModuleInfo<'a>, wanted: &[u32]) -> BTreeMap<u32, &'a str> {
    let mut found = BTreeMap::new();
    let mut find = || {
        let subsections = subsections(info.custom("name")?.1).ok()?;
        let functions = subsections.iter().find(|s| s.id == id::FUNCTIONS)?;
        let mut names = functions.reader(info.wasm);
        for _ in 0..names.read_var_u32().ok()? {
            if found.len() == wanted.len() {
                break;
            }
            let (index, name) = read_name(&mut names).ok()?;
            if wanted.binary_search(&index).is_ok()
                && let Ok(name) = str::from_utf8(name)
            {
                found.entry(index).or_insert(name);
            }
        }
        Some(())
    };
    // Names before one that cannot be read are used.
    let _ = find();
    found
}

/// Adds names to a module's name section; `None` if it has none that can be read. A module that was
/// stripped of its names stays stripped.
pub(crate) fn add_names<'m>(
    info: &'m ModuleInfo<'_>,
    names: &Names,
    copies: &[CopiedFunction],
) -> Option<(&'m Section, Patch)> {
    let (section, reader) = info.custom("name")?;
    let subsections = subsections(reader).ok()?;
    let mut content = Patch::new(section.content.clone());
    // Of two insertions at one offset, the first added comes first. So the edits are added in the
    // order of the subsections, which is that of their ids.
    let wasm = info.wasm;
    add_map(
        &mut content,
        &subsections,
        wasm,
        id::FUNCTIONS,
        &names.functions,
    )?;
    for subsection in &subsections {
        let patch = match subsection.id {
            // Of its locals, the old function keeps only the parameters.
            id::LOCALS => follow_copies(subsection, wasm, copies, |copied| copied.params),
            id::LABELS => follow_copies(subsection, wasm, copies, |_| 0),
            _ => None,
        };
        if let Some(patch) = patch {
            content.nest(subsection.length.clone(), patch);
        }
    }
    add_map(
        &mut content,
        &subsections,
        wasm,
        id::GLOBALS,
        &names.globals,
    )?;
    Some((section, content))
}

/// Adds names to a subsection, or adds the subsection; `None` if it is malformed.
fn add_map(
    content: &mut Patch,
    subsections: &[Section],
    wasm: &[u8],
    id: u8,
    names: &NameMap,
) -> Option<()> {
    if names.count == 0 {
        return Some(());
    }
    match subsections.iter().find(|s| s.id >= id) {
        Some(found) if found.id == id => {
            let patch = append_names(found, wasm, names)?;
            content.nest(found.length.clone(), patch);
        }
        Some(next) => content.insert(next.start(), new_subsection(id, names)),
        None => content.append(new_subsection(id, names)),
    }
    Some(())
}

fn new_subsection(id: u8, names: &NameMap) -> Vec<u8> {
    let mut content = leb128(names.count, 1);
    content.extend(&names.bytes);
    let mut bytes = vec![id];
    content.as_slice().encode(&mut bytes);
    bytes
}

/// Appends names to a name map; `None` if the map is malformed or has one of the indices already.
fn append_names(subsection: &Section, wasm: &[u8], names: &NameMap) -> Option<Patch> {
    let first = names.first?;
    let mut reader = subsection.reader(wasm);
    let (count, field) = subsection.count_field(wasm).ok()?;
    reader.read_var_u32().ok()?;
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
    let sum = u64::from(count) + names.count;
    let mut patch = Patch::new(subsection.content.clone());
    patch.replace(field.clone(), leb128(sum, field.len()));
    patch.append(&names.bytes);
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
