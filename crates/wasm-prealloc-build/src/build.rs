//! The steps of a build, in order: find, link, pin, verify, and only then write.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use wasm_prealloc::{Analysis, EmulateFrom, Growth, MAX_PAGES, Options, Report};

use crate::cargo_env::CargoEnv;
use crate::guest::{Guest, Guests};
use crate::manifest::{BuiltGuest, Manifest};
use crate::{AtomicFile, Error, Linking, Toolchain, manifest, target};

/// The guests to build, and the folder for them.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BuildOptions {
    /// The `Cargo.toml` of the guests' workspace, or of one of its packages.
    pub manifest_path: PathBuf,
    /// The packages to build. If empty, every guest of the workspace is built.
    pub packages: Vec<String>,
    /// The folder for `NAME.wasm` and `manifest.json`. It is created if it does not exist.
    pub out_dir: PathBuf,
    /// The way the guests are linked.
    pub linking: Linking,
    /// Changes to the environment of cargo, rustc and rustup: a variable is set, or with `None`
    /// removed.
    pub env: BTreeMap<OsString, Option<OsString>>,
}

impl BuildOptions {
    /// Returns options that build all guests of a workspace, pinned.
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

/// The result of a build.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Build {
    /// The modules of this build, sorted by name. The manifest may list more.
    pub guests: Vec<BuiltGuest>,
    /// The folder that they are in.
    pub out_dir: PathBuf,
    /// The manifest's path.
    pub manifest_path: PathBuf,
}

impl Build {
    /// Returns the path of a module of this build.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        let guest = self.guests.iter().find(|guest| guest.name == name)?;
        Some(self.out_dir.join(&guest.file))
    }
}

/// Builds guests to `NAME.wasm`, and lists them in `manifest.json`.
///
/// If the target's standard library is missing, `rustup target add` installs it. Cargo's messages go
/// to stderr. Files are written after every guest is built and verified. A build of some packages
/// keeps the manifest's other entries whose files still exist.
///
/// # Errors
///
/// Returns an [`Error`]. The output files are then unchanged, except after [`Error::Write`].
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
    let mut files = Vec::new();
    for (guest, content) in built.iter().zip(&contents) {
        files.push(stage(out_dir.join(&guest.file), content)?);
    }
    let mut text = serde_json::to_vec_pretty(&manifest).map_err(|source| Error::Write {
        path: manifest_path.clone(),
        source: source.into(),
    })?;
    text.push(b'\n');
    // The manifest comes last, so that it never lists a file that does not exist yet.
    files.push(stage(manifest_path.clone(), &text)?);
    for (path, file) in files {
        file.commit()
            .map_err(|source| Error::Write { path, source })?;
    }
    Ok(Build {
        guests: built,
        out_dir,
        manifest_path,
    })
}

/// Reads a linked module, pins it if that is asked for, and describes the result.
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
    let (module, report) = match linking {
        Linking::Pinned => pin(guest, path, &linked)?,
        Linking::Natural => {
            let inspection = wasm_prealloc::inspect(&linked)
                .map_err(|source| Error::rewrite(&guest.package, path, source))?;
            (linked, inspection.unchanged())
        }
    };
    let built = BuiltGuest {
        name: guest.name.clone(),
        package: guest.package.clone(),
        file: format!("{}.wasm", guest.name),
        sha256: sha256(&module),
        linking,
        link_args: linking.link_args(),
        report,
        toolchain: toolchain.clone(),
    };
    Ok((built, module))
}

/// Pins a module's memory, with growth handled inside it, and verifies the result.
fn pin(guest: &Guest, path: &Path, linked: &[u8]) -> Result<(Vec<u8>, Report), Error> {
    let failed = |source| Error::rewrite(&guest.package, path, source);
    let analysis = Analysis::new(linked).map_err(failed)?;
    let mut options = Options::default();
    let mut memories = analysis.memories();
    if memories.all(|memory| memory.is_pinned() && memory.minimum == MAX_PAGES) {
        // The workspace's own flags have pinned it, so its natural minimum is lost. `Growth::Auto`
        // leaves such a module alone if it only reads its size, but 65,536 pages are 0 bytes in 32
        // bits, and no guest built here may compute that.
        options.emulate_from = EmulateFrom::HeapBase;
        let inspection = analysis.inspect().map_err(failed)?;
        if inspection.memories().all(|memory| memory.sites.grow == 0) {
            options.growth = Growth::Pregrown;
        }
    }
    let rewritten = analysis.rewrite(&options).map_err(failed)?;
    let module = rewritten.wasm.into_owned();
    wasm_prealloc::verify(&module, MAX_PAGES).map_err(|source| Error::Verify {
        package: guest.package.clone(),
        path: path.to_owned(),
        source,
    })?;
    Ok((module, rewritten.report))
}

fn stage(path: PathBuf, content: &[u8]) -> Result<(PathBuf, AtomicFile), Error> {
    match AtomicFile::write(path.clone(), content) {
        Ok(file) => Ok((path, file)),
        Err(source) => Err(Error::Write { path, source }),
    }
}

fn sha256(content: &[u8]) -> String {
    let digest = Sha256::digest(content);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes a path independent of the current folder, because cargo runs in another one.
fn absolute(path: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })
}
