//! Turns the decisions about an input into a patch, and describes the plan in a report.

use std::collections::{BTreeMap, BTreeSet};

use wasm_encoder::{ExportKind, ValType};
use wasmparser::ExternalKind;

use super::decide::{Decisions, MemoryPlan, decide, signature_warning};
use super::options::{MemoryImportPolicy, Options};
use super::report::{Report, Warning};
use super::validate::ChangedBodies;
use crate::analysis::component::{Nesting, NodeKind};
use crate::analysis::function_types::FunctionTypes;
use crate::analysis::module_info::{MAX_ITEMS, ModuleInfo};
use crate::analysis::{Analysis, Module};
use crate::encode::bodies::{BodyPatcher, Instruction, Origin, Replacements};
use crate::encode::code_offsets::CodeOffsets;
use crate::encode::functions::{
    Counter, address_type, commit_body, function_type, grow_body, pages_global, size_body,
};
use crate::encode::offset_map::OffsetMap;
use crate::encode::sections::{MemoryEdit, ModuleEdits, check_limit, encode};
use crate::encode::splice::Patch;
use crate::error::{Error, Limit, Unsupported};
use crate::growth::GrowthHandling;
use crate::limits::Memory;

/// The patch of an input, and the facts that its report and its validation need.
#[derive(Debug)]
pub(crate) struct Plan<'m> {
    pub(crate) patch: Patch,
    /// The changed bodies of each core module.
    pub(crate) changed: Vec<ChangedBodies>,
    pub(crate) decisions: Vec<Decisions<'m>>,
    pub(crate) offset_map: OffsetMap,
    /// One entry for each core module.
    code_offsets: Vec<CodeOffsets>,
    /// The warnings about positions that do not follow the code.
    warnings: Vec<Warning>,
}

impl<'m> Plan<'m> {
    pub(crate) fn new(analysis: &'m Analysis<'_>, options: &Options) -> Result<Self, Error> {
        let mut decisions = decide(analysis, options)?;
        let (mut patches, mut changed, mut code_offsets) = (Vec::new(), Vec::new(), Vec::new());
        let mut warnings = Vec::new();
        for (module, decided) in analysis.modules.iter().zip(&mut decisions) {
            let mut edits = ModulePlanner::plan(module, &decided.memories, options)?;
            check_limits(module, &edits)?;
            let encoded = encode(&module.info, &module.provenance, &mut edits)?;
            if !encoded.patch.is_unchanged() {
                decided.warnings.extend(signature_warning(&module.info));
            }
            patches.push(encoded.patch);
            code_offsets.push(encoded.offsets);
            let dropped = encoded.dropped_hints.into_iter();
            warnings.extend(dropped.map(|dropped| Warning::HintsDropped {
                module: module.info.module,
                section: dropped.section,
                hints: dropped.hints,
            }));
            changed.push(ChangedBodies {
                known: module.info.defined_functions,
                gaps: edits.code.gaps(&module.info)?,
                exports_added: !edits.exports.is_empty(),
                bodies: edits.code.defined,
            });
        }
        let patch = nest(&analysis.nesting, patches);
        let offset_map = patch.offset_map(0);
        for (offsets, module) in code_offsets.iter_mut().zip(&analysis.modules) {
            offsets.locate_section(&module.info, &offset_map);
            if !offsets.are_unchanged()
                && let Some(url) = module.info.source_map()
            {
                let module = module.info.module;
                warnings.push(Warning::SourceMapStays { module, url });
            }
        }
        Ok(Self {
            patch,
            changed,
            decisions,
            offset_map,
            code_offsets,
            warnings,
        })
    }

    /// Describes the rewrite once it is done.
    pub(crate) fn into_report(self, bytes_before: usize, bytes_after: usize) -> Report {
        let memories = self.decisions.iter().flat_map(|decided| &decided.memories);
        let memories: Vec<_> = memories.map(MemoryPlan::report).collect();
        let warnings = self.decisions.into_iter();
        let mut warnings: Vec<_> = warnings.flat_map(|decided| decided.warnings).collect();
        warnings.extend(self.warnings);
        if memories.is_empty() {
            warnings.push(Warning::NoMemory);
        }
        let offsets = self.code_offsets.into_iter();
        Report {
            bytes_before,
            bytes_after,
            memories,
            code_offsets: offsets.filter(|o| !o.are_unchanged()).collect(),
            warnings,
        }
    }
}

