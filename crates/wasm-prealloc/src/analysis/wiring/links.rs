//! The links between memories of core modules, as evaluation finds them.

use std::collections::{BTreeMap, HashSet};

use super::group::{Group, Hidden, Member};
use crate::analysis::module_info::ModuleInfo;
use crate::limits::MemoryId;

/// A memory of a core module: a position among the memories of all core modules.
pub(super) type Declaration = usize;

/// A memory at run time, which an instance of a core module defines.
pub(super) type RuntimeMemory = usize;

/// Disjoint sets of memories, and the facts about each memory.
#[derive(Debug)]
pub(super) struct Links {
    declared: Vec<Declared>,
    /// By position of the core module: the position of its first memory.
    first: Vec<Declaration>,
    /// By instantiated memory: the declaration that defines it.
    definitions: Vec<Declaration>,
    /// The imports that each instantiated memory is linked to.
    linked: HashSet<(RuntimeMemory, Declaration)>,
}

#[derive(Debug)]
struct Declared {
    memory: MemoryId,
    is_import: bool,
    /// A memory of the same set; itself in the set's root.
    parent: Declaration,
    is_linked: bool,
    repeated: bool,
    hidden: Option<Hidden>,
}

impl Links {
    pub(super) fn new(modules: &[&ModuleInfo<'_>]) -> Self {
        let mut links = Self {
            declared: Vec::new(),
            first: Vec::new(),
            definitions: Vec::new(),
            linked: HashSet::new(),
        };
        for module in modules {
            links.first.push(links.declared.len());
            for memory in module.memories() {
                links.declared.push(Declared {
                    memory: memory.id,
                    is_import: memory.import.is_some(),
                    parent: links.declared.len(),
                    is_linked: false,
                    repeated: false,
                    hidden: None,
                });
            }
        }
        links
    }

    pub(super) fn declaration(&self, module: usize, memory: usize) -> Declaration {
        self.first[module] + memory
    }

    /// Adds a memory: a core module that defines it is instantiated.
    pub(super) fn define(&mut self, definition: Declaration) -> RuntimeMemory {
        self.definitions.push(definition);
        self.definitions.len() - 1
    }

    /// Records that a core module is instantiated with a memory for one of its imports.
    pub(super) fn link(&mut self, memory: RuntimeMemory, import: Declaration) {
        self.declared[import].is_linked = true;
        if !self.linked.insert((memory, import)) {
            self.declared[import].repeated = true;
        }
        let (definition, import) = (self.root(self.definitions[memory]), self.root(import));
        self.declared[import].parent = definition;
    }

    /// Records that a memory is linked to something that cannot be seen.
    pub(super) fn hide_memory(&mut self, memory: RuntimeMemory, hidden: Hidden) {
        self.hide(self.definitions[memory], hidden);
    }

    /// Records that a declared memory may be linked to something that cannot be seen. The first
    /// reason stays.
    pub(super) fn hide(&mut self, declaration: Declaration, hidden: Hidden) {
        self.declared[declaration].hidden.get_or_insert(hidden);
    }

    /// The first memory of a declaration's set. Halves the paths that it follows, so that sets stay
    /// shallow.
    fn root(&mut self, mut declaration: Declaration) -> Declaration {
        while self.declared[declaration].parent != declaration {
            let parent = self.declared[declaration].parent;
            self.declared[declaration].parent = self.declared[parent].parent;
            declaration = self.declared[declaration].parent;
        }
        declaration
    }

    pub(super) fn into_groups(mut self) -> Vec<Group> {
        let mut positions = BTreeMap::new();
        let mut groups: Vec<Group> = Vec::new();
        for declaration in 0..self.declared.len() {
            let root = self.root(declaration);
            let position = *positions.entry(root).or_insert(groups.len());
            if position == groups.len() {
                groups.push(Group {
                    definitions: Vec::new(),
                    members: Vec::new(),
                    hidden: None,
                });
            }
            let (group, declared) = (&mut groups[position], &self.declared[declaration]);
            group.members.push(Member {
                memory: declared.memory,
                repeated: declared.repeated,
            });
            // A core module that is not part of a component is linked by its embedder.
            let in_component = declared.memory.module.is_some();
            let is_idle = in_component && declared.is_import && !declared.is_linked;
            let idle = is_idle.then_some(Hidden::NotInstantiated);
            if group.hidden.is_none() {
                let hidden = declared.hidden.clone().or(idle);
                group.hidden = hidden.map(|hidden| (declared.memory, hidden));
            }
            if !declared.is_import {
                group.definitions.push(declared.memory);
            }
        }
        groups
    }
}
