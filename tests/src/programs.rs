//! What is under test: the guests, linked as this project links them and as cargo does by itself,
//! the indexer host, and the command.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use cargo_metadata::Message;
use wasm_prealloc_build::{BuildOptions, Linking, build};

/// The root of the repository.
pub fn repository() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_owned()
}

/// The guests of this repository as one way of linking makes them.
#[derive(Clone, Debug)]
pub struct Guests {
    /// Allocates and writes what its block asks for.
    pub memory_stress: PathBuf,
    /// Does nothing.
    pub minimal: PathBuf,
}

impl Guests {
    /// Builds the guests, where they are not up to date.
    ///
    /// # Errors
    /// As [`wasm_prealloc_build::build`].
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
}

/// Builds the indexer host, where it is not up to date, and gives its path.
///
/// # Errors
/// Where cargo fails; what it says goes to stderr.
pub fn indexer() -> Result<PathBuf> {
    program("--example", "indexer")
}

/// Builds the `wasm-prealloc` command, where it is not up to date, and gives its path.
///
/// # Errors
/// As [`indexer`].
pub fn command() -> Result<PathBuf> {
    program("--bin", "wasm-prealloc")
}

/// Builds one program of the workspace: `kind` is the flag of cargo's that selects it.
fn program(kind: &str, name: &str) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // With `--workspace` the engine has the features that every other build here gives it, and is
    // not built twice.
    let mut child = Command::new(cargo)
        .current_dir(repository())
        .args(["build", "--quiet", "--workspace", kind, name])
        .arg("--message-format=json-render-diagnostics")
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo")?;
    let stdout = child.stdout.take().context("cargo has no stdout")?;
    let mut found = None;
    for message in Message::parse_stream(std::io::BufReader::new(stdout)) {
        if let Message::CompilerArtifact(artifact) = message?
            && artifact.target.name == name
        {
            // A library of the same name comes without an executable.
            found = artifact.executable.or(found);
        }
    }
    let status = child.wait()?;
    ensure!(status.success(), "cargo did not build {name} ({status})");
    Ok(found
        .with_context(|| format!("cargo named no {name}"))?
        .into())
}
