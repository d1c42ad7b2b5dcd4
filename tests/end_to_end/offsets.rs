//! Debug information stays correct although it is copied unchanged: every call in a debug build keeps
//! its line, and a backtrace shows the same files and lines.

use std::collections::HashMap;

use addr2line::Context;
use gimli::{Dwarf, EndianSlice, LittleEndian};
use wasm_prealloc::{Options, Rewritten, rewrite};
use wasmparser::{Operator, Parser, Payload};
use wasmtime::WasmBacktrace;

use crate::running::Running;

type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// Reads the line tables of a module. Addresses are offsets within the code section.
fn lines(wasm: &[u8]) -> Context<Slice<'_>> {
    let mut sections: HashMap<&str, &[u8]> = HashMap::new();
    for payload in Parser::new(0).parse_all(wasm) {
        if let Payload::CustomSection(section) = payload.unwrap() {
            sections.insert(section.name(), section.data());
        }
    }
    let load = |id: gimli::SectionId| -> Result<Slice<'_>, gimli::Error> {
        let bytes = sections.get(id.name()).copied().unwrap_or_default();
        Ok(EndianSlice::new(bytes, LittleEndian))
    };
    Context::from_dwarf(Dwarf::load(load).unwrap()).unwrap()
}

fn location(lines: &Context<Slice<'_>>, address: u64) -> Option<(String, u32)> {
    let location = lines.find_location(address).unwrap()?;
    Some((location.file?.to_owned(), location.line?))
}

/// Returns the offsets of all calls within the code section, by function. Calls of functions with an
/// index of at least `added` are left out.
fn calls(wasm: &[u8], added: u32) -> Vec<Vec<u64>> {
    let mut start = 0;
    let mut functions = Vec::new();
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.unwrap() {
            Payload::CodeSectionStart {
                unchecked_range, ..
            } => start = unchecked_range.start,
            Payload::CodeSectionEntry(body) => {
                let operators = body.get_operators_reader().unwrap();
                let mut calls = Vec::new();
                for operator in operators.into_iter_with_offsets() {
                    match operator.unwrap() {
                        (Operator::Call { function_index }, _) if function_index >= added => {}
                        (Operator::Call { .. } | Operator::CallIndirect { .. }, at) => {
                            calls.push(at - start);
                        }
                        _ => {}
                    }
                }
                functions.push(calls);
            }
            _ => {}
        }
    }
    functions
}

/// Returns the stress guest, built for debugging.
pub(crate) fn debug_guest() -> Vec<u8> {
    std::fs::read(wasm_prealloc_tests::debug_guest().unwrap()).unwrap()
}

#[test]
fn every_call_keeps_its_line() {
    let before = debug_guest();
    let Rewritten {
        wasm: after,
        report,
        ..
    } = rewrite(&before, &Options::default()).unwrap();
    let wasm_prealloc::GrowthHandling::Emulated {
        function: Some(added),
        ..
    } = report.memories[0].growth
    else {
        panic!("the guest grows its memory: {report:?}");
    };
    for offsets in &report.code_offsets {
        assert!(offsets.relocated.is_empty(), "{offsets:?}");
        assert_eq!(offsets.shifted_from, None);
    }
    let (old_lines, new_lines) = (lines(&before), lines(&after));
    let (old, new) = (calls(&before, u32::MAX), calls(&after, added));
    let (mut compared, mut with_line) = (0, 0);
    // The functions after those of the original are the rewriter's.
    for (function, (old, new)) in old.iter().zip(&new).enumerate() {
        assert_eq!(old.len(), new.len(), "function {function}");
        for (&old, &new) in old.iter().zip(new) {
            let expected = location(&old_lines, old);
            assert_eq!(
                location(&new_lines, new),
                expected,
                "function {function}, {old:#x}"
            );
            compared += 1;
            with_line += usize::from(expected.is_some());
        }
    }
    assert!(
        compared > 400 && with_line > compared / 2,
        "{with_line} of {compared} have a line"
    );
}

/// A backtrace: for each frame the function, and the files and lines where known.
type Frames = Vec<(Option<String>, Vec<(Option<String>, Option<u32>)>)>;

/// Runs the guest on an input that is too short, so that it panics.
fn backtrace(wasm: &[u8]) -> Frames {
    let mut running = Running::new(wasm);
    let error = running.call::<(), ()>("_start", ()).unwrap_err();
    let backtrace = error.downcast_ref::<WasmBacktrace>().unwrap();
    let frames = backtrace.frames().iter();
    frames
        .map(|frame| {
            let symbols = frame.symbols().iter();
            let lines = symbols.map(|s| (s.file().map(str::to_owned), s.line()));
            (frame.func_name().map(str::to_owned), lines.collect())
        })
        .collect()
}

#[test]
fn a_backtrace_shows_the_same_files_and_lines() {
    let before = debug_guest();
    let after = rewrite(&before, &Options::default()).unwrap().wasm;
    let expected = backtrace(&before);
    assert_eq!(backtrace(&after), expected);
    let in_guest = |file: &Option<String>| {
        file.as_deref()
            .is_some_and(|file| file.ends_with("memory-stress/src/lib.rs"))
    };
    let mut lines = expected.iter().flat_map(|(_, lines)| lines);
    assert!(
        lines.any(|(file, line)| in_guest(file) && line.is_some()),
        "{expected:?}"
    );
}
