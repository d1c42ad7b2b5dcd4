//! The wiring of a component: the core modules that define a memory, and those that share it.
//! `definition` reads the components, `instantiate` and `core_instance` evaluate them, and `links`
//! stores the results.

mod core_instance;
mod definition;
mod frame;
pub(crate) mod group;
mod instantiate;
mod links;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use super::component::Nesting;
use super::module_info::ModuleInfo;
use crate::error::Error;
use crate::limits::MemoryId;
use definition::Definitions;
use group::{Group, TypedMemory};
use instantiate::Evaluator;
use links::Links;

/// The memories of a component's core instances, and the modules that share each.
///
/// Components are evaluated as instantiation does, without running code: core instances, inline
/// exports, aliases, nested components and their arguments. Only core modules, components and
/// instances of components pass between components, and none of them carries a memory, so all links
/// of a memory are within one component.
#[derive(Debug)]
pub(crate) struct Wiring {
    groups: Vec<Group>,
    by_memory: HashMap<MemoryId, usize>,
    /// The first memory in the type of a core module. A rewrite changes the memories of core
    /// modules, and so the types that fit them.
    pub(crate) typed_memory: Option<TypedMemory>,
}

impl Wiring {
    /// Reads the wiring of a component. In a core module, each group is a single memory.
    /// `modules` are the core modules in the order of the bytes.
    pub(crate) fn read(
        wasm: &[u8],
        nesting: &Nesting,
        modules: &[&ModuleInfo<'_>],
    ) -> Result<Self, Error> {
        let definitions = Definitions::read(wasm, nesting, modules)?;
        let mut links = Links::new(modules);
        if !definitions.components.is_empty() {
            Evaluator::new(&definitions, &mut links).evaluate()?;
        }
        let groups = links.into_groups();
        let members = groups.iter().enumerate().flat_map(|(position, group)| {
            let members = group.members.iter();
            members.map(move |member| (member.memory, position))
        });
        Ok(Self {
            by_memory: members.collect(),
            groups,
            typed_memory: definitions.typed_memory,
        })
    }

    /// The groups, in the order of their first members.
    pub(crate) fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The position of a memory's group; `None` if no core module has this memory.
    pub(crate) fn group_of(&self, memory: MemoryId) -> Option<usize> {
        self.by_memory.get(&memory).copied()
    }
}
