//! Turns what is known of a module and what is asked of it into a list of edits.
//!
//! What the edits of a section come to is in `assemble`; how a component's modules are put together
//! is in `component`.

use std::ops::Range;

use wasm_encoder::ValType;

use super::body::{AddedFunction, Origin, Patched, Patcher, Replacements};
use super::commit::commit_body;
use super::growth::{self, Decision, Subject, address_type};
use super::options::{MemoryImportPolicy, Options};
use super::report::{GrowthHandling, MemoryReport, Warning};
use crate::error::{Error, Unsupported};
use crate::limits::Memory;
use crate::map::{Map, MappedMemory};
use crate::scan::{Body, count_sites, growth_sites};
use crate::types::Types;

/// What is to become of a module.
#[derive(Debug)]
pub(crate) struct Plan {
    /// One entry a memory, in index order.
    pub(crate) memories: Vec<PlannedMemory>,
    /// Items for the type section.
    pub(crate) types: Vec<Vec<u8>>,
    /// Items for the global section: a number of pages each, with the index of the memory.
    pub(crate) globals: Vec<(u32, Vec<u8>)>,
    /// Bodies and functions.
    pub(crate) patched: Patched,
    /// Exports to be added.
    pub(crate) exports: Vec<(String, ExportKind)>,
    /// Whether imported memories become the module's own.
    pub(crate) define: bool,
    pub(crate) warnings: Vec<Warning>,
}

/// A memory and what becomes of it.
#[derive(Debug)]
pub(crate) struct PlannedMemory {
    pub(crate) report: MemoryReport,
    /// As in [`MappedMemory`].
    pub(crate) entry: Option<(Range<usize>, Range<usize>)>,
    /// The first instruction that grows it.
    first_grow: Option<u64>,
}

impl PlannedMemory {
    /// Whether it declares anything else afterwards.
    pub(crate) fn limits_change(&self) -> bool {
        let MemoryReport { before, after, .. } = &self.report;
        (before.minimum, before.maximum) != (after.minimum, after.maximum)
    }
}

/// What an added export refers to, by index.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ExportKind {
    Function(u32),
    Memory(u32),
}

impl Plan {
    /// Whether the module stays as it is.
    pub(crate) fn is_empty(&self) -> bool {
        !self.memories.iter().any(PlannedMemory::limits_change)
            && self.types.is_empty()
            && self.globals.is_empty()
            && self.patched.bodies.is_empty()
            && self.patched.added.is_empty()
            && self.exports.is_empty()
            && !self.define
    }
}

impl Plan {
    /// The memories whose growth is counted, each with the first instruction that grows it.
    pub(crate) fn growth_counted(&self) -> impl Iterator<Item = (&Memory, u64)> {
        self.memories
            .iter()
            .filter_map(|memory| match memory.report.growth {
                GrowthHandling::Emulated { .. } => {
                    Some((&memory.report.before, memory.first_grow?))
                }
                _ => None,
            })
    }
}

/// Plans what becomes of one core module.
pub(crate) fn plan(map: &Map<'_>, options: &Options) -> Result<Plan, Error> {
    let mut plan = Plan {
        memories: Vec::new(),
        types: Vec::new(),
        globals: Vec::new(),
        patched: Patched::default(),
        exports: Vec::new(),
        define: false,
        warnings: Vec::new(),
    };
    plan.patched.offsets.module = map.module;
    if map.memories.is_empty() {
        return Ok(plan);
    }
    let bodies = growth_sites(map)?;
    let types = Types::read(map)?;
    let mut builder = Builder {
        map,
        types: &types,
        plan: &mut plan,
        replacements: Vec::new(),
    };
    for memory in &map.memories {
        builder.add_memory(memory, &bodies, options)?;
    }
    if options.memory_import == MemoryImportPolicy::Define {
        builder.define_imports()?;
    }
    builder.patch(&bodies)?;
    if let Some(name) = &options.export_commit {
        builder.export_commit(name)?;
    }
    Ok(plan)
}

