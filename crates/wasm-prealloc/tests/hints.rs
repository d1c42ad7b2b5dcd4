//! Shows that hints in `metadata.code.*` sections follow the code that they are about, and that hints
//! without such code are reported.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use wasm_prealloc::{CodeOffsets, Options, Rewritten, Warning, rewrite};
use wasmparser::{
    CustomSectionValidator, KnownCustom, Operator, Parser, Payload, ValidPayload, Validator,
};

/// A module with a memory that can grow, `globals` globals and the given functions.
fn module(globals: usize, functions: &str) -> Vec<u8> {
    let globals = "(global i32 (i32.const 0))".repeat(globals);
    let text = format!("(module (memory 1 10) {globals} {functions})");
    wat::parse_str(text).unwrap()
}

fn rewritten(wasm: &[u8]) -> Rewritten<'_> {
    rewrite(wasm, &Options::default()).unwrap()
}

/// The warnings of a rewrite that are about positions.
fn warnings(rewritten: &Rewritten<'_>) -> Vec<Warning> {
    let warnings = rewritten.report.warnings.iter().cloned();
    let is_position = |warning: &Warning| {
        matches!(
            warning,
            Warning::HintsDropped { .. } | Warning::SourceMapStays { .. }
        )
    };
    warnings.filter(is_position).collect()
}

/// A function with two hints and a `memory.size` before and between them.
const NUDGED: &str = r#"(func (param i32) (result i32)
    (drop (memory.size))
    (@metadata.code.branch_hint "\01") (if (local.get 0) (then (return (i32.const 7))))
    (drop (i32.ne (local.get 0) (i32.const 0)))
    (block (@metadata.code.branch_hint "\00") (br_if 0 (i32.eqz (local.get 0))))
    (i32.const 1))"#;

/// A function with hints, in which nothing can be shortened.
const RELOCATED: &str = r#"(func (param i32 i64) (result i32)
    (@metadata.code.branch_hint "\01") (if (local.get 0) (then (return (i32.const 300000))))
    (drop (memory.size))
    (block (@metadata.code.branch_hint "\00") (br_if 0 (i32.eqz (local.get 0))))
    (memory.grow (local.get 0)))"#;

/// A function without room for a call.
const SHIFTED: &str = r#"(func (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)
    (drop (memory.size))
    (@metadata.code.branch_hint "\01") (if (local.get 0) (then)))"#;

/// A function with a hint, which neither grows nor measures the memory.
const OTHER: &str = r#"(func (param i32)
    (block (@metadata.code.branch_hint "\01") (br_if 0 (local.get 0)) (unreachable)))"#;

/// A branch hint: the function's index, the instruction that it is at, and its value.
type Hint = (u32, String, bool);

/// The branch hints of a module, which must be valid.
#[track_caller]
fn branch_hints(wasm: &[u8]) -> Vec<Hint> {
    let (mut validator, mut custom) = (Validator::new(), CustomSectionValidator::new());
    let (mut bodies, mut hints) = (Vec::new(), Vec::new());
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload.unwrap();
        if let ValidPayload::Func(function, body) = validator.payload(&payload).unwrap() {
            bodies.push((custom.current_module_id(), function.index, body));
        }
        custom.payload(&payload, &validator).unwrap();
        if let Payload::CustomSection(section) = payload
            && let KnownCustom::BranchHints(functions) = section.as_known()
        {
            for function in functions {
                let function = function.unwrap();
                let of_function = function.hints.into_iter().map(Result::unwrap);
                hints.extend(of_function.map(|hint| (function.func, hint)));
            }
        }
    }
    for (module, function, body) in &bodies {
        custom.code_section_entry(*module, *function, body).unwrap();
    }
    let describe = |(function, hint): (u32, wasmparser::BranchHint)| {
        let (.., body) = bodies
            .iter()
            .find(|(_, index, _)| *index == function)
            .unwrap();
        let offset = body.range().start + u64::from(hint.func_offset);
        let operators = body
            .get_operators_reader()
            .unwrap()
            .into_iter_with_offsets();
        let mut operators = operators.map(Result::unwrap);
        let at: (Operator<'_>, u64) = operators.find(|(_, at)| *at == offset).unwrap();
        (function, format!("{:?}", at.0), hint.taken)
    };
    hints.into_iter().map(describe).collect()
}

