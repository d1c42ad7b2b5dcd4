//! Replaces instructions within function bodies, and moves as little code as possible.
//!
//! There are four ways, tried in this order: in place, if the replacement is as long as the
//! instruction; in place, with the missing bytes taken from slack near by; a copy at the end of the
//! code section, which the old body, of unchanged length, calls; and, if the old body is too short
//! for that call, in place with all code after it moved.

use std::collections::BTreeMap;

use wasm_encoder::Function;
use wasmparser::{FunctionBody, Operator};

use super::code_metadata::{MovedFunction, has_hints};
use super::code_offsets::CodeOffsets;
use super::local_names::CopiedFunction;
use super::slack::{Short, take_slack};
use super::splice::Patch;
use crate::analysis::function_types::{DefinedFunction, FunctionTypes};
use crate::analysis::module_info::{MAX_ITEMS, ModuleInfo};
use crate::analysis::sections::{id, reader};
use crate::analysis::site::{Body, Site, SiteKind};
use crate::error::{Error, Limit, Unsupported};
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
    fn instruction(self, site: &Site) -> Option<Short> {
        let replacement = match site.kind {
            SiteKind::Size => self.size?,
            SiteKind::Grow => self.grow?,
        };
        let (opcode, index) = match replacement {
            Instruction::GlobalGet(index) => (opcode::GLOBAL_GET, index),
            Instruction::Call(index) => (opcode::CALL, index),
        };
        let mut bytes = vec![opcode];
        bytes.extend(leb128(u64::from(index), site.at().len() - 1));
        Some(Short::new(bytes))
    }
}

/// A function that is added.
#[derive(Debug)]
pub(crate) struct AddedFunction {
    pub(crate) ty: u32,
    pub(crate) origin: Origin,
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
    /// The edits of the bodies that change, with their lengths, in order.
    pub(crate) bodies: Patch,
    /// The position of each of these bodies among the defined functions.
    pub(crate) defined: Vec<u32>,
    /// The number of bytes before each of them, counted from the end of the previous one, or from the
    /// start of the input.
    gaps: Vec<usize>,
    /// The end of the last of them.
    end: usize,
    /// The functions that are added, in index order, after those of the input.
    pub(crate) added: Vec<AddedFunction>,
    /// Their bodies with their lengths, at the end of the section, or at 0 if there is none.
    pub(crate) appended: Patch,
    pub(crate) offsets: CodeOffsets,
    /// The functions that move to the end of the section, in order.
    pub(super) copies: Vec<CopiedFunction>,
    /// The functions in which instructions move, by their index, if the module has hints about them.
    pub(super) moved: Option<BTreeMap<u32, MovedFunction>>,
}

impl ChangedCode {
    pub(crate) fn is_empty(&self) -> bool {
        self.defined.is_empty() && self.added.is_empty()
    }

    /// Begins to record how instructions move, if the module has hints about them.
    pub(crate) fn follow_hints(&mut self, info: &ModuleInfo<'_>) {
        self.moved = has_hints(info).then(BTreeMap::new);
    }

    /// Records how the instructions of a function move, within it or to a copy.
    fn note_moved(&mut self, function: u32, content: &Patch, copy: Option<u32>) {
        if let Some(moved) = &mut self.moved
            && (copy.is_some() || !content.keeps_offsets())
        {
            moved.insert(function, MovedFunction::new(content, copy));
        }
    }

    /// Adds a function with a new body, given without its length, and returns its index.
    pub(crate) fn add(
        &mut self,
        info: &ModuleInfo<'_>,
        ty: u32,
        code: &[u8],
        origin: Origin,
    ) -> u32 {
        let index = self.add_function(info, ty, origin);
        self.appended.append(leb128(code.len() as u64, 1));
        self.appended.append_code(code);
        index
    }

    /// Adds a function whose body is that of the function `of`, with its edits.
    fn add_copy(&mut self, info: &ModuleInfo<'_>, call: &CallToCopy, body: Patch, of: u32) {
        let copy = self.add_function(info, call.ty, Origin::Copy(of));
        self.copies.push(CopiedFunction {
            function: of,
            copy,
            params: call.params,
        });
        self.note_moved(of, &body, Some(copy));
        self.appended.append(leb128(body.new_len() as u64, 1));
        self.appended.append_copy(body);
    }

    fn add_function(&mut self, info: &ModuleInfo<'_>, ty: u32, origin: Origin) -> u32 {
        if self.added.is_empty() {
            let end = info.section(id::CODE).map_or(0, |s| s.content.end);
            self.appended = Patch::new(end..end);
        }
        self.added.push(AddedFunction { ty, origin });
        info.next_function() + (self.added.len() - 1) as u32
    }

