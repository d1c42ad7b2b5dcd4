//! `cargo xtask build-wasm`: builds the guests of this repository and shows what came out.
//! The building itself is in `wasm-prealloc-build`; here are only this repository's paths, and the
//! table.

use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};
use wasm_prealloc_build::manifest::{BuiltGrowth, BuiltGuest, BuiltMemory};
use wasm_prealloc_build::{Build, BuildOptions, build};

/// Bytes of a digest that the table shows, in hexadecimal digits.
const SHA256_PREFIX: usize = 12;

#[derive(Debug, Default, clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask build-wasm
  cargo xtask build-wasm -p memory-stress --out-dir /tmp/wasm

Exit status: 0 built and verified, 1 not (the files of earlier builds stay as they are), 2 bad usage")]
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
        for warning in &guest.warnings {
            eprintln!("warning: {}: {warning}", guest.file);
        }
    }
    show(&build)
}

fn show(build: &Build) -> anyhow::Result<()> {
    let current = std::env::current_dir().unwrap_or_default();
    let folder = relative(&build.out_dir, &current);
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header([
        "file",
        "bytes linked",
        "bytes",
        "memory",
        "growth",
        "sites",
        "sha256",
    ]);
    for guest in &build.guests {
        table.add_row([
            folder.join(&guest.file).display().to_string(),
            guest.bytes_before.to_string(),
            guest.bytes_after.to_string(),
            per_memory(guest, memory),
            per_memory(guest, growth),
            per_memory(guest, sites),
            guest.sha256.chars().take(SHA256_PREFIX).collect(),
        ]);
    }
    for column in [1, 2] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let written = writeln!(io::stdout().lock(), "{table}");
    match written {
        // Whoever reads this has read enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to standard output"),
    }
}

fn per_memory(guest: &BuiltGuest, text: fn(&BuiltMemory) -> String) -> String {
    let memories: Vec<_> = guest.memories.iter().map(text).collect();
    memories.join("\n")
}

fn memory(memory: &BuiltMemory) -> String {
    match memory.maximum_pages {
        Some(maximum) if maximum == memory.minimum_pages => format!("{maximum} pages"),
        Some(maximum) => format!("{} to {maximum} pages", memory.minimum_pages),
        None => format!("{} pages or more", memory.minimum_pages),
    }
}

fn growth(memory: &BuiltMemory) -> String {
    match memory.growth {
        BuiltGrowth::None => "none".to_owned(),
        BuiltGrowth::Emulated { from_pages, .. } => format!("emulated from page {from_pages}"),
        BuiltGrowth::Pregrown { pages } => format!("pregrown to {pages} pages"),
        BuiltGrowth::Kept => "kept".to_owned(),
        _ => "other, see the manifest".to_owned(),
    }
}

fn sites(memory: &BuiltMemory) -> String {
    format!("{} grow, {} size", memory.grow_sites, memory.size_sites)
}

fn relative<'a>(path: &'a Path, base: &Path) -> &'a Path {
    path.strip_prefix(base).unwrap_or(path)
}
