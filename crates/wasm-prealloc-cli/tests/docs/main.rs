//! Compares `docs/cli.md` and `docs/json.md` with the output of the command. `cargo xtask docs`
//! sets `BLESS=1`, which writes the output into them. The files in `docs/deploy` are in `deploy`,
//! and the lines of `docs/migration.md` in `migration`.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod deploy;
mod migration;
mod operators;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const SUBCOMMANDS: [&str; 5] = ["rewrite", "verify", "inspect", "preflight", "run"];

fn doc(name: &str) -> PathBuf {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    docs.join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(doc(name)).unwrap()
}

fn run(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_wasm-prealloc"))
        .args(args)
        .current_dir(folder)
        .output()
        .unwrap()
}

#[track_caller]
fn compare(name: &str, expected: &str) {
    let path = doc(name);
    if std::env::var_os("BLESS").is_some() {
        return fs::write(&path, expected).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "docs/{name} is stale: `cargo xtask docs` regenerates it. Expected:\n{expected}"
    );
}

#[test]
fn docs_cli_md_has_the_help_of_each_command() {
    let help = |args: &[&str]| {
        let output = run(Path::new("."), args);
        assert!(output.status.success());
        let help = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
        lines.join("\n")
    };
    let mut text = String::from(
        "# The command line\n\nGenerated from `--help` by `cargo xtask docs`; do not edit. The \
         output of `--json` is described in [json.md](json.md).\n",
    );
    let mut section = |title: &str, help: &str| {
        write!(text, "\n## {title}\n\n```text\n{}\n```\n", help.trim_end()).unwrap();
    };
    section("wasm-prealloc", &help(&["--help"]));
    for command in SUBCOMMANDS {
        let title = format!("wasm-prealloc {command}");
        section(&title, &help(&[command, "--help"]));
    }
    compare("cli.md", &text);
}

/// In `docs/json.md`, a fenced block that begins with `;; NAME.wat` is a file. A block that begins
/// with `$ wasm-prealloc` is a command line, and the next block is its output.
#[test]
fn docs_json_md_has_the_output_of_each_example() {
    let folder = tempfile::tempdir().unwrap();
    let text = read("json.md");
    let mut expected = String::new();
    let mut printed = None;
    let mut ran = 0;
    for (i, block) in text.split("```").enumerate() {
        let fenced = i % 2 == 1;
        let mut block = block.to_owned();
        if fenced {
            let (language, content) = block.split_once('\n').unwrap();
            if let Some(output) = printed.take() {
                assert_eq!(language, "json", "a command is followed by its output");
                block = format!("json\n{output}");
            } else if let Some(line) = content.strip_prefix("$ wasm-prealloc ") {
                let args: Vec<&str> = line.split_whitespace().collect();
                let output = run(folder.path(), &args);
                printed = Some(String::from_utf8(output.stdout).unwrap());
                ran += 1;
            } else if let Some(name) = content.strip_prefix(";; ") {
                let name = name.lines().next().unwrap();
                fs::write(folder.path().join(name), content).unwrap();
            }
        }
        let separator = if i == 0 { "" } else { "```" };
        write!(expected, "{separator}{block}").unwrap();
    }
    assert!(ran >= SUBCOMMANDS.len(), "the examples were not found");
    compare("json.md", &expected);
}
