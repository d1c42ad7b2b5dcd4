//! Evaluates components as instantiation does. Only core modules, components, and instances of
//! components that carry one of these are evaluated, and the memories of core instances.
//!
//! The evaluation has its own stack and a limit of steps: components may be nested, and instantiate
//! each other, more deeply than recursion allows. A component that is instantiated twice with
//! the same arguments is evaluated once.

use std::collections::{HashMap, HashSet};

use wasmparser::{
    ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentOuterAliasKind,
    ExternalKind, Instance,
};

use super::definition::{Definitions, Operation, OperationKind};
use super::frame::{Closure, Frame, Item, Items, Source, Stop, find, malformed};
use super::group::Hidden;
use super::links::Links;
use crate::error::Error;

/// The number of steps that an evaluation may take for each entry of the components. Most entries
/// need one.
const STEPS_PER_OPERATION: usize = 8;

/// The number of steps that any evaluation may take, so that a small component can have many
/// instances.
const LEAST_STEPS: usize = 100_000;

/// An evaluation of the components of an input.
pub(super) struct Evaluator<'a, 'd> {
    pub(super) definitions: &'d Definitions<'a>,
    pub(super) links: &'d mut Links,
    pub(super) frames: Vec<Frame<'a>>,
    /// By component: its frames.
    frames_of: Vec<Vec<usize>>,
    by_arguments: HashMap<(Closure, usize), usize>,
    /// All arguments and exports, without repetition.
    items: Vec<Items<'a>>,
    item_positions: HashMap<Items<'a>, usize>,
    /// The names and offsets of imports that can carry a memory.
    pub(super) imports: Vec<(&'a str, u64)>,
    /// Items that are exported, or passed to an imported component.
    exposed: Vec<Item>,
    steps: usize,
}

impl<'a, 'd> Evaluator<'a, 'd> {
    pub(super) fn new(definitions: &'d Definitions<'a>, links: &'d mut Links) -> Self {
        let components = definitions.components.iter();
        let operations: usize = components.map(|c| c.operations.len()).sum();
        Self {
            definitions,
            links,
            frames: Vec::new(),
            frames_of: vec![Vec::new(); definitions.components.len()],
            by_arguments: HashMap::new(),
            items: Vec::new(),
            item_positions: HashMap::new(),
            imports: Vec::new(),
            exposed: Vec::new(),
            steps: LEAST_STEPS + STEPS_PER_OPERATION * operations,
        }
    }

    /// Evaluates the input. If that takes too many steps, the links of all memories that core modules
    /// import or export are recorded as hidden.
    pub(super) fn evaluate(mut self) -> Result<(), Error> {
        match self.evaluate_all() {
            Ok(()) => self.hide_exposed(),
            Err(Stop::OutOfSteps) => {
                for module in 0..self.definitions.modules.len() {
                    self.hide_module(module, &Hidden::TooManyInstances);
                }
            }
            Err(Stop::Malformed(error)) => return Err(error),
        }
        Ok(())
    }

    /// Evaluates the outermost component, and then each component that no other instantiates. The
    /// embedder may instantiate such a component if another component exports it.
    fn evaluate_all(&mut self) -> Result<(), Stop> {
        for component in 0..self.definitions.components.len() {
            if !self.frames_of[component].is_empty() {
                continue;
            }
            let definition = &self.definitions.components[component];
            let parents = match definition.parent.filter(|_| definition.uses_outer) {
                Some(parent) => self.frames_of[parent].iter().copied().map(Some).collect(),
                None => vec![None],
            };
            for parent in parents {
                let frame = self.add_frame(Closure { component, parent }, None);
                self.run(frame)?;
                let result = self.frames[frame].result;
                let exports = result.map(|exports| Item::Instance(Source::Known(exports)));
                self.exposed.extend(exports);
            }
        }
        Ok(())
    }

    fn add_frame(&mut self, closure: Closure, arguments: Option<usize>) -> usize {
        let frame = self.frames.len();
        self.frames_of[closure.component].push(frame);
        self.frames.push(Frame {
            component: closure.component,
            parent: closure.parent,
            arguments,
            ..Frame::default()
        });
        frame
    }

    /// Evaluates an instance, and the instances that it needs.
    fn run(&mut self, frame: usize) -> Result<(), Stop> {
        let mut stack = vec![frame];
        while let Some(&frame) = stack.last() {
            let component = &self.definitions.components[self.frames[frame].component];
            let operation = component.operations.get(self.frames[frame].evaluated);
            if let Some(operation) = operation {
                self.frames[frame].evaluated += 1;
                stack.extend(self.step(frame, operation)?);
            } else {
                let exports = self.complete(frame);
                stack.pop();
                if let Some(&user) = stack.last() {
                    let instance = Source::Known(exports);
                    self.frames[user].instances.push(instance);
                }
            }
        }
        Ok(())
    }

