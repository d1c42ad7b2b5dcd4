//! Published packages, used through their own APIs in Node, give the same results on rewritten
//! modules as on their own. The packages and what is done with them stand in `tests/fixtures/clients`.

use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use wasm_prealloc_tests::{Profile, command, repository, skipped};

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
    let folder = repository().join("tests/fixtures/clients");
    let binary = command(Profile::Dev).unwrap();

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
                "npm's registry cannot be reached, and tests/fixtures/clients/node_modules is not there",
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

    let clients: Vec<Client> = table.lines().filter_map(Client::parse).collect();
    let same: Vec<&Client> = clients.iter().filter(|client| client.same).collect();
    assert!(same.len() >= 21, "only {} packages ran", same.len());
    assert!(
        toolchains(&same) >= 5,
        "only {} toolchains",
        toolchains(&same)
    );

    // What grows its memory by a part of its size cannot do so a hundred times below 4 GiB.
    let (geometric, linear): (Vec<_>, Vec<_>) = same.into_iter().partition(|client| {
        client.toolchain.starts_with("Emscripten") || client.toolchain == "TinyGo"
    });
    assert!(linear.len() >= 12, "only {} grow linearly", linear.len());
    assert!(toolchains(&linear) >= 4, "too few grow linearly");
    for client in linear {
        assert!(client.growths >= 100, "{client:?}");
    }
    for client in geometric {
        assert!(client.growths >= 2, "{client:?}");
    }
}

/// One row of the table that `all.mjs` prints.
#[derive(Debug)]
struct Client {
    /// How the package was compiled, as the first word of it says: `Rust`, `Emscripten`, ...
    toolchain: String,
    /// How often its memories grew.
    growths: u64,
    /// The rewritten module gave the original's result.
    same: bool,
    /// The package and its version, for people.
    #[expect(dead_code, reason = "read by `Debug`")]
    package: String,
}

impl Client {
    /// Reads a row; `None` for the table's head and for what stands around the table.
    fn parse(line: &str) -> Option<Self> {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let ["", package, toolchain, _, _, _, growths, .., auto, ""] = cells.as_slice() else {
            return None;
        };
        let toolchain = toolchain.split([',', ';']).next()?;
        Some(Self {
            toolchain: toolchain.to_owned(),
            growths: growths.split_whitespace().next()?.parse().ok()?,
            same: *auto == "same result",
            package: (*package).to_owned(),
        })
    }
}

/// How many toolchains these packages come from.
fn toolchains(clients: &[&Client]) -> usize {
    let names = clients.iter().map(|client| client.toolchain.as_str());
    names.collect::<std::collections::BTreeSet<_>>().len()
}
