//! Encodes the edits of a module as one patch, section by section in the order of the bytes.

use std::ops::Range;

use wasm_encoder::{Encode, ExportKind, RawSection, Section as _};

use super::bodies::{ChangedCode, Origin};
use super::code_metadata::{DroppedHints, follow_code};
use super::code_offsets::CodeOffsets;
use super::names::{self, Names};
use super::splice::Patch;
use crate::analysis::module_info::{MappedMemory, ModuleInfo};
use crate::analysis::provenance::{self, Declared, Provenance};
use crate::analysis::sections::{HEADER_BYTES, Section, id, rank};
use crate::error::{Error, Limit};
use crate::growth::GrowthHandling;
use crate::leb128::leb128;
use crate::limits::Memory;

/// Everything that changes in a module.
#[derive(Debug, Default)]
pub(crate) struct ModuleEdits<'m> {
    /// One entry for each memory, in index order.
    pub(crate) memories: Vec<MemoryEdit<'m>>,
    pub(crate) types: Vec<Vec<u8>>,
    /// Items for the global section, each with the index of the memory whose size it holds.
    pub(crate) globals: Vec<(u32, Vec<u8>)>,
    pub(crate) code: ChangedCode,
    pub(crate) exports: Vec<(String, ExportKind, u32)>,
    /// True if imported memories become the module's own.
    pub(crate) define: bool,
}

/// A memory, its declaration after the rewrite, and the handling of its growth.
#[derive(Debug)]
pub(crate) struct MemoryEdit<'m> {
    pub(crate) before: &'m MappedMemory,
    pub(crate) after: Memory,
    pub(crate) growth: GrowthHandling,
}

impl MemoryEdit<'_> {
    /// Returns true if the limits change.
    pub(crate) fn changes_limits(&self) -> bool {
        let (before, after) = (&self.before.memory, &self.after);
        (before.minimum, before.maximum) != (after.minimum, after.maximum)
    }
}

impl ModuleEdits<'_> {
    fn is_empty(&self) -> bool {
        !self.memories.iter().any(MemoryEdit::changes_limits)
            && self.types.is_empty()
            && self.globals.is_empty()
            && self.code.is_empty()
            && self.exports.is_empty()
            && !self.define
    }
}

/// The sections that can change, besides custom sections, in their order.
const CHANGING: [u8; 7] = [
    id::TYPE,
    id::IMPORT,
    id::FUNCTION,
    id::MEMORY,
    id::GLOBAL,
    id::EXPORT,
    id::CODE,
];

/// The encoded edits of a module, and their effects on what refers to its code.
#[derive(Debug)]
pub(crate) struct EncodedModule {
    pub(crate) patch: Patch,
    pub(crate) offsets: CodeOffsets,
    pub(crate) dropped_hints: Vec<DroppedHints>,
}

/// Encodes the edits of a module. Takes the edits of the code.
pub(crate) fn encode(
    info: &ModuleInfo<'_>,
    provenance: &Provenance,
    edits: &mut ModuleEdits<'_>,
) -> Result<EncodedModule, Error> {
    let mut module = Patch::new(info.range.clone());
    edits.code.offsets.module = info.module;
    if edits.is_empty() {
        return Ok(EncodedModule {
            patch: module,
            offsets: std::mem::take(&mut edits.code.offsets),
            dropped_hints: Vec::new(),
        });
    }
    let names = added_names(info, edits);
    let mut offsets = std::mem::take(&mut edits.code.offsets);
    for id in CHANGING {
        let change = SectionChange::of(id, edits);
        match info.section(id) {
            _ if change.is_empty() => {}
            None => module.insert(start_of_missing(info, id), change.into_section(id)),
            Some(section) => {
                let (count, field) = section.count_field(info.wasm)?;
                let new_count = leb128(change.new_count(count), field.len());
                if id == id::CODE && new_count.len() > field.len() {
                    offsets.shifted_from = Some(info.imported_functions);
                }
                let content = change.into_patch(section, field, new_count);
                check_limit(
                    info,
                    Limit::Section,
                    content.new_len() as u64,
                    u32::MAX.into(),
                )?;
                module.nest(section.length.clone(), content);
            }
        }
    }
    change_custom_sections(&mut module, info, provenance, edits, &names);
    let moved = edits.code.moved.as_ref();
    let dropped_hints = moved.map(|moved| follow_code(&mut module, info, moved));
    module.sort();
    Ok(EncodedModule {
        patch: module,
        offsets,
        dropped_hints: dropped_hints.unwrap_or_default(),
    })
}

