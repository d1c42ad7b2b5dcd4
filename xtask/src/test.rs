//! `cargo xtask test`: the guests, the checks and all tests. The steps that fail fastest come first.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::cargo;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit status: 0 all passed, 1 something failed")]
pub(crate) struct Opts {}

/// Targets for which the host crate is only checked, because nothing runs on them here.
const CHECKED_TARGETS: [&str; 2] = ["x86_64-pc-windows-gnu", "aarch64-apple-darwin"];

pub(crate) fn run(_: &Opts) -> Result<()> {
    crate::build_wasm::run(&crate::build_wasm::Opts::default())?;
    // Each feature is checked alone, because one crate must not depend on a feature that another
    // crate enables.
    for arguments in [
        "--package wasm-prealloc",
        "--package wasm-prealloc --features serde",
        "--package wasm-prealloc --target wasm32-unknown-unknown",
        "--package wasm-prealloc-build --no-default-features",
        "--package wasm-prealloc-cli --no-default-features",
        "--package wasm-prealloc-host",
    ] {
        check(arguments)?;
    }
    for target in CHECKED_TARGETS {
        if let Err(why) = add_target(target) {
            wasm_prealloc_tests::skipped(&format!("no check for {target}: {why}"));
            continue;
        }
        check(&format!("--package wasm-prealloc-host --target {target}"))?;
    }
    test()
}

fn check(arguments: &str) -> Result<()> {
    let mut check = cargo(["check", "--quiet"]);
    check.args(arguments.split(' '));
    crate::run(&mut check, &format!("`cargo check {arguments}`"))
}

/// Installs a target's standard library, or returns the reason why it cannot be installed.
fn add_target(target: &str) -> Result<(), String> {
    let output = Command::new("rustup")
        .current_dir(crate::repository())
        .args(["target", "add", target])
        .output()
        .map_err(|error| format!("cannot start rustup: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let stderr = String::from_utf8_lossy(&output.stderr);
            Err(stderr.lines().last().unwrap_or("rustup failed").to_owned())
        }
    }
}

/// Runs all tests of the workspace, and prints how many passed and failed.
fn test() -> Result<()> {
    let mut child = cargo(["test", "--workspace", "--no-fail-fast"])
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

/// The results of all test binaries, added up.
#[derive(Default)]
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
        assert_eq!((sum.passed, sum.failed), (5, 5));
    }
}
