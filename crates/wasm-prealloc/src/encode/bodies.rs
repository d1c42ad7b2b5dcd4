//! Replaces instructions within function bodies, and moves as little code as possible.
//!
//! There are four ways, tried in this order: in place, if the replacement is as long as the
//! instruction; in place, with the missing bytes taken from slack near by; a copy at the end of the
//! code section, which the old body, of unchanged length, calls; and, if the old body is too short
//! for that call, in place with all code after it moved.

use std::ops::Range;

use wasm_encoder::Function;
use wasmparser::{FunctionBody, Operator};

use super::code_offsets::CodeOffsets;
use super::slack::{Slack, slack};
use super::splice::Patch;
use crate::analysis::function_types::FunctionTypes;
use crate::analysis::module_info::ModuleInfo;
use crate::analysis::sections::{id, reader};
use crate::analysis::site::{Body, Site, SiteKind};
use crate::error::Error;
use crate::leb128::leb128;

/// Opcodes of the binary format (core specification, "Instructions").
mod opcode {
    pub(super) const NOP: u8 = 0x01;
    pub(super) const END: u8 = 0x0b;
    pub(super) const CALL: u8 = 0x10;
    pub(super) const GLOBAL_GET: u8 = 0x23;
}

/// The instruction that replaces another.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Instruction {
    GlobalGet(u32),
    Call(u32),
}

/// The replacements of a memory's instructions; `None` leaves the instruction.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Replacements {
    pub(crate) size: Option<Instruction>,
    pub(crate) grow: Option<Instruction>,
}

impl Replacements {
    /// The instruction that replaces a site, padded to the length of the site.
    fn instruction(self, site: &Site) -> Option<Vec<u8>> {
        let replacement = match site.kind {
            SiteKind::Size => self.size?,
            SiteKind::Grow => self.grow?,
        };
        let (opcode, index) = match replacement {
            Instruction::GlobalGet(index) => (opcode::GLOBAL_GET, index),
            Instruction::Call(index) => (opcode::CALL, index),
        };
        let mut bytes = vec![opcode];
        bytes.extend(leb128(u64::from(index), site.at.len() - 1));
        Some(bytes)
    }
}

/// A function that is added.
#[derive(Debug)]
pub(crate) struct AddedFunction {
    pub(crate) ty: u32,
    /// Its body, without the length.
    pub(crate) code: AddedCode,
    pub(crate) origin: Origin,
}

/// The body of a function that is added.
#[derive(Clone, Debug)]
pub(crate) enum AddedCode {
    New(Vec<u8>),
    /// The body of another function, with its edits.
    Copied(Patch),
}

/// The reason for which a function is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It replaces the `memory.grow` of this memory.
    Grow(u32),
    /// It replaces the `memory.size` of this memory.
    Size(u32),
    /// It holds the code of this function.
    Copy(u32),
    /// It commits all memories.
    Commit,
}

/// The changes of the code section.
#[derive(Debug, Default)]
pub(crate) struct ChangedCode {
    /// The bodies that change, each with the LEB128 before it, in order.
    pub(crate) bodies: Vec<(Range<usize>, Patch)>,
    /// The position of each of them among the defined functions.
    pub(crate) defined: Vec<u32>,
    /// The functions that are added, in index order, after those of the input.
    pub(crate) added: Vec<AddedFunction>,
    pub(crate) offsets: CodeOffsets,
}

impl ChangedCode {
    pub(crate) fn is_empty(&self) -> bool {
        self.bodies.is_empty() && self.added.is_empty()
    }

    /// Adds a function, and returns its index.
    pub(crate) fn add(
        &mut self,
        info: &ModuleInfo<'_>,
        ty: u32,
        code: AddedCode,
        origin: Origin,
    ) -> u32 {
        let index = info.next_function() + self.added.len() as u32;
        self.added.push(AddedFunction { ty, code, origin });
        index
    }

    /// The number of bytes of unchanged bodies before each changed body, and after the last.
    pub(crate) fn gaps(&self, info: &ModuleInfo<'_>) -> Result<Vec<usize>, Error> {
        let (Some(section), false) = (info.section(id::CODE), self.is_empty()) else {
            return Ok(Vec::new());
        };
        let (_, count) = section.count_field(info.wasm)?;
        let starts = self.bodies.iter().map(|(length, _)| length.start);
        let ends = self.bodies.iter().map(|(_, body)| body.range.end);
        let gap_starts = std::iter::once(count.end).chain(ends);
        let gap_ends = starts.chain([section.content.end]);
        let gaps = gap_starts.zip(gap_ends).map(|(start, end)| end - start);
        Ok(gaps.collect())
    }
}

