//! Lays the edits of a module out in the order of its bytes, section by section.

use std::ops::Range;

use wasm_encoder::Encode;

use super::body::Origin;
use super::names::{self, Mark, Names};
use super::plan::{ExportKind, Plan};
use super::report::CodeOffsets;
use super::splice::Span;
use crate::error::Error;
use crate::leb128::leb128;
use crate::limits::Memory;
use crate::map::{HEADER_BYTES, Map, Section, id, rank};
use crate::provenance::{self, Declared, Provenance};

/// The edits of a module, and where its code stands afterwards.
pub(crate) fn assemble(map: &Map<'_>, plan: &Plan) -> Result<(Span, CodeOffsets), Error> {
    let mut module = Span::new(map.range.clone());
    let mut offsets = plan.patched.offsets.clone();
    if plan.is_empty() {
        return Ok((module, offsets));
    }
    let mut changes = Changes::of(plan);
    let custom = CustomEdits::of(map, plan);
    let last = map.sections.iter().rev().find(|s| rank(s.id).is_some());
    let behind_last = last.map_or(map.range.start + HEADER_BYTES, |s| s.content.end);
    for section in &map.sections {
        // Sections that the module does not have go before the first that comes after them.
        let here = rank(section.id);
        if here.is_some() || section.start() >= behind_last {
            for missing in changes.take_missing_before(here) {
                module.insert(section.start(), missing);
            }
        }
        let content = match changes.take(section.id) {
            Some(change) => {
                if section.id == id::CODE && change.widens_count(map, section)? {
                    offsets.shifted_from = Some(map.imported_functions);
                }
                change.apply(map, section)?
            }
            None => custom.of_section(section),
        };
        module.prefixed(section.length.clone(), content);
    }
    for missing in changes.take_missing_before(None) {
        module.append(missing);
    }
    for new in &custom.new {
        module.append(framed(id::CUSTOM, new));
    }
    Ok((module, offsets))
}

/// What becomes of the items of one section.
#[derive(Debug, Default)]
struct Change {
    id: u8,
    /// Items that change or go, by the LEB128 before an item where there is one: in order.
    edits: Vec<ItemEdit>,
    /// Items in front of the first.
    prepended: Vec<Vec<u8>>,
    /// Items behind the last.
    appended: Vec<Vec<u8>>,
    /// How many items go.
    removed: usize,
}

#[derive(Clone, Debug)]
enum ItemEdit {
    Replace(Range<usize>, Vec<u8>),
    Prefixed(Range<usize>, Span),
}

impl Change {
    fn is_empty(&self) -> bool {
        self.edits.is_empty() && self.prepended.is_empty() && self.appended.is_empty()
    }

    fn new_count(&self, count: u32) -> u64 {
        let added = self.prepended.len() + self.appended.len();
        (u64::from(count) + added as u64).saturating_sub(self.removed as u64)
    }

    fn widens_count(&self, map: &Map<'_>, section: &Section) -> Result<bool, Error> {
        let (count, field) = map.count_field(section)?;
        Ok(leb128(self.new_count(count), field.len()).len() > field.len())
    }

    /// The section's content, changed.
    fn apply(self, map: &Map<'_>, section: &Section) -> Result<Span, Error> {
        let mut content = Span::new(section.content.clone());
        let (count, field) = map.count_field(section)?;
        let new_count = self.new_count(count);
        if new_count != u64::from(count) {
            content.replace(field.clone(), leb128(new_count, field.len()));
        }
        if !self.prepended.is_empty() {
            content.insert(field.end, self.prepended.concat());
        }
        for edit in self.edits {
            match edit {
                ItemEdit::Replace(range, with) => content.replace(range, with),
                ItemEdit::Prefixed(length, span) => content.prefixed(length, span),
            }
        }
        if !self.appended.is_empty() {
            content.append(self.appended.concat());
        }
        Ok(content)
    }

    /// The whole of a section that the module did not have.
    fn into_section(self) -> Vec<u8> {
        let mut content = leb128(self.new_count(0), 1);
        content.extend(self.prepended.concat());
        content.extend(self.appended.concat());
        framed(self.id, &content)
    }
}

/// Changes by section, in the order of sections.
#[derive(Debug)]
struct Changes(Vec<Change>);

