//! Pipes, sockets, devices and unreadable folders: the command does not wait forever, and its memory is
//! bounded.

#![cfg(unix)]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crate::harness::{
    Folder, GROWING, assert_exit, assert_pinned, assert_stderr_contains, growing,
};

#[track_caller]
fn make_pipe(folder: &Folder, name: &str) {
    let status = Command::new("mkfifo").arg(folder.path(name)).status();
    assert!(status.unwrap().success());
}

#[test]
fn special_files_in_a_folder_are_skipped_with_a_warning() {
    let folder = Folder::with(&["in/a.wat"], GROWING);
    make_pipe(&folder, "in/b.wasm");
    let _listener = UnixListener::bind(folder.path("in/c.wasm")).unwrap();
    symlink("/dev/zero", folder.path("in/d.wasm")).unwrap();
    for args in ["inspect in", "rewrite in --out-dir made --quiet"] {
        let output = folder.run(args);
        for words in [
            "warning: in/b.wasm: skipped, because it is a named pipe in a folder",
            "warning: in/c.wasm: skipped, because it is a socket in a folder",
            "warning: in/d.wasm: skipped, because it is a device in a folder",
        ] {
            assert_stderr_contains(&output, words);
        }
    }
    let output = folder.run("inspect in --json");
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["modules"].as_array().unwrap().len(), 1);
    let skipped = document["skipped"].as_array().unwrap();
    assert_eq!(skipped.len(), 3);
    assert_eq!(skipped[0]["input"], "in/b.wasm");
}

#[test]
fn a_pipe_that_is_given_by_name_is_read() {
    let folder = Folder::with(&["module"], growing());
    make_pipe(&folder, "pipe");
    let writer = "cat module > pipe &\nexec \"$0\" rewrite pipe -o out.wasm";
    let output = Command::new("sh")
        .args(["-c", writer, env!("CARGO_BIN_EXE_wasm-prealloc")])
        .current_dir(folder.path(""))
        .output()
        .unwrap();
    assert_exit(&output, 0);
    folder.assert_pinned(&["out.wasm"]);
    folder.run_with_input("rewrite /dev/stdin -o again.wasm", growing());
    folder.assert_pinned(&["again.wasm"]);
}

/// The report is printed to stderr, and does not follow the module.
#[test]
fn stdout_under_another_name_gets_the_module_alone() {
    let folder = Folder::with(&["a.wat"], GROWING);
    for name in ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"] {
        let output = folder.run(&format!("rewrite a.wat -o {name}"));
        assert_pinned(&output.stdout);
        wasm_prealloc::inspect(&output.stdout).unwrap();
        folder.fails(
            &format!("rewrite a.wat --json -o {name}"),
            "`--json` prints to stdout",
        );
    }
}

#[test]
fn a_socket_and_a_folder_cannot_be_given_as_a_module() {
    let folder = Folder::with(&["in/a.wat"], GROWING);
    let _listener = UnixListener::bind(folder.path("socket")).unwrap();
    folder.fails(
        "verify socket",
        "error: socket: it is a socket, which cannot be read",
    );
    folder.fails("run in", "error: in: it is a folder: give a module in it");
}

/// The limit on the address space is much lower than the default limit on an input.
#[cfg(target_os = "linux")]
#[test]
fn inputs_that_never_end_use_little_memory() {
    let folder = Folder::new();
    let endless = "head -c 8 module; cat /dev/zero";
    folder.write("module", growing());
    for (input, args, words) in [
        (
            "true",
            "verify /dev/zero",
            "/dev/zero: not a WebAssembly module",
        ),
        (
            "cat /dev/zero",
            "verify -",
            "<stdin>: not a WebAssembly module",
        ),
        (
            endless,
            "verify - --max-input-bytes 1000000",
            "<stdin>: it has more than 1000000 bytes",
        ),
        (
            "yes ' '",
            "run --max-input-bytes 1000000 -",
            "raise `--max-input-bytes`",
        ),
    ] {
        let script = format!("({input}) | (ulimit -v 1000000 && exec \"$0\" {args})");
        let output = Command::new("sh")
            .args(["-c", &script, env!("CARGO_BIN_EXE_wasm-prealloc")])
            .current_dir(folder.path(""))
            .output()
            .unwrap();
        assert_exit(&output, 2);
        assert_stderr_contains(&output, words);
    }
}

/// The error names the value that admits the file.
#[test]
fn a_file_above_the_limit_is_admitted_by_the_value_in_the_error() {
    let folder = Folder::with(&["a.wasm"], growing());
    let bytes = growing().len();
    let least = bytes - 1;
    for command in ["verify --pages 1", "inspect", "rewrite -o b.wasm", "run"] {
        let words = format!(
            "a.wasm: it has {bytes} bytes, more than the limit: `--max-input-bytes {bytes}` admits it"
        );
        folder.fails(
            &format!("{command} --max-input-bytes {least} a.wasm"),
            &words,
        );
    }
    folder.run(&format!("inspect a.wasm --max-input-bytes {bytes}"));
    folder.write("a.wat", GROWING);
    let counted = GROWING.len() * 16;
    folder.fails(
        &format!("inspect a.wat --max-input-bytes {}", counted - 1),
        &format!("bytes of text: `--max-input-bytes {counted}` admits it"),
    );
    folder.run(&format!("inspect a.wat --max-input-bytes {counted}"));
    // A file that is no module is named, however large it is.
    fs::File::create(folder.path("large.wasm"))
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    folder.fails("inspect large.wasm", "not a WebAssembly module");
}

/// The other folders are still read.
#[test]
fn an_unreadable_folder_is_reported_and_the_others_are_read() {
    let folder = Folder::with(&["in/a.wat", "in/locked/b.wat"], GROWING);
    let allow = |name: &str, mode| {
        fs::set_permissions(folder.path(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    allow("", 0o755);
    allow("in/locked", 0o000);
    let mut command = folder.command("inspect in");
    if fs::read_dir(folder.path("in/locked")).is_ok() {
        // Root reads every folder, so the command runs as another user.
        command.uid(65_534);
    }
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => return println!("skipped: another user cannot start the command: {error}"),
    };
    allow("in/locked", 0o755);
    assert_exit(&output, 2);
    assert_stderr_contains(&output, "error: in/locked: Permission denied");
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(stdout.starts_with("in/a.wat: "), "{stdout}");
}

#[test]
fn a_link_to_itself_is_an_error_and_other_files_are_read() {
    let folder = Folder::with(&["in/a.wat"], GROWING);
    symlink("loop.wasm", folder.path("in/loop.wasm")).unwrap();
    let output = folder.fails(
        "inspect in",
        "error: in/loop.wasm: Too many levels of symbolic links",
    );
    assert!(output.stdout.starts_with(b"in/a.wat: "));
}

/// The limit applies to the child only. A command without threads does the work itself.
#[cfg(target_os = "linux")]
#[test]
fn a_system_that_refuses_threads_is_no_error() {
    let folder = Folder::with(&["in/a.wat", "in/b.wat"], GROWING);
    fs::set_permissions(folder.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new("prlimit");
    command.args(["--nproc=1:1", env!("CARGO_BIN_EXE_wasm-prealloc")]);
    // The kernel does not apply this limit to root.
    command
        .args(["inspect", "in"])
        .current_dir(folder.path(""))
        .uid(65_534);
    match command.output() {
        Err(error) => println!("skipped: another user cannot start the command: {error}"),
        Ok(output) => assert_exit(&output, 0),
    }
}
