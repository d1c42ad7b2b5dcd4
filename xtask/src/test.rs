//! `cargo xtask test`: everything that CI runs, in the order in which a failure is told soonest.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit status: 0 all passed, 1 not")]
pub(crate) struct Opts {}

pub(crate) fn run(_: &Opts) -> Result<()> {
    crate::build_wasm::run(&crate::build_wasm::Opts::default())?;
    // Each feature alone: what one crate needs, another must not happen to switch on.
    for features in [
        &["--package", "wasm-prealloc"][..],
        &["--package", "wasm-prealloc", "--features", "serde"],
        &[
            "--package",
            "wasm-prealloc",
            "--target",
            "wasm32-unknown-unknown",
        ],
        &["--package", "wasm-prealloc-host"],
    ] {
        check(features)?;
    }
    for target in ELSEWHERE {
        if let Err(why) = add_target(target) {
            wasm_prealloc_tests::skipped(&format!("no check for {target}: {why}"));
            continue;
        }
        check(&["--package", "wasm-prealloc-host", "--target", target])?;
    }
    test()
}

/// Systems that the host half has a fall-back for, and that nothing is run on here.
const ELSEWHERE: [&str; 2] = ["x86_64-pc-windows-gnu", "aarch64-apple-darwin"];

fn check(what: &[&str]) -> Result<()> {
    let mut check = cargo();
    check.args(["check", "--quiet"]).args(what);
    let status = check.status().context("cannot start cargo")?;
    ensure!(status.success(), "`cargo check {}` failed", what.join(" "));
    Ok(())
}

/// Makes sure that there is a standard library to check against, or says why there is none.
fn add_target(target: &str) -> Result<(), String> {
    let output = Command::new("rustup")
        .current_dir(crate::repository())
        .args(["target", "add", target])
        .output()
        .map_err(|error| format!("cannot start rustup: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(said.lines().last().unwrap_or("rustup failed").to_owned())
        }
    }
}

fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(crate::repository());
    command
}

/// Runs all tests of the workspace, and closes with their sum.
fn test() -> Result<()> {
    let mut child = cargo()
        .args(["test", "--workspace", "--no-fail-fast"])
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo")?;
    let mut sum = Sum::default();
    let mut stdout = std::io::stdout().lock();
    for line in BufReader::new(child.stdout.take().context("cargo has no stdout")?).lines() {
        let line = line?;
        sum.add(&line);
        writeln!(stdout, "{line}")?;
    }
    let status = child.wait()?;
    writeln!(stdout, "\n{} passed, {} failed", sum.passed, sum.failed)?;
    if !status.success() {
        bail!("`cargo test` failed ({status})");
    }
    ensure!(sum.passed > 0, "no test has run");
    Ok(())
}

/// What the test binaries say of themselves, added up.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sum {
    passed: u64,
    failed: u64,
}

impl Sum {
    /// Adds a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; ...`.
    fn add(&mut self, line: &str) {
        let Some((_, counts)) = line
            .strip_prefix("test result: ")
            .and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for count in counts.split("; ") {
            match count.split_once(' ') {
                Some((number, "passed")) => self.passed += number.parse().unwrap_or(0),
                Some((number, "failed")) => self.failed += number.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_several_binaries_are_added_up() {
        let mut sum = Sum::default();
        for line in [
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s",
            "test a ... ok",
            "test result: FAILED. 2 passed; 5 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s",
        ] {
            sum.add(line);
        }
        let expected = Sum {
            passed: 5,
            failed: 5,
        };
        assert_eq!(sum, expected);
    }
}
