//! `cargo xtask engines`: the host crate with other versions of wasmtime than the workspace's. Each
//! version has a workspace of its own, which depends on the host crate as a user does, with its own
//! lock file. The workspace's lock file is not touched.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use wasm_prealloc_tests::skipped;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
A version takes minutes when it is built first, and seconds when only the host crate has changed. A
version that needs a newer Rust is built with rustup's toolchain of that version.

Exit status: 0 all passed, 1 something failed")]
pub(crate) struct Opts {
    /// Use this version of wasmtime instead of the lowest, the one with long-term support and the
    /// newest; can be given several times
    #[arg(long = "version", value_name = "VERSION")]
    versions: Vec<String>,
    /// Run the engine's tests too
    #[arg(long)]
    test: bool,
    /// The folder of the workspaces and their build [default: target/engines]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// The lowest version of the range in the host crate's manifest, the workspace's, and the newest.
const VERSIONS: [&str; 3] = ["43.0.2", "48.0.8", "50.0.1"];

/// The features of the host crate, alone and together.
const FEATURES: [&str; 5] = [
    "wasmtime-runtime",
    "gc",
    "async,component-model",
    "wasmtime",
    ALL,
];
const ALL: &str = "wasmtime,async,component-model";

pub(crate) fn run(opts: &Opts) -> Result<()> {
    let folder = match &opts.dir {
        Some(dir) => std::path::absolute(dir)?,
        None => crate::repository().join("target/engines"),
    };
    let defaults = VERSIONS.map(str::to_owned);
    let versions = match opts.versions.is_empty() {
        true => &defaults[..],
        false => &opts.versions,
    };
    for version in versions {
        eprintln!("wasmtime {version}");
        let mut workspace = Workspace::new(&folder, version)?;
        if let Err(why) = workspace.find_toolchain() {
            skipped(&format!("wasmtime {version}: {why:#}"));
            continue;
        }
        workspace.check()?;
        if opts.test {
            workspace.test()?;
        }
    }
    Ok(())
}

/// The workspace of a version.
struct Workspace {
    version: String,
    dir: PathBuf,
    /// The version of Rust that wasmtime needs, if this one is older.
    toolchain: Option<String>,
}

impl Workspace {
    /// Writes a workspace, and locks the version. Other packages have the versions of this
    /// repository's lock file. A lock file that is there is kept.
    fn new(folder: &Path, version: &str) -> Result<Workspace> {
        let repository = crate::repository();
        let host = repository.join("crates/wasm-prealloc-host");
        let dir = folder.join(version);
        fs::create_dir_all(&dir)?;
        let manifest = include_str!("engines.toml")
            .replace("{host}", &host.display().to_string())
            .replace("{version}", version);
        fs::write(dir.join("Cargo.toml"), manifest)?;
        fs::write(dir.join("lib.rs"), "")?;
        let workspace = Workspace {
            version: version.to_owned(),
            dir,
            toolchain: None,
        };
        let lock = workspace.dir.join("Cargo.lock");
        if !lock.exists() {
            fs::copy(repository.join("Cargo.lock"), &lock)?;
            let mut update = workspace.cargo(&["update", "--quiet", "wasmtime", "--precise"]);
            let locked = crate::run(update.arg(version), "`cargo update`");
            if locked.is_err() {
                fs::remove_file(&lock)?;
            }
            locked?;
        }
        Ok(workspace)
    }

    /// Finds the toolchain that wasmtime needs, and installs it if it is missing.
    fn find_toolchain(&mut self) -> Result<()> {
        let package = format!("wasmtime@{}", self.version);
        let info = output(&mut self.cargo(&["info", "--quiet", &package]))?;
        let needed = info
            .lines()
            .find_map(|line| line.strip_prefix("rust-version: "));
        let needed = needed.context("wasmtime names no version of Rust")?.trim();
        let current = output(Command::new("rustc").arg("--version"))?;
        let current = current
            .split(' ')
            .nth(1)
            .context("rustc names no version")?;
        if minor(current)? < minor(needed)? {
            let install = ["toolchain", "install", "--profile", "minimal", needed];
            output(Command::new("rustup").args(install))?;
            self.toolchain = Some(needed.to_owned());
        }
        Ok(())
    }

