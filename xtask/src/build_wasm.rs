//! `cargo xtask build-wasm`: builds the guests of this repository, and prints a table of them. The
//! build itself is in `wasm-prealloc-build`.

use std::io::{self, ErrorKind, Write as _};
use std::path::PathBuf;

use anyhow::Context as _;
use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};
use wasm_prealloc::MemoryReport;
use wasm_prealloc_build::manifest::BuiltGuest;
use wasm_prealloc_build::{Build, BuildOptions, build};

/// The number of hexadecimal digits of a digest in the table.
const SHA256_PREFIX: usize = 12;

#[derive(Debug, Default, clap::Args)]
#[command(after_help = "\
The guests are built with the toolchain that rustup chooses for wasm-modules/, so that folder may
have a rust-toolchain.toml. `cargo +TOOLCHAIN xtask` and RUSTUP_TOOLCHAIN take precedence.

Examples:
  cargo xtask build-wasm
  cargo xtask build-wasm -p memory-stress --out-dir /tmp/wasm

Exit status: 0 built and verified, 1 failed (the files of earlier builds are unchanged), 2 bad usage")]
pub(crate) struct Opts {
    /// Build only this package; may be repeated
    #[arg(short, long = "package", value_name = "NAME")]
    packages: Vec<String>,

    /// The folder for NAME.wasm and manifest.json [default: target/wasm in this repository]
    #[arg(long, value_name = "DIR")]
    out_dir: Option<PathBuf>,
}

pub(crate) fn run(opts: &Opts) -> anyhow::Result<()> {
    let repository = crate::repository();
    let out_dir = match &opts.out_dir {
        Some(folder) => folder.clone(),
        None => repository.join("target/wasm"),
    };
    let manifest = repository.join("wasm-modules/Cargo.toml");
    let mut options = BuildOptions::new(manifest, out_dir);
    options.packages = opts.packages.clone();
    let build = build(&options)?;
    for guest in &build.guests {
        for warning in &guest.report.warnings {
            // A build has no options for the rewriter, which the remedy of a warning names.
            eprintln!("warning: {}: {}", guest.file, warning.problem());
        }
    }
    show(&build)
}

fn show(build: &Build) -> anyhow::Result<()> {
    let current = std::env::current_dir().unwrap_or_default();
    let folder = build.out_dir.strip_prefix(current);
    let folder = folder.unwrap_or(&build.out_dir);
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header("file|bytes linked|bytes|memory|growth|sites|sha256".split('|'));
    for guest in &build.guests {
        table.add_row([
            folder.join(&guest.file).display().to_string(),
            guest.report.bytes_before.to_string(),
            guest.report.bytes_after.to_string(),
            // A built module is pinned.
            per_memory(guest, |memory| format!("{} pages", memory.after.minimum)),
            per_memory(guest, |memory| memory.growth.to_string()),
            per_memory(guest, |MemoryReport { sites, .. }| {
                format!("{} grow, {} size", sites.grow, sites.size)
            }),
            guest.sha256.chars().take(SHA256_PREFIX).collect(),
        ]);
    }
    for column in table.column_iter_mut().skip(1).take(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    match writeln!(io::stdout().lock(), "{table}") {
        // A closed pipe is not an error.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to standard output"),
    }
}

fn per_memory(guest: &BuiltGuest, text: fn(&MemoryReport) -> String) -> String {
    let memories: Vec<_> = guest.report.memories.iter().map(text).collect();
    memories.join("\n")
}
