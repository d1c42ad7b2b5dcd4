//! The core modules of an input: the input itself, or all that a component contains, at any depth.
//! No other part of a component is read.

use std::ops::Range;

use super::sections::{Kind, kind, sections};
use crate::error::Error;

/// Section ids of a component (component model, "Component Definitions").
mod id {
    pub(super) const CORE_MODULE: u8 = 1;
    pub(super) const COMPONENT: u8 = 4;
}

/// The depth of nesting that is read. No tool nests deeper, and the recursion needs stack.
const MOST_NESTING: usize = 100;

/// A core module, or a component with the core modules and components in it.
#[derive(Debug)]
pub(crate) enum Node {
    Module {
        /// The module's position among the core modules; `None` where it is the input itself.
        index: Option<u32>,
        range: Range<usize>,
    },
    Component {
        range: Range<usize>,
        /// The nested nodes, each after the LEB128 with its length.
        nested: Vec<(Range<usize>, Node)>,
    },
}

impl Node {
    /// Reads the nesting of an input.
    pub(crate) fn read(wasm: &[u8]) -> Result<Self, Error> {
        let range = 0..wasm.len();
        match kind(wasm)? {
            Kind::Module => Ok(Self::Module { index: None, range }),
            Kind::Component => Self::read_component(wasm, range, &mut 0, MOST_NESTING),
        }
    }

    fn read_component(
        wasm: &[u8],
        range: Range<usize>,
        modules: &mut u32,
        depth: usize,
    ) -> Result<Self, Error> {
        let malformed = |offset: usize, message: &str| Error::Malformed {
            offset: offset as u64,
            message: message.to_owned(),
        };
        if depth == 0 {
            return Err(malformed(range.start, "components are nested too deeply"));
        }
        let mut nested = Vec::new();
        for section in sections(wasm, range.clone()) {
            let section = section?;
            if !matches!(section.id, id::CORE_MODULE | id::COMPONENT) {
                continue;
            }
            let content = section.content;
            let found = kind(&wasm[content.clone()]).ok();
            let node = match (section.id, found) {
                (id::CORE_MODULE, Some(Kind::Module)) => {
                    let (index, range) = (Some(*modules), content);
                    *modules += 1;
                    Self::Module { index, range }
                }
                (id::COMPONENT, Some(Kind::Component)) => {
                    Self::read_component(wasm, content, modules, depth - 1)?
                }
                _ => {
                    let message = "the section's content is not of the kind that its id says";
                    return Err(malformed(content.start, message));
                }
            };
            nested.push((section.length, node));
        }
        Ok(Self::Component { range, nested })
    }

    /// The core modules, in the order of the bytes: index and range.
    pub(crate) fn modules(&self) -> Vec<(Option<u32>, Range<usize>)> {
        match self {
            Self::Module { index, range } => vec![(*index, range.clone())],
            Self::Component { nested, .. } => {
                nested.iter().flat_map(|(_, node)| node.modules()).collect()
            }
        }
    }
}
