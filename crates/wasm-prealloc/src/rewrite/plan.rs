//! Turns what is known of a module and what is asked of it into a list of edits.

use std::ops::Range;

use wasm_encoder::Encode;

use super::body::{AddedFunction, Patched, Patcher, Replacements};
use super::growth::{self, Decision};
use super::options::Options;
use super::report::{CodeOffsets, GrowthHandling, MemoryReport, Warning};
use super::splice::{Span, leb128};
use crate::error::{Error, Unsupported};
use crate::limits::{MAX_PAGES, Memory};
use crate::map::{DefinedMemory, Map, Section, id, rank};
use crate::scan::{Body, Sites, growth_sites};
use crate::types::Types;

/// The edits of a module, and what there is to say of them.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) edits: Span,
    pub(crate) memories: Vec<MemoryReport>,
    pub(crate) code_offsets: CodeOffsets,
    pub(crate) warnings: Vec<Warning>,
    /// Functions whose bodies change, by position among the defined ones, ascending. What is
    /// behind the input's last function is new.
    pub(crate) touched: Vec<u32>,
}

/// What handling a memory's growth takes: items for the sections, and patched bodies.
#[derive(Debug)]
struct GrowthEdits {
    handling: GrowthHandling,
    types: Vec<Vec<u8>>,
    globals: Vec<Vec<u8>>,
    patched: Patched,
}

pub(crate) fn plan(map: &Map<'_>, options: &Options) -> Result<Plan, Error> {
    if !(1..=MAX_PAGES).contains(&options.pages) {
        return Err(Error::PagesOutOfRange {
            pages: options.pages,
        });
    }
    let mut plan = Plan {
        edits: Span::new(0..map.wasm.len()),
        memories: Vec::new(),
        code_offsets: CodeOffsets::default(),
        warnings: Vec::new(),
        touched: Vec::new(),
    };
    let Some(memory) = only_memory(map)? else {
        plan.warnings.push(Warning::NoMemory);
        return Ok(plan);
    };
    check_limits(&memory.memory, options)?;

    let bodies = growth_sites(map)?;
    let sites = Sites::count(&bodies, memory.memory.index);
    let (decision, warnings) = growth::decide(map, &memory.memory, sites, options)?;
    plan.warnings = warnings;

    let growth = carry_out(map, decision, sites, &bodies)?;

    let mut after = memory.memory.clone();
    after.minimum = options.pages;
    after.maximum = Some(options.pages);
    assemble(map, memory, &after, &growth, &mut plan)?;
    plan.touched = growth.patched.touched;
    plan.memories.push(MemoryReport {
        before: memory.memory.clone(),
        after,
        growth: growth.handling,
        sites,
    });
    Ok(plan)
}

/// The module's memory, or a refusal of what is not of the one supported shape.
fn only_memory<'m>(map: &'m Map<'_>) -> Result<Option<&'m DefinedMemory>, Error> {
    let refuse = |what, memory: &Memory| {
        let offset = memory.offset;
        Err(Error::Unsupported { what, offset })
    };
    if let Some(memory) = map.imported_memories.first() {
        let import = memory.import.clone();
        let (module, name) = import.map(|i| (i.module, i.name)).unwrap_or_default();
        return refuse(Unsupported::ImportedMemory { module, name }, memory);
    }
    let (memory, count) = match map.defined_memories.as_slice() {
        [] => return Ok(None),
        [memory] => (memory, 1),
        [_, second, ..] => (second, map.defined_memories.len() as u32),
    };
    let declared = &memory.memory;
    let index = declared.index;
    match (count, declared) {
        (2.., _) => refuse(Unsupported::SeveralMemories { count }, declared),
        (_, Memory { shared: true, .. }) => {
            refuse(Unsupported::SharedMemory { memory: index }, declared)
        }
        (_, Memory { memory64: true, .. }) => {
            refuse(Unsupported::Memory64 { memory: index }, declared)
        }
        (
            _,
            Memory {
                page_size_log2: Some(page_size_log2),
                ..
            },
        ) => {
            let page_size_log2 = *page_size_log2;
            let memory = index;
            refuse(
                Unsupported::CustomPageSize {
                    memory,
                    page_size_log2,
                },
                declared,
            )
        }
        _ => Ok(Some(memory)),
    }
}

/// Limits that are about to be overwritten are judged here, or nobody would.
fn check_limits(memory: &Memory, options: &Options) -> Result<(), Error> {
    let invalid = |message: String| {
        Err(Error::Invalid {
            offset: memory.offset,
            message,
        })
    };
    let maximum = memory.maximum.unwrap_or(MAX_PAGES);
    if memory.minimum > maximum {
        return invalid(format!(
            "memory {}: its minimum of {} pages exceeds its maximum of {maximum}",
            memory.index, memory.minimum
        ));
    }
    if maximum > MAX_PAGES {
        return invalid(format!(
            "memory {}: its maximum of {maximum} pages exceeds {MAX_PAGES}",
            memory.index
        ));
    }
    if memory.minimum > options.pages {
        return Err(Error::MinimumExceedsTarget {
            memory: memory.index,
            offset: memory.offset,
            minimum: memory.minimum,
            pages: options.pages,
        });
    }
    Ok(())
}

