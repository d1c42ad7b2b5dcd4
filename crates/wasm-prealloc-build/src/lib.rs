//! Builds WebAssembly guests with cargo, with a memory whose minimum is its maximum from the link
//! on and with growth that still works in it. Here is the order of things: find, link, fix, verify,
//! and only then write. Knows cargo and files; knows no engine, and no host.
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

mod error;
mod guest;
pub mod manifest;
mod staged;
mod target;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use wasm_prealloc::{EmulateFrom, Growth, Inspection, Options};

use crate::guest::{Guest, Guests};
use crate::manifest::{BuiltGrowth, BuiltGuest, BuiltMemory, Manifest};
use crate::target::Place;

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
    let place = Place {
        folder: manifest_path.parent().unwrap_or(Path::new("/")),
        env: &options.env,
    };
    let guests = Guests::find(&place, &manifest_path, &options.packages)?;
    let toolchain = target::ensure(&place)?;
    let earlier = if options.packages.is_empty() {
        Vec::new()
    } else {
        Manifest::surviving(&out_dir)?
    };

    let mut modules = Vec::new();
    for guest in &guests.guests {
        let path = guests.link(&place, guest, options.linking)?;
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
        Linking::Pinned => fix(guest, path, &linked)?,
        Linking::Natural => describe(guest, path, linked)?,
    };
    let built = BuiltGuest {
        name: guest.name.clone(),
        package: guest.package.clone(),
        file: format!("{}.wasm", guest.name),
        sha256: sha256(&finished.module),
        linking,
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

/// Fixes a module's memory, with growth handled inside it, and verifies the result.
fn fix(guest: &Guest, path: &Path, linked: &[u8]) -> Result<Finished, Error> {
    let mut options = Options::default();
    options.pages = PAGES;
    // Somebody else's pinned module that only measures its memory is left alone, because it may
    // have been made so. This one was pinned a moment ago: 65,536 pages are 0 bytes in 32 bits, and
    // no guest of ours is to compute that.
    let inspection = inspect(guest, path, linked)?;
    options.growth = match inspection.memories().any(|memory| memory.sites.grow > 0) {
        true => Growth::Auto,
        false => Growth::Pregrown,
    };
    // A memory that is pinned has lost the size that it started with, but at 65,536 pages nobody
    // owns what lies above `__heap_base`: its end wraps to 0. Where somebody's own link-args
    // overrode ours, the minimum still stands and says where growth starts.
    options.emulate_from = match wasm_prealloc::verify(linked, PAGES) {
        Ok(_) => EmulateFrom::HeapBase,
        Err(_) => EmulateFrom::Declared,
    };
    let rewritten = wasm_prealloc::rewrite(linked, &options).map_err(|source| Error::Rewrite {
        package: guest.package.clone(),
        path: path.to_owned(),
        source,
    })?;
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
