//! Finds the instructions that grow or measure a memory, decoding as few bodies as it can.
//!
//! `memory.size` and `memory.grow` are one byte each, followed by a memory index. A search for
//! such byte pairs, which compilers turn into vector instructions, clears almost all bodies;
//! only those that hold a pair are stepped through, and only up to the last one.

use std::ops::Range;

use wasmparser::{BinaryReader, FunctionBody, VisitOperator, VisitSimdOperator};

use crate::candidates::Candidates;
use crate::error::Error;
use crate::map::{Map, id, reader, to_range};
use crate::skip;
use crate::stride::{Suspect, step_through};

/// Which of the two instructions stands at a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SiteKind {
    Size,
    Grow,
}

impl SiteKind {
    pub(crate) fn of_opcode(opcode: u8) -> Option<Self> {
        match opcode {
            0x3f => Some(Self::Size),
            0x40 => Some(Self::Grow),
            _ => None,
        }
    }
}

/// One `memory.size` or `memory.grow`.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) kind: SiteKind,
    pub(crate) memory: u32,
    /// The whole instruction.
    pub(crate) at: Range<usize>,
}

/// A function body with at least one site.
#[derive(Clone, Debug)]
pub(crate) struct Body {
    /// Position among the functions that the module defines.
    pub(crate) defined: u32,
    /// The LEB128 that says how long the content is.
    pub(crate) length: Range<usize>,
    pub(crate) content: Range<usize>,
    pub(crate) sites: Vec<Site>,
}

/// How many instructions grow and measure a memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
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

/// Counts the sites of one memory.
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

/// Every body of the module that holds a site, in order.
pub(crate) fn growth_sites(map: &Map<'_>) -> Result<Vec<Body>, Error> {
    let memories = map.memories.len();
    let (Some(section), 1..) = (map.section(id::CODE), memories) else {
        return Ok(Vec::new());
    };
    scan(map.wasm, section.reader(map.wasm), memories).map_err(|error| Error::malformed(&error))
}

fn scan(
    wasm: &[u8],
    mut reader: BinaryReader<'_>,
    memories: usize,
) -> wasmparser::Result<Vec<Body>> {
    let count = reader.read_var_u32()?;
    let end = reader.range().end as usize;
    let start = reader.original_position() as usize;
    let wasm = &wasm[..end];
    let mut suspects = suspects(wasm, start, count, memories)?;
    step_through(wasm, &mut suspects);
    let mut bodies = Vec::new();
    for suspect in suspects {
        let sites = match suspect.sites {
            Some(sites) => sites,
            None => decode(wasm, &suspect.content, suspect.last)?,
        };
        if !sites.is_empty() {
            bodies.push(Body {
                defined: suspect.defined,
                length: suspect.length..suspect.content.start,
                content: suspect.content,
                sites,
            });
        }
    }
    Ok(bodies)
}

/// The bodies that hold a place that may be a site. `wasm` ends where the code section does, and
/// its first body begins at `at`.
fn suspects(
    wasm: &[u8],
    mut at: usize,
    count: u32,
    memories: usize,
) -> wasmparser::Result<Vec<Suspect>> {
    let mut suspects = Vec::new();
    let mut candidates = Candidates::new(wasm, at, memories);
    let mut candidate = candidates.next();
    for defined in 0..count {
        let length = at;
        let content = match skip::sized(wasm, at) {
            Some(content) => content,
            // The parser has the words for what is wrong with it.
            None => to_range(&reader(wasm, at..wasm.len()).read_reader()?.range()),
        };
        at = content.end;
        // A pair may straddle two bodies or lie in a length: it is no instruction then.
        while candidate.is_some_and(|at| at < content.start) {
            candidate = candidates.next();
        }
        let mut last = None;
        while let Some(at) = candidate.filter(|at| content.contains(at)) {
            last = Some(at);
            candidate = candidates.next();
        }
        if let Some(last) = last {
            suspects.push(Suspect::new(defined, length, content, last));
        }
    }
    Ok(suspects)
}

/// Decodes a body up to the last place that can be a site.
fn decode(
    wasm: &[u8],
    content: &Range<usize>,
    last: usize,
) -> wasmparser::Result<Vec<Site>> {
    let mut sites = Vec::new();
    let body = FunctionBody::new(reader(wasm, content.clone()));
    let mut operators = body.get_operators_reader()?;
    while !operators.eof() {
        let start = operators.original_position() as usize;
        if start > last {
            break;
        }
        if let Some((kind, memory)) = operators.visit_operator(&mut SiteVisitor)? {
            let at = start..operators.original_position() as usize;
            sites.push(Site { kind, memory, at });
        }
    }
    Ok(sites)
}

/// Tells sites from other instructions, without building a value for each as a reader would.
struct SiteVisitor;

macro_rules! visit {
    ($(@$proposal:ident $op:ident $({ $($arg:ident: $argty:ty),* })? => $visit:ident ($($ann:tt)*))*) => {
        $(visit!(@one $visit $({ $($arg: $argty),* })?);)*
    };
    (@one visit_memory_size { $mem:ident: $ty:ty }) => {
        fn visit_memory_size(&mut self, $mem: $ty) -> Self::Output {
            Some((SiteKind::Size, $mem))
        }
    };
    (@one visit_memory_grow { $mem:ident: $ty:ty }) => {
        fn visit_memory_grow(&mut self, $mem: $ty) -> Self::Output {
            Some((SiteKind::Grow, $mem))
        }
    };
    (@one $visit:ident $({ $($arg:ident: $argty:ty),* })?) => {
        fn $visit(&mut self $($(, _: $argty)*)?) -> Self::Output {
            None
        }
    };
}

impl<'a> VisitOperator<'a> for SiteVisitor {
    type Output = Option<(SiteKind, u32)>;

    fn simd_visitor(
        &mut self,
    ) -> Option<&mut dyn wasmparser::VisitSimdOperator<'a, Output = Self::Output>> {
        Some(self)
    }

    wasmparser::for_each_visit_operator!(visit);
}

impl<'a> VisitSimdOperator<'a> for SiteVisitor {
    wasmparser::for_each_visit_simd_operator!(visit);
}
