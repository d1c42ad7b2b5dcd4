//! Builds WebAssembly guests with cargo, gives each memory a minimum equal to its maximum, and keeps
//! growth working inside that memory. This file holds the order of the steps: find, link, pin,
//! verify, and only then write. The crate knows cargo and files, and no engine and no host.
//!
//! # The link arguments
//!
//! A finished module declares what `--initial-memory=4294967296 --max-memory=4294967296` ask of the
//! linker, and the manifest records these arguments. There are two ways to get there, and this crate
//! uses the second:
//!
//! 1. Both arguments go to the linker. The module is then pinned by the link, and the size at which
//!    growth should start is lost. It can only be derived from `__heap_base`, which
//!    `wasm32-unknown-unknown` no longer exports since Rust 1.97, and which is only right for
//!    allocators that ignore `__heap_end`: at 65,536 pages that symbol wraps to 0.
//! 2. Only `--max-memory` goes to the linker. The linker records the minimum that the module needs,
//!    the rewriter starts growth exactly there, and then declares the minimum of 65,536 pages. This
//!    works for every allocator and every toolchain, and needs no symbol.
//!
//! If the workspace's own flags pin the memory (`--initial-memory=4294967296` in RUSTFLAGS, in a
//! cargo configuration or in a build script), growth starts at `__heap_base`, or the build fails if
//! the module does not have that symbol.
//!
//! # The toolchain
//!
//! Guests are built with the toolchain that rustup chooses for their folder, as `cargo build` there
//! would: a `rust-toolchain.toml` in that folder is honoured. A `+toolchain` on the command line and
//! a `RUSTUP_TOOLCHAIN` that the user has set take precedence.
//!
//! # Example
//!
//! ```no_run
//! use wasm_prealloc_build::{BuildOptions, build};
//!
//! let options = BuildOptions::new("wasm-modules/Cargo.toml", "target/wasm");
//! for guest in build(&options)?.guests {
//!     println!("{}: {} bytes", guest.file, guest.bytes_after);
//! }
//! # Ok::<(), wasm_prealloc_build::Error>(())
//! ```

mod cargo_env;
mod error;
mod guest;
pub mod manifest;
mod staged;
mod target;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use wasm_prealloc::{EmulateFrom, Growth, Inspection, Options, Report};

use crate::cargo_env::CargoEnv;
use crate::guest::{Guest, Guests};
use crate::manifest::{BuiltGrowth, BuiltGuest, BuiltMemory, Manifest};

pub use crate::error::Error;
pub use crate::guest::Linking;
pub use crate::staged::StagedFile;
pub use crate::target::{Toolchain, WASM_TARGET};

/// The size of every guest's memory, in pages of 64 KiB: all that 32-bit addresses reach, 4 GiB.
pub const PAGES: u64 = 65_536;

/// What to build, and where to put it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BuildOptions {
    /// The `Cargo.toml` of the guests' workspace, or of one of its packages.
    pub manifest_path: PathBuf,
    /// The packages to build; none means every guest of the workspace.
    pub packages: Vec<String>,
    /// The folder for `NAME.wasm` and `manifest.json`. It is made where it does not exist.
    pub out_dir: PathBuf,
    /// How the guests are linked.
    pub linking: Linking,
    /// Environment variables for cargo, rustc and rustup that differ from this process's own:
    /// set to a value, or with `None` not set.
    pub env: BTreeMap<OsString, Option<OsString>>,
}

impl BuildOptions {
    /// All guests of a workspace, pinned.
    pub fn new(manifest_path: impl Into<PathBuf>, out_dir: impl Into<PathBuf>) -> Self {
        Self {
            manifest_path: manifest_path.into(),
            packages: Vec::new(),
            out_dir: out_dir.into(),
            linking: Linking::default(),
            env: BTreeMap::new(),
        }
    }
}

/// What a build made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Build {
    /// The modules that this build made, sorted by name. The manifest may list more.
    pub guests: Vec<BuiltGuest>,
    /// The folder that they are in.
    pub out_dir: PathBuf,
    /// The manifest's path.
    pub manifest_path: PathBuf,
}

impl Build {
    /// The path of a module that this build made.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        let guest = self.guests.iter().find(|guest| guest.name == name)?;
        Some(self.out_dir.join(&guest.file))
    }
}

/// Builds guests to `NAME.wasm`, and lists them in `manifest.json`.
///
/// Where the target's standard library is missing, `rustup target add` gets it. Cargo's own messages
/// go to stderr. Nothing is written before every guest is built and verified. A build of some
/// packages keeps the other entries of the manifest whose files are still there.
///
/// # Errors
///
/// Whatever [`Error`] lists. The output files are then as they were, except after [`Error::Write`].
pub fn build(options: &BuildOptions) -> Result<Build, Error> {
    let manifest_path = absolute(&options.manifest_path)?;
    let out_dir = absolute(&options.out_dir)?;
    let folder = manifest_path.parent().unwrap_or(Path::new("/"));
    let env = CargoEnv::new(folder, &options.env);
    let guests = Guests::find(&env, &manifest_path, &options.packages)?;
    let toolchain = target::ensure(&env)?;
    let earlier = if options.packages.is_empty() {
        Vec::new()
    } else {
        Manifest::surviving(&out_dir)?
    };

    let mut modules = Vec::new();
    for guest in &guests.guests {
        let path = guests.link(&env, guest, options.linking)?;
        modules.push(finish(guest, &path, options.linking, &toolchain)?);
    }
    let (built, contents): (Vec<_>, Vec<_>) = modules.into_iter().unzip();
    let manifest = Manifest::merged(built.clone(), earlier);

    std::fs::create_dir_all(&out_dir).map_err(|source| Error::Write {
        path: out_dir.clone(),
        source,
    })?;
    let manifest_path = out_dir.join(manifest::FILE_NAME);
    let mut staged = Vec::new();
    for (guest, content) in built.iter().zip(&contents) {
        staged.push(stage(out_dir.join(&guest.file), content)?);
    }
    let mut text = serde_json::to_vec_pretty(&manifest).map_err(|source| Error::Write {
        path: manifest_path.clone(),
        source: source.into(),
    })?;
    text.push(b'\n');
    // Last, so that it never lists what is not there yet.
    staged.push(stage(manifest_path.clone(), &text)?);
    for (path, file) in staged {
        file.publish()
            .map_err(|source| Error::Write { path, source })?;
    }
    Ok(Build {
        guests: built,
        out_dir,
        manifest_path,
    })
}

