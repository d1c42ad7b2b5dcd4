//! Builds the programs under test: the guests, the hosts, and the command.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use escargot::CargoBuild;
use escargot::format::Message;
use wasm_prealloc_build::{BuildOptions, Linking, WASM_TARGET, build};

/// Arguments with which the error of a build contains the compiler's messages.
pub(crate) const DIAGNOSTICS: [&str; 2] = ["--quiet", "--message-format=json-render-diagnostics"];

/// Returns the root of the repository.
pub fn repository() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_owned()
}

/// A guest of this repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guest {
    /// Allocates and writes the memory that its block requests.
    Stress,
    /// Does nothing.
    Minimal,
}

impl fmt::Display for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stress => "stress",
            Self::Minimal => "minimal",
        })
    }
}

/// The guests of this repository, linked in one way.
#[derive(Clone, Debug)]
pub struct Guests {
    /// The module of [`Guest::Stress`].
    pub memory_stress: PathBuf,
    /// The module of [`Guest::Minimal`].
    pub minimal: PathBuf,
}

impl Guests {
    /// Builds the guests if they are not up to date.
    pub fn build(linking: Linking) -> Result<Self> {
        let folder = match linking {
            Linking::Pinned => "target/tests/pinned",
            Linking::Natural => "target/tests/natural",
        };
        let root = repository();
        let mut options =
            BuildOptions::new(root.join("wasm-modules/Cargo.toml"), root.join(folder));
        options.linking = linking;
        let built = build(&options)?;
        let path = |name| built.path(name).with_context(|| format!("no guest {name}"));
        Ok(Self {
            memory_stress: path("memory_stress")?,
            minimal: path("minimal")?,
        })
    }

    /// Returns the module of a guest.
    pub fn path(&self, guest: Guest) -> &Path {
        match guest {
            Guest::Stress => &self.memory_stress,
            Guest::Minimal => &self.minimal,
        }
    }
}

/// Builds the stress guest with the dev profile, which includes DWARF. Returns its path.
pub fn debug_guest() -> Result<PathBuf> {
    let root = repository();
    let target_dir = root.join("target/tests/debug");
    let build = CargoBuild::new()
        .manifest_path(root.join("wasm-modules/Cargo.toml"))
        .package("memory-stress")
        .target(WASM_TARGET)
        .target_dir(&target_dir)
        .args(DIAGNOSTICS);
    for message in build.exec()? {
        message?;
    }
    Ok(target_dir
        .join(WASM_TARGET)
        .join("debug/memory_stress.wasm"))
}

/// Builds the host with wasmi if it is not up to date. Returns its path.
pub fn any_engine() -> Result<PathBuf> {
    example("any_engine")
}

/// Builds the host that secures memory which is mapped already if it is not up to date. Returns its
/// path.
pub fn in_place() -> Result<PathBuf> {
    example("in_place")
}

/// Builds the hosts before and after the migration that `docs/migration.md` describes, if they are not
/// up to date. Returns their paths.
pub fn migration() -> Result<[PathBuf; 2]> {
    Ok([example("migration_before")?, example("migration_after")?])
}

/// Builds the host that only secures memory if it is not up to date. Returns its path.
pub fn commit() -> Result<PathBuf> {
    dev_program("commit")
}

/// The cargo profile of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// The profile that the tests use.
    Dev,
    /// The profile of a release.
    Release,
}

/// Builds the `wasm-prealloc` command if it is not up to date. Returns its path.
pub fn command(profile: Profile) -> Result<PathBuf> {
    const NAME: &str = "wasm-prealloc";
    match profile {
        Profile::Dev => dev_program(NAME),
        Profile::Release => program(NAME, CargoBuild::new().bin(NAME).release()),
    }
}

/// Builds an example if it is not up to date. Returns its path.
pub(crate) fn example(name: &str) -> Result<PathBuf> {
    dev_program(name)
}

/// Builds the programs of the workspace, and returns the path of one.
///
/// All of them are built together, as the tests are: for one alone, crates on which wasmtime depends
/// have other features, and wasmtime is compiled again for minutes.
fn dev_program(name: &str) -> Result<PathBuf> {
    program(name, CargoBuild::new().bins().examples())
}

fn program(name: &str, build: CargoBuild) -> Result<PathBuf> {
    let build = build.manifest_path(repository().join("Cargo.toml"));
    let built = build.arg("--workspace").args(DIAGNOSTICS);
    let mut program = None;
    for message in built.exec()? {
        let message = message?;
        if let Message::CompilerArtifact(artifact) = message.decode()?
            && artifact.target.name == name
            && let Some(path) = artifact.executable
        {
            program = Some(path.into_owned());
        }
    }
    program.with_context(|| format!("cargo built no program {name}"))
}