    /// Changes a body that follows those changed before.
    fn change(&mut self, body: &Body<'_>, content: Patch) {
        self.defined.push(body.defined);
        self.gaps.push(body.length.start - self.end);
        self.end = body.content.end;
        self.bodies.range.end = self.end;
        self.bodies.nest(body.length.clone(), content);
    }

    /// The number of bytes of unchanged bodies before each changed body, and after the last.
    pub(crate) fn gaps(&mut self, info: &ModuleInfo<'_>) -> Result<Vec<usize>, Error> {
        let (Some(section), false) = (info.section(id::CODE), self.is_empty()) else {
            return Ok(Vec::new());
        };
        let (_, count) = section.count_field(info.wasm)?;
        let mut gaps = std::mem::take(&mut self.gaps);
        gaps.push(section.content.end - self.end);
        gaps[0] -= count.end;
        Ok(gaps)
    }
}

/// The most bytes in the body of a function (WebAssembly JavaScript interface,
/// "Implementation-defined Limits").
const MAX_FUNCTION_BYTES: usize = 7_654_321;

/// The new body at the old place of a function whose code moves to the end of the section.
#[derive(Debug)]
struct CallToCopy {
    /// The type of the function.
    ty: u32,
    /// The number of its parameters.
    params: u32,
    body: Vec<u8>,
}

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
    pub(crate) fn patch(&mut self, body: &Body<'_>) -> Result<(), Error> {
        let by_memory = self.replacements;
        let replace = |site: &Site| {
            let replacements = by_memory.get(site.memory as usize)?;
            Some((site.at(), replacements.instruction(site)?))
        };
        let edits = body.sites.iter().filter_map(replace);
        let mut content = Patch::new(body.content.clone());
        let mut fits = true;
        for (at, with) in edits.clone() {
            fits &= with.as_ref().len() == at.len();
            content.replace(at, with);
        }
        if content.is_unchanged() {
            return Ok(());
        }
        let function = self.info.imported_functions + body.defined;
        let defined = self.types.of_function(body.defined);
        if defined.is_some_and(|function| function.is_shared) {
            // It cannot use a global or a function that threads do not share.
            return Err(Error::Unsupported {
                what: Unsupported::SharedFunction { function },
                offset: body.content.start as u64,
            });
        }
        let mut copy = None;
        if !fits {
            if let Some(shortened) = take_slack(self.info.wasm, body, edits)? {
                for (at, with) in shortened {
                    content.replace(at, with);
                }
                self.code.offsets.nudged.push(function);
            } else if let Some(call) = self.call_to_copy(body)? {
                copy = Some(call);
            } else {
                self.code.offsets.shifted_from.get_or_insert(function);
            }
        }
        content.sort();
        let len = content.new_len();
        if len > body.content.len().max(MAX_FUNCTION_BYTES) {
            return Err(Error::LimitExceeded {
                module: self.info.module,
                what: Limit::FunctionBody { function },
                count: len as u64,
                most: MAX_FUNCTION_BYTES as u64,
            });
        }
        if let Some(call) = copy {
            self.code.add_copy(self.info, &call, content, function);
            self.code.offsets.relocated.push(function);
            // The call is an insertion, because none of its bytes corresponds to the old body.
            content = Patch::new(body.content.clone());
            content.replace(body.content.clone(), []);
            content.append_code(call.body);
        } else {
            self.code.note_moved(function, &content, None);
        }
        self.code.change(body, content);
        Ok(())
    }

    /// A body of the same length that calls the next added function with its own parameters; `None`
    /// if there is no room for the call.
    fn call_to_copy(&self, body: &Body<'_>) -> Result<Option<CallToCopy>, Error> {
        let Some(function) = self.types.of_function(body.defined) else {
            // The function section is shorter than the code section. Validation reports that.
            return Ok(None);
        };
        let DefinedFunction { ty, params, .. } = function;
        // One more function is left for the one that commits memory.
        let functions = self.info.next_function() as usize + self.code.added.len();
        if functions as u64 >= MAX_ITEMS - 1 {
            return Ok(None);
        }
        let room = body.content.len();
        if params as usize > room {
            return Ok(None);
        }
        let copy = functions as u32;
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
        Ok(Some(CallToCopy {
            ty,
            params,
            body: bytes,
        }))
    }
}

fn has_tail_call(wasm: &[u8], body: &Body<'_>) -> Result<bool, Error> {
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
