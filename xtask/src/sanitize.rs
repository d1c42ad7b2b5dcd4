//! `cargo xtask sanitize`: the host crate's unsafe code under sanitizers and Miri, each with the
//! tests that it supports. They need rustup's nightly toolchain, so `test` does not run them.

use std::process::Command;

use anyhow::{Context as _, Result};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Needs `rustup toolchain install nightly --component miri,rust-src`. It builds the standard library
for ThreadSanitizer, and takes about ten minutes.

Exit status: 0 nothing found, 1 something found, or a tool could not be run")]
pub(crate) struct Opts {}

/// A tool, the variable that enables it, and the arguments of cargo for the tests that it supports.
struct Tool {
    name: &'static str,
    variable: (&'static str, &'static str),
    arguments: &'static str,
}

const TOOLS: [Tool; 3] = [
    // The kernel's write tracking and protection, and the pool's slots. It intercepts mlock(2).
    Tool {
        name: "AddressSanitizer",
        variable: ("RUSTFLAGS", "-Zsanitizer=address"),
        arguments: "test --lib --test pool --test secure -- --skip locked_memory",
    },
    // It recognises the standard library's locks only if that library is built with it.
    Tool {
        name: "ThreadSanitizer",
        variable: ("RUSTFLAGS", "-Zsanitizer=thread"),
        arguments: "test -Zbuild-std --test pool eight_threads",
    },
    // It does not support mprotect, madvise and userfaultfd, so these tests read files and compare.
    Tool {
        name: "Miri",
        variable: ("MIRIFLAGS", "-Zmiri-disable-isolation"),
        arguments: "miri test --lib -- cgroup:: error:: limit:: shortfall:: mark_rises",
    },
];

pub(crate) fn run(_: &Opts) -> Result<()> {
    let host = host_triple()?;
    for tool in TOOLS {
        eprintln!("{}", tool.name);
        // The arguments after ` -- ` are those of the tests.
        let (before, after) = tool
            .arguments
            .split_once(" -- ")
            .unwrap_or((tool.arguments, ""));
        let (name, value) = tool.variable;
        // Through rustup, because `CARGO` belongs to another toolchain.
        let mut command = Command::new("rustup");
        command
            .current_dir(crate::repository())
            .args(["run", "nightly", "cargo"])
            .args(before.split(' '))
            .args(["--package", "wasm-prealloc-host", "--target", &host])
            .args(["--target-dir", "target/sanitize"])
            .arg("--")
            .args(after.split_whitespace())
            .env(name, value)
            .env_remove("CARGO")
            .env_remove("RUSTUP_TOOLCHAIN");
        crate::run(&mut command, tool.name)?;
    }
    Ok(())
}

fn host_triple() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output();
    let output = output.context("cannot start rustc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc names no host")?.to_owned())
}
