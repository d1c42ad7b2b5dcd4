//! Files that are no module: the error names the format, and its advice leads to a module.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::harness::{Folder, GROWING, growing};

/// Files that must be named, and words of the message.
const FILES: &[(&str, &[u8], &str)] = &[
    ("empty", b"", "it is empty"),
    ("space", b" \n\t\n", "it has only white space"),
    ("short", b"\0as", "it is truncated"),
    ("header", b"\0asm\x01\0", "it is truncated"),
    ("future", b"\0asm\x02\0\0\0", "its version is unknown"),
    ("zip", b"PK\x03\x04\x14\0", "extract the module"),
    ("7z", b"7z\xbc\xaf\x27\x1c\0\x04", "extract the module"),
    ("lz4", b"\x04\x22\x4d\x18\x64\x40", "`lz4 -dc FILE`"),
    (
        "archive.a",
        b"!<arch>\nlib.o/",
        "link them into a module first",
    ),
    ("thin.a", b"!<thin>\n//", "link them into a module first"),
    (
        "bitcode",
        b"BC\xc0\xde\x35\x14",
        "compile it without `-emit-llvm`",
    ),
    (
        "wrapped",
        b"\xde\xc0\x17\x0b\0\0",
        "compile it without `-emit-llvm`",
    ),
    ("elf", b"\x7fELF\x02\x01\x01\0\0", "another machine (ELF)"),
    ("pe", b"MZ\x90\0\x03", "Windows (PE)"),
    ("mach-o", b"\xcf\xfa\xed\xfe\x0c\0\0\x01", "macOS (Mach-O)"),
    ("fat", b"\xca\xfe\xba\xbe\0\0\0\x02\x01", "macOS (Mach-O)"),
    ("java", b"\xca\xfe\xba\xbe\0\0\0\x3d\0", "a Java class"),
    ("png", b"\x89PNG\r\n\x1a\n", "it is an image"),
    ("jpeg", b"\xff\xd8\xff\xe0\0\x10JFIF", "it is an image"),
    ("pdf", b"%PDF-1.7\n", "it is a PDF document"),
    ("script", b"#!/bin/sh\nexec node\n", "it is a script"),
    ("html", b"\n<!DOCTYPE html><html>404", "it is HTML or XML"),
    ("upper", b"<HTML><BODY>Not Found", "it is HTML or XML"),
    ("json", b"{\"message\":\"Not Found\"}", "it is JSON"),
    (
        "lfs",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        "`git lfs pull`",
    ),
    (
        "glue.js",
        b"import * as wasm from './a.wasm';",
        "it is JavaScript",
    ),
    (
        "module.js",
        b"var Module = typeof Module",
        "it is JavaScript",
    ),
    ("comment.js", b"/* glue */ let wasm;", "it is JavaScript"),
    ("call.js", b"(function(){})()", "it is JavaScript"),
    ("arrow.js", b"(() => {})()", "it is JavaScript"),
    ("utf-16-be", b"\xfe\xff\0(\0m", "it is text in UTF-16"),
    (
        "unknown",
        b"\x01\x02\x03\x04\x05",
        "no other format is recognized",
    ),
];

#[test]
fn a_file_that_is_no_module_is_named_by_every_command() {
    let folder = Folder::new();
    for (name, bytes, words) in FILES {
        folder.write(name, bytes);
        for args in ["verify %", "inspect %", "rewrite % -o x", "run %"] {
            let args = args.replace('%', name);
            let output = folder.fails(&args, words);
            let stderr = String::from_utf8(output.stderr).unwrap();
            let begin = format!("error: {name}: not a WebAssembly module: it");
            assert!(
                stderr.starts_with(&begin) && stderr.lines().count() == 1,
                "{stderr}"
            );
        }
        let output = folder.fails(&format!("verify --json {name}"), words);
        let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(document["modules"][0]["error"]["kind"], "not-wasm");
    }
    assert!(!folder.path("x").exists());
}