/// Reads a linked module, fixes its memory where it is to be fixed, and describes the result.
fn finish(
    guest: &Guest,
    path: &Path,
    linking: Linking,
    toolchain: &Toolchain,
) -> Result<(BuiltGuest, Vec<u8>), Error> {
    let linked = std::fs::read(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })?;
    let bytes_before = linked.len() as u64;
    let finished = match linking {
        Linking::Pinned => pin(guest, path, &linked)?,
        Linking::Natural => describe(guest, path, linked)?,
    };
    let built = BuiltGuest {
        name: guest.name.clone(),
        package: guest.package.clone(),
        file: format!("{}.wasm", guest.name),
        sha256: sha256(&finished.module),
        linking,
        link_args: linking.link_args(),
        bytes_before,
        bytes_after: finished.module.len() as u64,
        memories: finished.memories,
        warnings: finished.warnings,
        toolchain: toolchain.clone(),
    };
    Ok((built, finished.module))
}

/// A module as it is to be written, and what the manifest says about it.
struct Finished {
    module: Vec<u8>,
    memories: Vec<BuiltMemory>,
    warnings: Vec<String>,
}

/// Pins a module's memory, with growth handled inside it, and verifies the result.
fn pin(guest: &Guest, path: &Path, linked: &[u8]) -> Result<Finished, Error> {
    let rewrite = |options: &Options| {
        wasm_prealloc::rewrite(linked, options)
            .map_err(|source| Error::rewrite(&guest.package, path, source))
    };
    let mut options = Options::default();
    options.pages = PAGES;
    let mut rewritten = rewrite(&options)?;
    if is_pinned(&rewritten.report) {
        // The workspace's own flags have pinned it, so its natural minimum is lost. `Growth::Auto`
        // leaves such a module alone if it only measures its memory, but 65,536 pages are 0 bytes
        // in 32 bits, and no guest built here may compute that.
        options.emulate_from = EmulateFrom::HeapBase;
        let mut memories = rewritten.report.memories.iter();
        if memories.all(|memory| memory.sites.grow == 0) {
            options.growth = Growth::Pregrown;
        }
        rewritten = rewrite(&options)?;
    }
    let module = rewritten.wasm.into_owned();
    wasm_prealloc::verify(&module, PAGES).map_err(|source| Error::Verify {
        package: guest.package.clone(),
        path: path.to_owned(),
        source,
    })?;
    let report = rewritten.report;
    let memories = report.memories.iter();
    let memories = memories
        .map(|memory| BuiltMemory::new(&memory.after, &memory.sites, (&memory.growth).into()));
    Ok(Finished {
        module,
        memories: memories.collect(),
        warnings: report.warnings.iter().map(ToString::to_string).collect(),
    })
}

/// Returns true if the linker has already declared the size that every memory gets.
fn is_pinned(report: &Report) -> bool {
    let mut memories = report.memories.iter();
    memories.all(|memory| memory.before.is_pinned() && memory.before.minimum == PAGES)
}

/// Leaves a module as it was linked, and only looks at what it declares.
fn describe(guest: &Guest, path: &Path, linked: Vec<u8>) -> Result<Finished, Error> {
    let inspection = inspect(guest, path, &linked)?;
    let memories = inspection.memories().map(|memory| {
        let growth = match memory.sites.grow + memory.sites.size {
            0 => BuiltGrowth::None,
            _ => BuiltGrowth::Kept,
        };
        BuiltMemory::new(&memory.memory, &memory.sites, growth)
    });
    Ok(Finished {
        memories: memories.collect(),
        warnings: Vec::new(),
        module: linked,
    })
}

fn inspect(guest: &Guest, path: &Path, linked: &[u8]) -> Result<Inspection, Error> {
    wasm_prealloc::inspect(linked).map_err(|source| Error::Inspect {
        package: guest.package.clone(),
        path: path.to_owned(),
        source,
    })
}

fn stage(path: PathBuf, content: &[u8]) -> Result<(PathBuf, StagedFile), Error> {
    match StagedFile::write(path.clone(), content) {
        Ok(file) => Ok((path, file)),
        Err(source) => Err(Error::Write { path, source }),
    }
}

fn sha256(content: &[u8]) -> String {
    let digest = Sha256::digest(content);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Cargo is run in another folder, so that no path may depend on this one.
fn absolute(path: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })
}