/// Refuses a module that would exceed a limit of engines.
pub(crate) fn check_limit(
    info: &ModuleInfo<'_>,
    what: Limit,
    count: u64,
    most: u64,
) -> Result<(), Error> {
    let module = info.module;
    match count > most {
        true => Err(Error::LimitExceeded {
            module,
            what,
            count,
            most,
        }),
        false => Ok(()),
    }
}

/// The offset at which a section that the module lacks is inserted: before the first section that
/// must come after it, or after the last that is in order.
fn start_of_missing(info: &ModuleInfo<'_>, id: u8) -> usize {
    let mut ranked = info.sections.iter().filter(|s| rank(s.id).is_some());
    match ranked.clone().find(|s| rank(s.id) > rank(id)) {
        Some(next) => next.start(),
        None => ranked
            .next_back()
            .map_or(info.range.start + HEADER_BYTES, |last| last.content.end),
    }
}

/// The changes of the items of one section.
#[derive(Debug, Default)]
struct SectionChange {
    /// The edits of items.
    items: Patch,
    /// Items before the first.
    prepended: Vec<u8>,
    /// Items after the last.
    appended: Vec<u8>,
    /// More items after the last, at the end of the section, or at 0 if there is none.
    appended_bodies: Patch,
    /// The numbers of items that are added and removed.
    added: usize,
    removed: usize,
}

impl SectionChange {
    fn of(id: u8, edits: &mut ModuleEdits<'_>) -> Self {
        let mut change = Self::default();
        let functions = &edits.code.added;
        match id {
            id::TYPE => change.append(edits.types.iter().cloned()),
            id::FUNCTION => change.append(functions.iter().map(|f| leb128(f.ty.into(), 1))),
            id::GLOBAL => change.append(edits.globals.iter().map(|(_, item)| item.clone())),
            id::EXPORT => change.append(edits.exports.iter().map(encode_export)),
            id::CODE => {
                change.added = functions.len();
                change.items = std::mem::take(&mut edits.code.bodies);
                change.appended_bodies = std::mem::take(&mut edits.code.appended);
            }
            _ => change.add_memories(id, edits),
        }
        change
    }

    fn append(&mut self, items: impl Iterator<Item = Vec<u8>>) {
        for item in items {
            self.appended.extend(item);
            self.added += 1;
        }
    }