    /// Checks that the host crate compiles with each set of features, and that a host without a
    /// compiler has none.
    fn check(&self) -> Result<()> {
        for features in FEATURES {
            let mut check = self.cargo(&["check", "--locked", "--quiet", "--features", features]);
            crate::run(&mut check, &format!("`cargo check --features {features}`"))?;
        }
        let tree = "tree --locked --edges normal --prefix none --features wasmtime-runtime";
        let tree = output(&mut self.cargo(&tree.split(' ').collect::<Vec<_>>()))?;
        let engine = format!("wasmtime v{}", self.version);
        for line in tree.lines() {
            let is_compiler = ["cranelift-codegen ", "wasmtime-internal-cranelift "];
            let is_compiler = is_compiler.iter().any(|name| line.starts_with(name));
            ensure!(!is_compiler, "a host without a compiler depends on {line}");
            let is_other = line.starts_with("wasmtime v") && !line.starts_with(&engine);
            ensure!(!is_other, "the host crate is built with {line}");
        }
        Ok(())
    }

    /// Runs the engine's tests with all features, and then the tests of a host without a compiler on
    /// the modules that were compiled.
    fn test(&self) -> Result<()> {
        let all = format!("{ALL},tests");
        for arguments in [
            &["--features", &all][..],
            &["--features", "wasmtime-runtime", "--test", "precompiled"],
        ] {
            let mut test = self.cargo(&["test", "--locked"]);
            test.args(arguments)
                .env("WASM_PREALLOC_WASMTIME", &self.version)
                .env("WASM_PREALLOC_COMPILED", &self.dir);
            crate::run(&mut test, &format!("`cargo test {}`", arguments.join(" ")))?;
        }
        Ok(())
    }

    /// Prepares cargo to be started in the workspace.
    fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = match &self.toolchain {
            // Through rustup, because `CARGO` belongs to another toolchain.
            Some(toolchain) => {
                let mut command = Command::new("rustup");
                command.args(["run", toolchain, "cargo"]);
                command.env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN");
                command
            }
            None => crate::cargo([]),
        };
        command
            .current_dir(&self.dir)
            .args(arguments)
            // One build for all versions, which have most other packages in common.
            .env("CARGO_TARGET_DIR", self.dir.with_file_name("target"));
        command
    }
}

/// Runs a command that must succeed, and returns what it prints.
fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().display().to_string();
    let output = command.output();
    let output = output.with_context(|| format!("cannot start {program}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{program} failed: {}",
        stderr.trim()
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// Parses the first two numbers of a version of Rust.
fn minor(version: &str) -> Result<(u32, u32)> {
    let mut numbers = version.split('.').map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => bail!("{version} is no version of Rust"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

    use super::*;

    #[test]
    fn the_versions_are_the_ends_of_the_range_and_the_workspaces() {
        let read = |file| fs::read_to_string(crate::repository().join(file)).unwrap();
        let major = |version: &str| version.split('.').next().unwrap().parse::<u32>().unwrap();
        let [lowest, locked, newest] = VERSIONS;
        let range = format!(">={}, <{}", major(lowest), major(newest) + 1);
        assert!(
            read("crates/wasm-prealloc-host/Cargo.toml").contains(&range),
            "{range}"
        );
        let locked = format!("name = \"wasmtime\"\nversion = \"{locked}\"");
        assert!(read("Cargo.lock").contains(&locked), "{locked}");
    }

    #[test]
    fn versions_of_rust_are_compared_by_number() {
        assert!(minor("1.97.0").unwrap() > minor("1.95.0-nightly").unwrap());
        assert!(minor("1.100.0").unwrap() > minor("1.97.0").unwrap());
        assert!(minor("beta").is_err());
    }
}
