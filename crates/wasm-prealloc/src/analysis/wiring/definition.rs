//! The definitions of components: the entries that can carry a core module or a memory, in the order in
//! which instantiation evaluates them. Functions, values and types carry neither.

use std::collections::HashMap;

use wasmparser::{
    ComponentAlias, ComponentAliasSectionReader, ComponentExport, ComponentExportSectionReader,
    ComponentImport, ComponentImportSectionReader, ComponentInstance,
    ComponentInstanceSectionReader, ComponentOuterAliasKind, ComponentType,
    ComponentTypeDeclaration, ComponentTypeSectionReader, CoreType, CoreTypeSectionReader,
    ExportSectionReader, ExternalKind, FromReader, Instance, InstanceSectionReader,
    InstanceTypeDeclaration, ModuleTypeDeclaration, SectionLimited, TypeRef,
};

use super::group::TypedMemory;
use crate::analysis::component::{Nesting, NodeKind, id};
use crate::analysis::module_info::ModuleInfo;
use crate::analysis::sections::{Section, id as core_id, sections};
use crate::error::Error;

/// The components and core modules of an input.
#[derive(Debug)]
pub(super) struct Definitions<'a> {
    /// In the order of their first bytes. The first is the input itself.
    pub(super) components: Vec<Component<'a>>,
    pub(super) modules: Vec<CoreModule<'a>>,
    pub(super) typed_memory: Option<TypedMemory>,
}

#[derive(Debug)]
pub(super) struct Component<'a> {
    /// The position of the component around it.
    pub(super) parent: Option<usize>,
    /// True if it, or a component in it, uses a definition of a component around it.
    pub(super) uses_outer: bool,
    pub(super) operations: Vec<Operation<'a>>,
}

/// An entry of a component, and its offset.
#[derive(Debug)]
pub(super) struct Operation<'a> {
    pub(super) kind: OperationKind<'a>,
    pub(super) offset: u64,
}

#[derive(Debug)]
pub(super) enum OperationKind<'a> {
    /// The definition of a core module, by its position among all.
    CoreModule(usize),
    /// The definition of a component, by its position among all.
    Component(usize),
    CoreInstance(Instance<'a>),
    Instance(ComponentInstance<'a>),
    Alias(ComponentAlias<'a>),
    Import(ComponentImport<'a>),
    Export(ComponentExport<'a>),
}

/// The memories that a core module imports, defines and exports.
#[derive(Debug, Default)]
pub(super) struct CoreModule<'a> {
    /// The names under which it imports its first memories.
    pub(super) imports: Vec<(&'a str, &'a str)>,
    /// The number of its memories, imports included.
    pub(super) memories: usize,
    pub(super) exports: HashMap<&'a str, usize>,
}

impl<'a> Definitions<'a> {
    pub(super) fn read(
        wasm: &'a [u8],
        nesting: &Nesting,
        modules: &'a [&ModuleInfo<'a>],
    ) -> Result<Self, Error> {
        let modules = modules.iter().map(|module| CoreModule::read(module));
        let mut definitions = Self {
            components: Vec::new(),
            modules: modules.collect::<Result<_, _>>()?,
            typed_memory: None,
        };
        // By node: its position among the core modules or among the components, and its content.
        let mut positions = Vec::with_capacity(nesting.nodes.len());
        let mut content = vec![Vec::new(); nesting.nodes.len()];
        let (mut modules, mut components) = (0, 0);
        for (position, node) in nesting.nodes.iter().enumerate() {
            let count = match node.kind {
                NodeKind::Module(_) => &mut modules,
                NodeKind::Component => &mut components,
            };
            positions.push(*count);
            *count += 1;
            if let Some(parent) = node.parent {
                content[parent].push(position);
            }
        }
        for (node, content) in nesting.nodes.iter().zip(content) {
            if node.kind != NodeKind::Component {
                continue;
            }
            let mut component = Component {
                parent: node.parent.map(|parent| positions[parent]),
                uses_outer: false,
                operations: Vec::new(),
            };
            let mut content = content
                .into_iter()
                .map(|node| match nesting.nodes[node].kind {
                    NodeKind::Module(_) => OperationKind::CoreModule(positions[node]),
                    NodeKind::Component => OperationKind::Component(positions[node]),
                });
            for section in sections(wasm, node.range.clone()) {
                let typed = component.read_section(wasm, &section?, &mut content);
                let typed = typed.map_err(Error::malformed)?;
                definitions.typed_memory = definitions.typed_memory.or(typed);
            }
            definitions.components.push(component);
        }
        definitions.find_outer_uses();
        Ok(definitions)
    }

    /// Finds the components that use outer definitions. Inner components are visited first.
    fn find_outer_uses(&mut self) {
        // By component: the number of levels outwards that its furthest use reaches.
        let mut reach = vec![0_u32; self.components.len()];
        for position in (0..self.components.len()).rev() {
            let component = &mut self.components[position];
            let own = component.operations.iter().map(Operation::reach).max();
            let furthest = reach[position].max(own.unwrap_or(0));
            component.uses_outer = furthest > 0;
            if let Some(parent) = component.parent {
                reach[parent] = reach[parent].max(furthest.saturating_sub(1));
            }
        }
    }
}

impl<'a> Component<'a> {
    /// Adds the entries of a section. Returns a memory in the type of a core module, if there is one.
    fn read_section(
        &mut self,
        wasm: &'a [u8],
        section: &Section,
        children: &mut impl Iterator<Item = OperationKind<'a>>,
    ) -> wasmparser::Result<Option<TypedMemory>> {
        match section.id {
            id::CORE_MODULE | id::COMPONENT => {
                let offset = section.content.start as u64;
                let kind = children.next();
                let kind = kind.map(|kind| Operation { kind, offset });
                self.operations.extend(kind);
            }
            id::CORE_INSTANCE => {
                let reader = InstanceSectionReader::new(section.reader(wasm))?;
                self.extend(reader, OperationKind::CoreInstance)?;
            }
            id::INSTANCE => {
                let reader = ComponentInstanceSectionReader::new(section.reader(wasm))?;
                self.extend(reader, OperationKind::Instance)?;
            }
            id::ALIAS => {
                let reader = ComponentAliasSectionReader::new(section.reader(wasm))?;
                self.extend(reader, OperationKind::Alias)?;
            }
            id::IMPORT => {
                let reader = ComponentImportSectionReader::new(section.reader(wasm))?;
                self.extend(reader, OperationKind::Import)?;
            }
            id::EXPORT => {
                let reader = ComponentExportSectionReader::new(section.reader(wasm))?;
                self.extend(reader, OperationKind::Export)?;
            }
            id::CORE_TYPE => {
                let reader = CoreTypeSectionReader::new(section.reader(wasm))?;
                return first_memory(reader, core_type_memory);
            }
            id::TYPE => {
                let reader = ComponentTypeSectionReader::new(section.reader(wasm))?;
                return first_memory(reader, type_memory);
            }
            _ => {}
        }
        Ok(None)
    }

    fn extend<T: FromReader<'a>>(
        &mut self,
        reader: SectionLimited<'a, T>,
        kind: impl Fn(T) -> OperationKind<'a>,
    ) -> wasmparser::Result<()> {
        for item in reader.into_iter_with_offsets() {
            let (offset, item) = item?;
            let kind = kind(item);
            self.operations.push(Operation { kind, offset });
        }
        Ok(())
    }
}

impl Operation<'_> {
    /// The number of levels outwards at which the operation uses a definition; 0 if it uses none.
    fn reach(&self) -> u32 {
        match self.kind {
            OperationKind::Alias(ComponentAlias::Outer {
                kind: ComponentOuterAliasKind::CoreModule | ComponentOuterAliasKind::Component,
                count,
                ..
            }) => count,
            _ => 0,
        }
    }
}

