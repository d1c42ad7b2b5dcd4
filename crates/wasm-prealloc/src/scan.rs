//! Finds the instructions that grow or measure a memory, decoding as few bodies as it can.
//!
//! `memory.size` and `memory.grow` are one byte each, followed by a memory index. A search for
//! such byte pairs, which compilers turn into vector instructions, clears almost all bodies;
//! only those that hold a pair are decoded, and only up to the last one.

use std::ops::Range;

use wasmparser::{BinaryReader, FunctionBody, Operator};

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
    while !operators.eof() && operators.original_position() as usize <= last {
        let start = operators.original_position() as usize;
        let (kind, memory) = match operators.read()? {
            Operator::MemorySize { mem } => (SiteKind::Size, mem),
            Operator::MemoryGrow { mem } => (SiteKind::Grow, mem),
            _ => continue,
        };
        let at = start..operators.original_position() as usize;
        sites.push(Site { kind, memory, at });
    }
    Ok(sites)
}

/// Offsets of byte pairs that may be a `memory.size` or `memory.grow`.
struct Candidates<'a> {
    wasm: &'a [u8],
    at: usize,
    /// First bytes of an index that are too large to be one: below this, or with the LEB128
    /// continuation bit set (an over-long encoding is allowed), it may be one.
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

    fn matches(&self, opcode: u8, index: u8) -> bool {
        ((opcode == MEMORY_SIZE) | (opcode == MEMORY_GROW))
            & ((index < self.indices) | (index >= 0x80))
    }
}

impl Iterator for Candidates<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
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
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The candidates are exactly the pairs that a byte-by-byte search finds, wherever they lie
    /// relative to the blocks.
    #[test]
    fn candidates_equal_a_plain_search() {
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
                            let index = bytes[i + 1];
                            matches!(bytes[i], 0x3f | 0x40)
                                && (index >= 0x80 || usize::from(index) < memories)
                        })
                        .collect();
                    let found: Vec<usize> = Candidates::new(&bytes, from, memories).collect();
                    assert_eq!(found, plain, "{bytes:?} from {from}, {memories} memories");
                }
            }
        }
    }
}