/// Carries a decision out: patches the bodies, and builds what that needs.
fn carry_out(
    map: &Map<'_>,
    decision: Decision,
    sites: Sites,
    bodies: &[Body],
) -> Result<GrowthEdits, Error> {
    let mut edits = GrowthEdits {
        handling: GrowthHandling::Kept,
        types: Vec::new(),
        globals: Vec::new(),
        patched: Patched::default(),
    };
    let global = map.imported_globals + map.defined_globals;
    let mut replacements = Replacements {
        size: Some(global),
        grow: None,
    };
    let types = Types::read(map)?;
    match decision {
        Decision::Keep => return Ok(edits),
        Decision::Nothing => {
            edits.handling = GrowthHandling::None;
            return Ok(edits);
        }
        Decision::Pregrown { pages } => {
            edits.globals.push(growth::pages_global(pages, false));
            edits.handling = GrowthHandling::Pregrown { pages, global };
        }
        Decision::Emulate { from, cap } => {
            if sites.grow > 0 {
                replacements.grow = Some(map.imported_functions + map.defined_functions);
                let ty = types.i32_to_i32.unwrap_or_else(|| {
                    edits.types.push(growth::grow_type());
                    types.count()
                });
                let code = growth::grow_body(global, cap);
                edits.patched.added.push(AddedFunction { ty, code });
            }
            edits.globals.push(growth::pages_global(from, true));
            edits.handling = GrowthHandling::Emulated {
                from_pages: from,
                cap_pages: cap,
                global,
                function: replacements.grow,
            };
        }
    }
    let mut patcher = Patcher {
        map,
        types: &types,
        replacements,
        patched: edits.patched,
    };
    for body in bodies {
        patcher.patch(body)?;
    }
    edits.patched = patcher.patched;
    Ok(edits)
}

/// Lays all edits out in the order of the module's bytes.
fn assemble(
    map: &Map<'_>,
    memory: &DefinedMemory,
    after: &Memory,
    growth: &GrowthEdits,
    plan: &mut Plan,
) -> Result<(), Error> {
    let added = &growth.patched.added;
    let function_types: Vec<Vec<u8>> = added
        .iter()
        .map(|function| leb128(u64::from(function.ty), 1))
        .collect();
    let function_code: Vec<&[u8]> = added.iter().map(|f| f.code.as_slice()).collect();
    let declared = &memory.memory;
    let is_new = declared.minimum != after.minimum || declared.maximum != after.maximum;

    plan.code_offsets = growth.patched.offsets.clone();
    let mut globals = growth.globals.as_slice();
    for section in &map.sections {
        if rank(section.id) > rank(id::GLOBAL) && !globals.is_empty() {
            let new = new_section(id::GLOBAL, std::mem::take(&mut globals));
            plan.edits.insert(section.start(), new);
        }
        let mut content = Span::new(section.content.clone());
        match section.id {
            id::TYPE => append(map, section, &growth.types, Vec::new(), &mut content)?,
            id::FUNCTION => append(map, section, &function_types, Vec::new(), &mut content)?,
            id::MEMORY if is_new => content.replace(memory.limits.clone(), limits(after)),
            id::GLOBAL => {
                let items = std::mem::take(&mut globals);
                append(map, section, items, Vec::new(), &mut content)?;
            }
            id::CODE => {
                let bodies = growth.patched.bodies.clone();
                append(map, section, &function_code, bodies, &mut content)?;
                if count_widens(map, section, added.len())? {
                    plan.code_offsets.shifted_from = Some(map.imported_functions);
                }
            }
            _ => {}
        }
        plan.edits.prefixed(section.length.clone(), content);
    }
    Ok(())
}

/// The limits of a memory as the format writes them.
fn limits(memory: &Memory) -> Vec<u8> {
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

/// The number of items in a section, and the LEB128 that says it.
fn count_field(map: &Map<'_>, section: &Section) -> Result<(u32, Range<usize>), Error> {
    let mut reader = section.reader(map.wasm);
    let count = reader
        .read_var_u32()
        .map_err(|error| Error::malformed(&error))?;
    let end = reader.original_position() as usize;
    Ok((count, section.content.start..end))
}

/// Whether the number of items takes more bytes once there are `added` more of them.
fn count_widens(map: &Map<'_>, section: &Section, added: usize) -> Result<bool, Error> {
    let (count, field) = count_field(map, section)?;
    let sum = u64::from(count) + added as u64;
    Ok(leb128(sum, field.len()).len() > field.len())
}

/// Changes some items of a section, appends others, and counts them.
fn append<Item: AsRef<[u8]>>(
    map: &Map<'_>,
    section: &Section,
    added: &[Item],
    changed: Vec<(Range<usize>, Span)>,
    content: &mut Span,
) -> Result<(), Error> {
    if !added.is_empty() {
        let (count, field) = count_field(map, section)?;
        let sum = u64::from(count) + added.len() as u64;
        content.replace(field.clone(), leb128(sum, field.len()));
    }
    for (length, item) in changed {
        content.prefixed(length, item);
    }
    for item in added {
        content.append(item.as_ref().to_vec());
    }
    Ok(())
}

/// A section that the module did not have.
fn new_section(id: u8, items: &[Vec<u8>]) -> Vec<u8> {
    let mut content = leb128(items.len() as u64, 1);
    content.extend(items.concat());
    let mut bytes = vec![id];
    bytes.extend(leb128(content.len() as u64, 1));
    bytes.extend(content);
    bytes
}
