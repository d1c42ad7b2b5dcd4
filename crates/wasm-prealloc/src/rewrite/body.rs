//! Replaces instructions within function bodies, moving as little code as can be.
//!
//! Four ways, in this order: in place, where the replacement is as long as what it replaces; in
//! place, with the missing bytes taken from code near by that can be written shorter (see `donor`);
//! by a copy at the end of the code section,
//! which the old body, as long as ever, calls; and, where the old body is too short for that call,
//! in place with everything behind it moving up.

use std::ops::Range;

use wasmparser::{FunctionBody, Operator};

use super::donor::{Donor, donors};
use super::report::CodeOffsets;
use super::splice::Span;
use crate::error::Error;
use crate::leb128::leb128;
use crate::map::{Map, id, reader};
use crate::scan::{Body, Site, SiteKind};
use crate::types::Types;

/// Opcodes of the binary format (core specification, "Instructions").
mod opcode {
    pub(super) const NOP: u8 = 0x01;
    pub(super) const END: u8 = 0x0b;
    pub(super) const CALL: u8 = 0x10;
    pub(super) const RETURN_CALL: u8 = 0x12;
    pub(super) const LOCAL_GET: u8 = 0x20;
    pub(super) const GLOBAL_GET: u8 = 0x23;
}

/// What stands in place of a memory's instructions; `None`: they stay.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Replacements {
    /// Index of the global that `memory.size` reads instead.
    pub(crate) size: Option<u32>,
    /// Index of the function that `memory.grow` calls instead.
    pub(crate) grow: Option<u32>,
}

impl Replacements {
    /// The instruction that replaces a site, padded to the site's length where it is shorter.
    fn instruction(self, site: &Site) -> Option<Vec<u8>> {
        let (opcode, index) = match site.kind {
            SiteKind::Size => (opcode::GLOBAL_GET, self.size?),
            SiteKind::Grow => (opcode::CALL, self.grow?),
        };
        let mut bytes = vec![opcode];
        bytes.extend(leb128(u64::from(index), site.at.len() - 1));
        Some(bytes)
    }
}

/// A function that is added: its type, its item for the code section, and how it comes to be.
#[derive(Debug)]
pub(crate) struct AddedFunction {
    pub(crate) ty: u32,
    pub(crate) code: Vec<u8>,
    pub(crate) origin: Origin,
}

/// Why a function is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It stands for the `memory.grow` of this memory.
    Grow(u32),
    /// It holds the code of this function.
    Copy(u32),
    /// It commits all memories.
    Commit,
}

/// What became of the bodies.
#[derive(Debug, Default)]
pub(crate) struct Patched {
    /// The bodies that change, each with the LEB128 before it, in order.
    pub(crate) bodies: Vec<(Range<usize>, Span)>,
    /// Functions that are added, in index order; the first has the first index behind the
    /// input's.
    pub(crate) added: Vec<AddedFunction>,
    pub(crate) offsets: CodeOffsets,
    /// Functions whose bodies change, by position among the defined ones, ascending.
    pub(crate) touched: Vec<u32>,
}

impl Patched {
    /// How many bytes of bodies that do not change stand in front of each that does, and behind the
    /// last.
    pub(crate) fn gaps(&self, map: &Map<'_>) -> Result<Vec<usize>, Error> {
        let (Some(section), 1..) = (map.section(id::CODE), self.bodies.len() + self.added.len())
        else {
            return Ok(Vec::new());
        };
        let (_, count) = map.count_field(section)?;
        let starts = self.bodies.iter().map(|(length, _)| length.start);
        let ends = self.bodies.iter().map(|(_, body)| body.range().end);
        let gap_starts = std::iter::once(count.end).chain(ends);
        let gap_ends = starts.chain([section.content.end]);
        let gaps = gap_starts.zip(gap_ends).map(|(start, end)| end - start);
        Ok(gaps.collect())
    }
}

/// Patches bodies one after another.
#[derive(Debug)]
pub(crate) struct Patcher<'m, 'a> {
    pub(crate) map: &'m Map<'a>,
    pub(crate) types: &'m Types,
    /// By index of the memory.
    pub(crate) replacements: Vec<Replacements>,
    pub(crate) patched: Patched,
}

/// A range of the input, and what stands in its place.
type Replacement = (Range<usize>, Vec<u8>);

