//! `run` as a runner: the exit status, the standard streams, the environment, and one document with
//! `--json`.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::harness::{Folder, assert_exit};

/// Copies up to 64 bytes from stdin to stdout, and exits with 10.
const ECHO: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1 1)
    (func (export "_start")
        (i32.store (i32.const 0) (i32.const 64))
        (i32.store (i32.const 4) (i32.const 64))
        (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 4)))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
        (call $exit (i32.const 10)))
    (func (export "trap") unreachable)
    (func (export "forever") (loop $forever (br $forever)))
    (func (export "answer") (result i32) (i32.const 42)))"#;

/// Prints its environment, each variable with a NUL.
const ENVIRONMENT: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "environ_get" (func $environ (param i32 i32) (result i32)))
    (memory (export "memory") 1 1)
    (func (export "_start")
        (drop (call $sizes (i32.const 0) (i32.const 4)))
        (drop (call $environ (i32.const 64) (i32.const 1024)))
        (i32.store (i32.const 16) (i32.const 1024))
        (i32.store (i32.const 20) (i32.load (i32.const 4)))
        (drop (call $write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 32)))))"#;

#[test]
fn the_standard_streams_and_the_exit_status_are_those_of_the_program() {
    let folder = Folder::with(&["echo.wat"], ECHO);
    let mut command = folder.command("run -q --pages 1 echo.wat");
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, b"in\xff").unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert_exit(&output, 10);
    assert_eq!(
        (&*output.stdout, &*output.stderr),
        (&b"in\xff"[..], &b""[..])
    );
}

#[test]
fn one_line_says_what_was_secured() {
    let folder = Folder::with(&["echo.wat"], ECHO);
    let output = folder.command("run --pages 1 echo.wat").output().unwrap();
    assert_exit(&output, 10);
    let stderr = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<&str> = stderr.lines().collect();
    assert!(
        matches!(lines[..], [line] if line.starts_with("secured: 65536 bytes")),
        "{stderr}"
    );
}

/// Command lines, and the fields of the document: `exit`, `outcome`, `guest_exit` and the kind of
/// the error.
#[test]
fn json_tells_the_ends_of_a_program_apart() {
    let folder = Folder::with(&["echo.wat"], ECHO);
    let limits = "-q --pages 1";
    for (args, exit, outcome, guest_exit, kind) in [
        ("", 10, "exited", json!(10), Value::Null),
        ("--invoke answer", 0, "returned", Value::Null, Value::Null),
        ("--invoke trap", 1, "trapped", Value::Null, json!("trapped")),
        (
            "--timeout 1ms --invoke forever",
            1,
            "timed-out",
            Value::Null,
            json!("timed-out"),
        ),
        (
            "--fuel 9 --invoke forever",
            1,
            "out-of-fuel",
            Value::Null,
            json!("out-of-fuel"),
        ),
        ("--pages 2", 1, "refused", Value::Null, json!("not-pinned")),
        (
            "--margin-bytes 9000000000000000000",
            1,
            "refused",
            Value::Null,
            json!("not-secured"),
        ),
        ("--invoke none", 2, "invalid", Value::Null, json!("refused")),
        ("--dir none", 2, "invalid", Value::Null, json!("io")),
    ] {
        // The last value of a flag would be refused as its second.
        let limits = if args.contains("--pages") {
            "-q"
        } else {
            limits
        };
        let command = format!("run --json {limits} {args} echo.wat");
        let output = folder.command(&command).output().unwrap();
        assert_exit(&output, exit);
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            (
                &document["exit"],
                &document["outcome"],
                &document["guest_exit"],
                &document["error"]["kind"]
            ),
            (&json!(exit), &json!(outcome), &guest_exit, &kind),
            "{command}: {document}"
        );
        let is_secured = matches!(outcome, "exited" | "returned" | "trapped" | "timed-out")
            || outcome == "out-of-fuel";
        assert_eq!(document["secured"].is_object(), is_secured, "{command}");
    }
}

#[test]
fn with_json_the_output_of_the_program_goes_to_stderr() {
    let folder = Folder::with(&["echo.wat"], ECHO);
    let mut command = folder.command("run --json -q --pages 1 echo.wat");
    command.stdin(std::fs::File::open(folder.path("echo.wat")).unwrap());
    let output = command.output().unwrap();
    assert_exit(&output, 10);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["guest_exit"], 10);
    assert_eq!(output.stderr, &ECHO.as_bytes()[..64]);
}

#[test]
fn a_program_has_only_the_variables_that_it_is_given() {
    let folder = Folder::with(&["environment.wat"], ENVIRONMENT);
    let flags = "--env OWN=1 --env INHERITED --env NOT_SET";
    let output = folder
        .command(&format!("run -q --pages 1 {flags} environment.wat"))
        .env("INHERITED", "two")
        .env("OTHER", "3")
        .output()
        .unwrap();
    assert_exit(&output, 0);
    assert_eq!(output.stdout, b"OWN=1\0INHERITED=two\0");
}

/// The time limit also ends a program that waits for input.
#[test]
fn a_program_that_waits_for_input_is_ended() {
    let folder = Folder::with(&["echo.wat"], ECHO);
    let mut command = folder.command("run --json -q --pages 1 --timeout 50ms echo.wat");
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // The pipe is open until the command has ended.
    let stdin = child.stdin.take().unwrap();
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    assert_exit(&output, 1);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["outcome"], "timed-out");
}
