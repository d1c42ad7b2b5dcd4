//! Finds the instructions that grow or measure a memory, decoding as few bodies as it can.
//!
//! `memory.size` and `memory.grow` are one byte each, followed by a memory index. A search for
//! such byte pairs (`candidates`) clears almost all bodies; only those that hold a pair are
//! stepped through (`stride`), and only up to the last one.

use std::ops::Range;

use wasmparser::{BinaryReader, FunctionBody, VisitOperator, VisitSimdOperator};

use crate::candidates::Candidates;
use crate::error::Error;
use crate::map::{Map, id, reader, sized};
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
    scan(map.wasm, section.reader(map.wasm), memories)
}

fn scan(wasm: &[u8], mut reader: BinaryReader<'_>, memories: usize) -> Result<Vec<Body>, Error> {
    let malformed = |error| Error::malformed(&error);
    let count = reader.read_var_u32().map_err(malformed)?;
    let end = reader.range().end as usize;
    let start = reader.original_position() as usize;
    let wasm = &wasm[..end];
    let mut suspects = Vec::new();
    let walked = find_suspects(wasm, start, count, memories, &mut suspects);
    step_through(wasm, &mut suspects);
    let mut bodies = Vec::new();
    for suspect in suspects {
        let sites = match suspect.sites {
            Some(sites) => sites,
            None => decode(wasm, &suspect.content, suspect.last).map_err(malformed)?,
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
    // What is wrong with the bodies before comes first.
    walked?;
    Ok(bodies)
}

/// Adds the bodies that hold a place that may be a site. `wasm` ends where the code section does,
/// and its first body begins at `at`.
fn find_suspects(
    wasm: &[u8],
    mut at: usize,
    count: u32,
    memories: usize,
    suspects: &mut Vec<Suspect>,
) -> Result<(), Error> {
    let candidates = Candidates::new(wasm, memories);
    let mut candidate = candidates.first(at);
    for defined in 0..count {
        let length = at;
        let content = sized(wasm, at).map_err(|error| Error::malformed(&error))?;
        at = content.end;
        // Bytes may straddle two bodies or lie in a length: they are no instruction then.
        if candidate.is_some_and(|candidate| candidate < content.start) {
            candidate = candidates.first(content.start);
        }
        if let Some(first) = candidate.filter(|candidate| content.contains(candidate)) {
            let last = candidates.last(first..content.end).unwrap_or(first);
            candidate = candidates.first(content.end);
            suspects.push(Suspect::new(defined, length, content, last));
        }
    }
    // A body that is added would stand behind these bytes, where no parser would find it.
    match at == wasm.len() {
        true => Ok(()),
        false => Err(Error::Malformed {
            offset: at as u64,
            message: "the code section does not end behind its last function body".to_owned(),
        }),
    }
}

/// Decodes a body up to the last place that can be a site.
fn decode(wasm: &[u8], content: &Range<usize>, last: usize) -> wasmparser::Result<Vec<Site>> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leb128::leb128;

    /// Instructions of every shape, many of which hold the bytes that are looked for.
    const INSTRUCTIONS: &[&[u8]] = &[
        &[0x40, 0x00],
        &[0x3f, 0x00],
        &[0x40, 0x80, 0x80, 0x00],
        &[0x3f, 0x01],
        &[0x45],
        &[0x1a],
        &[0x04, 0x40],
        &[0x02, 0x7f],
        &[0x03, 0x63, 0x70],
        &[0x20, 0x40],
        &[0x20, 0xc0, 0x00],
        &[0x41, 0xc0, 0x80, 0x80, 0x80, 0x00],
        &[
            0x42, 0x80, 0x80, 0xc0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x7f,
        ],
        &[0x43, 0x40, 0x00, 0x40, 0x00],
        &[0x44, 0x00, 0x3f, 0x00, 0x40, 0x00, 0x40, 0x00, 0x40],
        &[0x28, 0x02, 0x40],
        &[0x36, 0x40, 0x00, 0x40],
        &[0x11, 0x40, 0x00],
        &[0x0e, 0x02, 0x40, 0x00, 0x00],
        &[0xfc, 0x0a, 0x00, 0x00],
        &[
            0xfd, 0x0c, 0x40, 0, 0x40, 0, 0x3f, 0, 0, 0, 0, 0, 0x40, 0, 0, 0, 0x40, 0,
        ],
        &[0x1c, 0x01, 0x7f],
        &[0xd0, 0x70],
        &[0x0b],
    ];

    /// A code section's content with random bodies, of which some end within an instruction.
    fn random_code(random: &mut fastrand::Rng) -> Vec<u8> {
        let count = random.u64(..12);
        let mut code = leb128(count, 1);
        let choice = random.usize(1..=INSTRUCTIONS.len());
        for _ in 0..count {
            let mut body = vec![0x00];
            for _ in 0..random.usize(..60) {
                body.extend(INSTRUCTIONS[random.usize(..choice)]);
            }
            if random.u8(..) < 2 {
                body.pop();
            }
            code.extend(leb128(body.len() as u64, random.usize(1..=5)));
            code.extend(body);
        }
        code
    }

    type Found = (u32, Range<usize>, Vec<Site>);

    /// Decodes every body to its end; `None` where the parser refuses one.
    fn full_decode(code: &[u8]) -> Option<Vec<Found>> {
        let mut bodies = BinaryReader::new(code, 0);
        let count = bodies.read_var_u32().unwrap();
        let decode = |defined| {
            let content = crate::map::to_range(&bodies.read_reader().unwrap().range());
            let sites = decode(code, &content, usize::MAX).ok()?;
            Some((defined, content, sites))
        };
        (0..count).map(decode).collect()
    }

    /// Leaves out sites of memories that there are none of: nothing looks for them.
    fn of_memories(memories: usize, bodies: impl Iterator<Item = Found>) -> Vec<Found> {
        let bodies = bodies.map(|(defined, content, mut sites)| {
            sites.retain(|site| (site.memory as usize) < memories);
            (defined, content, sites)
        });
        bodies.filter(|(_, _, sites)| !sites.is_empty()).collect()
    }

    /// Whatever is skipped and stepped over, the sites are those that the parser finds when it
    /// decodes everything. What it refuses may stand behind the last place that is looked at.
    #[test]
    fn sites_are_what_a_full_decode_finds() {
        let mut random = fastrand::Rng::with_seed(3);
        let (mut found, mut refused) = (0, 0);
        for _ in 0..10_000 {
            let code = random_code(&mut random);
            for memories in [1, 2] {
                let scanned = scan(&code, BinaryReader::new(&code, 0), memories);
                let Some(full) = full_decode(&code) else {
                    refused += 1;
                    continue;
                };
                let bodies = scanned.unwrap().into_iter();
                let bodies = bodies.map(|body| (body.defined, body.content, body.sites));
                let bodies = of_memories(memories, bodies);
                let full = of_memories(memories, full.into_iter());
                assert_eq!(format!("{bodies:?}"), format!("{full:?}"), "{code:x?}");
                found += bodies.len();
            }
        }
        assert!(found > 10_000, "{found}");
        assert!(refused > 100, "{refused}");
    }
}
