//! Instances of components in evaluation, and the values in their index spaces.

use std::collections::HashMap;
use std::rc::Rc;

use wasmparser::ComponentExternalKind;

use super::links::RuntimeMemory;
use crate::error::Error;

/// The import that a value comes from, if it can carry a memory.
pub(super) type Imported = Option<usize>;

/// A value of the input, or a value from an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Source<T> {
    Known(T),
    Imported(Imported),
}

/// The definition of a component. `parent` is the instance around it, if the component uses outer
/// definitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Closure {
    pub(super) component: usize,
    pub(super) parent: Option<usize>,
}

/// A value that components pass to each other and that can carry a core module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Item {
    Module(Source<usize>),
    Component(Source<Closure>),
    /// An instance of a component, by the position of its exports.
    Instance(Source<usize>),
}

/// Named items, sorted by name: the exports of an instance, or arguments.
pub(super) type Items<'a> = Rc<[(&'a str, Item)]>;

/// A memory in the index space of a component or core module.
#[derive(Clone, Copy, Debug)]
pub(super) enum Memory {
    Known(RuntimeMemory),
    Imported(Imported),
}

#[derive(Debug)]
pub(super) enum CoreInstance<'a> {
    Module {
        module: usize,
        memories: Vec<Memory>,
    },
    Exports(HashMap<&'a str, Memory>),
    Imported(Imported),
}

/// An instance of a component, complete or in evaluation.
#[derive(Debug, Default)]
pub(super) struct Frame<'a> {
    pub(super) component: usize,
    pub(super) parent: Option<usize>,
    /// The position of the arguments; `None` if the component is evaluated without arguments.
    pub(super) arguments: Option<usize>,
    /// The number of operations that were evaluated.
    pub(super) evaluated: usize,
    // The index spaces.
    pub(super) modules: Vec<Source<usize>>,
    pub(super) components: Vec<Source<Closure>>,
    pub(super) instances: Vec<Source<usize>>,
    pub(super) core_instances: Vec<CoreInstance<'a>>,
    pub(super) memories: Vec<Memory>,
    pub(super) exports: Vec<(&'a str, Item)>,
    /// The position of the exports, once the instance is complete.
    pub(super) result: Option<usize>,
}

/// The reason for which an evaluation ends early.
pub(super) enum Stop {
    OutOfSteps,
    Malformed(Error),
}

pub(super) fn malformed<T>(offset: u64, message: String) -> Result<T, Stop> {
    Err(Stop::Malformed(Error::Malformed { offset, message }))
}

/// Finds an entry of an index space.
pub(super) fn find<'s, T>(
    space: &'s [T],
    index: u32,
    what: &str,
    offset: u64,
) -> Result<&'s T, Stop> {
    match space.get(index as usize) {
        Some(entry) => Ok(entry),
        None => malformed(offset, format!("unknown {what} {index}")),
    }
}

impl Item {
    /// A value from an import; `None` for kinds that carry no core module.
    pub(super) fn imported(kind: ComponentExternalKind, import: Imported) -> Option<Self> {
        match kind {
            ComponentExternalKind::Module => Some(Self::Module(Source::Imported(import))),
            ComponentExternalKind::Component => Some(Self::Component(Source::Imported(import))),
            ComponentExternalKind::Instance => Some(Self::Instance(Source::Imported(import))),
            ComponentExternalKind::Func
            | ComponentExternalKind::Value
            | ComponentExternalKind::Type => None,
        }
    }

    pub(super) fn kind(&self) -> ComponentExternalKind {
        match self {
            Self::Module(_) => ComponentExternalKind::Module,
            Self::Component(_) => ComponentExternalKind::Component,
            Self::Instance(_) => ComponentExternalKind::Instance,
        }
    }
}

impl Frame<'_> {
    /// Finds an item; `None` for kinds that carry no core module.
    pub(super) fn item(
        &self,
        kind: ComponentExternalKind,
        index: u32,
        offset: u64,
    ) -> Result<Option<Item>, Stop> {
        Ok(Some(match kind {
            ComponentExternalKind::Module => {
                Item::Module(*find(&self.modules, index, "core module", offset)?)
            }
            ComponentExternalKind::Component => {
                Item::Component(*find(&self.components, index, "component", offset)?)
            }
            ComponentExternalKind::Instance => {
                Item::Instance(*find(&self.instances, index, "instance", offset)?)
            }
            ComponentExternalKind::Func
            | ComponentExternalKind::Value
            | ComponentExternalKind::Type => return Ok(None),
        }))
    }

    /// Adds an item to its index space.
    pub(super) fn push(&mut self, item: Item) {
        match item {
            Item::Module(module) => self.modules.push(module),
            Item::Component(component) => self.components.push(component),
            Item::Instance(instance) => self.instances.push(instance),
        }
    }
}