struct Builder<'p, 'm, 'a> {
    map: &'m Map<'a>,
    types: &'m Types,
    plan: &'p mut Plan,
    /// By index of the memory.
    replacements: Vec<Replacements>,
}

impl Builder<'_, '_, '_> {
    /// Decides what becomes of a memory, and builds what that needs.
    fn add_memory(
        &mut self,
        mapped: &MappedMemory,
        bodies: &[Body],
        options: &Options,
    ) -> Result<(), Error> {
        let memory = &mapped.memory;
        let target = target(memory, options.pages)?;
        let (sites, first) = count_sites(bodies, memory.id.index);
        let subject = Subject {
            memory,
            target,
            sites,
            first,
        };
        let (decision, warnings) = growth::decide(self.map, subject, options)?;
        self.plan.warnings.extend(warnings);

        let mut after = memory.clone();
        after.minimum = target;
        after.maximum = Some(target);
        if options.memory_import == MemoryImportPolicy::Define {
            after.import = None;
        }
        let changes = (memory.minimum, memory.maximum) != (target, Some(target));
        if mapped.entry.is_none() && changes {
            return Err(Error::Unsupported {
                what: Unsupported::CompactImport { memory: memory.id },
                offset: memory.offset,
            });
        }

        let mut replacements = Replacements::default();
        let growth = match decision {
            Decision::Nothing => GrowthHandling::None,
            Decision::Keep => GrowthHandling::Kept,
            Decision::Pregrown { pages } => {
                let global = self.add_global(memory, pages, false);
                replacements.size = Some(global);
                GrowthHandling::Pregrown { pages, global }
            }
            Decision::Emulate { from, cap } => {
                let global = self.add_global(memory, from, true);
                let grows = sites.grow > 0;
                let function = grows.then(|| {
                    let address = address_type(memory);
                    let ty = self.signature(&[address], &[address]);
                    let code = growth::grow_body(memory, global, cap);
                    self.add_function(ty, code, Origin::Grow(memory.id.index))
                });
                replacements.size = Some(global);
                replacements.grow = function;
                GrowthHandling::Emulated {
                    from_pages: from,
                    cap_pages: cap,
                    global,
                    function,
                }
            }
        };
        self.replacements.push(replacements);
        self.plan.memories.push(PlannedMemory {
            report: MemoryReport {
                before: memory.clone(),
                after,
                growth,
                sites,
            },
            entry: mapped.entry.clone(),
            first_grow: first.grow,
        });
        Ok(())
    }

    fn add_global(&mut self, memory: &Memory, pages: u64, mutable: bool) -> u32 {
        let added = self.plan.globals.len() as u32;
        let item = growth::pages_global(memory, pages, mutable);
        self.plan.globals.push((memory.id.index, item));
        self.map.imported_globals + self.map.defined_globals + added
    }

    fn add_function(&mut self, ty: u32, code: Vec<u8>, origin: Origin) -> u32 {
        let added = self.plan.patched.added.len() as u32;
        self.plan
            .patched
            .added
            .push(AddedFunction { ty, code, origin });
        self.map.imported_functions + self.map.defined_functions + added
    }

    /// The index of a function type, which is added where the module has none like it.
    fn signature(&mut self, params: &[ValType], results: &[ValType]) -> u32 {
        let known = |types: &[ValType]| types.iter().map(numeric).collect::<Vec<_>>();
        if let Some(index) = self.types.find(&known(params), &known(results)) {
            return index;
        }
        let item = growth::function_type(params, results);
        let added = self.plan.types.iter().position(|other| *other == item);
        let position = added.unwrap_or_else(|| {
            self.plan.types.push(item);
            self.plan.types.len() - 1
        });
        self.types.count() + position as u32
    }

    /// Makes every imported memory one of the module's own. Imports come first in the index space,
    /// and so do these, so that no index changes.
    fn define_imports(&mut self) -> Result<(), Error> {
        let imported = |memory: &&MappedMemory| memory.memory.import.is_some();
        for mapped in self.map.memories.iter().filter(imported) {
            let memory = &mapped.memory;
            let refuse = |what| {
                let offset = memory.offset;
                Err(Error::Unsupported { what, offset })
            };
            let id = memory.id;
            if id.module.is_some() {
                return refuse(Unsupported::DefineInComponent { memory: id });
            }
            if mapped.entry.is_none() {
                return refuse(Unsupported::CompactImport { memory: id });
            }
            self.plan.define = true;
            let Some(import) = &memory.import else {
                continue;
            };
            match self.map.export(&import.name)? {
                None => self.add_export(&import.name, ExportKind::Memory(id.index))?,
                // It exports the memory that it imports, as many do.
                Some((wasmparser::ExternalKind::Memory, index)) if index == id.index => {}
                Some(_) => {
                    return Err(Error::ExportExists {
                        name: import.name.clone(),
                    });
                }
            }
        }
        Ok(())
    }

    fn add_export(&mut self, name: &str, kind: ExportKind) -> Result<(), Error> {
        let added = self.plan.exports.iter().any(|(other, _)| other == name);
        if added || self.map.export(name)?.is_some() {
            return Err(Error::ExportExists {
                name: name.to_owned(),
            });
        }
        self.plan.exports.push((name.to_owned(), kind));
        Ok(())
    }

    fn patch(&mut self, bodies: &[Body]) -> Result<(), Error> {
        let mut patcher = Patcher {
            map: self.map,
            types: self.types,
            replacements: std::mem::take(&mut self.replacements),
            patched: std::mem::take(&mut self.plan.patched),
        };
        for body in bodies {
            patcher.patch(body)?;
        }
        self.plan.patched = patcher.patched;
        Ok(())
    }

    /// Adds the function that commits all memories, unless an earlier rewrite has.
    fn export_commit(&mut self, name: &str) -> Result<(), Error> {
        let after = self.plan.memories.iter();
        let memories: Vec<Memory> = after.map(|memory| memory.report.after.clone()).collect();
        let code = commit_body(&memories);
        if let Some((wasmparser::ExternalKind::Func, index)) = self.map.export(name)?
            && self.map.function_code(index)? == Some(code.as_slice())
        {
            return Ok(());
        }
        let ty = self.signature(&[], &[]);
        let function = self.add_function(ty, code, Origin::Commit);
        self.add_export(name, ExportKind::Function(function))
    }
}

