//! Blocks that fail: each is an error that says why, and nothing of it is stored. And what a block
//! may do that looks like a failure.

use crate::{Case, RECORDER, expect};

/// A guest that calls one function with the arguments given.
fn calling(function: &str, parameters: &str, call: &str) -> String {
    format!(
        r#"(module
            (import "env" "{function}" (func $f {parameters}))
            (memory (export "memory") 16 16)
            (data (i32.const 96) "\05\00\00\00\0a\09abc\ff\ff\ff\ff")
            (func (export "_start") {call}))"#
    )
}

#[test]
fn values_of_a_trapped_block_are_not_stored() {
    let trapping = RECORDER.replace(
        "(call $flush (i32.const 204))",
        // The second block traps, after it has flushed.
        "(call $flush (i32.const 204)) (if (i32.load (i32.const 212)) (then unreachable))",
    );
    let case = Case::new(&trapping);
    let output = case.index(&["--block", "6869", "--block", "796f", "--block", "00"]);
    let texts = ["error: block 1 was not indexed", "unreachable"];
    expect(&output, 1, &texts);
    assert_eq!(case.dump(), "before = \nlast = 0x000000006869\n");
}

#[test]
fn invalid_pointers_and_lists_are_traps_with_messages() {
    let one = "(param i32)";
    let two = "(param i32 i32)";
    for (guest, text) in [
        (
            calling("__flush", one, "(call $f (i32.const 100))"),
            "__flush: not protobuf, a field of 9 bytes has only 3 left",
        ),
        (
            calling("__flush", one, "(call $f (i32.const 3))"),
            "__flush: there is no room for a length before the pointer 3",
        ),
        (
            calling("__log", one, "(call $f (i32.const 109))"),
            "__log: 4294967295 bytes at 109 are outside of the guest's memory of 1048576 bytes",
        ),
        (
            calling("__load_input", one, "(call $f (i32.const -1))"),
            "__load_input: 5 bytes at 4294967295 are outside",
        ),
        (
            calling("__get", two, "(call $f (i32.const -1) (i32.const 0))"),
            "__get: 4 bytes at 4294967291 are outside",
        ),
        (
            calling("__log", one, "(call $f (i32.const 100))").replace("(export \"memory\")", ""),
            "does not export its memory",
        ),
    ] {
        let case = Case::new(&guest);
        let output = case.index(&["--block", "00"]);
        expect(&output, 1, &[text]);
        assert_eq!(case.dump(), "");
    }
}

#[test]
fn an_import_that_the_host_does_not_have_traps_when_it_is_called() {
    let called = calling("seed", "(result f64)", "(drop (call $f))");
    let output = Case::new(&called).index(&["--block", "00"]);
    let texts = [
        "block 0 was not indexed",
        "`env::seed` has not been defined",
    ];
    expect(&output, 1, &texts);
    let uncalled = calling("seed", "(result f64)", "");
    expect(&Case::new(&uncalled).index(&["--block", "00"]), 0, &[]);
}

#[test]
fn abort_reports_what_the_guest_passed() {
    // Strings in UTF-16, after their lengths in bytes.
    let strings =
        r#"(data (i32.const 200) "\06\00\00\00o\00h\00\e9\00\08\00\00\00a\00.\00t\00s\00")"#;
    let four = "(param i32 i32 i32 i32)";
    for (parameters, call, text) in [
        (
            four,
            "(call $f (i32.const 204) (i32.const 214) (i32.const 7) (i32.const 12))",
            "the guest called abort: oh\u{e9} (a.ts:7:12)",
        ),
        (
            four,
            "(call $f (i32.const 0) (i32.const -1) (i32.const 1) (i32.const 2))",
            "the guest called abort:  ((no string at 4294967295):1:2)",
        ),
        ("", "(call $f)", "the guest called abort"),
        (
            "(param i64)",
            "(call $f (i64.const 5))",
            "the guest called abort with the arguments [I64(5)]",
        ),
    ] {
        let guest = calling("abort", parameters, call);
        let guest = guest.replace("(func (export", &format!("{strings} (func (export"));
        let output = Case::new(&guest).index(&["--block", "00"]);
        expect(&output, 1, &["block 0 was not indexed", text]);
    }
}

#[test]
fn a_block_without_a_flush_is_an_error_and_a_guest_that_cannot_flush_is_not() {
    let silent = RECORDER.replace("(call $flush (i32.const 204))", "");
    let case = Case::new(&silent);
    let texts = ["block 0 was not indexed", "without a call of `__flush`"];
    expect(&case.index(&["--block", "00"]), 1, &texts);
    assert_eq!(case.dump(), "");

    let case = Case::new(r#"(module (memory (export "memory") 16 16) (func (export "_start")))"#);
    let texts = ["warning: guest.wasm does not import `__flush`"];
    expect(&case.index(&["--block", "00"]), 0, &texts);
}

/// A pointer above 2 GiB is a negative i32.
#[test]
fn buffers_above_2_gib_are_read_and_written() {
    let high = 0xf000_0000_u32;
    let mut guest = RECORDER.replace("16 16", "65536 65536");
    for low in [100, 104, 200, 204, 211, 212] {
        let address = format!("(i32.const {})", (high + low).cast_signed());
        guest = guest.replace(&format!("(i32.const {low})"), &address);
    }
    let case = Case::new(&guest);
    let blocks = ["--block", "6869", "--block", "796f"];
    let output = case.run(&[&["guest.wasm", "--unsecured"], &blocks[..]].concat());
    expect(&output, 0, &[]);
    assert_eq!(
        case.dump(),
        "before = 0x000000006869\nlast = 0x01000000796f\n"
    );
}

#[test]
fn a_block_reads_the_state_before_it_and_stores_all_that_it_flushes() {
    // It flushes twice. The second time, `__get` still reads the value before the block.
    let twice = RECORDER
        .replace("(func (export \"_start\")", "(func $record")
        .replace(
            "(call $flush (i32.const 204))))",
            "(call $flush (i32.const 204)))
             (func (export \"_start\") (call $record) (call $record)))",
        );
    let case = Case::new(&twice);
    expect(&case.index(&["--block", "6869", "--block", "796f"]), 0, &[]);
    assert_eq!(
        case.dump(),
        "before = 0x000000006869\nlast = 0x01000000796f\n"
    );
}