/// Checks that a rewrite keeps the branch hints. `copies` lists functions with the index of their copy,
/// which has the hints of the function afterwards.
#[track_caller]
fn hints_follow(before: &[u8], copies: &[(u32, u32)]) -> CodeOffsets {
    let mut after = rewritten(before);
    let mut expected = branch_hints(before);
    assert!(expected.len() > 1, "{expected:?}");
    for (function, ..) in &mut expected {
        if let Some((_, copy)) = copies.iter().find(|(old, _)| old == function) {
            *function = *copy;
        }
    }
    expected.sort_by_key(|(function, ..)| *function);
    assert_eq!(branch_hints(&after.wasm), expected);
    assert_eq!(warnings(&after), []);
    after.report.code_offsets.remove(0)
}

#[test]
fn hints_stay_where_no_code_moves() {
    let before = module(0, &[NUDGED, OTHER].concat());
    let offsets = hints_follow(&before, &[]);
    assert!(offsets.keeps_section_offsets());
}

#[test]
fn hints_follow_nudged_instructions() {
    let before = module(200, &[OTHER, NUDGED, OTHER].concat());
    let offsets = hints_follow(&before, &[]);
    assert_eq!(offsets.nudged, [1]);
}

#[test]
fn hints_follow_a_function_to_its_copy() {
    let before = module(200, &[OTHER, RELOCATED, OTHER, NUDGED, RELOCATED].concat());
    // Function 5 is the one that replaces `memory.grow`.
    let offsets = hints_follow(&before, &[(1, 6), (4, 7)]);
    assert_eq!(offsets.relocated, [1, 4]);
}

#[test]
fn hints_follow_shifted_code() {
    let before = module(200, &[OTHER, SHIFTED, NUDGED, OTHER, RELOCATED].concat());
    let offsets = hints_follow(&before, &[(4, 6)]);
    assert_eq!(offsets.shifted_from, Some(1));
}

#[test]
fn hints_follow_in_a_component() {
    let globals = "(global i32 (i32.const 0))".repeat(200);
    let text = format!(
        "(component
            (core module (memory 1) {globals} {OTHER} {RELOCATED})
            (core module (memory 1) {globals} {NUDGED}))"
    );
    let before = wat::parse_str(text).unwrap();
    let after = rewritten(&before);
    let modules = |wasm: &[u8]| -> Vec<Vec<Hint>> {
        let payloads = Parser::new(0).parse_all(wasm);
        let modules = payloads.filter_map(|payload| match payload.unwrap() {
            Payload::ModuleSection {
                unchecked_range, ..
            } => Some(unchecked_range.start as usize..unchecked_range.end as usize),
            _ => None,
        });
        modules.map(|range| branch_hints(&wasm[range])).collect()
    };
    let mut expected = modules(&before);
    // Function 2 is the one that replaces `memory.grow`.
    for (function, ..) in &mut expected[0][1..] {
        *function = 3;
    }
    assert_eq!(modules(&after.wasm), expected);
}

/// A module with a section `metadata.code.NAME`.
fn with_section(name: &str, content: &[u8], functions: &str) -> Vec<u8> {
    let content: String = content.iter().map(|byte| format!("\\{byte:02x}")).collect();
    let section = format!("(@custom \"metadata.code.{name}\" (before code) \"{content}\")");
    module(200, &[functions, &section].concat())
}

/// The contents of the `metadata.code.*` sections of a module, except for branch hints.
fn sections(wasm: &[u8]) -> Vec<Vec<u8>> {
    let payloads = Parser::new(0).parse_all(wasm);
    let sections = payloads.filter_map(|payload| match payload.unwrap() {
        Payload::CustomSection(section)
            if section.name().starts_with("metadata.code.")
                && !section.name().ends_with("branch_hint") =>
        {
            Some(section.data().to_vec())
        }
        _ => None,
    });
    sections.collect()
}