/// The types that sizes and addresses have, as a reader knows them.
fn numeric(ty: &ValType) -> wasmparser::ValType {
    match ty {
        ValType::I64 => wasmparser::ValType::I64,
        _ => wasmparser::ValType::I32,
    }
}

/// The size that a memory shall have, in its own pages. Limits that are about to be overwritten
/// are judged here, or nobody would.
fn target(memory: &Memory, pages: u64) -> Result<u64, Error> {
    let invalid = |message: String| {
        Err(Error::Invalid {
            offset: memory.offset,
            message: format!("{}: {message}", memory.id),
        })
    };
    let most = memory.most_pages();
    let minimum = memory.minimum;
    let maximum = memory.maximum.unwrap_or(most);
    if minimum > maximum {
        return invalid(format!(
            "its minimum of {minimum} pages exceeds its maximum of {maximum}"
        ));
    }
    if maximum > most {
        return invalid(format!("its maximum of {maximum} pages exceeds {most}"));
    }
    let Some(target) = memory.in_own_pages(pages).filter(|_| pages > 0) else {
        let most = u128::from(most) << memory.page_log2() >> crate::WASM_PAGE_SIZE.ilog2();
        return Err(Error::PagesOutOfRange {
            memory: memory.id,
            pages,
            most: most as u64,
        });
    };
    if minimum > target {
        let bytes = u128::from(minimum) << memory.page_log2();
        return Err(Error::MinimumExceedsTarget {
            memory: memory.id,
            offset: memory.offset,
            pages,
            least: bytes.div_ceil(crate::WASM_PAGE_SIZE.into()) as u64,
        });
    }
    Ok(target)
}
