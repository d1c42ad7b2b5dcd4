//! Encodes the edits of a module as one patch, section by section in the order of the bytes.

use std::ops::Range;

use wasm_encoder::Encode;

use super::bodies::{ChangedCode, Origin};
use super::code_offsets::CodeOffsets;
use super::names::{self, Names};
use super::splice::Patch;
use crate::analysis::module_info::{MappedMemory, ModuleInfo};
use crate::analysis::provenance::{self, Declared, Provenance};
use crate::analysis::sections::{HEADER_BYTES, Section, id, rank};
use crate::error::Error;
use crate::leb128::leb128;
use crate::limits::Memory;

/// Everything that changes in a module.
#[derive(Debug, Default)]
pub(crate) struct ModuleEdits<'m> {
    /// One entry for each memory, in index order.
    pub(crate) memories: Vec<MemoryEdit<'m>>,
    /// Items for the type section.
    pub(crate) types: Vec<Vec<u8>>,
    /// Items for the global section, each with the index of the memory whose size it holds.
    pub(crate) globals: Vec<(u32, Vec<u8>)>,
    pub(crate) code: ChangedCode,
    /// Exports to be added.
    pub(crate) exports: Vec<(String, ExportKind)>,
    /// True if imported memories become the module's own.
    pub(crate) define: bool,
}

/// A memory, and its declaration after the rewrite.
#[derive(Debug)]
pub(crate) struct MemoryEdit<'m> {
    pub(crate) before: &'m MappedMemory,
    pub(crate) after: Memory,
}

impl MemoryEdit<'_> {
    /// Returns true if the limits change.
    pub(crate) fn changes_limits(&self) -> bool {
        let (before, after) = (&self.before.memory, &self.after);
        (before.minimum, before.maximum) != (after.minimum, after.maximum)
    }
}

/// The index of an exported item.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ExportKind {
    Function(u32),
    Memory(u32),
}

impl ModuleEdits<'_> {
    /// Returns true if the module does not change.
    fn is_empty(&self) -> bool {
        !self.memories.iter().any(MemoryEdit::changes_limits)
            && self.types.is_empty()
            && self.globals.is_empty()
            && self.code.is_empty()
            && self.exports.is_empty()
            && !self.define
    }
}

/// Encodes the edits of a module, and returns the code offsets that change.
pub(crate) fn encode(
    info: &ModuleInfo<'_>,
    provenance: &Provenance,
    edits: &ModuleEdits<'_>,
) -> Result<(Patch, CodeOffsets), Error> {
    let mut module = Patch::new(info.range.clone());
    let mut offsets = edits.code.offsets.clone();
    offsets.module = info.module;
    if edits.is_empty() {
        return Ok((module, offsets));
    }
    let mut changes = SectionChanges::of(edits);
    let custom = CustomSections::of(info, provenance, edits);
    let last = info.sections.iter().rfind(|s| rank(s.id).is_some());
    let after_last = last.map_or(info.range.start + HEADER_BYTES, |s| s.content.end);
    for section in &info.sections {
        // A section that the module lacks goes before the first that must come after it.
        let here = rank(section.id);
        if here.is_some() || section.start() >= after_last {
            for missing in changes.take_missing_before(here) {
                module.insert(section.start(), missing);
            }
        }
        let content = match changes.take(section.id) {
            Some(change) => {
                let (count, field) = section.count_field(info.wasm)?;
                if section.id == id::CODE && change.widens_count(count, &field) {
                    offsets.shifted_from = Some(info.imported_functions);
                }
                change.apply(section, count, field)
            }
            None => custom.patch_of(section),
        };
        module.nest(section.length.clone(), content);
    }
    for missing in changes.take_missing_before(None) {
        module.append(missing);
    }
    for content in &custom.new {
        module.append(framed(id::CUSTOM, content));
    }
    Ok((module, offsets))
}

/// The changes of the items of one section.
#[derive(Debug, Default)]
struct SectionChange {
    id: u8,
    /// Items that are replaced or, by an empty replacement, removed; in order.
    replaced: Vec<(Range<usize>, Vec<u8>)>,
    /// Items that are patched, each with the LEB128 before it; in order.
    patched: Vec<(Range<usize>, Patch)>,
    /// Items before the first.
    prepended: Vec<Vec<u8>>,
    /// Items after the last.
    appended: Vec<Vec<u8>>,
    /// The number of items that are removed.
    removed: usize,
}

