//! Source maps of real toolchains, moved along by the command: the places in a stack trace stay the
//! same.

use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

use oxc_sourcemap::{SourceMap, Token};
use serde_json::Value;
use wasm_prealloc::{Options, rewrite};
use wasm_prealloc_tests::{Profile, command, install_packages, repository, skipped};
use wasmtime::WasmBacktrace;

use crate::line_table::{code_start, rows};
use crate::offsets::debug_guest;
use crate::running::Running;

/// Rewrites `before.wasm` in a folder to `after.wasm`, with its source map.
fn rewrite_with_map(folder: &Path) {
    let output = Command::new(command(Profile::Dev).unwrap())
        .args(["rewrite", "before.wasm", "-o", "after.wasm"])
        .args(["--source-map", "before.wasm.map"])
        .args(["--source-map-out", "after.wasm.map"])
        .current_dir(folder)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
}

/// Runs `source-map.mjs`. Returns its output, or `None` if Node is not installed.
fn node(folder: &Path, args: &[&str]) -> Option<String> {
    let script = repository().join("tests/fixtures/clients/source-map.mjs");
    let command = Command::new("node")
        .arg(script)
        .args(args)
        .current_dir(folder)
        .output();
    let output = match command {
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        output => output.unwrap(),
    };
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    Some(String::from_utf8(output.stdout).unwrap())
}

/// Returns the places of the frames of a trap, and the number of frames without one.
fn places(folder: &Path, module: &str, map: &str) -> (Vec<String>, usize) {
    let frames = node(folder, &["trace", module, map]).unwrap();
    let frames = frames.lines().map(|line| {
        let frame: Value = serde_json::from_str(line).unwrap();
        frame["place"].as_str().map(str::to_owned)
    });
    let (places, without): (Vec<_>, Vec<_>) = frames.partition(Option::is_some);
    (places.into_iter().flatten().collect(), without.len())
}

#[test]
fn the_source_map_of_an_assemblyscript_program_names_the_same_places() {
    let packages = repository().join("tests/fixtures/clients");
    if let Some(why) = install_packages(&packages).unwrap() {
        return skipped(&why);
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    if node(folder, &["compile", "before.wasm"]).is_none() {
        return skipped("there is no `node` on PATH");
    }
    rewrite_with_map(folder);
    let module = std::fs::read(folder.join("before.wasm")).unwrap();
    let report = rewrite(&module, &Options::default()).unwrap().report;
    let relocated = report.code_offsets[0].relocated.len();
    assert!(relocated > 0, "{report:?}");

    let (before, without) = places(folder, "before.wasm", "before.wasm.map");
    assert_eq!((before.len(), without), (3, 0), "{before:?}");
    assert!(before.iter().all(|place| place.contains("program.ts:")));
    // The function that grows the memory calls its copy. That call has no source.
    let after = places(folder, "after.wasm", "after.wasm.map");
    assert_eq!(after, (before.clone(), 1));
    let (stale, _) = places(folder, "after.wasm", "before.wasm.map");
    assert_ne!(stale, before, "the source map has to be moved along");
}

/// Returns the place that a source map gives for an offset: source, line and column.
fn place(map: &SourceMap<'_>, offset: u32) -> Option<(String, u32, u32)> {
    let table = map.generate_lookup_table();
    let token = map.lookup_source_view_token(&table, 0, offset)?;
    let source = token.get_source()?.to_owned();
    Some((source, token.get_src_line(), token.get_src_col()))
}

/// Makes a source map of a module from its line tables. No maintained tool makes one for Rust: those
/// that exist for Emscripten read the same rows.
fn source_map_of(wasm: &[u8]) -> String {
    let (start, mut sources) = (code_start(wasm), Vec::new());
    let mut rows = rows(wasm);
    rows.sort_by_key(|row| row.address);
    let mut tokens: Vec<Token> = Vec::new();
    for row in rows {
        // Linkers leave rows of functions that they removed.
        let Ok(offset) = u32::try_from(start + row.address) else {
            continue;
        };
        if offset as usize >= wasm.len() {
            continue;
        }
        // Of several rows at an address, the last one applies.
        tokens.pop_if(|token| token.get_dst_col() == offset);
        tokens.push(match row.place {
            None => Token::new(0, offset, 0, 0, None, None),
            Some((file, line, column)) => {
                let known = sources.iter().position(|source| *source == file);
                let source = known.unwrap_or_else(|| {
                    sources.push(file);
                    sources.len() - 1
                });
                let (line, column) = (line.saturating_sub(1), column.saturating_sub(1));
                Token::new(0, offset, line, column, Some(source as u32), None)
            }
        });
    }
    let sources = sources.into_iter().map(Into::into).collect();
    SourceMap::new(None, vec![], None, sources, vec![], tokens.into(), None).to_json_string()
}

/// Runs the guest on an input that is too short, so that it panics. Returns the offset in the file of
/// each frame, and the line that the line table gives.
fn panic(wasm: &[u8]) -> Vec<(u32, Option<u32>)> {
    let error = Running::new(wasm).call::<(), ()>("_start", ()).unwrap_err();
    let backtrace = error.downcast_ref::<WasmBacktrace>().unwrap();
    let frames = backtrace.frames().iter();
    frames
        .map(|frame| {
            let line = frame.symbols().first().and_then(|symbol| symbol.line());
            (frame.module_offset().unwrap() as u32, line)
        })
        .collect()
}

#[test]
fn a_source_map_of_a_rust_guest_names_the_same_places() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let before = debug_guest();
    std::fs::write(file("before.wasm"), &before).unwrap();
    std::fs::write(file("before.wasm.map"), source_map_of(&before)).unwrap();
    rewrite_with_map(folder.path());
    let after = std::fs::read(file("after.wasm")).unwrap();
    let maps = ["before.wasm.map", "after.wasm.map"].map(|name| {
        let json = std::fs::read_to_string(file(name)).unwrap();
        SourceMap::from_json_string(&json).unwrap().into_owned()
    });
    let [old_map, new_map] = &maps;
    let (old, new) = (panic(&before), panic(&after));
    assert_eq!(old.len(), new.len());
    let mut named = 0;
    for ((old, line), (new, _)) in old.iter().zip(&new) {
        let expected = place(old_map, *old);
        assert_eq!(place(new_map, *new), expected, "{old:#x} became {new:#x}");
        if let (Some((_, found, _)), Some(line)) = (&expected, line) {
            assert_eq!(found + 1, *line, "{old:#x}");
            named += 1;
        }
    }
    assert!(named > 3, "{named} of {} frames have a line", old.len());

    // Every place of the source map is also where the line table of the output has it, but for the
    // few instructions of nudged functions.
    let from_lines = SourceMap::from_json_string(&source_map_of(&after))
        .unwrap()
        .into_owned();
    let offsets = new_map
        .get_tokens()
        .filter(|token| token.get_source_id().is_some());
    let (mut same, mut all) = (0, 0);
    for token in offsets {
        let offset = token.get_dst_col();
        same += usize::from(place(new_map, offset) == place(&from_lines, offset));
        all += 1;
    }
    assert!(all > 3000 && same * 1000 > all * 995, "{same} of {all}");
}
