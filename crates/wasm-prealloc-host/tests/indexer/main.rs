//! The indexer example as a process: exit statuses, messages, and stored values. As a service that
//! stays it is in `service`.
#![cfg(all(feature = "async", feature = "wasmtime"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

// The unit tests of the example's files run here, because cargo does not build an example as a
// program if it runs its tests.
#[allow(dead_code, reason = "used by the example itself")]
#[path = "../../examples/indexer/buffers.rs"]
mod buffers;
#[allow(dead_code, reason = "used by the example itself")]
#[path = "../../examples/indexer/chain.rs"]
mod chain;
#[allow(dead_code, reason = "used by the example itself")]
#[path = "../../examples/indexer/hexadecimal.rs"]
mod hexadecimal;
mod history;
#[allow(dead_code, reason = "used by the example itself")]
#[path = "../../examples/indexer/protobuf.rs"]
mod protobuf;
mod service;
#[allow(dead_code, reason = "used by the example itself")]
#[path = "../../examples/indexer/times.rs"]
mod times;
mod traps;
mod views;

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

/// The time between two looks at a process.
const MOMENT: Duration = Duration::from_millis(10);

/// The example's binary, which cargo builds with the tests, beside them.
fn binary() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let path = tests.ancestors().nth(2).unwrap().join("examples/indexer");
    assert!(
        path.exists(),
        "{} is missing: cargo build -p wasm-prealloc-host --features async,wasmtime --example indexer",
        path.display()
    );
    path
}

/// A directory with a guest and a database.
struct Case(tempfile::TempDir);

