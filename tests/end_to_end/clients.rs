//! Published packages, used through their own APIs in Node, give the same results on rewritten
//! modules as on their own. The packages and what is done with them stand in `tests/clients`.

use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use wasm_prealloc_tests::{command, repository, skipped};

use crate::machine;

/// What npm says where it is the registry that is missing, not a package.
const UNREACHABLE: [&str; 6] = [
    "ENOTFOUND",
    "EAI_AGAIN",
    "ECONNREFUSED",
    "ECONNRESET",
    "ETIMEDOUT",
    "ENETUNREACH",
];

/// Runs a program in a folder; `None` where it is not installed.
fn run(program: &str, arguments: &[&str], folder: &Path, binary: &Path) -> Option<Output> {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder);
    match command.env("WASM_PREALLOC", binary).output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => panic!("{program} cannot be started: {error}"),
    }
}

/// The packages that a lock file names, each with its version.
fn locked(path: &Path) -> Option<Vec<(String, Value)>> {
    let lock: Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    let packages = lock["packages"].as_object()?.iter();
    // The package without a name is the folder itself, and npm does not list it as installed.
    let named = packages.filter(|(name, _)| !name.is_empty());
    Some(
        named
            .map(|(name, package)| (name.clone(), package["version"].clone()))
            .collect(),
    )
}

#[test]
fn published_packages_give_the_same_results() {
    let _machine = machine();
    let folder = repository().join("tests/clients");
    let binary = command().unwrap();

    let wanted = locked(&folder.join("package-lock.json"));
    assert!(wanted.is_some(), "package-lock.json cannot be read");
    if locked(&folder.join("node_modules/.package-lock.json")) != wanted {
        let arguments = ["ci", "--ignore-scripts", "--no-audit", "--no-fund"];
        let Some(output) = run("npm", &arguments, &folder, &binary) else {
            skipped("there is no `npm` on PATH");
            return;
        };
        let stderr = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() && UNREACHABLE.iter().any(|code| stderr.contains(code)) {
            skipped(
                "npm's registry cannot be reached, and tests/clients/node_modules is not there",
            );
            return;
        }
        assert!(output.status.success(), "npm ci: {stderr}");
    }

    let Some(output) = run("node", &["all.mjs"], &folder, &binary) else {
        skipped("there is no `node` on PATH");
        return;
    };
    let table = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    // Past the harness, which hides what passing tests print: the table is worth reading.
    // Nothing can be done about a stderr that is gone.
    let _ = writeln!(std::io::stderr(), "{table}");
    assert!(output.status.success(), "{stderr}");
}