/// Refuses additions beyond the limits that engines have in common (WebAssembly JavaScript
/// interface, "Implementation-defined Limits"). Without additions, validation checks the limits.
fn check_limits(module: &Module<'_>, edits: &ModuleEdits<'_>) -> Result<(), Error> {
    const MAX_NAME_BYTES: u64 = 100_000;

    let info = &module.info;
    let counts = [
        (
            Limit::Functions,
            info.next_function(),
            edits.code.added.len(),
        ),
        (Limit::Globals, info.next_global(), edits.globals.len()),
        (Limit::Exports, info.exports, edits.exports.len()),
    ];
    for (what, known, added) in counts.into_iter().filter(|(.., added)| *added > 0) {
        check_limit(info, what, u64::from(known) + added as u64, MAX_ITEMS)?;
    }
    if !edits.types.is_empty() {
        let types = u64::from(module.types()?.count()) + edits.types.len() as u64;
        check_limit(info, Limit::Types, types, MAX_ITEMS)?;
    }
    if !edits.exports.is_empty() {
        let types = module.types()?.module_type_size(info);
        let size = types.map_err(Error::malformed)? + edits.exports.len() as u64;
        check_limit(info, Limit::TypeSize, size, MAX_ITEMS - 1)?;
    }
    for (name, ..) in &edits.exports {
        check_limit(info, Limit::ExportName, name.len() as u64, MAX_NAME_BYTES)?;
    }
    Ok(())
}

/// Nests the patches of the core modules, given in order, in the components around them.
fn nest(nesting: &Nesting, modules: Vec<Patch>) -> Patch {
    let mut modules = modules.into_iter();
    let mut whole = Patch::default();
    // The positions of the node before and of the components around it, the outermost first.
    let mut open: Vec<usize> = Vec::new();
    for (position, node) in nesting.nodes.iter().enumerate() {
        while open.pop_if(|last| Some(*last) != node.parent).is_some() {
            whole.close();
        }
        match node.parent {
            Some(_) => whole.open(node.length.clone(), node.range.end),
            None => whole.range = node.range.clone(),
        }
        open.push(position);
        if let NodeKind::Module(_) = node.kind
            && let Some(patch) = modules.next()
        {
            whole.extend(patch);
        }
    }
    for _ in 1..open.len() {
        whole.close();
    }
    whole
}

struct ModulePlanner<'m, 'a> {
    info: &'m ModuleInfo<'a>,
    types: &'m FunctionTypes,
    /// The exports whose names are those of exports that may be added.
    exports: BTreeMap<&'a str, (ExternalKind, u32)>,
    edits: ModuleEdits<'m>,
    /// By index of the memory.
    replacements: Vec<Replacements>,
}

