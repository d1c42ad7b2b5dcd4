//! Finds the instructions that grow or measure a memory, decoding as few bodies as it can.
//!
//! `memory.size` and `memory.grow` are one byte each, followed by a memory index. A search for
//! such byte pairs, which compilers turn into vector instructions, clears almost all bodies;
//! only those that hold a pair are decoded, and only up to the last one.

use std::ops::Range;

use wasmparser::{BinaryReader, FunctionBody, VisitOperator, VisitSimdOperator};

use crate::error::Error;
use crate::map::{Map, id, to_range};

const MEMORY_SIZE: u8 = 0x3f;
const MEMORY_GROW: u8 = 0x40;

/// Which of the two instructions stands at a site.
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
    let mut bodies = Vec::new();
    let count = reader.read_var_u32()?;
    let end = reader.range().end as usize;
    let mut candidates =
        Candidates::new(&wasm[..end], reader.original_position() as usize, memories);
    let mut candidate = candidates.next();
    for defined in 0..count {
        let length = reader.original_position() as usize;
        let body = reader.read_reader()?;
        let content = to_range(&body.range());
        // A pair may straddle two bodies or lie in a length: it is no instruction then.
        while candidate.is_some_and(|at| at < content.start) {
            candidate = candidates.next();
        }
        let mut last = None;
        while let Some(at) = candidate.filter(|at| content.contains(at)) {
            last = Some(at);
            candidate = candidates.next();
        }
        let Some(last) = last else { continue };
        let sites = decode(&FunctionBody::new(body), last)?;
        if !sites.is_empty() {
            bodies.push(Body {
                defined,
                length: length..content.start,
                content,
                sites,
            });
        }
    }
    Ok(bodies)
}

/// Decodes a body up to the last place that can be a site.
fn decode(body: &FunctionBody<'_>, last: usize) -> wasmparser::Result<Vec<Site>> {
    let mut sites = Vec::new();
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

/// Offsets of byte pairs that may be a `memory.size` or `memory.grow`.
struct Candidates<'a> {
    wasm: &'a [u8],
    at: usize,
    /// How many memories there are, as far as the first seven bits of an index tell.
    indices: u8,
}

impl<'a> Candidates<'a> {
    /// Bytes looked at together.
    const BLOCK: usize = 64;

    fn new(wasm: &'a [u8], from: usize, memories: usize) -> Self {
        Self {
            wasm,
            at: from,
            indices: memories.min(0x80) as u8,
        }
    }

    /// Whether two bytes may be an opcode and the first group of an index. Of an index that takes
    /// several groups, the lowest seven bits must be those of an index too, where there are no more
    /// memories than seven bits can tell.
    fn matches(&self, opcode: u8, group: u8) -> bool {
        ((opcode == MEMORY_SIZE) | (opcode == MEMORY_GROW)) & ((group & 0x7f) < self.indices)
    }

    /// Whether the groups behind the first are those of an index. Padding is all that they can be,
    /// where there are no more memories than the first group can tell.
    fn is_index(&self, groups: &[u8]) -> bool {
        const LONGEST: usize = 5;
        let last = groups
            .iter()
            .take(LONGEST)
            .position(|group| group & 0x80 == 0);
        match last {
            None => false,
            Some(_) if self.indices == 0x80 => true,
            Some(last) => groups[..=last]
                .iter()
                .skip(1)
                .all(|group| group & 0x7f == 0),
        }
    }
}

impl Iterator for Candidates<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        loop {
            // No early exit within a block, so that it can be compared at once.
            while let Some(block) = self.wasm.get(self.at..self.at + Self::BLOCK + 1) {
                let pairs = block.iter().zip(&block[1..]);
                if pairs.fold(false, |hit, (&a, &b)| hit | self.matches(a, b)) {
                    break;
                }
                self.at += Self::BLOCK;
            }
            let rest = self.wasm.get(self.at..)?;
            let found = rest
                .windows(2)
                .position(|pair| self.matches(pair[0], pair[1]))?;
            let at = self.at + found;
            self.at = at + 1;
            if self.is_index(&self.wasm[at + 1..]) {
                return Some(at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The candidates are the pairs that a byte-by-byte search finds, wherever they lie relative to
    /// the blocks.
    #[test]
    fn candidates_are_what_a_plain_search_finds() {
        let mut random = fastrand::Rng::with_seed(7);
        for length in 0..300_usize {
            let pool = [0x3f, 0x40, 0x00, 0x01, 0x02, 0x7f, 0x80, 0xff];
            let sparse = random.bool();
            let bytes: Vec<u8> = (0..length)
                .map(|_| match sparse && random.u8(..) > 8 {
                    true => 0x41,
                    false => pool[random.usize(..pool.len())],
                })
                .collect();
            for memories in [1, 2, 3, 500] {
                for from in [0, 1, 63, 64, 65].into_iter().filter(|&f| f <= length) {
                    let plain: Vec<usize> = (from..length.saturating_sub(1))
                        .filter(|&i| {
                            let mut index = BinaryReader::new(&bytes[i + 1..], 0);
                            let index = index.read_var_u32();
                            matches!(bytes[i], 0x3f | 0x40)
                                && index.is_ok_and(|index| (index as usize) < memories)
                        })
                        .collect();
                    let found: Vec<usize> = Candidates::new(&bytes, from, memories).collect();
                    let place = format!("{bytes:?} from {from}, {memories} memories");
                    for at in &plain {
                        assert!(found.contains(at), "{at} is missed in {place}");
                    }
                    // Where the first group cannot tell all memories apart, more may be found.
                    if memories < 128 {
                        assert_eq!(found, plain, "{place}");
                    }
                }
            }
        }
    }
}
