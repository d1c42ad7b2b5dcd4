//! `cargo xtask msrv`: checks each published crate with the oldest Rust that its manifest names, and
//! with the versions of its dependencies that cargo chooses for that Rust.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit status: 0 all compile, 1 one does not, or a toolchain cannot be installed")]
pub(crate) struct Opts {}

/// The crates, each with the features that its `rust-version` is for. With the feature `wasmtime` the
/// engine's own `rust-version` is higher.
const CHECKED: [(&str, &[&str]); 4] = [
    ("wasm-prealloc", &["--all-features"]),
    ("wasm-prealloc-build", &[]),
    ("wasm-prealloc-host", &[]),
    ("wasm-prealloc-cli", &["--no-default-features"]),
];

pub(crate) fn run(_: &Opts) -> Result<()> {
    let target = crate::repository().join("target/msrv");
    // The lock file of the repository has the newest versions, so a copy gets its own.
    let copy = target.join("source");
    copy_tracked_files(&copy)?;
    let mut lock = crate::cargo(["generate-lockfile", "--quiet"]);
    lock.current_dir(&copy)
        .env("CARGO_RESOLVER_INCOMPATIBLE_RUST_VERSIONS", "fallback");
    crate::run(&mut lock, "`cargo generate-lockfile`")?;
    for (package, features) in CHECKED {
        let rust = rust_version(&copy.join("crates").join(package).join("Cargo.toml"))?;
        let mut install = Command::new("rustup");
        install.args(["toolchain", "install", &rust, "--profile", "minimal"]);
        crate::run(
            install.arg("--no-self-update"),
            "`rustup toolchain install`",
        )?;
        let mut check = Command::new("rustup");
        check
            .current_dir(&copy)
            .args(["run", &rust, "cargo", "check", "--locked", "--quiet"])
            .args(["--package", package])
            .args(features)
            .env("CARGO_TARGET_DIR", &target);
        let what = format!("{package} {} with Rust {rust}", features.join(" "));
        crate::run(&mut check, &what)?;
        println!("{package}: compiles with Rust {rust}");
    }
    Ok(())
}

/// Copies the files that git tracks, without the lock file.
fn copy_tracked_files(to: &Path) -> Result<()> {
    let repository = crate::repository();
    let mut git = Command::new("git");
    let output = git
        .current_dir(&repository)
        .args(["ls-files", "-z"])
        .output()
        .context("cannot start git")?;
    let names = String::from_utf8(output.stdout)?;
    if to.exists() {
        fs::remove_dir_all(to).with_context(|| to.display().to_string())?;
    }
    for name in names.split_terminator('\0') {
        let (source, copy) = (repository.join(name), to.join(name));
        // A tracked file may be deleted in the working tree.
        if name == "Cargo.lock" || !source.exists() {
            continue;
        }
        fs::create_dir_all(copy.parent().unwrap_or(to))?;
        fs::copy(&source, &copy).with_context(|| name.to_owned())?;
    }
    Ok(())
}

/// Returns the `rust-version` of a manifest.
fn rust_version(manifest: &Path) -> Result<String> {
    let text = fs::read_to_string(manifest).with_context(|| manifest.display().to_string())?;
    let mut lines = text.lines();
    let version = lines.find_map(|line| line.strip_prefix("rust-version = \""));
    let version = version.and_then(|rest| rest.strip_suffix('"'));
    let version = version.with_context(|| format!("no rust-version in {}", manifest.display()))?;
    Ok(version.to_owned())
}
