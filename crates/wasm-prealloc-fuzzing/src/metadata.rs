//! Names and branch hints: sections that refer to functions and instructions. A rewrite keeps the
//! names, and moves the hints along with their instructions.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use arbitrary::Unstructured;
use wasm_encoder::{BranchHint, BranchHints, NameMap, NameSection, SectionId};
use wasm_prealloc::{OffsetMap, Rewritten};
use wasmparser::{KnownCustom, Name, Operator, Parser, Payload};

use crate::sections::{content_of, join, split};
use crate::stats::Stats;

/// Returns the module with names for its functions, and hints for its branches. It imports no
/// functions.
pub(crate) fn add(wasm: &[u8], u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut names = NameMap::new();
    let mut hints = BranchHints::new();
    let mut hinted = false;
    let mut function = 0;
    for payload in Parser::new(0).parse_all(wasm) {
        let Payload::CodeSectionEntry(body) = payload? else {
            continue;
        };
        names.append(function, &format!("function {function}"));
        let mut in_function = Vec::new();
        for operator in body.get_operators_reader()?.into_iter_with_offsets() {
            let (operator, at) = operator?;
            let is_branch = matches!(operator, Operator::If { .. } | Operator::BrIf { .. });
            if is_branch && u.ratio(2, 3)? {
                in_function.push(BranchHint {
                    branch_func_offset: (at - body.range().start) as u32,
                    branch_hint_value: u.int_in_range(0..=1)?,
                });
            }
        }
        hinted |= !in_function.is_empty();
        if !in_function.is_empty() {
            hints.function_hints(function, in_function);
        }
        function += 1;
    }
    let mut sections = split(wasm)?;
    let code = sections
        .iter()
        .position(|(id, _)| *id == SectionId::Code as u8);
    if let Some(code) = code.filter(|_| hinted) {
        sections.insert(code, (SectionId::Custom as u8, content_of(&hints)?));
    }
    let mut section = NameSection::new();
    section.functions(&names);
    sections.push((SectionId::Custom as u8, content_of(&section)?));
    Ok(join(&sections))
}

/// Returns the value of each branch hint, by the offset of its instruction in the module.
fn branch_hints(wasm: &[u8]) -> Result<BTreeMap<u64, bool>> {
    let mut bodies = Vec::new();
    let mut relative = Vec::new();
    for payload in Parser::new(0).parse_all(wasm) {
        match payload? {
            Payload::CodeSectionEntry(body) => bodies.push(body.range().start),
            Payload::CustomSection(section) => {
                if let KnownCustom::BranchHints(reader) = section.as_known() {
                    for function in reader {
                        let function = function?;
                        for hint in function.hints {
                            let hint = hint?;
                            relative.push((function.func, hint.func_offset, hint.taken));
                        }
                    }
                }
            }
            _ => {}
        }
    }
    let absolute = relative.into_iter().map(|(function, offset, taken)| {
        let start = bodies[function as usize];
        (start + u64::from(offset), taken)
    });
    Ok(absolute.collect())
}

/// Returns the names of the functions.
fn function_names(wasm: &[u8]) -> Result<BTreeMap<u32, String>> {
    let mut names = BTreeMap::new();
    for payload in Parser::new(0).parse_all(wasm) {
        let Payload::CustomSection(section) = payload? else {
            continue;
        };
        let KnownCustom::Name(reader) = section.as_known() else {
            continue;
        };
        for subsection in reader {
            if let Name::Function(map) = subsection? {
                for naming in map {
                    let naming = naming?;
                    names.insert(naming.index, naming.name.to_owned());
                }
            }
        }
    }
    Ok(names)
}

/// Checks that all names are kept, and that every hint is at the instruction that it was at. Every
/// hint of the generator is at an instruction, so none may be dropped.
pub(crate) fn check(wasm: &[u8], rewritten: &Rewritten<'_>, stats: &mut Stats) -> Result<()> {
    let (before, after) = (function_names(wasm)?, function_names(&rewritten.wasm)?);
    for (index, name) in &before {
        let found = after.get(index);
        ensure!(found == Some(name), "the name of {name} became {found:?}");
    }
    let named = !before.is_empty();
    ensure!(
        !named || after.keys().copied().eq(0..after.len() as u32),
        "a function that was added has no name: {after:?}"
    );
    stats.count("modules with names", named.into());

    let (before, after) = (branch_hints(wasm)?, branch_hints(&rewritten.wasm)?);
    let mut expected = BTreeMap::new();
    for (at, taken) in &before {
        let moved = moved_operator(wasm, rewritten, *at)?;
        expected.insert(moved, *taken);
        stats.count("branch hints that moved", (moved != *at).into());
    }
    ensure!(
        expected == after,
        "branch hints at {before:x?} became {after:x?}, and not {expected:x?}"
    );
    stats.count("branch hints", before.len() as u64);
    Ok(())
}

/// Returns the place of an instruction in the output. It must have the same opcode there.
fn moved_operator(wasm: &[u8], rewritten: &Rewritten<'_>, at: u64) -> Result<u64> {
    let moved = rewritten.offset_map.get(at);
    let opcode = moved.and_then(|moved| rewritten.wasm.get(moved as usize));
    ensure!(
        opcode == wasm.get(at as usize),
        "the instruction at {at:#x} is not at {moved:x?}"
    );
    Ok(moved.unwrap_or_default())
}

/// The places of the instructions of a module whose code section begins elsewhere, in a rewritten
/// module.
pub(crate) struct Places {
    map: OffsetMap,
    /// The number of bytes by which the code is nearer to the start.
    nearer: i64,
}

impl Places {
    /// `reference` differs from `wasm` only before the code section.
    pub(crate) fn new(reference: &[u8], wasm: &[u8], map: &OffsetMap) -> Result<Self> {
        let nearer = code_start(wasm)?.wrapping_sub(code_start(reference)?);
        Ok(Self {
            map: map.clone(),
            nearer: nearer.cast_signed(),
        })
    }

    pub(crate) fn get(&self, offset: u64) -> Option<u64> {
        self.map.get(offset.checked_add_signed(self.nearer)?)
    }
}

fn code_start(wasm: &[u8]) -> Result<u64> {
    for payload in Parser::new(0).parse_all(wasm) {
        if let Payload::CodeSectionStart {
            unchecked_range, ..
        } = payload?
        {
            return Ok(unchecked_range.start);
        }
    }
    Ok(0)
}
