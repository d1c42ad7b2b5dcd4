//! Sites: the `memory.size` and `memory.grow` instructions of a module.

use std::ops::Range;

use wasmparser::{Operator, OperatorsReader};

use super::sections::reader;

/// The two instructions that depend on the size of a memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SiteKind {
    Size,
    Grow,
}

/// One `memory.size` or `memory.grow`.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) kind: SiteKind,
    pub(crate) memory: u32,
    /// The whole instruction.
    pub(crate) at: Range<usize>,
}

impl Site {
    /// Returns the site that an instruction is.
    pub(crate) fn of(operator: &Operator<'_>, at: Range<usize>) -> Option<Self> {
        let (kind, memory) = match *operator {
            Operator::MemorySize { mem } => (SiteKind::Size, mem),
            Operator::MemoryGrow { mem } => (SiteKind::Grow, mem),
            _ => return None,
        };
        Some(Self { kind, memory, at })
    }
}

/// A function body and the sites in it.
#[derive(Clone, Debug)]
pub(crate) struct Body {
    /// Position among the functions that the module defines.
    pub(crate) defined: u32,
    /// The LEB128 with the length of the content.
    pub(crate) length: Range<usize>,
    pub(crate) content: Range<usize>,
    pub(crate) sites: Vec<Site>,
}

/// The number of instructions that grow and measure a memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Sites {
    /// `memory.size` instructions.
    pub size: usize,
    /// `memory.grow` instructions.
    pub grow: usize,
}

/// Byte offsets of the first instructions of their kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FirstSites {
    pub(crate) size: Option<u64>,
    pub(crate) grow: Option<u64>,
}

pub(crate) fn count_sites(bodies: &[Body], memory: u32) -> (Sites, FirstSites) {
    let (mut sites, mut first) = (Sites::default(), FirstSites::default());
    let all = bodies.iter().flat_map(|body| &body.sites);
    for site in all.filter(|site| site.memory == memory) {
        let (count, offset) = match site.kind {
            SiteKind::Size => (&mut sites.size, &mut first.size),
            SiteKind::Grow => (&mut sites.grow, &mut first.grow),
        };
        *count += 1;
        offset.get_or_insert(site.at.start as u64);
    }
    (sites, first)
}

/// Decodes the instruction at the start of a range, and returns the offset after it and the site
/// that it is, if any.
pub(crate) fn read_operator(
    wasm: &[u8],
    range: Range<usize>,
) -> wasmparser::Result<(usize, Option<Site>)> {
    let start = range.start;
    let mut operators = OperatorsReader::new(reader(wasm, range));
    let operator = operators.read()?;
    let end = operators.original_position() as usize;
    Ok((end, Site::of(&operator, start..end)))
}
