//! Rewrites the core modules of an input: the input itself, or all that a component nests. All else
//! of a component is copied as it is.

use super::assemble::assemble;
use super::options::Options;
use super::plan::{Plan, plan};
use super::report::{CodeOffsets, MemoryReport, Report, Warning};
use super::splice::Span;
use super::validate::Touched;
use crate::component::Node;
use crate::error::Error;
use crate::map::Map;

/// The edits of an input, and what there is to say of them.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) edits: Span,
    pub(crate) memories: Vec<MemoryReport>,
    pub(crate) code_offsets: Vec<CodeOffsets>,
    pub(crate) warnings: Vec<Warning>,
    /// Which bodies change, by core module.
    pub(crate) touched: Vec<Touched>,
}

impl Planned {
    /// What there is to say of the rewrite once it is done.
    pub(crate) fn into_report(self, bytes_before: usize, bytes_after: usize) -> Report {
        Report {
            bytes_before,
            bytes_after,
            memories: self.memories,
            code_offsets: self.code_offsets,
            warnings: self.warnings,
        }
    }
}

/// An input whose structure has been read.
#[derive(Debug)]
pub(crate) struct Input<'a> {
    node: Node,
    /// The core modules, in order.
    modules: Vec<Map<'a>>,
}

impl<'a> Input<'a> {
    pub(crate) fn read(wasm: &'a [u8]) -> Result<Self, Error> {
        let node = Node::read(wasm)?;
        let modules = node.modules().into_iter();
        let modules = modules.map(|(index, range)| Map::read(wasm, range, index));
        Ok(Self {
            modules: modules.collect::<Result<_, _>>()?,
            node,
        })
    }
}

/// Plans all core modules of an input.
pub(crate) fn plan_input(input: &Input<'_>, options: &Options) -> Result<Planned, Error> {
    let plans = input
        .modules
        .iter()
        .map(|map| Ok((map, plan(map, options)?)));
    let modules = plans.collect::<Result<Vec<_>, Error>>()?;
    check_shared_growth(&modules)?;

    let mut planned = Planned {
        edits: Span::new(0..0),
        memories: Vec::new(),
        code_offsets: Vec::new(),
        warnings: Vec::new(),
        touched: Vec::new(),
    };
    let mut spans = Vec::new();
    for (map, plan) in &modules {
        let (span, offsets) = assemble(map, plan)?;
        spans.push(span);
        if !offsets.are_kept() {
            planned.code_offsets.push(offsets);
        }
        let reports = plan.memories.iter().map(|memory| memory.report.clone());
        planned.memories.extend(reports);
        planned.warnings.extend(plan.warnings.iter().cloned());
        planned.touched.push(Touched {
            known: map.defined_functions,
            bodies: plan.patched.touched.clone(),
            gaps: plan.patched.gaps(map)?,
            exports_added: !plan.exports.is_empty(),
        });
    }
    if planned.memories.is_empty() {
        planned.warnings.push(Warning::NoMemory);
    }
    planned.edits = put_together(&input.node, &mut spans.into_iter());
    Ok(planned)
}

/// In a component, a module that imports a memory shares it with another, and only one may count
/// its growth. Which memory is linked to which is not read: where two modules count, and one of
/// them counts what it imports, they are taken to count the same.
fn check_shared_growth(modules: &[(&Map<'_>, Plan)]) -> Result<(), Error> {
    let counts = |plan: &Plan| plan.growth_counted().next().is_some();
    for (position, (_, plan)) in modules.iter().enumerate() {
        let counted = plan.growth_counted();
        let Some((memory, import, offset)) = counted
            .filter_map(|(memory, offset)| Some((memory.id, memory.import.as_ref()?, offset)))
            .next()
        else {
            continue;
        };
        let mut others = modules.iter().enumerate();
        let other = others.find(|(other, (_, plan))| *other != position && counts(plan));
        if let Some((other, _)) = other {
            return Err(Error::ComponentSharesMemory {
                memory,
                import: Box::new(import.clone()),
                offset,
                other: other as u32,
            });
        }
    }
    Ok(())
}

/// The spans of the core modules, in order, within those of the components around them.
fn put_together(node: &Node, modules: &mut impl Iterator<Item = Span>) -> Span {
    match node {
        Node::Module { range, .. } => modules.next().unwrap_or_else(|| Span::new(range.clone())),
        Node::Component { range, nested } => {
            let mut component = Span::new(range.clone());
            for (length, node) in nested {
                component.prefixed(length.clone(), put_together(node, modules));
            }
            component
        }
    }
}
