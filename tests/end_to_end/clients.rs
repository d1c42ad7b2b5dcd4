//! Published packages, used through their own APIs in Node: with a rewritten module each gives the same
//! result as with the original. One named test for each package in `fixtures/clients`.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use serde_json::Value;
use wasm_prealloc_tests::{Profile, command, install_packages, repository, shared_memory_lock};

/// A package, as `all.mjs --list` describes it.
#[derive(Debug)]
struct Client {
    name: String,
    /// The first word of the toolchain: `Rust`, `Emscripten`, ...
    toolchain: String,
    /// True if a hundred growths cannot be seen: the heap grows by a part of its size, or threads grow
    /// it.
    few_growths: bool,
}

/// Clients that run at once. Each uses up to 2 GiB, and most of the time one processor.
const CLIENTS: usize = 2;

fn main() -> std::process::ExitCode {
    let mut trials = Vec::new();
    match clients() {
        Ok(None) => trials.push(Trial::ignorable_test("clients", || {
            Ok(Completion::ignored_with(
                "skipped: there is no `node` on PATH",
            ))
        })),
        Ok(Some(clients)) => {
            let list = check_list(&clients);
            trials.push(Trial::test("list", || list));
            trials.extend(
                clients.into_iter().map(|client| {
                    Trial::ignorable_test(client.name.clone(), move || check(&client))
                }),
            );
        }
        Err(error) => trials.push(Trial::test("list", || Err(error))),
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(CLIENTS);
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Lists the clients. `None` if Node is not installed.
fn clients() -> Result<Option<Vec<Client>>, Failed> {
    let Some(output) = run("--list", Path::new(""))? else {
        return Ok(None);
    };
    let list: Vec<Value> = serde_json::from_slice(&output.stdout)?;
    let clients = list.iter().map(|client| {
        let toolchain = client["toolchain"].as_str()?.split([',', ';']).next()?;
        Some(Client {
            name: client["name"].as_str()?.to_owned(),
            toolchain: toolchain.to_owned(),
            few_growths: client["fewGrowths"].as_bool()?,
        })
    });
    let clients: Option<Vec<Client>> = clients.collect();
    Ok(Some(clients.ok_or("all.mjs --list lacks a field")?))
}

/// Checks that the list has enough clients and toolchains.
fn check_list(clients: &[Client]) -> Result<(), Failed> {
    let toolchains = |linear: bool| -> BTreeSet<&str> {
        let clients = clients
            .iter()
            .filter(|client| !(linear && client.few_growths));
        clients.map(|client| client.toolchain.as_str()).collect()
    };
    let linear = clients.iter().filter(|client| !client.few_growths).count();
    let enough = clients.len() >= 25
        && toolchains(false).len() >= 5
        && linear >= 12
        && toolchains(true).len() >= 4;
    match enough {
        true => Ok(()),
        false => Err(format!("too few clients or toolchains: {clients:?}").into()),
    }
}

fn folder() -> PathBuf {
    repository().join("tests/fixtures/clients")
}

/// Runs `all.mjs`. `None` if Node is not installed.
fn run(argument: &str, binary: &Path) -> Result<Option<Output>, Failed> {
    let output = Command::new("node")
        .args(["all.mjs", argument])
        .current_dir(folder())
        .env("WASM_PREALLOC", binary)
        .output();
    match output {
        Ok(output) => Ok(Some(output)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("cannot start node: {error}").into()),
    }
}

/// Installs the packages and builds the command, once for all clients. The outer error is a failure,
/// the inner one is the reason to skip.
fn prepare() -> Result<Result<PathBuf, String>, String> {
    static PREPARED: LazyLock<Result<Result<PathBuf, String>, String>> = LazyLock::new(|| {
        let prepared = install_packages(&folder()).and_then(|missing| match missing {
            Some(why) => Ok(Err(format!("skipped: {why}"))),
            None => Ok(Ok(command(Profile::Dev)?)),
        });
        prepared.map_err(|error| format!("{error:?}"))
    });
    PREPARED.clone()
}

fn check(client: &Client) -> Result<Completion, Failed> {
    let _lock = shared_memory_lock()?;
    let binary = match prepare()? {
        Ok(binary) => binary,
        Err(why) => return Ok(Completion::ignored_with(why)),
    };
    let output = run(&client.name, &binary)?.ok_or("there is no `node` on PATH")?;
    let table = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{stderr}\n{table}").into());
    }
    let row = table.lines().nth(2).unwrap_or_default();
    eprintln!("{row}");
    let cells: Vec<&str> = row.split('|').map(str::trim).collect();
    let ["", _, _, _, _, _, growths, .., "same result", ""] = cells.as_slice() else {
        return Err(format!("not the same result:\n{table}").into());
    };
    let growths: u32 = growths.split(' ').next().unwrap_or_default().parse()?;
    match growths >= if client.few_growths { 1 } else { 100 } {
        true => Ok(Completion::Completed),
        false => Err(format!("the memory grew only {growths} times:\n{table}").into()),
    }
}
