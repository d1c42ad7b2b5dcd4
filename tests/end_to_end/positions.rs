//! References to code by its position, in every way in which a rewrite moves code: line tables, and the
//! stack traces of wasmtime and of Node.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::ops::Range;
use std::process::Command;

use wasm_prealloc::{CodeOffsets, OffsetMap, Options, rewrite};
use wasm_prealloc_tests::{repository, skipped};
use wasmparser::{Operator, Parser, Payload, TypeRef};
use wasmtime::WasmBacktrace;
use wat::GenerateDwarf;

use crate::line_table::rows;
use crate::offsets::debug_guest;
use crate::running::Running;

/// A way in which a rewrite treats a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    InPlace,
    Nudged,
    Relocated,
    Shifted,
}

impl Way {
    const ALL: [Self; 4] = [Self::InPlace, Self::Nudged, Self::Relocated, Self::Shifted];

    /// A module with a function that is treated in this way. Its export `trap` calls that function,
    /// which calls one that traps. With a line table, in which each instruction has a row.
    fn module(self) -> Vec<u8> {
        // Two hundred globals make the index of one that is added longer than that of the memory.
        let (globals, function) = match self {
            Self::InPlace => (
                0,
                "(func $f (param i32) (drop (memory.size)) (call $callee))",
            ),
            Self::Nudged => (
                200,
                "(func $f (param i32)
                    (drop (memory.size)) (drop (i32.ne (local.get 0) (i32.const 0)))
                    (call $callee))",
            ),
            Self::Relocated => (
                200,
                "(func $f (param i32)
                    (drop (memory.size)) (drop (i32.const 300000)) (call $callee))",
            ),
            Self::Shifted => (
                200,
                "(func $f (param i32) (param i64 i64 i64) (drop (memory.size)) (call $callee))",
            ),
        };
        let arguments = match self {
            Self::Shifted => "(i32.const 1) (i64.const 2) (i64.const 3) (i64.const 4)",
            _ => "(i32.const 1)",
        };
        let globals = "(global i32 (i32.const 0))".repeat(globals);
        let text = format!(
            r#"(module
                (memory (export "memory") 1 9) {globals}
                (func $before (drop (i32.const 1)))
                {function}
                (func $callee (drop (i32.const 2)) (unreachable))
                (func (export "trap") (call $f {arguments})))"#
        );
        let mut parser = wat::Parser::new();
        parser.generate_dwarf(GenerateDwarf::Lines);
        parser.parse_str(None, text).unwrap()
    }

    /// Checks that a rewrite treated function 1 in this way.
    #[track_caller]
    fn check(self, offsets: &CodeOffsets) {
        let (nudged, relocated) = (&offsets.nudged[..], &offsets.relocated[..]);
        let found = (nudged, relocated, offsets.shifted_from);
        let expected: (&[u32], &[u32], _) = match self {
            Self::InPlace => (&[], &[], None),
            Self::Nudged => (&[1], &[], None),
            Self::Relocated => (&[], &[1], None),
            Self::Shifted => (&[], &[], Some(1)),
        };
        assert_eq!(found, expected, "{self:?}");
        assert!(offsets.section_moved > 0, "{self:?}");
    }
}

/// The code of a module. Offsets are those in the file.
struct Code<'a> {
    /// The start of the code section's content.
    start: u64,
    /// The number of functions that are imported, and so come before the bodies.
    imported: u32,
    bodies: Vec<Range<u64>>,
    instructions: BTreeMap<u64, Operator<'a>>,
}

impl<'a> Code<'a> {
    /// Reads the code of a module.
    fn read(wasm: &'a [u8]) -> Self {
        let (mut start, mut bodies, mut instructions) = (0, Vec::new(), BTreeMap::new());
        let mut imported = 0;
        for payload in Parser::new(0).parse_all(wasm) {
            match payload.unwrap() {
                Payload::ImportSection(imports) => {
                    let imports = imports.into_imports().map(Result::unwrap);
                    let functions = imports.filter(|i| matches!(i.ty, TypeRef::Func(_)));
                    imported = functions.count() as u32;
                }
                Payload::CodeSectionStart {
                    unchecked_range, ..
                } => start = unchecked_range.start,
                Payload::CodeSectionEntry(body) => {
                    bodies.push(body.range());
                    let operators = body.get_operators_reader().unwrap();
                    for operator in operators.into_iter_with_offsets() {
                        let (operator, at) = operator.unwrap();
                        instructions.insert(at, operator);
                    }
                }
                _ => {}
            }
        }
        Self {
            start,
            imported,
            bodies,
            instructions,
        }
    }

