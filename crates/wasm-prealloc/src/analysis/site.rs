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

/// One `memory.size` or `memory.grow`. A module may hold very many, so this is small.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    start: usize,
    pub(crate) memory: u32,
    /// The length of the instruction in bytes.
    len: u8,
    pub(crate) kind: SiteKind,
}

impl Site {
    /// The whole instruction.
    pub(crate) fn at(&self) -> Range<usize> {
        self.start..self.start + usize::from(self.len)
    }

    /// Returns an instruction as a site; `None` if it is another instruction.
    pub(crate) fn of(operator: &Operator<'_>, at: Range<usize>) -> Option<Self> {
        let (kind, memory) = match *operator {
            Operator::MemorySize { mem } => (SiteKind::Size, mem),
            Operator::MemoryGrow { mem } => (SiteKind::Grow, mem),
            _ => return None,
        };
        Some(Self {
            start: at.start,
            memory,
            // An opcode, and an index of at most five bytes.
            len: at.len() as u8,
            kind,
        })
    }
}

/// A function body and the sites in it.
#[derive(Clone, Debug)]
pub(crate) struct Body<'b> {
    /// Position among the functions that the module defines.
    pub(crate) defined: u32,
    /// The LEB128 with the length of the content.
    pub(crate) length: Range<usize>,
    pub(crate) content: Range<usize>,
    pub(crate) sites: &'b [Site],
}

/// The function bodies of a module that hold a site.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bodies {
    /// In order.
    pub(crate) bodies: Vec<StoredBody>,
    /// The sites of all bodies.
    pub(crate) sites: Vec<Site>,
}

/// A body without its sites. A module may hold very many, so this is small: code sections are
/// shorter than 4 GiB.
#[derive(Clone, Debug)]
pub(crate) struct StoredBody {
    /// The offset of the length of the content.
    pub(crate) start: usize,
    pub(crate) length_bytes: u8,
    pub(crate) content_len: u32,
    pub(crate) defined: u32,
    /// The range of its sites among those of all bodies.
    pub(crate) sites: Range<u32>,
}

impl StoredBody {
    pub(crate) fn content(&self) -> Range<usize> {
        let start = self.start + usize::from(self.length_bytes);
        start..start + self.content_len as usize
    }
}

impl Bodies {
    /// The bodies, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Body<'_>> {
        self.bodies.iter().map(|body| Body {
            defined: body.defined,
            length: body.start..body.content().start,
            content: body.content(),
            sites: &self.sites[body.sites.start as usize..body.sites.end as usize],
        })
    }

    /// Counts the sites of each of the first `memories` memories.
    pub(crate) fn count_sites(&self, memories: usize) -> Vec<(Sites, FirstSites)> {
        let mut counts = vec![(Sites::default(), FirstSites::default()); memories];
        for site in self.iter().flat_map(|body| body.sites) {
            let Some((sites, first)) = counts.get_mut(site.memory as usize) else {
                continue;
            };
            let (count, offset) = match site.kind {
                SiteKind::Size => (&mut sites.size, &mut first.size),
                SiteKind::Grow => (&mut sites.grow, &mut first.grow),
            };
            *count += 1;
            offset.get_or_insert(site.start as u64);
        }
        counts
    }
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

/// Decodes the instruction at the start of a range. Returns the offset after it, and the instruction
/// as a site if it is one.
pub(crate) fn read_operator(
    wasm: &[u8],
    range: Range<usize>,
) -> wasmparser::Result<(usize, Option<Site>)> {
    let start = range.start;
    if let Some(end) = continuation_end(wasm, range.clone())? {
        return Ok((end, None));
    }
    let mut operators = OperatorsReader::new(reader(wasm, range));
    let operator = operators.read()?;
    let end = operators.original_position() as usize;
    Ok((end, Site::of(&operator, start..end)))
}

/// Returns the end of an instruction that continues a block. The parser accepts such an instruction
/// only after the start of its block, and here it reads one instruction at a time.
fn continuation_end(wasm: &[u8], range: Range<usize>) -> wasmparser::Result<Option<usize>> {
    const ELSE: u8 = 0x05;
    const CATCH: u8 = 0x07;
    const DELEGATE: u8 = 0x18;
    const CATCH_ALL: u8 = 0x19;
    let mut reader = reader(wasm, range);
    match reader.read_u8()? {
        ELSE | CATCH_ALL => {}
        CATCH | DELEGATE => drop(reader.read_var_u32()?),
        _ => return Ok(None),
    }
    Ok(Some(reader.original_position() as usize))
}
