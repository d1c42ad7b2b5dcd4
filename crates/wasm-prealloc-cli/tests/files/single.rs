//! One module: streams, permissions, and errors that name the file.

use std::path::Path;
use std::process::Command;

use crate::harness::{
    Folder, GROWING, assert_exit, assert_pinned, assert_stderr_contains, growing,
};

#[test]
fn text_on_stdin_becomes_binary_on_stdout() {
    let folder = Folder::new();
    let output = folder.run_with_input("rewrite - -o -", GROWING);
    assert_pinned(&output.stdout);
    assert_stderr_contains(&output, "<stdin> -> <stdout>");
    folder.run_with_input("verify -", &output.stdout);
}

#[test]
fn in_place_keeps_the_permissions_and_an_error_keeps_the_file() {
    let bad = b"\0asm\x01\0\0\0\x05\x02\x01";
    let folder = Folder::with(&["good.wasm"], growing());
    folder.write("bad.wasm", bad);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let permissions = std::fs::Permissions::from_mode(0o640);
        std::fs::set_permissions(folder.path("good.wasm"), permissions).unwrap();
    }
    folder.fails(
        "rewrite --in-place good.wasm bad.wasm",
        "bad.wasm: malformed module at offset",
    );
    folder.assert_pinned(&["good.wasm"]);
    assert_eq!(folder.read("bad.wasm"), bad);
    assert_eq!(folder.names(), ["bad.wasm", "good.wasm"]);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let metadata = folder.path("good.wasm").metadata().unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o640);
    }
}

#[test]
fn text_is_not_overwritten_by_binary() {
    let folder = Folder::with(&["a.wat"], GROWING);
    folder.fails("rewrite --in-place a.wat", "a.wat: it is text");
    assert_eq!(folder.read("a.wat"), GROWING.as_bytes());
    folder.run("rewrite --out-dir made a.wat");
    folder.assert_pinned(&["made/a.wasm"]);
}

#[test]
fn inputs_that_are_not_modules_are_named_once_with_the_reason() {
    let folder = Folder::new();
    let files: [(&str, &[u8], &str); 4] = [
        ("empty", b"", "not a WebAssembly module: it is empty"),
        (
            "short",
            b"\0asm\x01",
            "not a WebAssembly module: it ends within its header",
        ),
        (
            "other",
            b"\x01\x02\x03\x04",
            "not a WebAssembly module: its first four bytes are not `\\0asm`",
        ),
        (
            "truncated",
            b"\0asm\x01\0\0\0\x05\x03\x01",
            "malformed module at offset",
        ),
    ];
    for (name, bytes, _) in files {
        folder.write(name, bytes);
    }
    let missing = ("missing", &b""[..], "No such file or directory");
    for (name, _, words) in files.into_iter().chain([missing]) {
        for args in ["verify %", "inspect %", "rewrite % -o x", "run %"] {
            let args = args.replace('%', name);
            folder.fails(&args, &format!("error: {name}: {words}"));
        }
    }
    assert!(!folder.path("x").exists());
}

#[test]
fn an_output_that_cannot_be_written_is_named() {
    let folder = Folder::with(&["a.wat"], GROWING);
    folder.fails(
        "rewrite a.wat -o missing/b.wasm",
        "cannot write missing/b.wasm",
    );
    if Path::new("/dev/full").exists() {
        folder.fails("rewrite a.wat -o /dev/full", "No space left on device");
        assert!(Path::new("/dev/full").exists());
    }
    assert_eq!(folder.names(), ["a.wat"]);
}

/// The limit applies to the child only, so the test needs no privileges.
#[cfg(target_os = "linux")]
#[test]
fn memory_that_cannot_be_secured_is_refused_before_the_module_starts() {
    let text = r#"(module (memory 65536 65536) (func (export "_start") unreachable))"#;
    let folder = Folder::with(&["a.wat"], text);
    let output = Command::new("sh")
        .args(["-c", "ulimit -v 2000000 && exec \"$0\" run a.wat"])
        .arg(env!("CARGO_BIN_EXE_wasm-prealloc"))
        .current_dir(folder.path(""))
        .output()
        .unwrap();
    assert_exit(&output, 1);
    assert_stderr_contains(&output, "memory not secured");
    assert_stderr_contains(&output, "RLIMIT_AS");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!stderr.contains("unreachable"), "{stderr}");
}

#[test]
fn help_shows_examples_and_the_exit_status() {
    for command in ["rewrite", "verify", "inspect", "preflight", "run"] {
        let output = Folder::new().run(&format!("{command} --help"));
        let help = String::from_utf8(output.stdout).unwrap();
        assert!(
            help.contains("Examples:\n") && help.contains("Exit status:\n"),
            "{help}"
        );
    }
}
