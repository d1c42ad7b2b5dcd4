//! `cargo xtask docs`: writes the generated parts of `docs/` anew. What they have to be is known to
//! the test that fails where they are stale; here it is only run so that it writes.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Writes docs/cli.md and the examples in docs/json.md. `cargo xtask bench --write` writes
docs/benchmarks.md.

Exit status: 0 written, 1 not")]
pub(crate) struct Opts {}

pub(crate) fn run(_: &Opts) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .current_dir(crate::repository())
        .args([
            "test",
            "--quiet",
            "-p",
            "wasm-prealloc-cli",
            "--test",
            "docs",
        ])
        .env("BLESS", "1")
        .status()
        .context("cannot start cargo")?;
    ensure!(
        status.success(),
        "the documents were not written ({status})"
    );
    Ok(())
}
