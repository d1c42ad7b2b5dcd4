//! npm packages that the tests and the benchmarks use.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// The errors of npm if the registry cannot be reached.
const UNREACHABLE: [&str; 6] = [
    "ENOTFOUND",
    "EAI_AGAIN",
    "ECONNREFUSED",
    "ECONNRESET",
    "ETIMEDOUT",
    "ENETUNREACH",
];

/// Installs the packages of a folder's lock file, unless they are installed already. Their scripts are
/// not run. Returns the reason if this machine cannot install packages.
pub fn install_packages(folder: &Path) -> Result<Option<String>> {
    let locked = locked(&folder.join("package-lock.json")).context("package-lock.json")?;
    if self::locked(&folder.join("node_modules/.package-lock.json")) == Some(locked) {
        return Ok(None);
    }
    let output = Command::new("npm")
        .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
        .current_dir(folder)
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => return Ok(Some(format!("cannot start npm: {error}"))),
    };
    let stderr = String::from_utf8_lossy(&output.stderr);
    let success = output.status.success();
    if !success && UNREACHABLE.iter().any(|code| stderr.contains(code)) {
        return Ok(Some("cannot reach the registry of npm".to_owned()));
    }
    ensure!(success, "npm ci: {stderr}");
    Ok(None)
}

/// Returns the packages that a lock file names, each with its version.
fn locked(path: &Path) -> Option<Vec<(String, Value)>> {
    let lock: Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    let packages = lock["packages"].as_object()?.iter();
    // The package without a name is the folder itself, which npm does not list as installed. Optional
    // packages are for other systems.
    let is_needed = |name: &str, package: &Value| !name.is_empty() && package["optional"] != true;
    let named = packages.filter(|(name, package)| is_needed(name, package));
    let versions = named.map(|(name, package)| (name.clone(), package["version"].clone()));
    Some(versions.collect())
}
