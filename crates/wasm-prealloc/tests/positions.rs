//! Shows that the offset map of a rewrite leads to the same instruction, in every way in which code
//! moves.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::HashMap;
use std::fmt::Write as _;

use wasm_prealloc::{CodeOffsets, Options, Rewritten, inspect, rewrite};
use wasmparser::{Operator, Parser, Payload};

/// A module with a memory of one page, `globals` globals and the given functions.
fn module(globals: usize, functions: &str) -> Vec<u8> {
    let mut text = String::from("(module (memory 1 9)");
    for _ in 0..globals {
        write!(text, "(global i32 (i32.const 0))").unwrap();
    }
    wat::parse_str(text + functions + ")").unwrap()
}

/// A function that measures the memory, with a comparison near by that has a shorter form.
const NUDGED: &str = "(func (param i32) (result i32)
    (drop (memory.size))
    (if (local.get 0) (then (return (i32.const 7))))
    (drop (i32.ne (local.get 0) (i32.const 0)))
    (i32.const 1))";

/// A function without such a comparison, and with room for a call.
const RELOCATED: &str = "(func (param i32 i64) (result i32) (local f32)
    (i32.add (i32.add (memory.size) (i32.const 300000)) (memory.grow (local.get 0))))";

/// A function without room for a call.
const SHIFTED: &str = "(func (param i32) (result i32) (memory.size))";

/// A function that neither grows nor measures the memory.
const OTHER: &str = "(func (param i32) (result i32)
    (block (br_if 0 (local.get 0)) (return (i32.const 1))) (unreachable))";

/// The instructions of a module or component by their offsets in the file.
fn instructions(wasm: &[u8]) -> HashMap<u64, Operator<'_>> {
    let mut found = HashMap::new();
    for payload in Parser::new(0).parse_all(wasm) {
        if let Payload::CodeSectionEntry(body) = payload.unwrap() {
            let operators = body.get_operators_reader().unwrap();
            for operator in operators.into_iter_with_offsets() {
                let (operator, offset) = operator.unwrap();
                found.insert(offset, operator);
            }
        }
    }
    found
}

/// Checks that every instruction is where the map says, and returns the code offsets.
#[track_caller]
fn every_instruction_is_found(before: &[u8]) -> Vec<CodeOffsets> {
    let Rewritten {
        wasm: after,
        report,
        offset_map,
        ..
    } = rewrite(before, &Options::default()).unwrap();
    let (old, new) = (instructions(before), instructions(&after));
    for (offset, old) in &old {
        let moved = offset_map.get(*offset).unwrap();
        let new = &new[&moved];
        let is_same = match old {
            Operator::MemoryGrow { .. } => matches!(new, Operator::Call { .. }),
            Operator::MemorySize { .. } => matches!(new, Operator::GlobalGet { .. }),
            Operator::I32Const { value: 0 } | Operator::I32Ne => {
                new == old || matches!(new, Operator::I32Eqz)
            }
            _ => new == old,
        };
        assert!(is_same, "{offset:#x} {old:?} -> {moved:#x} {new:?}");
    }
    report.code_offsets
}

#[test]
fn instructions_are_found_where_no_function_changes() {
    let offsets = every_instruction_is_found(&module(0, OTHER));
    assert!(offsets[0].keeps_section_offsets());
    // A maximum of 65,536 pages takes two bytes more than one of 9, and so does the minimum.
    assert_eq!(offsets[0].section_moved, 4);
}

#[test]
fn instructions_are_found_after_a_replacement_in_place() {
    let offsets = every_instruction_is_found(&module(0, &[NUDGED, OTHER].concat()));
    assert!(offsets[0].keeps_section_offsets());
}

#[test]
fn instructions_are_found_in_a_nudged_function() {
    let offsets = every_instruction_is_found(&module(200, &[OTHER, NUDGED, OTHER].concat()));
    assert_eq!(offsets[0].nudged, [1]);
}

#[test]
fn instructions_are_found_in_a_relocated_function() {
    let offsets = every_instruction_is_found(&module(200, &[OTHER, RELOCATED, OTHER].concat()));
    assert_eq!(offsets[0].relocated, [1]);
}

#[test]
fn instructions_are_found_in_shifted_code() {
    let functions = [OTHER, SHIFTED, OTHER, RELOCATED, NUDGED].concat();
    let offsets = every_instruction_is_found(&module(200, &functions));
    assert_eq!(offsets[0].shifted_from, Some(1));
    assert_eq!(offsets[0].relocated, [3]);
    assert_eq!(offsets[0].nudged, [4]);
}

#[test]
fn instructions_are_found_in_a_component() {
    let globals = "(global i32 (i32.const 0))".repeat(200);
    let component = format!(
        "(component
            (core module (memory 1) {globals} {OTHER} {RELOCATED})
            (component (core module {OTHER}) (core module (memory 1) {NUDGED} {OTHER})))"
    );
    let offsets = every_instruction_is_found(&wat::parse_str(component).unwrap());
    let modules: Vec<_> = offsets.iter().map(|offsets| offsets.module).collect();
    assert_eq!(
        modules,
        [Some(0), Some(1), Some(2)],
        "also one without a memory"
    );
    assert!(offsets[1].section_moved > 0);
}

