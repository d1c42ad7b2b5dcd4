//! One module: streams, permissions, and errors that name the file.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::harness::{
    GROWING, assert_exit, assert_pinned, assert_stderr_contains, names, run, run_with_input,
};

#[test]
fn text_on_stdin_becomes_binary_on_stdout() {
    let folder = tempfile::tempdir().unwrap();
    let output = run_with_input(
        folder.path(),
        &["rewrite", "-", "-o", "-"],
        GROWING.as_bytes(),
    );
    assert_exit(&output, 0);
    assert_pinned(&output.stdout);
    assert_stderr_contains(&output, "<stdin> -> <stdout>");
    let again = run_with_input(folder.path(), &["verify", "-"], &output.stdout);
    assert_exit(&again, 0);
}

#[test]
fn in_place_keeps_the_permissions_and_an_error_keeps_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let good = folder.path().join("good.wasm");
    let bad = folder.path().join("bad.wasm");
    fs::write(&good, wat::parse_str(GROWING).unwrap()).unwrap();
    fs::write(&bad, b"\0asm\x01\0\0\0\x05\x02\x01").unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(&good, fs::Permissions::from_mode(0o640)).unwrap();
    }
    let output = run(
        folder.path(),
        &["rewrite", "--in-place", "good.wasm", "bad.wasm"],
    );
    assert_exit(&output, 2);
    assert_stderr_contains(&output, "bad.wasm: malformed module at offset");
    assert_pinned(&fs::read(&good).unwrap());
    assert_eq!(fs::read(&bad).unwrap(), b"\0asm\x01\0\0\0\x05\x02\x01");
    assert_eq!(names(folder.path()), ["bad.wasm", "good.wasm"]);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = fs::metadata(&good).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
    }
}

#[test]
fn text_is_not_overwritten_by_binary() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("a.wat");
    fs::write(&text, GROWING).unwrap();
    let output = run(folder.path(), &["rewrite", "--in-place", "a.wat"]);
    assert_exit(&output, 2);
    assert_stderr_contains(&output, "a.wat: it is text");
    assert_eq!(fs::read_to_string(&text).unwrap(), GROWING);

    let output = run(folder.path(), &["rewrite", "--out-dir", "made", "a.wat"]);
    assert_exit(&output, 0);
    assert_pinned(&fs::read(folder.path().join("made/a.wasm")).unwrap());
}

#[test]
fn two_inputs_never_share_an_output() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("b")).unwrap();
    for name in ["a.wat", "b/a.wat"] {
        fs::write(folder.path().join(name), GROWING).unwrap();
    }
    let output = run(
        folder.path(),
        &["rewrite", "a.wat", "b/a.wat", "--out-dir", "made"],
    );
    assert_exit(&output, 2);
    assert_stderr_contains(&output, "two inputs would both be written to made/a.wasm");
    assert!(!folder.path().join("made").exists());
    let output = run(
        folder.path(),
        &["rewrite", "a.wat", "b/a.wat", "-o", "c.wasm"],
    );
    assert_exit(&output, 2);
    assert_stderr_contains(&output, "`-o` takes one input");
}

#[test]
fn inputs_that_are_not_modules_are_named_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let files: [(&str, &[u8], &str); 4] = [
        ("empty", b"", "empty: not a WebAssembly module: it is empty"),
        ("short", b"\0asm\x01", "it ends within its header"),
        ("other", b"\x7fELF", "its first four bytes are not `\\0asm`"),
        (
            "truncated",
            b"\0asm\x01\0\0\0\x05\x03\x01",
            "malformed module at offset",
        ),
    ];
    for (name, bytes, words) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
        for args in [
            vec!["verify", name],
            vec!["inspect", name],
            vec!["rewrite", name, "-o", "x"],
        ] {
            let output = run(folder.path(), &args);
            assert_exit(&output, 2);
            assert_stderr_contains(&output, words);
        }
    }
    let output = run(folder.path(), &["verify", "missing"]);
    assert_exit(&output, 2);
    assert_stderr_contains(&output, "error: missing: ");
    assert!(!folder.path().join("x").exists());
}

#[test]
fn an_output_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.wat"), GROWING).unwrap();
    let output = run(folder.path(), &["rewrite", "a.wat", "-o", "missing/b.wasm"]);
    assert_exit(&output, 2);
    assert_stderr_contains(&output, "cannot write missing/b.wasm");
    if Path::new("/dev/full").exists() {
        let output = run(folder.path(), &["rewrite", "a.wat", "-o", "/dev/full"]);
        assert_exit(&output, 2);
        assert_stderr_contains(&output, "No space left on device");
        assert!(Path::new("/dev/full").exists());
    }
    assert_eq!(names(folder.path()), ["a.wat"]);
}

/// The limit applies to the child only, so the test needs no privileges.
#[cfg(target_os = "linux")]
#[test]
fn memory_that_cannot_be_secured_is_refused_before_the_module_starts() {
    let folder = tempfile::tempdir().unwrap();
    let text = r#"(module (memory 65536 65536) (func (export "_start") unreachable))"#;
    fs::write(folder.path().join("a.wat"), text).unwrap();
    let output = Command::new("sh")
        .args(["-c", "ulimit -v 2000000 && exec \"$0\" run a.wat"])
        .arg(env!("CARGO_BIN_EXE_wasm-prealloc"))
        .current_dir(folder.path())
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
    let folder = tempfile::tempdir().unwrap();
    for command in ["rewrite", "verify", "inspect", "run"] {
        let output = run(folder.path(), &[command, "--help"]);
        assert_exit(&output, 0);
        let help = String::from_utf8(output.stdout).unwrap();
        assert!(
            help.contains("Examples:\n") && help.contains("Exit status:\n"),
            "{help}"
        );
    }
}
