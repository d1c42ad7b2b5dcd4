//! One test for each `cases/*.wat`: it runs the command line in the file's first line, and compares
//! the outcome with the `.expected` file beside it. `BLESS=1` writes the `.expected` files.
//!
//! In a command line, `%s` is the case's file, and `%t` is an output file, whose module is added to
//! the outcome as text.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Failed, Trial};

const RUN: &str = ";; RUN: ";

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases")
}

/// Runs a case's command, and returns its output, its exit status and the module that it writes.
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
        let text = std::str::from_utf8(bytes).unwrap();
        let text = text.replace(written.to_str().unwrap(), "%t");
        if !text.is_empty() {
            write!(outcome, "--- {stream}\n{text}").unwrap();
        }
    }
    writeln!(outcome, "--- exit {}", output.status.code().unwrap()).unwrap();
    if let Ok(wasm) = std::fs::read(&written) {
        let text = wasmprinter::print_bytes(&wasm).unwrap();
        write!(outcome, "--- module\n{text}").unwrap();
    }
    outcome
}

/// Compares the outcome of a case with what is expected, or writes it with `BLESS=1`.
fn check(case: &Path) -> Result<(), Failed> {
    let outcome = outcome(case);
    let expected = case.with_extension("expected");
    if std::env::var_os("BLESS").is_some() {
        return Ok(std::fs::write(&expected, &outcome)?);
    }
    if std::fs::read_to_string(&expected).ok().as_ref() == Some(&outcome) {
        return Ok(());
    }
    Err(format!(
        "differs from {} (BLESS=1 accepts it):\n{outcome}",
        expected.display()
    )
    .into())
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let paths = std::fs::read_dir(cases()).unwrap();
    let mut cases: Vec<_> = paths
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "wat"))
        .collect();
    cases.sort();
    assert!(cases.len() > 20, "the cases were not found: {cases:?}");
    let tests = cases.into_iter().map(|case| {
        let name = case.file_stem().unwrap().to_string_lossy().into_owned();
        Trial::test(name, move || check(&case))
    });
    libtest_mimic::run(&arguments, tests.collect()).exit_code()
}