    /// The index of the function whose body holds an offset.
    fn function(&self, offset: u64) -> Option<u32> {
        let position = self.bodies.iter().position(|body| body.contains(&offset));
        position.map(|position| self.imported + position as u32)
    }
}

/// Returns true if a rewrite may have replaced an instruction by another.
fn is_replacement(old: &Operator<'_>, new: &Operator<'_>) -> bool {
    match old {
        Operator::MemoryGrow { .. } => matches!(new, Operator::Call { .. }),
        Operator::MemorySize { .. } => {
            matches!(new, Operator::GlobalGet { .. } | Operator::Call { .. })
        }
        Operator::I32Const { value: 0 } | Operator::I32Ne => matches!(new, Operator::I32Eqz),
        _ => false,
    }
}

/// The number of rows of a line table, by how the rewrite treated their functions.
#[derive(Debug, Default, PartialEq, Eq)]
struct Rows {
    at_instructions: usize,
    right: usize,
    nudged: usize,
    relocated: usize,
    shifted: usize,
}

/// Checks that each row of the line tables is at the same instruction as before: at the same offset
/// in the code section, but for the functions that the report names, and where the offset map says.
///
/// Addresses in the line tables count from `base` bytes after the start of the section's content.
#[track_caller]
fn check_rows(before: &[u8], base: u64) -> Rows {
    let rewritten = rewrite(before, &Options::default()).unwrap();
    let (old, new) = (Code::read(before), Code::read(&rewritten.wasm));
    let offsets = &rewritten.report.code_offsets[0];
    assert_eq!(
        old.start.checked_add_signed(offsets.section_moved),
        Some(new.start)
    );
    let mut counts = Rows::default();
    for row in rows(before).iter().filter(|row| row.place.is_some()) {
        let from = old.start + base + row.address;
        // Linkers leave rows of functions that they removed.
        let Some(function) = old.function(from) else {
            continue;
        };
        let to = rewritten.offset_map.get(from).unwrap();
        // The first row of a function can be before its first instruction.
        if let Some(was) = old.instructions.get(&from) {
            counts.at_instructions += 1;
            let is = &new.instructions[&to];
            assert!(
                was == is || is_replacement(was, is),
                "{from:#x}: {was:?} became {is:?}"
            );
        }
        let moved = (to - new.start).cast_signed() - (base + row.address).cast_signed();
        if offsets.relocated.contains(&function) {
            assert!(new.function(to) >= Some(old.imported + old.bodies.len() as u32));
            counts.relocated += 1;
        } else if offsets.nudged.contains(&function) {
            assert!(moved.abs() <= 4, "{from:#x}: {moved}");
            counts.nudged += 1;
        } else if offsets.shifted_from.is_some_and(|first| function >= first) {
            assert!(moved >= 0, "{from:#x}: {moved}");
            counts.shifted += 1;
        } else {
            assert_eq!(moved, 0, "{from:#x}");
            counts.right += 1;
        }
    }
    counts
}

#[test]
fn line_tables_are_right_but_for_the_functions_in_the_report() {
    for way in Way::ALL {
        let module = way.module();
        way.check(
            &rewrite(&module, &Options::default())
                .unwrap()
                .report
                .code_offsets[0],
        );
        // wast counts addresses from after the number of functions.
        let rows = check_rows(&module, 1);
        let moved = [rows.nudged, rows.relocated, rows.shifted];
        let expected = match way {
            Way::InPlace => [false; 3],
            Way::Nudged => [true, false, false],
            Way::Relocated => [false, true, false],
            Way::Shifted => [false, false, true],
        };
        assert_eq!(moved.map(|count| count > 3), expected, "{way:?}: {rows:?}");
        assert!(rows.right >= 2, "{way:?}: {rows:?}");
        let all = rows.right + moved.iter().sum::<usize>();
        assert_eq!(rows.at_instructions, all, "{way:?}: {rows:?}");
    }
}

