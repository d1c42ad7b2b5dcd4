//! Shows what a rewrite does not change: other sections, other bodies, and code offsets.
//! The workspace's end-to-end tests run rewritten modules to show that they behave alike.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fmt::Write as _;
use std::ops::Range;

use wasm_prealloc::{
    Analysis, CodeOffsets, EmulateFrom, Error, Growth, GrowthHandling, Options, Rewritten,
    Validate, Warning, inspect, rewrite, rewrite_into, verify,
};
use wasmparser::{Parser, Payload, Validator, WasmFeatures};

/// The default options, except for those that `set` changes.
fn options(set: impl FnOnce(&mut Options)) -> Options {
    let mut options = Options::default();
    set(&mut options);
    options
}

/// A rewrite with default options, which must succeed.
fn rewritten(module: &[u8]) -> Rewritten<'_> {
    rewrite(module, &Options::default()).unwrap()
}

/// A rewrite with default options that moves code: the offsets that change, and the bodies before
/// and after it.
fn moved(module: &[u8]) -> (CodeOffsets, Bodies, Bodies) {
    let mut rewritten = rewritten(module);
    let offsets = rewritten.report.code_offsets.remove(0);
    (offsets, bodies(module), bodies(&rewritten.wasm))
}

/// The id of every section, and the range of its content.
fn sections(wasm: &[u8]) -> Vec<(u8, Range<usize>)> {
    let payloads = Parser::new(0).parse_all(wasm);
    let sections = payloads.filter_map(|payload| payload.unwrap().as_section());
    sections
        .map(|(id, range)| (id, range.start as usize..range.end as usize))
        .collect()
}

/// The range of the content of the first section with an id.
fn section(wasm: &[u8], wanted: u8) -> Range<usize> {
    let mut sections = sections(wasm).into_iter();
    sections.find(|(id, _)| *id == wanted).unwrap().1
}

/// The offset of every function body within the code section, and its bytes.
type Bodies = Vec<(usize, Vec<u8>)>;

fn bodies(wasm: &[u8]) -> Bodies {
    let mut bodies = Vec::new();
    let mut start = 0;
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.unwrap() {
            Payload::CodeSectionStart {
                unchecked_range, ..
            } => start = unchecked_range.start as usize,
            Payload::CodeSectionEntry(body) => {
                let at = body.range().start as usize - start;
                bodies.push((at, body.as_bytes().to_vec()));
            }
            _ => {}
        }
    }
    bodies
}

/// A module with the functions in `first`, and `count` more that do nothing.
fn with_functions(first: &str, count: usize) -> Vec<u8> {
    let mut text = format!("(module (memory 1 9) {first}");
    for _ in 0..count {
        write!(text, "(func nop)").unwrap();
    }
    wat::parse_str(text + ")").unwrap()
}

/// A module with every kind of section, and custom sections between them.
const FULL: &str = r#"(module
    (@custom "first" (before first) "1")
    (type (func)) (type (func (param i64)))
    (@custom "second" (after type) "22")
    (import "a" "f" (func (type 0)))
    (import "a" "g" (global i32))
    (func $grow (result i32) (memory.grow (i32.const 2)))
    (func $size (result i32) (memory.size))
    (func $other (type 1) (nop))
    (table 3 funcref)
    (memory 1 20)
    (tag (type 1))
    (@custom "third" (after memory) "333")
    (global (mut i64) (i64.const 5))
    (export "grow" (func $grow)) (export "size" (func $size))
    (start 0)
    (elem (i32.const 0) func $grow $size)
    (@custom "fourth" (before code) "4444")
    (data $d (i32.const 4) "data") (data "passive")
    (func (memory.init 1 (i32.const 0) (i32.const 0) (i32.const 0)))
    (@custom "last" (after last) "\00\ff"))"#;

#[test]
fn sections_that_no_edit_names_are_copied_as_they_are() {
    let before = wat::parse_str(FULL).unwrap();
    let after = rewritten(&before).wasm;
    let (old, new) = (sections(&before), sections(&after));
    let ids = |sections: &[(u8, Range<usize>)]| -> Vec<u8> {
        sections.iter().map(|(id, _)| *id).collect()
    };
    // Two sections are added at the end: the producers, and the limits before the rewrite.
    assert_eq!(ids(&new), [ids(&old), vec![0, 0]].concat());
    let mut copied = 0;
    for ((id, old), (_, new)) in old.iter().zip(&new) {
        const EDITED: [u8; 5] = [1, 3, 5, 6, 10];
        let is_names = *id == 0 && before[old.clone()].starts_with(b"\x04name");
        if !EDITED.contains(id) && !is_names {
            assert_eq!(before[old.clone()], after[new.clone()], "section {id}");
            copied += 1;
        }
    }
    assert_eq!(
        copied, 13,
        "all but type, function, memory, global, code and names"
    );
}

