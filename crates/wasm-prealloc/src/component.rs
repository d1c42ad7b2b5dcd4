//! The core modules of an input: the input itself, or all that a component nests, however deep.
//! Nothing else of a component is read.

use std::ops::Range;

use crate::error::Error;
use crate::map::{Kind, kind, sections};

/// Section ids of a component (component model, "Component Definitions").
mod id {
    pub(super) const CORE_MODULE: u8 = 1;
    pub(super) const COMPONENT: u8 = 4;
}

/// Deeper nesting is no component that a tool makes, and would exhaust the stack.
const MOST_NESTING: usize = 100;

/// A core module, or a component with what it nests.
#[derive(Debug)]
pub(crate) enum Node {
    Module {
        /// Where it stands among the input's core modules; `None` where it is the input.
        index: Option<u32>,
        range: Range<usize>,
    },
    Component {
        range: Range<usize>,
        /// What it nests, each behind the LEB128 that says its length.
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
            return Err(malformed(range.start, "components are nested too deep"));
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
                    let index = Some(*modules);
                    *modules += 1;
                    let range = content;
                    Self::Module { index, range }
                }
                (id::COMPONENT, Some(Kind::Component)) => {
                    Self::read_component(wasm, content, modules, depth - 1)?
                }
                _ => return Err(malformed(content.start, "not what its section announces")),
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