impl SectionChange {
    fn new(id: u8) -> Self {
        Self {
            id,
            ..Self::default()
        }
    }

    fn appending(id: u8, appended: Vec<Vec<u8>>) -> Self {
        Self {
            appended,
            ..Self::new(id)
        }
    }

    fn is_empty(&self) -> bool {
        self.replaced.is_empty()
            && self.patched.is_empty()
            && self.prepended.is_empty()
            && self.appended.is_empty()
    }

    fn new_count(&self, count: u32) -> u64 {
        let added = self.prepended.len() + self.appended.len();
        (u64::from(count) + added as u64).saturating_sub(self.removed as u64)
    }

    fn widens_count(&self, count: u32, field: &Range<usize>) -> bool {
        leb128(self.new_count(count), field.len()).len() > field.len()
    }

    /// The changed content of a section whose number of items is `count`, at `field`.
    fn apply(self, section: &Section, count: u32, field: Range<usize>) -> Patch {
        let mut content = Patch::new(section.content.clone());
        let new_count = self.new_count(count);
        if new_count != u64::from(count) {
            content.replace(field.clone(), leb128(new_count, field.len()));
        }
        if !self.prepended.is_empty() {
            content.insert(field.end, self.prepended.concat());
        }
        for (range, with) in self.replaced {
            content.replace(range, with);
        }
        for (length, patch) in self.patched {
            content.nest(length, patch);
        }
        if !self.appended.is_empty() {
            content.append(self.appended.concat());
        }
        content
    }

    /// The whole of a section that the module lacks.
    fn into_section(self) -> Vec<u8> {
        let mut content = leb128(self.new_count(0), 1);
        content.extend(self.prepended.concat());
        content.extend(self.appended.concat());
        framed(self.id, &content)
    }
}

/// The changes of all sections, in the order of the sections.
#[derive(Debug)]
struct SectionChanges(Vec<SectionChange>);

impl SectionChanges {
    fn of(edits: &ModuleEdits<'_>) -> Self {
        let (imports, memories) = memory_changes(edits);
        let added = &edits.code.added;
        let function_types = added.iter().map(|f| leb128(f.ty.into(), 1)).collect();
        let globals = edits.globals.iter().map(|(_, item)| item.clone()).collect();
        let exports = edits.exports.iter().map(encode_export).collect();
        let changes = vec![
            SectionChange::appending(id::TYPE, edits.types.clone()),
            imports,
            SectionChange::appending(id::FUNCTION, function_types),
            memories,
            SectionChange::appending(id::GLOBAL, globals),
            SectionChange::appending(id::EXPORT, exports),
            SectionChange {
                patched: edits.code.bodies.clone(),
                appended: added.iter().map(|f| f.code.clone()).collect(),
                ..SectionChange::new(id::CODE)
            },
        ];
        Self(changes.into_iter().filter(|c| !c.is_empty()).collect())
    }

    fn take(&mut self, id: u8) -> Option<SectionChange> {
        let position = self.0.iter().position(|change| change.id == id)?;
        Some(self.0.remove(position))
    }

    /// Takes the sections that belong before the rank `before`, or all that are left.
    fn take_missing_before(&mut self, before: Option<usize>) -> Vec<Vec<u8>> {
        let is_before =
            |change: &SectionChange| before.is_none_or(|before| rank(change.id) < Some(before));
        let count = self.0.iter().take_while(|change| is_before(change)).count();
        let missing = self.0.drain(..count);
        missing.map(SectionChange::into_section).collect()
    }
}

/// The changes of the import and memory sections.
fn memory_changes(edits: &ModuleEdits<'_>) -> (SectionChange, SectionChange) {
    let mut imports = SectionChange::new(id::IMPORT);
    let mut memories = SectionChange::new(id::MEMORY);
    for edit in &edits.memories {
        let Some((entry, limits)) = &edit.before.entry else {
            continue;
        };
        let is_import = edit.before.memory.import.is_some();
        if is_import && edits.define {
            imports.replaced.push((entry.clone(), Vec::new()));
            imports.removed += 1;
            memories.prepended.push(encode_limits(&edit.after));
        } else if edit.changes_limits() {
            let section = match is_import {
                true => &mut imports,
                false => &mut memories,
            };
            let limits = (limits.clone(), encode_limits(&edit.after));
            section.replaced.push(limits);
        }
    }
    (imports, memories)
}