/// A tar archive has its mark after 257 bytes.
#[test]
fn a_tar_archive_is_named() {
    let mut archive = vec![0; 1024];
    archive[..8].copy_from_slice(b"a.wasm\0\0");
    archive[257..262].copy_from_slice(b"ustar");
    let folder = Folder::with(&["a.tar"], archive);
    folder.fails(
        "verify a.tar",
        "it is a tar archive; extract the module from it first (`tar -xf FILE`)",
    );
    folder.write("a.wasm", growing());
    let tar = |args: &[&str]| {
        let mut command = Command::new("tar");
        let status = command.args(args).current_dir(folder.path("")).status();
        status.is_ok_and(|status| status.success())
    };
    if !tar(&["-cf", "b.tar", "a.wasm"]) {
        println!("skipped: tar is not installed");
        return;
    }
    std::fs::remove_file(folder.path("a.wasm")).unwrap();
    folder.fails("verify b.tar", "it is a tar archive");
    assert!(tar(&["-xf", "b.tar"]));
    folder.run("inspect a.wasm");
}

#[test]
fn a_module_that_ends_too_early_is_named() {
    let whole = growing();
    let folder = Folder::with(&["cut.wasm"], &whole[..whole.len() - 3]);
    folder.fails(
        "inspect cut.wasm",
        "if the module is truncated, copy or download it again",
    );
}

#[test]
fn text_may_begin_with_a_byte_order_mark() {
    let folder = Folder::with(&["a.wat"], format!("\u{feff}{GROWING}"));
    folder.run("rewrite a.wat -o a.wasm");
    folder.assert_pinned(&["a.wasm"]);
    folder.write("latin-1.wat", b"(module) ;; \xe9");
    folder.fails(
        "verify latin-1.wat",
        "latin-1.wat: it looks like the text format, but it is not UTF-8",
    );
}

/// wasmtime's compiled modules are ELF files with a mark.
#[cfg(feature = "run")]
#[test]
fn code_that_wasmtime_has_compiled_is_named() {
    let engine = wasmtime::Engine::default();
    let compiled = engine.precompile_module(&growing()).unwrap();
    let folder = Folder::with(&["a.cwasm"], compiled);
    folder.fails("verify a.cwasm", "use the module that it was compiled from");
}

/// Runs a program with an input, or returns `None` if it is not installed.
fn pipe(program: &str, args: &[&str], input: &[u8]) -> Option<Vec<u8>> {
    let mut command = Command::new(program);
    command
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn().ok()?;
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program} {args:?}");
    Some(output.stdout)
}

/// Packs a module with a program, expects the advice, follows it, and verifies its result.
#[track_caller]
fn follow(program: &str, args: &[&str], module: &[u8], prefix: &[u8], advice: &str) {
    let Some(packed) = pipe(program, args, module) else {
        println!("skipped: {program} is not installed");
        return;
    };
    let folder = Folder::with(&["packed"], [prefix, &packed].concat());
    folder.fails("inspect packed", &format!("first (`{advice}`)"));
    let shell = format!("{} > unpacked", advice.replace("FILE", "packed"));
    let status = Command::new("sh")
        .args(["-c", &shell])
        .current_dir(folder.path(""))
        .status();
    assert!(status.unwrap().success(), "{shell}");
    folder.run("inspect unpacked");
}

#[cfg(unix)]
#[test]
fn the_advice_to_decode_a_file_leads_to_the_module() {
    const SUBSTRATE: &[u8] = b"\x52\xbc\x53\x76\x46\xdb\x8e\x05";
    let module = growing();
    follow("zstd", &["-c"], &module, b"", "zstd -dc FILE");
    follow(
        "zstd",
        &["-c"],
        &module,
        SUBSTRATE,
        "tail -c +9 FILE | zstd -dc",
    );
    follow("xz", &["-c"], &module, b"", "xz -dc FILE");
    follow("bzip2", &["-c"], &module, b"", "bzip2 -dc FILE");
    follow("base64", &[], &module, b"", "base64 -d FILE");
    follow("xxd", &["-p"], &module, b"", "xxd -r -p FILE");
    follow("xxd", &[], &module, b"", "xxd -r FILE");
    let to_utf_16 = ["-f", "UTF-8", "-t", "UTF-16"];
    follow(
        "iconv",
        &to_utf_16,
        GROWING.as_bytes(),
        b"",
        "iconv -f UTF-16 -t UTF-8 FILE",
    );
}