    /// Ends the evaluation of an instance. Its core modules and components stay, because components
    /// in it may use them.
    fn complete(&mut self, frame: usize) -> usize {
        let exports = std::mem::take(&mut self.frames[frame].exports);
        let exports = self.intern(exports);
        let frame = &mut self.frames[frame];
        frame.result = Some(exports);
        frame.instances = Vec::new();
        frame.core_instances = Vec::new();
        frame.memories = Vec::new();
        exports
    }

    fn intern(&mut self, mut items: Vec<(&'a str, Item)>) -> usize {
        items.sort_unstable();
        let items: Items<'a> = items.into();
        *self
            .item_positions
            .entry(items)
            .or_insert_with_key(|items| {
                self.items.push(items.clone());
                self.items.len() - 1
            })
    }

    pub(super) fn spend(&mut self, steps: usize) -> Result<(), Stop> {
        self.steps = self.steps.checked_sub(steps).ok_or(Stop::OutOfSteps)?;
        Ok(())
    }

    /// Evaluates an operation. Returns the frame of an instance that must be evaluated for it.
    fn step(&mut self, frame: usize, operation: &'d Operation<'a>) -> Result<Option<usize>, Stop> {
        self.spend(1)?;
        let offset = operation.offset;
        match &operation.kind {
            OperationKind::CoreModule(module) => {
                self.frames[frame].modules.push(Source::Known(*module));
            }
            OperationKind::Component(component) => {
                let closure = Closure {
                    component: *component,
                    parent: self.definitions.components[*component]
                        .uses_outer
                        .then_some(frame),
                };
                self.frames[frame].components.push(Source::Known(closure));
            }
            OperationKind::CoreInstance(Instance::Instantiate { module_index, args }) => {
                self.instantiate_module(frame, *module_index, args, offset)?;
            }
            OperationKind::CoreInstance(Instance::FromExports(exports)) => {
                self.export_core(frame, exports, offset)?;
            }
            OperationKind::Instance(ComponentInstance::Instantiate {
                component_index,
                args,
            }) => {
                let args = args.iter().map(|arg| (arg.name, arg.kind, arg.index));
                let args = self.items(frame, args, offset)?;
                return self.instantiate(frame, *component_index, args, offset);
            }
            OperationKind::Instance(ComponentInstance::FromExports(exports)) => {
                let exports = exports.iter();
                let exports = exports.map(|export| (export.name.name, export.kind, export.index));
                let exports = self.items(frame, exports, offset)?;
                let exports = self.intern(exports);
                self.frames[frame].instances.push(Source::Known(exports));
            }
            OperationKind::Alias(alias) => self.alias(frame, alias, offset)?,
            OperationKind::Import(import) => {
                self.import(frame, import.name.name, import.ty.kind(), offset)?;
            }
            OperationKind::Export(export) => {
                let item = self.frames[frame].item(export.kind, export.index, offset)?;
                if let Some(item) = item {
                    self.frames[frame].push(item);
                    self.frames[frame].exports.push((export.name.name, item));
                }
            }
        }
        Ok(None)
    }

    /// Finds the items that arguments or exports name. Those that carry nothing are left out.
    fn items(
        &mut self,
        frame: usize,
        named: impl ExactSizeIterator<Item = (&'a str, ComponentExternalKind, u32)>,
        offset: u64,
    ) -> Result<Vec<(&'a str, Item)>, Stop> {
        self.spend(named.len())?;
        let mut items = Vec::new();
        for (name, kind, index) in named {
            let item = self.frames[frame].item(kind, index, offset)?;
            items.extend(item.map(|item| (name, item)));
        }
        Ok(items)
    }

    fn instantiate(
        &mut self,
        frame: usize,
        component: u32,
        args: Vec<(&'a str, Item)>,
        offset: u64,
    ) -> Result<Option<usize>, Stop> {
        let closure = match find(
            &self.frames[frame].components,
            component,
            "component",
            offset,
        )? {
            Source::Known(closure) => *closure,
            Source::Imported(import) => {
                let import = *import;
                if import.is_some() {
                    self.exposed.extend(args.iter().map(|(_, item)| *item));
                }
                self.frames[frame].instances.push(Source::Imported(import));
                return Ok(None);
            }
        };
        let arguments = self.intern(args);
        if let Some(known) = self.by_arguments.get(&(closure, arguments)) {
            let Some(exports) = self.frames[*known].result else {
                return malformed(offset, "a component instantiates itself".to_owned());
            };
            self.frames[frame].instances.push(Source::Known(exports));
            return Ok(None);
        }
        let instance = self.add_frame(closure, Some(arguments));
        self.by_arguments.insert((closure, arguments), instance);
        Ok(Some(instance))
    }

    fn import(
        &mut self,
        frame: usize,
        name: &'a str,
        kind: ComponentExternalKind,
        offset: u64,
    ) -> Result<(), Stop> {
        // A core module with a memory can only be imported with the type of that memory.
        let carries_memory = self.definitions.typed_memory.is_some();
        let Some(imported) = Item::imported(kind, carries_memory.then_some(self.imports.len()))
        else {
            return Ok(());
        };
        let item = match self.frames[frame].arguments {
            Some(arguments) => self.named(arguments, name, kind, offset)?,
            None => {
                self.imports.push((name, offset));
                imported
            }
        };
        self.frames[frame].push(item);
        Ok(())
    }

    /// Finds an item by name among arguments or exports.
    fn named(
        &self,
        items: usize,
        name: &str,
        kind: ComponentExternalKind,
        offset: u64,
    ) -> Result<Item, Stop> {
        let items = &self.items[items];
        let found = items.binary_search_by_key(&name, |(name, _)| name);
        match found.map(|position| items[position].1) {
            Ok(item) if item.kind() == kind => Ok(item),
            _ => malformed(offset, format!("there is no {} `{name}`", kind.desc())),
        }
    }

    fn alias(&mut self, frame: usize, alias: &ComponentAlias<'a>, offset: u64) -> Result<(), Stop> {
        let item = match *alias {
            ComponentAlias::InstanceExport {
                kind,
                instance_index,
                name,
            } => {
                let instances = &self.frames[frame].instances;
                match *find(instances, instance_index, "instance", offset)? {
                    Source::Imported(import) => Item::imported(kind, import),
                    Source::Known(exports) => match Item::imported(kind, None) {
                        Some(_) => Some(self.named(exports, name, kind, offset)?),
                        None => None,
                    },
                }
            }
            ComponentAlias::CoreInstanceExport {
                kind: ExternalKind::Memory,
                instance_index,
                name,
            } => {
                let memory = self.core_export(frame, instance_index, name, offset)?;
                self.frames[frame].memories.push(memory);
                None
            }
            ComponentAlias::CoreInstanceExport { .. } => None,
            ComponentAlias::Outer { kind, count, index } => {
                self.outer(frame, kind, count, index, offset)?
            }
        };
        if let Some(item) = item {
            self.frames[frame].push(item);
        }
        Ok(())
    }

    /// Finds a definition of the component that is `count` components further out.
    fn outer(
        &mut self,
        mut frame: usize,
        kind: ComponentOuterAliasKind,
        count: u32,
        index: u32,
        offset: u64,
    ) -> Result<Option<Item>, Stop> {
        let kind = match kind {
            ComponentOuterAliasKind::CoreModule => ComponentExternalKind::Module,
            ComponentOuterAliasKind::Component => ComponentExternalKind::Component,
            ComponentOuterAliasKind::CoreType | ComponentOuterAliasKind::Type => return Ok(None),
        };
        self.spend(count as usize)?;
        for _ in 0..count {
            let Some(parent) = self.frames[frame].parent else {
                return malformed(offset, format!("unknown outer component {count}"));
            };
            frame = parent;
        }
        self.frames[frame].item(kind, index, offset)
    }

    /// Records that exposed core modules may have links that cannot be seen.
    fn hide_exposed(&mut self) {
        let mut items = std::mem::take(&mut self.exposed);
        let mut seen = HashSet::new();
        let mut seen_components = HashSet::new();
        while let Some(item) = items.pop() {
            if !seen.insert(item) {
                continue;
            }
            match item {
                Item::Module(Source::Known(module)) => self.hide_module(module, &Hidden::Exported),
                Item::Instance(Source::Known(exports)) => {
                    items.extend(self.items[exports].iter().map(|(_, item)| *item));
                }
                Item::Component(Source::Known(closure)) => {
                    if seen_components.insert(closure.component) {
                        let frames = self.frames_of[closure.component].iter();
                        let results = frames.filter_map(|frame| self.frames[*frame].result);
                        items.extend(results.map(|exports| Item::Instance(Source::Known(exports))));
                    }
                }
                Item::Module(_) | Item::Instance(_) | Item::Component(_) => {}
            }
        }
    }

    /// Records that the memories that a core module imports or exports may have links that cannot
    /// be seen.
    fn hide_module(&mut self, module: usize, hidden: &Hidden) {
        let definition = &self.definitions.modules[module];
        let exports = definition.exports.values().copied();
        for memory in (0..definition.imports.len()).chain(exports) {
            let declaration = self.links.declaration(module, memory);
            self.links.hide(declaration, hidden.clone());
        }
    }
}