#[test]
fn a_replacement_of_the_same_length_moves_no_code() {
    let before = wat::parse_str(FULL).unwrap();
    let (offsets, old, new) = moved(&before);
    assert!(offsets.keeps_section_offsets(), "{offsets:?}");
    assert_eq!(new.len(), old.len() + 1, "one function is added");
    for ((old_at, old), (new_at, new)) in old.iter().zip(&new) {
        assert_eq!(old_at, new_at);
        assert_eq!(old.len(), new.len());
    }
    assert_eq!(old[2..], new[2..4], "bodies that no edit names");
}

#[test]
fn a_longer_replacement_moves_only_its_own_function() {
    let before = with_functions(
        "(func (param i32) (result i32) (i32.add (memory.grow (local.get 0)) (memory.size)))",
        200,
    );
    let (offsets, old, new) = moved(&before);
    assert_eq!(offsets.relocated, [0]);
    assert_eq!(offsets.shifted_from, None);
    assert_eq!(new.len(), old.len() + 2, "the growth function and the copy");
    assert_eq!(old[0].1.len(), new[0].1.len());
    assert_eq!(old[1..], new[1..201], "other functions do not move");
}

#[test]
fn a_body_without_room_for_a_call_is_reported() {
    let before = with_functions(
        "(func) (func (param i32) (result i32) (memory.grow (local.get 0)))",
        200,
    );
    let (offsets, old, new) = moved(&before);
    assert!(offsets.relocated.is_empty());
    assert_eq!(offsets.shifted_from, Some(1));
    assert_eq!(old[0], new[0]);
    assert_eq!(old[2].0 + 1, new[2].0, "one byte more before it");
}

#[test]
fn a_function_count_that_widens_is_reported() {
    // 127 functions are counted in one byte, 128 in two.
    let before = with_functions(
        "(func (drop (memory.grow (i32.const 1))) nop nop nop nop)",
        126,
    );
    let (offsets, old, new) = moved(&before);
    assert_eq!(offsets.shifted_from, Some(0));
    assert_eq!(old[5].0 + 1, new[5].0);
}

#[test]
fn every_choice_gives_a_valid_pinned_module_that_a_second_rewrite_does_not_change() {
    use Growth::{Auto, Emulate, Keep, Pregrown};

    let modules = [
        wat::parse_str(FULL).unwrap(),
        with_functions(
            "(func (result i32) memory.size) (func (drop (memory.grow (i32.const 1))))",
            300,
        ),
        with_functions("(func (result i32) memory.size)", 3),
        with_functions("", 3),
        wat::parse_str("(module (memory 16 16) (func (drop (memory.grow (i32.const 1)))))")
            .unwrap(),
        wat::parse_str("(module (memory 65536 65536) (func (drop (memory.size))))").unwrap(),
    ];
    for module in &modules {
        for growth in [Auto, Emulate, Pregrown, Keep] {
            for pages in [64, 65_535, 65_536] {
                for validate in [Validate::Full, Validate::Changed] {
                    let options = options(|options| {
                        options.growth = growth;
                        options.pages = pages;
                        options.validate = validate;
                    });
                    let rewritten = match rewrite(module, &options) {
                        Ok(rewritten) => rewritten,
                        Err(error) => {
                            let expected = ["minimum-exceeds-target", "no-natural-minimum"];
                            assert!(
                                expected.contains(&error.kind()),
                                "{growth} {pages}: {error}"
                            );
                            assert_eq!(verify(module, 65_536).map(|m| m[0].minimum), Ok(65_536));
                            continue;
                        }
                    };
                    verify(&rewritten.wasm, pages).unwrap();
                    Validator::new_with_features(WasmFeatures::all())
                        .validate_all(&rewritten.wasm)
                        .unwrap();
                    let again = rewrite(&rewritten.wasm, &options).unwrap();
                    assert!(again.wasm == rewritten.wasm, "{growth} {pages} {validate}");
                }
            }
        }
    }
}

