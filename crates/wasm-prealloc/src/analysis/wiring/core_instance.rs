//! Evaluates core instances: links the memories that core modules import to those that others export.

use std::collections::HashMap;

use wasmparser::{Export, ExternalKind, InstantiationArg};

use super::frame::{CoreInstance, Memory, Source, Stop, find, malformed};
use super::group::Hidden;
use super::instantiate::Evaluator;

impl<'a> Evaluator<'a, '_> {
    pub(super) fn instantiate_module(
        &mut self,
        frame: usize,
        module: u32,
        args: &[InstantiationArg<'a>],
        offset: u64,
    ) -> Result<(), Stop> {
        self.spend(args.len())?;
        let modules = &self.frames[frame].modules;
        let instance = match *find(modules, module, "core module", offset)? {
            Source::Known(module) => {
                let memories = self.link_module(frame, module, args, offset)?;
                CoreInstance::Module { module, memories }
            }
            Source::Imported(import) => {
                if let Some(import) = import {
                    self.hide_arguments(frame, import, args, offset)?;
                }
                CoreInstance::Imported(import)
            }
        };
        self.frames[frame].core_instances.push(instance);
        Ok(())
    }

    /// Links the memories that a core module imports, and adds those that it defines.
    fn link_module(
        &mut self,
        frame: usize,
        module: usize,
        args: &[InstantiationArg<'a>],
        offset: u64,
    ) -> Result<Vec<Memory>, Stop> {
        let definition = &self.definitions.modules[module];
        self.spend(definition.memories)?;
        let args: HashMap<_, _> = match definition.imports.is_empty() {
            true => HashMap::new(),
            false => args.iter().map(|arg| (arg.name, arg.index)).collect(),
        };
        let mut memories = Vec::with_capacity(definition.memories);
        for (memory, (from, name)) in definition.imports.iter().enumerate() {
            let Some(instance) = args.get(from) else {
                return malformed(offset, format!("core module {module} needs `{from}`"));
            };
            let import = self.links.declaration(module, memory);
            let memory = self.core_export(frame, *instance, name, offset)?;
            match memory {
                Memory::Known(memory) => self.links.link(memory, import),
                Memory::Imported(Some(from)) => {
                    let hidden = self.imported(from);
                    self.links.hide(import, hidden);
                }
                Memory::Imported(None) => {}
            }
            memories.push(memory);
        }
        for memory in definition.imports.len()..definition.memories {
            let declaration = self.links.declaration(module, memory);
            memories.push(Memory::Known(self.links.define(declaration)));
        }
        Ok(memories)
    }

    /// Records that an imported core module may use the memories of its arguments.
    fn hide_arguments(
        &mut self,
        frame: usize,
        import: usize,
        args: &[InstantiationArg<'a>],
        offset: u64,
    ) -> Result<(), Stop> {
        let hidden = self.imported(import);
        for arg in args {
            let instances = &self.frames[frame].core_instances;
            let memories: Vec<_> = match find(instances, arg.index, "core instance", offset)? {
                CoreInstance::Module { module, memories } => {
                    let exports = self.definitions.modules[*module].exports.values();
                    exports
                        .filter_map(|index| memories.get(*index))
                        .copied()
                        .collect()
                }
                CoreInstance::Exports(memories) => memories.values().copied().collect(),
                CoreInstance::Imported(_) => Vec::new(),
            };
            self.spend(memories.len())?;
            for memory in memories {
                if let Memory::Known(memory) = memory {
                    self.links.hide_memory(memory, hidden.clone());
                }
            }
        }
        Ok(())
    }

    fn imported(&self, import: usize) -> Hidden {
        let (name, offset) = self.imports[import];
        Hidden::ImportedModule {
            name: name.to_owned(),
            offset,
        }
    }

    /// Finds a memory among the exports of a core instance.
    pub(super) fn core_export(
        &self,
        frame: usize,
        instance: u32,
        name: &str,
        offset: u64,
    ) -> Result<Memory, Stop> {
        let instances = &self.frames[frame].core_instances;
        let memory = match find(instances, instance, "core instance", offset)? {
            CoreInstance::Module { module, memories } => {
                let index = self.definitions.modules[*module].exports.get(name);
                index.and_then(|index| memories.get(*index)).copied()
            }
            CoreInstance::Exports(memories) => memories.get(name).copied(),
            CoreInstance::Imported(import) => Some(Memory::Imported(*import)),
        };
        match memory {
            Some(memory) => Ok(memory),
            None => malformed(offset, format!("there is no core memory `{name}`")),
        }
    }

    /// Adds a core instance that consists of exports.
    pub(super) fn export_core(
        &mut self,
        frame: usize,
        exports: &[Export<'a>],
        offset: u64,
    ) -> Result<(), Stop> {
        self.spend(exports.len())?;
        let mut memories = HashMap::new();
        for export in exports {
            if export.kind == ExternalKind::Memory {
                let space = &self.frames[frame].memories;
                let memory = *find(space, export.index, "core memory", offset)?;
                memories.insert(export.name, memory);
            }
        }
        let instance = CoreInstance::Exports(memories);
        self.frames[frame].core_instances.push(instance);
        Ok(())
    }
}
