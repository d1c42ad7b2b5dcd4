//! Replaces instructions within function bodies, moving as little code as can be.
//!
//! Three ways, in this order: in place, where the replacement is as long as what it replaces;
//! by a copy at the end of the code section, which the old body, as long as ever, calls; and, where
//! the old body is too short for that call, in place with everything behind it moving up.

use std::ops::Range;

use super::report::CodeOffsets;
use super::splice::{Span, leb128};
use crate::error::Error;
use crate::map::Map;
use crate::scan::{Body, Site, SiteKind, has_tail_call};
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

/// What stands in place of each instruction; `None`: it stays.
#[derive(Clone, Copy, Debug)]
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

/// A function that is added: its type, and its item for the code section.
#[derive(Debug)]
pub(crate) struct AddedFunction {
    pub(crate) ty: u32,
    pub(crate) code: Vec<u8>,
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

/// Patches bodies one after another.
#[derive(Debug)]
pub(crate) struct Patcher<'m, 'a> {
    pub(crate) map: &'m Map<'a>,
    pub(crate) types: &'m Types,
    pub(crate) replacements: Replacements,
    pub(crate) patched: Patched,
}

impl Patcher<'_, '_> {
    /// Replaces the sites of one body.
    pub(crate) fn patch(&mut self, body: &Body) -> Result<(), Error> {
        let edits: Vec<(&Site, Vec<u8>)> = body
            .sites
            .iter()
            .filter_map(|site| Some((site, self.replacements.instruction(site)?)))
            .collect();
        if edits.is_empty() {
            return Ok(());
        }
        let fits = edits.iter().all(|(site, with)| with.len() == site.at.len());
        let mut content = Span::new(body.content.clone());
        for (site, with) in edits {
            content.replace(site.at.clone(), with);
        }
        if !fits {
            let function = self.map.imported_functions + body.defined;
            if let Some((ty, call)) = self.call_to_copy(body)? {
                let copy = content.apply(self.map.wasm);
                let mut code = leb128(copy.len() as u64, 1);
                code.extend(copy);
                self.patched.added.push(AddedFunction { ty, code });
                self.patched.offsets.relocated.push(function);
                content = Span::new(body.content.clone());
                content.replace(body.content.clone(), call);
            } else {
                self.patched.offsets.shifted_from.get_or_insert(function);
            }
        }
        self.patched.touched.push(body.defined);
        self.patched.bodies.push((body.length.clone(), content));
        Ok(())
    }

    /// A body of the same length that calls the next function to be added with its own
    /// parameters; `None` where there is no room for it. Gives the function's type too.
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