    /// Adds the changes of memories in the import or memory section.
    fn add_memories(&mut self, id: u8, edits: &ModuleEdits<'_>) {
        for edit in &edits.memories {
            let Some((entry, limits)) = &edit.before.entry else {
                continue;
            };
            let is_import = edit.before.memory.import.is_some();
            let is_here = is_import == (id == id::IMPORT);
            match (is_import && edits.define, is_here) {
                (true, true) => {
                    self.items.replace(entry.clone(), []);
                    self.removed += 1;
                }
                (true, false) => {
                    self.prepended.extend(encode_limits(&edit.after));
                    self.added += 1;
                }
                (false, true) if edit.changes_limits() => {
                    self.items
                        .replace(limits.clone(), encode_limits(&edit.after));
                }
                (false, _) => {}
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.items.is_unchanged() && self.added == 0
    }

    fn new_count(&self, count: u32) -> u64 {
        (u64::from(count) + self.added as u64).saturating_sub(self.removed as u64)
    }

    /// The changed content of a section; `field` is the LEB128 with its number of items.
    fn into_patch(mut self, section: &Section, field: Range<usize>, new_count: Vec<u8>) -> Patch {
        let mut content = Patch::new(section.content.clone());
        content.replace(field.clone(), new_count);
        content.insert(field.end, self.prepended);
        self.items.range = section.content.clone();
        content.extend(self.items);
        content.append(self.appended);
        content.extend(self.appended_bodies);
        content
    }

    /// The whole of a section that the module lacks.
    fn into_section(self, id: u8) -> Vec<u8> {
        let mut content = leb128(self.new_count(0), 1);
        content.extend(self.prepended);
        content.extend(self.appended);
        // A module without code has no body to copy, so all of this is new.
        self.appended_bodies.apply_into(&[], &mut content);
        framed(id, &content)
    }
}

/// Adds names, this crate's mark and the limits before the rewrite to the custom sections.
fn change_custom_sections(
    module: &mut Patch,
    info: &ModuleInfo<'_>,
    provenance: &Provenance,
    edits: &ModuleEdits<'_>,
    names: &Names,
) {
    if let Some((section, patch)) = names::add_names(info, names, &edits.code.copies) {
        module.nest(section.length.clone(), patch);
    }
    let mut replace = |name: &str, content: Vec<u8>| match info.custom(name) {
        Some((section, _)) => {
            let patch = Patch::whole(section.content.clone(), content);
            module.nest(section.length.clone(), patch);
        }
        None => module.append(framed(id::CUSTOM, &content)),
    };
    let producers = info.custom(names::PRODUCERS);
    if let Some(content) = names::producers(producers.map(|(_, reader)| reader)) {
        replace(names::PRODUCERS, content);
    }
    let mut provenance = provenance.clone();
    provenance.record_code(info);
    for edit in &edits.memories {
        let before = &edit.before.memory;
        let (minimum, maximum) = (before.minimum, before.maximum);
        let declared = Declared { minimum, maximum };
        provenance.record(before.id.index, declared, &edit.growth);
    }
    if edits
        .code
        .added
        .iter()
        .any(|added| added.origin == Origin::Commit)
    {
        provenance.record_commit();
    }
    replace(provenance::SECTION, provenance.encode());
}

/// The names of everything that is added.
fn added_names(info: &ModuleInfo<'_>, edits: &ModuleEdits<'_>) -> Names {
    let several = info.memories.len() > 1;
    let of_memory = |name: &str, memory: u32| match several {
        true => format!("wasm_prealloc.{name}.{memory}"),
        false => format!("wasm_prealloc.{name}"),
    };
    let mut names = Names::default();
    let known = names::of_functions(info, &edits.code.offsets.relocated);
    for (index, added) in (info.next_function()..).zip(&edits.code.added) {
        let name = match added.origin {
            Origin::Grow(memory) => of_memory("grow", memory),
            Origin::Size(memory) => of_memory("size", memory),
            Origin::Commit => "wasm_prealloc.commit".to_owned(),
            Origin::Copy(function) => match known.get(&function) {
                Some(name) => format!("{name}.relocated"),
                None => format!("wasm_prealloc.relocated.{function}"),
            },
        };
        names.functions.push(index, &name);
    }
    for (index, (memory, _)) in (info.next_global()..).zip(&edits.globals) {
        names.globals.push(index, &of_memory("pages", *memory));
    }
    names
}

/// The limits of a memory as the format encodes them.
fn encode_limits(memory: &Memory) -> Vec<u8> {
    encoded(&wasm_encoder::MemoryType {
        minimum: memory.minimum,
        maximum: memory.maximum,
        memory64: memory.memory64,
        shared: memory.shared,
        page_size_log2: memory.page_size_log2,
    })
}

fn encode_export((name, kind, index): &(String, ExportKind, u32)) -> Vec<u8> {
    [encoded(name.as_str()), encoded(kind), encoded(index)].concat()
}

fn encoded(item: &(impl Encode + ?Sized)) -> Vec<u8> {
    let mut bytes = Vec::new();
    item.encode(&mut bytes);
    bytes
}

/// A section with its id and length.
fn framed(id: u8, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    RawSection { id, data }.append_to(&mut bytes);
    bytes
}
