//! Components that consist of core modules and their instances.

use anyhow::{Context as _, Result};
use wasm_encoder::{
    Alias, ComponentBuilder, ComponentCoreTypeEncoder, ComponentExportKind,
    ComponentOuterAliasKind, ComponentTypeRef, EntityType, ExportKind, MemoryType, ModuleArg,
    ModuleType,
};

use crate::declare::{IMPORT, Memories};
use crate::run::{Link, Origin};

/// The way in which a component contains its modules and instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nesting {
    /// It contains them itself.
    Flat,
    /// Another component in it contains them.
    Nested,
    /// Another component in it instantiates its modules.
    Outer,
    /// Another component in it gets its modules as arguments, and instantiates them.
    Arguments,
}

/// Encodes a component. `choices` decides how each instance gets its memory.
pub(crate) fn encode(
    nesting: Nesting,
    modules: &[Vec<u8>],
    links: &[Link],
    choices: u64,
) -> Result<Vec<u8>> {
    let mut component = ComponentBuilder::default();
    let mut inner = ComponentBuilder::default();
    let mut arguments = Vec::new();
    for (index, module) in (0..).zip(modules) {
        match nesting {
            Nesting::Flat | Nesting::Outer | Nesting::Arguments => {
                component.core_module_raw(None, module);
            }
            Nesting::Nested => {
                inner.core_module_raw(None, module);
            }
        }
        if nesting == Nesting::Outer {
            let alias = Alias::Outer {
                kind: ComponentOuterAliasKind::CoreModule,
                count: 1,
                index,
            };
            inner.alias(None, alias);
        }
        if nesting == Nesting::Arguments {
            let name = format!("m{index}");
            let (ty, encoder) = inner.core_type(None);
            encode_type(encoder, module)?;
            inner.import(&name, ComponentTypeRef::Module(ty));
            arguments.push((name, ComponentExportKind::Module, index));
        }
    }
    if nesting == Nesting::Flat {
        instantiate(&mut component, links, choices);
    } else {
        instantiate(&mut inner, links, choices);
        let inner = component.component(None, inner);
        component.instantiate(None, inner, arguments);
    }
    Ok(component.finish())
}

/// Adds the core instances. The memory is passed on in one of three ways.
fn instantiate(component: &mut ComponentBuilder, links: &[Link], choices: u64) {
    let (module, memory) = IMPORT;
    let mut instances: Vec<u32> = Vec::new();
    for (index, link) in links.iter().enumerate() {
        let argument = match link.memory {
            Origin::Embedder => None,
            Origin::Instance(from) if (choices >> index).is_multiple_of(2) => Some(instances[from]),
            Origin::Instance(from) => {
                let alias = |component: &mut ComponentBuilder, instance| {
                    component.core_alias_export(None, instance, memory, ExportKind::Memory)
                };
                let found = alias(component, instances[from]);
                let mut only = |found| {
                    component.core_instantiate_exports(None, [(memory, ExportKind::Memory, found)])
                };
                let mut instance = only(found);
                // An alias of the memory of an instance that is only a list of aliases.
                if (choices >> index) % 4 == 3 {
                    let again = alias(component, instance);
                    instance = component
                        .core_instantiate_exports(None, [(memory, ExportKind::Memory, again)]);
                }
                Some(instance)
            }
        };
        let arguments = argument.map(|instance| (module, ModuleArg::Instance(instance)));
        let arguments: Vec<_> = arguments.into_iter().collect();
        instances.push(component.core_instantiate(None, link.module as u32, arguments));
    }
}

/// Encodes a type that a module has: its memory import, and the export of its memory.
fn encode_type(encoder: ComponentCoreTypeEncoder<'_>, wasm: &[u8]) -> Result<()> {
    let memories = Memories::read(wasm)?;
    let memory = memories.all.first().context("no memory")?;
    let ty = EntityType::Memory(MemoryType {
        minimum: memory.ty.initial,
        maximum: memory.ty.maximum,
        memory64: memory.ty.memory64,
        shared: memory.ty.shared,
        page_size_log2: memory.ty.page_size_log2,
    });
    let mut module = ModuleType::new();
    if memory.imported {
        module.import(IMPORT.0, IMPORT.1, ty);
    }
    module.export(IMPORT.1, ty);
    encoder.module(&module);
    Ok(())
}