/// A range of the input, and the bytes that replace it.
type Replacement = (Range<usize>, Vec<u8>);

/// Replaces the sites in the bodies of a module, one body after another.
#[derive(Debug)]
pub(crate) struct BodyPatcher<'m, 'a> {
    pub(crate) info: &'m ModuleInfo<'a>,
    pub(crate) types: &'m FunctionTypes,
    /// By index of the memory.
    pub(crate) replacements: &'m [Replacements],
    pub(crate) code: &'m mut ChangedCode,
}

impl BodyPatcher<'_, '_> {
    pub(crate) fn patch(&mut self, body: &Body) -> Result<(), Error> {
        let replace = |site: &Site| {
            let replacements = self.replacements.get(site.memory as usize)?;
            Some((site.at.clone(), replacements.instruction(site)?))
        };
        let mut edits: Vec<Replacement> = body.sites.iter().filter_map(replace).collect();
        if edits.is_empty() {
            return Ok(());
        }
        let function = self.info.imported_functions + body.defined;
        let fits = edits.iter().all(|(at, with)| with.len() == at.len());
        let mut copy = None;
        if !fits {
            if let Some(shortened) = self.take_slack(body, &edits)? {
                edits.extend(shortened);
                self.code.offsets.nudged.push(function);
            } else if let Some(call) = self.call_to_copy(body)? {
                copy = Some(call);
            } else {
                self.code.offsets.shifted_from.get_or_insert(function);
            }
        }
        let mut content = Patch::new(body.content.clone());
        for (at, with) in edits {
            content.replace(at, with);
        }
        if let Some((ty, call)) = copy {
            let code = AddedCode::Copied(content);
            self.code.add(self.info, ty, code, Origin::Copy(function));
            self.code.offsets.relocated.push(function);
            // The call is an insertion, because no byte of it stands for one of the old body.
            content = Patch::new(body.content.clone());
            content.replace(body.content.clone(), Vec::new());
            content.append(call);
        }
        self.code.defined.push(body.defined);
        self.code.bodies.push((body.length.clone(), content));
        Ok(())
    }

    /// Shortens code in a body by as much as the edits lengthen it. For each edit, the nearest slack
    /// that is large enough is taken; `None` if there is not enough.
    fn take_slack(
        &self,
        body: &Body,
        edits: &[Replacement],
    ) -> Result<Option<Vec<Replacement>>, Error> {
        let mut available = slack(self.info.wasm, body)?;
        let mut taken = Vec::new();
        for (at, with) in edits {
            let missing = with.len() - at.len();
            if missing == 0 {
                continue;
            }
            let large = available.iter().enumerate();
            let large = large.filter(|(_, slack)| slack.spare() >= missing);
            let distance = |slack: &Slack| slack.at().start.abs_diff(at.end);
            let Some((nearest, _)) = large.min_by_key(|(_, slack)| distance(slack)) else {
                return Ok(None);
            };
            let slack = available.swap_remove(nearest);
            taken.extend(slack.shortened(self.info.wasm, missing));
        }
        Ok(Some(taken))
    }

    /// A body of the same length that calls the next added function with its own parameters, and
    /// the type of the function; `None` if there is no room for the call.
    fn call_to_copy(&self, body: &Body) -> Result<Option<(u32, Vec<u8>)>, Error> {
        let Some((ty, params)) = self.types.of_function(body.defined) else {
            // The function section is shorter than the code section. Validation reports that.
            return Ok(None);
        };
        let room = body.content.len();
        if params as usize > room {
            return Ok(None);
        }
        let copy = self.info.next_function() + self.code.added.len() as u32;
        let mut call = Function::new([]);
        let mut code = call.instructions();
        for param in 0..params {
            code.local_get(param);
        }
        // A body that calls in tail position runs in constant stack space, so the frame of this
        // call must not stay below it.
        match has_tail_call(self.info.wasm, body)? {
            true => code.return_call(copy),
            false => code.call(copy),
        };
        let mut bytes = call.into_raw_body();
        if bytes.len() >= room {
            return Ok(None);
        }
        bytes.resize(room - 1, opcode::NOP);
        bytes.push(opcode::END);
        Ok(Some((ty, bytes)))
    }
}

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
    read().map_err(Error::malformed)
}