/// The changes of custom sections, and the custom sections that are added at the end.
#[derive(Debug, Default)]
struct CustomSections {
    changed: Vec<(usize, Patch)>,
    new: Vec<Vec<u8>>,
}

impl CustomSections {
    fn of(info: &ModuleInfo<'_>, provenance: &Provenance, edits: &ModuleEdits<'_>) -> Self {
        let mut sections = Self::default();
        if let Some((section, patch)) = names::add_names(info, &added_names(info, edits)) {
            sections.changed.push((section.start(), patch));
        }
        let producers = info.custom(names::PRODUCERS);
        if let Some(content) = names::producers(producers.map(|(_, reader)| reader)) {
            sections.replace(info, names::PRODUCERS, content);
        }
        let mut provenance = provenance.clone();
        for edit in &edits.memories {
            let before = &edit.before.memory;
            let (minimum, maximum) = (before.minimum, before.maximum);
            provenance.record(before.id.index, Declared { minimum, maximum });
        }
        sections.replace(info, provenance::SECTION, provenance.encode());
        sections
    }

    /// Replaces the content of the section with a name, or adds the section.
    fn replace(&mut self, info: &ModuleInfo<'_>, name: &str, content: Vec<u8>) {
        match info.custom(name) {
            Some((section, _)) => {
                let patch = Patch::whole(section.content.clone(), content);
                self.changed.push((section.start(), patch));
            }
            None => self.new.push(content),
        }
    }

    fn patch_of(&self, section: &Section) -> Patch {
        let mut changed = self.changed.iter();
        match changed.find(|(start, _)| *start == section.start()) {
            Some((_, patch)) => patch.clone(),
            None => Patch::new(section.content.clone()),
        }
    }
}

/// The names of everything that is added.
fn added_names(info: &ModuleInfo<'_>, edits: &ModuleEdits<'_>) -> Names {
    let several = info.memories.len() > 1;
    let of_memory = |name: &str, memory: u32| match several {
        true => format!("wasm_prealloc.{name}.{memory}"),
        false => format!("wasm_prealloc.{name}"),
    };
    let origins = || edits.code.added.iter().map(|function| function.origin);
    let copied: Vec<u32> = origins()
        .filter_map(|origin| match origin {
            Origin::Copy(function) => Some(function),
            Origin::Grow(_) | Origin::Commit => None,
        })
        .collect();
    let known = names::of_functions(info, &copied);
    let mut names = Names::default();
    for (index, origin) in (info.next_function()..).zip(origins()) {
        let name = match origin {
            Origin::Grow(memory) => of_memory("grow", memory),
            Origin::Commit => "wasm_prealloc.commit".to_owned(),
            Origin::Copy(function) => {
                let named = known.iter().find(|(index, _)| *index == function);
                match named {
                    Some((_, name)) => format!("{name}.relocated"),
                    None => format!("wasm_prealloc.relocated.{function}"),
                }
            }
        };
        names.functions.push((index, name));
    }
    for (index, (memory, _)) in (info.next_global()..).zip(&edits.globals) {
        names.globals.push((index, of_memory("pages", *memory)));
    }
    names
}

/// The limits of a memory as the format encodes them.
fn encode_limits(memory: &Memory) -> Vec<u8> {
    let mut bytes = Vec::new();
    let ty = wasm_encoder::MemoryType {
        minimum: memory.minimum,
        maximum: memory.maximum,
        memory64: memory.memory64,
        shared: memory.shared,
        page_size_log2: memory.page_size_log2,
    };
    ty.encode(&mut bytes);
    bytes
}

fn encode_export((name, kind): &(String, ExportKind)) -> Vec<u8> {
    let (kind, index) = match kind {
        ExportKind::Function(index) => (wasm_encoder::ExportKind::Func, index),
        ExportKind::Memory(index) => (wasm_encoder::ExportKind::Memory, index),
    };
    let mut bytes = Vec::new();
    name.as_str().encode(&mut bytes);
    kind.encode(&mut bytes);
    index.encode(&mut bytes);
    bytes
}

/// A section with its id and length.
fn framed(id: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![id];
    content.encode(&mut bytes);
    bytes
}