#[test]
fn a_rewrite_with_nothing_to_do_returns_the_input() {
    for text in [
        "(module)",
        "(module (func))",
        "(module (memory 65536 65536))",
    ] {
        let module = wat::parse_str(text).unwrap();
        let rewritten = rewritten(&module);
        assert_eq!(rewritten.wasm, module);
        assert!(matches!(rewritten.wasm, std::borrow::Cow::Borrowed(_)));
    }
    let module = wat::parse_str("(module)").unwrap();
    assert_eq!(rewritten(&module).report.warnings, [Warning::NoMemory]);
}

#[test]
fn a_matching_type_is_used_again() {
    let text = "(module (type (func)) (type (func (param i32) (result i32))) (memory 1)
        (func (type 0) (drop (memory.grow (i32.const 1)))))";
    let before = wat::parse_str(text).unwrap();
    let after = rewritten(&before).wasm;
    assert_eq!(before[section(&before, 1)], after[section(&after, 1)]);
}

#[test]
fn padded_indices_leave_room_for_the_replacement() {
    // memory.grow with its index 0 in five bytes, in a module whose call needs two.
    let mut before = with_functions(
        "(func (drop (memory.grow (i32.const 1))) nop nop nop nop)",
        200,
    );
    let mut pairs = before.windows(2);
    let at = pairs.position(|pair| pair == [0x40, 0x00]).unwrap();
    // The index is padded over the four nops after the drop.
    assert_eq!(before[at + 2..at + 7], [0x1a, 1, 1, 1, 1]);
    before[at..at + 7].copy_from_slice(&[0x40, 0x80, 0x80, 0x80, 0x80, 0x00, 0x1a]);
    let rewritten = rewritten(&before);
    assert_eq!(rewritten.report.memories[0].sites.grow, 1);
    assert!(rewritten.report.code_offsets[0].keeps_section_offsets());
    // A call of function 201, then the drop and the end.
    let call = [0x10, 0xc9, 0x81, 0x80, 0x80, 0x00, 0x1a, 0x0b];
    assert_eq!(bodies(&rewritten.wasm)[0].1[3..], call);
}

#[test]
fn bytes_within_other_instructions_are_not_changed() {
    let text = "(module (memory 1)
        (func (result i32) (i32.const 0x1fc0) (i32.const 0x1fbf) i32.add)
        (func (result i64) (i64.const 0x2040))
        (func (block (loop (nop)))))";
    let module = wat::parse_str(text).unwrap();
    let rewritten = rewritten(&module);
    assert_eq!(rewritten.report.memories[0].growth, GrowthHandling::None);
    assert_eq!(bodies(&module), bodies(&rewritten.wasm));
}

#[test]
fn verify_reads_nothing_after_the_memory_section() {
    let module =
        wat::parse_str("(module (memory 65536 65536) (func (result i32) memory.size))").unwrap();
    let memory = section(&module, 5);
    verify(&module[..memory.end], 65_536).unwrap();
    let error = verify(&module[..memory.end - 1], 65_536).unwrap_err();
    assert!(error.to_string().contains("malformed"), "{error}");
}

/// A module whose only fault is after its last site.
fn with_a_late_fault() -> Vec<u8> {
    let mut module = with_functions("(func (drop (memory.grow (i32.const 1))) nop)", 200);
    let body = [0x40, 0x00, 0x1a, 0x01, 0x0b];
    let at = module.windows(5).position(|bytes| bytes == body).unwrap();
    module[at + 3] = 0xff;
    module
}

#[test]
fn inspect_refuses_what_is_invalid() {
    let error = inspect(&with_a_late_fault()).unwrap_err();
    assert_eq!(error.kind(), "invalid");
    assert!(
        error.to_string().contains("illegal opcode: 0xff"),
        "{error}"
    );
}

/// The search for sites ends after the last one. A rewrite reads the whole body to make room.
#[test]
fn inspect_without_validation_gives_the_refusal_of_a_fault_after_the_last_site() {
    let module = with_a_late_fault();
    let options = options(|options| options.validate = Validate::Changed);
    let inspection = Analysis::new(&module)
        .unwrap()
        .inspect_with(&options)
        .unwrap();
    let refusal = inspection.refusal.unwrap();
    assert_eq!(refusal.kind(), "malformed");
    assert!(
        refusal.to_string().contains("illegal opcode: 0xff"),
        "{refusal}"
    );
    assert_eq!(inspection.modules[0].memories[0].rewrite, None);
}

