//! Finds the instructions that grow or measure a memory, and decodes as few bodies as possible.
//!
//! `memory.size` and `memory.grow` are one byte each, followed by a memory index. A search for such
//! bytes (`opcode_search`) rules out almost all bodies. Only the others are walked through
//! (`interleave`), up to the last match. A table (`operator_len`) gives the lengths of the common
//! instructions on the way, and wasmparser decodes the rest.

mod interleave;
mod opcode_search;
mod operator_len;

use super::module_info::ModuleInfo;
use super::sections::{id, sized};
use super::site::{Bodies, StoredBody};
use crate::error::Error;
use interleave::{CandidateBody, find_sites};
use opcode_search::OpcodeSearch;

/// Returns all bodies of the module that hold a site.
pub(crate) fn growth_sites(info: &ModuleInfo<'_>) -> Result<Bodies, Error> {
    let (Some(section), 1..) = (info.section(id::CODE), info.memories.len()) else {
        return Ok(Bodies::default());
    };
    let (count, field) = section.count_field(info.wasm)?;
    let code = &info.wasm[..section.content.end];
    scan(code, field.end, count, info.memories.len())
}

/// Scans a code section. `code` ends with the section, and the first body begins at `start`.
fn scan(code: &[u8], start: usize, count: u32, memories: usize) -> Result<Bodies, Error> {
    let mut candidates = Vec::new();
    let walked = find_candidates(code, start, count, memories, &mut candidates);
    let found = find_sites(code, &mut candidates);
    // Errors in the bodies before the one that ended the search are reported first.
    if let Some((_, error)) = found.error {
        return Err(Error::malformed(error));
    }
    walked?;
    let bodies = candidates.into_iter().map(|candidate| candidate.body);
    Ok(Bodies {
        bodies: bodies.filter(|body| !body.sites.is_empty()).collect(),
        sites: found.sites,
    })
}

/// Collects the bodies that hold bytes that may be a site.
fn find_candidates(
    code: &[u8],
    start: usize,
    count: u32,
    memories: usize,
    candidates: &mut Vec<CandidateBody>,
) -> Result<(), Error> {
    let search = OpcodeSearch::new(code, memories);
    let mut at = start;
    let mut found = search.first(at);
    for defined in 0..count {
        let length = at;
        let content = sized(code, at).map_err(Error::malformed)?;
        at = content.end;
        // A match in a length, or across two bodies, is no instruction.
        if found.is_some_and(|found| found < content.start) {
            found = search.first(content.start);
        }
        if let Some(first) = found.filter(|found| content.contains(found)) {
            let last = search.last(first..content.end).unwrap_or(first);
            found = search.first(content.end);
            let body = StoredBody {
                start: length,
                length_bytes: (content.start - length) as u8,
                content_len: content.len() as u32,
                defined,
                sites: 0..0,
            };
            let last = (last - content.start) as u32;
            candidates.push(CandidateBody { body, last });
        }
    }
    // An added body would follow these bytes, where no parser would find it.
    match at == code.len() {
        true => Ok(()),
        false => Err(Error::Malformed {
            offset: at as u64,
            message: "the code section does not end after its last function body".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use wasmparser::{BinaryReader, FunctionBody};

    use super::*;
    use crate::analysis::sections::{reader, to_range};
    use crate::analysis::site::Site;
    use crate::leb128::leb128;

    /// Instructions of every shape. Many hold the bytes that the search looks for.
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

    /// The content of a code section with random bodies. Some end within an instruction.
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

    /// Decodes all bodies to their end with the parser.
    fn full_decode(code: &[u8]) -> wasmparser::Result<Vec<Found>> {
        let mut bodies = BinaryReader::new(code, 0);
        let count = bodies.read_var_u32()?;
        let decode = |defined| {
            let content = to_range(&bodies.read_reader()?.range());
            let body = FunctionBody::new(reader(code, content.clone()));
            let mut operators = body.get_operators_reader()?;
            let mut sites = Vec::new();
            while !operators.eof() {
                let start = operators.original_position() as usize;
                let operator = operators.read()?;
                let at = start..operators.original_position() as usize;
                sites.extend(Site::of(&operator, at));
            }
            Ok((defined, content, sites))
        };
        (0..count).map(decode).collect()
    }

    /// Leaves out the sites of memories that do not exist: the search does not look for them.
    fn of_memories(memories: usize, bodies: impl Iterator<Item = Found>) -> Vec<Found> {
        let bodies = bodies.map(|(defined, content, mut sites)| {
            sites.retain(|site| (site.memory as usize) < memories);
            (defined, content, sites)
        });
        bodies.filter(|(_, _, sites)| !sites.is_empty()).collect()
    }

    /// The sites are those that the parser finds when it decodes everything. A body that the parser
    /// refuses is not compared, because its fault may be after the last match.
    #[test]
    fn sites_are_what_a_full_decode_finds() {
        let mut random = fastrand::Rng::with_seed(3);
        let (mut found, mut refused) = (0, 0);
        for _ in 0..10_000 {
            let code = random_code(&mut random);
            for memories in [1, 2] {
                let mut reader = BinaryReader::new(&code, 0);
                let count = reader.read_var_u32().unwrap();
                let start = reader.original_position() as usize;
                let scanned = scan(&code, start, count, memories);
                let Ok(full) = full_decode(&code) else {
                    refused += 1;
                    continue;
                };
                let scanned = scanned.unwrap();
                let bodies = scanned.iter();
                let bodies = bodies.map(|body| (body.defined, body.content, body.sites.to_vec()));
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
