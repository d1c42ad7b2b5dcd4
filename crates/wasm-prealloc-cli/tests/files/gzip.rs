//! Compressed inputs: they are unpacked up to a limit, and never overwritten.

use std::fs;
use std::io::{Read as _, Write as _};

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::harness::{
    GROWING, assert_exit, assert_pinned, assert_stderr_contains, run, run_with_input,
};

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn gzip_is_unpacked_and_the_output_is_binary() {
    let folder = tempfile::tempdir().unwrap();
    let binary = wat::parse_str(GROWING).unwrap();
    fs::write(folder.path().join("a.wasm.gz"), packed(&binary)).unwrap();
    fs::write(folder.path().join("b.wasm"), packed(GROWING.as_bytes())).unwrap();
    let args = ["rewrite", "a.wasm.gz", "b.wasm", "--out-dir", "made"];
    assert_exit(&run(folder.path(), &args), 0);
    for name in ["made/a.wasm", "made/b.wasm"] {
        assert_pinned(&fs::read(folder.path().join(name)).unwrap());
    }
    let output = run_with_input(folder.path(), &["inspect", "-"], &packed(&binary));
    assert_exit(&output, 0);
}

#[test]
fn gzip_is_not_overwritten_by_its_content() {
    let folder = tempfile::tempdir().unwrap();
    let content = packed(&wat::parse_str(GROWING).unwrap());
    fs::write(folder.path().join("a.wasm"), &content).unwrap();
    for args in [
        &["rewrite", "--in-place", "a.wasm"][..],
        &["rewrite", "a.wasm", "-o", "./a.wasm"],
    ] {
        let output = run(folder.path(), args);
        assert_exit(&output, 2);
        assert_stderr_contains(
            &output,
            "a.wasm: it is gzip, and a rewritten module is binary",
        );
        assert_eq!(fs::read(folder.path().join("a.wasm")).unwrap(), content);
    }
}

#[test]
fn broken_gzip_and_a_gzip_bomb_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let whole = packed(&wat::parse_str(GROWING).unwrap());
    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    std::io::copy(&mut std::io::repeat(0).take(300 << 20), &mut bomb).unwrap();
    let files: [(&str, Vec<u8>, &str); 3] = [
        (
            "header.gz",
            b"\x1f\x8b\x08\0".to_vec(),
            "cannot be unpacked",
        ),
        (
            "cut.gz",
            whole[..whole.len() / 2].to_vec(),
            "cannot be unpacked",
        ),
        (
            "bomb.gz",
            bomb.finish().unwrap(),
            "unpacks to more than 256 MiB",
        ),
    ];
    for (name, bytes, words) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
        let output = run(folder.path(), &["inspect", name]);
        assert_exit(&output, 2);
        assert_stderr_contains(&output, &format!("error: {name}: it is gzip, and {words}"));
    }
}
