//! `cargo xtask bench`: builds and starts the measurements in `tests/bench`, in release mode.

use anyhow::Result;

use crate::{cargo, run as run_command};

#[derive(Debug, clap::Args)]
#[command(
    disable_help_flag = true,
    after_help = "\
Exit status: 0 measured, 1 not measured"
)]
pub(crate) struct Opts {
    /// `--write`, `--rounds N`, `--quick`; `--help` describes them
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "ARGS"
    )]
    args: Vec<String>,
}

pub(crate) fn run(opts: &Opts) -> Result<()> {
    let mut bench = cargo("run --quiet --release -p wasm-prealloc-bench --".split(' '));
    run_command(bench.args(&opts.args), "the benchmark")
}