impl<'m> ModulePlanner<'m, '_> {
    fn plan(
        module: &'m Module<'_>,
        memories: &[MemoryPlan<'m>],
        options: &Options,
    ) -> Result<ModuleEdits<'m>, Error> {
        if memories.is_empty() {
            return Ok(ModuleEdits::default());
        }
        let mut planner = ModulePlanner {
            info: &module.info,
            types: module.types()?,
            exports: module
                .info
                .exports_named(&names_to_add(&module.info, options))?,
            edits: ModuleEdits::default(),
            replacements: Vec::new(),
        };
        for memory in memories {
            planner.add_memory(memory);
        }
        if options.memory_import == MemoryImportPolicy::Define {
            planner.define_imports(options.memory_import_name.as_deref())?;
        }
        planner.edits.code.follow_hints(planner.info);
        let mut patcher = BodyPatcher {
            info: planner.info,
            types: planner.types,
            replacements: &planner.replacements,
            code: &mut planner.edits.code,
        };
        for body in module.bodies()?.iter() {
            patcher.patch(&body)?;
        }
        if let Some(name) = &options.export_commit {
            planner.export_commit(name)?;
        }
        Ok(planner.edits)
    }

    /// Adds the global and the functions that the decision about a memory needs.
    fn add_memory(&mut self, plan: &MemoryPlan<'m>) {
        let memory = &plan.before.memory;
        let mut replacements = Replacements::default();
        match plan.growth {
            GrowthHandling::None | GrowthHandling::Kept => {}
            GrowthHandling::Fixed { pages, global }
            | GrowthHandling::Pregrown { pages, global } => {
                self.add_global(memory, pages, false);
                replacements.size = Some(Instruction::GlobalGet(global));
            }
            GrowthHandling::Emulated {
                from_pages: from,
                cap_pages,
                global,
                address,
                function,
                size_function,
            } => {
                let counter = match (global, address) {
                    (_, Some(address)) => Counter::Memory { address, from },
                    (global, None) => Counter::Global(global.unwrap_or_default()),
                };
                if let Some(global) = global {
                    self.add_global(memory, from, true);
                    replacements.size = Some(Instruction::GlobalGet(global));
                }
                let ty = address_type(memory);
                let index = memory.id.index;
                if let Some(function) = function {
                    let code = grow_body(memory, counter, cap_pages);
                    self.add_function(function, (&[ty], &[ty]), code, Origin::Grow(index));
                    replacements.grow = Some(Instruction::Call(function));
                }
                if let Some(function) = size_function {
                    let code = size_body(memory, counter);
                    self.add_function(function, (&[], &[ty]), code, Origin::Size(index));
                    replacements.size = Some(Instruction::Call(function));
                }
            }
        }
        self.replacements.push(replacements);
        self.edits.memories.push(MemoryEdit {
            before: plan.before,
            after: plan.after.clone(),
            growth: plan.growth.clone(),
        });
    }

    fn add_global(&mut self, memory: &Memory, pages: u64, mutable: bool) {
        let item = pages_global(memory, pages, mutable);
        self.edits.globals.push((memory.id.index, item));
    }

    /// Adds a function that the decisions have given an index.
    fn add_function(
        &mut self,
        index: u32,
        (params, results): (&[ValType], &[ValType]),
        code: Vec<u8>,
        origin: Origin,
    ) {
        let ty = self.signature(params, results);
        let added = self.edits.code.add(self.info, ty, &code, origin);
        debug_assert_eq!(added, index, "these functions are added first");
    }

    /// Returns the index of a function type, and adds the type if the module lacks it.
    fn signature(&mut self, params: &[ValType], results: &[ValType]) -> u32 {
        let known = |types: &[ValType]| types.iter().map(numeric).collect::<Vec<_>>();
        if let Some(index) = self.types.find(&known(params), &known(results)) {
            return index;
        }
        let item = function_type(params, results);
        let types = &mut self.edits.types;
        let added = types.iter().position(|other| *other == item);
        let position = added.unwrap_or_else(|| {
            types.push(item);
            types.len() - 1
        });
        self.types.count() + position as u32
    }

    /// Turns every imported memory into a defined one. The new definitions come before the others, as
    /// the imports did, so no index changes.
    fn define_imports(&mut self, chosen: Option<&str>) -> Result<(), Error> {
        for mapped in &self.info.memories {
            let memory = &mapped.memory;
            let Some(import) = &memory.import else {
                continue;
            };
            let refuse = |what| {
                let offset = memory.offset;
                Err(Error::Unsupported { what, offset })
            };
            let id = memory.id;
            if id.module.is_some() {
                return refuse(Unsupported::DefineShared { memory: id });
            }
            if mapped.entry.is_none() {
                return refuse(Unsupported::CompactImport { memory: id });
            }
            self.edits.define = true;
            let name = chosen.unwrap_or(&import.name);
            if self.edits.exports.iter().any(|(other, ..)| other == name) {
                return refuse(Unsupported::DefineSameName {
                    memory: id,
                    name: name.to_owned(),
                    is_chosen: chosen.is_some(),
                });
            }
            // The module may export the imported memory under this name already.
            if self.exports.get(name) != Some(&(ExternalKind::Memory, id.index)) {
                self.add_export(name, ExportKind::Memory, id.index)?;
            }
        }
        Ok(())
    }

    fn add_export(&mut self, name: &str, kind: ExportKind, index: u32) -> Result<(), Error> {
        let exports = &mut self.edits.exports;
        let added = exports.iter().any(|(other, ..)| other == name);
        if added || self.exports.contains_key(name) {
            return Err(Error::ExportExists {
                name: name.to_owned(),
                of_memory: kind == ExportKind::Memory,
            });
        }
        exports.push((name.to_owned(), kind, index));
        Ok(())
    }

    /// Adds the function that commits all memories, unless an earlier rewrite has added it.
    fn export_commit(&mut self, name: &str) -> Result<(), Error> {
        let code = commit_body(self.edits.memories.iter().map(|memory| &memory.after));
        if let Some((ExternalKind::Func, index)) = self.exports.get(name)
            && self.info.function_body(*index)? == Some(code.as_slice())
        {
            return Ok(());
        }
        let ty = self.signature(&[], &[]);
        let function = self.edits.code.add(self.info, ty, &code, Origin::Commit);
        self.add_export(name, ExportKind::Func, function)
    }
}

/// The names of the exports that the options may add to a module.
fn names_to_add<'n>(info: &'n ModuleInfo<'_>, options: &'n Options) -> BTreeSet<&'n str> {
    let imports = info.memories().filter_map(|memory| memory.import.as_ref());
    let imports = imports.map(|import| import.name.as_str());
    let chosen = [&options.memory_import_name, &options.export_commit];
    imports
        .chain(chosen.into_iter().filter_map(Option::as_deref))
        .collect()
}

/// Converts the type of a size or an address from the encoder's form to the parser's.
fn numeric(ty: &ValType) -> wasmparser::ValType {
    match ty {
        ValType::I64 => wasmparser::ValType::I64,
        _ => wasmparser::ValType::I32,
    }
}