impl<'a> CoreModule<'a> {
    fn read(module: &'a ModuleInfo<'a>) -> Result<Self, Error> {
        let imports = module.memories().filter_map(|memory| {
            let import = memory.import.as_ref()?;
            Some((import.module.as_str(), import.name.as_str()))
        });
        let mut exports = HashMap::new();
        if let Some(section) = module.section(core_id::EXPORT) {
            let reader = ExportSectionReader::new(section.reader(module.wasm));
            for export in reader.map_err(Error::malformed)? {
                let export = export.map_err(Error::malformed)?;
                let is_known = (export.index as usize) < module.memories.len();
                if export.kind == ExternalKind::Memory && is_known {
                    exports.insert(export.name, export.index as usize);
                }
            }
        }
        Ok(Self {
            imports: imports.collect(),
            memories: module.memories.len(),
            exports,
        })
    }
}

fn first_memory<'a, T: FromReader<'a>>(
    reader: SectionLimited<'a, T>,
    memory: impl Fn(&T) -> Option<String>,
) -> wasmparser::Result<Option<TypedMemory>> {
    let mut first = None;
    // A malformed type is an error, even after the first memory.
    for item in reader.into_iter_with_offsets() {
        let (offset, ty) = item?;
        if first.is_none() {
            first = memory(&ty).map(|name| TypedMemory { name, offset });
        }
    }
    Ok(first)
}

fn core_type_memory(ty: &CoreType<'_>) -> Option<String> {
    let CoreType::Module(declarations) = ty else {
        return None;
    };
    declarations
        .iter()
        .find_map(|declaration| match declaration {
            ModuleTypeDeclaration::Export {
                name,
                ty: TypeRef::Memory(_),
            } => Some(format!("`{name}`")),
            ModuleTypeDeclaration::Import(import) if matches!(import.ty, TypeRef::Memory(_)) => {
                Some(format!("`{}` `{}`", import.module, import.name))
            }
            _ => None,
        })
}

/// Finds a memory in the types that a type contains. The parser limits the depth.
fn type_memory(ty: &ComponentType<'_>) -> Option<String> {
    match ty {
        ComponentType::Component(declarations) => {
            declarations
                .iter()
                .find_map(|declaration| match declaration {
                    ComponentTypeDeclaration::CoreType(ty) => core_type_memory(ty),
                    ComponentTypeDeclaration::Type(ty) => type_memory(ty),
                    _ => None,
                })
        }
        ComponentType::Instance(declarations) => {
            declarations
                .iter()
                .find_map(|declaration| match declaration {
                    InstanceTypeDeclaration::CoreType(ty) => core_type_memory(ty),
                    InstanceTypeDeclaration::Type(ty) => type_memory(ty),
                    _ => None,
                })
        }
        _ => None,
    }
}