#[test]
fn emulation_starts_at_the_requested_page() {
    let text = r#"(module (memory 65536 65536) (global (export "__heap_base") i32 (i32.const 65537))
        (func (drop (memory.grow (i32.const 1)))))"#;
    let module = wat::parse_str(text).unwrap();
    for (from, pages) in [(EmulateFrom::HeapBase, 2), (EmulateFrom::Pages(40), 40)] {
        let options = options(|options| options.emulate_from = from);
        let report = rewrite(&module, &options).unwrap().report;
        let growth = report.memories[0].growth.to_string();
        assert_eq!(growth, format!("emulated from page {pages} up to 65536"));
        assert_eq!(report.warnings, []);
    }
}

/// The embedder cannot provide more pages than the maximum of an import.
#[test]
fn data_above_the_maximum_of_an_import_is_refused() {
    let module = wat::parse_str(
        r#"(module (import "env" "memory" (memory 1 2)) (data (i32.const 131072) "above"))"#,
    );
    let error = rewrite(&module.unwrap(), &Options::default()).unwrap_err();
    assert!(
        matches!(error, Error::DataAboveMinimum { pages: 2, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("at most 2 pages"), "{error}");
}

/// The offset at which a module that is not validated is malformed.
fn malformed_at(module: &[u8]) -> Option<u64> {
    let options = options(|options| options.validate = Validate::Changed);
    let error = rewrite(module, &options).unwrap_err();
    assert_eq!(error.kind(), "malformed", "{error}");
    error.offset()
}

#[test]
fn a_repeated_section_is_malformed() {
    let module = wat::parse_str("(module (memory 65536 65536))").unwrap();
    let memory = section(&module, 5);
    let mut doubled = module.clone();
    doubled.extend_from_slice(&module[memory.start - 2..memory.end]);
    assert_eq!(malformed_at(&doubled), Some(module.len() as u64));
}

/// An added body would follow the bytes that are no body, and its function would get another body.
#[test]
fn code_after_the_last_body_is_malformed() {
    let grows = "(func (result i32) (memory.grow (i32.const 1)))";
    let mut module = with_functions(grows, 3);
    let (functions, code) = (section(&module, 3), section(&module, 10));
    // Both sections count one function less, and the type of the last function is removed.
    assert_eq!((module[functions.start], module[code.start]), (4, 4));
    module[code.start] = 3;
    module[functions.start] = 3;
    module[functions.start - 1] -= 1;
    module.remove(functions.end - 1);
    let last_body = code.end as u64 - 1 - 4;
    assert_eq!(malformed_at(&module), Some(last_body));
}

/// These instructions continue a block, and sites can follow them up to the end of the code.
#[test]
fn sites_after_an_instruction_that_continues_a_block_are_found() {
    let bodies = [
        "(if (i32.const 1) (then nop) (else (drop (memory.size))))",
        "try nop catch 0 memory.size drop end",
        "try nop catch_all memory.size drop end",
        "try try nop delegate 0 memory.size drop catch 0 end",
    ];
    for body in bodies {
        for padding in ["", "(func nop nop nop nop nop nop nop nop nop)"] {
            let text = format!("(module (memory 1) (tag) (func {body}) {padding})");
            let module = wat::parse_str(&text).unwrap();
            let rewritten = rewritten(&module);
            assert_eq!(rewritten.report.memories[0].sites.size, 1, "{text}");
        }
    }
}

/// A buffer that is used for several modules holds the result of each, and nothing after an error.
#[test]
fn a_buffer_can_be_used_again() {
    let large = with_functions("(func (result i32) (memory.grow (i32.const 1)))", 500);
    let small = with_functions("(func (result i32) memory.size)", 1);
    let pinned = rewritten(&small).wasm;
    let mut output = vec![1, 2, 3];
    for module in [&large[..], &small, &pinned, &large] {
        let report = rewrite_into(module, &Options::default(), &mut output).unwrap();
        let fresh = rewritten(module);
        assert_eq!(output, *fresh.wasm);
        assert_eq!(report, fresh.report);
    }
    let options = options(|options| options.pages = 0);
    rewrite_into(&large, &options, &mut output).unwrap_err();
    assert!(output.is_empty());
}
