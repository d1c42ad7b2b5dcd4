//! Builds the programs under test: the guests, the hosts, and the command.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use cargo_metadata::Message;
use wasm_prealloc_build::{BuildOptions, Linking, WASM_TARGET, build};

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
    let mut command = cargo();
    command
        .args(["build", "--quiet", "--package", "memory-stress"])
        .args(["--target", WASM_TARGET, "--manifest-path"])
        .arg(root.join("wasm-modules/Cargo.toml"))
        .arg("--target-dir")
        .arg(root.join("target/tests/debug"));
    artifact(command, "memory_stress", |artifact| {
        artifact
            .filenames
            .into_iter()
            .find(|file| file.extension() == Some("wasm"))
    })
}

/// Builds the indexer host if it is not up to date. Returns its path.
pub fn indexer() -> Result<PathBuf> {
    example("indexer")
}

/// Builds the host with wasmi if it is not up to date. Returns its path.
pub fn any_engine() -> Result<PathBuf> {
    example("any_engine")
}

/// Builds the host that only secures memory if it is not up to date. Returns its path.
pub fn commit() -> Result<PathBuf> {
    program("--bin", "commit", Profile::Dev)
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
    program("--bin", "wasm-prealloc", profile)
}

fn example(name: &str) -> Result<PathBuf> {
    program("--example", name, Profile::Dev)
}

fn program(kind: &str, name: &str, profile: Profile) -> Result<PathBuf> {
    let mut command = cargo();
    // With `--workspace` the engine has the same features as in the other builds, and is built once.
    command.args(["build", "--quiet", "--workspace", kind, name]);
    if profile == Profile::Release {
        command.arg("--release");
    }
    artifact(command, name, |artifact| artifact.executable)
}

fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(repository());
    command
}

/// Runs a build. Returns a file of one target.
fn artifact<File: Into<PathBuf>>(
    mut build: Command,
    target: &str,
    file: impl Fn(cargo_metadata::Artifact) -> Option<File>,
) -> Result<PathBuf> {
    let mut child = build
        .arg("--message-format=json-render-diagnostics")
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo")?;
    let stdout = child.stdout.take().context("cargo has no stdout")?;
    let mut found = None;
    for message in Message::parse_stream(std::io::BufReader::new(stdout)) {
        if let Message::CompilerArtifact(artifact) = message?
            && artifact.target.name == target
        {
            // A library of the same name may not have such a file.
            found = file(artifact).or(found);
        }
    }
    let status = child.wait()?;
    ensure!(status.success(), "cargo did not build {target} ({status})");
    Ok(found
        .with_context(|| format!("cargo reported no {target}"))?
        .into())
}
