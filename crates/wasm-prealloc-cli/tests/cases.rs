//! Runs every `cases/*.wat` by the command line that stands in its first line, and compares what
//! comes out with the `.expected` file beside it. `BLESS=1` writes those files anew.
//!
//! In a command line, `%s` is the case's own file and `%t` a file to write to, whose module is then
//! shown as text.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const RUN: &str = ";; RUN: ";

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases")
}

/// Everything that a case's command says and makes.
fn outcome(case: &Path) -> String {
    let text = std::fs::read_to_string(case).unwrap();
    let run = text.lines().next().and_then(|line| line.strip_prefix(RUN));
    let run = run.unwrap_or_else(|| panic!("{} does not begin with `{RUN}`", case.display()));
    let folder = tempfile::tempdir().unwrap();
    let written = folder.path().join("out.wasm");
    let name = case.file_name().unwrap().to_str().unwrap();
    let args = run.split_whitespace().map(|arg| match arg {
        "%s" => name.to_owned(),
        "%t" => written.to_str().unwrap().to_owned(),
        _ => arg.to_owned(),
    });
    let output = Command::new(env!("CARGO_BIN_EXE_wasm-prealloc"))
        .args(args)
        .current_dir(cases())
        .output()
        .unwrap();
    let mut outcome = String::new();
    for (stream, bytes) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
        let said = std::str::from_utf8(bytes).unwrap();
        let said = said.replace(written.to_str().unwrap(), "%t");
        if !said.is_empty() {
            write!(outcome, "--- {stream}\n{said}").unwrap();
        }
    }
    writeln!(outcome, "--- exit {}", output.status.code().unwrap()).unwrap();
    if let Ok(wasm) = std::fs::read(&written) {
        let text = wasmprinter::print_bytes(&wasm).unwrap();
        write!(outcome, "--- module\n{text}").unwrap();
    }
    outcome
}

#[test]
fn every_case_does_what_is_expected_of_it() {
    let bless = std::env::var_os("BLESS").is_some();
    let mut ran = 0;
    let mut different = Vec::new();
    let mut paths: Vec<_> = std::fs::read_dir(cases())
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    paths.sort();
    for case in paths {
        if case.extension().is_none_or(|extension| extension != "wat") {
            continue;
        }
        ran += 1;
        let outcome = outcome(&case);
        let expected = case.with_extension("expected");
        if bless {
            std::fs::write(&expected, &outcome).unwrap();
        } else if std::fs::read_to_string(&expected).ok().as_ref() != Some(&outcome) {
            different.push(format!("{}:\n{outcome}", case.display()));
        }
    }
    assert!(ran > 20, "the cases were not found: {ran} ran");
    assert!(
        different.is_empty(),
        "these differ from what is expected (BLESS=1 accepts them):\n{}",
        different.join("\n")
    );
}