#[test]
fn every_row_of_a_rust_guest_is_at_its_instruction() {
    let rows = check_rows(&debug_guest(), 0);
    assert!(rows.right > 3000, "{rows:?}");
    assert!(rows.at_instructions > 3000, "{rows:?}");
    assert_eq!((rows.relocated, rows.shifted), (0, 0));
}

/// A stack trace: the function and the offset in the file of each frame.
type Frames = Vec<(u32, u64)>;

/// Checks that a trace of the rewritten module has the frames of the original, each where the offset
/// map says, and one more frame if a function calls its copy.
#[track_caller]
fn check_trace(way: Way, old: &Frames, new: &Frames, map: &OffsetMap) {
    let expected: Vec<_> = old.iter().map(|(_, offset)| map.get(*offset)).collect();
    let is_added = |offset: &u64| map.added_code().iter().any(|code| code.contains(offset));
    let (added, others): (Frames, Frames) = new.iter().partition(|(_, at)| is_added(at));
    let found: Vec<_> = others.iter().map(|(_, offset)| Some(*offset)).collect();
    assert_eq!(found, expected, "{way:?}: {old:x?} became {new:x?}");
    assert_ne!(old, new, "{way:?}: the code section moved in the file");
    let functions: Vec<_> = added.iter().map(|(function, _)| *function).collect();
    let (calls, copy): (&[u32], _) = match way {
        Way::Relocated => (&[1], 4),
        _ => (&[], 1),
    };
    assert_eq!(functions, calls, "{way:?}");
    let functions: Vec<_> = others.iter().map(|(function, _)| *function).collect();
    assert_eq!(functions, [2, copy, 3], "{way:?}");
}

/// Traps in wasmtime. Returns the frames, and the offset of each within its function.
fn trap_in_wasmtime(wasm: &[u8]) -> (Frames, Vec<usize>) {
    let error = Running::new(wasm).call::<(), ()>("trap", ()).unwrap_err();
    let backtrace = error.downcast_ref::<WasmBacktrace>().unwrap();
    let frames = backtrace.frames().iter();
    frames
        .map(|frame| {
            let offset = frame.module_offset().unwrap() as u64;
            ((frame.func_index(), offset), frame.func_offset().unwrap())
        })
        .unzip()
}

#[test]
fn a_trap_in_wasmtime_is_where_the_offset_map_says() {
    for way in Way::ALL {
        let before = way.module();
        let after = rewrite(&before, &Options::default()).unwrap();
        let (old, old_in_functions) = trap_in_wasmtime(&before);
        let (new, new_in_functions) = trap_in_wasmtime(&after.wasm);
        check_trace(way, &old, &new, &after.offset_map);
        // Offsets within a function that did not change are as before, also in shifted code.
        assert_eq!(
            old_in_functions.first(),
            new_in_functions.first(),
            "{way:?}"
        );
        assert_eq!(old_in_functions.last(), new_in_functions.last(), "{way:?}");
    }
}

/// Traps in Node. Returns the frames, or `None` if Node is not installed.
fn trap_in_node(wasm: &[u8]) -> Option<Frames> {
    let folder = tempfile::tempdir().unwrap();
    let module = folder.path().join("module.wasm");
    std::fs::write(&module, wasm).unwrap();
    let script = repository().join("tests/fixtures/node/trap.mjs");
    let output = match Command::new("node").arg(script).arg(module).output() {
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        output => output.unwrap(),
    };
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

#[test]
fn a_trap_in_node_is_where_the_offset_map_says() {
    for way in Way::ALL {
        let before = way.module();
        let after = rewrite(&before, &Options::default()).unwrap();
        let (Some(old), Some(new)) = (trap_in_node(&before), trap_in_node(&after.wasm)) else {
            return skipped("there is no `node` on PATH");
        };
        check_trace(way, &old, &new, &after.offset_map);
    }
}