impl Changes {
    fn of(plan: &Plan) -> Self {
        let change = |id| Change {
            id,
            ..Change::default()
        };
        let (mut imports, mut memories) = (change(id::IMPORT), change(id::MEMORY));
        for planned in &plan.memories {
            let after = &planned.report.after;
            let Some((entry, limits)) = &planned.entry else {
                continue;
            };
            let is_import = planned.report.before.import.is_some();
            if is_import && plan.define {
                imports
                    .edits
                    .push(ItemEdit::Replace(entry.clone(), Vec::new()));
                imports.removed += 1;
                memories.prepended.push(encode_limits(after));
            } else if planned.limits_change() {
                let edit = ItemEdit::Replace(limits.clone(), encode_limits(after));
                match is_import {
                    true => imports.edits.push(edit),
                    false => memories.edits.push(edit),
                }
            }
        }
        let added = &plan.patched.added;
        let bodies = plan.patched.bodies.iter().cloned();
        let changes = vec![
            Change {
                appended: plan.types.clone(),
                ..change(id::TYPE)
            },
            imports,
            Change {
                appended: added.iter().map(|f| leb128(f.ty.into(), 1)).collect(),
                ..change(id::FUNCTION)
            },
            memories,
            Change {
                appended: plan.globals.iter().map(|(_, item)| item.clone()).collect(),
                ..change(id::GLOBAL)
            },
            Change {
                appended: plan.exports.iter().map(encode_export).collect(),
                ..change(id::EXPORT)
            },
            Change {
                edits: bodies
                    .map(|(length, span)| ItemEdit::Prefixed(length, span))
                    .collect(),
                appended: added.iter().map(|f| f.code.clone()).collect(),
                ..change(id::CODE)
            },
        ];
        Self(changes.into_iter().filter(|c| !c.is_empty()).collect())
    }

    fn take(&mut self, id: u8) -> Option<Change> {
        let position = self.0.iter().position(|change| change.id == id)?;
        Some(self.0.remove(position))
    }

    /// The sections that belong before the one of that rank, whole; all that are left for `None`.
    fn take_missing_before(&mut self, before: Option<usize>) -> Vec<Vec<u8>> {
        let is_before =
            |change: &Change| before.is_none_or(|before| rank(change.id) < Some(before));
        let count = self.0.iter().take_while(|change| is_before(change)).count();
        let missing = self.0.drain(..count);
        missing.map(Change::into_section).collect()
    }
}

/// Edits of custom sections, and sections to be added at the end of the module.
#[derive(Debug, Default)]
struct CustomEdits {
    changed: Vec<(usize, Span)>,
    new: Vec<Vec<u8>>,
}

impl CustomEdits {
    fn of(map: &Map<'_>, plan: &Plan) -> Self {
        let mut edits = Self::default();
        if let Some((section, span)) = names::add_names(map, &added_names(map, plan)) {
            edits.changed.push((section.start(), span));
        }
        match names::mark(map) {
            Some(Mark::Changed(section, span)) => edits.changed.push((section.start(), span)),
            Some(Mark::New(content)) => edits.new.push(content),
            None => {}
        }
        let mut provenance = Provenance::read(map);
        for planned in &plan.memories {
            let before = &planned.report.before;
            let (minimum, maximum) = (before.minimum, before.maximum);
            provenance.note(before.id.index, Declared { minimum, maximum });
        }
        match map.custom(provenance::SECTION) {
            Some((section, _)) => {
                let mut span = Span::new(section.content.clone());
                span.replace(section.content.clone(), provenance.encode());
                edits.changed.push((section.start(), span));
            }
            None => edits.new.push(provenance.encode()),
        }
        edits
    }

    fn of_section(&self, section: &Section) -> Span {
        let changed = self
            .changed
            .iter()
            .find(|(start, _)| *start == section.start());
        match changed {
            Some((_, span)) => span.clone(),
            None => Span::new(section.content.clone()),
        }
    }
}

/// Names for everything that is added.
fn added_names(map: &Map<'_>, plan: &Plan) -> Names {
    let several = map.memories.len() > 1;
    let of_memory = |name: &str, memory: u32| match several {
        true => format!("wasm_prealloc.{name}.{memory}"),
        false => format!("wasm_prealloc.{name}"),
    };
    let origins = || plan.patched.added.iter().map(|function| function.origin);
    let copied: Vec<u32> = origins()
        .filter_map(|origin| match origin {
            Origin::Copy(function) => Some(function),
            _ => None,
        })
        .collect();
    let known = names::of_functions(map, &copied);
    let mut names = Names::default();
    let first = map.imported_functions + map.defined_functions;
    for (index, origin) in (first..).zip(origins()) {
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
    let first = map.imported_globals + map.defined_globals;
    for (index, (memory, _)) in (first..).zip(&plan.globals) {
        names.globals.push((index, of_memory("pages", *memory)));
    }
    names
}

/// The limits of a memory as the format writes them.
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
    bytes.extend(leb128(content.len() as u64, 1));
    bytes.extend(content);
    bytes
}
