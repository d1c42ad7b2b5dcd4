//! `cargo xtask docs`: regenerates parts of `docs/`. The test that fails if they are stale writes them
//! with `BLESS=1`.

use anyhow::Result;

use crate::{cargo, run as run_command};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Writes docs/cli.md and the examples in docs/json.md. `cargo xtask bench --write` writes
docs/benchmarks.md.

Exit status: 0 written, 1 not written")]
pub(crate) struct Opts {}

pub(crate) fn run(_: &Opts) -> Result<()> {
    let mut docs = cargo("test --quiet -p wasm-prealloc-cli --test docs".split(' '));
    run_command(docs.env("BLESS", "1"), "writing the documents")
}
