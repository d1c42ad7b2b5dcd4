//! A system that refuses to start the threads that validate a large module.

use std::fs;
use std::process::{Command, Stdio};

use crate::harness::Folder;

/// A user without privileges, whose only process is the command.
const USER: &str = "54321";

/// A module with enough code for several threads.
fn large() -> Vec<u8> {
    let body = "nop ".repeat(300_000);
    let function = format!("(func {body})");
    let text = format!("(module (memory 1) {})", function.repeat(4));
    wat::parse_str(text).unwrap()
}

#[test]
fn a_module_is_rewritten_where_the_system_refuses_threads() {
    use std::os::unix::fs::PermissionsExt as _;

    let folder = Folder::with(&["large.wasm"], large());
    // Another user must be able to start the command and to read the module.
    let program = folder.path("command");
    fs::copy(env!("CARGO_BIN_EXE_wasm-prealloc"), &program).unwrap();
    fs::set_permissions(folder.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let limited = |rest: &[&str]| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", USER, "--regid", USER, "--clear-groups"])
            .args(["prlimit", "--nproc=1", "--"])
            .args(rest)
            .current_dir(folder.path(""));
        command
    };
    let starts = limited(&["./command", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !starts.is_ok_and(|status| status.success()) {
        return println!("skipped: setpriv and prlimit cannot start the command as another user");
    }
    let output = limited(&["./command", "rewrite", "large.wasm", "-o", "-"])
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    wasm_prealloc::verify(&output.stdout, 65_536).unwrap();
}
