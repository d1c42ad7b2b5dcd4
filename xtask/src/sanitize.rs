//! `cargo xtask sanitize`: the host crate's unsafe code under the sanitizers and Miri, each with
//! what it can run. They need a nightly toolchain of rustup's, so this is not a part of `test`.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Needs `rustup toolchain install nightly --component miri,rust-src`. It builds the standard library
for one of them, and takes some ten minutes.

Exit status: 0 nothing found, 1 something, or it could not be run")]
pub(crate) struct Opts {}

/// One tool: what it is called, how cargo is told, and what it can run.
struct Tool {
    name: &'static str,
    variable: (&'static str, &'static str),
    arguments: &'static [&'static str],
}

const TOOLS: [Tool; 3] = [
    // The kernel's tracking and protection, and what the pool lends out. It keeps mlock(2) from the
    // kernel.
    Tool {
        name: "AddressSanitizer",
        variable: ("RUSTFLAGS", "-Zsanitizer=address"),
        arguments: &[
            "test",
            "--lib",
            "--test",
            "pool",
            "--test",
            "secure",
            "--",
            "--skip",
            "locked_memory",
        ],
    },
    // It knows of the standard library's locks only if that is built with it.
    Tool {
        name: "ThreadSanitizer",
        variable: ("RUSTFLAGS", "-Zsanitizer=thread"),
        arguments: &["test", "-Zbuild-std", "--test", "pool", "eight_threads"],
    },
    // It has no mprotect, madvise or userfaultfd: what remains reads files, counts and compares.
    Tool {
        name: "Miri",
        variable: ("MIRIFLAGS", "-Zmiri-disable-isolation"),
        arguments: &[
            "miri",
            "test",
            "--lib",
            "--",
            "cgroup::",
            "error::",
            "limit::",
            "mark_rises",
        ],
    },
];

pub(crate) fn run(_: &Opts) -> Result<()> {
    let host = host_triple()?;
    for tool in TOOLS {
        eprintln!("{}", tool.name);
        let (before, after) = match tool.arguments.iter().position(|word| *word == "--") {
            Some(dashes) => tool.arguments.split_at(dashes),
            None => (tool.arguments, &[][..]),
        };
        let (name, value) = tool.variable;
        // Through rustup: the cargo that runs this is of another toolchain.
        let status = Command::new("rustup")
            .current_dir(crate::repository())
            .args(["run", "nightly", "cargo"])
            .args(before)
            .args(["--package", "wasm-prealloc-host", "--target", &host])
            .args(["--target-dir", "target/sanitize"])
            .args(after)
            .env(name, value)
            .env_remove("CARGO")
            .env_remove("RUSTUP_TOOLCHAIN")
            .status()
            .context("cannot start rustup")?;
        ensure!(status.success(), "{} failed ({status})", tool.name);
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