impl Patcher<'_, '_> {
    /// Replaces the sites of one body.
    pub(crate) fn patch(&mut self, body: &Body) -> Result<(), Error> {
        let replace = |site: &Site| {
            let replacements = self.replacements.get(site.memory as usize)?;
            Some((site.at.clone(), replacements.instruction(site)?))
        };
        let mut edits: Vec<Replacement> = body.sites.iter().filter_map(replace).collect();
        if edits.is_empty() {
            return Ok(());
        }
        let function = self.map.imported_functions + body.defined;
        let fits = edits.iter().all(|(at, with)| with.len() == at.len());
        let mut content = Span::new(body.content.clone());
        let mut copied = None;
        if !fits {
            if let Some(donations) = self.donations(body, &edits)? {
                edits.extend(donations);
                edits.sort_by_key(|(at, _)| at.start);
                self.patched.offsets.nudged.push(function);
            } else if let Some(call) = self.call_to_copy(body)? {
                copied = Some(call);
            } else {
                self.patched.offsets.shifted_from.get_or_insert(function);
            }
        }
        for (at, with) in edits {
            content.replace(at, with);
        }
        if let Some((ty, call)) = copied {
            let copy = content.apply(self.map.wasm);
            let mut code = leb128(copy.len() as u64, 1);
            code.extend(copy);
            let origin = Origin::Copy(function);
            self.patched.added.push(AddedFunction { ty, code, origin });
            self.patched.offsets.relocated.push(function);
            content = Span::new(body.content.clone());
            content.replace(body.content.clone(), call);
        }
        self.patched.touched.push(body.defined);
        self.patched.bodies.push((body.length.clone(), content));
        Ok(())
    }

    /// Shorter forms of code in a body, each as near as can be to a replacement that is longer than
    /// what it replaces and making up for it; `None` where there are not enough of them.
    fn donations(
        &self,
        body: &Body,
        edits: &[Replacement],
    ) -> Result<Option<Vec<Replacement>>, Error> {
        let mut donors = donors(self.map.wasm, body)?;
        let mut donations = Vec::new();
        for (at, with) in edits {
            let missing = with.len() - at.len();
            if missing == 0 {
                continue;
            }
            let able = donors.iter().enumerate();
            let able = able.filter(|(_, donor)| donor.spare() >= missing);
            let distance = |donor: &Donor| donor.at().start.abs_diff(at.end);
            let Some((nearest, _)) = able.min_by_key(|(_, donor)| distance(donor)) else {
                return Ok(None);
            };
            let donor = donors.swap_remove(nearest);
            donations.push(donor.shortened(self.map.wasm, missing));
        }
        Ok(Some(donations))
    }

    /// A body of the same length that calls the next function to be added with its own
    /// parameters, and the function's type; `None` where there is no room for it.
    fn call_to_copy(&self, body: &Body) -> Result<Option<(u32, Vec<u8>)>, Error> {
        let Some((ty, params)) = self.types.of_function(body.defined) else {
            // The function section is shorter than the code section: validation will say so.
            return Ok(None);
        };
        let room = body.content.len();
        if params as usize > room {
            return Ok(None);
        }
        let added = self.patched.added.len() as u32;
        let copy = self.map.imported_functions + self.map.defined_functions + added;
        const NO_LOCALS: u8 = 0;
        let mut bytes = vec![NO_LOCALS];
        for param in 0..params {
            bytes.push(opcode::LOCAL_GET);
            bytes.extend(leb128(u64::from(param), 1));
        }
        // A body that calls in tail position runs in constant stack: the frame of this call must
        // not stay below it.
        bytes.push(match has_tail_call(self.map.wasm, body)? {
            true => opcode::RETURN_CALL,
            false => opcode::CALL,
        });
        bytes.extend(leb128(u64::from(copy), 1));
        if bytes.len() >= room {
            return Ok(None);
        }
        bytes.resize(room - 1, opcode::NOP);
        bytes.push(opcode::END);
        Ok(Some((ty, bytes)))
    }
}

/// Whether a body calls in tail position.
fn has_tail_call(wasm: &[u8], body: &Body) -> Result<bool, Error> {
    let read = || {
        let body = FunctionBody::new(reader(wasm, body.content.clone()));
        for operator in body.get_operators_reader()? {
            if let Operator::ReturnCall { .. }
            | Operator::ReturnCallIndirect { .. }
            | Operator::ReturnCallRef { .. } = operator?
            {
                return Ok(true);
            }
        }
        Ok(false)
    };
    read().map_err(|error| Error::malformed(&error))
}