/// The offset of the first `memory.size` in the first body of a module.
fn offset_of_size(wasm: &[u8]) -> u8 {
    let body = Parser::new(0)
        .parse_all(wasm)
        .find_map(|payload| match payload.unwrap() {
            Payload::CodeSectionEntry(body) => Some(body),
            _ => None,
        });
    let body = body.unwrap().as_bytes();
    body.windows(2)
        .position(|bytes| bytes == [0x3f, 0])
        .unwrap() as u8
}

#[test]
fn a_hint_about_a_function_holds_for_it_and_for_its_copy() {
    // Function 0 has data of one byte at offset 0, and so has function 1.
    let content = [2, 0, 1, 0, 1, b'a', 1, 1, 0, 1, b'b'];
    let before = with_section("hotness", &content, &[RELOCATED, OTHER].concat());
    let after = rewritten(&before);
    assert_eq!(after.report.code_offsets[0].relocated, [0]);
    let expected = [3, 0, 1, 0, 1, b'a', 1, 1, 0, 1, b'b', 3, 1, 0, 1, b'a'];
    assert_eq!(sections(&after.wasm), [expected]);
    assert_eq!(warnings(&after), []);
}

#[test]
fn a_hint_within_an_instruction_is_dropped_and_reported() {
    let size = offset_of_size(&module(0, NUDGED));
    // At the instruction, and at its second byte.
    let content = [1, 0, 2, size, 2, b'a', b'b', size + 1, 0];
    let before = with_section("instr_freq", &content, NUDGED);
    let after = rewritten(&before);
    let found = sections(&after.wasm);
    assert_eq!(found, [vec![1, 0, 1, size, 2, b'a', b'b']]);
    let [warning] = &warnings(&after)[..] else {
        panic!("{:?}", after.report);
    };
    assert!(matches!(
        warning,
        Warning::HintsDropped { hints: Some(1), .. }
    ));
    assert_eq!(
        warning.to_string(),
        "1 hints in the section `metadata.code.instr_freq` were not at an instruction, and were \
         dropped"
    );
}

#[test]
fn a_section_of_unknown_form_is_dropped_and_reported_if_code_moves() {
    for content in [
        &[1, 0, 1][..],
        b"unknown",
        &[2, 1, 0, 0, 0],
        &[1, 9, 1, 1, 0],
        &[0, 0],
    ] {
        let before = with_section("unknown", content, NUDGED);
        let after = rewritten(&before);
        assert_eq!(sections(&after.wasm), [[0; 0]; 0], "{content:?}");
        let [
            Warning::HintsDropped {
                section,
                hints: None,
                ..
            },
        ] = &warnings(&after)[..]
        else {
            panic!("{content:?}: {:?}", after.report);
        };
        assert_eq!(section, "metadata.code.unknown");
        Validator::new().validate_all(&after.wasm).unwrap();

        let before = with_section("unknown", content, OTHER);
        let after = rewritten(&before);
        assert_eq!(sections(&after.wasm), [content]);
        assert_eq!(warnings(&after), []);
    }
}

#[test]
fn a_source_map_that_does_not_follow_is_reported() {
    let text = r#"(module (memory 1 10) (func unreachable)
        (@custom "sourceMappingURL" "\05a.map"))"#;
    let before = wat::parse_str(text).unwrap();
    let after = rewritten(&before);
    let [warning] = &warnings(&after)[..] else {
        panic!("{:?}", after.report);
    };
    assert!(matches!(warning, Warning::SourceMapStays { url, module: None, .. } if url == "a.map"));
    let pinned = wat::parse_str(text.replace("1 10", "65536 65536")).unwrap();
    assert_eq!(warnings(&rewritten(&pinned)), []);
}