#[test]
fn the_report_says_by_how_much_the_code_section_moved() {
    let before = wat::parse_str(
        r#"(module
            (memory 1 10)
            (func $g (param i32) (result i32) (memory.grow (local.get 0)))
            (func (export "f") (drop (call $g (i32.const 1))) (unreachable)))"#,
    )
    .unwrap();
    let rewritten = rewrite(&before, &Options::default()).unwrap();
    let offsets = &rewritten.report.code_offsets[0];
    let unreachable = |wasm: &[u8]| -> u64 {
        let mut found = instructions(wasm).into_iter();
        found
            .find(|(_, op)| *op == Operator::Unreachable)
            .unwrap()
            .0
    };
    let (old, new) = (unreachable(&before), unreachable(&rewritten.wasm));
    assert_eq!(old + 13, new);
    assert!(offsets.keeps_section_offsets());
    assert_eq!(offsets.section_moved, 13);
    let moved = |wasm: &[u8]| inspect(wasm).unwrap().modules[0].code_section_moved;
    assert_eq!(moved(&before), None);
    assert_eq!(moved(&rewritten.wasm), Some(13));
}

#[test]
fn code_without_a_counterpart_is_listed() {
    let before = module(200, &[OTHER, RELOCATED].concat());
    let rewritten = rewrite(&before, &Options::default()).unwrap();
    let added = rewritten.offset_map.added_code();
    let counts = added.iter().map(|code| {
        let operators = instructions(&rewritten.wasm);
        operators.keys().filter(|at| code.contains(at)).count()
    });
    // The call of the copy, with no-operations after it; and the function that grows the memory.
    assert_eq!(counts.collect::<Vec<_>>(), [12, 16]);
    let calls = instructions(&rewritten.wasm);
    assert_eq!(
        calls[&(added[0].start + 1)],
        Operator::LocalGet { local_index: 0 }
    );
}

#[test]
fn names_of_locals_follow_a_function_to_its_copy() {
    let function = "(func $f (param $p i32) (param i64) (result i32) (local $l f32)
        (block $b (drop (i32.const 300000)))
        (drop (memory.size)) (memory.grow (local.get $p)))";
    let other = "(func $g (param $q i32) (local $m i32) (loop $c))";
    let before = module(
        200,
        &[other, function, other.replace("$g", "$h").as_str()].concat(),
    );
    let after = rewrite(&before, &Options::default()).unwrap();
    assert_eq!(after.report.code_offsets[0].relocated, [1]);
    let text = wasmprinter::print_bytes(&after.wasm).unwrap();
    let function = |name: &str| {
        let start = text.find(&format!("(func {name} ")).unwrap();
        let end = start + text[start..].find("\n  )").unwrap();
        &text[start..end]
    };
    let (old, copy) = (function("$f"), function("$f.relocated"));
    for name in ["$p", "$l"] {
        assert!(copy.contains(name), "{name} is not in {copy}");
    }
    assert!(old.contains("$p"), "{old}");
    assert!(!old.contains("$l"), "{old}");
    for other in [function("$g"), function("$h")] {
        assert!(other.contains("$q") && other.contains("$m"));
    }
    let mut validator = wasmparser::Validator::new();
    let mut custom = wasmparser::CustomSectionValidator::new();
    let mut bodies = Vec::new();
    for payload in Parser::new(0).parse_all(&after.wasm) {
        let payload = payload.unwrap();
        let valid = validator.payload(&payload).unwrap();
        if let wasmparser::ValidPayload::Func(function, body) = valid {
            bodies.push((custom.current_module_id(), function.index, body));
        }
        custom.payload(&payload, &validator).unwrap();
    }
    for (module, function, body) in &bodies {
        custom.code_section_entry(*module, *function, body).unwrap();
    }
}

#[test]
fn names_of_labels_follow_a_function_to_its_copy() {
    // Label 0 of function 0 is `b`.
    let names = r#"(@custom "name" (after last) "\03\06\01\00\01\00\01b")"#;
    let before = module(200, &[RELOCATED, names].concat());
    let after = rewrite(&before, &Options::default()).unwrap().wasm;
    let names = Parser::new(0)
        .parse_all(&after)
        .find_map(|payload| match payload.unwrap() {
            Payload::CustomSection(section) if section.name() == "name" => Some(section.data()),
            _ => None,
        });
    // Function 1 is the one that replaces `memory.grow`, and function 2 is the copy.
    let moved = [3, 6, 1, 2, 1, 0, 1, b'b'];
    let mut found = names.unwrap().windows(moved.len());
    assert!(found.any(|bytes| bytes == moved), "{names:?}");
}

#[test]
fn offsets_that_the_output_lacks_map_to_nothing() {
    let before = module(200, NUDGED);
    let map = rewrite(&before, &Options::default()).unwrap().offset_map;
    let mut bytes = before.windows(2);
    let size = bytes.position(|bytes| bytes == [0x3f, 0]).unwrap() as u64;
    assert!(map.get(size).is_some());
    assert_eq!(map.get(size + 1), None, "within a replaced instruction");
    assert_eq!(map.get(before.len() as u64), None);
    assert_eq!(map.get(u64::MAX), None);
}

#[test]
fn an_unchanged_module_maps_to_itself() {
    let before = wat::parse_str("(module (memory 65536 65536) (func unreachable))").unwrap();
    let rewritten = rewrite(&before, &Options::default()).unwrap();
    let last = before.len() as u64 - 1;
    assert_eq!(rewritten.report.code_offsets, []);
    assert_eq!(rewritten.offset_map.get(last), Some(last));
}
