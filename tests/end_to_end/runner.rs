//! `wasm-prealloc run` as a runner of Rust programs: the same program untouched and rewritten, with
//! files, variables, input, arguments and its exit status.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use wasm_prealloc_tests::{Profile, command, memory_lock, repository, skipped};

/// 1 GiB: the program needs half of it.
const PAGES: &str = "16384";

/// Compiles the program for a target. Returns `None` if the target cannot be installed.
fn compile(target: &str, folder: &Path) -> Option<PathBuf> {
    let mut rustup = Command::new("rustup");
    let installed = rustup.args(["target", "add", target]).output();
    if !installed.is_ok_and(|output| output.status.success()) {
        skipped(&format!("rustup cannot install {target}"));
        return None;
    }
    let program = folder.join("program.wasm");
    let output = Command::new("rustc")
        .args(["--edition=2024", "--target", target, "-Copt-level=2"])
        .arg(repository().join("tests/fixtures/programs/runner.rs"))
        .arg("-o")
        .arg(&program)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    Some(program)
}

/// Runs the program with everything that it needs. Returns its output, and the file that it writes.
fn run(binary: &Path, flags: &[&str], program: &Path) -> (Output, String) {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("files")).unwrap();
    fs::write(folder.path().join("files/in.txt"), "from a file").unwrap();
    fs::write(folder.path().join("outside.txt"), "not for the program").unwrap();
    fs::write(folder.path().join("input"), "from stdin").unwrap();
    let output = Command::new(binary)
        .args(["run", "--dir", "files::data", "--env", "STATUS=10"])
        .args(flags)
        .arg(program)
        .args(["one", "--two", "-q"])
        .current_dir(folder.path())
        .stdin(Stdio::from(
            fs::File::open(folder.path().join("input")).unwrap(),
        ))
        .output()
        .unwrap();
    let written = fs::read_to_string(folder.path().join("files/out.txt"));
    (output, written.unwrap_or_default())
}

/// The sum that the program computes.
fn sum() -> u64 {
    let bytes = (0..500_u64).flat_map(|block| (0..256).map(move |page| (block * 31 + page) & 0xff));
    bytes.sum()
}

/// Runs the program untouched and rewritten. `status` is the exit status that the target can pass.
fn same_untouched_and_rewritten(target: &str, status: i32) {
    let folder = tempfile::tempdir().unwrap();
    let Some(untouched) = compile(target, folder.path()) else {
        return;
    };
    let binary = command(Profile::Dev).unwrap();
    let rewritten = folder.path().join("rewritten.wasm");
    let rewrite = Command::new(&binary)
        .args(["rewrite", "--pages", PAGES, "-o"])
        .args([&rewritten, &untouched])
        .output()
        .unwrap();
    assert!(rewrite.status.success(), "{rewrite:?}");

    let _lock = memory_lock().unwrap();
    let expected = format!(
        "{} true [\"one\", \"--two\", \"-q\"] \"from stdin\" None\n",
        sum()
    );
    for (flags, program) in [
        (&["--pages", PAGES][..], &rewritten),
        (&["--policy", "commit-maximum"], &untouched),
        (&["--policy", "cap", "--pages", PAGES], &untouched),
    ] {
        let (output, written) = run(&binary, flags, program);
        let (stdout, stderr) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        let lines: Vec<&str> = stderr.lines().collect();
        assert!(
            matches!(lines[..], [secured, "exits with 10"] if secured.starts_with("secured: ")),
            "{flags:?}: {stderr}"
        );
        assert_eq!(
            (&*stdout, output.status.code()),
            (&*expected, Some(status)),
            "{flags:?}"
        );
        assert_eq!(written, "FROM A FILE");
    }
    // An untouched program is refused where a pinned one is required.
    let (output, written) = run(&binary, &["-q"], &untouched);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("rewrite it with"), "{stderr}");
    assert_eq!(written, "");
}

#[test]
fn a_program_of_wasi_preview_1_has_the_same_results() {
    same_untouched_and_rewritten("wasm32-wasip1", 10);
}

/// `std::process::exit` of Rust 1.95 calls `exit` of WASI 0.2, which has the statuses 0 and 1 only.
#[test]
fn a_component_has_the_same_results() {
    same_untouched_and_rewritten("wasm32-wasip2", 1);
}