impl Case {
    fn new(guest: &str) -> Case {
        let directory = tempfile::tempdir().unwrap();
        let wasm = wat::parse_str(guest).unwrap();
        std::fs::write(directory.path().join("guest.wasm"), wasm).unwrap();
        Case(directory)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        let database = ["--db", "index.redb"];
        command.current_dir(self.0.path()).args(database);
        command.args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs `guest.wasm`, whose memory has 16 pages.
    fn index(&self, arguments: &[&str]) -> Output {
        self.run(&[&["guest.wasm", "--pages", "16"], arguments].concat())
    }

    fn dump(&self) -> String {
        let output = self.run(&["--dump"]);
        expect(&output, 0, &[]);
        String::from_utf8(output.stdout).unwrap()
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Returns the state root that a host printed last.
fn root(output: &Output) -> String {
    let stdout = stdout(output);
    let line = stdout.lines().last().unwrap_or_default();
    let root = line.strip_prefix("state root ");
    root.unwrap_or_else(|| panic!("{stdout}")).to_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn expect(output: &Output, expected: i32, texts: &[&str]) {
    let message = stderr(output);
    let status = output.status;
    assert_eq!(status.code(), Some(expected), "{status}: {message}");
    for text in texts {
        assert!(message.contains(text), "no {text:?} in: {message}");
    }
}

/// Flushes "last" with the unchanged input, and "before" with the previous value of "last".
const RECORDER: &str = r#"(module
    (import "env" "__host_len" (func $host_len (result i32)))
    (import "env" "__load_input" (func $load_input (param i32)))
    (import "env" "__get_len" (func $get_len (param i32) (result i32)))
    (import "env" "__get" (func $get (param i32 i32)))
    (import "env" "__flush" (func $flush (param i32)))
    (import "env" "__log" (func $log (param i32)))
    (memory (export "memory") 16 16)
    (data (i32.const 100) "\04\00\00\00last")
    ;; The list begins at 204, its fields are at fixed addresses, and its length is filled in.
    (data (i32.const 204) "\0a\04last\0a\00")
    (func (export "_start")
        (local $length i32) (local $at i32)
        (call $log (i32.const 104))
        ;; 204: tag, 4, "last"; 210: tag, length, the input from 212 on.
        (local.set $length (call $host_len))
        (i32.store8 (i32.const 211) (local.get $length))
        (call $load_input (i32.const 212))
        (local.set $at (i32.add (i32.const 212) (local.get $length)))
        ;; tag, 6, "before", tag, length, the stored value
        (i64.store (local.get $at) (i64.const 0x65726f666562060a))
        (i32.store8 offset=8 (local.get $at) (i32.const 0x0a))
        (local.set $length (call $get_len (i32.const 104)))
        (i32.store8 offset=9 (local.get $at) (local.get $length))
        (call $get (i32.const 104) (i32.add (local.get $at) (i32.const 10)))
        (i32.store (i32.const 200)
            (i32.sub
                (i32.add (i32.add (local.get $at) (i32.const 10)) (local.get $length))
                (i32.const 204)))
        (call $flush (i32.const 204))))"#;

#[test]
fn each_block_reads_the_values_stored_before() {
    let case = Case::new(RECORDER);
    let output = case.index(&["--block", "6869", "--block", "0x796f", "--log"]);
    let texts = ["1048576 bytes (1 MiB) resident", "guest: last"];
    expect(&output, 0, &texts);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "block 0: 2 values stored\nblock 1: 2 values stored\n\
         state root a28451be2ed9fc2fccd412d2570450a319df538375f0fb59987e8d92fb126baf\n"
    );
    assert_eq!(
        case.dump(),
        "before = 0x000000006869\nlast = 0x01000000796f\n"
    );

    std::fs::write(case.0.path().join("block.bin"), "text").unwrap();
    expect(&case.index(&["--block", "block.bin"]), 0, &[]);
    assert_eq!(
        case.dump(),
        "before = 0x01000000796f\nlast = 0x0200000074657874\n"
    );

    expect(&case.index(&["--block", "00", "--height", "515"]), 0, &[]);
    expect(&case.index(&["--block", "01"]), 0, &[]);
    assert_eq!(case.dump(), "before = 0x0302000000\nlast = 0x0402000001\n");
}

#[test]
fn an_unsecured_host_runs_any_module_and_secures_nothing() {
    let case = Case::new(&RECORDER.replace("16 16", "1"));
    let output = case.index(&["--block", "6869", "--unsecured"]);
    expect(&output, 0, &[]);
    let stderr = stderr(&output);
    assert!(
        stderr.starts_with("blocks: 1 in ") && stderr.lines().count() == 1,
        "{stderr}"
    );
    assert_eq!(case.dump(), "before = \nlast = 0x000000006869\n");
}

#[test]
fn a_module_that_is_not_pinned_is_refused_with_the_command_that_pins_it() {
    let case = Case::new(&RECORDER.replace("16 16", "1"));
    let texts = [
        "error: guest.wasm is not verified",
        "memory not pinned",
        "wasm-prealloc rewrite --pages 16",
    ];
    expect(&case.index(&["--block", "6869"]), 1, &texts);
}

#[test]
fn an_imported_memory_is_not_verified() {
    let case =
        Case::new(r#"(module (import "env" "memory" (memory 16 16)) (func (export "_start")))"#);
    let texts = ["guest.wasm is not verified", "imports its memory"];
    expect(&case.index(&["--block", "00"]), 1, &texts);
}

/// Compilers for other languages than Rust leave out the maximum of a table.
#[test]
fn a_table_without_a_maximum_grows_up_to_the_counted_memory() {
    let case = Case::new(
        r#"(module (memory (export "memory") 16 16) (table 1 funcref)
            (func $grow (param i32) (result i32)
                (table.grow (ref.null func) (local.get 0)))
            (func (export "_start")
                (if (i32.ne (call $grow (i32.const 65535)) (i32.const 1))
                    (then (unreachable)))
                (if (i32.ne (call $grow (i32.const 1)) (i32.const -1))
                    (then (unreachable)))))"#,
    );
    expect(
        &case.index(&["--block", "01", "--block", "02"]),
        0,
        &["secured"],
    );
}

#[test]
fn usage_errors_and_invalid_input_exit_with_status_2() {
    let case = Case::new("(module)");
    for (arguments, text) in [
        (
            "guest.wasm --block 00",
            "does not export a function `_start`",
        ),
        ("guest.wasm --block 0", "neither a file nor hexadecimal"),
        ("guest.wasm --block no", "neither a file nor hexadecimal"),
        ("guest.wasm", "--block"),
        ("none.wasm --block 00", "cannot read none.wasm"),
        ("--dump", "cannot open index.redb"),
    ] {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        expect(&case.run(&arguments), 2, &[text]);
    }
    std::fs::write(case.0.path().join("guest.wasm"), "not wasm").unwrap();
    let output = case.index(&["--block", "00"]);
    expect(&output, 2, &["is not a valid module"]);

    // A known function with other parameters, and an import that is not a function.
    for import in [r#""__get" (func)"#, r#""f" (global i32)"#] {
        let case = Case::new(&format!(
            r#"(module (import "env" {import}) (memory (export "memory") 16 16)
                (func (export "_start")))"#
        ));
        let output = case.index(&["--block", "00"]);
        expect(&output, 2, &["does not fit this host", "env"]);
    }
}

#[test]
fn a_chain_from_a_file_stores_the_same_as_its_blocks_one_by_one() {
    let chain = "# three blocks\n6869\n\n0x796f # the second\n00\n";
    let case = Case::new(RECORDER);
    std::fs::write(case.0.path().join("chain.txt"), chain).unwrap();
    let whole = case.index(&["--chain", "chain.txt"]);
    expect(&whole, 0, &[]);
    assert_eq!(root(&whole).len(), 64);

    // The same blocks, stopped in between.
    let parts = Case::new(RECORDER);
    let first = parts.index(&["--block", "6869"]);
    assert_ne!(root(&first), root(&whole));
    let rest = parts.index(&["--block", "796f", "--block", "00"]);
    assert_eq!(root(&rest), root(&whole));
    assert_eq!(parts.dump(), case.dump());

    std::fs::write(case.0.path().join("chain.txt"), "6869\nno\n").unwrap();
    let wrong = case.index(&["--chain", "chain.txt"]);
    expect(&wrong, 2, &["chain.txt:2: not hexadecimal"]);
    let missing = case.index(&["--chain", "none.txt"]);
    expect(&missing, 2, &["cannot read none.txt"]);
}

#[test]
fn an_unchanged_guest_runs_in_its_committed_maximum() {
    let case = Case::new(&RECORDER.replace("16 16", "2 16"));
    let refused = case.index(&["--block", "6869"]);
    expect(&refused, 1, &["memory not pinned"]);
    let ran = case.index(&["--block", "6869", "--policy", "commit-maximum"]);
    expect(&ran, 0, &["secured: 1048576 bytes"]);
    assert_eq!(case.dump(), "before = \nlast = 0x000000006869\n");
    let wrong = case.index(&["--block", "6869", "--policy", "none"]);
    expect(&wrong, 2, &["choose declared or commit-maximum"]);
}
