//! The core modules of an input: the input itself, or all that a component contains, at any depth.
//! No other part of a component is read here; `wiring` reads how the core modules are linked.

use std::ops::Range;

use super::sections::{Kind, kind, sections};
use crate::error::Error;

/// Section ids of a component (component model, "Component Definitions").
pub(crate) mod id {
    pub(crate) const CORE_MODULE: u8 = 1;
    pub(crate) const CORE_INSTANCE: u8 = 2;
    pub(crate) const CORE_TYPE: u8 = 3;
    pub(crate) const COMPONENT: u8 = 4;
    pub(crate) const INSTANCE: u8 = 5;
    pub(crate) const ALIAS: u8 = 6;
    pub(crate) const TYPE: u8 = 7;
    pub(crate) const IMPORT: u8 = 10;
    pub(crate) const EXPORT: u8 = 11;
}

/// The depth of nesting that is read. A valid component contains at most 1,000 components and core
/// modules (wasmparser's limit), so none is deeper.
const MAX_DEPTH: usize = 1_000;

/// The number of components and core modules that validation accepts. It is checked here too, so
/// that no memory is needed for more of them.
const MAX_NODES: usize = 1_000;

/// The nesting of an input, without recursion: an input may be as deep as it is long.
#[derive(Debug)]
pub(crate) struct Nesting {
    /// The core modules and components, in the order of their first bytes: a component comes before
    /// its content. The first node is the input itself.
    pub(crate) nodes: Vec<Node>,
}

/// A core module or a component.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) kind: NodeKind,
    pub(crate) range: Range<usize>,
    /// The LEB128 before the range that holds its length. Empty for the input itself.
    pub(crate) length: Range<usize>,
    /// The position of the component around it; `None` for the input itself.
    pub(crate) parent: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NodeKind {
    /// A core module, and its position among the core modules; `None` where it is the input itself.
    Module(Option<u32>),
    Component,
}

impl Nesting {
    /// Reads the nesting of an input.
    pub(crate) fn read(wasm: &[u8]) -> Result<Self, Error> {
        let root = |kind| Node {
            kind,
            range: 0..wasm.len(),
            length: 0..0,
            parent: None,
        };
        match kind(wasm)? {
            Kind::Module => Ok(Self {
                nodes: vec![root(NodeKind::Module(None))],
            }),
            Kind::Component => Self::read_content(wasm, root(NodeKind::Component)),
        }
    }

    fn read_content(wasm: &[u8], root: Node) -> Result<Self, Error> {
        let mut modules = 0;
        // The components that are not read to their end: position, and the sections that follow.
        let mut open = vec![(0, sections(wasm, root.range.clone()))];
        let mut nodes = vec![root];
        while let Some((parent, rest)) = open.last_mut() {
            let parent = *parent;
            let Some(section) = rest.next().transpose()? else {
                open.pop();
                continue;
            };
            if !matches!(section.id, id::CORE_MODULE | id::COMPONENT) {
                continue;
            }
            let kind = content_kind(wasm, section.id, &section.content)?;
            let node = Node {
                kind: match kind {
                    Kind::Module => NodeKind::Module(Some(modules)),
                    Kind::Component => NodeKind::Component,
                },
                range: section.content.clone(),
                length: section.length,
                parent: Some(parent),
            };
            match kind {
                Kind::Module => modules += 1,
                Kind::Component if open.len() == MAX_DEPTH => {
                    return Err(Error::Malformed {
                        offset: section.content.start as u64,
                        message: format!("components are nested more than {MAX_DEPTH} deep"),
                    });
                }
                Kind::Component => open.push((nodes.len(), sections(wasm, section.content))),
            }
            if nodes.len() == MAX_NODES {
                return Err(Error::Invalid {
                    offset: node.range.start as u64,
                    message: format!("modules and components count exceeds limit of {MAX_NODES}"),
                });
            }
            nodes.push(node);
        }
        Ok(Self { nodes })
    }

    /// The core modules, in the order of the bytes: index and range.
    pub(crate) fn modules(&self) -> impl Iterator<Item = (Option<u32>, Range<usize>)> {
        self.nodes.iter().filter_map(|node| match node.kind {
            NodeKind::Module(index) => Some((index, node.range.clone())),
            NodeKind::Component => None,
        })
    }
}

/// The kind of a section's content, which must be the kind that the section's id says.
fn content_kind(wasm: &[u8], section: u8, content: &Range<usize>) -> Result<Kind, Error> {
    match (section, kind(&wasm[content.clone()])) {
        (id::CORE_MODULE, Ok(Kind::Module)) => Ok(Kind::Module),
        (id::COMPONENT, Ok(Kind::Component)) => Ok(Kind::Component),
        _ => Err(Error::Malformed {
            offset: content.start as u64,
            message: "the section's content is not of the kind that its id says".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leb128::leb128;

    /// A component that contains a component, and so on, `depth` deep in all.
    fn nested(depth: usize) -> Vec<u8> {
        const HEADER: &[u8] = b"\0asm\x0d\0\x01\0";
        // From the inside out, each with its bytes in reverse, so that the input is built in one pass.
        let mut reversed: Vec<u8> = HEADER.iter().rev().copied().collect();
        for _ in 1..depth {
            let mut before = HEADER.to_vec();
            before.push(id::COMPONENT);
            before.extend(leb128(reversed.len() as u64, 1));
            reversed.extend(before.iter().rev());
        }
        reversed.reverse();
        reversed
    }

    #[test]
    fn nesting_is_read_to_its_limit() {
        let nesting = Nesting::read(&nested(MAX_DEPTH)).unwrap();
        assert_eq!(nesting.nodes.len(), MAX_DEPTH);
        assert!(
            nesting
                .nodes
                .iter()
                .skip(1)
                .enumerate()
                .all(|(i, node)| node.parent == Some(i))
        );
    }

    #[test]
    fn deeper_nesting_is_an_error_and_not_an_overflow() {
        for depth in [MAX_DEPTH + 1, 100_000] {
            let error = Nesting::read(&nested(depth)).unwrap_err();
            assert!(error.to_string().contains("more than 1000 deep"), "{error}");
        }
    }
}
