//! `cargo xtask bench`: the rewriter side by side with others. The measuring is in `tests/bench`;
//! here it is only built as users' programs are, and started.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

#[derive(Debug, clap::Args)]
#[command(
    disable_help_flag = true,
    after_help = "\
Exit status: 0 measured, 1 not"
)]
pub(crate) struct Opts {
    /// `--write`, `--rounds N`, `--quick`; `--help` explains them
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "ARGS"
    )]
    args: Vec<String>,
}

pub(crate) fn run(opts: &Opts) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .current_dir(crate::repository())
        .args([
            "run",
            "--quiet",
            "--release",
            // Not `-p`: with the features of the whole workspace the engine is built once.
            "--bin",
            "wasm-prealloc-bench",
            "--",
        ])
        .args(&opts.args)
        .status()
        .context("cannot start cargo")?;
    ensure!(status.success(), "the bench failed ({status})");
    Ok(())
}
